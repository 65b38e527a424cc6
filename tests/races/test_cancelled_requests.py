"""Callers that go away: while they wait for their group, and while it is in flight.

A group is sent by a task of its own, for several callers at once. Whoever goes away
before that is taken out of the queue; afterwards nothing can call the group back, and
nobody who shares it may notice.

Over HTTP a caller goes away by closing its connection. What the service then does with
a waiting append is its own affair (today it is written); so the cancelling itself is
proved on the log, in this process, and over HTTP that nobody else is harmed and nothing
is written by half.
"""

import asyncio
from typing import Any

import pytest

from counterfoil.server.core.errors import InvariantBroken
from counterfoil.server.log.model import AppendRequest
from counterfoil.server.log.operations import Log
from tests.races.conftest import queued
from tests.support.appends import Caller, append_request, batch_request, note, stored
from tests.support.gates import Book
from tests.support.starting import Start

pytestmark = [pytest.mark.anyio, pytest.mark.promise("P1", "P2")]


async def payloads(book: Book, after: int) -> list[object]:
    """What was written above ``after``: the payloads' ``nth``, by position."""
    return [
        nth
        for (nth,) in await book.rows(
            "select payload -> 'nth' from counterfoil.events"
            " where tenant_id = 1 and position > %s order by position",
            after,
        )
    ]


async def test_an_append_that_is_cancelled_in_the_queue_is_never_written(
    book: Book, log: Log, start: Start[Any]
) -> None:
    """Its neighbours are, next to each other."""
    head = await book.head()
    async with book.held() as gate:
        ahead = start(log.append(1, append_request(note(nth=0))))
        await book.waiting(1)
        tasks = []
        for nth in range(1, 4):
            tasks.append(start(log.append(1, append_request(note(nth=nth)))))
            await queued(log, nth)
        tasks[1].cancel()
        await asyncio.wait([tasks[1]])
        await gate.open()
        assert (await ahead).first_position == head + 1
        assert (await tasks[0]).first_position == head + 2
        assert (await tasks[2]).first_position == head + 3
    assert tasks[1].cancelled()
    assert await payloads(book, head) == [0, 1, 3]


async def test_an_append_that_is_cancelled_in_flight_takes_nobody_along(
    book: Book, log: Log, start: Start[Any]
) -> None:
    """Three are in flight as one group, at the lock, when the one in the middle goes.

    A second gate stands in line behind the append that is ahead, so that the group comes
    to wait behind that gate. It locks the table: such locks are handed on in turn, while
    a row is free for whoever asks first, and that could be the group.
    """
    head = await book.head()
    async with book.session(role=None) as second_gate, book.held() as gate:
        ahead = start(log.append(1, append_request(note(nth=0))))
        await book.waiting(1)
        holding = start(second_gate.execute("lock table counterfoil.books in exclusive mode"))
        await book.waiting(2)
        tasks = [
            start(log.append(1, request))
            for request in (
                append_request(note(nth=1)),
                batch_request([note(nth=2), note(nth=3)]),
                append_request(note(nth=4)),
            )
        ]
        await queued(log, 3)
        await gate.open()
        assert (await ahead).first_position == head + 1
        await holding
        ((group, application_name, blocked_by),) = await book.waiting(1)
        assert (application_name, blocked_by) == ("counterfoil appends", [second_gate.pid])
        tasks[1].cancel()
        await asyncio.wait([tasks[1]])
        ((still, _, _),) = await book.waiting(1)
        assert still == group
        await second_gate.open()
        assert (await tasks[0]).first_position == head + 2
        assert (await tasks[2]).first_position == head + 5
    assert tasks[1].cancelled()
    assert await payloads(book, head) == [0, 1, 2, 3, 4]


async def test_a_log_that_closes_finishes_what_it_has_accepted(
    book: Book, log: Log, start: Start[Any]
) -> None:
    """A stop in the middle of a group and a queue loses neither."""
    head = await book.head()
    async with book.held() as gate:
        ahead = start(log.append(1, append_request(note(nth=0))))
        await book.waiting(1)
        behind = start(log.append(1, append_request(note(nth=1))))
        await queued(log, 1)
        closing = start(log.close())
        await asyncio.sleep(0)
        await gate.open()
        assert (await ahead).first_position == head + 1
        assert (await behind).first_position == head + 2
        await closing


@pytest.mark.promise("P13")
async def test_a_request_that_breaks_its_group_breaks_alone(
    book: Book, log: Log, start: Start[Any]
) -> None:
    """What PostgreSQL refuses although it was judged fails the whole group, once.

    No input is known that does this, so the test skips the judge: a day that no calendar
    has. The group is run again in halves until it stands alone.
    """
    impossible = b'{"operation":"append","principal":"anonymous","events":[%s]}' % (
        b'{"agent_name":"a","event_type":"t","payload":{"nth":99},"tags":[],'
        b'"occurred_at":"2025-02-30T00:00:00Z"}'
    )
    broken = AppendRequest("append", impossible, 1, len(impossible), False, (), None, 0)
    head = await book.head()
    async with book.held() as gate:
        ahead = start(log.append(1, append_request(note(nth=0))))
        await book.waiting(1)
        tasks = []
        for nth, request in enumerate(
            [
                append_request(note(nth=1)),
                append_request(note(nth=2), key=f"halves-{head}"),
                broken,
                batch_request([note(nth=3), note(nth=4)]),
                append_request(note(nth=5)),
            ],
            start=1,
        ):
            tasks.append(start(log.append(1, request)))
            await queued(log, nth)
        await gate.open()
        await ahead
        with pytest.raises(InvariantBroken):
            await tasks.pop(2)
        assert [(await task).first_position - head for task in tasks] == [2, 3, 4, 6]
    assert await payloads(book, head) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("place", ["queue", "flight"])
async def test_a_connection_that_is_closed_harms_nobody_else(
    book: Book, one: Caller, tx: str, start: Start[Any], place: str
) -> None:
    """Over HTTP: the client of a batch closes its connection, in the queue or in flight."""
    leaving = one.batch([note(transaction_id=tx, nth=nth) for nth in range(3)])
    ahead = [one.append(note(ahead=True))] if place == "queue" else []
    async with book.held() as gate:
        tasks = [start(request) for request in ahead]
        if tasks:
            await book.waiting(1)
        gone = start(leaving)
        await book.waiting(1)
        await one.queued(len(tasks))
        tasks.append(start(one.append(note(transaction_id=tx))))
        await one.queued(len(tasks))
        gone.cancel()
        await asyncio.wait([gone])
        await gate.open()
        written = [stored(await task) for task in tasks][-1]
    seen = (await one.read(tag=f"transaction:{tx}")).ids
    assert seen in ([written], [*range(written - 3, written), written])
    assert await book.head() == written
