"""Batches without us: multi-row INSERT and COPY, into a plain table and into the book's own.

- ``insert_batches``: one INSERT of many rows a transaction, into the plain table of
  ``plain_postgresql.py``, with the positions returned.
- ``copy_batches``: a server-side COPY (the server reads a file) into the same table.
- ``BookTables``: a server-side COPY of a whole batch, events and tags, into the very tables of
  Counterfoil with all their indexes, in one transaction. It is the least that storing a
  batch there costs: nothing is judged, digested, locked or checked, and the positions were
  given out before. Files are made before the clock starts.
"""

import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg

from benchmarks.harness import work
from benchmarks.harness.figures import latency_figures
from benchmarks.harness.model import BenchmarkError, Roles, Stage
from benchmarks.subjects.plain_postgresql import WARM_UP_SECONDS, PlainPostgresql
from counterfoil.server.db import sqlfile

DOORS: Final = "server-side COPY, Unix socket"

FILES_MORE_THAN_EXPECTED: Final = 1.5
"""Batches are made beforehand for the speed of the warm-up, and so many times more."""

_SQL = sqlfile.load("benchmarks.subjects", "copying.sql")

_SALT: Final = rf"\\x{'5a' * 16}"
_DIGEST: Final = rf"\\x{'a5' * 32}"
_TIME: Final = "2026-01-01 00:00:00+00"
_TRANSACTION: Final = "transaction:w_"


def insert_batches(
    stage: Stage, plain: PlainPostgresql, seconds: float, *, clients: int, rows: int
) -> dict[str, float]:
    """One INSERT of so many rows a transaction; returns the cell's figures."""
    head = _SQL["insert_rows"]
    lines = ",\n".join(
        "({})".format(", ".join(map(_literal, _plain_row(event))))
        for event in work.events(count=rows)
    )
    script = stage.folder / f"insert_{rows}_rows.sql"
    script.write_text(f"{head}\n{lines}\nreturning position;\n")
    return plain.pgbench(script, seconds, clients=clients, rows=rows, mode="simple")


def copy_batches(
    stage: Stage, plain: PlainPostgresql, seconds: float, *, clients: int, rows: int
) -> dict[str, float]:
    """One COPY of a file of so many rows a transaction; returns the cell's figures."""
    data = stage.folder / f"copy_{rows}_rows.data"
    data.write_text(
        "".join("\t".join(_plain_row(event)) + "\n" for event in work.events(count=rows))
    )
    data.chmod(0o644)
    script = stage.folder / f"copy_{rows}_rows.sql"
    script.write_text(_SQL["copy_rows"].replace("FILE", str(data)) + ";\n")
    return plain.pgbench(script, seconds, clients=clients, rows=rows, mode="simple")


class BookTables:
    """The tables of a book that only COPY writes to. Made by ``opened``."""

    def __init__(self, stage: Stage, url: str) -> None:
        self._stage = stage
        self._url = url
        self._lock = threading.Lock()
        self._position = 1
        self._names = itertools.count()
        events = list(work.events(count=5_000, series="copy"))
        # A row of events around its position and its transaction's number, and one of tags.
        self._rows = [
            (
                f"\t{event.agent_name}\t{event.event_type}\t{event.payload_text}",
                f"\t{{customer:{event.customer},{_TRANSACTION}",
                f"}}\t{_TIME}\t\\N\t{{}}\t\\N\t{_SALT}\t{_DIGEST}\tapi-key\n",
                f"1\tcustomer:{event.customer}\t",
            )
            for event in events
        ]

    def roles(self) -> Roles:
        """Whose CPU time is whose."""
        return {"postgresql": [self._stage.cluster.postmaster_pid]}

    def copy_batches(self, seconds: float, *, clients: int, rows: int) -> dict[str, float]:
        """COPY batches of so many events with so many sessions; returns the cell's figures.

        Raises:
            BenchmarkError: the tables do not hold what was copied.
        """
        before = self._count()
        with ThreadPoolExecutor(clients) as pool:
            sessions = [psycopg.connect(self._url, autocommit=True) for _ in range(clients)]
            try:
                warm_up = self._drive(pool, sessions, [[] for _ in sessions], WARM_UP_SECONDS, rows)
                each = len(warm_up) / clients / WARM_UP_SECONDS * seconds
                count = int(each * FILES_MORE_THAN_EXPECTED) + 1
                ready = [[self._batch(rows) for _ in range(count)] for _ in sessions]
                started = time.monotonic()
                latencies = self._drive(pool, sessions, ready, seconds, rows)
                elapsed = time.monotonic() - started
            finally:
                for session in sessions:
                    session.close()
                for path in self._stage.folder.glob("book-*.data"):
                    path.unlink()
        batches = len(warm_up) + len(latencies)
        if self._count() - before != batches * rows:
            raise BenchmarkError("COPY did not write what it was given")
        return {
            "events_per_second": len(latencies) * rows / elapsed,
            "requests_per_second": len(latencies) / elapsed,
            **latency_figures(latencies),
            "errors": 0.0,
            "events": float(batches * rows),
        }

    def _drive(
        self,
        pool: ThreadPoolExecutor,
        sessions: list[psycopg.Connection],
        ready: list[list[tuple[Path, Path]]],
        seconds: float,
        rows: int,
    ) -> list[float]:
        until = time.monotonic() + seconds

        def work_off(session: psycopg.Connection, batches: list[tuple[Path, Path]]) -> list[float]:
            latencies = []
            while time.monotonic() < until:
                events, tags = batches.pop() if batches else self._batch(rows)
                started = time.monotonic()
                with session.transaction():
                    session.execute(_copy("copy_events", events))
                    session.execute(_copy("copy_tags", tags))
                latencies.append((time.monotonic() - started) * 1e3)
            return latencies

        return [latency for found in pool.map(work_off, sessions, ready) for latency in found]

    def _batch(self, rows: int) -> tuple[Path, Path]:
        """Files of the next batch: its events and its tags."""
        with self._lock:
            first = self._position
            self._position += rows
            name = next(self._names)
        events, tags = [], []
        for position in range(first, first + rows):
            content, tag, rest, customer = self._rows[position % len(self._rows)]
            transaction = f"{position:012d}"  # as long as those that go over HTTP
            events.append(f"1\t{position}{content}{tag}{transaction}{rest}")
            tags.append(f"{customer}{position}\n1\t{_TRANSACTION}{transaction}\t{position}\n")
        paths = (
            self._stage.folder / f"book-{name}-events.data",
            self._stage.folder / f"book-{name}-tags.data",
        )
        for path, lines in zip(paths, (events, tags), strict=True):
            path.write_text("".join(lines))
            path.chmod(0o644)
        return paths

    def _count(self) -> int:
        with psycopg.connect(self._url) as connection:
            row = connection.execute(_SQL["count"]).fetchone()
        assert row is not None
        return int(row[0])


@contextmanager
def opened(stage: Stage, database: str) -> Iterator[BookTables]:
    """A new book's tables while the block does."""
    yield BookTables(stage, stage.cluster.create_database(database, migrated=True))
    stage.cluster.drop_database(database)


def _copy(name: str, path: Path) -> bytes:
    return _SQL[name].replace("FILE", str(path)).encode()


def _plain_row(event: work.Event) -> tuple[str, ...]:
    tags = ",".join(event.tags)
    return (
        event.agent_name,
        event.event_type,
        event.payload_text,
        f"{{{tags}}}",
        _SALT,
        _DIGEST,
    )


def _literal(value: str) -> str:
    """As an SQL literal; COPY's doubled backslash is a single one there."""
    return "'{}'".format(value.replace("'", "''").replace(r"\\", "\\"))
