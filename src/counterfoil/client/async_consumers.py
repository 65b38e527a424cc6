"""``cf.consumers``: who is handed which events. The asynchronous shell."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from datetime import datetime
from typing import Any, Literal, overload

from counterfoil.client import consumer_requests
from counterfoil.client.async_transport import AsyncTransport
from counterfoil.client.consumer_model import (
    Acknowledged,
    Backoff,
    Claimed,
    Consumer,
    ConsumerStart,
    DeadLetter,
    DeadLetterRule,
    DeadLetters,
    DeletedConsumer,
    Next,
    Tokens,
)
from counterfoil.client.control_requests import ROWS_DEFAULT
from counterfoil.client.model import (
    Condition,
    Event,
    NewEvent,
    Query,
    StoredBatch,
    Texts,
    query_of,
)


class AsyncConsumers:
    """The calls about consumers; reached as ``consumers`` of an asynchronous client.

    A consumer hands out each event that matches its query to one holder at a time, under a
    lease, until it is acknowledged. ``consume`` and ``run`` of the client do the working calls
    (``claim``, ``ack``, ``extend``, ``release``, ``set_aside``) by themselves, and extend leases.
    """

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    # --- Managing -----------------------------------------------------------------------

    async def put(
        self,
        name: str,
        *,
        tags: Texts = (),
        types: Texts = (),
        agents: Texts = (),
        query: Query | None = None,
        start: ConsumerStart | None = None,
        lease_seconds: int | None = None,
        attempts_max: int | None = None,
        backoff: Backoff | None = None,
        order_by: str | None = None,
        in_flight_max: int | None = None,
        dead_letters: DeadLetterRule | None = None,
        change_query: bool = False,
        idempotency_key: str | None = None,
    ) -> Consumer:
        """Make a consumer, or change it to what is given here.

        A consumer that is so already is left as it is, so this can be called at every start of
        a program. What is left out takes its default, also when it had another value before.

        >>> await cf.consumers.put("scorer", types="payment", order_by="customer")
        Consumer(name='scorer', …)

        Args:
            name: lower-case letters, digits, dots, dashes and underscores; up to 64.
            tags, types, agents: one query item: events of any of these types, by any of these
                agents, that bear all of these tags.
            query: several items instead; events that match any of them.
            start: where it begins: ``"beginning"`` (the default), ``"now"``, or after a
                position. Settled when it is made.
            lease_seconds: how long a delivery is held; 60 by default.
            attempts_max: the failed attempts after which an event is set aside; 10 by default.
            backoff: how long an event waits after a failed attempt.
            order_by: a tag kind: events that share a tag of it are handed out one after another.
                Settled when it is made.
            in_flight_max: how many deliveries may be held at once.
            dead_letters: with ``order_by``, whether a dead letter lets the next of its key
                ``"pass"`` (the default) or ``"hold"`` them up.
            change_query: change the query of a consumer that is there already.
            idempotency_key: as of ``events.append``.

        Raises:
            ConsumerStarted: that cannot be changed any more, or not without ``change_query``.
            PermissionDenied: the key has no ``manage:consumers``.
            CounterfoilError: as ``events.append``.
        """
        return await self._transport.run(
            consumer_requests.put(
                name,
                query=query_of(query, tags, types, agents),
                start=start,
                lease_seconds=lease_seconds,
                attempts_max=attempts_max,
                backoff=backoff,
                order_by=order_by,
                in_flight_max=in_flight_max,
                dead_letters=dead_letters,
                change_query=change_query,
                idempotency_key=idempotency_key,
            )
        )

    async def get(self, name: str) -> Consumer:
        """Return a consumer, and how it stands.

        >>> (await cf.consumers.get("scorer")).lag
        Lag(events=12, seconds=0.8, at_least=False)

        Raises:
            NotFoundError: there is no consumer of this name.
        """
        return await self._transport.run(consumer_requests.get(name))

    def list(self, *, limit: int = ROWS_DEFAULT) -> AsyncIterator[Consumer]:
        """Iterate over the consumers.

        >>> async for consumer in cf.consumers.list():
        ...     print(consumer.name, consumer.status, consumer.lag.events)

        Args:
            limit: consumers of one *page*, up to 1,000; the iteration goes through all pages.
        """
        return self._transport.each(consumer_requests.consumers(limit))

    async def delete(
        self,
        name: str,
        *,
        dead_letters: Literal["drop"] | None = None,
        idempotency_key: str | None = None,
    ) -> DeletedConsumer:
        """Delete a consumer. The events stay in the book; where it stood is forgotten.

        >>> await cf.consumers.delete("scorer")
        DeletedConsumer(name='scorer', …, unfinished=0, dead_letters=0)

        Args:
            name: the consumer.
            dead_letters: ``"drop"`` gives up its dead letters too; without it, they keep it.
            idempotency_key: as of ``events.append``.

        Raises:
            APIStatusError: it has dead letters (``consumer-has-dead-letters``).
            NotFoundError: there is no consumer of this name.
            CounterfoilError: as ``events.append``.
        """
        return await self._transport.run(
            consumer_requests.delete(
                name, dead_letters=dead_letters, idempotency_key=idempotency_key
            )
        )

    async def pause(
        self, name: str, *, reason: str, idempotency_key: str | None = None
    ) -> Consumer:
        """Hand nothing out any more. What is held stays held, and can be acknowledged.

        >>> await cf.consumers.pause("scorer", reason="The model is being replaced.")

        Args:
            name: the consumer.
            reason: why, in a sentence; it stands in the book.
            idempotency_key: as of ``events.append``.

        Raises:
            NotFoundError: there is no consumer of this name.
            CounterfoilError: as ``events.append``.
        """
        return await self._transport.run(
            consumer_requests.pause(name, reason=reason, idempotency_key=idempotency_key)
        )

    async def resume(
        self, name: str, *, reason: str, idempotency_key: str | None = None
    ) -> Consumer:
        """Hand events out again; the arguments are those of ``pause``.

        >>> await cf.consumers.resume("scorer", reason="The new model is there.")
        """
        return await self._transport.run(
            consumer_requests.resume(name, reason=reason, idempotency_key=idempotency_key)
        )

    async def seek(
        self,
        name: str,
        to: ConsumerStart | datetime,
        *,
        reason: str,
        idempotency_key: str | None = None,
    ) -> Consumer:
        """Go on from another place. Whatever is held is lost by its holders.

        >>> await cf.consumers.seek("scorer", "beginning", reason="The old scores were wrong.")

        Args:
            name: the consumer.
            to: ``"beginning"``, ``"now"``, after a position, or a moment with its time zone.
            reason: why, in a sentence; it stands in the book.
            idempotency_key: as of ``events.append``.

        Raises:
            NotFoundError: there is no consumer of this name.
            CounterfoilError: as ``events.append``.
        """
        return await self._transport.run(
            consumer_requests.seek(name, to, reason=reason, idempotency_key=idempotency_key)
        )

    # --- Working ------------------------------------------------------------------------

    async def claim(
        self,
        name: str,
        *,
        holder: str,
        count: int = 1,
        wait_seconds: float = 0,
        done: Tokens = (),
        idempotency_key: str | None = None,
    ) -> Claimed:
        """Take deliveries, to hold them under a lease that nothing extends by itself.

        >>> for delivery in await cf.consumers.claim("scorer", holder="scorer-1", count=10):
        ...     await cf.consumers.ack("scorer", delivery, events=[score(delivery.event)])

        Args:
            name: the consumer.
            holder: who takes them: one text for each process; up to 128 characters.
            count: how many at most; up to 1,000.
            wait_seconds: how long to wait for the first, up to 30; this comes on top of the
                client's ``timeout``.
            done: deliveries that are acknowledged in the same step, before.
            idempotency_key: as of ``events.append``; the same claim again brings the same
                deliveries, as far as they are still held.

        Raises:
            LeaseLost: of ``done``, some are not held any more.
            NotFoundError: there is no consumer of this name.
            PermissionDenied: the key has no ``consume:`` scope for it, or may not read all that
                its query matches.
            OutcomeUnknown: something may have been taken; claim again with the error's key.
            CounterfoilError: as ``events.append``.
        """
        return await self._transport.run(
            consumer_requests.claim(
                name,
                holder=holder,
                count=count,
                wait_seconds=wait_seconds,
                done=done,
                idempotency_key=idempotency_key,
            )
        )

    @overload
    async def ack(
        self,
        name: str,
        tokens: Tokens,
        *,
        events: Collection[NewEvent | Mapping[str, Any]] = ...,
        condition: Condition | None = ...,
        next: None = ...,
        idempotency_key: str | None = ...,
    ) -> StoredBatch | None: ...

    @overload
    async def ack(
        self,
        name: str,
        tokens: Tokens,
        *,
        events: Collection[NewEvent | Mapping[str, Any]] = ...,
        condition: Condition | None = ...,
        next: Next,
        idempotency_key: str | None = ...,
    ) -> Acknowledged: ...

    async def ack(
        self,
        name: str,
        tokens: Tokens,
        *,
        events: Collection[NewEvent | Mapping[str, Any]] = (),
        condition: Condition | None = None,
        next: Next | None = None,  # noqa: A002 - as the service calls it
        idempotency_key: str | None = None,
    ) -> StoredBatch | Acknowledged | None:
        """Acknowledge deliveries, and append their outcome in the same step: all, or nothing.

        >>> await cf.consumers.ack("scorer", delivery, events=[NewEvent(...)])
        StoredBatch(ids=(58,), …)

        Args:
            name: the consumer.
            tokens: deliveries, or their tokens; up to 1,000.
            events: what is written if, and only if, they are still held.
            condition: do all of it only under this condition; see also ``guard``.
            next: what to claim in the same call, once all of that is done: one call for each
                piece of work, where there were two. It waits for no work.
            idempotency_key: as of ``events.append``; with ``next``, the same call again also
                brings the same deliveries, as far as they are still held.

        Returns:
            What was stored; ``None`` without events. With ``next``, both that and what was
            claimed, as ``Acknowledged``.

        Raises:
            LeaseLost: some are not held any more; ``lost`` says which.
            ConditionFailed: something was written in between; they stay held.
            PermissionDenied: with ``next``, also where the key may not read all that the
                consumer's query matches; nothing was done.
            CounterfoilError: as ``events.append``.
        """
        if next is None:
            return await self._transport.run(
                consumer_requests.ack(
                    name,
                    tokens,
                    events=events,
                    condition=condition,
                    idempotency_key=idempotency_key,
                )
            )
        return await self._transport.run(
            consumer_requests.ack_and_claim(
                name,
                tokens,
                events=events,
                condition=condition,
                next=next,
                idempotency_key=idempotency_key,
            )
        )

    async def extend(
        self, name: str, tokens: Tokens, *, lease_seconds: int | None = None
    ) -> datetime:
        """Hold deliveries longer, from now on; return until when.

        >>> await cf.consumers.extend("scorer", delivery, lease_seconds=600)
        datetime.datetime(…)

        Args:
            name: the consumer.
            tokens: deliveries, or their tokens; up to 1,000.
            lease_seconds: how long; the consumer's ``lease_seconds`` by default.

        Raises:
            LeaseLost: some are not held any more; none was extended.
        """
        ask = consumer_requests.extend(name, tokens, lease_seconds=lease_seconds)
        return (await self._transport.run(ask)).ends

    async def release(
        self,
        name: str,
        tokens: Tokens,
        *,
        delay_seconds: float | None = None,
        reason: str | None = None,
        idempotency_key: str | None = None,
    ) -> None:
        """Give deliveries back, to be handed out again.

        >>> await cf.consumers.release("scorer", delivery, reason="The model is overloaded.")

        Args:
            name: the consumer.
            tokens: deliveries, or their tokens; up to 1,000.
            delay_seconds: when they are handed out again; 0: at once; left out: after the
                consumer's backoff.
            reason: why the attempt failed, up to 500 characters. Without one they were only
                given back, and the attempt does not count.
            idempotency_key: as of ``events.append``.

        Raises:
            LeaseLost: some are not held any more; none was released.
            CounterfoilError: as ``events.append``.
        """
        await self._transport.run(
            consumer_requests.release(
                name,
                tokens,
                delay_seconds=delay_seconds,
                reason=reason,
                idempotency_key=idempotency_key,
            )
        )

    async def set_aside(
        self, name: str, tokens: Tokens, *, reason: str, idempotency_key: str | None = None
    ) -> tuple[int, ...]:
        """Make dead letters of deliveries, however many attempts they have left.

        >>> await cf.consumers.set_aside("scorer", delivery, reason="The currency is unknown.")
        (59,)

        Args:
            name: the consumer.
            tokens: deliveries, or their tokens; up to 1,000.
            reason: why, up to 500 characters; it stands in the book.
            idempotency_key: as of ``events.append``.

        Returns:
            The ids of the events that say so.

        Raises:
            LeaseLost: some are not held any more; none was set aside.
            CounterfoilError: as ``events.append``.
        """
        return await self._transport.run(
            consumer_requests.set_aside(
                name, tokens, reason=reason, idempotency_key=idempotency_key
            )
        )

    # --- Dead letters -------------------------------------------------------------------

    def dead_letters(self, name: str, *, limit: int = ROWS_DEFAULT) -> AsyncIterator[DeadLetter]:
        """Iterate over a consumer's dead letters.

        >>> async for letter in cf.consumers.dead_letters("scorer"):
        ...     print(letter.event_id, letter.reason)

        Args:
            name: the consumer.
            limit: dead letters of one *page*, up to 1,000; the iteration goes through all pages.
        """
        return self._transport.each(consumer_requests.dead_letters(name, limit))

    async def dead_letter(self, name: str, event_id: int | Event | DeadLetter) -> DeadLetter:
        """Return one dead letter.

        >>> [attempt.reason for attempt in (await cf.consumers.dead_letter("scorer", 17)).attempts]
        ['TimeoutError: ', 'TimeoutError: ']

        Raises:
            NotFoundError: the event is no dead letter of this consumer.
        """
        return await self._transport.run(consumer_requests.dead_letter(name, event_id))

    async def replay(
        self,
        name: str,
        event_ids: DeadLetters | None = None,
        *,
        all: bool = False,  # noqa: A002 - as the service calls it
        reason: str | None = None,
        idempotency_key: str | None = None,
    ) -> tuple[int, ...]:
        """Hand dead letters out again, as if for the first time.

        >>> await cf.consumers.replay("scorer", all=True, reason="The model is back.")
        (17, 23)

        Args:
            name: the consumer.
            event_ids: dead letters, or the ids of their events; up to 1,000.
            all: all of them instead.
            reason: why, in a sentence; it stands in the book.
            idempotency_key: as of ``events.append``.

        Returns:
            The ids of their events.

        Raises:
            NotFoundError: one of them is no dead letter of this consumer.
            UsageError: it is not exactly one of ``event_ids`` and ``all``.
            CounterfoilError: as ``events.append``.
        """
        return await self._transport.run(
            consumer_requests.replay(
                name, event_ids, everything=all, reason=reason, idempotency_key=idempotency_key
            )
        )

    async def drop(
        self,
        name: str,
        event_ids: DeadLetters | None = None,
        *,
        all: bool = False,  # noqa: A002 - as the service calls it
        reason: str,
        idempotency_key: str | None = None,
    ) -> tuple[int, ...]:
        """Give dead letters up. Their events stay in the book; as ``replay``.

        >>> await cf.consumers.drop("scorer", 17, reason="The payment was a test.")
        (17,)
        """
        return await self._transport.run(
            consumer_requests.drop(
                name, event_ids, everything=all, reason=reason, idempotency_key=idempotency_key
            )
        )
