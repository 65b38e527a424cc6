"""Who follows the log for claims that wait, and who does not: it costs each append a look."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from counterfoil.server.consumers import watching
from counterfoil.server.core import limits
from counterfoil.server.core.errors import OutcomeUnknown
from tests.support.cluster import Database
from tests.support.gates import DEFAULT_TENANT, Book, opened_book
from tests.support.holding import Process, running_process
from tests.support.starting import Start
from tests.support.waiting import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.promise("P8")]

AT_ONCE = 2.5
"""Seconds: far below the five after which upkeep looks after everything."""


@pytest.fixture
async def here(database: Database) -> AsyncIterator[Process]:
    async with running_process(database.url) as process:
        yield process


@pytest.fixture
async def book(database: Database) -> AsyncIterator[Book]:
    async with opened_book(database.url) as opened:
        yield opened


@pytest.mark.promise("P13")
async def test_a_consumer_whose_claims_wait_for_nothing_follows_nothing(
    here: Process, start: Start[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "UNPARKED_SECONDS", 0.1)
    monkeypatch.setattr(limits, "PARKED_LOOK_SECONDS", 0.05)
    await here.put()
    for _ in range(2):
        waiting = start(here.claim(wait_seconds=20))
        await here.parked()
        lane = here.lane()
        watch = lane.watch
        assert watch is not None
        await here.note()
        async with asyncio.timeout(AT_ONCE):
            assert len(await waiting) == 1

        async def let_go(lane: Any = lane) -> bool:
            return lane.watch is None

        await eventually(let_go, "the watch to be let go")
        assert watch.ended, "nobody else reads this book"
        assert here.lane() is lane, "it is busy still"


async def test_claims_that_wait_for_what_another_puts_out_come_back_though_one_of_them_fails(
    here: Process, book: Book, start: Start[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A timer brings them back, and not the log: each time that it rings, only once."""
    monkeypatch.setattr(limits, "CLAIM_GROUP_REQUESTS_MAX", 1)
    await here.put()
    await here.note()
    async with book.session(role=None) as gate:
        await gate.execute("select from counterfoil.consumer_progress for update")
        claims = [start(here.claim(wait_seconds=20)) for _ in "12"]

        async def behind() -> bool:
            lane = next(iter(here.lanes._lanes.values()), None)
            return lane is not None and len(lane.parked) == len(claims) and lane.behind

        await eventually(behind, "the claims to be parked, because another is putting out")
        assert here.lane().watch is None
        here.store.fault = RuntimeError("a fault of ours")
        failed, waiting = await asyncio.wait(claims, return_when=asyncio.FIRST_COMPLETED)
        with pytest.raises(OutcomeUnknown):
            await failed.pop()
        await gate.open()
    async with asyncio.timeout(AT_ONCE):
        assert len(await waiting.pop()) == 1


async def test_the_watch_stays_while_claims_that_were_parked_are_tried_again(
    here: Process, book: Book, start: Start[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under load that takes long. A watch begun anew would try them once more, and so on."""
    await here.put()
    waiting = start(here.claim(wait_seconds=20))
    await here.parked()
    lane = here.lane()
    watch, called = lane.watch, len(here.store.calls)
    assert watch is not None
    monkeypatch.setattr(watching, "UNPARKED_SECONDS", -1.0)
    async with book.session(role=None) as gate:
        await gate.execute("lock table counterfoil.consumers")
        here.lanes.news(DEFAULT_TENANT, lane.name)
        await book.waiting(1)
        assert not lane.parked
        here.lanes._watching._look_after_lanes()
        assert lane.watch is watch
        await gate.open()
    await here.parked()
    assert lane.watch is watch
    assert len(here.store.calls) == called + 1
    await here.note()
    async with asyncio.timeout(AT_ONCE):
        assert len(await waiting) == 1
