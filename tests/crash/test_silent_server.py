"""A server that stops answering without a word: lost power, a cut network, a frozen host.

No connection breaks and no error comes, so nothing but our own clocks can end the wait. A
proxy holds one statement still; every other connection goes through.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from counterfoil.server.core import limits
from counterfoil.server.core.errors import DatabaseUnavailable, OutcomeUnknown
from counterfoil.server.core.settings import Settings
from counterfoil.server.log.operations import Log
from tests.support.appends import append_request, note, unless_flagged
from tests.support.cluster import Cluster
from tests.support.gates import Book, opened_book
from tests.support.holding import running_process
from tests.support.proxy import Proxy, proxying
from tests.support.starting import Start
from tests.support.waiting import WAIT_SECONDS_MAX, eventually

pytestmark = pytest.mark.anyio

SOON_SECONDS = 0.2


@pytest.fixture
def proxied(cluster: Cluster) -> Iterator[tuple[str, Proxy]]:
    """A book of its own, and the proxy in front of it."""
    with cluster.database() as database, proxying(database.url) as proxy:
        yield database.url, proxy


@pytest.fixture
def proxy(proxied: tuple[str, Proxy]) -> Proxy:
    """The proxy."""
    return proxied[1]


@pytest.fixture
async def book(proxied: tuple[str, Proxy]) -> AsyncIterator[Book]:
    """The book, seen past the proxy."""
    async with opened_book(proxied[0]) as opened:
        yield opened


@pytest.fixture
async def log(proxy: Proxy) -> AsyncIterator[Log]:
    """The log of one process, which reaches its database through the proxy."""
    opened = await Log.open(Settings.from_environment(database_url=proxy.url))
    try:
        yield opened
    finally:
        await opened.close()


@pytest.mark.promise("P1", "P13")
async def test_an_append_that_is_never_answered_holds_nobody_up(
    log: Log, book: Book, proxy: Proxy, tx: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its caller is told that nobody knows; the next gets a driver and a connection anew."""
    monkeypatch.setattr(limits, "APPEND_OUTCOME_SECONDS_MAX", SOON_SECONDS)
    stuck = proxy.catch(tx.encode())

    with pytest.raises(OutcomeUnknown):
        await log.append(1, append_request(note(text=tx)))
    assert stuck.seen
    monkeypatch.undo()

    assert (await log.append(1, append_request(note(text="after it")))).first_position == 1

    # What was of unknown outcome may still be written, once: here it is.
    stuck.forward()
    stuck.answer()

    async def written() -> bool:
        return await book.head() == 2

    await eventually(written, "the append that was held to be written")


@pytest.mark.promise("P13")
async def test_a_read_that_is_never_answered_ends(
    log: Log, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    await log.append(1, append_request(note(text="something to read")))
    monkeypatch.setattr(limits, "READ_SECONDS_MAX", SOON_SECONDS)
    stuck = proxy.catch(b"nobody_of_this_name")

    with pytest.raises(DatabaseUnavailable):
        await log.latest(1, "nobody_of_this_name", limit=1, before=None)

    assert stuck.seen
    stuck.cut()
    assert len((await log.latest(1, "writer", limit=1, before=None)).events) == 1


@pytest.mark.promise("P13")
async def test_a_condition_that_looks_far_back_holds_up_its_like_only(
    log: Log, book: Book, proxy: Proxy, tx: str, start: Start[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it is checked, appends that look back a little or not at all pass it."""
    monkeypatch.setattr(limits, "CONDITION_STEPS_MAX", 2)
    for _ in range(3):
        await log.append(1, append_request(note(text="to look back over")))
    slow = proxy.catch(tx.encode())

    far = start(
        log.append(1, append_request(note(text=tx) | {"condition": unless_flagged(tx, after=0)}))
    )
    await slow.arrived()
    near = {"condition": unless_flagged("another", after=3)}

    assert (await log.append(1, append_request(note(text="plain")))).first_position == 4
    assert (await log.append(1, append_request(note(text="near") | near))).first_position == 5
    assert not far.done()
    slow.forward()
    slow.answer()
    assert (await far).first_position == 6
    assert await book.head() == 6


@pytest.mark.promise("P8", "P13")
async def test_a_claim_that_is_never_answered_holds_nobody_up(
    proxy: Proxy, tx: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its caller is told that nobody knows; whoever comes next has another connection."""
    async with running_process(proxy.url) as process:
        await process.put()
        await process.note()
        monkeypatch.setattr(limits, "READ_SECONDS_MAX", SOON_SECONDS)
        stuck = proxy.catch(tx.encode())

        with pytest.raises(OutcomeUnknown):
            await process.claim(holder=tx)
        assert stuck.seen
        monkeypatch.undo()

        async with asyncio.timeout(WAIT_SECONDS_MAX):
            assert len(await process.claim(holder="another")) == 1
        stuck.cut()
