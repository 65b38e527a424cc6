"""kill -9 of PostgreSQL, all of it, under load.

Its configuration flushes nothing that was not asked for (see conftest.py), so what the
service forgot to have flushed would be gone with the server's memory.
"""

import asyncio
import contextlib
from typing import Any

import pytest

from counterfoil.server.core.errors import Unavailable
from counterfoil.server.db.embedded import EmbeddedPostgres
from tests.crash.killing import kill_all
from tests.support.appends import calling, note, stored
from tests.support.cluster import Cluster
from tests.support.gates import opened_book
from tests.support.holding import running_process
from tests.support.ledger import Ledger, Outcome
from tests.support.service import running_service
from tests.support.starting import Start
from tests.support.waiting import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("crash")]

WRITERS = 24

KILLS_MIN = 2


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


@pytest.mark.promise("P8")
async def test_claims_that_wait_outlive_the_server(
    server: EmbeddedPostgres, fragile: Cluster, start: Start[Any]
) -> None:
    """They hold nothing of it: what is written when it is back is handed to them."""
    with fragile.database() as database:
        async with running_process(database.url) as process:
            await process.put()
            waiting = [start(process.claim(wait_seconds=30)) for _ in range(3)]
            await process.parked(3)
            await asyncio.to_thread(kill_all, server)
            await asyncio.to_thread(server.start)

            async def written() -> bool:
                with contextlib.suppress(Unavailable):
                    await process.note(3)
                    return True
                return False

            await eventually(written, "three events to be written")
            async with asyncio.timeout(10):
                assert [len(tokens) for tokens in await asyncio.gather(*waiting)] == [1, 1, 1]
