"""Profiles as files: for each cell a page, the same as JSON, and a flame graph of the worker."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.harness.profiling import HERTZ, Profile
from benchmarks.report import flame
from benchmarks.report.tables import HIDDEN, number, table, unit_of

FOLDER: Final = Path(__file__).parents[1]

FUNCTIONS_SHOWN: Final = 15
WAITS_SHOWN_MIN: Final = 0.01
QUERY_SHOWN: Final = 110


def stem(cell: str) -> str:
    """The name of a cell's files, without what stands behind the dot."""
    return cell.replace("/", "-")


def exists(cell: str, folder: Path) -> bool:
    """Whether there is a profile of this cell below ``folder``."""
    return (folder / "profiles" / f"{stem(cell)}.md").is_file()


def linked(cells: Sequence[str]) -> str:
    """A line that leads to the profiles of these cells; empty: there is none."""
    links = [f"[`{cell}`](profiles/{stem(cell)}.md)" for cell in cells]
    return f"Profile: {', '.join(links)}." if links else ""


def write(profile: Profile, *, commit: str, folder: Path = FOLDER) -> list[Path]:
    """Write a profile's files into ``folder/profiles``; returns what was written."""
    place = folder / "profiles"
    place.mkdir(exist_ok=True)
    name = stem(profile.cell)
    page, data, graph = (place / f"{name}.{kind}" for kind in ("md", "json", "svg"))
    page.write_text(_page(profile, commit, name), encoding="utf-8")
    # The stacks are in the graph; as text they would be larger than all the rest.
    values = {**dataclasses.asdict(profile), "commit": commit}
    del values["stacks"]
    data.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if not profile.stacks:
        return [page, data]
    graph.write_text(flame.draw(profile.stacks, f"One worker: {profile.cell}"), encoding="utf-8")
    return [page, data, graph]


def _page(profile: Profile, commit: str, name: str) -> str:
    parts = [
        f"# Profile of `{profile.cell}`",
        (
            f"Written by `python3 tasks.py bench --profile {profile.cell}` on {profile.at}, of commit "
            f"`{commit}`. The samplers worked on the same processors, so the figures are lower than "
            "those of a measurement."
        ),
        table(
            ["", "value"],
            [_figure(*item) for item in profile.figures.items() if item[0] not in HIDDEN],
        ),
        table(
            ["CPU time of", "processors busy"],
            [
                [role, number(seconds / profile.seconds)]
                for role, seconds in profile.cpu_seconds.items()
            ],
        ),
    ]
    if profile.stacks:
        parts += [
            "## The busiest worker",
            f"Its stacks, {HERTZ} times a second, whenever it was on a processor.",
            f"![Flame graph]({name}.svg)",
            _functions(profile),
        ]
    parts += [
        "## What PostgreSQL's sessions wait for",
        f"Sessions at work on average, {HERTZ} looks a second.",
        table(
            ["", "sessions"],
            [
                [event, number(count)]
                for event, count in profile.waits.items()
                if count >= WAITS_SHOWN_MIN
            ],
        ),
        "## Statements",
        (
            "From `pg_stat_statements`; *inside* marks those that functions run, whose time is part of "
            "their caller's. Planning, parsing, commit and the network are not in them."
        ),
        table(
            ["statement", "", "calls", "ms in all", "ms each", "rows", "WAL bytes a call"],
            [_statement(each) for each in profile.statements],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _functions(profile: Profile) -> str:
    total = sum(profile.stacks.values())
    own = list(flame.own_samples(profile.stacks).items())[:FUNCTIONS_SHOWN]
    return table(
        ["function, with what it calls in C", "own share"],
        [[f"`{function}`", f"{count / total:.1%}"] for function, count in own],
    )


def _figure(name: str, value: float) -> list[str]:
    label, unit = unit_of(name)
    return [label or "value", number(value) + unit]


def _statement(each: Any) -> list[str]:
    query = each["query"].replace("|", r"\|").replace("`", "'")
    return [
        f"`{query[:QUERY_SHOWN]}{'…' if len(query) > QUERY_SHOWN else ''}`",
        "" if each["top_level"] else "inside",
        f"{each['calls']:,}",
        number(each["total_milliseconds"]),
        f"{each['mean_milliseconds']:.3f}",
        f"{each['rows']:,}",
        number(each["wal_bytes"] / max(1, each["calls"])),
    ]
