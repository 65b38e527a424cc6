"""`counterfoil recover` while the service is at work.

A restored book gives positions out again that others have already read. Its new
incarnation must stop whatever was read before: conditions, cursors and streams.
"""

import asyncio
from typing import Any

import pytest

from counterfoil.server.log.operations import recover
from tests.support.appends import Caller, append_request, note, problem, stored
from tests.support.gates import Book
from tests.support.starting import Start

pytestmark = [pytest.mark.anyio, pytest.mark.promise("P4")]


@pytest.fixture
async def before(one: Caller, tx: str) -> dict[str, Any]:
    """What an agent has in hand when the book is restored: a head, a cursor, a stream's id."""
    stored(await one.batch([note(transaction_id=tx, nth=nth) for nth in range(3)]))
    page = await one.read(tag=f"transaction:{tx}", limit=2)
    return {
        "incarnation": page.incarnation,
        "head": page.head,
        "cursor": page.next,
        "stream": f"{page.incarnation}.{page.head}",
    }


def conditional(tx: str, before: dict[str, Any]) -> dict[str, Any]:
    """An append under a condition that nothing stands in the way of, but the incarnation."""
    return {
        **note(transaction_id=tx),
        "condition": {
            "fail_if": [{"types": ["never"]}],
            "after": before["head"],
            "incarnation": before["incarnation"],
        },
    }


async def recovered(book: Book) -> str:
    """Give the book its new incarnation."""
    ((_, _, incarnation),) = await asyncio.to_thread(recover, book.url)
    return incarnation


async def test_recover_waits_for_an_append_and_an_append_for_recover(
    book: Book, one: Caller, other: Caller, tx: str, before: dict[str, Any], start: Start[Any]
) -> None:
    """An append is open; recover waits for it; a second append waits behind recover, and
    finds the new incarnation when it comes to the lock, although it began under the old."""
    async with book.session() as session:
        first = await session.store(append_request(conditional(tx, before)))
        recovering = start(recovered(book))
        ((_, application_name, blocked_by),) = await book.waiting(1)
        assert (application_name, blocked_by) == ("counterfoil recover", [session.pid])
        refused = start(other.append(conditional(tx, before)))
        plain = start(one.append(note(transaction_id=tx)))
        await book.waiting(3)
        await session.commit()
        incarnation = await recovering
        problem(await refused, 409, "book-restored")
        written = stored(await plain)
    assert written == first + 1
    seen = await other.read(tag=f"transaction:{tx}")
    assert (seen.incarnation, seen.ids[-2:]) == (incarnation, [first, written])
    assert incarnation != before["incarnation"]


async def test_cursors_and_stream_ids_from_before_are_refused(
    book: Book, one: Caller, other: Caller, tx: str, before: dict[str, Any]
) -> None:
    """By every process, whichever gave them out."""
    incarnation = await recovered(book)
    for caller in (one, other):
        page = await caller.client.get(
            "/events", params={"tag": f"transaction:{tx}", "limit": 2, "cursor": before["cursor"]}
        )
        problem(page, 409, "book-restored")
        stream = await caller.client.get(
            "/events/stream", headers={"Last-Event-ID": before["stream"]}
        )
        problem(stream, 409, "book-restored")
        problem(await caller.append(conditional(tx, before)), 409, "book-restored")
        renewed = {**before, "incarnation": incarnation}
        stored(await caller.append(conditional(tx, renewed)))


async def test_open_streams_end_and_resume_nowhere_by_themselves(
    book: Book, one: Caller, other: Caller, tx: str, before: dict[str, Any]
) -> None:
    """A live reader is not carried over into the restored book in silence."""
    async with one.follow(tag=f"transaction:{tx}") as here, other.follow(after=0) as there:
        assert await here.next() is not None
        assert await there.next() is not None
        await recovered(book)
        for stream in (here, there):
            told = await stream.next()
            while told is not None:
                assert told.id.startswith(before["incarnation"])
                told = await stream.next()


@pytest.mark.promise("P5")
async def test_keys_outlive_a_restore(
    book: Book, one: Caller, other: Caller, tx: str, before: dict[str, Any]
) -> None:
    """An append that is in the restored book is answered again, and not judged again."""
    body = conditional(tx, before)
    written = stored(await one.append(body, key=tx))
    await recovered(book)
    assert stored(await other.append(body, key=tx), replayed=True) == written
