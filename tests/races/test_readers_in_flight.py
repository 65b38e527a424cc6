"""Readers beside writers at full speed: no position is skipped, doubled or out of order.

The order itself is proven with gates elsewhere; here two services write as fast as they
can, in groups that differ from run to run, while readers go along. What is asserted holds
for every interleaving. That reading and writing did overlap is asserted too.
"""

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from tests.support.appends import Caller, append_request, flag, note, stored
from tests.support.gates import Book
from tests.support.starting import Start
from tests.support.waiting import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.promise("P2")]

WRITERS = 8
APPENDS = 30
"""Of each writer; every third of them a batch of three."""

EVENTS = WRITERS * APPENDS // 3 * 5


async def write(caller: Caller, writer: int, transaction: str) -> list[int]:
    """One writer's appends, one after the other; the ids that it was told, in its order."""
    told: list[int] = []
    for nth in range(APPENDS):
        body = note(transaction_id=transaction, writer=writer, nth=nth)
        if nth % 3:
            told.append(stored(await caller.append(body)))
        else:
            answer = await caller.batch([body] * 3)
            first = stored(answer)
            assert answer.json()["ids"] == [first, first + 1, first + 2]
            told += answer.json()["ids"]
    return told


async def write_all(
    one: Caller, other: Caller, transaction: str, start: Start[Any]
) -> list[list[int]]:
    """All writers at once, half of them at each service."""
    callers = [one, other] * (WRITERS // 2)
    writing = [start(write(caller, nth, transaction)) for nth, caller in enumerate(callers)]
    return list(await asyncio.gather(*writing))


async def read_along(caller: Caller, after: int, up_to: int, **filters: str) -> list[list[int]]:
    """Read on from the last event seen until ``up_to`` is; the pages' ids."""
    pages: list[list[int]] = []
    position = after
    while position < up_to:
        page = await caller.read(after=position, limit=50, **filters)
        if page.ids:
            pages.append(page.ids)
            position = page.ids[-1]
            assert position <= page.head
    return pages


async def test_readers_of_pages_skip_nothing_while_two_services_write(
    book: Book, one: Caller, other: Caller, tx: str, start: Start[Any]
) -> None:
    """`position > cursor` is all that a reader needs, with any filter, at any process."""
    head = await book.head()
    end = head + EVENTS
    reading = [
        start(read_along(one, head, end)),
        start(read_along(other, head, end, tag=f"transaction:{tx}")),
        start(read_along(one, head, end, type="noted")),
        start(read_along(other, head, end, agent="writer")),
    ]
    told = await write_all(one, other, tx, start)
    # Every position was told to exactly one writer, and to each in the order of its calls.
    assert sorted(position for ids in told for position in ids) == list(range(head + 1, end + 1))
    assert all(low < high for ids in told for low, high in pairwise(ids))
    for reader in reading:
        pages = await reader
        assert [position for page in pages for position in page] == list(range(head + 1, end + 1))
        assert len(pages) > EVENTS // 50 + 1, "the reader did not run beside the writers"
    assert await book.value(
        "select bool_and(created_at >= before) from ("
        " select created_at, lag(created_at) over (order by position) as before"
        " from counterfoil.events where tenant_id = 1) as e"
    )


async def test_live_streams_of_two_services_tell_everything_once_and_in_order(
    book: Book, one: Caller, other: Caller, tx: str, start: Start[Any]
) -> None:
    """Four streams: at both services, from now and from before, with and without a filter."""
    head = await book.head()
    expected = list(range(head + 1, head + EVENTS + 1))
    async with (
        one.follow() as now,
        other.follow(tag=f"transaction:{tx}", after=head) as filtered,
        other.follow(after=head) as everything,
        one.follow(type="noted", agent="writer", after=head) as typed,
    ):
        streams = [now, filtered, everything, typed]
        assert [(await stream.next()) is not None for stream in streams] == [True] * 4
        following = [start(stream.events(EVENTS)) for stream in streams]
        await write_all(one, other, tx, start)
        for task in following:
            told = await task
            assert [message.event["id"] for message in told if message.event] == expected
            assert [message.position for message in told] == expected


async def test_a_replay_joins_the_live_flow_without_a_gap_or_a_double(
    book: Book, one: Caller, other: Caller, tx: str, start: Start[Any]
) -> None:
    """The writers do not pause while streams read what was there, and then catch up.

    Streams open at different moments of the writing, so that their joinings fall between
    different groups.
    """
    head = await book.head()
    stored(await one.batch([note(transaction_id=tx, before=nth) for nth in range(900)]))
    expected = list(range(head + 1, head + 900 + EVENTS + 1))
    writing = start(write_all(one, other, tx, start))

    async def replay(caller: Caller, opened_at: int, **filters: str) -> list[int]:
        async def reached() -> bool:
            return await book.head() >= head + 900 + opened_at

        await eventually(reached, "the writers to get so far")
        async with caller.follow(after=head, **filters) as stream:
            told = await stream.events(len(expected))
        return [message.position for message in told]

    replays = [
        start(replay(caller, EVENTS * nth // 8, **filters))
        for nth, (caller, filters) in enumerate(
            [
                (one, {}),
                (other, {"tag": f"transaction:{tx}"}),
                (one, {"type": "noted"}),
                (other, {}),
                (one, {"payload": f'{{"transaction_id": "{tx}"}}'}),
                (other, {"agent": "writer"}),
            ]
        )
    ]
    await writing
    for replaying in replays:
        assert await replaying == expected


@pytest.mark.promise("P3", "P4")
async def test_a_stream_that_is_stopped_in_the_middle_of_its_read_misses_no_flag(
    book: Book, one: Caller, tx: str, start: Start[Any]
) -> None:
    """The flag commits behind the snapshot of the stream's last page, before it joins.

    If the stream took a later head than its page's for the end of what it has read, the
    flag would lie below its position for ever. (How the reader is stopped: see
    test_one_snapshot.py.)
    """
    opening = stored(await one.append(note(transaction_id=tx)))
    async with book.session(role=None) as flagger:
        await flagger.execute("lock table counterfoil.event_tags in access exclusive mode")
        async with one.follow(tag=f"transaction:{tx}", after=opening - 1) as stream:
            following = start(stream.events(2))
            ((_, application_name, _),) = await book.waiting(1)
            assert application_name == "counterfoil reads"
            flagged = await flagger.store(append_request(flag(tx)))
            await flagger.commit()
            told = await following
    assert [message.position for message in told] == [opening, flagged]


async def test_a_broken_stream_goes_on_at_the_other_process_where_it_was(
    one: Caller, other: Caller, tx: str
) -> None:
    """``Last-Event-ID`` beats the ``after`` that is still in the address; what was written
    while nobody followed is told first."""
    tag = f"transaction:{tx}"
    first = stored(await one.append(note(transaction_id=tx)))
    async with one.follow(tag=tag, after=first - 1) as stream:
        (told,) = await stream.events(1)
    missed = stored(await other.append(note(transaction_id=tx)))
    async with other.follow(tag=tag, after=first - 1, last_event_id=told.id) as stream:
        live = stored(await one.append(note(transaction_id=tx)))
        assert [message.position for message in await stream.events(2)] == [missed, live]


async def test_a_heartbeat_says_where_a_rare_filter_stands(
    book: Book, one: Caller, other: Caller, tx: str
) -> None:
    """Its id lies at the head although nothing matched, so that a reconnect does not read
    all again."""
    head = await book.head()
    async with one.follow(tag=f"transaction:{tx}") as stream:
        told = await stream.next()
    assert told is not None
    assert (told.event, told.position) == (None, head)
    late = stored(await other.append(flag(tx)))
    async with one.follow(tag=f"transaction:{tx}", last_event_id=told.id) as stream:
        assert [message.position for message in await stream.events(1)] == [late]


async def test_a_group_of_one_process_is_rung_to_the_others(
    book: Book, one: Caller, other: Caller
) -> None:
    """The doorbell rings after the commit, with the head, in a transaction of its own."""
    async with book.session(role=None) as listener:
        await listener.execute("listen counterfoil_heads")
        await listener.commit()
        for caller in (one, other):
            written = stored(await caller.append(note(rung=True)))
            await listener.notified(f"1:{written}")
