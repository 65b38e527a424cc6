"""The log's door to the database: the only caller of its SQL.

Everything here speaks in positions, texts and results; no cursor and no row leaves it.
Event texts are PostgreSQL's own JSON, passed on as they came.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, cast

import psycopg
from psycopg.pq import TransactionStatus

from counterfoil.server.core import limits
from counterfoil.server.core.errors import (
    DatabaseUnavailable,
    InvariantBroken,
    ReadTooSlow,
    invariant,
)
from counterfoil.server.db import sqlfile
from counterfoil.server.db.pool import Connection, Pool

AppendStatus = Literal[
    "stored",
    "replayed",
    "key_reused",
    "payload_too_large",
    "book_restored",
    "after_above_head",
    "condition_failed",
    "unknown_cause",
]

_SQL: Final = sqlfile.load("counterfoil.server.log", "queries.sql")

_UNREACHABLE: Final = "The database cannot be reached at the moment."


class AppendResult(NamedTuple):
    """What ``append_v1`` answered to one request of a group; see its type in the schema."""

    status: AppendStatus
    first_position: int
    event_count: int
    created_at: str
    head: int
    detail: list[int] | None
    clock_ahead_seconds: float


class Head(NamedTuple):
    """Where a book stands: its incarnation and its last position (0: empty)."""

    incarnation: str
    position: int


@dataclass(frozen=True, slots=True)
class Shown:
    """What one read saw: the head of its snapshot, and the events with their positions.

    ``found`` counts what matched, up to the limit asked for; more than are shown where
    they did not fit into the bytes allowed.
    """

    incarnation: str
    head: int
    positions: tuple[int, ...]
    texts: tuple[str, ...]
    found: int


class FedEvent(NamedTuple):
    """An event for live readers: what filters ask of it, and its text."""

    position: int
    agent_name: str
    event_type: str
    tags: list[str]
    text: str


@dataclass(frozen=True, slots=True)
class DatabaseState:
    """What readiness asks of the database."""

    fsync: bool
    full_page_writes: bool
    writable: bool
    schema_version: int


class Store:
    """Reads through a pool, and appends through connections that the writer holds."""

    def __init__(self, reads: Pool) -> None:
        self._reads = reads

    async def append(
        self, connection: Connection, tenant_id: int, documents: Sequence[bytes]
    ) -> list[AppendResult]:
        """Run one group of appends of one tenant; when this returns, it is committed.

        Args:
            connection: an autocommit connection that nobody else uses.
            documents: one JSON object for each request, as ``log/model.py`` writes it.

        Raises:
            psycopg.Error: nothing was stored if the connection still stands; if it does
                not, nobody knows.
        """
        cursor = await connection.execute(
            _SQL["append"],
            {
                "tenant_id": tenant_id,
                "requests": (b"[" + b",".join(documents) + b"]").decode(),
                "lock_wait_milliseconds": limits.LOCK_WAIT_MILLISECONDS_MAX,
            },
        )
        rows = await cursor.fetchall()
        # The statement is its own transaction: an idle connection has committed it.
        if connection.info.transaction_status != TransactionStatus.IDLE:
            raise psycopg.OperationalError("the connection did not come to rest after the commit")
        invariant(len(rows) == len(documents), "append_v1 answers every request of a group")
        return [
            AppendResult(*cast("tuple[AppendStatus, int, int, str, int, list[int], float]", row))
            for row in rows
        ]

    async def head(self, tenant_id: int) -> Head:
        """Where the book stands."""
        rows = await self._read("head", {"tenant_id": tenant_id})
        return Head(*cast("tuple[str, int]", _only(rows)))

    async def page(
        self,
        tenant_id: int,
        *,
        query: str | None,
        payload: str | None,
        after: int,
        up_to: int,
        limit: int,
        bytes_max: int,
        newest_first: bool,
    ) -> Shown:
        """What matches in ``after < position <= up_to``, at most ``limit`` from one end.

        Args:
            bytes_max: after so many bytes of text no further event is shown.
            query: a query's items as JSON; None matches every event.
            payload: a JSON object that the payload must contain, or None.
        """
        rows = await self._read(
            "page",
            {
                "tenant_id": tenant_id,
                "query": query,
                "payload": payload,
                "after": after,
                "up_to": up_to,
                "limit": limit,
                "bytes_max": bytes_max,
                "newest_first": newest_first,
            },
        )
        incarnation, head, *_ = cast("tuple[str, int]", _first(rows)[:2])
        found = [cast("tuple[str, int, int, str, int]", row) for row in rows if row[2] is not None]
        return Shown(
            incarnation=incarnation,
            head=head,
            positions=tuple(row[2] for row in found),
            texts=tuple(row[3] for row in found),
            found=found[0][4] if found else 0,
        )

    async def latest(
        self, tenant_id: int, agent_name: str, *, up_to: int, limit: int, bytes_max: int
    ) -> tuple[Head, tuple[str, ...], int]:
        """The last events of one agent at or below ``up_to``, newest first, in five fields.

        Returns the head, the texts, and how many events there were to show: more than the
        texts where those are ``bytes_max`` long.
        """
        rows = await self._read(
            "latest",
            {
                "tenant_id": tenant_id,
                "agent_name": agent_name,
                "up_to": up_to,
                "limit": limit,
                "bytes_max": bytes_max,
            },
        )
        head, texts = _head_and_texts(rows)
        return head, texts, cast("int", rows[0][3]) if texts else 0

    async def one(self, tenant_id: int, position: int) -> tuple[Head, tuple[str, ...]]:
        """The event at ``position``: one text or none."""
        rows = await self._read("one", {"tenant_id": tenant_id, "position": position})
        return _head_and_texts(rows)

    async def at_positions(self, tenant_id: int, positions: Sequence[int]) -> tuple[str, ...]:
        """The texts of the events at these positions, oldest first."""
        rows = await self._read(
            "at_positions", {"tenant_id": tenant_id, "positions": list(positions)}
        )
        return tuple(cast("str", text) for (text,) in rows)

    async def feed(
        self, tenant_id: int, *, after: int, up_to: int, limit: int, bytes_max: int
    ) -> list[FedEvent]:
        """The next events above ``after``, whatever they are, for the live readers."""
        rows = await self._read(
            "feed",
            {
                "tenant_id": tenant_id,
                "after": after,
                "up_to": up_to,
                "limit": limit,
                "bytes_max": bytes_max,
            },
        )
        return [FedEvent(*cast("tuple[int, str, str, list[str], str]", row)) for row in rows]

    async def ring(self, tenant_id: int, head: int) -> None:
        """Tell other processes that the book has grown to ``head``. It may get lost."""
        await self._read("ring", {"tenant_id": tenant_id, "head": head})

    async def state(self) -> DatabaseState:
        """What readiness asks."""
        rows = await self._read("readiness", {})
        return DatabaseState(*cast("tuple[bool, bool, bool, int]", _only(rows)))

    async def _read(self, name: str, parameters: Mapping[str, object]) -> list[tuple[object, ...]]:
        """Run one reading statement; again while its connection turns out to be dead.

        A restart of the database leaves up to a whole pool of dead connections behind, and
        a read can be repeated. What the server refuses itself is not.

        Raises:
            DatabaseUnavailable: the database cannot be reached, or does not answer.
            ReadTooSlow: the statement ran into its time limit.
        """
        for _ in range(self._reads.size_max + 1):
            async with self._reads.connection() as connection:
                try:
                    async with asyncio.timeout(limits.READ_SECONDS_MAX):
                        return await (await connection.execute(_SQL[name], parameters)).fetchall()
                except psycopg.errors.QueryCanceled as error:
                    raise ReadTooSlow(
                        "This read took too long in the database. Ask for fewer events, or by a tag."
                    ) from error
                except (psycopg.OperationalError, TimeoutError) as error:
                    if isinstance(error, TimeoutError) or not connection.closed:
                        raise DatabaseUnavailable(_UNREACHABLE) from error
        raise DatabaseUnavailable(_UNREACHABLE)


async def listen(connection: Connection) -> None:
    """Make ``connection`` hear what ``Store.ring`` tells; it must be a direct one."""
    await connection.execute(_SQL["listen"])


def recover(url: str) -> list[tuple[str, str, str]]:
    """Give every book of a restored database a new incarnation.

    Returns name, old incarnation and new incarnation of each. ``url`` must be the
    owner's; see ``operations.recover``.
    """
    with psycopg.connect(
        url, autocommit=True, application_name="counterfoil recover"
    ) as connection:
        rows = connection.execute(_SQL["recover"]).fetchall()
        return [cast("tuple[str, str, str]", row) for row in rows]


def _first(rows: Sequence[tuple[object, ...]]) -> tuple[object, ...]:
    if not rows:
        raise InvariantBroken("there is no book for this tenant")
    return rows[0]


def _only(rows: Sequence[tuple[object, ...]]) -> tuple[object, ...]:
    invariant(len(rows) <= 1, "the statement answers one row")
    return _first(rows)


def _head_and_texts(
    rows: Sequence[tuple[object, ...]],
) -> tuple[Head, tuple[str, ...]]:
    incarnation, head = cast("tuple[str, int]", _first(rows)[:2])
    texts = tuple(cast("str", row[2]) for row in rows if row[2] is not None)
    return Head(incarnation, head), texts
