"""The door of consumers to the database: the only caller of its SQL."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from counterfoil.server.consumers.calls import Call, Token
from counterfoil.server.core import limits
from counterfoil.server.core.document import encode
from counterfoil.server.db.pool import Connection
from counterfoil.server.db.reading import Reader, there
from counterfoil.server.db.statement import Row, statements_of

_STATEMENTS: Final = statements_of("counterfoil.server.consumers")


class HandedOut(NamedTuple):
    """What was handed out to one request of a group: how many, and as JSON with commas between."""

    number: int
    text: str

    def tokens(self) -> list[Token]:
        """What its holder is to show for it."""
        return Token.all_of([one.token for one in _handed_out.decode(f"[{self.text}]")])


class Told(msgspec.Struct):
    """What a call of ``consume_v2`` says of its requests, and of the consumer."""

    status: str
    statuses: list[str | None] = []
    lost: dict[str, list[tuple[int, int, int]]] = {}
    lease_ends: dict[str, str] = {}
    changed_by: int = 0
    paused: bool = False
    behind: bool = False
    held_back: str | None = None
    next_due_seconds: float | None = None
    exhausted: bool = False
    unfinished: bool = False
    freed: bool = False
    frees: bool = True

    @property
    def stands(self) -> str:
        """How the consumer stands: running, paused or stalled."""
        if self.paused:
            return "paused"
        return "stalled" if self.held_back == "stalled" else "running"


class Consumed(NamedTuple):
    """What a group was answered: deliveries by request, and the rest."""

    handed_out: dict[int, HandedOut]
    told: Told


class Exhausted(NamedTuple):
    """A delivery that is to be set aside, and how its attempts ended."""

    generation: int
    position: int
    attempt: int
    history: list[dict[str, Any]]


class Reading(NamedTuple):
    """What a consumer reads: its query as JSON, and the event that made or changed it last."""

    query: str
    changed_by: int


class _Delivery(msgspec.Struct):
    token: str


_handed_out: Final = msgspec.json.Decoder(list[_Delivery])
_told: Final = msgspec.json.Decoder(Told)
_history: Final = msgspec.json.Decoder(list[dict[str, Any]])


class ConsumerStore:
    """Reads through the process's pool; groups go through connections that their lanes hold."""

    def __init__(self, reader: Reader, *, prepare: bool) -> None:
        self._reader = reader
        self._prepare = prepare

    async def consume(
        self,
        connection: Connection,
        tenant_id: int,
        name: str,
        requests: Sequence[Call],
        *,
        look_for_due: bool,
    ) -> Consumed:
        """Run a group of requests about one consumer; when this returns, it is committed.

        Args:
            connection: an autocommit connection that nobody else uses.

        Raises:
            psycopg.Error: nothing was done if the connection still stands; if it does not,
                nobody knows.
        """
        tokens = [token for request in requests for token in request.tokens]
        generations, positions, attempts = zip(*tokens, strict=True) if tokens else ((), (), ())
        rows = await _STATEMENTS["consume"].run(
            connection,
            {
                "tenant_id": tenant_id,
                "name": name,
                "calls": [request.what for request in requests],
                "principals": [request.principal for request in requests],
                "named": [len(request.tokens) for request in requests],
                "holders": [request.holder for request in requests],
                "counts": [request.takes for request in requests],
                "token_requests": [
                    nth for nth, request in enumerate(requests, 1) for _ in request.tokens
                ],
                "generations": generations,
                "positions": positions,
                "attempts": attempts,
                "more": encode([request.more for request in requests]).decode()
                if any(request.more for request in requests)
                else None,
                "look_for_due": look_for_due,
                "lock_wait_milliseconds": limits.LOCK_WAIT_MILLISECONDS_MAX,
            },
            prepare=self._prepare,
            tenant_id=tenant_id,
        )
        handed_out: dict[int, HandedOut] = {}
        for row in rows[:-1]:
            request, number, text = map(there, row)
            handed_out[int(request)] = HandedOut(int(number), text)
        return Consumed(handed_out, _told.decode(there(rows[-1][2])))

    async def consumer(self, tenant_id: int, name: str) -> str | None:
        """How a consumer stands, as JSON; None if there is none.

        Raises:
            DatabaseUnavailable, ReadTooSlow: so do all reads here.
        """
        rows = await self._read("consumer", tenant_id, name=name)
        return there(rows[0][2]) if rows else None

    async def reading(self, tenant_id: int, name: str) -> Reading | None:
        """What a consumer reads; None if there is none."""
        rows = await self._read("consumer_query", tenant_id, name=name)
        return Reading(there(rows[0][0]), int(there(rows[0][1]))) if rows else None

    async def consumers(self, tenant_id: int, *, after: str, limit: int) -> list[tuple[str, str]]:
        """The names of consumers above ``after``, and how each stands."""
        rows = await self._read("consumers", tenant_id, after=after, limit=limit)
        return [(there(name), there(text)) for name, text in rows]

    async def with_work(self, tenant_id: int, names: Sequence[str]) -> list[str]:
        """Which of these consumers have something ready, or due."""
        rows = await self._read("with_work", tenant_id, names=",".join(names))
        return [there(name) for (name,) in rows]

    async def still_held(
        self, tenant_id: int, name: str, *, positions: Sequence[int], principal: str
    ) -> set[tuple[int, int]]:
        """Which of these deliveries a principal still holds, with the attempt."""
        rows = await self._read(
            "still_held", tenant_id, name=name, positions=positions, principal=principal
        )
        return {(int(there(position)), int(there(attempt))) for position, attempt in rows}

    async def exhausted(self, tenant_id: int, name: str, *, limit: int) -> list[Exhausted]:
        """What is to be set aside."""
        rows = await self._read("exhausted", tenant_id, name=name, limit=limit)
        return [_exhausted(row) for row in rows]

    async def histories(
        self, tenant_id: int, name: str, *, positions: Sequence[int], principal: str
    ) -> dict[int, tuple[str, str, list[dict[str, Any]]]]:
        """Of deliveries that a principal holds: its holder, since when, and earlier attempts."""
        rows = await self._read(
            "histories", tenant_id, name=name, positions=positions, principal=principal
        )
        return {
            int(there(position)): (there(holder), there(since), _history.decode(there(history)))
            for position, holder, since, history in rows
        }

    async def dead_letters(
        self, tenant_id: int, name: str, *, after: int, up_to: int, limit: int
    ) -> list[tuple[int, str]]:
        """The dead letters of events in ``after < id <= up_to``, as JSON."""
        rows = await self._read(
            "dead_letters", tenant_id, name=name, after=after, up_to=up_to, limit=limit
        )
        return [(int(there(position)), there(text)) for position, text in rows]

    async def in_need(self) -> list[tuple[int, str | None]]:
        """Consumers of all tenants to look after; None for what a tenant has to be cleared of."""
        rows = await self._reader.read(_STATEMENTS["in_need"], {}, tenant_id=None)
        return [(int(there(tenant_id)), name) for tenant_id, name in rows]

    async def states(self, *, limit: int) -> list[tuple[str, str]]:
        """How consumers of all tenants stand: the tenant's name, and the state as JSON."""
        rows = await self._reader.read(_STATEMENTS["states"], {"limit": limit}, tenant_id=None)
        return [(there(tenant), there(state)) for tenant, state in rows]

    async def clear(self, tenant_id: int) -> int:
        """Clear away some of what a tenant's consumers have left over; returns how much."""
        rows = await self._reader.read(
            _STATEMENTS["clear"], {"rows_max": limits.UPKEEP_ROWS_MAX}, tenant_id=tenant_id
        )
        return int(there(rows[0][0]))

    async def _read(self, statement: str, tenant_id: int, **parameters: Any) -> list[Row]:
        return await self._reader.read(
            _STATEMENTS[statement], {"tenant_id": tenant_id, **parameters}, tenant_id=tenant_id
        )


def _exhausted(row: Row) -> Exhausted:
    generation, position, attempt, history = map(there, row)
    return Exhausted(int(generation), int(position), int(attempt), _history.decode(history))
