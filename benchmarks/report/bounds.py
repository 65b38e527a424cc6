"""What bounds each goal that was missed: figures computed from the run, prose from a template.

``bounds.md.tmpl`` has a part for each goal that there is something to say about, under its
name; ``${...}`` in it stand for figures of the cell that the goal rests on, and of the one
that it is compared with (``${their_...}``). A goal without a part of its own gets its figures
alone. A profile of the cell, if one was made, is linked.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Template
from typing import Final

from benchmarks.harness.model import BenchmarkError
from benchmarks.report import profiles
from benchmarks.report.goals import GOALS, Found, Goal
from benchmarks.report.series import CellSeries, Measured
from benchmarks.report.tables import ROLES, bottleneck, number, shown, table

TEMPLATE: Final = Path(__file__).parent / "bounds.md.tmpl"

UNKNOWN: Final = "unknown"


def missed_goals(measured: Measured) -> Iterator[tuple[Goal, Found]]:
    """The goals that were measured and not reached."""
    for goal in GOALS:
        found = goal.found(measured)
        if found is not None and not goal.reached(found):
            yield goal, found


def bounds(measured: Measured, *, cores: int, folder: Path) -> str:
    """A part for each goal that was missed, in Markdown; ``folder`` has the profiles."""
    prose = parts()
    texts = [
        _part(goal, found, measured, prose.get(goal.name, ""), cores=cores, folder=folder)
        for goal, found in missed_goals(measured)
    ]
    return "\n\n".join(texts) or "No goal that was measured was missed."


def parts() -> dict[str, str]:
    """The prose by a goal's name. Raises BenchmarkError for a name that no goal has."""
    pieces = re.split(r"^## (.+)\n", TEMPLATE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = {name: text.strip() for name, text in zip(pieces[1::2], pieces[2::2], strict=True)}
    if unknown := found.keys() - {goal.name for goal in GOALS}:
        raise BenchmarkError(f"There is no goal called {', '.join(sorted(unknown))}.")
    return found


def figures(series: CellSeries, *, cores: int) -> Mapping[str, str]:
    """What the prose may say of a cell, by name, ready to be read."""
    rate = series.spread(series.rate or "")
    group = series.spread("requests_per_group")
    deliveries = series.spread("deliveries_per_event")
    busy = {role: series.cores(role) for role in (*ROLES, "kernel")}
    return {
        "rate": number(rate.median) if rate else UNKNOWN,
        **{f"{name}_ms": _milliseconds(series, name) for name in ("p50", "p99")},
        "group": number(group.median) if group else UNKNOWN,
        "deliveries": number(deliveries.median) if deliveries else UNKNOWN,
        **{f"{role}_us": _microseconds(series, role) for role in (*ROLES, "kernel")},
        **{f"{role}_cores": number(value) for role, value in busy.items()},
        "busy": number(sum(busy.values())),
        "busiest": max(busy, key=lambda role: busy[role]),
        "bottleneck": bottleneck(series, cores=cores),
        "cores": str(cores),
    }


def _part(
    goal: Goal, found: Found, measured: Measured, prose: str, *, cores: int, folder: Path
) -> str:
    ids = [found.cell, *([found.reference] if found.reference else [])]
    known = {cell: figures(measured.cells[cell], cores=cores) for cell in ids}
    values = dict(known[found.cell])
    if found.reference:
        values |= {f"their_{name}": text for name, text in known[found.reference].items()}
    values |= {"measured": number(found.values.median), "limit": number(goal.limit)}
    try:
        text = Template(prose).substitute(values)
    except (KeyError, ValueError) as error:
        raise BenchmarkError(
            f"The text about {goal.name} names a figure that is none: {error}"
        ) from error
    columns = ["per second", "p50 ms", "p99 ms", "requests/group"]
    columns += [f"{role} µs/event" for role in (*ROLES, "kernel")] + ["bottleneck"]
    names = ["rate", "p50_ms", "p99_ms", "group"]
    names += [f"{role}_us" for role in (*ROLES, "kernel")] + ["bottleneck"]
    rows = [
        [f"`{cell}`", *(known[cell][name].replace(UNKNOWN, "") for name in names)] for cell in ids
    ]
    lines = [
        # GitHub makes anchors of titles; this one is the goal's name, whatever the title says.
        f'<a id="{goal.name}"></a>\n\n### {goal.what}',
        f"Goal {goal.bound}, measured {shown(found.values, goal.unit)}.",
        text,
        table(["cell", *columns], rows),
        profiles.linked([cell for cell in ids if profiles.exists(cell, folder)]),
    ]
    return "\n\n".join(line for line in lines if line)


def _microseconds(series: CellSeries, role: str) -> str:
    used = series.cpu_per_event(role)
    return number(used.median) if used is not None and used.median >= 0.05 else UNKNOWN


def _milliseconds(series: CellSeries, name: str) -> str:
    values = series.spread(f"{name}_milliseconds")
    return number(values.median) if values else UNKNOWN
