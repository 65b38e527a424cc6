"""What an old snapshot costs: a backup or a report that holds back vacuum while all write."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final

import psycopg
from psycopg import IsolationLevel

from benchmarks.harness import book_check
from benchmarks.harness.model import BenchmarkError, Cell, Stage
from benchmarks.harness.watching import watched
from benchmarks.subjects import counterfoil
from benchmarks.subjects.counterfoil import CounterfoilSubject

CELL: Final = "held-snapshot/appends/64-connections"

HELD_SECONDS_VARIABLE: Final = "BENCH_HELD_SECONDS"
"""Set it to 600 for ten minutes."""

HELD_SECONDS: Final = 180.0
QUICK_HELD_SECONDS: Final = 10.0
AROUND_SECONDS: Final = 30.0
"""How long is measured before and after."""

QUICK_AROUND_SECONDS: Final = 5.0
INTERVAL_SECONDS: Final = 10.0
QUICK_INTERVAL_SECONDS: Final = 2.0


class HeldSnapshot:
    """Full-speed appends before, while and after another session holds an old snapshot.

    The session is one of ``REPEATABLE READ`` in the same database, which has read the book
    once and then idles, as ``pg_dump`` does between two tables. Its figures say how long it
    was held, and ``at_<n>_s_events_per_second`` is the rate in the interval that ended so long
    after the begin of the run.
    """

    name: Final = "held-snapshot"
    title: Final = "An old snapshot is held"

    def cell_ids(self, *, quick: bool) -> Sequence[str]:  # noqa: ARG002 - the same in both
        """One cell, in which the three times follow each other."""
        return [CELL]

    def rounds(self, *, quick: bool) -> int:  # noqa: ARG002 - the same in both
        """One: it compares with itself, and takes long."""
        return 1

    @contextmanager
    def open(self, stage: Stage) -> Iterator[Sequence[Cell]]:
        """A service of two workers on an empty book."""
        with counterfoil.opened(stage, "held_snapshot", workers=2) as subject:
            file = subject.write_requests()
            around = QUICK_AROUND_SECONDS if stage.quick else AROUND_SECONDS
            held = _held_seconds(stage)
            run = partial(
                _run,
                subject,
                partial(subject.closed_loop, file, connections=64),
                around=around,
                held=held,
                interval=QUICK_INTERVAL_SECONDS if stage.quick else INTERVAL_SECONDS,
            )
            yield [Cell(CELL, run, subject.roles, seconds=2 * around + held)]


def _held_seconds(stage: Stage) -> float:
    """How long the snapshot is held. Raises BenchmarkError for what is no number of seconds."""
    asked = os.environ.get(HELD_SECONDS_VARIABLE)
    if asked is None:
        return QUICK_HELD_SECONDS if stage.quick else HELD_SECONDS
    if not asked.isdigit() or not int(asked):
        raise BenchmarkError(f"{HELD_SECONDS_VARIABLE} must be a number of seconds, not {asked!r}.")
    return float(asked)


def _run(
    subject: CounterfoilSubject,
    drive: Callable[[float], Mapping[str, float]],
    _seconds: float,
    *,
    around: float,
    held: float,
    interval: float,
) -> dict[str, float]:
    with watched(subject.database_url, every_seconds=interval) as watch:
        times = {"before": drive(around)}
        with _old_snapshot(subject.database_url):
            times["held"] = drive(held)
        times["after"] = drive(around)
        rates = watch.rates()
    figures = {
        f"{time}_{name}": value
        for time, driven in times.items()
        for name, value in driven.items()
        if name in {"events_per_second", "p50_milliseconds", "p99_milliseconds"}
    }
    figures |= {
        f"at_{round((number + 1) * interval)}_s_events_per_second": rate
        for number, rate in enumerate(rates)
    }
    return {**figures, "held_seconds": held, "errors": 0.0}


@contextmanager
def _old_snapshot(url: str) -> Iterator[None]:
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
