"""Appends of one event: from one connection to 256, beside what PostgreSQL itself can do."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Final

from benchmarks.harness.model import Cell, Stage
from benchmarks.subjects import counterfoil, plain_postgresql

CONNECTIONS: Final = (1, 16, 64, 256)
WORKERS: Final = (1, 2)
KINDS: Final = ("plain", "keyed")

QUICK: Final = frozenset(
    {
        *(f"appends/plain/{n}-connections/counterfoil-2-workers" for n in (1, 64, 256)),
        *(f"appends/plain/{n}-connections/pgbench" for n in (1, 64, 256)),
    }
)
"""What the goals need."""


class Appends:
    """One event a request."""

    name: Final = "appends"
    title: Final = "Appends of one event"

    def cell_ids(self, *, quick: bool) -> Sequence[str]:
        """All subjects at all numbers of connections."""
        ids = [
            f"appends/{kind}/{connections}-connections/{subject}"
            for kind in KINDS
            for connections in CONNECTIONS
            for subject in (
                *(_counterfoil(workers) for workers in WORKERS),
                *(["pgbench"] if kind == "plain" else []),
            )
        ]
        return [cell for cell in ids if not quick or cell in QUICK]

    def rounds(self, *, quick: bool) -> int:
        """Enough for a median whose neighbours show the spread."""
        return 3 if quick else 5

    @contextmanager
    def open(self, stage: Stage) -> Iterator[Sequence[Cell]]:
        """A service and a book for each number of workers, a table for pgbench."""
        wanted = [cell for cell in self.cell_ids(quick=stage.quick) if stage.wants(cell)]
        cells: list[Cell] = []
        with ExitStack() as opened:
            for workers in WORKERS:
                mine = [cell for cell in wanted if cell.endswith(_counterfoil(workers))]
                if not mine:
                    continue
                subject = opened.enter_context(
                    counterfoil.opened(stage, f"appends_{workers}", workers=workers)
                )
                files = {
                    kind: subject.write_requests(keyed=kind == "keyed")
                    for kind in {_kind(cell) for cell in mine}
                }
                for cell in mine:
                    run = partial(
                        subject.closed_loop,
                        files[_kind(cell)],
                        connections=_connections(cell),
                        keyed=_kind(cell) == "keyed",
                    )
                    cells.append(Cell(cell, run, subject.roles))
            mine = [cell for cell in wanted if cell.endswith("/pgbench")]
            if mine:
                plain = opened.enter_context(plain_postgresql.opened(stage, "appends_plain"))
                for cell in mine:
                    run = partial(plain.insert_rows, clients=_connections(cell))
                    cells.append(Cell(cell, run, plain.roles))
            yield cells


def _counterfoil(workers: int) -> str:
    return f"counterfoil-{workers}-worker{'s' if workers > 1 else ''}"


def _kind(cell: str) -> str:
    return cell.split("/")[1]


def _connections(cell: str) -> int:
    return int(cell.split("/")[2].partition("-")[0])
