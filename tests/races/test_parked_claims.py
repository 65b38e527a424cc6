"""Claims that wait: what brings them back, in whichever process it happens, and what does not.

Two processes' handing out, both in this one (``tests/support/holding.py``), on one database.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from counterfoil.server.consumers import watching
from counterfoil.server.consumers.calls import call_of
from counterfoil.server.consumers.lane import Outcome, Waiting
from counterfoil.server.core import limits
from counterfoil.server.core.errors import Busy, ConsumerNotFound, OutcomeUnknown
from counterfoil.server.log.operations import Log
from tests.support.cluster import Database
from tests.support.gates import Book, Session, opened_book
from tests.support.holding import PRINCIPAL, Process, running_process
from tests.support.starting import Start
from tests.support.waiting import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.promise("P8")]

AT_ONCE = 2.5
"""Seconds: far below the five after which upkeep looks after everything."""

MANY = 3 * limits.CLAIM_GROUP_REQUESTS_MAX


@pytest.fixture(autouse=True)
def _no_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What wakes them is seen here, and not what would in the end if that did not."""
    monkeypatch.setattr(limits, "PARKED_LOOK_SECONDS", 300.0)


@pytest.fixture
async def here(database: Database) -> AsyncIterator[Process]:
    async with running_process(database.url) as process:
        yield process


@pytest.fixture
async def there(database: Database) -> AsyncIterator[Process]:
    async with running_process(database.url) as process:
        yield process


@pytest.fixture
async def book(database: Database) -> AsyncIterator[Book]:
    async with opened_book(database.url) as opened:
        yield opened


# --- What there is for fewer than wait --------------------------------------------


async def test_one_event_for_many_leaves_the_others_waiting_in_silence(
    here: Process, start: Start[Any]
) -> None:
    """More than one group holds: who goes short is not tried again and again."""
    await here.put()
    claims = [start(here.claim(wait_seconds=20)) for _ in range(MANY)]
    await here.parked(MANY)
    calls = len(here.store.calls)
    await here.note()
    served, _ = await asyncio.wait(claims, timeout=AT_ONCE, return_when=asyncio.FIRST_COMPLETED)
    await here.parked(MANY - 1)
    assert len(served) == 1
    assert len(here.store.calls) - calls < 6


async def test_who_has_waited_the_longest_is_served_first(here: Process, start: Start[Any]) -> None:
    """Also after they were tried in vain."""
    await here.put()
    claims = []
    for count in range(1, 5):
        claims.append(start(here.claim(wait_seconds=20, holder=f"h{count}")))
        await here.parked(count)
    for served in range(4):
        for _ in range(3):
            here.lanes.news(1, "scorer")
            await here.parked(4 - served)
        await here.note()
        await asyncio.wait([claims[served]], timeout=AT_ONCE)
        assert [claim.done() for claim in claims] == [n <= served for n in range(4)]


async def test_as_many_events_as_wait_serve_them_all(here: Process, start: Start[Any]) -> None:
    await here.put()
    claims = [start(here.claim(wait_seconds=20)) for _ in range(MANY)]
    await here.parked(MANY)
    await asyncio.gather(*(here.note() for _ in range(MANY)))
    async with asyncio.timeout(10):
        held = [token for tokens in await asyncio.gather(*claims) for token in tokens]
    assert len(set(held)) == MANY


async def test_who_gives_back_does_not_stand_behind_who_waits_for_it(
    here: Process, start: Start[Any]
) -> None:
    await here.put()
    await here.note()
    (held,) = await here.claim()
    _claims = [start(here.claim(wait_seconds=20)) for _ in range(MANY)]
    await here.parked(MANY)
    here.lanes.news(1, "scorer")
    calls = len(here.store.calls)
    await here.ack(held)
    assert len(here.store.calls) - calls == 1


# --- What wakes them --------------------------------------------------------------


@pytest.mark.parametrize("how", ["ack", "hand_in", "release", "lease"])
@pytest.mark.parametrize("where", ["here", "there"])
@pytest.mark.parametrize(
    "held_up_by", [{"in_flight_max": 1}, {"order_by": "customer"}], ids=["in_flight", "order"]
)
async def test_what_is_let_go_wakes_who_waits_for_it(
    *, here: Process, there: Process, start: Start[Any], how: str, where: str, held_up_by: Any
) -> None:
    await here.put(lease_seconds=1 if how == "lease" else 60, **held_up_by)
    await here.note(2, "customer:c")
    worker = here if where == "here" else there
    (held,) = await worker.claim()
    waiting = start(here.claim(wait_seconds=20))
    await here.parked()
    await here.listening()
    async with asyncio.timeout(AT_ONCE):
        if how != "lease":
            await getattr(worker, how)(held)
        assert len(await waiting) == 1


async def test_what_is_more_than_those_here_want_is_told_to_the_others(
    here: Process, there: Process, start: Start[Any]
) -> None:
    await here.put()
    await here.note(2)
    held = await here.claim(count=2)
    waiting = [start(process.claim(wait_seconds=20)) for process in (here, there)]
    await here.parked()
    await there.parked()
    await here.listening(2)
    await here.release(*held)
    async with asyncio.timeout(AT_ONCE):
        assert [len(tokens) for tokens in await asyncio.gather(*waiting)] == [1, 1]


@pytest.mark.parametrize("how", ["extend", "ack", "claim"])
async def test_other_calls_do_not_forget_who_waits_for_a_key(
    *,
    here: Process,
    there: Process,
    start: Start[Any],
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    """What they find says nothing of what a parked claim waits for; and its ring may be lost."""
    monkeypatch.setattr(limits, "PARKED_LOOK_SECONDS", 0.2)
    await here.put(order_by="customer")
    await here.note(2, "customer:c")
    await here.note(1, "customer:d")
    first, other = await there.claim(count=10)
    waiting = start(here.claim(wait_seconds=20))
    await here.parked()
    if how == "claim":
        await there.release(other, delay_seconds=0)
        assert len(await here.claim()) + waiting.done() == 1
    else:
        await getattr(here, how)(other)
    if not waiting.done():
        # Another process, which dies before it can ring.
        monkeypatch.setattr(there.log, "ring_consumer", lambda *_: None)
        await there.ack(first)
    async with asyncio.timeout(AT_ONCE):
        assert len(await waiting) == 1


async def test_a_watch_that_was_late_is_not_one_of_an_old_query(
    here: Process, there: Process, start: Start[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The query is changed, and seen to be, after it was read for the watch."""
    await here.put()
    arrived, go = asyncio.Event(), asyncio.Event()
    watch = Log.watch

    async def late(*asked: Any) -> Any:
        arrived.set()
        await go.wait()
        return await watch(*asked)

    monkeypatch.setattr(Log, "watch", late)
    waiting = start(here.claim(wait_seconds=20))
    await arrived.wait()
    await there.put(query=[{"types": ["other"]}], change_query=True)
    assert await here.claim() == []
    go.set()
    await here.parked()
    await there.say("other")
    async with asyncio.timeout(AT_ONCE):
        assert len(await waiting) == 1


async def test_a_consumer_that_is_deleted_lets_nobody_wait(
    here: Process, there: Process, start: Start[Any]
) -> None:
    await here.put()
    claims = [start(here.claim(wait_seconds=20)) for _ in range(MANY)]
    await here.parked(MANY)
    await there.handing_out.consumers.delete(1, "scorer", drop_dead_letters=False, by="p", key=None)
    async with asyncio.timeout(AT_ONCE):
        for claim in claims:
            with pytest.raises(ConsumerNotFound):
                await claim


# --- What is full, or gone --------------------------------------------------------


@pytest.mark.parametrize("what", ["full", "stalled"])
async def test_a_consumer_that_can_take_no_more_is_not_asked_without_pause(
    here: Process, book: Book, start: Start[Any], what: str
) -> None:
    await here.put()
    await here.note(2)
    if what == "full":
        await book._observer.execute(
            "insert into counterfoil.deliveries (tenant_id, generation, position, state, place)"
            " select 1, 1, n, 'waiting', n from generate_series(-20000, 1) as n"
        )
        await book._observer.execute("update counterfoil.consumer_progress set low = -20000")
    else:
        await book._observer.execute(
            "insert into counterfoil.dead_letters select 1, 'scorer', -n, 1, 1, '[]', 'why', 1,"
            " now(), 'p', false from generate_series(1, 10000) as n"
        )
    _ = start(here.claim(wait_seconds=20))
    await here.parked()
    await here.put("another", query=[{"types": ["other"]}])
    calls = len(here.store.calls)
    assert await here.claim("another", wait_seconds=1) == []
    assert len(here.store.calls) - calls <= 6, "two of them are of the other"
    assert here.lane().stands == ("stalled" if what == "stalled" else "running")


async def test_names_that_nobody_has_leave_nothing_behind(here: Process) -> None:
    for nth in range(100):
        with pytest.raises(ConsumerNotFound):
            await here.claim(f"nobody-{nth}", wait_seconds=nth % 2)
    assert here.lanes._lanes == {}


async def test_lanes_that_nobody_uses_any_more_are_let_go(
    here: Process, start: Start[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "IDLE_SECONDS", 0.1)
    monkeypatch.setattr(limits, "PARKED_LOOK_SECONDS", 0.05)
    await here.put()
    waiting = start(here.claim(wait_seconds=1))
    await here.parked()
    lane = here.lane()
    watch = lane.watch
    assert await waiting == []

    async def gone() -> bool:
        return here.lanes._lanes == {} and lane.watch is None

    await eventually(gone, "the lane to be let go")
    assert watch is not None
    assert watch.ended, "nobody else reads this book"


# --- Who goes, and what fails -----------------------------------------------------


@asynccontextmanager
async def in_flight(
    here: Process, book: Book, start: Start[Any], **asked: Any
) -> AsyncIterator[tuple[asyncio.Task[Any], Session]]:
    """A claim that waits in the database, behind a gate."""
    await here.put(in_flight_max=10)
    await here.note()
    async with book.session(role=None) as gate:
        await gate.execute("select from counterfoil.consumer_progress for update")
        claim = start(here.claim(**asked))
        await book.waiting(1)
        yield claim, gate


async def test_what_was_handed_to_who_has_gone_is_given_back(
    here: Process, book: Book, start: Start[Any]
) -> None:
    async with in_flight(here, book, start, wait_seconds=20) as (claim, gate):
        claim.cancel()
        await asyncio.wait([claim])
        await gate.open()

    async def ready() -> bool:
        rows = await book.rows(
            "select state, attempts, uncounted, history from counterfoil.deliveries"
        )
        return rows == [("ready", 1, 1, None)]

    await eventually(ready, "the delivery to be given back")
    assert here.lanes._parked._held == 0


async def test_who_has_gone_by_the_answer_is_handed_nothing(
    here: Process, book: Book, start: Start[Any]
) -> None:
    """Also who waits for nothing, and so is not looked after: the answer looks once."""
    gone = False
    async with in_flight(here, book, start, left=lambda: gone) as (claim, gate):
        gone = True
        await gate.open()
    await asyncio.wait([claim])

    async def ready() -> bool:
        rows = await book.rows("select state, attempts, uncounted from counterfoil.deliveries")
        return rows == [("ready", 1, 1)]

    await eventually(ready, "the delivery to be given back")


async def test_a_group_holds_no_more_deliveries_than_it_may(
    here: Process, book: Book, start: Start[Any]
) -> None:
    half = limits.CLAIM_GROUP_DELIVERIES_MAX // 2
    async with in_flight(here, book, start, count=1) as (first, gate):
        calls = len(here.store.calls)
        others = [start(here.claim(count=count)) for count in (half, half, 1, 1000, 1000, 1)]
        lane = here.lane()

        async def waiting() -> bool:
            return len(lane.waiting) == len(others)

        await eventually(waiting, "the claims to wait")
        await gate.open()
    await asyncio.wait([first, *others])
    assert here.store.calls[calls:] == [2, 1, 1, 1, 1]


async def test_parked_claims_leave_room_for_what_else_is_waiting(
    here: Process, start: Start[Any]
) -> None:
    """Room in deliveries, as in calls."""
    await here.put()
    await here.note()
    held = await here.claim()
    parked = [start(here.claim(count=limits.CLAIM_DELIVERIES_MAX, wait_seconds=1)) for _ in "12"]
    await here.parked(2)
    lane = here.lane()
    lane.news = True
    lane.put(Waiting.of_nobody(call_of("ack", "scorer", principal=PRINCIPAL, tokens=held)))
    group = lane.next_group()
    assert [waiting.call.what for waiting in group] == ["claim", "ack"]
    for waiting in group:
        waiting.answer(Outcome("claimed"))
    await asyncio.wait(parked)


async def test_who_stops_finishes_what_is_in_the_database(
    here: Process, book: Book, start: Start[Any]
) -> None:
    async with in_flight(here, book, start) as (claim, gate):
        closing = start(here.handing_out.close())
        await asyncio.sleep(0)
        await gate.open()
    assert len(await claim) == 1
    await closing


async def test_who_waits_while_it_stops_is_answered_with_nothing(
    here: Process, start: Start[Any]
) -> None:
    await here.put()
    waiting = start(here.claim(wait_seconds=20))
    await here.parked()
    here.handing_out.closing()
    async with asyncio.timeout(AT_ONCE):
        assert await waiting == []
        assert await here.claim(wait_seconds=20) == []


async def test_whatever_fails_everybody_is_answered(here: Process, start: Start[Any]) -> None:
    await here.put()
    waiting = start(here.claim(wait_seconds=20))
    await here.parked()
    here.store.fault = RuntimeError("a fault of ours")
    here.lanes.news(1, "scorer")
    with pytest.raises(OutcomeUnknown):
        await waiting
    assert await here.claim() == []


async def test_a_call_whose_turn_does_not_come_in_time_is_taken_back(
    here: Process, book: Book, start: Start[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with in_flight(here, book, start) as (claim, gate):
        monkeypatch.setattr(limits, "QUEUE_WAIT_SECONDS_MAX", -1.0)
        late = start(here.claim())
        await asyncio.sleep(0)
        await gate.open()
    assert len(await claim) == 1
    with pytest.raises(Busy):
        await late
