"""Who wrote rings where somebody listens, and nowhere else; a listener is never missed.

A process with live readers holds an advisory lock, shared, for as long as it listens. Every
append tries to have that lock for itself: where it can, nobody listens. So whoever begins
to listen waits for the appends that are under way, which is the moment that is looked at
here. What those have written, the stream reads by itself.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from counterfoil.server.core.settings import Settings
from counterfoil.server.log.doorbell import Listener
from counterfoil.server.log.operations import Log
from counterfoil.server.log.query import ReadRequest
from tests.support.appends import append_request, note
from tests.support.cluster import Database
from tests.support.gates import Book, opened_book
from tests.support.starting import Start
from tests.support.waiting import WAIT_SECONDS_MAX, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.promise("P2")]


@pytest.fixture
async def book(database: Database) -> AsyncIterator[Book]:
    """A book in a database of its own: nobody listens there but whom the test starts."""
    async with opened_book(database.url) as opened:
        yield opened


@pytest.fixture
async def heard() -> list[int]:
    """The tenants whose rings were heard."""
    return []


@pytest.fixture
async def listener(database: Database, heard: list[int]) -> AsyncIterator[Listener]:
    """The ear of another process; the test starts it."""
    ear = Listener(database.url, lambda tenant_id, _: heard.append(tenant_id))
    yield ear
    await ear.close()


async def opened_log(database: Database) -> Log:
    """The log of a process."""
    return await Log.open(Settings.from_environment(database_url=database.url))


async def has_listeners(book: Book) -> bool:
    """What an append of this moment is told."""
    async with book.session() as session:
        group = await session.append_group(append_request(note()))
        await session.commit()
        return group.has_listeners


async def listening(book: Book, *, granted: bool) -> None:
    """Wait until a doorbell holds the listeners' lock, or waits for it."""

    async def look() -> bool:
        return bool(
            await book.rows(
                "select from pg_locks as l join pg_stat_activity as a using (pid)"
                " where l.locktype = 'advisory' and l.mode = 'ShareLock' and l.granted = %s"
                " and a.datname = current_database() and a.application_name = 'counterfoil doorbell'",
                granted,
            )
        )

    await eventually(look, "a process to listen" if granted else "a process to begin to listen")


async def test_nobody_rings_where_nobody_listens(database: Database, book: Book) -> None:
    """The test hears every ring, and has not said that it listens."""
    async with book.session(role=None) as ear:
        await ear.execute("listen counterfoil_heads")
        await ear.commit()
        log = await opened_log(database)
        for nth in range(3):
            await log.append(1, append_request(note(nth=nth)))
        assert not await has_listeners(book)
        await log.close()  # its last ring would have been sent
        await book.rows("select pg_notify('counterfoil_heads', 'the end')")
        assert await ear.notified("the end") == ["the end"]


async def test_who_listens_is_rung_to(
    database: Database, book: Book, listener: Listener, heard: list[int]
) -> None:
    listener.start()
    await listening(book, granted=True)
    assert await has_listeners(book)
    log = await opened_log(database)
    try:
        await log.append(1, append_request(note()))

        async def look() -> bool:
            return bool(heard)

        await eventually(look, "the ring to be heard")
    finally:
        await log.close()
    assert set(heard) == {1}


async def test_who_has_stopped_listening_is_not_rung_to(book: Book, listener: Listener) -> None:
    listener.start()
    await listening(book, granted=True)
    await listener.close()

    async def look() -> bool:
        return not await has_listeners(book)

    await eventually(look, "its session to end")


async def test_an_append_beside_one_who_begins_to_listen_rings(
    book: Book, listener: Listener
) -> None:
    """One append is under way, and was told that nobody listens. The listener waits for its
    end; an append that comes meanwhile finds it waiting, and is told so."""
    await book.administer("insert into counterfoil.books (tenant_id, name) values (2, 'second')")
    async with book.session() as first, book.session() as second:
        under_way = await first.append_group(append_request(note()))
        assert not under_way.has_listeners
        listener.start()
        await listening(book, granted=False)
        beside = await second.append_group(append_request(note()), tenant_id=2)
        assert beside.has_listeners
        await second.commit()
        await first.commit()
    await listening(book, granted=True)
    assert await has_listeners(book)


async def test_who_waits_to_say_that_he_listens_hears_already(
    book: Book, listener: Listener, heard: list[int]
) -> None:
    """Otherwise the ring of an append that found him waiting would be lost."""
    async with book.session() as append:
        await append.append(append_request(note()))
        listener.start()
        await listening(book, granted=False)
        await book.rows("select pg_notify('counterfoil_heads', '7:1')")
        await append.commit()
    await listening(book, granted=True)

    async def look() -> bool:
        await book.rows("select pg_notify('counterfoil_heads', '8:1')")
        return 8 in heard

    await eventually(look, "a ring to be heard")
    assert heard[0] == 7


async def test_a_stream_is_told_of_an_append_that_did_not_know_of_it(
    database: Database, book: Book, start: Start[Any]
) -> None:
    """It began between the append's look for listeners and its commit."""
    log = await opened_log(database)
    try:
        async with book.session() as append:
            under_way = await append.append_group(append_request(note(nth=1)))
            assert not under_way.has_listeners
            stream = await log.follow(1, ReadRequest(), after=0, incarnation=None)

            async def next_event() -> int:
                async for item in stream:
                    if item.text is not None:
                        return item.position
                raise AssertionError("the stream ended")

            told = start(next_event())
            await listening(book, granted=False)
            assert not told.done()
            await append.commit()
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            assert await told == 1
    finally:
        log.closing()
        await log.close()
