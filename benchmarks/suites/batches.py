"""Batches: many events in one request, beside what PostgreSQL has for many rows."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Final

from benchmarks.harness.model import GOAL, GRID, QUICK, Cell, Effort, Stage
from benchmarks.subjects import copying, counterfoil, plain_postgresql

CONNECTIONS: Final = 4
WORKERS: Final = 2
SIZES: Final = (10, 100, 1_000)

COUNTERFOIL: Final = f"counterfoil-{WORKERS}-workers"
COPY_BOOK: Final = "copy-into-the-same-tables"
COPY_PLAIN: Final = "copy-into-a-plain-table"
INSERT_PLAIN: Final = "insert-into-a-plain-table"
SUBJECTS: Final = (COUNTERFOIL, COPY_BOOK, COPY_PLAIN, INSERT_PLAIN)

FOR_GOALS: Final = tuple(f"batches/1000-events/{subject}" for subject in (COUNTERFOIL, COPY_BOOK))
"""What the goals need."""


class Batches:
    """Batches of ten, a hundred and a thousand events, four at a time."""

    name: Final = "batches"
    title: Final = "Batches"
    doors: Final[Mapping[str, str]] = {
        COUNTERFOIL: counterfoil.DOORS,
        COPY_BOOK: copying.DOORS,
        COPY_PLAIN: f"{plain_postgresql.DOORS}; COPY",
        INSERT_PLAIN: f"{plain_postgresql.DOORS}; multi-row INSERT",
    }

    def cell_ids(self, *, quick: bool) -> Sequence[str]:
        """Every size with every subject."""
        ids = [f"batches/{size}-events/{subject}" for size in SIZES for subject in SUBJECTS]
        return [cell for cell in ids if not quick or cell in FOR_GOALS]

    def effort(self, cell_id: str, *, quick: bool) -> Effort:
        """More for what the goals need."""
        if quick:
            return QUICK
        return GOAL if cell_id in FOR_GOALS else Effort(rounds=2, seconds=GRID.seconds)

    def opening_seconds(self, *, quick: bool) -> float:
        """A service, a book to check, and the files of COPY before each of its runs."""
        return 12 if quick else 40

    @contextmanager
    def open(self, stage: Stage) -> Iterator[Sequence[Cell]]:
        """A book for us, one for COPY, and a plain table; only those that are wanted."""
        wanted = [cell for cell in self.cell_ids(quick=stage.quick) if stage.wants(cell)]
        subjects = {cell.rpartition("/")[2] for cell in wanted}
        cells: list[Cell] = []
        with ExitStack() as opened:
            if COUNTERFOIL in subjects:
                book = opened.enter_context(counterfoil.opened(stage, "batches", workers=WORKERS))
                for cell in _of(wanted, COUNTERFOIL):
                    size = _size(cell)
                    file = book.write_requests(
                        path="/events/batch", events=size, templates=max(20, 2_000 // size)
                    )
                    run = partial(book.closed_loop, file, connections=CONNECTIONS, events=size)
                    cells.append(Cell(cell, run, book.roles))
            if COPY_BOOK in subjects:
                tables = opened.enter_context(copying.opened(stage, "batches_copy"))
                for cell in _of(wanted, COPY_BOOK):
                    run = partial(tables.copy_batches, clients=CONNECTIONS, rows=_size(cell))
                    cells.append(Cell(cell, run, tables.roles))
            if subjects & {COPY_PLAIN, INSERT_PLAIN}:
                plain = opened.enter_context(plain_postgresql.opened(stage, "batches_plain"))
                for subject, drive in (
                    (COPY_PLAIN, copying.copy_batches),
                    (INSERT_PLAIN, copying.insert_batches),
                ):
                    for cell in _of(wanted, subject):
                        run = partial(drive, stage, plain, clients=CONNECTIONS, rows=_size(cell))
                        cells.append(Cell(cell, run, plain.roles))
            yield cells


def _of(cells: Sequence[str], subject: str) -> list[str]:
    return [cell for cell in cells if cell.endswith(f"/{subject}")]


def _size(cell: str) -> int:
    return int(cell.split("/")[1].partition("-")[0])
