"""Two books in one database: their orders, locks and keys have nothing to do with each other.

Each tenant has one. They share a process, its connections and its database.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from counterfoil.server.core import limits
from counterfoil.server.core.settings import Settings
from counterfoil.server.log.operations import WRITE_CONNECTIONS_MAX, Log
from counterfoil.server.log.query import ReadRequest
from tests.support.appends import append_request, approval, flag, note
from tests.support.cluster import Database
from tests.support.gates import Book, opened_book
from tests.support.starting import Start
from tests.support.waiting import WAIT_SECONDS_MAX, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.promise("P2")]


@pytest.fixture
async def books(database: Database) -> AsyncIterator[Book]:
    """A database with a second book."""
    async with opened_book(database.url) as opened:
        await opened.administer(
            "insert into counterfoil.books (tenant_id, name) values (2, 'second')"
        )
        yield opened


@pytest.fixture
async def log(books: Book) -> AsyncIterator[Log]:
    """A process of the service at both books."""
    opened = await Log.open(Settings.from_environment(database_url=books.url))
    try:
        yield opened
    finally:
        await opened.close()


@pytest.mark.promise("P4", "P5")
async def test_each_book_has_its_own_order_keys_and_conflicts(log: Log, tx: str) -> None:
    """The same requests in both: each book answers as if there were no other."""
    for tenant_id in (1, 2):
        flagged = await log.append(tenant_id, append_request(flag(tx), key=tx))
        assert (flagged.first_position, flagged.replayed) == (1, False)
        again = await log.append(tenant_id, append_request(flag(tx), key=tx))
        assert (again.first_position, again.replayed) == (1, True)
        approved = await log.append(tenant_id, append_request(approval(tx, after=1)))
        assert approved.first_position == 2
    pages = [await log.page(tenant_id, ReadRequest()) for tenant_id in (1, 2)]
    assert [(page.head, len(page.events)) for page in pages] == [(2, 2), (2, 2)]
    assert pages[0].incarnation != pages[1].incarnation


async def test_a_book_that_is_held_holds_up_no_other(
    books: Book, log: Log, start: Start[Any]
) -> None:
    """Groups of different books are in flight side by side, in one process too."""
    async with books.held(1) as gate:
        waiting = start(log.append(1, append_request(note())))
        await books.waiting(1)
        for position in (1, 2, 3):
            stored = await log.append(2, append_request(note()))
            assert stored.first_position == position
        await books.waiting(1)
        await gate.open()
        assert (await waiting).first_position == 1


async def test_a_stream_of_one_book_is_fed_from_it_alone(log: Log) -> None:
    """Positions of both run side by side, and would be easy to mix up."""
    streams = {
        tenant_id: await log.follow(tenant_id, ReadRequest(), after=0, incarnation=None)
        for tenant_id in (1, 2)
    }
    for nth in range(3):
        for tenant_id in (1, 2):
            await log.append(tenant_id, append_request(note(nth=nth, tenant=tenant_id)))
    for tenant_id, stream in streams.items():
        texts: list[str] = []
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            async for item in stream:
                texts += [item.text] if item.text is not None else []
                if len(texts) == 3:
                    break
        assert [f'"tenant": {tenant_id}' in text for text in texts] == [True] * 3


@pytest.mark.promise("P13")
async def test_more_busy_books_than_connections_take_turns(books: Book, log: Log) -> None:
    """Books whose queues are never empty hold every connection; another one writes all the same."""
    busy = range(10, 10 + WRITE_CONNECTIONS_MAX)
    await books.administer(
        "insert into counterfoil.books (tenant_id, name) "
        "select n, n::text from generate_series(10, 30) as n"
    )
    done = asyncio.Event()
    more = limits.GROUP_REQUESTS_MAX + 8  # than a group takes: somebody always waits

    async def flood(tenant_id: int) -> None:
        while not done.is_set():
            await log.append(tenant_id, append_request(note()))

    floods = [asyncio.create_task(flood(tenant_id)) for tenant_id in busy for _ in range(more)]
    try:

        async def all_at_work() -> bool:
            return all([await books.head(tenant_id) > 3 for tenant_id in busy])

        await eventually(all_at_work, "every busy book to be written")
        stored = await asyncio.gather(log.append(2, append_request(note())), return_exceptions=True)
    finally:
        done.set()
        await asyncio.gather(*floods)
    assert [getattr(each, "first_position", each) for each in stored] == [1]
