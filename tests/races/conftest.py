"""Two processes of the service at one book, and a superuser who sees who waits for whom.

The services are shared by all races of a run: starting two takes longer than most races.
So a test works on a transaction of its own (``tx``) and counts from the head that it finds.
"""

from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

import pytest

from counterfoil.server.core.settings import Settings
from counterfoil.server.log.operations import Log
from tests.support.appends import Caller, calling
from tests.support.cluster import Cluster, Database
from tests.support.gates import Book, opened_book
from tests.support.racing import race
from tests.support.service import Service, running_service
from tests.support.starting import start, tx
from tests.support.waiting import ARRIVAL_SECONDS_MAX, eventually

__all__ = ["race", "start", "tx"]


class TwoServices(NamedTuple):
    """Two independent processes of the service at one database."""

    database: Database
    one: Service
    other: Service


@pytest.fixture(scope="session")
def services(cluster: Cluster) -> Iterator[TwoServices]:
    """Two services and their database."""
    with (
        cluster.database() as database,
        running_service(database.url) as one,
        running_service(database.url) as other,
    ):
        yield TwoServices(database, one, other)


@pytest.fixture
async def one(services: TwoServices) -> AsyncIterator[Caller]:
    """An agent at the first service."""
    async with calling(services.one.url) as caller:
        yield caller


@pytest.fixture
async def other(services: TwoServices) -> AsyncIterator[Caller]:
    """An agent at the second service."""
    async with calling(services.other.url) as caller:
        yield caller


@pytest.fixture
async def book(services: TwoServices) -> AsyncIterator[Book]:
    """The book that both services write to."""
    async with opened_book(services.database.url) as opened:
        yield opened


@pytest.fixture
async def log(book: Book) -> AsyncIterator[Log]:
    """A third process of the service, as it were: its log, in this one.

    For what cannot be seen over HTTP: who was taken out of a queue, which stream is behind.
    """
    opened = await Log.open(Settings.from_environment(database_url=book.url))
    try:
        yield opened
    finally:
        await opened.close()


async def queued(log: Log, count: int) -> None:
    """Wait until so many appends wait in this process for their group to start."""

    async def look() -> bool:
        return sum(len(lane.waiting) for lane in log._writer._lanes.values()) == count

    await eventually(look, f"{count} appends in the queue", ARRIVAL_SECONDS_MAX)
