"""The log's door to the database: the only caller of its SQL.

Everything here speaks in positions, texts and results; no cursor and no row leaves it.
Event texts are PostgreSQL's own JSON, passed on as they came.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, cast

import msgspec
import psycopg

from counterfoil.server.core import limits
from counterfoil.server.core.errors import invariant
from counterfoil.server.db import sqlfile
from counterfoil.server.db.pool import Connection, Pool
from counterfoil.server.db.reading import Reader, first, only, there
from counterfoil.server.db.statement import Parameter, Row, statements_of
from counterfoil.server.log.model import AppendRequest

AppendStatus = Literal[
    "stored",
    "replayed",
    "key_reused",
    "frozen",
    "rules_changed",
    "payload_too_large",
    "book_restored",
    "after_above_head",
    "condition_failed",
    "unknown_cause",
    "effect_refused",
    "lease_lost",
    "consumer_not_found",
    "row_busy",
]

_SQL: Final = sqlfile.load("counterfoil.server.log", "queries.sql")
_STATEMENTS: Final = statements_of("counterfoil.server.log")


class AppendResult(NamedTuple):
    """What ``append_v4`` answered to one request of a group.

    Attributes:
        first_position: of its events; None where it was refused.
        created_at: their time; None where it was refused.
        head: the book's last position as the request saw it (stored: its own last event).
        detail: condition_failed: the first positions in the way; payload_too_large: the
            index of the event; frozen: the freeze's id.
        reason: effect_refused: why, in one word.
        lease_ends: condition_failed: when the first of the leases ends that it was to hand in.
    """

    status: AppendStatus
    first_position: int | None
    event_count: int
    created_at: str | None
    head: int
    detail: list[int] | None
    reason: str | None = None
    lease_ends: str | None = None


class GroupResult(NamedTuple):
    """What ``append_v4`` answered to a group.

    Attributes:
        requests: the answers, in the order of the requests.
        head: the book's last position after the group.
        clock_ahead_seconds: how far the book's last time lay ahead of the server's clock.
        has_listeners: whether some process may be waiting to hear of the new head.
    """

    requests: list[AppendResult]
    head: int
    clock_ahead_seconds: float
    has_listeners: bool


class _Other(msgspec.Struct):
    """A request of a group that was not stored, as ``append_v4`` writes it."""

    request: int
    status: AppendStatus
    head: int
    detail: list[int] | None = None
    first_position: int | None = None
    created_at: str | None = None
    reason: str | None = None
    lease_ends: str | None = None


_others: Final = msgspec.json.Decoder(list[_Other])


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
        self._prepare = reads.prepare
        self._reader = Reader(reads)

    async def append(
        self, connection: Connection, tenant_id: int, requests: Sequence[AppendRequest]
    ) -> GroupResult:
        """Run one group of appends of one tenant; when this returns, it is committed.

        Args:
            connection: an autocommit connection that nobody else uses.

        Raises:
            psycopg.Error: nothing was stored if the connection still stands; if it does
                not, nobody knows.
        """
        documents = b",".join([request.document for request in requests])
        rows = await _STATEMENTS["append"].run(
            connection,
            {
                "tenant_id": tenant_id,
                "requests": f"[{documents.decode()}]",
                "lock_wait_milliseconds": limits.LOCK_WAIT_MILLISECONDS_MAX,
            },
            prepare=self._prepare,
            tenant_id=tenant_id,
        )
        return _group_result(only(rows), [request.event_count for request in requests])

    async def head(self, tenant_id: int) -> Head:
        """Where the book stands."""
        rows = await self._read("head", {"tenant_id": tenant_id}, tenant_id)
        return _head(only(rows))

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
            tenant_id,
        )
        head = _head(first(rows))
        shown = [row for row in rows if row[2] is not None]
        return Shown(
            incarnation=head.incarnation,
            head=head.position,
            positions=tuple(int(there(row[2])) for row in shown),
            texts=tuple(there(row[3]) for row in shown),
            found=int(there(shown[0][4])) if shown else 0,
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
            tenant_id,
        )
        head, texts = _head_and_texts(rows)
        return head, texts, int(there(rows[0][3])) if texts else 0

    async def one(self, tenant_id: int, position: int) -> tuple[Head, tuple[str, ...]]:
        """The event at ``position``: one text or none."""
        rows = await self._read("one", {"tenant_id": tenant_id, "position": position}, tenant_id)
        return _head_and_texts(rows)

    async def at_positions(self, tenant_id: int, positions: Sequence[int]) -> tuple[str, ...]:
        """The texts of the events at these positions, oldest first."""
        rows = await self._read(
            "at_positions", {"tenant_id": tenant_id, "positions": positions}, tenant_id
        )
        return tuple(there(text) for (text,) in rows)

    async def feed(
        self, tenant_id: int, *, after: int, limit: int, bytes_max: int, with_text: bool = True
    ) -> tuple[Head, list[FedEvent]]:
        """Where the book stands, and the next events above ``after``, for the live readers.

        The events come whatever they are, and without their texts where nobody needs them: these
        are most of the work. Fewer than ``limit`` where those are ``bytes_max`` long, or none is left.
        """
        rows = await self._read(
            "feed",
            {
                "tenant_id": tenant_id,
                "after": after,
                "limit": limit,
                "bytes_max": bytes_max,
                "with_text": with_text,
            },
            tenant_id,
        )
        fed: list[FedEvent] = []
        for row in rows:
            if row[2] is not None:
                position, agent_name, event_type, tags = map(there, row[2:6])
                fed.append(
                    FedEvent(
                        int(position), agent_name, event_type, _tags.decode(tags), row[6] or ""
                    )
                )
        return _head(first(rows)), fed

    async def ring(self, tenant_id: int, what: str) -> None:
        """Tell other processes what is new with a tenant. It may get lost."""
        await self._read("ring", {"tenant_id": tenant_id, "what": what}, None)

    async def state(self) -> DatabaseState:
        """What readiness asks."""
        rows = await self._read("readiness", {}, None)
        *states, version = map(there, only(rows))
        fsync, full_page_writes, writable = (state == "t" for state in states)
        return DatabaseState(fsync, full_page_writes, writable, int(version))

    async def _read(
        self, name: str, parameters: Mapping[str, Parameter], tenant_id: int | None
    ) -> list[Row]:
        return await self._reader.read(_STATEMENTS[name], parameters, tenant_id=tenant_id)


async def listen(connection: Connection) -> None:
    """Make ``connection`` hear what ``Store.ring`` tells, and say so to the writers.

    It must be a direct one: both belong to the session.
    """
    await connection.execute(_SQL["listen"])
    await connection.execute(_SQL["tell_of_listening"])


def recover(url: str) -> list[tuple[str, str, str]]:
    """Give every book of a restored database a new incarnation.

    Returns name, old incarnation and new incarnation of each. ``url`` must be the
    owner's; see ``operations.recover``.
    """
    with psycopg.connect(
        url, autocommit=True, application_name="counterfoil recover"
    ) as connection:
        with connection.transaction():
            connection.execute(_SQL["see_all_books"])
            rows = connection.execute(_SQL["recover"]).fetchall()
        return [cast("tuple[str, str, str]", row) for row in rows]


_tags: Final = msgspec.json.Decoder(list[str])


def _group_result(row: Row, event_counts: Sequence[int]) -> GroupResult:
    """The answer of every request: those that were stored follow one another."""
    first, created_at, head, ahead, has_listeners = map(there, row[:5])
    others = {} if row[5] is None else {other.request: other for other in _others.decode(row[5])}
    position = int(first)
    results: list[AppendResult] = []
    for nth, event_count in enumerate(event_counts):
        if (other := others.get(nth)) is not None:
            results.append(
                AppendResult(
                    *(other.status, other.first_position, event_count, other.created_at),
                    *(other.head, other.detail, other.reason, other.lease_ends),
                )
            )
        else:
            last = position + event_count - 1
            results.append(AppendResult("stored", position, event_count, created_at, last, None))
            position = last + 1
    invariant(position == int(head) + 1, "append_v4 stored what it says")
    return GroupResult(results, int(head), float(ahead), has_listeners == "t")


def _head(row: Row) -> Head:
    return Head(there(row[0]), int(there(row[1])))


def _head_and_texts(rows: Sequence[Row]) -> tuple[Head, tuple[str, ...]]:
    return _head(first(rows)), tuple(row[2] for row in rows if row[2] is not None)
