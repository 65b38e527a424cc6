"""A stream between its two states: behind, where it reads the table, and joined, where it
is fed. Seen from inside, because from outside the two must look the same.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest

from counterfoil.server.core import limits
from counterfoil.server.core.errors import (
    AfterAboveHead,
    BookRestored,
    Busy,
    DatabaseUnavailable,
    Unavailable,
)
from counterfoil.server.log.follow import Followers, Stream, StreamItem
from counterfoil.server.log.operations import Log
from counterfoil.server.log.query import ReadRequest, judge_stream_parameters
from tests.support.appends import Caller, append_request, batch_request, flag, note, stored
from tests.support.gates import Book
from tests.support.starting import Start
from tests.support.waiting import WAIT_SECONDS_MAX, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.promise("P2")]


def tagged(transaction: str) -> ReadRequest:
    """The filters of a stream that follows one transaction."""
    filters, _ = judge_stream_parameters([("tag", f"transaction:{transaction}")])
    return filters


async def told(items: AsyncIterator[StreamItem], count: int) -> list[int]:
    """The positions of the next so many events, heartbeats passed over."""
    positions: list[int] = []
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        while len(positions) < count:
            item = await anext(items)
            if item.text is not None:
                positions.append(item.position)
    return positions


async def joined(stream: Stream, *, state: bool = True) -> None:
    """Wait until the stream is fed, or until it has fallen behind."""

    async def look() -> bool:
        return stream._joined == state

    await eventually(look, "the stream to join" if state else "the stream to fall behind")


@pytest.mark.promise("P3")
async def test_a_stream_that_the_feed_has_overtaken_does_not_join_it(
    book: Book, log: Log, one: Caller, tx: str, start: Start[Any]
) -> None:
    """A flag commits behind the snapshot of the stream's page, and is fed to everybody
    before that page arrives. Nobody will feed it again: the stream must read on.

    The page is stopped where it comes to the tags. Two sessions are in line for that table
    before it: the first writes the flag and commits, the second keeps the page waiting
    until the feed has passed the flag.
    """
    opening = stored(await one.append(note(transaction_id=tx)))
    stream = await log.follow(1, tagged(tx), after=opening - 1, incarnation=None)
    lock = "lock table counterfoil.event_tags in access exclusive mode"
    async with book.session(role=None) as flagger, book.session(role=None) as keeper:
        await flagger.execute(lock)
        keeping = start(keeper.execute(lock))
        await book.waiting(1)
        following = start(told(aiter(stream), 2))
        await book.waiting(2)
        flagged = await flagger.store(append_request(flag(tx)))
        await flagger.commit()
        await keeping

        async def fed() -> bool:
            return stream._feed.position >= flagged

        await eventually(fed, "the feed to pass the flag")
        await keeper.commit()
        assert await following == [opening, flagged]


async def test_a_stream_that_is_ahead_of_the_feed_is_told_nothing_twice(
    book: Book, log: Log, start: Start[Any]
) -> None:
    """A writer whose doorbell is not heard: a stream reads its event from the table and
    joins, before the feed has come so far and offers that same event.

    The feed looks every quarter of a second by itself. Where it looked too early for the
    race, the race is run again.
    """
    keeping = aiter(await log.follow(1, ReadRequest(), after=None, incarnation=None))
    await anext(keeping)  # The feed is there from now on, and stays.
    (feed,) = log._followers._feeds.values()
    async with asyncio.timeout(WAIT_SECONDS_MAX), book.session() as silent:
        while True:
            stream = await log.follow(1, ReadRequest(), after=None, incarnation=None)
            items = aiter(stream)
            await anext(items)
            written = await silent.store(append_request(note(silent=True)))
            await silent.commit()
            assert await told(items, 1) == [written]
            following = start(told(items, 1))
            await joined(stream)
            if feed.position < written:
                break
            following.cancel()
            await asyncio.wait([following])

    async def caught_up() -> bool:
        return feed.position >= written

    await eventually(caught_up, "the feed to offer what the stream has read")
    last = await log.append(1, append_request(note(silent=False)))
    assert await following == [last.first_position]
    await close(keeping)


@pytest.mark.parametrize("bound", ["events", "bytes"])
async def test_a_slow_reader_falls_behind_and_is_told_everything_all_the_same(
    book: Book, log: Log, start: Start[Any], bound: str
) -> None:
    """Its buffer is full, so the feed goes on without it; what was fed meanwhile comes from
    the buffer, then from the table, and what is written after that from the feed again."""
    stream = await log.follow(1, ReadRequest(), after=None, incarnation=None)
    items = aiter(stream)
    head = await book.head()
    assert (await anext(items)).position == head
    first = start(told(items, 1))  # whoever waits is joined
    await joined(stream)
    events, batches = (
        ([note(nth=nth) for nth in range(500)], limits.STREAM_BUFFER_EVENTS_MAX // 500 + 1)
        if bound == "events"
        else ([note(text="x" * 250_000)] * 4, limits.STREAM_BUFFER_BYTES_MAX // 1_000_000 + 2)
    )
    expected = list(range(head + 1, head + 1 + batches * len(events)))
    for _ in range(batches):
        await log.append(1, batch_request(events))
    assert await first == expected[:1]
    await joined(stream, state=False)
    assert len(stream._buffer) <= limits.STREAM_BUFFER_EVENTS_MAX
    assert stream._buffered_bytes <= limits.STREAM_BUFFER_BYTES_MAX
    assert await told(items, len(expected) - 1) == expected[1:]
    last = start(told(items, 1))
    await joined(stream)
    written = await log.append(1, append_request(note(nth="joined again")))
    assert await last == [written.first_position]


async def test_a_slow_reader_over_http_holds_nobody_up_and_misses_nothing(
    book: Book, one: Caller, other: Caller
) -> None:
    """One subscriber reads nothing while twenty megabytes are written, more than sockets and
    buffers hold; another at the same process is told at once."""
    head = await book.head()
    expected = list(range(head + 1, head + 101))
    async with one.follow() as slow, one.follow() as quick:
        assert await slow.next() is not None
        for _ in range(10):
            stored(await other.batch([note(text="x" * 200_000)] * 10))
        assert [message.position for message in await quick.events(100)] == expected
        assert [message.position for message in await slow.events(100)] == expected


async def test_streams_that_come_and_go_end_no_other(log: Log, book: Book) -> None:
    """The last stream that leaves ends the feed; the next to come starts another, from
    where it stands itself."""
    for nth in range(3):
        head = await book.head()
        leaving, staying = [
            aiter(await log.follow(1, ReadRequest(), after=None, incarnation=None))
            for _ in range(2)
        ]
        for items in (leaving, staying):
            assert (await anext(items)).position == head
        await close(leaving)
        written = await log.append(1, append_request(note(nth=nth)))
        assert await told(staying, 1) == [written.first_position]
        await close(staying)
        assert [feed.ended for feed in log._followers._feeds.values()] == [True]


@pytest.mark.promise("P7", "P13")
async def test_readers_who_come_at_once_are_no_more_than_there_is_room_for(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them are still asking where the book stands when the next one comes. One tenant
    has three quarters of the places; each that is left is there for the next."""
    monkeypatch.setattr(limits, "STREAM_SUBSCRIBERS_MAX", 4)
    monkeypatch.setattr(log, "_followers", Followers(log._followers._store))

    opened = await asyncio.gather(
        *(log.follow(1, ReadRequest(), after=None, incarnation=None) for _ in range(8)),
        return_exceptions=True,
    )

    assert sum(isinstance(each, Busy) for each in opened) == 5
    streams = [aiter(each) for each in opened if isinstance(each, Stream)]
    assert len(streams) == 3
    for items in streams:
        await anext(items)
        await close(items)


@pytest.mark.promise("P7", "P13")
@pytest.mark.parametrize("fate", ["restored", "above the head", "cancelled", "database away"])
async def test_a_reader_who_is_not_let_in_gives_its_place_back(
    log: Log, monkeypatch: pytest.MonkeyPatch, fate: str
) -> None:
    """However it ends between the place and the stream; as often as there are places."""
    monkeypatch.setattr(limits, "STREAM_SUBSCRIBERS_MAX", 4)
    followers = Followers(log._followers._store)

    async def refused() -> None:
        coming = asyncio.create_task(
            followers.follow(
                1,
                ReadRequest(),
                after=limits.POSITION_MAX if fate == "above the head" else None,
                incarnation="another" if fate == "restored" else None,
            )
        )
        if fate == "cancelled":
            await asyncio.sleep(0)  # it asks where the book stands
            coming.cancel()
        with pytest.raises(
            (BookRestored, AfterAboveHead, asyncio.CancelledError, Unavailable)
        ) as no:
            await coming
        assert not isinstance(no.value, Busy)

    with monkeypatch.context() as patched:
        if fate == "database away":

            async def away(_tenant_id: int) -> None:
                raise DatabaseUnavailable("away")

            patched.setattr(followers._store, "head", away)
        for _ in range(8):
            await refused()
    for _ in range(2):  # and whoever was let in gives it back when it leaves
        items = [
            aiter(await followers.follow(1, ReadRequest(), after=None, incarnation=None))
            for _ in range(3)
        ]
        for each in items:
            await anext(each)
            await close(each)
    await followers.close()


async def test_a_reader_who_comes_while_the_service_stops_is_turned_away(log: Log) -> None:
    coming = asyncio.create_task(
        log.follow(1, ReadRequest(), after=None, incarnation=None), name="coming"
    )
    await asyncio.sleep(0)  # it asks where the book stands
    log.closing()

    with pytest.raises(Busy):
        await coming


async def close(items: AsyncIterator[StreamItem]) -> None:
    """Leave a stream, as the HTTP door does when its client is gone."""
    assert isinstance(items, AsyncGenerator)
    await items.aclose()


async def test_a_heartbeat_does_not_step_over_what_came_in_with_it(
    log: Log, one: Caller, tx: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flag is fed at the very moment at which the wait for news ends: whoever breaks off
    after the heartbeat, and goes on from its id, must still be told."""
    stream = await log.follow(1, tagged(tx), after=None, incarnation=None)
    flagged: list[int] = []

    async def ends_as_a_flag_comes_in(_seconds: float) -> bool:
        if not flagged:
            flagged.append(stored(await one.append(flag(tx))))

            async def fed() -> bool:
                return len(stream._buffer) == 1

            await eventually(fed, "the flag to be fed")
        return False

    monkeypatch.setattr(stream, "_news_within", ends_as_a_flag_comes_in)
    items = aiter(stream)
    await anext(items)  # where it stands, said at once

    heartbeat, told_then = await anext(items), await anext(items)

    assert heartbeat.text is None
    assert heartbeat.position < told_then.position == flagged[0]


async def test_a_heartbeat_does_not_step_over_what_there_was_no_room_for(
    log: Log, one: Caller, tx: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same, with an event that no buffer takes: the stream is behind, and reads it."""
    monkeypatch.setattr(limits, "STREAM_BUFFER_BYTES_MAX", 10)
    stream = await log.follow(1, tagged(tx), after=None, incarnation=None)
    flagged: list[int] = []

    async def ends_as_a_flag_comes_in(_seconds: float) -> bool:
        if not flagged:
            flagged.append(stored(await one.append(flag(tx))))

            async def fed() -> bool:
                return stream._feed.position == flagged[0]

            await eventually(fed, "the feed to pass the flag")
        return False

    monkeypatch.setattr(stream, "_news_within", ends_as_a_flag_comes_in)
    items = aiter(stream)
    await anext(items)  # where it stands, said at once

    heartbeat, told_then = await anext(items), await anext(items)

    assert heartbeat.text is None
    assert heartbeat.position < told_then.position == flagged[0]


@pytest.mark.promise("P3")
async def test_the_feed_hands_out_at_once_what_is_more_than_a_page(
    log: Log, tx: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One doorbell for all of it, and no look by itself in time."""
    monkeypatch.setattr(limits, "STREAM_PAGE_EVENTS", 2)
    monkeypatch.setattr(limits, "STREAM_POLL_SECONDS", 300.0)
    stream = await log.follow(1, tagged(tx), after=None, incarnation=None)
    items = aiter(stream)
    await anext(items)
    following = asyncio.create_task(told(items, 40))
    await joined(stream)

    written = await log.append(1, batch_request([note(transaction_id=tx)] * 40))

    first = written.first_position
    assert await following == list(range(first, first + 40))
