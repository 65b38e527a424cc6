"""``cf.events``: writing and reading the book. The blocking shell."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import Any

from counterfoil.client import requests
from counterfoil.client.errors import APIError
from counterfoil.client.following import Following
from counterfoil.client.model import (
    Condition,
    Event,
    NewEvent,
    Page,
    Query,
    Stored,
    StoredBatch,
    Texts,
)
from counterfoil.client.requests import PAGE_EVENTS_DEFAULT, Listing, Order
from counterfoil.client.sync_reading import EventIterator, Follower
from counterfoil.client.sync_transport import SyncTransport


class Events:
    """The calls about events; reached as ``events`` of a client."""

    def __init__(self, transport: SyncTransport) -> None:
        self._transport = transport

    def append(
        self,
        *,
        agent_name: str,
        event_type: str,
        payload: Mapping[str, Any],
        tags: Texts = (),
        occurred_at: datetime | str | None = None,
        caused_by: Collection[int | Event] = (),
        context: Mapping[str, Any] | None = None,
        condition: Condition | None = None,
        idempotency_key: str | None = None,
    ) -> Stored:
        """Append one event. When this returns, it is written and flushed.

        >>> cf.events.append(
        ...     agent_name="fraud_agent",
        ...     event_type="flag_transaction",
        ...     payload={"transaction_id": "tx_987", "reason": "velocity_threshold_exceeded"},
        ... )
        Stored(id=1, created_at=datetime.datetime(…), replayed=False)

        Args:
            agent_name: who writes; 1 to 128 characters.
            event_type: what kind of fact it is; 1 to 128 characters.
            payload: the fact, up to 256 KiB of JSON. Amounts may be ``Decimal``; they keep
                their digits. NaN and infinities are refused.
            tags: ``kind:value``, what it is about. Top-level payload fields named ``…_id``
                give theirs by themselves.
            occurred_at: when it happened, if that is known: a datetime with a time zone, or
                RFC 3339.
            caused_by: the earlier events that it rests on, or their ids; at most 100.
            context: what produced it (model, prompt and tool versions, run id); 4 KiB.
            condition: write only under this condition; see also ``guard``.
            idempotency_key: stands for this one logical write. Made anew for each call when
                it is not given, and sent with every retry of the call. Give your own
                (such as the id of the message you are working on) to make a write survive a
                restart of your process too.

        Raises:
            ConditionFailed: something that matches the condition was written in between.
            InvalidRequestError: the event breaks a rule; ``errors`` says which.
            IdempotencyMismatch: the key was used for other content.
            BookRestored: the condition comes from before the book was restored.
            OutcomeUnknown: it may be written or not; append again with the error's key.
            UnsendableValue: the payload cannot be written as JSON; nothing was sent.
            APIError: any other failure; nothing was written.
        """
        event = NewEvent(
            agent_name=agent_name,
            event_type=event_type,
            payload=payload,
            tags=tags,
            occurred_at=occurred_at,
            caused_by=caused_by,
            context=context,
        )
        return self._transport.run(requests.append(event, condition, idempotency_key))

    def append_batch(
        self,
        events: Collection[NewEvent],
        *,
        condition: Condition | None = None,
        idempotency_key: str | None = None,
    ) -> StoredBatch:
        """Append up to 1,000 events at consecutive positions: all of them, or none.

        >>> cf.events.append_batch([NewEvent(...), NewEvent(...)]).ids
        (1, 2)

        Raises:
            CounterfoilError: as ``append``; pointers begin with ``/events/<index>``.
        """
        return self._transport.run(requests.append_batch(events, condition, idempotency_key))

    def append_lines(
        self,
        lines: Collection[bytes],
        *,
        condition: Condition | None = None,
        idempotency_key: str | None = None,
    ) -> StoredBatch:
        """Append a batch whose events are JSON already, one a line, byte for byte.

        Nothing of them is read and written anew, so it is the cheapest way to send many, and
        no digit can change on the way. Each line must be exactly one JSON object; a line feed
        at its end is passed over.

        >>> with open("events.ndjson", "rb") as file:
        ...     cf.events.append_lines(list(islice(file, 1_000)))

        Raises:
            UnsendableValue: a line is something else than one JSON object; ``pointer`` is
                ``/events/<index>``.
            CounterfoilError: as ``append_batch``.
        """
        return self._transport.run(requests.append_lines(lines, condition, idempotency_key))

    def list(
        self,
        *,
        tags: Texts = (),
        types: Texts = (),
        agents: Texts = (),
        payload: Mapping[str, Any] | None = None,
        after: int | None = None,
        before: int | None = None,
        up_to: int | None = None,
        order: Order = "asc",
        limit: int = PAGE_EVENTS_DEFAULT,
    ) -> EventIterator:
        """Iterate over the events that match, through all pages, as of one head.

        Nothing is read before the iteration begins; each page is read when it is needed.

        >>> for event in cf.events.list(tags="customer:cust_123", order="desc"):
        ...     print(event.id, event.event_type)

        Args:
            tags: those that the event must all bear.
            types, agents: any of these event types; any of these agents.
            payload: an object that the event's payload must contain.
            after, before: only positions above ``after``, only below ``before``.
            up_to: the book as it stood when its head was this.
            order: ``"asc"``, oldest first, or ``"desc"``.
            limit: events of one *page*, up to 1,000; the iteration goes through all pages.

        Raises:
            APIError: while iterating, when a page cannot be had.
        """
        listing = Listing(
            tags=tags,
            types=types,
            agents=agents,
            payload=payload,
            after=after,
            before=before,
            up_to=up_to,
            order=order,
            limit=limit,
        )
        return EventIterator(self._transport, listing)

    def query(
        self,
        items: Query,
        *,
        payload: Mapping[str, Any] | None = None,
        after: int | None = None,
        before: int | None = None,
        up_to: int | None = None,
        order: Order = "asc",
        limit: int = PAGE_EVENTS_DEFAULT,
    ) -> EventIterator:
        """Iterate over the events that match any of several query items; else as ``list``.

        >>> flags = QueryItem(types="flag_transaction", tags="transaction:tx_987")
        >>> holds = QueryItem(types="account_held", tags="customer:cust_123")
        >>> for event in cf.events.query([flags, holds]):
        ...     print(event.id, event.event_type)
        """
        listing = Listing(
            query=items,
            payload=payload,
            after=after,
            before=before,
            up_to=up_to,
            order=order,
            limit=limit,
        )
        return EventIterator(self._transport, listing)

    def get(self, event_id: int) -> Event:
        """Return one event by its id, which is its position in the book.

        >>> cf.events.get(1).agent_name
        'fraud_agent'

        Raises:
            NotFoundError: the book has not come so far.
        """
        return self._transport.run(requests.get(event_id))

    def latest(self, agent_name: str, *, limit: int = 20, before: int | None = None) -> Page:
        """Return an agent's latest events, newest first: one page, with its head.

        The page may be shorter than ``limit`` when its events are very large; ``has_more``
        says that there are others, and ``before`` leads to them.

        >>> for event in cf.events.latest("fraud_agent"):
        ...     print(event.id, event.payload)
        """
        return self._transport.run(requests.latest(agent_name, limit, before))

    def follow(
        self,
        *,
        tags: Texts = (),
        types: Texts = (),
        agents: Texts = (),
        payload: Mapping[str, Any] | None = None,
        after: int | None = None,
        last_event_id: str | None = None,
        max_reconnects: int | None = None,
        on_reconnect: Callable[[APIError | None], None] | None = None,
    ) -> Follower:
        """Follow the book live: what is there after ``after``, then what comes.

        The filters are those of ``list``. A lost connection is made anew, from where it
        was, with growing waits; nothing is missed or given twice.

        >>> with cf.events.follow(types="flag_transaction", after=0) as flags:
        ...     for flag in flags:
        ...         print(flag.id, flag.payload)

        Args:
            after: begin after this position; 0: with the first event of the book. Without
                it, and without ``last_event_id``: with what comes from now on.
            last_event_id: begin where a follower stood, whose ``last_event_id`` was kept.
            max_reconnects: give up after so many failed reconnections in a row; never, if
                it is not given. (The first connection is tried as often as any call.)
            on_reconnect: called with the reason when the connection is lost and will be made
                anew, and with ``None`` when it stands again. It must not block.

        Raises:
            BookRestored: while iterating; positions mean something else now.
            APIError: while iterating, when the service refuses or cannot be had.
        """
        following = Following(
            requests.filter_parameters(tags, types, agents, payload),
            after=after,
            last_event_id=last_event_id,
            max_reconnects=max_reconnects,
            policy=self._transport.settings.policy,
            on_reconnect=on_reconnect,
        )
        return Follower(self._transport, following)
