"""What a complete decision costs (read, apply the rules, append), beside a conditional append.

A conditional append is the last third of a decision, and what an agent would send that had read
and decided by itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final

from benchmarks.harness import requests
from benchmarks.harness.model import GOAL, Cell, Effort, Stage, counted
from benchmarks.subjects import deciding
from benchmarks.suites.conditions import one_item

WORKERS: Final = 2
CLIENTS: Final = (1, 16, 64)
DECISION: Final = "decision"
APPEND: Final = "conditional-append"


class Decisions:
    """Decisions by policy, beside plain conditional appends."""

    name: Final = "decisions"
    title: Final = "Decisions by policy"
    doors: Final[Mapping[str, str]] = {
        DECISION: "`POST /decisions`: read, apply the rules, append",
        APPEND: "`POST /agent-events` with a condition of one item",
    }

    def cell_ids(self, *, quick: bool) -> Sequence[str]:
        """Both, with one client and with many; the short run has no time for them."""
        return [
            f"decisions/{counted(clients, 'client')}/{what}"
            for clients in (() if quick else CLIENTS)
            for what in (DECISION, APPEND)
        ]

    def effort(self, cell_id: str, *, quick: bool) -> Effort:  # noqa: ARG002 - the same for all
        """That of a goal."""
        return GOAL

    def opening_seconds(self, *, quick: bool) -> float:
        """A service, a book to check, and applications before each run."""
        return 0 if quick else 75

    @contextmanager
    def open(self, stage: Stage) -> Iterator[Sequence[Cell]]:
        """One service and one book for all."""
        with deciding.opened(stage, workers=WORKERS) as (subject, decider):
            file = subject.write_requests(condition=one_item, transaction=requests.ASKED)
            cells = []
            for clients in CLIENTS:
                load = f"decisions/{counted(clients, 'client')}"
                cells += [
                    Cell(
                        f"{load}/{DECISION}",
                        partial(decider.take, clients),
                        decider.roles,
                        decider.prepare,
                    ),
                    Cell(
                        f"{load}/{APPEND}",
                        partial(subject.conditional_loop, file, connections=clients, conflicts=0.0),
                        subject.roles,
                    ),
                ]
            wanted = self.cell_ids(quick=stage.quick)
            yield [cell for cell in cells if cell.id in wanted and stage.wants(cell.id)]
