"""The goals, and whether they were reached: computed, never typed."""

import fnmatch
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.harness.figures import Spread, ratio
from benchmarks.harness.model import counted
from benchmarks.harness.records import Results
from benchmarks.report.series import Measured
from benchmarks.report.tables import number, shown, table

OURS: Final = "counterfoil-2-workers"

UNCONDITIONAL_PEERS: Final = (
    "message-db",
    "message-db-one-category",
    "pgmq",
    "eventsourcing-aggregates",
)
"""Peers on PostgreSQL that append without a condition."""

CONDITIONAL_PEERS: Final = ("eventsourcing-dcb",)
"""Peers on PostgreSQL that append under one."""

QUEUES: Final = ("pgmq", "procrastinate", "pgqueuer")
"""Peers on PostgreSQL that hand out under leases, and again what failed."""

HANDING_OUT: Final = (OURS, f"{OURS}-done-with-the-next", f"{OURS}-ack-and-next")
"""The ways of acknowledging that Counterfoil has; the fastest is held against the fastest peer."""

FUNCTIONS: Final = ("counterfoil-functions",)
"""The same without the service, called as the peers are."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is held against a goal: a figure of a cell of ours, or its ratio to another's."""

    cell: str
    values: Spread
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class Goal:
    """One line of the table.

    Attributes:
        name: of its part below the table.
        what: in words.
        limit: the bound.
        at_least: whether the bound is a lower one.
        unit: behind the numbers.
        cells: the ids that it rests on, or patterns of them.
        found: what is held against it; None: it was not measured.
    """

    name: str
    what: str
    limit: float
    at_least: bool
    unit: str
    cells: Sequence[str]
    found: Callable[[Measured], Found | None]

    @property
    def bound(self) -> str:
        """As it stands in the table: ``≥ 0.75 ×``."""
        return f"{'≥' if self.at_least else '≤'} {number(self.limit)}{self.unit}"

    def reached(self, found: Found) -> bool:
        """Whether the median keeps the bound."""
        value = found.values.median
        return value >= self.limit if self.at_least else value <= self.limit

    def line(self, measured: Measured, results: Results | None = None) -> list[str]:
        """Its row: what, the bound, what was measured, the verdict.

        ``results`` tells why it was not measured.
        """
        found = self.found(measured)
        if found is None:
            why = self.why_not(measured, results) if results else ""
            return [self.what, self.bound, "", f"not measured{': ' if why else ''}{why}"]
        verdict = "reached" if self.reached(found) else f"**not reached**, [why](#{self.name})"
        return [self.what, self.bound, shown(found.values, self.unit), verdict]

    def why_not(self, measured: Measured, results: Results) -> str:
        """Why there is no figure for it."""
        for cell in self.cells:
            suite = cell.partition("/")[0]
            if reason := results.refused.get(suite):
                return f"`{suite}` was refused ({reason.splitlines()[0]})"
            if any(fnmatch.fnmatchcase(known, cell) for known in measured.cells):
                continue
            mode = results.runs[-1].mode if results.runs else ""
            if mode == "quick":
                return "only the whole run does"
            if mode == "whole" and measured.suite(suite):
                return f"`{cell}` had nothing to run on"
            return f"`{cell}` is not in this run"
        return "there is no round with both sides"


def _ratio(name: str, what: str, limit: float, ours: str, theirs: str) -> Goal:
    """Our rate over theirs, at least."""

    def found(measured: Measured) -> Found | None:
        values = measured.ratio(ours, theirs)
        return Found(ours, values, theirs) if values else None

    return Goal(name, what, limit, True, " ×", (ours, theirs), found)


def _figure(name: str, what: str, limit: float, cell: str, figure: str, *, unit: str) -> Goal:
    """One figure, at most."""

    def found(measured: Measured) -> Found | None:
        series = measured.cells.get(cell)
        values = series.spread(figure) if series else None
        return Found(cell, values) if values else None

    return Goal(name, what, limit, False, unit, (cell,), found)


def _tail(name: str, what: str, limit: float, cell: str) -> Goal:
    """p99 over p50 of the same runs, at most."""

    def found(measured: Measured) -> Found | None:
        series = measured.cells.get(cell)
        if series is None:
            return None
        p50, p99 = (series.by_round(f"{name}_milliseconds") for name in ("p50", "p99"))
        values = ratio(p99, p50)
        return Found(cell, values) if values else None

    return Goal(name, what, limit, False, " ×", (cell,), found)


def _highest(name: str, what: str, limit: float, pattern: str, figure: str, *, unit: str) -> Goal:
    """Of the cells that match, the one whose figure is highest; it, at most."""

    def found(measured: Measured) -> Found | None:
        known = [
            Found(cell, values)
            for cell, series in measured.cells.items()
            if fnmatch.fnmatchcase(cell, pattern) and (values := series.spread(figure))
        ]
        return max(known, key=lambda each: each.values.median) if known else None

    return Goal(name, what, limit, False, unit, (pattern,), found)


def _appends(connections: str, subject: str) -> str:
    return f"appends/plain/{connections}/{subject}"


def _peer(size: str, kind: str, peer: str, limit: float = 1.0) -> Goal:
    """Beside one product; one row each, so that what is lost is seen."""
    words = {"single": "single", "batch-100": "batches of 100"}[size]
    load = f"peers/{size}/{kind}/64-clients"
    return _ratio(
        f"{size}-over-{peer}",
        f"{kind} appends, {words}, 64 clients ÷ {peer}",
        limit,
        f"{load}/{OURS}",
        f"{load}/{peer}",
    )


def _handed_over(kind: str, batch: int, holders: int, ways: Sequence[str] = HANDING_OUT) -> Goal:
    """Events claimed and acknowledged, over what the fastest of the peers does."""
    alike = ", called as it is" if ways is FUNCTIONS else ""
    words = {"acknowledged": "acknowledged", "with-outcomes": "acknowledged with an outcome"}[kind]
    size = "one by one" if batch == 1 else f"{batch} at a time"
    load = f"consumers/{kind}/batch-{batch}/{counted(holders, 'holder')}"

    def found(measured: Measured) -> Found | None:
        slowest = []
        for ours in ways:
            against = [
                Found(f"{load}/{ours}", values, f"{load}/{peer}")
                for peer in QUEUES
                if (values := measured.ratio(f"{load}/{ours}", f"{load}/{peer}"))
            ]
            if against:
                slowest.append(min(against, key=lambda found: found.values.median))
        return max(slowest, key=lambda found: found.values.median, default=None)

    return Goal(
        f"{'functions-' if alike else ''}{kind}-batch-{batch}-holders-{holders}",
        f"events {words}, {size}, {counted(holders, 'holder').replace('-', ' ')} "
        f"÷ the fastest queue{alike}",
        1.0,
        True,
        " ×",
        (f"{load}/*",),
        found,
    )


def _goals_of_consumers() -> Iterator[Goal]:
    for kind in ("acknowledged", "with-outcomes"):
        for batch in (1, 50):
            for holders in (1, 8, 64):
                yield _handed_over(kind, batch, holders)
                if holders == 1:
                    yield _handed_over(kind, batch, holders, FUNCTIONS)


def _all_goals() -> Iterator[Goal]:
    yield _ratio(
        "64-connections-over-pgbench",
        "one-event appends, 64 connections, two workers ÷ pgbench's one-row INSERT",
        1.0,
        _appends("64-connections", OURS),
        _appends("64-connections", "pgbench"),
    )
    yield _ratio(
        "64-connections-over-the-tutorial",
        "the same ÷ the tutorial's design",
        45,
        _appends("64-connections", OURS),
        _appends("64-connections", "tutorial"),
    )
    yield _ratio(
        "256-connections-over-pgbench",
        "256 connections ÷ pgbench at 256 clients",
        1.7,
        _appends("256-connections", OURS),
        _appends("256-connections", "pgbench"),
    )
    for items, words in (("1-item", "one item"), ("5-items", "five items")):
        yield _ratio(
            f"condition-of-{items}",
            f"conditional appends ({words}), 64 connections ÷ unconditional",
            0.8,
            f"conditions/64-connections/{items}",
            "conditions/64-connections/unconditional",
        )
    yield _tail("p99-over-p50", "p99 ÷ p50, 64 connections", 4.0, _appends("64-connections", OURS))
    yield _ratio(
        "1-connection-over-pgbench",
        "one connection, one event ÷ pgbench at one client",
        0.45,
        _appends("1-connection", OURS),
        _appends("1-connection", "pgbench"),
    )
    yield _ratio(
        "batches-over-copy",
        "batches of 1,000, four connections ÷ COPY into the same tables",
        0.75,
        f"batches/1000-events/{OURS}",
        "batches/1000-events/copy-into-the-same-tables",
    )
    for question, words in (
        ("appends/plain", "appends"),
        ("pages/rare-tag", "pages by a rare tag"),
        ("pages/common-tag", "pages by a common tag"),
    ):
        yield _ratio(
            f"growth-{question.replace('/', '-')}",
            f"growth to 10 million events: {words} ÷ those of the smallest book",
            0.85,
            f"growth/{question}/10000000-events",
            f"growth/{question}/0-events",
        )
    yield _highest(
        "growth-checks",
        "a condition check near the head at 10 million events, any tag (the worst p50)",
        1.0,
        "growth/checks/*/near-the-head/10000000-events",
        "p50_milliseconds",
        unit=" ms",
    )
    for events in (10_000, 100_000):
        load = f"reads/latest-20/{events}-events/warm/64-connections"
        yield _ratio(
            f"latest-20-of-{events}",
            f"latest 20 of an agent among {events:,} events, 64 connections ÷ the tutorial's design",
            25,
            f"{load}/{OURS}",
            f"{load}/tutorial",
        )
    for size in ("single", "batch-100"):
        for peer in UNCONDITIONAL_PEERS:
            yield _peer(size, "unconditional", peer)
        for peer in CONDITIONAL_PEERS:
            yield _peer(size, "conditional", peer)
    yield _peer("single", "conditional", "umadb", 1.5)
    yield _peer("batch-100", "conditional", "umadb")
    for name in ("p50", "p99"):
        yield _figure(
            f"live-{name}",
            f"live delay at 1,000 events/s, 100 subscribers, {name}",
            {"p50": 5.0, "p99": 25.0}[name],
            f"live/delay/1000-per-second/100-subscribers/{OURS}",
            f"{name}_milliseconds",
            unit=" ms",
        )
    yield _ratio(
        "appends-with-subscribers",
        "appends with 100 subscribers ÷ those without",
        0.9,
        f"live/appends/100-subscribers/{OURS}",
        f"live/appends/0-subscribers/{OURS}",
    )
    yield from _goals_of_consumers()
    for clients in (1, 16, 64):
        load = f"decisions/{counted(clients, 'client')}"
        yield _ratio(
            f"decisions-{clients}",
            f"complete decisions by policy, {counted(clients, 'client').replace('-', ' ')} ÷ "
            "conditional appends",
            0.5,
            f"{load}/decision",
            f"{load}/conditional-append",
        )
    yield _figure("dev-first", "dev start, first", 3.0, "start/dev/first", "seconds", unit=" s")
    yield _figure("dev-later", "dev start, later", 1.0, "start/dev/later", "seconds", unit=" s")


GOALS: Final[Sequence[Goal]] = tuple(_all_goals())


def goals_table(measured: Measured, results: Results) -> str:
    """All goals in Markdown; a ratio is the median of the rounds' own ratios."""
    return table(
        ["", "goal", "measured (range)", ""], [goal.line(measured, results) for goal in GOALS]
    )
