"""Too much load is said, never kept silent: 503 with ``Retry-After``, and nothing written.

Never 409: that would tell an agent that something stood in its way, when nobody looked.
"""

import asyncio
from typing import Any

import pytest

from counterfoil.server.core import limits
from counterfoil.server.core.errors import Busy
from counterfoil.server.log.operations import Log
from tests.races.conftest import queued
from tests.support.appends import (
    Caller,
    append_request,
    approval,
    batch_request,
    flag,
    note,
    problem,
    stored,
)
from tests.support.gates import Book
from tests.support.starting import Start

pytestmark = [pytest.mark.anyio, pytest.mark.promise("P13")]


@pytest.mark.promise("P4")
async def test_a_lock_that_is_not_had_in_time_is_no_conflict(
    book: Book, one: Caller, tx: str, start: Start[Any]
) -> None:
    """The book stays held for longer than a group may wait. A plain append, a conditional
    one that would stand and one that would not are in the same group."""
    flagged = stored(await one.append(flag(tx)))
    async with book.held():
        ahead = start(one.append(note(ahead=True)))
        await book.waiting(1)
        waiting = [
            start(one.append(body))
            for body in (
                note(transaction_id=tx),
                approval(tx, after=flagged),
                approval(tx, after=flagged - 1),
            )
        ]
        await one.queued(3)
        for task in (ahead, *waiting):
            refusal = problem(await task, 503, "busy")
            assert "nothing was written" in refusal["detail"]
    assert await book.head() == flagged
    # The service has not suffered: with the lock free, all is as it was.
    assert stored(await one.append(approval(tx, after=flagged))) == flagged + 1


async def test_reads_and_the_other_books_go_on_while_a_book_is_held(
    book: Book, one: Caller, tx: str, start: Start[Any]
) -> None:
    """A lock that writers wait for stops no reader and no live stream's opening."""
    opening = stored(await one.append(note(transaction_id=tx)))
    async with book.held() as gate, one.follow(tag=f"transaction:{tx}") as stream:
        late = start(one.append(note(transaction_id=tx)))
        await book.waiting(1)
        assert (await one.read(tag=f"transaction:{tx}")).ids == [opening]
        assert (await one.get(opening))["id"] == opening
        assert (await one.client.get("/health/ready")).status_code == 200
        heartbeat = await stream.next()
        assert heartbeat is not None
        assert heartbeat.position == opening
        await gate.open()
        assert [message.position for message in await stream.events(1)] == [stored(await late)]


async def test_a_queue_that_is_full_by_count_refuses_at_once(
    book: Book, log: Log, start: Start[Any]
) -> None:
    """One is in flight, QUEUE_REQUESTS_MAX wait; one more is one too many. What was
    accepted is written in its order once the book is free."""
    head = await book.head()
    request = append_request(note(full=True))
    async with book.held() as gate:
        ahead = start(log.append(1, request))
        await book.waiting(1)
        accepted = [start(log.append(1, request)) for _ in range(limits.QUEUE_REQUESTS_MAX)]
        await queued(log, limits.QUEUE_REQUESTS_MAX)
        with pytest.raises(Busy):
            await log.append(1, request)
        await gate.open()
        results = await asyncio.gather(ahead, *accepted)
    expected = list(range(head + 1, head + 2 + limits.QUEUE_REQUESTS_MAX))
    assert [result.first_position for result in results] == expected
    assert await book.head() == expected[-1]
    assert (await log.append(1, request)).first_position == expected[-1] + 1


async def test_a_queue_that_is_full_by_size_refuses_at_once(
    book: Book, log: Log, start: Start[Any]
) -> None:
    """Batches of four megabytes fill the queue's 64 MiB long before its count. A small
    append that still fits in is accepted."""
    head = await book.head()
    small, large = append_request(note()), batch_request([note(text="x" * 250_000)] * 16)
    fitting = limits.QUEUE_BYTES_MAX // large.size_bytes
    async with book.held() as gate:
        ahead = start(log.append(1, small))
        await book.waiting(1)
        accepted = [start(log.append(1, large)) for _ in range(fitting)]
        await queued(log, fitting)
        with pytest.raises(Busy):
            await log.append(1, large)
        behind = start(log.append(1, small))
        await queued(log, fitting + 1)
        for task in accepted:
            task.cancel()
        await asyncio.wait(accepted)
        await gate.open()
        assert (await ahead).first_position == head + 1
        assert (await behind).first_position == head + 2
    assert await book.head() == head + 2
    assert (await log.append(1, large)).first_position == head + 3


async def test_an_append_whose_turn_does_not_come_in_time_is_given_back(
    book: Book, log: Log, start: Start[Any]
) -> None:
    """Group after group fails at the lock. Whoever stands too far behind is given back when
    QUEUE_WAIT_SECONDS_MAX are over, and is not written later. Whoever is in flight by then
    is not given back, although as long on the way: only the database knows about it."""
    head = await book.head()
    request = append_request(note())
    # Groups one after the other at the lock: the last of them is there when time is up.
    groups = int(limits.QUEUE_WAIT_SECONDS_MAX * 1_000 // limits.LOCK_WAIT_MILLISECONDS_MAX)
    async with book.held() as gate:
        ahead = start(log.append(1, request))
        await book.waiting(1)
        failing, in_flight = (
            [start(log.append(1, request)) for _ in range(count * limits.GROUP_REQUESTS_MAX)]
            for count in (groups - 1, 1)
        )
        await queued(log, groups * limits.GROUP_REQUESTS_MAX)
        with pytest.raises(Busy, match="taken back"):
            await log.append(1, request)
        assert not any(task.done() for task in in_flight)
        await gate.open()
        for number, task in enumerate(in_flight, start=1):
            assert (await task).first_position == head + number
        for task in (ahead, *failing):
            with pytest.raises(Busy):
                await task
    assert await book.head() == head + limits.GROUP_REQUESTS_MAX


@pytest.mark.promise("P5")
async def test_a_key_that_was_refused_for_load_may_be_tried_again(
    book: Book, one: Caller, tx: str
) -> None:
    """Busy is not the key's answer: the retry stores the event, once."""
    async with book.held():
        problem(await one.append(note(transaction_id=tx), key=tx), 503, "busy")
    written = stored(await one.append(note(transaction_id=tx), key=tx))
    assert (await one.read(tag=f"transaction:{tx}")).ids == [written]
