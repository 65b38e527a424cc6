"""What an old snapshot costs: a backup or a report that holds back vacuum while all write."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final

import psycopg
from psycopg import IsolationLevel

from benchmarks.harness import book_check
from benchmarks.harness.model import BenchmarkError, Cell, Effort, Stage
from benchmarks.harness.watching import watched
from benchmarks.subjects import counterfoil
from benchmarks.subjects.counterfoil import CounterfoilSubject

CELL: Final = "held-snapshot/appends/64-connections"

HELD_SECONDS_VARIABLE: Final = "BENCH_HELD_SECONDS"
"""Set it to 600 for ten minutes."""

HELD_SECONDS: Final = 60.0
AROUND_SECONDS: Final = 20.0
"""How long is measured before and after."""

INTERVAL_SECONDS: Final = 10.0


class HeldSnapshot:
    """Full-speed appends before, while and after another session holds an old snapshot.

    The session is one of ``REPEATABLE READ`` in the same database, which has read the book
    once and then idles, as ``pg_dump`` does between two tables. Its figures say how long it
    was held, and ``at_<n>_s_events_per_second`` is the rate in the interval that ended so long
    after the begin of the run.
    """

    name: Final = "held-snapshot"
    title: Final = "An old snapshot is held"
    doors: Final[Mapping[str, str]] = {}

    def cell_ids(self, *, quick: bool) -> Sequence[str]:
        """One cell, in which the three times follow each other; no goal needs it."""
        return [] if quick else [CELL]

    def effort(self, cell_id: str, *, quick: bool) -> Effort:  # noqa: ARG002 - there is one
        """One round: it compares with itself, and takes long."""
        return Effort(rounds=1, seconds=2 * AROUND_SECONDS + held_seconds(), around_seconds=5.0)

    def opening_seconds(self, *, quick: bool) -> float:  # noqa: ARG002 - the same
        """A service, and a book to check."""
        return 12

    @contextmanager
    def open(self, stage: Stage) -> Iterator[Sequence[Cell]]:
        """A service of two workers on an empty book."""
        with counterfoil.opened(stage, "held_snapshot", workers=2) as subject:
            file = subject.write_requests()
            run = partial(
                _run,
                subject,
                partial(subject.closed_loop, file, connections=64),
                held=held_seconds(),
            )
            yield [Cell(CELL, run, subject.roles)]


def held_seconds() -> float:
    """How long the snapshot is held. Raises BenchmarkError for what is no number of seconds."""
    asked = os.environ.get(HELD_SECONDS_VARIABLE)
    if asked is None:
        return HELD_SECONDS
    if not asked.isdigit() or not int(asked):
        raise BenchmarkError(f"{HELD_SECONDS_VARIABLE} must be a number of seconds, not {asked!r}.")
    return float(asked)


def _run(
    subject: CounterfoilSubject,
    drive: Callable[[float], Mapping[str, float]],
    _seconds: float,
    *,
    held: float,
) -> dict[str, float]:
    with watched(subject.database_url, every_seconds=INTERVAL_SECONDS) as watch:
        times = {"before": drive(AROUND_SECONDS)}
        with old_snapshot(subject.database_url):
            times["held"] = drive(held)
        times["after"] = drive(AROUND_SECONDS)
        rates = watch.rates()
    figures = {
        f"{time}_{name}": value
        for time, driven in times.items()
        for name, value in driven.items()
        if name in {"events_per_second", "p50_milliseconds", "p99_milliseconds"}
    }
    figures |= {
        f"at_{round((number + 1) * INTERVAL_SECONDS)}_s_events_per_second": rate
        for number, rate in enumerate(rates)
    }
    return {**figures, "held_seconds": held, "errors": 0.0}


@contextmanager
def old_snapshot(url: str) -> Iterator[None]:
    """Hold a snapshot of the book while the block runs.

    Raises:
        BenchmarkError: it did not hold: at the end it sees what was written meanwhile.
    """
    with psycopg.connect(url, application_name="benchmark snapshot") as connection:
        connection.isolation_level = IsolationLevel.REPEATABLE_READ
        seen = book_check.head(connection)
        yield
        if book_check.head(connection) != seen:
            raise BenchmarkError("The snapshot that should have been held was not.")
