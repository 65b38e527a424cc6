"""The bookkeeping of a million deliveries, and what an old snapshot does to it.

A delivery is a row that is written, changed and deleted again within moments; whatever keeps
such rows in PostgreSQL lives from vacuum coming by. So a million are claimed and acknowledged,
and the table is looked at meanwhile: its rows, those that are dead and not yet cleared away,
its size. Then again while another session holds an old snapshot, as a backup does: until it
ends, vacuum may clear away nothing that died after its beginning.

Holders work in stretches of ten seconds, each on a consumer of its own, which reads the same
book from its beginning; the tables are the same for all, and are never put in order between.
A stretch leaves some hundreds of rows: what its holders had in hand when they were stopped.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Final

from benchmarks.harness.model import Cell, Effort, Stage
from benchmarks.subjects import bookkeeping, consuming
from benchmarks.subjects.consuming import Holding
from benchmarks.subjects.queues import Turn
from benchmarks.suites import snapshot

DELIVERIES: Final = 1_000_000

STRETCH_SECONDS: Final = 10.0
STRETCHES_MAX: Final = 60
"""Ten minutes, by when a million must have been handed over."""

AROUND_SECONDS: Final = 20.0
"""How long is measured before the snapshot is taken and after it is gone."""

EVENTS: Final = 500_000
"""Of the book: more than a stretch takes."""

TURN: Final = Turn(holders=8, batch=50)

MILLION: Final = "handover/million/8-holders"
SNAPSHOT: Final = "handover/old-snapshot/8-holders"


class Handover:
    """Two long runs of one service: a million deliveries, and an old snapshot held meanwhile."""

    name: Final = "handover"
    title: Final = "The bookkeeping of deliveries"
    doors: Final[Mapping[str, str]] = {}

    def cell_ids(self, *, quick: bool) -> Sequence[str]:
        """The two; no goal needs them."""
        return [] if quick else [MILLION, SNAPSHOT]

    def effort(self, cell_id: str, *, quick: bool) -> Effort:  # noqa: ARG002 - the same for both
        """One round: each compares with itself, and takes long."""
        seconds = 60.0 if cell_id == MILLION else 2 * AROUND_SECONDS + snapshot.held_seconds()
        return Effort(rounds=1, seconds=seconds, around_seconds=10.0)

    def opening_seconds(self, *, quick: bool) -> float:
        """A book to fill, a service, and the book to check."""
        return 0 if quick else 30

    @contextmanager
    def open(self, stage: Stage) -> Iterator[Sequence[Cell]]:
        """A service of two workers on a filled book."""
        with consuming.opened(stage, "handover", events=EVENTS) as holding:
            runs: Mapping[str, Callable[[float], Mapping[str, float]]] = {
                MILLION: partial(_million, holding),
                SNAPSHOT: partial(_old_snapshot, holding),
            }
            yield [
                Cell(cell, runs[cell], holding.roles)
                for cell in self.cell_ids(quick=stage.quick)
                if stage.wants(cell)
            ]


def _million(holding: Holding, _seconds: float) -> dict[str, float]:
    """Until a million are done, however long that takes."""
    done, stretches = 0.0, 0
    with _watched(holding) as watch:
        while done < DELIVERIES and stretches < STRETCHES_MAX:
            done += holding.slice(TURN, "ack", STRETCH_SECONDS)
            stretches += 1
    return {
        "events_per_second": done / (stretches * STRETCH_SECONDS),
        **bookkeeping.figures(watch.samples()),
        "errors": 0.0,
        "events": done,
    }


def _old_snapshot(holding: Holding, _seconds: float) -> dict[str, float]:
    held = snapshot.held_seconds()
    rates: dict[str, float] = {}
    done = 0.0

    def stretches(name: str, seconds: float) -> None:
        nonlocal done
        count = max(1, round(seconds / STRETCH_SECONDS))
        here = sum(holding.slice(TURN, "ack", STRETCH_SECONDS) for _ in range(count))
        rates[f"{name}_events_per_second"] = here / (count * STRETCH_SECONDS)
        done += here

    with _watched(holding) as watch:
        stretches("before", AROUND_SECONDS)
        with snapshot.old_snapshot(holding.database_url):
            stretches("held", held)
        stretches("after", AROUND_SECONDS)
    return {
        **rates,
        "held_seconds": held,
        **bookkeeping.figures(watch.samples()),
        "errors": 0.0,
        "events": done,
    }


def _watched(holding: Holding) -> AbstractContextManager[bookkeeping.BookkeepingWatch]:
    return bookkeeping.watched(holding.database_url, every_seconds=STRETCH_SECONDS / 2)
