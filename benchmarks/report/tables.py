"""Tables of the results, in Markdown. Every figure in them is computed from the raw lines."""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from benchmarks.harness.figures import Spread, ratio, spread
from benchmarks.report.series import AMONG_PEERS, REFERENCES, CellSeries, Measured

FULL_SHARE: Final = 0.85
"""From which share of the processors on they, and not waiting, are called the bottleneck. Not
nearer to 1: the start of the generator and of its warm-up are part of the time."""

ROLES: Final = ("postgresql", "service", "peer", "client")

_UNITS: Final = {
    "per_second": "/s",
    "milliseconds": " ms",
    "microseconds": " µs",
    "seconds": " s",
    "bytes": " B",
    "bytes_per_event": " B/event",
    "percent": " %",
    "ratio": " ×",
}

HIDDEN: Final = frozenset({"errors", "events"})
"""Figures that belong to others: how many events the CPU time was for, and that there were no
errors, without which there is no figure at all."""


def number(value: float) -> str:
    """With as many digits as say something: three."""
    size = abs(value)
    if size >= 1_000:
        # The last digits of a rate are noise; those of a size in bytes are not read either.
        digits = len(str(int(size))) - 3
        return f"{round(value, -digits):,.0f}"
    if size >= 100:
        return f"{value:.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}"


def shown(values: Spread | None, unit: str = "") -> str:
    """A median, and its range where there was more than one run."""
    if values is None:
        return ""
    text = number(values.median) + unit
    if values.count > 1:
        text += f" ({number(values.minimum)} … {number(values.maximum)})"
    return text


def unit_of(figure: str) -> tuple[str, str]:
    """A figure's name without its unit, and the unit."""
    for suffix, unit in sorted(_UNITS.items(), key=lambda item: -len(item[0])):
        if figure.endswith(suffix):
            return figure.removesuffix(suffix).strip("_").replace("_", " "), unit
    return figure.replace("_", " "), ""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; columns behind the first are aligned to the right, and empty ones left out."""
    kept = [0] + [column for column in range(1, len(head)) if any(row[column] for row in rows)]
    lines = [
        [head[column] for column in kept],
        ["---" if column == 0 else "---:" for column in kept],
        *([row[column] for column in kept] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def suite_tables(measured: Measured, name: str, *, cores: int) -> str:
    """Everything of a suite: a table of what has a rate, and one of all other figures."""
    cells = measured.suite(name)
    if name == "held-snapshot":
        return "\n\n".join(_held(series) for series in cells)
    if name == "handover":
        return "\n\n".join(_handover(series) for series in cells)
    parts = []
    rated = [series for series in cells if series.rate and "p50_milliseconds" in series.figures]
    if rated:
        parts.append(_rates(measured, name, rated, cores=cores))
    others = [
        [f"`{_short(series)}`", label or "value", shown(series.spread(figure), unit), _mark(series)]
        for series in cells
        for figure in series.figures
        if figure not in HIDDEN and not (series in rated and figure in _IN_RATES)
        for label, unit in [unit_of(figure)]
    ]
    if others:
        parts.append(table(["cell", "figure", "median (range)", "disturbed"], others))
    return "\n\n".join(parts)


_IN_RATES: Final = frozenset(
    {
        "events_per_second",
        "requests_per_second",
        "p50_milliseconds",
        "p99_milliseconds",
        "p999_milliseconds",
        "max_milliseconds",
        "requests_per_group",
    }
)


def _rates(measured: Measured, name: str, cells: Sequence[CellSeries], *, cores: int) -> str:
    reference = REFERENCES.get(name, ("", ""))[1].strip("/").replace("/", " ")
    if name in AMONG_PEERS:
        reference = "the fastest peer"
    rows = [
        [
            f"`{_short(series)}`",
            shown(series.spread(series.rate or "")),
            shown(measured.to_reference(series)),
            shown(series.spread("p50_milliseconds")),
            shown(series.spread("p99_milliseconds")),
            _middle(series.spread("requests_per_group")),
            *(_cpu(series, role) for role in ROLES),
            bottleneck(series, cores=cores),
            _mark(series),
        ]
        for series in cells
    ]
    head = ["cell", "per second", f"÷ {reference}", "p50 ms", "p99 ms", "requests/group"]
    head += [f"{role} µs/event" for role in ROLES]
    return table([*head, "bottleneck", "disturbed"], rows)


def doors_table(doors: Mapping[str, str]) -> str:
    """How each subject is called."""
    return table(["subject", "is called by"], [[f"`{name}`", how] for name, how in doors.items()])


def _held(series: CellSeries) -> str:
    """Appends before, while and after the snapshot was held, and in each interval of the run."""
    held = series.spread("held_seconds")
    return "\n\n".join(
        [
            f"The snapshot was held for {number(held.median) if held else '?'} s.",
            _times(series),
            _intervals(series, ["events_per_second"]),
        ]
    )


def _handover(series: CellSeries) -> str:
    """Deliveries handed over, and what the table of those that are unfinished came to meanwhile."""
    parts = [f"`{_short(series)}`"]
    held = series.spread("held_seconds")
    if held:
        parts[0] += f": the snapshot was held for {number(held.median)} s."
        parts.append(_times(series))
    else:
        rate = shown(series.spread("events_per_second"))
        done = shown(series.spread("events"))
        parts[0] += f": {done} deliveries, {rate} a second."
    parts.append(_intervals(series, ["events_per_second", "live_rows", "dead_rows", "bytes"]))
    whole = [
        [label, shown(series.spread(figure), unit)]
        for figure in series.figures
        if figure.endswith("_at_most") or figure in {"largest_bytes", "vacuums"}
        for label, unit in [unit_of(figure)]
    ]
    return "\n\n".join([*parts, table(["of the whole run", "value"], whole)])


def _times(series: CellSeries) -> str:
    """Before, while and after a snapshot was held."""
    rows = []
    before = series.by_round("before_events_per_second")
    for time in ("before", "held", "after"):
        rates = series.by_round(f"{time}_events_per_second")
        rows.append(
            [
                time,
                shown(spread(list(rates.values())) if rates else None),
                shown(ratio(rates, before)) if time != "before" else "",
                shown(series.spread(f"{time}_p50_milliseconds")),
                shown(series.spread(f"{time}_p99_milliseconds")),
            ]
        )
    return table(["", "per second", "÷ before", "p50 ms", "p99 ms"], rows)


def _intervals(series: CellSeries, figures: Sequence[str]) -> str:
    """Figures of each interval of a run, by the second in which it ended."""
    ends = dict.fromkeys(
        match[1] for figure in series.figures if (match := _INTERVAL.fullmatch(figure))
    )
    rows = [
        [f"{end} s", *(shown(series.spread(f"at_{end}_s_{figure}")) for figure in figures)]
        for end in ends
    ]
    return table(["until", *(figure.replace("_", " ") for figure in figures)], rows)


_INTERVAL: Final = re.compile(r"at_(\d+)_s_events_per_second")


def bottleneck(series: CellSeries, *, cores: int) -> str:
    """What kept it from being faster, as far as CPU time tells."""
    busy = {role: series.cores(role) for role in (*ROLES, "kernel")}
    worker = re.search(r"counterfoil-(\d+)-worker", series.id)
    most = max(busy, key=lambda role: busy[role])
    if sum(busy.values()) >= FULL_SHARE * cores:
        return f"processors, most by {most} ({busy[most]:.1f} of {cores})"
    if worker and busy["service"] >= FULL_SHARE * int(worker[1]):
        return f"the service's process{'es' if int(worker[1]) > 1 else ''}"
    return f"waiting ({sum(busy.values()):.1f} of {cores} processors busy)"


def _cpu(series: CellSeries, role: str) -> str:
    used = series.cpu_per_event(role)
    return number(used.median) if used is not None and used.median >= 0.5 else ""


def _middle(values: Spread | None) -> str:
    return number(values.median) if values else ""


def _short(series: CellSeries) -> str:
    return series.id.partition("/")[2]


def _mark(series: CellSeries) -> str:
    return f"{series.disturbed} of {len(series.runs)} runs" if series.disturbed else ""
