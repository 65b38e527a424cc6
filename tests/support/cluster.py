"""One PostgreSQL for the whole test run, and a database of its own for every test.

The server is embedded, or the one that ``COUNTERFOIL_TEST_DATABASE_URL`` names (as a
superuser; PostgreSQL 15 or newer). Under xdist the controlling process owns it, because
workers end at different times; without xdist the first test that asks starts it.

A template database is migrated once per run, by whichever worker needs it first, and
cloned for each test. An advisory lock keeps the other workers waiting meanwhile.
"""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, LiteralString
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from counterfoil.server.db.embedded import EmbeddedPostgres

EXTERNAL: Final = "COUNTERFOIL_TEST_DATABASE_URL"

SETTINGS: Final = {
    "max_connections": "300",  # several workers, several services each, and a pool in each
}

TEMPLATE_LOCK: Final = 20_260_907
"""The advisory lock of whoever makes the template. Any number that nothing else uses."""


@dataclass(frozen=True, slots=True)
class Database:
    """A database of one test's own. ``url`` connects to it as a superuser, who owns it."""

    name: str
    url: str


@dataclass(frozen=True, slots=True)
class Cluster:
    """The server of this run. ``url`` connects to its maintenance database as a superuser."""

    url: str
    run: str

    def url_of(self, name: str) -> str:
        """How to connect to the database of this name."""
        return urlsplit(self.url)._replace(path=f"/{name}").geturl()

    def execute(self, statement: LiteralString, *names: str) -> None:
        """Run a statement with database names for its ``{}``, outside any transaction."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

    @property
    def template(self) -> str:
        """The name of the migrated database that the tests' own are cloned from."""
        return f"counterfoil_template_{self.run}"

    def ensure_template(self) -> None:
        """Make the template, unless this run has it."""
        # Here and not above: what only needs a server must not need the migrations.
        from counterfoil.server.db.migrations import migrate

        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("SELECT pg_advisory_lock(%s)", [TEMPLATE_LOCK])
            known = connection.execute(
                "SELECT FROM pg_database WHERE datname = %s", [self.template]
            ).fetchone()
            if known is None:
                # Under another name until it is done: half a template is none.
                growing = f"{self.template}_growing"
                self.execute("DROP DATABASE IF EXISTS {}", growing)
                self.execute("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'", growing)
                migrate(self.url_of(growing))
                self.execute("ALTER DATABASE {} RENAME TO {}", growing, self.template)

    @contextmanager
    def database(self) -> Iterator[Database]:
        """A fresh migrated database, dropped afterwards whoever is still connected to it."""
        self.ensure_template()
        name = f"counterfoil_test_{uuid.uuid4().hex}"
        self.execute("CREATE DATABASE {} TEMPLATE {}", name, self.template)
        try:
            yield Database(name, self.url_of(name))
        finally:
            self.execute("DROP DATABASE {} WITH (FORCE)", name)


@contextmanager
def reachable_folder() -> Iterator[Path]:
    """A fresh folder that an unprivileged user may pass through, as pytest's own are not.

    Root's PostgreSQL runs as such a user.
    """
    folder = Path(tempfile.mkdtemp(prefix="counterfoil-tests-", dir="/tmp"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """Start the server of this run, or take the one that the environment names."""
    run = uuid.uuid4().hex[:12]
    external = os.environ.get(EXTERNAL)
    if external:
        cluster = Cluster(external, run)
        yield cluster
        cluster.execute("DROP DATABASE IF EXISTS {}", cluster.template)
        return
    with reachable_folder() as folder, EmbeddedPostgres(folder, settings=SETTINGS) as server:
        yield Cluster(urlsplit(server.url)._replace(path="/postgres").geturl(), run)


class ClusterOfTheRun:
    """Owns the server in the controlling process, and tells its workers where it is."""

    def __init__(self) -> None:
        self._context: Any = None
        self._cluster: Cluster | None = None

    def get(self) -> Cluster:
        """The running server; started at the first call."""
        if self._cluster is None:
            self._context = running_cluster()
            self._cluster = self._context.__enter__()
        return self._cluster

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """xdist starts a worker: say where the server is."""
        cluster = self.get()
        node.workerinput["counterfoil_cluster"] = (cluster.url, cluster.run)

    def pytest_unconfigure(self) -> None:
        """The run is over."""
        if self._context is not None:
            self._context.__exit__(None, None, None)


OWNER: Final = pytest.StashKey[ClusterOfTheRun]()


def pytest_configure(config: pytest.Config) -> None:
    """Only a process that is not a worker owns a server."""
    if not hasattr(config, "workerinput"):
        config.stash[OWNER] = ClusterOfTheRun()
        config.pluginmanager.register(config.stash[OWNER], "counterfoil-cluster")


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> Cluster:
    """The PostgreSQL server of this run."""
    told = getattr(pytestconfig, "workerinput", {}).get("counterfoil_cluster")
    return Cluster(*told) if told else pytestconfig.stash[OWNER].get()


@pytest.fixture
def database(cluster: Cluster) -> Iterator[Database]:
    """A migrated database of the test's own."""
    with cluster.database() as fresh:
        yield fresh


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Where a test's own embedded PostgreSQL can keep its data; not there yet."""
    with reachable_folder() as folder:
        yield folder / "data"
