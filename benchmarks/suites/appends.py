"""Appends of one event: from one connection to 256, beside what PostgreSQL itself can do.

The open-loop cells send at ``OPEN_LOOP_SHARE`` of the rate that the closed loop reached with
the same subject and as many connections: the median of the rounds until then, or of a short
run at the opening as long as there was none.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Final

from benchmarks.harness.model import GOAL, GRID, QUICK, Cell, Effort, Stage, counted
from benchmarks.subjects import counterfoil, plain_postgresql, tutorial

CONNECTIONS: Final = (1, 16, 64, 256)
WORKERS: Final = (1, 2)

PLAIN: Final = "plain"
KEYED: Final = "keyed"
OPEN_LOOP: Final = "open-loop"
OPEN_LOOP_SHARE: Final = 0.7
OPEN_LOOP_CONNECTIONS: Final = (64, 256)

PGBENCH: Final = "pgbench"
TUTORIAL: Final = "tutorial"
TUTORIAL_CONNECTIONS: Final = (1, 64)

CALIBRATION_SECONDS: Final = 2.0

Run = Callable[[float], Mapping[str, float]]


def counterfoil_with(workers: int) -> str:
    """The subject's part of a cell's id."""
    return f"counterfoil-{counted(workers, 'worker')}"


@dataclass(frozen=True, slots=True)
class Load:
    """One cell's load."""

    kind: str
    connections: int
    subject: str

    @property
    def cell_id(self) -> str:
        """``appends/plain/64-connections/counterfoil-2-workers``."""
        return f"appends/{self.kind}/{counted(self.connections, 'connection')}/{self.subject}"


def loads(*, quick: bool) -> list[Load]:
    """All of them, or those that the goals need."""
    if quick:
        ours = counterfoil_with(2)
        found = [Load(PLAIN, n, subject) for n in (1, 64, 256) for subject in (ours, PGBENCH)]
        return [*found, Load(PLAIN, 64, TUTORIAL)]
    ours_all = [counterfoil_with(workers) for workers in WORKERS]
    found = [Load(PLAIN, n, subject) for n in CONNECTIONS for subject in (*ours_all, PGBENCH)]
    found += [Load(PLAIN, n, TUTORIAL) for n in TUTORIAL_CONNECTIONS]
    found += [Load(KEYED, n, ours_all[-1]) for n in CONNECTIONS]
    found += [Load(KEYED, 64, ours_all[0])]
    found += [Load(OPEN_LOOP, n, subject) for n in OPEN_LOOP_CONNECTIONS for subject in ours_all]
    return found


class Appends:
    """One event a request."""

    name: Final = "appends"
    title: Final = "Appends of one event"
    doors: Final[Mapping[str, str]] = {
        **{counterfoil_with(workers): counterfoil.DOORS for workers in WORKERS},
        PGBENCH: plain_postgresql.DOORS,
        TUTORIAL: tutorial.DOORS,
    }

    def cell_ids(self, *, quick: bool) -> Sequence[str]:
        """All subjects at all numbers of connections."""
        return [load.cell_id for load in loads(quick=quick)]

    def effort(self, cell_id: str, *, quick: bool) -> Effort:
        """More for what the goals need, which is what the short run is content with."""
        if quick:
            # Of a run of pgbench, the connecting of 256 clients takes the most of a second.
            return replace(QUICK, seconds=3.0) if "/256-connections/" in cell_id else QUICK
        return GOAL if cell_id in self.cell_ids(quick=True) else GRID

    def opening_seconds(self, *, quick: bool) -> float:
        """Services and books, and a first guess for each open loop."""
        return 15 if quick else 40

    @contextmanager
    def open(self, stage: Stage) -> Iterator[Sequence[Cell]]:
        """A service and a book for each number of workers, a table for pgbench."""
        wanted = [load for load in loads(quick=stage.quick) if stage.wants(load.cell_id)]
        cells: list[Cell] = []
        with ExitStack() as opened:
            for workers in WORKERS:
                mine = _of(wanted, counterfoil_with(workers))
                if mine:
                    subject = opened.enter_context(
                        counterfoil.opened(stage, f"appends_{workers}", workers=workers)
                    )
                    cells += _cells(subject, mine)
            if mine := _of(wanted, PGBENCH):
                plain = opened.enter_context(plain_postgresql.opened(stage, "appends_plain"))
                for load in mine:
                    run = partial(plain.insert_rows, clients=load.connections)
                    cells.append(Cell(load.cell_id, run, plain.roles))
            if mine := _of(wanted, TUTORIAL):
                usual = opened.enter_context(tutorial.opened(stage, "appends_tutorial"))
                for load in mine:
                    run = partial(usual.closed_loop, connections=load.connections)
                    cells.append(Cell(load.cell_id, run, usual.roles))
            yield cells


def _of(wanted: Sequence[Load], subject: str) -> list[Load]:
    return [load for load in wanted if load.subject == subject]


def _cells(subject: counterfoil.CounterfoilSubject, mine: Sequence[Load]) -> Iterator[Cell]:
    plain = subject.write_requests()
    keyed = subject.write_requests(keyed=True)
    rates: dict[int, list[float]] = {}

    def closed(connections: int, seconds: float) -> Mapping[str, float]:
        figures = subject.closed_loop(plain, seconds, connections=connections)
        rates.setdefault(connections, []).append(figures["events_per_second"])
        return figures

    def open_loop(connections: int, first_guess: float, seconds: float) -> Mapping[str, float]:
        rate = OPEN_LOOP_SHARE * median(rates.get(connections) or [first_guess])
        return subject.open_loop(plain, seconds, connections=connections, rate=rate)

    for load in mine:
        run: Run
        if load.kind == OPEN_LOOP:
            guess = subject.closed_loop(plain, CALIBRATION_SECONDS, connections=load.connections)
            run = partial(open_loop, load.connections, guess["events_per_second"])
        elif load.kind == KEYED:
            run = partial(subject.closed_loop, keyed, connections=load.connections, keyed=True)
        else:
            run = partial(closed, load.connections)
        yield Cell(load.cell_id, run, subject.roles)
