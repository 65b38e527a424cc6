"""One process's handing out, in this one: for what cannot be seen over HTTP.

Who is parked, what a lane has in the database, how many calls went there. The database is a real
one, and so is everything between it and the test; ``CountingStore`` only counts on the way.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, LiteralString

import psycopg
from typing_extensions import override

from counterfoil.server.consumers.calls import Call
from counterfoil.server.consumers.handing_out import HandingOut
from counterfoil.server.consumers.lane import Lane, Outcome
from counterfoil.server.consumers.model import (
    Claim,
    Extend,
    NewConsumer,
    Release,
    judge_ack,
)
from counterfoil.server.consumers.store import Consumed, ConsumerStore
from counterfoil.server.core.settings import Settings
from counterfoil.server.db.pool import Connection
from counterfoil.server.log.operations import Log
from tests.support.appends import Json, append_request, note
from tests.support.gates import DEFAULT_TENANT
from tests.support.waiting import ARRIVAL_SECONDS_MAX, eventually

PRINCIPAL = "agent:a"

_LISTENERS: LiteralString = """
    select count(*)::integer from pg_stat_activity a join pg_locks l on l.pid = a.pid
    where a.datname = current_database() and a.application_name = 'counterfoil doorbell'
      and l.locktype = 'advisory' and l.mode = 'ShareLock' and l.granted
"""


class CountingStore(ConsumerStore):
    """The store, which counts the calls of its groups."""

    def __init__(self, store: ConsumerStore) -> None:
        super().__init__(store._reader, prepare=store._prepare)
        self.calls: list[int] = []
        """How many requests each group had."""
        self.fault: Exception | None = None
        """What the next group comes to, where the test wants that."""

    @override
    async def consume(
        self,
        connection: Connection,
        tenant_id: int,
        name: str,
        requests: Sequence[Call],
        *,
        look_for_due: bool,
    ) -> Consumed:
        self.calls.append(len(requests))
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault
        return await super().consume(
            connection, tenant_id, name, requests, look_for_due=look_for_due
        )


class Process:
    """A process of the service without its HTTP: claims, acknowledges, appends."""

    def __init__(self, url: str, log: Log, handing_out: HandingOut) -> None:
        self.url = url
        self.log = log
        self.handing_out = handing_out
        self.lanes = handing_out._lanes
        self.store = self.lanes._store = CountingStore(self.lanes._store)

    async def put(self, name: str = "scorer", **asked: Any) -> Json:
        """Make a consumer, or change it."""
        body = NewConsumer.model_validate({"query": [{"types": ["noted"]}], **asked})
        made = await self.handing_out.consumers.put(
            DEFAULT_TENANT, name, body, by=PRINCIPAL, key=None
        )
        return {"text": made.text, "created": made.created}

    async def note(self, count: int = 1, *tags: str, **payload: object) -> list[int]:
        """Append events that the consumers match."""
        return [
            (
                await self.log.append(
                    DEFAULT_TENANT, append_request(note(**payload) | {"tags": list(tags)})
                )
            ).first_position
            for _ in range(count)
        ]

    async def say(self, event_type: str) -> None:
        """Append an event of this type."""
        await self.log.append(DEFAULT_TENANT, append_request(note() | {"event_type": event_type}))

    async def claim(
        self,
        name: str = "scorer",
        *,
        key: str | None = None,
        principal: str = PRINCIPAL,
        tenant_id: int = DEFAULT_TENANT,
        left: Callable[[], bool] = lambda: False,
        **asked: Any,
    ) -> list[str]:
        """The tokens of what is handed out."""
        outcome = await self.handing_out.work.claim(
            tenant_id,
            name,
            Claim.model_validate({"holder": "h", **asked}),
            principal=principal,
            key=key,
            left=left,
        )
        return tokens(outcome)

    async def ack(self, *held: str, name: str = "scorer") -> None:
        """Acknowledge without an outcome."""
        await self.handing_out.work.ack(DEFAULT_TENANT, name, held, principal=PRINCIPAL, key=None)

    async def hand_in(self, *held: str, name: str = "scorer", **event: Any) -> int:
        """Acknowledge with an outcome; its position."""
        body = {"tokens": list(held), "events": [note() | {"event_type": "outcome"} | event]}
        asked = judge_ack(
            json.dumps(body).encode(),
            consumer=name,
            principal=PRINCIPAL,
            key=None,
            traceparent=None,
        )
        assert asked.outcome is not None
        stored = await self.log.append(DEFAULT_TENANT, asked.outcome)
        self.handing_out.work.handed_in(DEFAULT_TENANT, name, len(held))
        return stored.first_position

    async def extend(self, *held: str, name: str = "scorer", **asked: Any) -> None:
        """Extend leases."""
        body = Extend.model_validate({"tokens": list(held), **asked})
        await self.handing_out.work.extend(DEFAULT_TENANT, name, body, principal=PRINCIPAL)

    async def release(self, *held: str, name: str = "scorer", **asked: Any) -> None:
        """Give back."""
        body = Release.model_validate({"tokens": list(held), **asked})
        await self.handing_out.work.release(
            DEFAULT_TENANT, name, body, principal=PRINCIPAL, key=None
        )

    def lane(self, name: str = "scorer") -> Lane:
        """The lane of a consumer, which must be there."""
        return self.lanes._lanes[DEFAULT_TENANT, name]

    async def parked(self, count: int = 1, name: str = "scorer") -> None:
        """Wait until so many claims are parked, watched over, and nothing else is to be done."""

        async def look() -> bool:
            lane = self.lanes._lanes.get((DEFAULT_TENANT, name))
            return (
                lane is not None
                and len(lane.parked) == count
                and lane.watch is not None
                and lane.driver is None
                and not lane.has_work
            )

        await eventually(look, f"{count} parked claims", ARRIVAL_SECONDS_MAX)

    async def listening(self, processes: int = 1) -> None:
        """Wait until so many processes hear each other's doorbells: what rings before is lost."""

        async def look() -> bool:
            async with await psycopg.AsyncConnection.connect(self.url) as connection:
                cursor = await connection.execute(_LISTENERS)
                return await cursor.fetchone() == (processes,)

        await eventually(look, f"{processes} doorbells to be heard", ARRIVAL_SECONDS_MAX)


def tokens(outcome: Outcome) -> list[str]:
    """The tokens of what was handed out."""
    return (
        [] if outcome.handed_out is None else [token.text for token in outcome.handed_out.tokens()]
    )


@asynccontextmanager
async def running_process(url: str) -> AsyncIterator[Process]:
    """Run one while the block does."""
    settings = Settings.from_environment(database_url=url)
    log = await Log.open(settings)
    handing_out = HandingOut(log, settings)
    await handing_out.open()
    try:
        yield Process(url, log, handing_out)
    finally:
        log.closing()
        async with asyncio.timeout(20):
            await handing_out.close()
            await log.close()
