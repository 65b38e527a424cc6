"""An answer comes after the commit, and after nothing less.

The rows of the stored function are there before its transaction ends. A constraint trigger
that is deferred to the commit holds it there, so that the moment in between can be looked
at; the product knows nothing of it.
"""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest

from counterfoil.server.core.settings import Settings
from counterfoil.server.log.operations import Log
from tests.support.appends import append_request, batch_request, note
from tests.support.cluster import Database
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

GATE = 20_260_908
"""The advisory lock that a commit waits for. Any number that nothing else uses."""


@pytest.fixture
async def log(database: Database) -> AsyncIterator[Log]:
    opened = await Log.open(Settings.from_environment(database_url=database.url))
    yield opened
    await opened.close()


@pytest.fixture
def gated(owner: psycopg.Connection) -> psycopg.Connection:
    """Every append now waits at its commit for whoever holds the gate."""
    owner.execute(
        f"""
        create function public.wait_at_the_gate() returns trigger language plpgsql as $$
        begin
            perform pg_advisory_xact_lock_shared({GATE});
            return null;
        end
        $$;
        create constraint trigger at_the_commit after insert on counterfoil.events
            deferrable initially deferred
            for each row execute function public.wait_at_the_gate();
        """
    )
    return owner


@pytest.mark.promise("P1", "P3")
async def test_answer_comes_after_the_commit(
    database: Database, gated: psycopg.Connection, log: Log
) -> None:
    with psycopg.connect(database.url, autocommit=True) as gate:
        gate.execute("select pg_advisory_lock(%s)", [GATE])
        appends = [
            asyncio.ensure_future(log.append(1, asked))
            for asked in (append_request(note(nth=1)), batch_request([note(nth=2), note(nth=3)]))
        ]

        async def at_the_gate() -> bool:
            row = gated.execute(
                "select exists (select from pg_stat_activity where wait_event = 'advisory' "
                "and datname = current_database() and application_name = 'counterfoil appends')"
            ).fetchone()
            return row == (True,)

        try:
            await eventually(at_the_gate, "the commit to be held")
            # All that was said meanwhile has been heard: a read has gone there and back.
            assert (await log.latest(1, "writer", limit=5, before=None)).events == ()
            assert not any(append.done() for append in appends), "answered before the commit"
        finally:
            gate.execute("select pg_advisory_unlock(%s)", [GATE])
        stored = [await append for append in appends]
        assert [one.first_position for one in stored] == [1, 2]
        assert len((await log.latest(1, "writer", limit=5, before=None)).events) == 3
