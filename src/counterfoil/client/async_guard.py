"""Decide on what you read. The asynchronous shell."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from counterfoil.client.async_transport import AsyncTransport
from counterfoil.client.guarding import GuardCore
from counterfoil.client.model import Condition, Event, NewEvent, Stored, StoredBatch, Texts


class AsyncGuard:
    """What was read, and the right to write if nothing that matters has been added since.

    Entering the block reads everything that matches, over all pages, as one snapshot.
    ``commit`` writes under the condition that no event matching the same query lies above
    ``head``. The block holds no lock and no transaction: leaving it without a commit costs
    nothing, and thinking long within it blocks nobody.

    >>> async with cf.guard(tags="transaction:tx_987", types="flag_transaction") as seen:
    ...     while not seen.events:
    ...         try:
    ...             await seen.commit(agent_name="approver", event_type="approved", payload=...)
    ...             break
    ...         except ConditionFailed:
    ...             await seen.refresh()  # Somebody was faster: look again, decide again.
    """

    def __init__(self, transport: AsyncTransport, core: GuardCore) -> None:
        self._transport = transport
        self._core = core

    def __repr__(self) -> str:
        return f"AsyncGuard({self._core})"

    @property
    def events(self) -> Sequence[Event]:
        """All events that match, oldest first.

        Raises:
            UsageError: nothing has been read; enter the guard with ``async with``.
        """
        return self._core.seen.events

    @property
    def head(self) -> int:
        """The book's last position in the snapshot that was read; raises as ``events``."""
        return self._core.seen.head

    @property
    def incarnation(self) -> str:
        """Which life of the book was read; raises as ``events``."""
        return self._core.seen.incarnation

    @property
    def condition(self) -> Condition:
        """What ``commit`` writes under, for a write that is made elsewhere; raises as ``events``.

        >>> await delivery.done(NewEvent(...), condition=seen.condition)
        """
        return self._core.condition

    async def __aenter__(self) -> Self:
        await self.refresh()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Do nothing: there is nothing to give back."""

    async def refresh(self) -> None:
        """Read everything again; what is committed next rests on this read.

        >>> await seen.refresh()

        Raises:
            GuardTooLarge: more events match than the guard may read.
        """
        reading = self._core.start()
        while (ask := reading.next_ask()) is not None:
            reading.take(await self._transport.run(ask))
        self._core.finish(reading)

    async def commit(
        self,
        *,
        agent_name: str,
        event_type: str,
        payload: Mapping[str, Any],
        tags: Texts = (),
        occurred_at: datetime | str | None = None,
        caused_by: Collection[int | Event] = (),
        context: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> Stored:
        """Append one event, if nothing that matches was written after what was read.

        The arguments are those of ``events.append``. What the decision rests on is not
        recorded by itself; say it with ``caused_by``.

        >>> await seen.commit(
        ...     agent_name="approver",
        ...     event_type="approved",
        ...     payload={"transaction_id": "tx_987"},
        ...     caused_by=seen.events[-3:],
        ... )

        Raises:
            ConditionFailed: something was; nothing is written. ``refresh``, decide again.
            BookRestored: the book was restored since; ``refresh``, decide again.
            OutcomeUnknown: commit the same again with the error's ``idempotency_key``. Until
                that is settled, the guard takes no other key.
            UsageError: the guard was committed already, or has to be read again first.
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
        ask = self._core.commit(event, idempotency_key)
        with self._core.sending(ask):
            return await self._transport.run(ask)

    async def commit_batch(
        self, events: Collection[NewEvent], *, idempotency_key: str | None = None
    ) -> StoredBatch:
        """Append several events, all or none, under the guard's condition; as ``commit``.

        >>> await seen.commit_batch([NewEvent(...), NewEvent(...)])
        """
        ask = self._core.commit_batch(events, idempotency_key)
        with self._core.sending(ask):
            return await self._transport.run(ask)
