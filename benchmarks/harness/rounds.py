"""Rounds: all cells of a suite one after another, again and again, in an order that turns.

What the machine does meanwhile then falls on all cells alike, and ratios are taken within a
round, between runs that lie seconds apart. A run during which somebody else used the
processors, or the hypervisor withheld them, says so in its record, and is made once more at
the end of its round; both records are kept.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from benchmarks.harness import cpu
from benchmarks.harness.model import Cell, Effort, Suite
from benchmarks.harness.records import CellRecord

OTHERS_SHARE_MAX: Final = 0.03
"""Of the machine's processors, how much processes outside of the run may use. Counters of
CPU time have a grain of 10 ms a process; this is well above it."""

STEAL_SHARE_MAX: Final = 0.02
"""How much of the processors' time the hypervisor may withhold."""

LAG_MILLISECONDS_MAX: Final = 10.0
"""How late (p99) the open-loop generator may be by its own fault. Its timers have a grain of
1 ms, and on a busy machine it waits for a processor like everybody else."""


WHOLE_SECONDS_MAX: Final = 6_300.0
"""What the whole run may take."""

QUICK_SECONDS_MAX: Final = 300.0
"""What the short run may take."""

REPEATED_SHARE: Final = 0.04
"""How many of the runs are made again on a machine that is left alone, about."""

STARTING_SECONDS: Final = 5.0
"""Until the server runs, and until it is put away."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One cell's turn in a round. ``repeated``: the second, after a disturbed first."""

    round: int
    cell: Cell
    repeated: bool = False


def order(cells: Sequence[Cell], number: int) -> list[Cell]:
    """The cells in the order of a round (from 1): turned, and every other time backwards.

    So each cell is first and last at times, and follows each of its neighbours.
    """
    if not cells:
        return []
    at = ((number - 1) * max(1, len(cells) // 3 + 1)) % len(cells)
    turned = [*cells[at:], *cells[:at]]
    return turned if number % 2 else turned[::-1]


def disturbance(usage: cpu.Usage, figures: Mapping[str, float], cores: int) -> list[str]:
    """What disturbed a run, in sentences without a full stop; empty: nothing did."""
    capacity = usage.seconds * cores
    if capacity <= 0:
        return []
    reasons = []
    others = usage.cpu_seconds.get(cpu.OTHERS, 0.0) / capacity
    if others > OTHERS_SHARE_MAX:
        reasons.append(f"other processes used {others:.0%} of the processors")
    steal = usage.steal_seconds / capacity
    if steal > STEAL_SHARE_MAX:
        reasons.append(f"the hypervisor withheld {steal:.0%} of the processors' time")
    lag = figures.get("lag_p99_milliseconds", 0.0)
    if lag > LAG_MILLISECONDS_MAX:
        reasons.append(f"the load generator was late by {lag:.0f} ms (p99)")
    return reasons


def run_rounds(
    *,
    run: str,
    suite: str,
    cells: Sequence[Cell],
    effort: Callable[[str], Effort],
    cores: int,
    before_each: Callable[[], None],
    keep: Callable[[CellRecord], None],
    show: Callable[[Turn, CellRecord], None],
) -> None:
    """Run all cells in all rounds.

    Args:
        run: the id of the run.
        suite: the name of the suite.
        cells: what is run.
        effort: how often and how long, by a cell's id.
        cores: of this machine, as far as we may use it.
        before_each: brings the server to rest; outside of what is measured.
        keep: takes each record as soon as it is there.
        show: tells a person.

    Raises:
        BenchmarkError: as a cell does; what was kept until then stays.
    """
    efforts = {cell.id: effort(cell.id) for cell in cells}
    for number in range(1, max((each.rounds for each in efforts.values()), default=0) + 1):
        still = [cell for cell in cells if efforts[cell.id].rounds >= number]
        turns = [Turn(number, cell) for cell in order(still, number)]
        again: list[Turn] = []
        while turns or again:
            turn = turns.pop(0) if turns else again.pop(0)
            seconds = efforts[turn.cell.id].seconds
            turn.cell.prepare(seconds)
            before_each()
            record = _take(turn, run=run, suite=suite, seconds=seconds, cores=cores)
            keep(record)
            show(turn, record)
            if record.disturbed and not turn.repeated:
                again.append(Turn(number, turn.cell, repeated=True))


def _take(turn: Turn, *, run: str, suite: str, seconds: float, cores: int) -> CellRecord:
    cell = turn.cell
    roles = cell.roles()
    at = datetime.now(UTC)
    before = cpu.snapshot(roles)
    figures = cell.run(seconds)
    used = cpu.usage(before, cpu.snapshot(roles))
    return CellRecord(
        run=run,
        suite=suite,
        cell=cell.id,
        round=turn.round,
        at=at.isoformat(timespec="seconds"),
        figures={name: round(value, 6) for name, value in figures.items()},
        seconds=round(used.seconds, 3),
        cpu_seconds={role: round(value, 2) for role, value in used.cpu_seconds.items()},
        disturbed=disturbance(used, figures, cores),
        repeated=turn.repeated,
    )


def planned_seconds(suites: Iterable[Suite], *, quick: bool) -> float:
    """How long a run of these suites takes with all their cells, about."""
    total = STARTING_SECONDS
    for suite in suites:
        cells = suite.cell_ids(quick=quick)
        if cells:
            runs = sum(suite.effort(cell, quick=quick).total_seconds for cell in cells)
            total += suite.opening_seconds(quick=quick) + runs * (1 + REPEATED_SHARE)
    return total


class Progress:
    """How far a suite is, and how long it will take."""

    def __init__(self, runs: int) -> None:
        self._runs = runs
        self._done = 0
        self._started = time.monotonic()

    def step(self, *, repeated: bool) -> str:
        """Count one run; returns ``17/120, 8 min left``."""
        if repeated:
            self._runs += 1
        self._done += 1
        each = (time.monotonic() - self._started) / self._done
        left = each * max(0, self._runs - self._done)
        text = f"{left / 60:.0f} min" if left >= 90 else f"{left:.0f} s"
        return f"{self._done}/{self._runs}, {text} left"
