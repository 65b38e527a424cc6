"""Lists and single things, for people: columns, names with values, JSON that can be read.

As in ``output``, whatever came from the service is shown and never obeyed. On a terminal
columns share its width and long cells go on below; in a pipe or a file each row is one line,
whole.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from counterfoil.cli.output import results, visible
from counterfoil.client import document

Cell = str | Text
"""A string is somebody else's and is made safe; a ``Text`` is ours."""

_GAP: Final = 2
_INDENT: Final = 2
_SPANS: Final = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


def show_table(headings: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Print rows under their headings. The first column is never broken."""
    console = results()
    safe = [[_safe(cell) for cell in row] for row in rows]
    if not console.is_terminal:
        print_rows([[Text(heading) for heading in headings], *safe])
        return
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for index, heading in enumerate(headings):
        table.add_column(heading, no_wrap=index == 0, overflow="fold")
    for row in safe:
        table.add_row(*row)
    console.print(table)


def show_fields(fields: Iterable[tuple[str, Cell]]) -> None:
    """Print what is known of one thing: a name and its value on each line."""
    console = results()
    rows = [[Text(name, style="dim"), _safe(value)] for name, value in fields]
    if not console.is_terminal:
        print_rows(rows)
        return
    table = Table.grid(padding=(0, _GAP, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def print_rows(rows: Sequence[Sequence[Cell]]) -> None:
    """Print rows for a pipe or a file: one line each, whole, their cells below each other."""
    console = results()
    for line in _lines([[_safe(cell) for cell in row] for row in rows]):
        console.print(Text(line))


def _lines(rows: Sequence[Sequence[Text]]) -> Iterable[str]:
    """Each row on a line of its own, however long that is."""
    widths = [max(cell.cell_len for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell.plain + " " * (width - cell.cell_len)
            for cell, width in zip(row, widths, strict=True)
        )
        yield (" " * _GAP).join(cells).rstrip()


def _safe(cell: Cell) -> Text:
    return cell if isinstance(cell, Text) else Text(visible(cell))


def minute(time: datetime) -> str:
    """A time as UTC to the minute: ``2026-01-05 08:00``."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def span(time: timedelta) -> str:
    """A stretch of time as its options take it: ``1h30m``."""
    left = int(time.total_seconds())
    parts = []
    for unit, seconds in _SPANS:
        count, left = divmod(left, seconds)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def pretty(value: Any) -> str:
    """JSON over several lines, with numbers digit for digit and nothing that steers."""
    return "\n".join(visible(line) for line in _pretty(value, 0).split("\n"))


def _pretty(value: Any, depth: int) -> str:
    inner, outer = " " * _INDENT * (depth + 1), " " * _INDENT * depth
    if isinstance(value, Mapping) and value:
        members = (
            f"{inner}{json.dumps(name, ensure_ascii=False)}: {_pretty(member, depth + 1)}"
            for name, member in value.items()
        )
        return "{\n" + ",\n".join(members) + f"\n{outer}}}"
    if isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        items = (inner + _pretty(item, depth + 1) for item in value)
        return "[\n" + ",\n".join(items) + f"\n{outer}]"
    if isinstance(value, list):
        return "[" + ", ".join(_pretty(item, depth) for item in value) + "]"
    return document.encode(value).decode()


def as_document(value: Any) -> dict[str, Any]:
    """What the client gave, as JSON takes it.

    Fields that are kept out of a ``repr`` are secrets, and are kept out of this too.
    """
    return {
        field.name: _plain(getattr(value, field.name))
        for field in dataclasses.fields(value)
        if field.repr
    }


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat(timespec="microseconds")
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if dataclasses.is_dataclass(value):
        return as_document(value)
    return value
