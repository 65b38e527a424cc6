"""The goals, and whether they were reached: computed, never typed."""

import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.harness.figures import Spread, ratio
from benchmarks.report.series import Measured
from benchmarks.report.tables import number, shown, table

OURS: Final = "counterfoil-2-workers"


@dataclass(frozen=True, slots=True)
class Goal:
    """One line of the table.

    Attributes:
        what: in words.
        limit: the bound.
        at_least: whether the bound is a lower one.
        unit: behind the numbers.
        found: the figure that is held against it; None: it was not measured.
    """

    what: str
    limit: float
    at_least: bool
    unit: str
    found: Callable[[Measured], Spread | None]

    def line(self, measured: Measured) -> list[str]:
        """Its row: what, the bound, what was measured, the verdict."""
        found = self.found(measured)
        bound = f"{'≥' if self.at_least else '≤'} {number(self.limit)}{self.unit}"
        if found is None:
            return [self.what, bound, "", "not measured"]
        value = found.median
        reached = value >= self.limit if self.at_least else value <= self.limit
        return [
            self.what,
            bound,
            shown(found, self.unit),
            "reached" if reached else "**not reached**",
        ]


def _ratio(
    cell: str, reference: str, figure: str | None = None
) -> Callable[[Measured], Spread | None]:
    return lambda measured: measured.ratio(cell, reference, figure)


def _figure(cell: str, figure: str) -> Callable[[Measured], Spread | None]:
    def found(measured: Measured) -> Spread | None:
        series = measured.cells.get(cell)
        return series.spread(figure) if series else None

    return found


def _within(cell: str, above: str, below: str) -> Callable[[Measured], Spread | None]:
    """The ratio of two figures of the same runs."""

    def found(measured: Measured) -> Spread | None:
        series = measured.cells.get(cell)
        return ratio(series.by_round(above), series.by_round(below)) if series else None

    return found


def _worst(
    pattern: str, figure: str, reference: tuple[str, str] | None = None, *, highest: bool
) -> Callable[[Measured], Spread | None]:
    """Of all cells that match, the worst: with the highest, or the lowest, median.

    ``reference``: what in the id is replaced by what to get the cell that it is divided by.
    """

    def found(measured: Measured) -> Spread | None:
        values = []
        for cell, series in measured.cells.items():
            if not fnmatch.fnmatchcase(cell, pattern):
                continue
            value = (
                series.spread(figure)
                if reference is None
                else measured.ratio(cell, cell.replace(*reference), figure)
            )
            if value is not None:
                values.append(value)
        pick = max if highest else min
        return pick(values, key=lambda value: value.median) if values else None

    return found


def _beside_peers(size: str, *peers: str) -> Callable[[Measured], Spread | None]:
    """Of our ratios to these peers, each under its own load, the worst."""

    def found(measured: Measured) -> Spread | None:
        ratios = [
            measured.ratio(cell.rpartition("/")[0] + f"/{OURS}", cell)
            for cell in measured.cells
            if cell.startswith(f"peers/{size}/") and cell.rpartition("/")[2] in peers
        ]
        known = [value for value in ratios if value is not None]
        return min(known, key=lambda value: value.median) if known else None

    return found


POSTGRESQL_PEERS: Final = (
    "message-db",
    "message-db-one-category",
    "pgmq",
    "eventsourcing-aggregates",
    "eventsourcing-dcb",
)
"""Peers that rest on PostgreSQL."""


def _appends(connections: int, subject: str) -> str:
    return f"appends/plain/{connections}-connections/{subject}"


GOALS: Final[Sequence[Goal]] = (
    Goal(
        "one-event appends, 64 connections, two workers, ÷ pgbench's one-row INSERT",
        1.0,
        True,
        " ×",
        _ratio(_appends(64, OURS), _appends(64, "pgbench")),
    ),
    Goal(
        "the same ÷ the tutorial's design",
        45,
        True,
        " ×",
        _ratio(_appends(64, OURS), _appends(64, "tutorial")),
    ),
    Goal(
        "256 connections ÷ pgbench at 256",
        1.7,
        True,
        " ×",
        _ratio(_appends(256, OURS), _appends(256, "pgbench")),
    ),
    Goal(
        "conditional appends (one item), 64 connections ÷ unconditional",
        0.8,
        True,
        " ×",
        _ratio("conditions/64-connections/1-item", "conditions/64-connections/unconditional"),
    ),
    Goal(
        "conditional appends (five items), 64 connections ÷ unconditional",
        0.8,
        True,
        " ×",
        _ratio("conditions/64-connections/5-items", "conditions/64-connections/unconditional"),
    ),
    Goal(
        "p99 ÷ p50, 64 connections",
        4.0,
        False,
        " ×",
        _within(_appends(64, OURS), "p99_milliseconds", "p50_milliseconds"),
    ),
    Goal(
        "one connection, one event ÷ pgbench at one client",
        0.45,
        True,
        " ×",
        _ratio(_appends(1, OURS), _appends(1, "pgbench")),
    ),
    Goal(
        "batches of 1,000, four connections ÷ COPY into the same tables",
        0.75,
        True,
        " ×",
        _ratio(f"batches/1000-events/{OURS}", "batches/1000-events/copy-into-the-same-tables"),
    ),
    Goal(
        "growth to 10 million events: appends ÷ those of an empty book",
        0.85,
        True,
        " ×",
        _ratio("growth/appends/plain/10000000-events", "growth/appends/plain/0-events"),
    ),
    Goal(
        "growth to 10 million events: page reads ÷ those of the smallest book (the worst)",
        0.85,
        True,
        " ×",
        _worst(
            "growth/pages/*/10000000-events",
            "requests_per_second",
            ("/10000000-events", "/0-events"),
            highest=False,
        ),
    ),
    Goal(
        "a condition check near the head at 10 million events, any tag (the worst p50)",
        1.0,
        False,
        " ms",
        _worst("growth/checks/*/near-the-head/10000000-events", "p50_milliseconds", highest=True),
    ),
    Goal(
        "latest 20 of an agent, 64 connections ÷ the tutorial's design (the worst size)",
        25,
        True,
        " ×",
        _worst(
            f"reads/latest-20/*/warm/64-connections/{OURS}",
            "requests_per_second",
            (OURS, "tutorial"),
            highest=False,
        ),
    ),
    Goal(
        "single appends, 64 clients ÷ the fastest PostgreSQL peer",
        1.0,
        True,
        " ×",
        _beside_peers("single", *POSTGRESQL_PEERS),
    ),
    Goal(
        "batches of 100, 64 clients ÷ the fastest PostgreSQL peer",
        1.0,
        True,
        " ×",
        _beside_peers("batch-100", *POSTGRESQL_PEERS),
    ),
    Goal(
        "single conditional appends, 64 clients ÷ UmaDB",
        1.5,
        True,
        " ×",
        _beside_peers("single", "umadb"),
    ),
    Goal(
        "conditional batches of 100, 64 clients ÷ UmaDB",
        1.0,
        True,
        " ×",
        _beside_peers("batch-100", "umadb"),
    ),
    Goal(
        "live delay at 1,000 events/s, 100 subscribers, p50",
        5.0,
        False,
        " ms",
        _figure(f"live/delay/1000-per-second/100-subscribers/{OURS}", "p50_milliseconds"),
    ),
    Goal(
        "live delay at 1,000 events/s, 100 subscribers, p99",
        25.0,
        False,
        " ms",
        _figure(f"live/delay/1000-per-second/100-subscribers/{OURS}", "p99_milliseconds"),
    ),
    Goal(
        "appends with 100 subscribers ÷ those without",
        0.9,
        True,
        " ×",
        _ratio(f"live/appends/100-subscribers/{OURS}", f"live/appends/0-subscribers/{OURS}"),
    ),
    Goal("dev start, first", 3.0, False, " s", _figure("start/dev/first", "seconds")),
    Goal("dev start, later", 1.0, False, " s", _figure("start/dev/later", "seconds")),
)


def goals_table(measured: Measured) -> str:
    """All goals in Markdown; a ratio is the median of the rounds' own ratios."""
    return table(["", "goal", "measured (range)", ""], [goal.line(measured) for goal in GOALS])
