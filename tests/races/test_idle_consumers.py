"""Hundreds of consumers and thousands of claims that wait: they cost memory, and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from counterfoil.server.consumers.handing_out import CONNECTIONS_MAX
from tests.support.cluster import Database
from tests.support.gates import Book, opened_book
from tests.support.holding import Process, running_process
from tests.support.starting import Start
from tests.support.waiting import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.promise("P8")]

CONSUMERS = 500

CLAIMS = 8
"""Of each consumer."""

PARKED_SECONDS_MAX = 15.0
"""Together with the next one below the thirty for which a claim may wait."""

QUIET_SECONDS_MAX = 14.0

LOOKED_AT_SECONDS = 2

STATEMENTS_MAX = LOOKED_AT_SECONDS * 10
"""The feed of the one book looks four times a second, upkeep now and then."""


@pytest.fixture
async def process(database: Database) -> AsyncIterator[Process]:
    async with running_process(database.url) as running:
        yield running


@pytest.fixture
async def book(database: Database) -> AsyncIterator[Book]:
    async with opened_book(database.url) as opened:
        yield opened


async def statements(book: Book) -> int:
    """How many transactions this database has seen."""
    return int(
        await book.value(
            "select xact_commit + xact_rollback from pg_stat_database"
            " where datname = current_database()"
        )
    )


async def all_parked(process: Process, count: int) -> None:
    """Wait until so many claims are parked, and nobody does anything any more."""

    async def look() -> bool:
        lanes = process.lanes._lanes.values()
        quiet = all(lane.watch and not (lane.driver or lane.has_work) for lane in lanes)
        return quiet and sum(len(lane.parked) for lane in lanes) == count

    await eventually(look, f"{count} parked claims", PARKED_SECONDS_MAX)


async def test_consumers_with_nothing_to_do_hold_no_connection_and_ask_nothing(
    process: Process, book: Book, start: Start[Any]
) -> None:
    names = [f"c{nth}" for nth in range(CONSUMERS)]
    for some in range(0, CONSUMERS, 100):
        await asyncio.gather(
            *(
                process.put(name, query=[{"types": ["noted"], "tags": [f"of:{name}"]}])
                for name in names[some : some + 100]
            )
        )
    claims = {name: start(process.claim(name, wait_seconds=30)) for name in names}
    _others = [
        start(process.claim(name, wait_seconds=30)) for name in names for _ in range(CLAIMS - 1)
    ]
    await all_parked(process, CONSUMERS * CLAIMS)

    await process.put("clock", query=[{"types": ["never"]}])
    called = len(process.store.calls)

    async def silence() -> bool:
        # Sessions tell of their last transactions some seconds later.
        asked = await statements(book)
        assert await process.claim("clock", wait_seconds=LOOKED_AT_SECONDS) == []
        return await statements(book) - asked < STATEMENTS_MAX

    await eventually(silence, "the process to ask nothing", QUIET_SECONDS_MAX)
    assert len(process.store.calls) - called <= 2 * QUIET_SECONDS_MAX, "those of the clock"

    busy = await book.value(
        "select count(*) from pg_stat_activity where datname = current_database()"
        " and application_name = 'counterfoil consumers'"
    )
    assert busy <= CONNECTIONS_MAX

    called = len(process.store.calls)
    await process.note(1, "of:c77")
    async with asyncio.timeout(5):
        assert len(await claims["c77"]) == 1
    await all_parked(process, CONSUMERS * CLAIMS - 1)
    assert len(process.store.calls) - called <= 3, "nobody else was woken"


async def test_who_waits_for_what_others_hold_is_not_asked_about_at_every_append(
    process: Process, start: Start[Any]
) -> None:
    names = [f"c{nth}" for nth in range(100)]
    await asyncio.gather(*(process.put(name, order_by="customer") for name in names))
    await process.note(2, "customer:c")
    held = {name: await process.claim(name) for name in names}
    claims = {name: start(process.claim(name, wait_seconds=30)) for name in names}
    await all_parked(process, len(names))

    called = len(process.store.calls)
    for _ in range(50):
        await process.say("other")
    await process.put("clock", query=[{"types": ["never"]}])
    assert await process.claim("clock", wait_seconds=LOOKED_AT_SECONDS) == []
    assert len(process.store.calls) - called <= 4

    await process.hand_in(*held["c77"], name="c77")
    async with asyncio.timeout(5):
        assert len(await claims["c77"]) == 1
    assert sum(claim.done() for claim in claims.values()) == 1
