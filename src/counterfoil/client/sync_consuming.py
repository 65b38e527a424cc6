"""Handling what a consumer hands out. The blocking shell."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar

from counterfoil.client.calls import Call
from counterfoil.client.consumer_model import Claimed
from counterfoil.client.consuming import LOGGER, Consuming
from counterfoil.client.errors import APIError, CounterfoilError, UsageError
from counterfoil.client.handling import UNSETTLED, holder_of, reason_of
from counterfoil.client.holding import Hold, State
from counterfoil.client.model import Condition, Event, NewEvent, StoredBatch
from counterfoil.client.requests import Ask
from counterfoil.client.sync_transport import SyncTransport

T = TypeVar("T")


class _Settle(Protocol):
    """Makes the call that settles a delivery."""

    def __call__(self, hold: Hold, ask: Ask[T], state: State, *, final: bool = False) -> T: ...


class HeldDelivery:
    """An event in hand: nobody else is handed it until it is settled, or its lease is lost.

    The lease is extended for as long as it takes. Settle it once, with ``done``, ``release`` or
    ``set_aside``; each returns when it is certain.

    In an ``with`` block, an exception gives the delivery back with the exception as the
    reason, and goes on. To leave the block unsettled without an exception is an error: neither
    a silent acknowledgement nor a silent failure would be what a forgotten branch means.

    >>> with cf.consume("scorer") as deliveries:
    ...     for delivery in deliveries:
    ...         with delivery:
    ...             delivery.done(score(delivery.event))
    """

    def __init__(self, core: Consuming, settle: _Settle, hold: Hold) -> None:
        self._core = core
        self._settle = settle
        self._hold = hold

    def __repr__(self) -> str:
        delivery = self._hold.delivery
        state = self._hold.state.name.lower()
        return f"HeldDelivery(event {delivery.event.id}, attempt {delivery.attempt}, {state})"

    @property
    def event(self) -> Event:
        """The event."""
        return self._hold.delivery.event

    @property
    def attempt(self) -> int:
        """Which attempt this is; 1 is the first."""
        return self._hold.delivery.attempt

    @property
    def token(self) -> str:
        """What fences: the tokens of one event grow with each handing out, compared as text.

        >>> payments.charge(delivery.event.payload, fence=delivery.token)
        """
        return self._hold.delivery.token

    @property
    def lease_ends(self) -> datetime:
        """Until when it is held for now, by the service's clock."""
        return self._hold.lease.ends

    @property
    def lost(self) -> bool:
        """Whether it is known not to be held any more, so that there is no use in going on."""
        return self._hold.state is State.LOST

    @property
    def settled(self) -> bool:
        """Whether it was acknowledged, given back or set aside from here."""
        return self._hold.state not in {State.HELD, State.LOST}

    def done(
        self,
        *events: NewEvent | Mapping[str, Any],
        condition: Condition | None = None,
        idempotency_key: str | None = None,
    ) -> StoredBatch | None:
        """Acknowledge it, and append what came of it in the same step: both, or neither.

        >>> delivery.done(
        ...     NewEvent(agent_name="scorer", event_type="score", payload={"score": 7})
        ... )
        StoredBatch(ids=(58,), …)

        Args:
            events: what came of it; up to 1,000.
            condition: do so only under this condition; see also ``guard``.
            idempotency_key: as of ``events.append``. When it is not given, it follows from the
                delivery and the events: the same call again is the same acknowledgement.

        Returns:
            What was stored; ``None`` without events.

        Raises:
            LeaseLost: it is not held any more; nothing was done or written.
            ConditionFailed: something was written in between. It stays in hand: look again.
            OutcomeUnknown: the service could not be reached until the lease was over. The same
                call again brings what came of it.
            UsageError: it has been settled already.
            CounterfoilError: as ``events.append_batch``.
        """
        ask = self._core.done(self._hold, events, condition, idempotency_key)
        return self._settle(self._hold, ask, State.DONE)

    def release(self, *, delay_seconds: float | None = None, reason: str | None = None) -> None:
        """Give it back, to be handed out again.

        >>> delivery.release(delay_seconds=60, reason="The bank's interface is closed.")

        Args:
            delay_seconds: when; 0: at once; left out: after the consumer's backoff.
            reason: why the attempt failed, up to 500 characters. Without one it was only given
                back, and the attempt does not count.

        Raises:
            LeaseLost: it is not held any more.
            UsageError: it has been settled already.
            CounterfoilError: as ``events.append``.
        """
        ask = self._core.release(self._hold, delay_seconds, reason)
        self._settle(self._hold, ask, State.GIVEN_BACK)

    def set_aside(self, reason: str) -> int:
        """Make a dead letter of it, however many attempts are left.

        >>> delivery.set_aside("The currency is unknown.")
        59

        Args:
            reason: why, up to 500 characters; it stands in the book.

        Returns:
            The id of the event that says so.

        Raises:
            LeaseLost: it is not held any more.
            UsageError: it has been settled already.
            CounterfoilError: as ``events.append``.
        """
        ask = self._core.set_aside(self._hold, reason)
        (said_by,) = self._settle(self._hold, ask, State.SET_ASIDE)
        return said_by

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._hold.settling or self._hold.state is not State.HELD:
            return
        if exc is None:
            self._fails(UNSETTLED)
            raise UsageError(
                f"The block was left, and event {self.event.id} was neither done, given back nor "
                "set aside. It was given back, as a failed attempt. End each branch with "
                "`done()`, `release()` or `set_aside()`."
            )
        # Interrupted, it has not failed.
        self._fails(reason_of(exc) if isinstance(exc, Exception) else None)

    def _fails(self, reason: str | None) -> None:
        delay_seconds = 0 if reason is None else None
        ask = self._core.release(self._hold, delay_seconds, reason)
        try:
            self._settle(self._hold, ask, State.GIVEN_BACK, final=True)
        except CounterfoilError as error:
            LOGGER.warning("Event %d could not be given back: %s", self.event.id, error)


class Deliveries:
    """What a consumer hands out, one delivery after another, for as long as one goes on.

    Use it in a ``with`` block: leaving it gives back what has not been settled. Without one,
    leaving the loop does so. A thread of its own extends the leases of what is in hand; several
    threads may ask for the next.

    >>> with cf.consume("scorer") as deliveries:
    ...     for delivery in deliveries:
    ...         delivery.done(score(delivery.event))
    """

    def __init__(
        self,
        transport: SyncTransport,
        consumer: str,
        *,
        holder: str | None,
        max_at_once: int,
        wait_seconds: float,
    ) -> None:
        self._core = Consuming(
            consumer,
            holder=holder_of(holder),
            max_at_once=max_at_once,
            wait_seconds=wait_seconds,
            policy=transport.settings.policy,
            now=time.monotonic,
        )
        self._transport = transport
        self._in_block = False
        self._turn = threading.Lock()
        self._state = threading.Condition(threading.RLock())
        self._closed = False
        self._extender: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"Deliveries({self._core})"

    @property
    def holder(self) -> str:
        """Under which name deliveries are held."""
        return self._core.holder

    def next(self) -> HeldDelivery | None:
        """Return the next delivery, however long it takes; ``None`` when stopped.

        While the service is unavailable, this goes on trying.

        >>> while (delivery := deliveries.next()) is not None:
        ...     delivery.done()

        Raises:
            UsageError: with ``max_at_once=1``, the one before has not been settled.
            APIError: the service refuses: no key, no scope, no such consumer …
        """
        with self._turn:
            while True:
                with self._state:
                    if self._core.stopped:
                        break
                    step = self._core.step()
                    if isinstance(step, Hold):
                        return HeldDelivery(self._core, self._settle, step)
                    if step is None:
                        self._state.wait()
                        continue
                self._claim(step)
            self._give_back(unhandled=True)
            return None

    def __iter__(self) -> Generator[HeldDelivery, None, None]:
        try:
            while (delivery := self.next()) is not None:
                yield delivery
        finally:
            if not self._in_block:
                self.close()

    def stop(self) -> None:
        """Claim nothing more: ``next`` returns ``None``, and the loop ends.

        A claim that is under way is waited for, and what it brings is given back. What is in
        hand stays so, its lease extended, until it is settled or this is closed.

        >>> deliveries.stop()
        """
        with self._state:
            self._core.stopped = True
            self._state.notify_all()

    def close(self) -> None:
        """Stop, and give back what is in hand. Does nothing the second time.

        >>> deliveries.close()
        """
        self.stop()
        # A claim of another thread that is under way would take what is given back.
        with self._turn:
            with self._state:
                self._closed = True
                self._state.notify_all()
            self._give_back()

    def __enter__(self) -> Self:
        self._in_block = True
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # --- What goes on inside ------------------------------------------------------------

    def _settle(self, hold: Hold, ask: Ask[T], state: State, *, final: bool = False) -> T:
        """Make the call that settles a delivery, for as long as its lease lasts."""
        call = Call(ask, self._transport.settings.policy)
        with self._state:
            self._core.begin(hold)
        try:
            while True:
                try:
                    value = self._transport.make(call)
                except APIError as error:
                    with self._state:
                        wait = self._core.not_settled(hold, error)
                else:
                    with self._state:
                        self._core.settled(hold, state)
                    return value
                self._transport.sleep(wait)
                call.once_more()
        finally:
            with self._state:
                self._core.end(hold, final=final)
                self._state.notify_all()

    def _claim(self, ask: Ask[Claimed]) -> None:
        try:
            claimed = self._transport.run(ask)
        except APIError as error:
            with self._state:
                wait = self._core.not_claimed(error)
        else:
            with self._state:
                wait = self._core.claimed(claimed)
                self._state.notify_all()
        if self._extender is None:
            self._extender = threading.Thread(
                target=self._extend, name=f"counterfoil-leases-{self._core.consumer}", daemon=True
            )
            self._extender.start()
        self._pause(wait)

    def _pause(self, seconds: float) -> None:
        """Wait, but not past a stop."""
        while seconds > 0 and not self._core.stopped:
            self._transport.sleep(min(seconds, _PAUSE_SECONDS))
            seconds -= _PAUSE_SECONDS

    def _extend(self) -> None:
        try:
            while True:
                with self._state:
                    extension = self._core.extension()
                    while extension is None and not self._closed:
                        self._state.wait(self._core.extension_in())
                        extension = self._core.extension()
                    if extension is None or self._closed:
                        return
                try:
                    lease = self._transport.run(extension.ask)
                except APIError as error:
                    with self._state:
                        wait = self._core.not_extended(extension, error)
                        self._state.notify_all()
                    self._transport.sleep(wait)
                else:
                    with self._state:
                        self._core.extended(extension, lease)
        except Exception as error:  # noqa: BLE001 - whoever asks for the next hears of it
            with self._state:
                self._core.failed(error)
                self._state.notify_all()

    def _give_back(self, *, unhandled: bool = False) -> None:
        while True:
            with self._state:
                back = self._core.giving_back(unhandled=unhandled)
            if back is None:
                return
            try:
                self._transport.run(back.ask)
            except CounterfoilError as error:
                with self._state:
                    self._core.not_given_back(back, error)
            except BaseException:
                with self._state:
                    self._core.giving_back_broke_off(back)
                raise
            else:
                with self._state:
                    self._core.given_back(back)


_PAUSE_SECONDS: Final = 1.0
"""After so long at most, a pause finds out that it is over."""
