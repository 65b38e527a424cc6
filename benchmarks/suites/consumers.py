"""Events claimed and acknowledged a second, beside queues on PostgreSQL with leases and retries.

Each holder claims so many, has them whole, and acknowledges them, in two transactions: what a
worker does that survives a crash. Nobody works on them in between. Asked for 1, 8 and 64 holders
at once, one event at a time and fifty:

- *acknowledged*: and that is all.
- *with-outcomes*: and for each event an outcome is written in the same transaction. pgmq is the
  only peer whose acknowledging can be put into a transaction with something else; it sends to a
  second queue.

The peers are called where they are fastest, by pgbench over the Unix socket.

Which peers: those of the registry that are kept up (a version in the last half year), run on
PostgreSQL, and give leases and retries. Included, since they run at their best here: pgmq,
procrastinate (one at a time; it has no batches) and PgQueuer. Not included:

- Chancy 0.26 and Absurd 0.5 were tried, by the same means. Each claim of theirs sorts everything
  that waits: with 120,000 waiting Chancy gave 4 to 11 jobs a second, with 400,000 Absurd 1 to 2,
  and with 10,000 35 to 65. Filled queues are what this suite is about.
- Oban for Python 0.7 takes Python 3.12, and this environment may be 3.11.
- River and Graphile Worker are libraries of Go and Node. PGQ is an extension in C.
- DBOS and Hatchet are engines of workflows; Hatchet is a server of its own.
- pq 1.9 has no leases: it holds a transaction open.

A product that is not installed is left out, and the suite says so.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from benchmarks.harness.model import GRID, Cell, Effort, Stage, counted
from benchmarks.subjects import pgmq, pgmq_queue, pgqueuer, procrastinate, queues
from benchmarks.subjects.queues import Product, Turn

HOLDERS: Final = (1, 8, 64)
BATCHES: Final = (1, 50)

PGMQ: Final = "pgmq"
PROCRASTINATE: Final = "procrastinate"
PGQUEUER: Final = "pgqueuer"

DOORS: Final[Mapping[str, str]] = {
    PGMQ: queues.DOORS,
    PROCRASTINATE: queues.DOORS,
    PGQUEUER: queues.DOORS,
}
"""How each is called."""

_PEERS: Final[Mapping[str, tuple[Product, Callable[[], str | None]]]] = {
    PGMQ: (pgmq_queue.PRODUCT, pgmq.missing),
    PROCRASTINATE: (procrastinate.PRODUCT, procrastinate.missing),
    PGQUEUER: (pgqueuer.PRODUCT, pgqueuer.missing),
}
"""By name: the product, and what says why it cannot be measured here."""


@dataclass(frozen=True, slots=True)
class Load:
    """One cell's load."""

    turn: Turn
    subject: str

    @property
    def cell_id(self) -> str:
        """``consumers/acknowledged/batch-50/64-holders/pgmq``."""
        kind = "with-outcomes" if self.turn.outcomes else "acknowledged"
        holders = counted(self.turn.holders, "holder")
        return f"consumers/{kind}/batch-{self.turn.batch}/{holders}/{self.subject}"


def _subjects(turn: Turn) -> Iterator[str]:
    yield PGMQ
    if not turn.outcomes:
        yield PGQUEUER
        if turn.batch == 1:
            yield PROCRASTINATE


LOADS: Final = tuple(
    Load(turn, subject)
    for outcomes, batch, holders in itertools.product((False, True), BATCHES, HOLDERS)
    for turn in (Turn(holders, batch, outcomes=outcomes),)
    for subject in _subjects(turn)
)


class Consumers:
    """Claiming and acknowledging, with few holders and many, one by one and in batches."""

    name: Final = "consumers"
    title: Final = "Consumers"
    doors: Final[Mapping[str, str]] = DOORS

    def cell_ids(self, *, quick: bool) -> Sequence[str]:
        """All of them; none in the short run."""
        return [] if quick else [load.cell_id for load in LOADS]

    def effort(self, cell_id: str, *, quick: bool) -> Effort:  # noqa: ARG002 - the same for all
        """Each run has a queue to fill before it."""
        return Effort(GRID.rounds, GRID.seconds, around_seconds=6.0)

    def opening_seconds(self, *, quick: bool) -> float:
        """A database for each, and a book to fill and to check."""
        return 0 if quick else 30

    @contextmanager
    def open(self, stage: Stage) -> Iterator[Sequence[Cell]]:
        """A database for each product that is asked for and can be had."""
        loads = [load for load in LOADS if stage.wants(load.cell_id)]
        with ExitStack() as opened:
            cells: list[Cell] = []
            for name, (product, missing) in _PEERS.items():
                mine = [load for load in loads if load.subject == name]
                if not mine:
                    continue
                if reason := missing():
                    stage.say(f"{name} is left out: {reason}")
                    continue
                queue = opened.enter_context(queues.opened(stage, product))
                cells += [
                    Cell(
                        load.cell_id,
                        partial(queue.take, load.turn),
                        queue.roles,
                        partial(queue.prepare, load.turn),
                    )
                    for load in mine
                ]
            yield cells
