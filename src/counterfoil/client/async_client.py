"""``AsyncCounterfoil``, the asynchronous client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self

import httpx2

from counterfoil.client import async_running, control_requests, decision_requests
from counterfoil.client.async_access import AsyncKeys, AsyncTenants
from counterfoil.client.async_consumers import AsyncConsumers
from counterfoil.client.async_consuming import AsyncDeliveries
from counterfoil.client.async_decisions import AsyncDecisions, AsyncPolicies
from counterfoil.client.async_events import AsyncEvents
from counterfoil.client.async_guard import AsyncGuard
from counterfoil.client.async_rules import AsyncBookSettings, AsyncBrake, AsyncEventTypes
from counterfoil.client.async_running import AsyncHandler
from counterfoil.client.async_transport import AsyncTransport
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
from counterfoil.client.transport import Settings


class AsyncCounterfoil:
    """A client of one Counterfoil service; ``Counterfoil`` is its blocking twin.

    Make one and keep it: it holds a pool of connections, and several tasks may use it at
    once. It closes with its ``async with`` block, or with ``close()``.

    >>> async with AsyncCounterfoil() as cf:
    ...     await cf.events.append(agent_name="a", event_type="t", payload={"customer_id": "c1"})

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
        http_client: an ``httpx2.AsyncClient`` of your own, for proxies, certificates or tests.
            It stays yours: closing this client leaves it open.
        sleep: what waits between attempts; ``asyncio.sleep``. Give ``trio.sleep`` under trio.

    Raises:
        ValueError: the address or the key cannot be used.
    """

    events: AsyncEvents
    """The calls about events: ``append``, ``list``, ``follow`` …"""

    event_types: AsyncEventTypes
    """The calls about event types and their schemas: ``register``, ``get``, ``list``."""

    brake: AsyncBrake
    """The calls that freeze an agent, a tag or the book: ``freeze``, ``thaw``, ``list`` …"""

    consumers: AsyncConsumers
    """The calls about consumers: ``put``, ``get``, ``claim``, ``dead_letters`` …"""

    decisions: AsyncDecisions
    """The calls about decisions: ``get``, ``list``, ``replay``, ``explain``."""

    keys: AsyncKeys
    """The calls about keys: ``create``, ``list``, ``rotate``, ``revoke`` …"""

    policies: AsyncPolicies
    """The calls about policies: ``draft``, ``activate``, ``retire``, ``get`` …"""

    settings: AsyncBookSettings
    """The calls about the tenant's settings: ``get``, ``update``."""

    tenants: AsyncTenants
    """The operator's calls about tenants: ``create``, ``list``."""

    def __init__(
        self,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float | httpx2.Timeout | None = None,
        max_retries: int = MAX_RETRIES_DEFAULT,
        http_client: httpx2.AsyncClient | None = None,
        sleep: Callable[[float], Awaitable[None]] | None = None,
    ) -> None:
        settings = Settings.resolved(
            base_url=base_url, api_key=api_key, timeout=timeout, max_retries=max_retries
        )
        self._transport = AsyncTransport(settings, http_client, sleep)
        self.events = AsyncEvents(self._transport)
        self.event_types = AsyncEventTypes(self._transport)
        self.brake = AsyncBrake(self._transport)
        self.consumers = AsyncConsumers(self._transport)
        self.decisions = AsyncDecisions(self._transport)
        self.keys = AsyncKeys(self._transport)
        self.policies = AsyncPolicies(self._transport)
        self.settings = AsyncBookSettings(self._transport)
        self.tenants = AsyncTenants(self._transport)

    def __repr__(self) -> str:
        return f"AsyncCounterfoil(base_url={self.base_url!r})"

    @property
    def base_url(self) -> str:
        """The address of the service."""
        return self._transport.settings.base_url

    async def me(self) -> Me:
        """Return whose key this client calls with, and what it may do.

        >>> (await cf.me()).principal
        'agent:fraud_agent'

        Raises:
            AuthenticationError: the key opens nothing.
        """
        return await self._transport.run(control_requests.me())

    async def decide(
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

        >>> decision = await cf.decide("credit", "application:42")
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
        return await self._transport.run(
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
    ) -> AsyncGuard:
        """Read what matters, and write only if nothing that matters has been added since.

        >>> async with cf.guard(tags="transaction:tx_987", types="flag_transaction") as seen:
        ...     if not seen.events:
        ...         await seen.commit(agent_name="approver", event_type="approved", payload=...)

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
        return AsyncGuard(self._transport, core)

    def consume(
        self,
        consumer: str,
        *,
        holder: str | None = None,
        max_at_once: int = 1,
        wait_seconds: float = CLAIM_WAIT_SECONDS_DEFAULT,
    ) -> AsyncDeliveries:
        """Handle what a consumer hands out, one delivery after another, without an end.

        Leases are extended for as long as something is in hand; what is not settled when the
        block is left is given back. While the service is unavailable, the loop goes on trying.

        >>> async with cf.consume("scorer") as deliveries:
        ...     async for delivery in deliveries:
        ...         async with delivery:
        ...             await delivery.done(await score(delivery.event))

        Args:
            consumer: the consumer's name.
            holder: who holds the deliveries: one text for each process. Left out, it is made
                of the host's name, the process's id and a random part.
            max_at_once: how many may be in hand at once, those that were fetched ahead too. More
                than one is for several tasks, or to save calls where handling is quick.
            wait_seconds: how long a claim waits for work, up to 30.

        Raises:
            UsageError: ``max_at_once`` is less than one.
        """
        return AsyncDeliveries(
            self._transport,
            consumer,
            holder=holder,
            max_at_once=max_at_once,
            wait_seconds=wait_seconds,
        )

    async def run(
        self,
        handlers: Mapping[str, AsyncHandler],
        *,
        holder: str | None = None,
        max_at_once: int = MAX_AT_ONCE_DEFAULT,
        wait_seconds: float = CLAIM_WAIT_SECONDS_DEFAULT,
        stop_seconds: float = STOP_SECONDS_DEFAULT,
        stop: asyncio.Event | None = None,
    ) -> None:
        """Handle what consumers hand out, until the process is told to stop.

        A handler takes a delivery, and returns what came of it: an event, a list of events, or
        nothing. That is appended as the delivery is acknowledged, in the same step. An exception
        gives it back with the exception as the reason, and is logged (``counterfoil``). It may
        also settle the delivery by itself.

        >>> async def score(delivery):
        ...     score = await model.score(delivery.event.payload)
        ...     return NewEvent(agent_name="scorer", event_type="score", payload={"score": score})
        >>> await cf.run({"scorer": score})

        At SIGTERM or SIGINT, or when ``stop`` is set, nothing more is claimed. What is in hand
        has ``stop_seconds`` to finish; the rest is given back, and does not count as an attempt.

        To cancel it stops it at once, and gives back what is in hand.

        Args:
            handlers: for each consumer's name, a coroutine function.
            holder: as of ``consume``.
            max_at_once: how many deliveries of each consumer are handled at once, in as many
                tasks.
            wait_seconds: how long a claim waits for work, up to 30.
            stop_seconds: what the handlers have to finish.
            stop: stops it from elsewhere. Signals are heard in the main thread only.

        Raises:
            UsageError: there is no handler, or ``max_at_once`` is less than one.
            APIError: the service refuses: no key, no scope, no such consumer …
        """
        await async_running.run(
            self._transport,
            handlers,
            holder=holder,
            max_at_once=max_at_once,
            wait_seconds=wait_seconds,
            stop_seconds=stop_seconds,
            stop=stop,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections. The client cannot be used after that."""
        await self._transport.close()
