"""``Counterfoil``, the blocking client."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import httpx2

from counterfoil.client import control_requests, decision_requests, sync_running
from counterfoil.client.calls import MAX_RETRIES_DEFAULT
from counterfoil.client.control_model import Me
from counterfoil.client.decision_model import Decision
from counterfoil.client.guarding import GUARD_EVENTS_MAX_DEFAULT, GuardCore
from counterfoil.client.handling import (
    CLAIM_WAIT_SECONDS_DEFAULT,
    MAX_AT_ONCE_DEFAULT,
    STOP_SECONDS_DEFAULT,
)
from counterfoil.client.model import Query, Texts, query_of
from counterfoil.client.sync_access import Keys, Tenants
from counterfoil.client.sync_consumers import Consumers
from counterfoil.client.sync_consuming import Deliveries
from counterfoil.client.sync_decisions import Decisions, Policies
from counterfoil.client.sync_events import Events
from counterfoil.client.sync_guard import Guard
from counterfoil.client.sync_rules import BookSettings, Brake, EventTypes
from counterfoil.client.sync_running import Handler
from counterfoil.client.sync_transport import SyncTransport
from counterfoil.client.transport import Settings


class Counterfoil:
    """A client of one Counterfoil service; ``AsyncCounterfoil`` is its asynchronous twin.

    Make one and keep it: it holds a pool of connections, and several threads may use it at
    once. It closes with its ``with`` block, or with ``close()``.

    >>> with Counterfoil() as cf:
    ...     cf.events.append(agent_name="a", event_type="t", payload={"customer_id": "c1"})

    Calls that the service could not be reached for, or that it was too busy for (429, 503),
    are made again by themselves; writes carry one idempotency key through all attempts, so
    that they are stored once.

    Args:
        base_url: the service's address; else COUNTERFOIL_BASE_URL, else
            ``http://127.0.0.1:8000``.
        api_key: else COUNTERFOIL_API_KEY, else none.
        timeout: seconds, or an ``httpx2.Timeout``; 35 (5 to connect) when not given. It
            holds for each attempt, not for all of them together.
        max_retries: attempts after the first.
        http_client: an ``httpx2.Client`` of your own, for proxies, certificates or tests.
            It stays yours: closing this client leaves it open.
        sleep: what waits between attempts; ``time.sleep``.

    Raises:
        ValueError: the address or the key cannot be used.
    """

    events: Events
    """The calls about events: ``append``, ``list``, ``follow`` …"""

    event_types: EventTypes
    """The calls about event types and their schemas: ``register``, ``get``, ``list``."""

    brake: Brake
    """The calls that freeze an agent, a tag or the book: ``freeze``, ``thaw``, ``list`` …"""

    consumers: Consumers
    """The calls about consumers: ``put``, ``get``, ``claim``, ``dead_letters`` …"""

    decisions: Decisions
    """The calls about decisions: ``get``, ``list``, ``replay``, ``explain``."""

    keys: Keys
    """The calls about keys: ``create``, ``list``, ``rotate``, ``revoke`` …"""

    policies: Policies
    """The calls about policies: ``draft``, ``activate``, ``retire``, ``get`` …"""

    settings: BookSettings
    """The calls about the tenant's settings: ``get``, ``update``."""

    tenants: Tenants
    """The operator's calls about tenants: ``create``, ``list``."""

    def __init__(
        self,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float | httpx2.Timeout | None = None,
        max_retries: int = MAX_RETRIES_DEFAULT,
        http_client: httpx2.Client | None = None,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        settings = Settings.resolved(
            base_url=base_url, api_key=api_key, timeout=timeout, max_retries=max_retries
        )
        self._transport = SyncTransport(settings, http_client, sleep)
        self.events = Events(self._transport)
        self.event_types = EventTypes(self._transport)
        self.brake = Brake(self._transport)
        self.consumers = Consumers(self._transport)
        self.decisions = Decisions(self._transport)
        self.keys = Keys(self._transport)
        self.policies = Policies(self._transport)
        self.settings = BookSettings(self._transport)
        self.tenants = Tenants(self._transport)

    def __repr__(self) -> str:
        return f"Counterfoil(base_url={self.base_url!r})"

    @property
    def base_url(self) -> str:
        """The address of the service."""
        return self._transport.settings.base_url

    def me(self) -> Me:
        """Return whose key this client calls with, and what it may do.

        >>> cf.me().principal
        'agent:fraud_agent'

        Raises:
            AuthenticationError: the key opens nothing.
        """
        return self._transport.run(control_requests.me())

    def decide(
        self,
        policy: str,
        subject: str,
        *,
        inputs: Mapping[str, Any] | None = None,
        on_behalf_of: str | None = None,
        agent_name: str | None = None,
        supersedes: int | Decision | None = None,
        reason: str | None = None,
        explain: bool = False,
        idempotency_key: str | None = None,
    ) -> Decision:
        """Decide about a subject by a policy's active version, and record it.

        The service reads the signals, applies the rules, and appends the decision only if none
        of what it read has changed meanwhile; else it reads and applies them anew. What it
        cannot decide for certain it refuses.

        >>> decision = cf.decide("credit", "application:42")
        >>> decision.outcome, [reason.code for reason in decision.reasons]
        ('decline', ['D01'])

        Args:
            policy: its name.
            subject: what it is about: a tag of the kind that the policy is for.
            inputs: the inputs that do not come from the book.
            on_behalf_of: for whom it is asked; it stands in the record, as it was said.
            agent_name: under which name it is decided, where the key may write under any; by
                default the key's own.
            supersedes: the standing decision whose place this one takes: its id, or a
                ``Decision``.
            reason: why it does; needed with ``supersedes``.
            explain: bring the ``explanation`` too.
            idempotency_key: as of ``events.append``: the same decision again is answered from
                the book.

        Raises:
            DecisionStands: one stands about this subject, and is not the one in ``supersedes``.
            DecisionInputsRefused: an input is missing, too old, or of the wrong type.
            NotDecided: the rules come to nothing for these inputs.
            SubjectWithoutEvents: the book knows nothing of the subject.
            PolicyNotActive: no version of the policy is active.
            PolicyNotFound: there is no policy of this name.
            ConditionFailed: what it reads changed in each of several tries.
            PermissionDenied: the key has no ``decide:`` scope for it, or may not read all that
                the policy reads.
            UsageError: one of ``supersedes`` and ``reason`` is there without the other.
            CounterfoilError: as ``events.append``.
        """
        return self._transport.run(
            decision_requests.decide(
                policy,
                subject,
                inputs=inputs,
                on_behalf_of=on_behalf_of,
                agent_name=agent_name,
                supersedes=supersedes,
                reason=reason,
                explain=explain,
                idempotency_key=idempotency_key,
            )
        )

    def guard(
        self,
        *,
        tags: Texts = (),
        types: Texts = (),
        agents: Texts = (),
        query: Query | None = None,
        max_events: int = GUARD_EVENTS_MAX_DEFAULT,
    ) -> Guard:
        """Read what matters, and write only if nothing that matters has been added since.

        >>> with cf.guard(tags="transaction:tx_987", types="flag_transaction") as seen:
        ...     if not seen.events:
        ...         seen.commit(agent_name="approver", event_type="approved", payload=...)

        Args:
            tags, types, agents: one query item: events of any of these types, by any of
                these agents, that bear all of these tags.
            query: several items instead; events that match any of them.
            max_events: how many events may match.

        Raises:
            GuardTooLarge: on entering; more match, and a guard never reads a part only.
            UnsendableValue: nothing is asked for, which would mean the whole book.
        """
        core = GuardCore(query_of(query, tags, types, agents), max_events)
        return Guard(self._transport, core)

    def consume(
        self,
        consumer: str,
        *,
        holder: str | None = None,
        max_at_once: int = 1,
        wait_seconds: float = CLAIM_WAIT_SECONDS_DEFAULT,
    ) -> Deliveries:
        """Handle what a consumer hands out, one delivery after another, without an end.

        Leases are extended for as long as something is in hand; what is not settled when the
        block is left is given back. While the service is unavailable, the loop goes on trying.

        >>> with cf.consume("scorer") as deliveries:
        ...     for delivery in deliveries:
        ...         with delivery:
        ...             delivery.done(score(delivery.event))

        Args:
            consumer: the consumer's name.
            holder: who holds the deliveries: one text for each process. Left out, it is made
                of the host's name, the process's id and a random part.
            max_at_once: how many may be in hand at once, those that were fetched ahead too. More
                than one is for several threads, or to save calls where handling is quick.
            wait_seconds: how long a claim waits for work, up to 30.

        Raises:
            UsageError: ``max_at_once`` is less than one.
        """
        return Deliveries(
            self._transport,
            consumer,
            holder=holder,
            max_at_once=max_at_once,
            wait_seconds=wait_seconds,
        )

    def run(
        self,
        handlers: Mapping[str, Handler],
        *,
        holder: str | None = None,
        max_at_once: int = MAX_AT_ONCE_DEFAULT,
        wait_seconds: float = CLAIM_WAIT_SECONDS_DEFAULT,
        stop_seconds: float = STOP_SECONDS_DEFAULT,
        stop: threading.Event | None = None,
    ) -> None:
        """Handle what consumers hand out, until the process is told to stop.

        A handler takes a delivery, and returns what came of it: an event, a list of events, or
        nothing. That is appended as the delivery is acknowledged, in the same step. An exception
        gives it back with the exception as the reason, and is logged (``counterfoil``). It may
        also settle the delivery by itself.

        >>> def score(delivery):
        ...     score = model.score(delivery.event.payload)
        ...     return NewEvent(agent_name="scorer", event_type="score", payload={"score": score})
        >>> cf.run({"scorer": score})

        At SIGTERM or SIGINT, or when ``stop`` is set, nothing more is claimed. What is in hand
        has ``stop_seconds`` to finish; the rest is given back, and does not count as an attempt.

        A claim that is under way is waited for, so an idle one stops within ``wait_seconds``.

        Args:
            handlers: for each consumer's name, a function.
            holder: as of ``consume``.
            max_at_once: how many deliveries of each consumer are handled at once, in as many
                threads.
            wait_seconds: how long a claim waits for work, up to 30.
            stop_seconds: what the handlers have to finish.
            stop: stops it from elsewhere. Signals are heard in the main thread only.

        Raises:
            UsageError: there is no handler, or ``max_at_once`` is less than one.
            APIError: the service refuses: no key, no scope, no such consumer …
        """
        sync_running.run(
            self._transport,
            handlers,
            holder=holder,
            max_at_once=max_at_once,
            wait_seconds=wait_seconds,
            stop_seconds=stop_seconds,
            stop=stop,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections. The client cannot be used after that."""
        self._transport.close()
