"""A PostgreSQL that may be killed, set up so that it does nothing for durability by itself."""

import uuid
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from counterfoil.server.db.embedded import EmbeddedPostgres
from tests.support.cluster import Cluster, reachable_folder
from tests.support.starting import start, tx

__all__ = ["start", "tx"]

CARELESS = {
    "synchronous_commit": "off",
    "wal_writer_delay": "10s",
    "wal_writer_flush_after": "1GB",
    "autovacuum": "off",
}
"""Whoever commits without asking for more is flushed much later: what is lost when the
service forgets to ask is then lost for sure."""


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedPostgres]:
    """An embedded PostgreSQL of the crash tests' own."""
    with reachable_folder() as folder, EmbeddedPostgres(folder, settings=CARELESS) as started:
        yield started


@pytest.fixture(scope="session")
def fragile(server: EmbeddedPostgres) -> Cluster:
    """The same, for databases of a test's own."""
    return Cluster(urlsplit(server.url)._replace(path="/postgres").geturl(), uuid.uuid4().hex[:12])
