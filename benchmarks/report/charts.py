"""Charts of the results: bars, as SVG whose text is text, for light pages and dark ones.

Drawn by hand, so that the same figures give the same file byte by byte, on every machine.
"""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

from benchmarks.harness.figures import Spread
from benchmarks.report.series import CellSeries, Measured
from benchmarks.report.tables import number

WIDTH: Final = 760
LABELS: Final = 230
"""Where the bars begin, at least."""

CHARACTER: Final = 6.4
"""Room for one letter of a label, on average."""

VALUES: Final = 90
"""Room for the numbers behind the longest bar."""

BAR: Final = 16
GAP: Final = 6
HEADING: Final = 26
TOP: Final = 56

_OURS: Final = "counterfoil"

STYLE: Final = """
  text { font: 12px system-ui, sans-serif; fill: #1f2328; }
  .title { font-size: 15px; font-weight: 600; }
  .note, .value { fill: #59636e; }
  .group { font-weight: 600; }
  .ours { fill: #0969da; }
  .other { fill: #afb8c1; }
  .range { stroke: #1f2328; stroke-width: 1; opacity: 0.6; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .note, .value { fill: #9198a1; }
    .ours { fill: #4493f8; }
    .other { fill: #59636e; }
    .range { stroke: #e6edf3; }
  }
"""


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart of one figure of the cells whose ids match.

    Attributes:
        file: its name in ``charts/``.
        title: above it.
        note: what is better, and the unit.
        pattern: of the cells, as for ``--only``; the last part of an id is the bar's label, what
            lies between the pattern's first part and the last is its group's.
        figure: what is drawn; ``rate``: what the cells are compared by.
    """

    file: str
    title: str
    note: str
    pattern: str
    figure: str = "rate"


CHARTS: Final = (
    Chart(
        "appends.svg",
        "Appends of one event",
        "events per second; more is better",
        "appends/plain/*",
    ),
    Chart(
        "latency.svg",
        "Appends of one event: p99",
        "milliseconds; less is better",
        "appends/plain/*",
        "p99_milliseconds",
    ),
    Chart(
        "conditions.svg",
        "Appends with a condition",
        "events per second; more is better",
        "conditions/*",
    ),
    Chart(
        "batches.svg", "Batches, four connections", "events per second; more is better", "batches/*"
    ),
    Chart(
        "peers.svg",
        "Beside other event stores and queues",
        "events per second; more is better",
        "peers/*",
    ),
    Chart(
        "growth.svg",
        "As the book grows: appends",
        "events per second; more is better",
        "growth/appends/*",
    ),
    Chart(
        "pages.svg",
        "As the book grows: pages of 100",
        "requests per second; more is better",
        "growth/pages/*",
    ),
    Chart(
        "reads.svg",
        "Reads, 64 connections",
        "requests per second; more is better",
        "reads/*/warm/64-connections/*",
    ),
    Chart(
        "live.svg",
        "Delay until a subscriber has the event: p99",
        "milliseconds; less is better",
        "live/delay/*",
        "p99_milliseconds",
    ),
    Chart(
        "consumers.svg",
        "Claimed and acknowledged, beside queues on PostgreSQL",
        "events per second; more is better",
        "consumers/*",
    ),
)


def draw(chart: Chart, measured: Measured) -> str | None:
    """The chart as SVG; None when nothing of it was measured."""
    groups: dict[str, list[tuple[str, Spread]]] = {}
    for series in measured.suite(chart.pattern.split("/")[0]):
        values = _values(chart, series)
        if values is not None and fnmatch.fnmatchcase(series.id, chart.pattern):
            group, _, label = series.id.partition("/")[2].rpartition("/")
            groups.setdefault(_words(group), []).append((_words(label), values))
    return _svg(chart, groups) if groups else None


def _values(chart: Chart, series: CellSeries) -> Spread | None:
    return series.spread((series.rate or "") if chart.figure == "rate" else chart.figure)


def _svg(chart: Chart, groups: dict[str, list[tuple[str, Spread]]]) -> str:
    longest = max(values.maximum for bars in groups.values() for _, values in bars) or 1.0
    characters = max(len(label) for bars in groups.values() for label, _ in bars)
    labels = max(LABELS, round(characters * CHARACTER) + 8)
    scale = (WIDTH - labels - VALUES) / longest
    # Where nobody else is in the chart, all bars are ours, and their labels do not say so.
    alone = not any(_OURS in label for bars in groups.values() for label, _ in bars)
    parts: list[str] = []
    y = TOP
    for group, bars in groups.items():
        if group:
            parts.append(_text(0, y + 14, group, "group"))
            y += HEADING
        for label, values in bars:
            parts += _bar(label, values, labels, y, scale, ours=alone or _OURS in label)
            y += BAR + GAP
        y += GAP
    size = f'viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}"'
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
        f"<title>{escape(chart.title)}</title>",
        f"<style>{STYLE}</style>",
        _text(0, 18, chart.title, "title"),
        _text(0, 38, f"{chart.note}; the line is the range of all rounds", "note"),
    ]
    return "\n".join([*head, *parts, "</svg>", ""])


def _bar(label: str, values: Spread, x: float, y: float, scale: float, *, ours: bool) -> list[str]:
    middle = y + BAR / 2
    left, right = x + values.minimum * scale, x + values.maximum * scale
    kind = "ours" if ours else "other"
    size = f'width="{values.median * scale:.1f}" height="{BAR}"'
    return [
        _text(x - 8, y + 12, label, "label", anchor="end"),
        f'<rect class="{kind}" x="{x}" y="{y}" {size} rx="2"/>',
        f'<line class="range" x1="{left:.1f}" x2="{right:.1f}" y1="{middle}" y2="{middle}"/>',
        _text(right + 8, y + 12, number(values.median), "value"),
    ]


def _text(x: float, y: float, text: str, kind: str, *, anchor: str = "start") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _words(part: str) -> str:
    """A part of an id as words: numbers with commas, parts of a path with a comma between."""
    words = part.replace("/", ", ").replace("-", " ").split(" ")
    return " ".join(f"{int(word):,}" if word.isdigit() else word for word in words)


def of_suite(name: str) -> Sequence[Chart]:
    """The charts that show cells of a suite."""
    return [chart for chart in CHARTS if chart.pattern.split("/")[0] == name]
