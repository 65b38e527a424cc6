"""Holding what was claimed: what to claim next, when to extend, how it ends: without I/O.

Theory of operation. What was claimed is *in hand* until it is settled (done, given back, set
aside) or lost. It waits here first, then somebody handles it; both count, so that no more is
claimed than ``max_at_once`` leaves room for. Three things go on beside each other:

* **Claiming.** One claim at a time, for all the room there is. Its request, with its
  idempotency key, is kept until it was answered: a claim that broke off, or was interrupted,
  is made again and brings what it had brought. While the service is unavailable, that goes on
  for ever; what it decides (no key, no scope, no such consumer) is raised.
* **Extending.** A lease is the service's: how long it lasts is taken from its end and from the
  service's own clock in the same answer, never from the clock here. Once half of the shortest
  is over, everything in hand is extended in one call. That call is all or nothing, so it is
  repeated without those that it names as lost.
* **Settling.** Each goes its own way, with a key that follows from its content: the same
  acknowledgement again is the same call. While the service is unavailable, it is tried again
  until the lease is over.

What is being settled is extended too, because the attempt may not have arrived. But if the
extension is told that it is lost, it may just as well be done: only its own answer says which.
"""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, Final, TypeVar

from counterfoil.client import consumer_requests
from counterfoil.client.calls import BACKOFF_SECONDS_MAX, RetryPolicy
from counterfoil.client.consumer_model import Claimed, Lease
from counterfoil.client.errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    LeaseLost,
    OutcomeUnknown,
    UsageError,
)
from counterfoil.client.following import RECONNECT_SECONDS_MAX
from counterfoil.client.holding import Hold, State, Together, deliveries_of, lost_of
from counterfoil.client.model import Condition, NewEvent, StoredBatch
from counterfoil.client.requests import Ask

T = TypeVar("T")

LOGGER: Final = logging.getLogger("counterfoil")

TOKENS_MAX: Final = 1_000
"""What one call claims, extends or gives back at most: the service's own limit."""

IDLE_SECONDS: Final = 1.0
"""The pause after a claim that came back empty without having waited, as it does when the
service stops."""


class Consuming:
    """The state of one who consumes; see the module's theory of operation."""

    def __init__(
        self,
        consumer: str,
        *,
        holder: str,
        max_at_once: int,
        wait_seconds: float,
        policy: RetryPolicy,
        now: Callable[[], float],
    ) -> None:
        if max_at_once < 1:
            raise UsageError("`max_at_once` is 1 or more.")
        self.consumer = consumer
        self.holder = holder
        self.stopped = False
        self._max_at_once = max_at_once
        self._wait_seconds = wait_seconds
        self._policy = policy
        self._now = now
        self._claim: Ask[Claimed] | None = None
        self._claim_began = 0.0
        self._claim_failures = 0
        self._extension_failures = 0
        self._waiting: deque[Hold] = deque()
        self._in_hand: dict[str, Hold] = {}
        self._status = "running"
        self._unavailable = False
        self._failure: Exception | None = None

    def __repr__(self) -> str:
        return f"{self.consumer!r}, holder={self.holder!r}, {len(self._in_hand)} in hand"

    # --- Claiming -----------------------------------------------------------------------

    def step(self) -> Hold | Ask[Claimed] | None:
        """Return what to handle next, or what to ask to get it; ``None``: there is no room.

        Raises:
            UsageError: there is room for one only, and the one before has not been settled.
            Exception: leases cannot be extended any more.
        """
        if self._failure is not None:
            raise self._failure
        if self._waiting:
            return self._waiting.popleft()
        room = self._max_at_once - len(self._in_hand)
        if self._claim is None and room < 1:
            self._check_not_forgotten()
            return None
        if self._claim is None:
            self._claim = consumer_requests.claim(
                self.consumer,
                holder=self.holder,
                count=min(room, TOKENS_MAX),
                wait_seconds=self._wait_seconds,
                done=(),
                idempotency_key=None,
            )
        self._claim_began = self._now()
        return self._claim

    def _check_not_forgotten(self) -> None:
        (hold, *more) = self._in_hand.values()
        if more or hold.settling or self._max_at_once > 1:
            return
        raise UsageError(
            f"The next delivery was asked for, and event {hold.delivery.event.id} is neither done "
            "nor given back. Settle each with `done()`, `release()` or `set_aside()`; to hold "
            "several at once, say so with `max_at_once`."
        )

    def claimed(self, claimed: Claimed) -> float:
        """Take in what a claim has brought, and return how long to pause before the next."""
        now = self._now()
        self._claim = None
        self._claim_failures = 0
        self._reached()
        self._tell_status(claimed.status)
        for delivery in claimed:
            lease = Lease(ends=delivery.lease_ends, answered_at=claimed.answered_at)
            hold = Hold(delivery, lease)
            hold.leased(lease, now)
            self._in_hand[delivery.token] = hold
            self._waiting.append(hold)
        waited = now - self._claim_began
        return IDLE_SECONDS if not claimed and waited < self._wait_seconds / 2 else 0.0

    def not_claimed(self, error: APIError) -> float:
        """Return how long to wait before the claim is made again.

        Raises:
            APIError: the service has decided, or it is not the service that answers.
        """
        self._claim_failures += 1
        wait = self._wait_after(error, self._claim_failures, RECONNECT_SECONDS_MAX)
        if wait is None:
            self._claim = None
            raise error
        return wait

    def _tell_status(self, status: str) -> None:
        if status == self._status:
            return
        self._status = status
        LOGGER.log(
            logging.WARNING if status == "stalled" else logging.INFO,
            "The consumer %r is %s.",
            self.consumer,
            status,
        )

    # --- Extending ----------------------------------------------------------------------

    def extension_in(self) -> float | None:
        """Return the seconds until something has to be extended, if there is anything."""
        due = [hold.extend_at for hold in self._in_hand.values() if not hold.doubtful]
        return max(min(due) - self._now(), 0.0) if due else None

    def extension(self) -> Together[Lease] | None:
        """Return what extends all that is in hand, if it is time."""
        if self.extension_in() != 0.0:
            return None
        held = [hold for hold in self._in_hand.values() if not hold.doubtful]
        holds = sorted(held, key=lambda hold: hold.extend_at)[:TOKENS_MAX]
        ask = consumer_requests.extend(self.consumer, deliveries_of(holds), lease_seconds=None)
        return Together(ask, tuple(holds))

    def extended(self, extension: Together[Lease], lease: Lease) -> None:
        """Take in that all of them are held longer."""
        self._extension_failures = 0
        self._reached()
        now = self._now()
        for hold in extension.holds:
            hold.leased(lease, now)

    def not_extended(self, extension: Together[Lease], error: Exception) -> float:
        """Take in that they were not extended, and return how long to wait before it goes on."""
        if isinstance(error, LeaseLost):
            for hold in lost_of(extension, error):
                if hold.settling:
                    hold.doubtful = True
                else:
                    self._lose(hold)
            return 0.0
        self._extension_failures += 1
        wait = self._wait_after(error, self._extension_failures)
        if wait is not None:
            return wait
        self.failed(error)
        return 0.0

    def failed(self, error: Exception) -> None:
        """Take in that nothing can be extended any more: whatever is in hand is as good as lost."""
        self._failure = error
        for hold in list(self._in_hand.values()):
            if hold.settling:
                hold.doubtful = True
            else:
                self._lose(hold)

    def _lose(self, hold: Hold) -> None:
        if hold.state is not State.HELD:
            return  # Settled, while the call was under way that asked for it.
        self._leaves(hold, State.LOST)
        LOGGER.warning(
            "Event %d of the consumer %r is not held any more (attempt %d).",
            hold.delivery.event.id,
            self.consumer,
            hold.delivery.attempt,
        )

    def _leaves(self, hold: Hold, state: State) -> None:
        hold.state = state
        self._in_hand.pop(hold.delivery.token, None)
        if hold in self._waiting:
            self._waiting.remove(hold)

    # --- Settling -----------------------------------------------------------------------

    def done(
        self,
        hold: Hold,
        events: Collection[NewEvent | Mapping[str, Any]],
        condition: Condition | None,
        idempotency_key: str | None,
    ) -> Ask[StoredBatch | None]:
        """Ask for a delivery to be acknowledged, with its outcome."""
        ask = consumer_requests.ack(
            self.consumer,
            hold.delivery,
            events=events,
            condition=condition,
            idempotency_key=idempotency_key,
        )
        return ask if idempotency_key is not None else _keyed(ask)

    def release(self, hold: Hold, delay_seconds: float | None, reason: str | None) -> Ask[None]:
        """Ask for a delivery to be taken back."""
        return _keyed(
            consumer_requests.release(
                self.consumer,
                hold.delivery,
                delay_seconds=delay_seconds,
                reason=reason,
                idempotency_key=None,
            )
        )

    def set_aside(self, hold: Hold, reason: str) -> Ask[tuple[int, ...]]:
        """Ask for a delivery to become a dead letter."""
        return _keyed(
            consumer_requests.set_aside(
                self.consumer, hold.delivery, reason=reason, idempotency_key=None
            )
        )

    def begin(self, hold: Hold) -> None:
        """Take in that a delivery is going to be settled.

        One that is known to be lost may be: if it was acknowledged before, and the answer did
        not arrive, the same acknowledgement brings it now.

        Raises:
            UsageError: it has been settled, or is being.
        """
        if hold.settling:
            raise UsageError(f"Event {hold.delivery.event.id} is just being settled.")
        if hold.state not in {State.HELD, State.LOST}:
            raise UsageError(
                f"Event {hold.delivery.event.id} {hold.state.value} already. Settle a delivery once."
            )
        hold.settling = True
        hold.failures = 0

    def settled(self, hold: Hold, state: State) -> None:
        """Take in that it was."""
        self._reached()
        self._leaves(hold, state)

    def not_settled(self, hold: Hold, error: APIError) -> float:
        """Return how long to wait before it is tried again.

        Raises:
            APIError: trying again is pointless, or the lease is over.
        """
        if isinstance(error, LeaseLost):
            self._lose(hold)
            raise error
        hold.failures += 1
        wait = self._wait_after(error, hold.failures)
        if wait is None or self._now() + wait > hold.over_at:
            raise error
        return wait

    def end(self, hold: Hold, *, final: bool) -> None:
        """Take in that settling is over, whatever has come of it.

        ``final``: it is not in hand any more in any case, and its lease may run out.
        """
        hold.settling = False
        if hold.state is not State.HELD:
            return
        if hold.doubtful:
            self._lose(hold)
        elif final:
            self._leaves(hold, State.GIVEN_BACK)

    # --- Stopping -----------------------------------------------------------------------

    def giving_back(self, *, unhandled: bool = False) -> Together[None] | None:
        """Return what gives back all that is in hand, or only what nobody has begun with.

        They were given back, and did not fail: no reason, no delay, and no attempt counted.
        What is being settled at this moment is left to that.
        """
        among = self._waiting if unhandled else self._in_hand.values()
        holds = tuple(hold for hold in among if not hold.settling)[:TOKENS_MAX]
        if not holds:
            return None
        for hold in holds:
            hold.settling = True
        ask = consumer_requests.release(
            self.consumer, deliveries_of(holds), delay_seconds=0, reason=None, idempotency_key=None
        )
        return Together(ask, holds)

    def given_back(self, back: Together[None]) -> None:
        """Take in that they were."""
        for hold in back.holds:
            self._leaves(hold, State.GIVEN_BACK)
            hold.settling = False

    def giving_back_broke_off(self, back: Together[None]) -> None:
        """Take in that nobody waits for the answer any more: who gives back next, gives it all."""
        for hold in back.holds:
            hold.settling = False

    def not_given_back(self, back: Together[None], error: Exception) -> None:
        """Take in that they were not: the lost ones are out of the way, or all of them are."""
        for hold in back.holds:
            hold.settling = False
        if isinstance(error, LeaseLost):
            for hold in lost_of(back, error):
                self._lose(hold)
            return
        LOGGER.warning(
            "%d deliveries of the consumer %r could not be given back, and are handed out again "
            "when their leases are over: %s",
            len(back.holds),
            self.consumer,
            error,
        )
        for hold in back.holds:
            self._leaves(hold, State.GIVEN_BACK)

    # --- Parts --------------------------------------------------------------------------

    def _wait_after(
        self, error: Exception, failures: int, seconds_max: float = BACKOFF_SECONDS_MAX
    ) -> float | None:
        """Return how long to wait after this failure; ``None``: it is none of availability."""
        reason = error.__cause__ if isinstance(error, OutcomeUnknown) else error
        asked = 0.0
        if isinstance(reason, APIStatusError):
            if reason.status_code < 500 and reason.status_code != _TOO_MANY_REQUESTS:
                return None
            asked = reason.retry_after_seconds or 0.0
        elif not isinstance(reason, APIConnectionError):
            return None
        if not self._unavailable:
            self._unavailable = True
            LOGGER.warning(
                "The consumer %r cannot be worked just now, and is tried again: %s",
                self.consumer,
                reason,
            )
        own = self._policy.wait_seconds(_UNREACHED, failures, seconds_max=seconds_max)
        return max(asked, own or 0.0)

    def _reached(self) -> None:
        if self._unavailable:
            self._unavailable = False
            LOGGER.info("The consumer %r can be worked again.", self.consumer)


_TOO_MANY_REQUESTS: Final = 429

_UNREACHED: Final = APIConnectionError("The service could not be reached.")


def _keyed(ask: Ask[T]) -> Ask[T]:
    """The same ask, with a key that follows from what is sent."""
    content = ask.request.path.encode() + b"\n" + (ask.request.body or b"")
    key = hashlib.sha256(content).hexdigest()
    return Ask(replace(ask.request, idempotency_key=key), ask.read)
