"""kill -9 of the service under load: what it acknowledged is in the book, whole and once."""

import asyncio
from typing import Any

import pytest

from tests.support.appends import calling
from tests.support.cluster import Database
from tests.support.gates import opened_book
from tests.support.ledger import Ledger
from tests.support.service import running_service
from tests.support.starting import Start
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

WRITERS = 24


@pytest.mark.promise("P1", "P2", "P5")
async def test_no_acknowledged_event_is_lost_with_the_service(
    database: Database, start: Start[Any]
) -> None:
    """Three times: many writers, and the process dies in the middle of their groups.

    What got no answer is then sent again under its key, to a new process: it is stored
    now, or its answer is given now, and either way it is in the book once.
    """
    ledger = Ledger()
    unanswered = 0
    async with opened_book(database.url) as book:
        for acknowledged in (60, 400, 900):
            with running_service(database.url) as service:
                async with calling(service.url) as caller:
                    stop = asyncio.Event()
                    writers = [start(ledger.write(caller, stop)) for _ in range(WRITERS)]

                    async def far_enough(count: int = acknowledged) -> bool:
                        return ledger.count("stored") >= count

                    await eventually(far_enough, f"{acknowledged} acknowledged appends")
                    service.kill()
                    await asyncio.gather(*writers)
            unanswered += ledger.count("unknown")
            await ledger.check(book)
        assert unanswered, "the service was idle when it was killed"
        assert ledger.count("refused") == 0
        with running_service(database.url) as service:
            async with calling(service.url) as caller:
                assert await ledger.retry_unknown(caller) > 0
        assert ledger.count("stored") == len(ledger.entries)
        await ledger.check(book)


@pytest.mark.promise("P1", "P13")
async def test_a_service_that_is_told_to_stop_answers_everybody_first(
    database: Database, start: Start[Any]
) -> None:
    """SIGTERM in the middle of the load: nobody who was let in goes without an answer."""
    ledger = Ledger()
    async with opened_book(database.url) as book:
        with running_service(database.url) as service:
            async with calling(service.url) as caller:
                stop = asyncio.Event()
                writers = [start(ledger.write(caller, stop)) for _ in range(WRITERS)]

                async def far_enough() -> bool:
                    return ledger.count("stored") >= 100

                await eventually(far_enough, "100 acknowledged appends")
                service.terminate()
                await asyncio.gather(*writers)
                assert await asyncio.to_thread(service.process.wait, 30) == 0
        await ledger.check(book)
        # A request that meets the closing of its idle connection was never read: no writer
        # has more than one of those.
        assert ledger.count("unknown") <= WRITERS
        held = await book.value("select count(distinct payload ->> 'mark') from counterfoil.events")
        assert held == ledger.count("stored"), "something was written whose writer was not told"
