"""What a condition costs: the same appends with and without, and with real conflicts.

All cells use the same script, which reads every answer to know the head, so that what the
generator does is the same for all of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.harness import requests
from benchmarks.harness.model import GOAL, GRID, QUICK, Cell, Effort, Stage
from benchmarks.subjects import counterfoil

WORKERS: Final = 2

UNCONDITIONAL: Final = "unconditional"


@dataclass(frozen=True, slots=True)
class Load:
    """One cell's load: so many connections, items in the condition, and conflicts."""

    connections: int
    items: int = 0
    conflicts_percent: int = 0

    @property
    def cell_id(self) -> str:
        """``conditions/64-connections/5-items-10-percent-conflicts``."""
        kind = UNCONDITIONAL if not self.items else f"{self.items}-item{'s' * (self.items > 1)}"
        conflicts = self.conflicts_percent
        return f"conditions/{self.connections}-connections/{kind}" + (
            f"-{conflicts}-percent-conflicts" if conflicts else ""
        )


LOADS: Final = (
    Load(64),
    *(Load(64, items, conflicts) for items in (1, 5) for conflicts in (0, 1, 10)),
    Load(256),
    Load(256, 1),
    Load(256, 5),
)

FOR_GOALS: Final = (Load(64), Load(64, 1), Load(64, 5))
"""What the goals need."""


class Conditions:
    """Appends of one event under a condition, beside those without."""

    name: Final = "conditions"
    title: Final = "Conditional appends"
    doors: Final[Mapping[str, str]] = {}

    def cell_ids(self, *, quick: bool) -> Sequence[str]:
        """Without, with one item and with five, and with so many real conflicts."""
        return [load.cell_id for load in (FOR_GOALS if quick else LOADS)]

    def effort(self, cell_id: str, *, quick: bool) -> Effort:
        """More for what the goals need, which is what the short run is content with."""
        if quick:
            return QUICK
        return GOAL if cell_id in self.cell_ids(quick=True) else GRID

    def opening_seconds(self, *, quick: bool) -> float:
        """A service, and a book to check."""
        return 7 if quick else 12

    @contextmanager
    def open(self, stage: Stage) -> Iterator[Sequence[Cell]]:
        """One service and one book for all: what is compared differs in its requests only."""
        loads = [
            load for load in (FOR_GOALS if stage.quick else LOADS) if stage.wants(load.cell_id)
        ]
        with counterfoil.opened(stage, "conditions", workers=WORKERS) as subject:
            files = {items: _write(subject, items) for items in {load.items for load in loads}}
            yield [
                Cell(
                    load.cell_id,
                    partial(
                        subject.conditional_loop,
                        files[load.items],
                        connections=load.connections,
                        conflicts=load.conflicts_percent / 100,
                    ),
                    subject.roles,
                )
                for load in loads
            ]


def one_item(_: Mapping[str, Any]) -> dict[str, Any]:
    """Nothing about this transaction since the head that was read: what an approver says."""
    return {
        "fail_if": [{"tags": [f"transaction:w_{requests.ASKED}"]}],
        "after": requests.head_place(),
    }


def five_items(event: Mapping[str, Any]) -> dict[str, Any]:
    """The same, and nothing that would change the decision from four other sides.

    Only the first item ever matches an event of the work. The customer of the second and the
    fifth is common, so that there are events to be looked through.
    """
    customer = event["tags"][0]
    transaction = f"transaction:w_{requests.ASKED}"
    return {
        "fail_if": [
            {"tags": [transaction]},
            {"types": ["account_frozen"], "tags": [customer]},
            {"types": ["limit_changed"], "agents": ["limit_agent"]},
            {"tags": [f"card:w_{requests.ASKED}"]},
            {"types": ["case_opened", "case_closed"], "tags": [customer, transaction]},
        ],
        "after": requests.head_place(),
    }


def _write(subject: counterfoil.CounterfoilSubject, items: int) -> Path:
    if not items:
        return subject.write_requests()
    condition = one_item if items == 1 else five_items
    return subject.write_requests(condition=condition, transaction=requests.ASKED)
