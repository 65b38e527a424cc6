"""What consumers leave behind in their tables while they work: rows, dead rows, bytes."""

import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg.rows import dict_row

from counterfoil.server.db import sqlfile

TABLES: Final = ("deliveries", "consumer_progress")

_SQL: Final = sqlfile.load("benchmarks.subjects", "consuming.sql")


@dataclass(frozen=True, slots=True)
class Table:
    """One table at one moment; rows as the statistics know them, bytes with all indexes."""

    live: int
    dead: int
    bytes: int
    vacuums: int


@dataclass(frozen=True, slots=True)
class Sample:
    """All of them at one moment.

    Attributes:
        seconds: since the first sample.
        put_out: deliveries that there have been until now.
    """

    seconds: float
    put_out: int
    deliveries: Table
    consumer_progress: Table


class BookkeepingWatch:
    """Looks at the tables every so often. Made by ``watched``."""

    def __init__(self, url: str, every_seconds: float) -> None:
        self._url = url
        self._every = every_seconds
        self._ended = threading.Event()
        self._samples: list[Sample] = []
        self._thread = threading.Thread(target=self._run, name="bookkeeping watch")

    def samples(self) -> Sequence[Sample]:
        """Everything that was seen until now; the first before anything happened."""
        return list(self._samples)

    def start(self) -> None:
        """Take the first sample soon."""
        self._thread.start()

    def stop(self) -> None:
        """Take no more."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        with (
            psycopg.connect(self._url, autocommit=True) as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            started = at = time.monotonic()
            while True:
                found = {row.pop("table"): row for row in cursor.execute(_SQL["bookkeeping"])}
                put_out = [row.pop("put_out") for row in found.values()]
                tables = {name: Table(**found[name]) for name in TABLES}
                self._samples.append(Sample(at - started, put_out[0], **tables))
                if self._ended.wait(max(0.0, at + self._every - time.monotonic())):
                    return
                at = time.monotonic()


@contextmanager
def watched(url: str, *, every_seconds: float) -> Iterator[BookkeepingWatch]:
    """Watch the tables of a database while the block runs."""
    watch = BookkeepingWatch(url, every_seconds)
    watch.start()
    try:
        yield watch
    finally:
        watch.stop()


def figures(samples: Sequence[Sample]) -> dict[str, float]:
    """The figures of a run's samples: of each interval, by when it ended, and the worst of all."""
    found: dict[str, float] = {}
    for before, after in itertools.pairwise(samples):
        at = f"at_{round(after.seconds)}_s"
        rate = (after.put_out - before.put_out) / (after.seconds - before.seconds)
        found |= {
            f"{at}_events_per_second": rate,
            f"{at}_live_rows": float(after.deliveries.live),
            f"{at}_dead_rows": float(after.deliveries.dead),
            f"{at}_bytes": float(after.deliveries.bytes),
        }
    if samples:
        found |= {
            "dead_rows_at_most": float(max(sample.deliveries.dead for sample in samples)),
            "live_rows_at_most": float(max(sample.deliveries.live for sample in samples)),
            "largest_bytes": float(max(sample.deliveries.bytes for sample in samples)),
            "progress_dead_rows_at_most": float(
                max(sample.consumer_progress.dead for sample in samples)
            ),
            "vacuums": float(samples[-1].deliveries.vacuums - samples[0].deliveries.vacuums),
        }
    return found
