"""Gates: how a race is held still, looked at, and let go.

The product has no hooks for its tests, and needs none. Every append must lock its book's
row, so whoever holds that row holds all appends at a known point: behind everything that
is done before the lock, in front of everything that is done under it. PostgreSQL tells
who waits for whom. So a race is not provoked and hoped for, but built::

    async with book.held() as gate:            # nobody gets past the lock
        one = start(...)
        await book.waiting(1)                  # it is there: seen, not guessed
        two = start(...)
        await book.waiting(2)                  # behind the first, in this order
        await gate.open()

Appends wait for the lock for LOCK_WAIT_MILLISECONDS_MAX (2 s) and no longer, so a gate is
opened as soon as everybody has arrived.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, LiteralString, NamedTuple

import psycopg
from psycopg import AsyncConnection, sql

from counterfoil.server.core import limits
from counterfoil.server.db.pool import SERVICE_ROLE
from counterfoil.server.log import store
from counterfoil.server.log.model import AppendRequest
from counterfoil.server.log.store import AppendResult, GroupResult
from tests.support.waiting import ARRIVAL_SECONDS_MAX, WAIT_SECONDS_MAX, eventually

DEFAULT_TENANT = 1


class Waiting(NamedTuple):
    """A session that waits for a lock, and the sessions that it waits for."""

    pid: int
    application_name: str
    blocked_by: list[int]


class Gate:
    """A session that holds something in an open transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    @property
    def pid(self) -> int:
        """The server process of this session, as ``Waiting.blocked_by`` names it."""
        return self._connection.info.backend_pid

    async def open(self) -> None:
        """Let everybody through."""
        await self._connection.commit()


class Session(Gate):
    """A session that appends as the service does: its own statement, under its own role.

    A transaction begins with the first statement, and what was appended stays uncommitted,
    and the book locked, until ``commit``.
    """

    async def append(
        self,
        *requests: AppendRequest,
        tenant_id: int = DEFAULT_TENANT,
        lock_wait_milliseconds: int = limits.LOCK_WAIT_MILLISECONDS_MAX,
    ) -> list[AppendResult]:
        """Run these requests as one group, and return their answers."""
        group = await self.append_group(
            *requests, tenant_id=tenant_id, lock_wait_milliseconds=lock_wait_milliseconds
        )
        return group.requests

    async def store(self, request: AppendRequest) -> int:
        """Append one request, which must not be refused; the position of its first event."""
        (result,) = await self.append(request)
        assert result.status == "stored", result
        assert result.first_position is not None
        return result.first_position

    async def append_group(
        self,
        *requests: AppendRequest,
        tenant_id: int = DEFAULT_TENANT,
        lock_wait_milliseconds: int = limits.LOCK_WAIT_MILLISECONDS_MAX,
    ) -> GroupResult:
        """Run these requests as one group."""
        await self._connection.execute(
            "select set_config('counterfoil.tenant_id', %s, true)", [str(tenant_id)]
        )
        documents = b"[" + b",".join(request.document for request in requests) + b"]"
        cursor = await self._connection.execute(
            store._SQL["append"],
            {
                "tenant_id": tenant_id,
                "requests": documents.decode(),
                "lock_wait_milliseconds": lock_wait_milliseconds,
            },
        )
        answered = cursor.pgresult
        assert answered is not None
        values = [answered.get_value(0, column) for column in range(answered.nfields)]
        row = tuple([None if value is None else value.decode() for value in values])
        return store._group_result(row, [request.event_count for request in requests])

    async def execute(self, statement: LiteralString, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement in this session's transaction."""
        cursor = await self._connection.execute(statement, values or None)
        return await cursor.fetchall() if cursor.description else []

    async def commit(self) -> None:
        """End the transaction; what was appended is in the book."""
        await self._connection.commit()

    async def notified(self, payload: str) -> list[str]:
        """Wait for a notification with this payload, on a channel that is listened to.

        Returns the payloads of all that came until then, this one included.
        """
        heard: list[str] = []
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            async for notification in self._connection.notifies():
                heard.append(notification.payload)
                if notification.payload == payload:
                    break
        return heard


class Book:
    """A database's books as a superuser sees them, beside whoever works on them."""

    def __init__(self, url: str, observer: AsyncConnection) -> None:
        self.url = url
        self._observer = observer

    async def rows(self, statement: LiteralString, *values: object) -> list[tuple[Any, ...]]:
        """What a query answers, in a transaction of its own."""
        return await (await self._observer.execute(statement, values or None)).fetchall()

    async def value(self, statement: LiteralString, *values: object) -> Any:
        """The one value that a query answers."""
        ((value,),) = await self.rows(statement, *values)
        return value

    async def administer(self, statement: LiteralString, **literals: str) -> None:
        """Run a statement of an administrator's; ``{database}`` and ``{role}`` are this one's."""
        connection = self._observer.info
        names = {"database": connection.dbname, "role": connection.user}
        await self._observer.execute(
            sql.SQL(statement).format(
                **{name: sql.Identifier(value) for name, value in names.items()},
                **{name: sql.Literal(value) for name, value in literals.items()},
            )
        )

    async def head(self, tenant_id: int = DEFAULT_TENANT) -> int:
        """The book's last position."""
        return int(
            await self.value(
                "select coalesce(max(position), 0) from counterfoil.events where tenant_id = %s",
                tenant_id,
            )
        )

    async def waiting(self, count: int) -> list[Waiting]:
        """Wait until so many sessions of this database wait for a lock; the longest first.

        Locks of rows and of tables, that is. Doorbells wait for each other too, for a moment,
        behind no gate of ours.
        """

        async def look() -> list[Waiting] | None:
            found = await self.rows(
                "select a.pid, a.application_name, pg_blocking_pids(a.pid)"
                " from pg_stat_activity as a"
                " where a.datname = current_database() and a.wait_event_type = 'Lock'"
                " and a.wait_event in ('transactionid', 'tuple', 'relation')"
                " order by a.query_start"
            )
            return [Waiting(*row) for row in found] if len(found) == count else None

        return await eventually(look, f"{count} sessions to wait for a lock", ARRIVAL_SECONDS_MAX)

    @asynccontextmanager
    async def session(self, *, role: str | None = SERVICE_ROLE) -> AsyncIterator[Session]:
        """An independent session: as the service's role, or (None) as a superuser."""
        async with await psycopg.AsyncConnection.connect(
            self.url, application_name="test session"
        ) as connection:
            if role is not None:
                await connection.execute(sql.SQL("set role {}").format(sql.Identifier(role)))
                await connection.execute(
                    "select set_config('counterfoil.tenant_id', %s, false)", [str(DEFAULT_TENANT)]
                )
                await connection.commit()
            try:
                yield Session(connection)
            finally:
                await connection.rollback()

    @asynccontextmanager
    async def held(self, tenant_id: int = DEFAULT_TENANT) -> AsyncIterator[Gate]:
        """Hold a book's row while the block runs, or until the gate is opened."""
        async with self.session(role=None) as session:
            await session.execute(
                "select from counterfoil.books where tenant_id = %s for no key update", tenant_id
            )
            yield session


@asynccontextmanager
async def opened_book(url: str) -> AsyncIterator[Book]:
    """Look at the books of the database at ``url``, which has to be a superuser's."""
    async with await psycopg.AsyncConnection.connect(
        url, autocommit=True, application_name="test observer"
    ) as observer:
        yield Book(url, observer)
