"""Events claimed and acknowledged a second, beside queues on PostgreSQL with leases and retries.

Each holder claims so many, has them whole, and acknowledges them, in two transactions: what a
worker does that survives a crash. Nobody works on them in between. Asked for 1, 8 and 64 holders
at once, one event at a time and fifty:

- *acknowledged*: and that is all. Counterfoil is in it twice: with a call each to claim and to
  acknowledge, and (*done-with-the-next*) with the tokens of the batch before in the next claim's
  ``done``, one call a batch.
- *with-outcomes*: and for each event an outcome is written in the same transaction. pgmq, the
  only peer whose acknowledging can be put into a transaction with something else, sends to a
  second queue; Counterfoil appends events to the book that the first came from, and is asked for
  the next in the call that acknowledges (*ack-and-next*).

Counterfoil is called over HTTP with a key, by two workers, and judges what it is sent; no call
is keyed (no ``Idempotency-Key``): a claim that is lost is handed out again, and so it is with the
peers. Those are called where they are fastest, by pgbench over the Unix socket. With one holder
so are Counterfoil's own stored functions (*functions*: what is done goes with the next claim, an
outcome in a call of its own), which shows what handing out costs, and what the service. With more
holders it is the service that puts their calls together. The latencies are of one call over HTTP,
and of claiming and acknowledging together for all that pgbench calls.

Which peers: those of the registry that are kept up (a version in the last half year), run on
PostgreSQL, and give leases and retries. Included, since they run at their best here: pgmq,
procrastinate (one at a time; it has no batches) and PgQueuer. Not included:

- Chancy 0.26 and Absurd 0.5 were tried, by the same means. Each claim of theirs sorts everything
  that waits: one by one, Chancy gave 4 to 11 jobs a second with 120,000 waiting, Absurd 1 to 2
  with 400,000 and 35 to 65 with 10,000. Filled queues are what this suite is about.
- Oban for Python 0.7 takes Python 3.12, and this environment may be 3.11.
- River and Graphile Worker are libraries of Go and Node. PgQ is an extension of the server.
- DBOS and Hatchet are engines of workflows; Hatchet is a server of its own.
- pq 1.9 has no leases: what a worker took before it died is not handed out again.

A product that is not installed is left out, and the suite says so.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from benchmarks.harness.model import GOAL, Cell, Effort, Stage, counted
from benchmarks.subjects import (
    consuming,
    consuming_functions,
    pgmq,
    pgmq_queue,
    pgqueuer,
    procrastinate,
    queues,
)
from benchmarks.subjects.consuming_functions import HoldingByFunctions
from benchmarks.subjects.queues import Product, Turn

HOLDERS: Final = (1, 8, 64)
BATCHES: Final = (1, 50)
WORKERS: Final = 2

_DATABASE: Final = "consumers"

EVENTS: Final = 400_000
"""Of the book: more than any run takes. One that comes to its end is refused."""

OURS: Final = f"counterfoil-{WORKERS}-workers"
OURS_AT_ONCE: Final = f"{OURS}-done-with-the-next"
OURS_AND_NEXT: Final = f"{OURS}-ack-and-next"
FUNCTIONS: Final = "counterfoil-functions"

PGMQ: Final = "pgmq"
PROCRASTINATE: Final = "procrastinate"
PGQUEUER: Final = "pgqueuer"

DOORS: Final[Mapping[str, str]] = {
    OURS: consuming.DOORS,
    OURS_AT_ONCE: consuming.DOORS_AT_ONCE,
    OURS_AND_NEXT: consuming.DOORS_AND_NEXT,
    FUNCTIONS: consuming_functions.DOORS,
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
    yield OURS_AND_NEXT if turn.outcomes else OURS
    yield PGMQ
    if turn.holders == 1:
        yield FUNCTIONS
    if not turn.outcomes:
        yield OURS_AT_ONCE
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
        """Each run has a queue to fill before it, for fifty at a time a longer one."""
        around = 4.0 if "/batch-1/" in cell_id else 6.0
        return Effort(GOAL.rounds, GOAL.seconds, around_seconds=around)

    def opening_seconds(self, *, quick: bool) -> float:
        """A database for each, and a book to fill and to check."""
        return 0 if quick else 30

    @contextmanager
    def open(self, stage: Stage) -> Iterator[Sequence[Cell]]:
        """A service on a filled book, and a database for each product that can be had."""
        loads = [load for load in LOADS if stage.wants(load.cell_id)]
        with ExitStack() as opened:
            cells = _open_counterfoil(stage, opened, loads)
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


def _open_counterfoil(stage: Stage, opened: ExitStack, loads: Sequence[Load]) -> list[Cell]:
    ours = [load for load in loads if load.subject not in _PEERS]
    if not ours:
        return []
    holding = opened.enter_context(consuming.opened(stage, _DATABASE, events=EVENTS))
    by_functions = HoldingByFunctions(stage, holding, _DATABASE)
    cells = []
    for load in ours:
        if load.subject == FUNCTIONS:
            take, roles = partial(by_functions.take, load.turn), by_functions.roles
        else:
            take, roles = partial(holding.take, load.turn, _mode(load)), holding.roles
        cells.append(Cell(load.cell_id, take, roles, holding.prepare))
    return cells


def _mode(load: Load) -> consuming.Mode:
    if load.turn.outcomes:
        return "next"
    return "ack" if load.subject == OURS else "done"
