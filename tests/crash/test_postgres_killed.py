"""kill -9 of PostgreSQL, all of it, under load.

Its configuration flushes nothing that was not asked for (see conftest.py), so what the
service forgot to have flushed would be gone with the server's memory.
"""

import asyncio
import contextlib
import os
import signal
from typing import Any

import psycopg
import pytest

from counterfoil.server.db.embedded import EmbeddedPostgres
from tests.support.appends import calling, note, stored
from tests.support.cluster import Cluster
from tests.support.gates import opened_book
from tests.support.ledger import Ledger, Outcome
from tests.support.service import running_service
from tests.support.starting import Start
from tests.support.waiting import eventually, wait_for

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("crash")]

WRITERS = 24

KILLS_MIN = 2


def kill_all(server: EmbeddedPostgres) -> None:
    """End the server and every process of it without warning, at one moment."""
    with psycopg.connect(server.url) as connection:
        processes = [pid for (pid,) in connection.execute("select pid from pg_stat_activity")]
    assert server.pid is not None
    # The postmaster first: it would otherwise see a child die, and clean up.
    for pid in (server.pid, *processes):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: server.pid is None, "the killed server to be gone")


async def grows(ledger: Ledger, outcome: Outcome, count: int) -> None:
    """Wait until so many more appends have been told this."""
    goal = ledger.count(outcome) + count

    async def look() -> bool:
        return ledger.count(outcome) >= goal

    await eventually(look, f"{count} more appends to be {outcome}")


@pytest.mark.promise("P1", "P2", "P5", "P13")
async def test_no_acknowledged_event_is_lost_with_postgresql(
    server: EmbeddedPostgres, fragile: Cluster, start: Start[Any]
) -> None:
    """Twice: the server dies under load, stays away until writers are refused, comes back.

    The service is left alone. While the server is away each append is answered in words
    that mean what they say: not written, or not known. When it is back, so is the service.
    """
    ledger = Ledger()
    with fragile.database() as database, running_service(database.url) as service:
        async with calling(service.url) as caller:
            stop = asyncio.Event()
            writers = [start(ledger.write(caller, stop)) for _ in range(WRITERS)]
            kills = 0
            # It may die between two groups; then nothing was in doubt, and it dies again.
            while kills < KILLS_MIN or ledger.count("unknown") == 0:
                await grows(ledger, "stored", 100)
                await asyncio.to_thread(kill_all, server)
                kills += 1
                try:
                    await grows(ledger, "refused", WRITERS)
                finally:
                    server.start()
            await grows(ledger, "stored", WRITERS)
            stop.set()
            await asyncio.gather(*writers)
            unknown = ledger.count("unknown")
            async with opened_book(database.url) as book:
                await ledger.check(book)
                assert await ledger.retry_unknown(caller) == unknown
                assert ledger.count("unknown") == 0
                await ledger.check(book)
                assert stored(await caller.append(note(last=True))) == await book.head()
