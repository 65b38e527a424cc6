"""Bounds in bytes and seconds that no caller asks for: each is reached, and nothing is lost."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from psycopg.conninfo import conninfo_to_dict

from counterfoil.server.core import limits
from counterfoil.server.core.errors import InvalidInput, NotWritten
from counterfoil.server.core.settings import Settings
from counterfoil.server.db.pool import UNLESS_SAID_OTHERWISE, patient_only_for_seconds
from counterfoil.server.log.operations import Log
from counterfoil.server.log.query import judge_read_parameters
from tests.support.appends import append_request, note
from tests.support.cluster import Database
from tests.support.gates import opened_book
from tests.support.waiting import ARRIVAL_SECONDS_MAX

EVENTS = 7


@pytest.fixture
async def log(database: Database) -> AsyncIterator[Log]:
    """A log whose book holds some events of a thousand characters each."""
    opened = await Log.open(Settings.from_environment(database_url=database.url))
    try:
        for nth in range(EVENTS):
            await opened.append(1, append_request(note(nth=nth, text="x" * 1000)))
        yield opened
    finally:
        await opened.close()


@pytest.mark.anyio
@pytest.mark.promise("P3")
@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_a_page_that_is_full_in_bytes_ends_early_and_goes_on(
    log: Log, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    monkeypatch.setattr(limits, "PAGE_BYTES_MAX", 2500)
    asked = [("order", order)]
    sizes: list[int] = []
    texts: list[str] = []
    page = await log.page(1, judge_read_parameters(asked))
    while True:
        sizes.append(len(page.events))
        texts += page.events
        assert page.has_more == (page.next is not None)
        if page.next is None:
            break
        page = await log.page(1, judge_read_parameters([*asked, ("cursor", page.next)]))

    assert sizes == [3, 3, 1]  # the one that reaches the bound is shown
    everything = (await log.latest(1, "writer", limit=1, before=None)).head
    assert len(set(texts)) == everything == EVENTS


@pytest.mark.anyio
@pytest.mark.promise("P13")
async def test_a_latest_list_that_does_not_fit_is_refused_and_not_cut(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PAGE_BYTES_MAX", 2500)
    with pytest.raises(InvalidInput) as refused:
        await log.latest(1, "writer", limit=EVENTS, before=None)

    assert refused.value.errors[0].pointer == "/limit"
    assert "at most 3 " in str(refused.value)
    assert len((await log.latest(1, "writer", limit=3, before=None)).events) == 3


@pytest.mark.anyio
@pytest.mark.promise("P2")
async def test_a_stream_that_reads_by_single_events_misses_none(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STREAM_PAGE_BYTES_MAX", 1)
    stream = await log.follow(1, judge_read_parameters([]), after=0, incarnation=None)
    told = []
    async with asyncio.timeout(ARRIVAL_SECONDS_MAX):
        async for item in stream:
            if item.text is not None:
                told.append(item.position)
            if len(told) == EVENTS:
                break
    assert told == list(range(1, EVENTS + 1))


@pytest.mark.anyio
@pytest.mark.promise("P13")
async def test_an_append_that_runs_into_its_time_limit_is_not_written(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statement's own limit, not the lock's: the caller hears which of the two it was."""
    monkeypatch.setattr(limits, "APPEND_STATEMENT_MILLISECONDS_MAX", 100)
    log = await Log.open(Settings.from_environment(database_url=database.url))
    try:
        async with opened_book(database.url) as book:
            async with book.held():
                with pytest.raises(NotWritten, match="took too long in the database"):
                    await log.append(1, append_request(note(nth=1)))
            assert await book.head() == 0
    finally:
        await log.close()


def test_a_connection_waits_for_seconds_unless_its_address_says_otherwise() -> None:
    filled = conninfo_to_dict(patient_only_for_seconds("postgresql://u@h/d"))
    assert UNLESS_SAID_OTHERWISE.items() <= filled.items()
    assert (filled["user"], filled["host"], filled["dbname"]) == ("u", "h", "d")

    said = conninfo_to_dict(patient_only_for_seconds("postgresql://u@h/d?connect_timeout=60"))
    assert said["connect_timeout"] == "60"
    assert said["tcp_user_timeout"] == UNLESS_SAID_OTHERWISE["tcp_user_timeout"]
