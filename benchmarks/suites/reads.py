"""Reads: the tutorial's list beside the tutorial's design, and pages, warm and cold."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import quote

import psycopg

from benchmarks.harness import cold, filling, reading, work
from benchmarks.harness.model import GOAL, GRID, QUICK, Cell, Effort, Stage, counted
from benchmarks.subjects import counterfoil, grown, tutorial
from benchmarks.subjects.grown import GrownBook
from benchmarks.subjects.tutorial import Tutorial

LIST: Final = "latest-20"
PAYLOAD: Final = "page-by-payload-1-in-1000"
READS: Final = (
    LIST,
    "page-by-rare-tag",
    "page-by-common-tag",
    "page-by-type",
    "page-by-tag-and-payload",
    PAYLOAD,
    "one-event",
)

SMALL: Final = filling.EVENTS_MIN
"""The tutorial's design at its best: a table that it can read whole in a moment."""

MEDIUM: Final = 100_000
"""As much as the tutorial's design is asked for: 64 lists at once in a million rows take it
longer than a run."""

LARGE: Final = 1_000_000

OURS: Final = "counterfoil-2-workers"
THEIRS: Final = "tutorial"

CONNECTIONS: Final = 64
COLD_SECONDS: Final = 2.0

_DISTINCT: Final = 2_000
"""Different reads of a kind, where there are as many."""

_LEAST: Final = {LIST: 20, PAYLOAD: 50, "one-event": 1}
"""Events that a read must show, where it is not 100. Scores are drawn: some are rarer."""


@dataclass(frozen=True, slots=True)
class Read:
    """One cell: what is read, in a book of which size, how, from whom."""

    kind: str
    events: int
    state: str
    connections: int
    subject: str

    @property
    def cell_id(self) -> str:
        """``reads/latest-20/1000000-events/warm/64-connections/counterfoil-2-workers``."""
        return (
            f"reads/{self.kind}/{self.events}-events/{self.state}/"
            f"{counted(self.connections, 'connection')}/{self.subject}"
        )


def all_reads(*, quick: bool) -> list[Read]:
    """The list from both subjects in two sizes, for the goal; the others from us, and cold too."""
    found = [
        Read(LIST, events, "warm", CONNECTIONS, subject)
        for events in (SMALL, MEDIUM)
        for subject in (OURS, THEIRS)
    ]
    if quick:
        return found
    for kind in READS:
        loads = [("warm", 1)]
        if kind != PAYLOAD:
            # 64 such searches at once are refused with 503, as they should be.
            loads.append(("warm", CONNECTIONS))
        loads.append(("cold", 1))
        found += [
            read
            for state, connections in loads
            if (read := Read(kind, LARGE, state, connections, OURS)) not in found
        ]
    return found


class Reads:
    """Throughput of 64 connections, and the latency of single reads on one.

    Cold means that no data is in memory when the run begins: see ``harness/cold.py``. A cold
    run warms up as it goes, so its p99 and its maximum say more than its median.
    """

    name: Final = "reads"
    title: Final = "Reads"
    doors: Final[Mapping[str, str]] = {OURS: counterfoil.DOORS, THEIRS: tutorial.DOORS}

    def cell_ids(self, *, quick: bool) -> Sequence[str]:
        """All reads."""
        return [read.cell_id for read in all_reads(quick=quick)]

    def effort(self, cell_id: str, *, quick: bool) -> Effort:
        """More for the list that a goal compares."""
        if quick:
            return Effort(rounds=1, seconds=QUICK.seconds)
        if "/cold/" in cell_id:
            return Effort(rounds=2, seconds=COLD_SECONDS, around_seconds=0.7)
        compared = cell_id.startswith(f"reads/{LIST}/") and f"/{LARGE}-events/" not in cell_id
        return GOAL if compared else Effort(rounds=2, seconds=GRID.seconds)

    def opening_seconds(self, *, quick: bool) -> float:
        """Filling the books and the tutorial's tables."""
        return 12 if quick else 80

    @contextmanager
    def open(self, stage: Stage) -> Iterator[Sequence[Cell]]:
        """For each size, a filled book with a service of two workers, and the same list there."""
        wanted = [read for read in all_reads(quick=stage.quick) if stage.wants(read.cell_id)]
        cells: list[Cell] = []
        with ExitStack() as opened:
            for events in sorted({read.events for read in wanted}):
                ours = [read for read in wanted if (read.events, read.subject) == (events, OURS)]
                if ours:
                    book = opened.enter_context(
                        grown.opened(stage, f"reads_{events}", events=events)
                    )
                    files: dict[str, Path] = {}
                    cells += [_cell(stage, book, read, files) for read in ours]
                theirs = [
                    read for read in wanted if (read.events, read.subject) == (events, THEIRS)
                ]
                if theirs:
                    program = opened.enter_context(_filled_tutorial(stage, events))
                    file = reading.write_requests(stage, program, _lists())
                    reading.must_show(program, _lists()[0], at_least=20)
                    run = partial(reading.closed_loop, program, file, connections=CONNECTIONS)
                    cells += [Cell(read.cell_id, run, program.roles) for read in theirs]
            yield sorted(cells, key=lambda cell: [read.cell_id for read in wanted].index(cell.id))


def _cell(stage: Stage, book: GrownBook, read: Read, files: dict[str, Path]) -> Cell:
    service = book.subject.service
    if read.kind not in files:
        paths = _paths(book, read.kind)
        reading.must_show(service, paths[0], at_least=_LEAST.get(read.kind, 100))
        files[read.kind] = reading.write_requests(stage, service, paths)
    drive = partial(reading.closed_loop, service, files[read.kind], connections=read.connections)
    if read.state == "warm":
        return Cell(read.cell_id, drive, book.subject.roles)
    run = partial(_cold, book, partial(drive, warm_up=False))
    return Cell(read.cell_id, run, book.subject.roles)


def _cold(book: GrownBook, drive: partial[dict[str, float]], seconds: float) -> Mapping[str, float]:
    both = cold.chill(book.subject.database_url)
    return {**drive(seconds), "operating_system_cold": float(both)}


def _paths(book: GrownBook, kind: str) -> list[str]:
    """Reads of one kind, each of something else as far as there is a choice."""
    chance = random.Random(kind)
    filled = book.filled
    match kind:
        case "latest-20":
            paths = _lists()
        case "page-by-rare-tag":
            paths = [
                reading.page_path(tag=filled.dossier(number))
                for number in range(min(filled.dossiers, _DISTINCT))
            ]
        case "page-by-common-tag":
            paths = [reading.page_path(tag=filling.COMMON_TAG)]
        case "page-by-type":
            paths = [reading.page_path(type=each) for each in work.TYPES]
        case "page-by-tag-and-payload":
            paths = [
                reading.page_path(tag=filled.dossier(number), payload='{"currency":"EUR"}')
                for number in range(min(filled.dossiers, _DISTINCT))
            ]
        case "page-by-payload-1-in-1000":
            # No index helps: a hundred thousand events are looked at for a page.
            paths = [reading.page_path(payload=f'{{"score":{score}}}') for score in range(1_000)]
        case _:
            paths = [f"/events/{chance.randint(1, filled.events)}" for _ in range(_DISTINCT)]
    chance.shuffle(paths)
    return paths


def _lists() -> list[str]:
    return [f"/agent-events/{quote(agent)}" for agent in work.AGENTS]


@contextmanager
def _filled_tutorial(stage: Stage, events: int) -> Iterator[Tutorial]:
    """The tutorial's program on a table with the same events as our book of that size.

    They are taken out again at the end: the program's own check counts what came over HTTP.
    """
    with tutorial.opened(stage, f"reads_tutorial_{events}") as program:
        filling.fill_tutorial(program.database_url, events)
        yield program
        with psycopg.connect(program.database_url, autocommit=True) as connection:
            connection.execute("truncate agent_events")
