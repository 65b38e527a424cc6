"""The PostgreSQL server of a run: made for it, durable as in production, gone afterwards.

It is the embedded server of ``counterfoil dev``, with room for more sessions, and with two
things taken out of the way of a comparison. Checkpoints are not left to a timer, which would
let one fall into the run of one subject only: the runner makes one before each run, so all
pay the same for the first change of a page after it. And spent segments of the write-ahead
log are kept for use again, so no subject pays for making files. All else is PostgreSQL's
default.
"""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, quote, urlsplit

import psycopg
from psycopg import sql

from benchmarks.harness.model import BenchmarkError
from counterfoil.server.db.embedded import EmbeddedPostgres
from counterfoil.server.db.migrations import migrate

DURABLE: Final[Mapping[str, str]] = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
}
"""What an acknowledged write rests on. The server is asked whether it holds."""

SETTINGS: Final[Mapping[str, str]] = {
    **DURABLE,
    "listen_addresses": "127.0.0.1",
    "max_connections": "400",  # 256 clients of one subject, and the pools of the others
    "shared_buffers": "1GB",
    "max_wal_size": "32GB",  # no checkpoint by size ...
    "checkpoint_timeout": "1d",  # ... nor by time, but before each run (see above)
    "min_wal_size": "4GB",
}
"""Given to the server at its start; shown in the results."""

_MEMORY_FILE_SYSTEMS: Final = frozenset({"tmpfs", "ramfs"})


class BenchmarkCluster:
    """A running server. Made by ``running_cluster``; satisfies ``model.Cluster``."""

    def __init__(self, server: EmbeddedPostgres, port: int) -> None:
        address = urlsplit(server.url)
        self._server = server
        self._user = address.username or ""
        self._password = address.password or ""
        self.socket_folder = parse_qs(address.query)["host"][0]
        self.port = port

    @property
    def postmaster_pid(self) -> int:
        """The root of the server's processes. Raises BenchmarkError when it has died."""
        if self._server.pid is None:
            raise BenchmarkError(
                f"PostgreSQL ended during the run; its log is {self._server.data_dir}/postgres.log"
            )
        return self._server.pid

    @property
    def binaries(self) -> Path:
        """The folder of the server's programs; they are those of the very server that runs."""
        return Path(f"/proc/{self.postmaster_pid}/exe").readlink().parent

    def url(self, database: str) -> str:
        """The owner's connection string of a database, through the Unix socket."""
        return (
            f"postgresql://{self._user}:{self._password}@/{database}"
            f"?host={quote(self.socket_folder, safe='')}&port={self.port}"
        )

    def tcp_url(self, database: str) -> str:
        """The same over loopback, for what cannot use a Unix socket."""
        return f"postgresql://{self._user}:{self._password}@127.0.0.1:{self.port}/{database}"

    def environment(self, database: str) -> dict[str, str]:
        """The variables by which libpq's programs (pgbench, psql) find a database."""
        return {
            "PATH": os.defpath,
            "PGHOST": self.socket_folder,
            "PGPORT": str(self.port),
            "PGUSER": self._user,
            "PGPASSWORD": self._password,
            "PGDATABASE": database,
        }

    def create_database(self, name: str, *, migrated: bool) -> str:
        """Make an empty database, with Counterfoil's schema if ``migrated``; returns its URL."""
        self.drop_database(name)
        with self._maintenance() as connection:
            connection.execute(
                sql.SQL("create database {} template template0").format(sql.Identifier(name))
            )
        url = self.url(name)
        if migrated:
            migrate(url)
        return url

    def drop_database(self, name: str) -> None:
        """Drop a database if it is there, whoever is still connected to it."""
        with self._maintenance() as connection:
            connection.execute(
                sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name))
            )

    def checkpoint(self) -> None:
        """Bring everything to disk, so that the next run starts from a quiet server."""
        with self._maintenance() as connection:
            connection.execute("checkpoint")

    def setting(self, name: str) -> str:
        """What the server says that a setting is."""
        with self._maintenance() as connection:
            row = connection.execute("select current_setting(%s)", [name]).fetchone()
        return str(row[0]) if row else ""

    def check_durable(self) -> None:
        """Raise BenchmarkError unless an acknowledged write is a flushed one here."""
        for name, wanted in DURABLE.items():
            if (found := self.setting(name)) != wanted:
                raise BenchmarkError(f"The server says {name} = {found}; {wanted} was asked for.")

    def _maintenance(self) -> psycopg.Connection:
        return psycopg.connect(self.url("postgres"), autocommit=True)


@contextmanager
def running_cluster(
    folder: Path, more: Mapping[str, str] | None = None
) -> Iterator[BenchmarkCluster]:
    """Run a server on ``folder/postgresql`` while the block does, with ``more`` settings.

    It is stopped on every way out, Ctrl-C included; if this process is killed, the embedded
    server's watcher stops it.

    Raises:
        BenchmarkError: the folder lies in memory, where flushing costs nothing, or the
            server is not durable.
    """
    if (kind := file_system(folder)) in _MEMORY_FILE_SYSTEMS:
        raise BenchmarkError(
            f"{folder} is memory ({kind}), where flushing costs nothing. Choose a folder on a "
            "disk with --folder."
        )
    port = _free_port()
    settings = {**SETTINGS, **(more or {}), "port": str(port)}
    with EmbeddedPostgres(folder / "postgresql", settings=settings) as server:
        cluster = BenchmarkCluster(server, port)
        cluster.check_durable()
        yield cluster


def file_system(folder: Path) -> str:
    """The type of the file system that holds a folder: ``ext4``, ``tmpfs``. Linux only."""
    best, kind = "", "unknown"
    place = str(folder.resolve())
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, name, *_ = line.split()
        inside = place == mount or place.startswith(mount.rstrip("/") + "/")
        # Mounts are listed in their order: of two on one place, the later covers the earlier.
        if inside and len(mount) >= len(best):
            best, kind = mount, name
    return kind


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
