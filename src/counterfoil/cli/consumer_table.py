"""How consumers stand, for people: a line for each, or all that is known of one.

A pipe gets all of it, and so does a terminal that is wide enough. A narrow one does without the
head, which is the same for all, then without some columns; numbers are never broken or cut.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from counterfoil import Consumer, DeadLetter
from counterfoil.cli import arguments
from counterfoil.cli.output import print_line, remark, results, visible
from counterfoil.cli.tables import Cell, minute, print_rows, span
from counterfoil.cli.watching import stamp

_HEADINGS: Final = (
    "NAME",
    "STATUS",
    "POSITION/HEAD",
    "LAG",
    "OLDEST",
    "IN FLIGHT",
    "WAITING",
    "SET ASIDE",
    "RATE",
)
_HEADINGS_NARROW: Final = (
    "NAME",
    "STATUS",
    "POSITION",
    "LAG",
    "OLDEST",
    "IN\nFLIGHT",
    "WAITING",
    "SET\nASIDE",
    "RATE",
)
_LEFT_OUT_FIRST: Final = ("POSITION", "RATE", "OLDEST", "IN\nFLIGHT", "WAITING", "SET\nASIDE")
"""What a terminal that has not room for all of it does without, one after another."""

_WORDS: Final = frozenset({"NAME", "STATUS"})
"""What is no number, and stands at the left of its column."""

_NAME_WIDTH_MIN: Final = 14
_GAP: Final = 2

_STATUS_STYLES: Final = {"running": "green", "paused": "yellow", "stalled": "bold red"}

NONE_YET: Final = (
    "There is no consumer yet. To make one: counterfoil consumers put NAME --type TYPE"
)


def show_consumers(consumers: Sequence[Consumer]) -> None:
    """Print them, and how many they are."""
    if not consumers:
        remark(NONE_YET)
        return
    console = results()
    if console.is_terminal:
        console.print(consumers_table(consumers, console.width))
    else:
        print_consumers(consumers)
    remark(f"{summary(consumers)}.")


def show_block(consumers: Sequence[Consumer]) -> None:
    """Print them for a pipe or a file that gets them again and again."""
    print_line(f"{stamp()}  {summary(consumers)}")
    if consumers:
        print_consumers(consumers)
    print_line("")


def print_consumers(consumers: Sequence[Consumer]) -> None:
    """Print them for a pipe or a file, one a line."""
    print_rows([[Text(heading) for heading in _HEADINGS], *map(_row, consumers)])


def consumers_table(consumers: Sequence[Consumer], width: int, *, fold: bool = True) -> Table:
    """Put them into columns for a terminal of this width.

    Args:
        consumers: one a line.
        width: the terminal's.
        fold: a name that is too long goes on below; otherwise it is cut.
    """
    columns = _columns(consumers, width)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for heading in columns:
        table.add_column(
            heading,
            justify="left" if heading in _WORDS else "right",
            no_wrap=heading != "NAME",
            overflow="fold" if fold else "ellipsis",
        )
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*cells)
    return table


def consumers_screen(consumers: Sequence[Consumer], width: int, lines_max: int) -> RenderableType:
    """Put them into columns for a terminal that has so many lines for them: a line for each."""
    if not consumers:
        return Text(NONE_YET)
    headings = 1 + max(heading.count("\n") for heading in _columns(consumers, width))
    rows = lines_max - headings
    if len(consumers) <= rows:
        return consumers_table(consumers, width, fold=False)
    shown = consumers[: max(rows - 1, 1)]
    below = Text(f"… and {len(consumers) - len(shown)} more", style="dim")
    return Group(consumers_table(shown, width, fold=False), below)


def _columns(consumers: Sequence[Consumer], width: int) -> dict[str, list[Text]]:
    """The cells below each heading: all that there is, or as much as has room."""
    rows = [_row(consumer) for consumer in consumers]
    cells = list(map(list, zip(*rows, strict=True)))
    wide = dict(zip(_HEADINGS, cells, strict=True))
    if _width(wide) <= width:
        return wide
    narrow = dict(zip(_HEADINGS_NARROW, cells, strict=True))
    narrow["POSITION"] = [Text(str(consumer.position)) for consumer in consumers]
    for heading in _LEFT_OUT_FIRST:
        if _width(narrow, name_width_max=_NAME_WIDTH_MIN) <= width:
            break
        del narrow[heading]
    return narrow


def _width(columns: Mapping[str, Sequence[Text]], name_width_max: int | None = None) -> int:
    widths = {
        heading: max(*map(len, heading.split("\n")), *(cell.cell_len for cell in cells))
        for heading, cells in columns.items()
    }
    if name_width_max is not None:
        widths["NAME"] = min(widths["NAME"], name_width_max)
    return sum(widths.values()) + _GAP * (len(widths) - 1)


def summary(consumers: Sequence[Consumer]) -> str:
    """How many they are, and how long the book is."""
    if not consumers:
        return "no consumers"
    count = len(consumers)
    head = max(each.head for each in consumers)
    return f"{count} consumer{'' if count == 1 else 's'}, head {head}"


def _row(consumer: Consumer) -> tuple[Text, ...]:
    aside = Text(str(consumer.set_aside), style="yellow" if consumer.set_aside else "")
    return (
        Text(visible(consumer.name), style="bold"),
        status(consumer),
        Text(f"{consumer.position}/{consumer.head}"),
        Text(_lag(consumer)),
        Text(age(consumer.lag.seconds) if consumer.lag.events else "-"),
        Text(str(consumer.in_flight)),
        Text(str(consumer.waiting)),
        aside,
        Text(rate(consumer.rate)),
    )


def status(consumer: Consumer) -> Text:
    """Whether it runs, in its colour."""
    return Text(visible(consumer.status), style=_STATUS_STYLES.get(consumer.status, ""))


def _lag(consumer: Consumer) -> str:
    return f"{consumer.lag.events}{'+' if consumer.lag.at_least else ''}"


def age(seconds: float) -> str:
    """A stretch of time by its two largest units: ``0.8s``, ``3m20s``, ``2d4h``."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    for unit, smaller in ((86_400, 3_600), (3_600, 60), (60, 1)):
        if seconds >= unit:
            return span(timedelta(seconds=seconds - seconds % smaller))
    return span(timedelta(seconds=seconds))


def rate(per_second: float) -> str:
    """Events a second, with as many digits as say something: ``0.25/s``, ``12/s``."""
    digits = 0 if per_second == 0 or per_second >= 10 else 1 if per_second >= 1 else 2
    return f"{per_second:.{digits}f}/s"


def consumer_fields(consumer: Consumer) -> Iterator[tuple[str, Cell]]:
    """All that is known of one."""
    yield "name", Text(consumer.name, style="bold")
    yield "status", status(consumer)
    yield from _query_fields(consumer)
    yield "position", f"{consumer.position} of {consumer.head}"
    behind = f", the oldest {age(consumer.lag.seconds)} old" if consumer.lag.events else ""
    yield "lag", f"{_lag(consumer)} events not done{behind}"
    yield "in flight", f"{consumer.in_flight}" + _at_most(consumer.in_flight_max)
    yield "waiting", str(consumer.waiting)
    yield "set aside", str(consumer.set_aside)
    yield "rate", rate(consumer.rate)
    yield "began", _start(consumer.start)
    yield "lease", span(timedelta(seconds=consumer.lease_seconds))
    yield "attempts", f"{consumer.attempts_max}; {_backoff(consumer)}"
    yield "order", _order(consumer)
    yield "made", f"{minute(consumer.created_at)} UTC by {consumer.created_by}"
    yield "so since", f"event {consumer.event_id}"


def _query_fields(consumer: Consumer) -> Iterator[tuple[str, Cell]]:
    for index, item in enumerate(consumer.query):
        yield "or" if index else "hands out", arguments.query_item_text(item)


def _at_most(bound: int | None) -> str:
    return "" if bound is None else f" of at most {bound}"


def _start(start: str | int) -> str:
    match start:
        case "beginning":
            return "at the beginning"
        case "now":
            return "with what came after it was made"
        case _:
            return f"after {start}"


def _backoff(consumer: Consumer) -> str:
    backoff = consumer.backoff
    first = f"waits {_waits(backoff.initial_seconds)} after a failure"
    if backoff.factor == 1 or backoff.initial_seconds in {0, backoff.max_seconds}:
        return first
    longer = f"{backoff.factor:g} times as long after each more"
    return f"{first}, {longer}, up to {_waits(backoff.max_seconds)}"


def _waits(seconds: float) -> str:
    return span(timedelta(seconds=seconds)) if seconds == int(seconds) else f"{seconds:g}s"


def _order(consumer: Consumer) -> str:
    if consumer.order_by is None:
        return "none: all events are free"
    kept = "holds up its" if consumer.dead_letters == "hold" else "lets the next pass of its"
    return f"one after another per {consumer.order_by}; a dead letter {kept} {consumer.order_by}"


def letter_fields(letter: DeadLetter) -> Iterator[tuple[str, Cell]]:
    """What is known of a dead letter, but its attempts."""
    yield "event", Text(str(letter.event_id), style="bold")
    yield "set aside", f"{minute(letter.set_aside_at)} UTC by {letter.set_aside_by}"
    yield "reason", letter.reason
    yield "told by", f"event {letter.said_by}"
    if letter.holds_key:
        yield "holds up", "what comes after it under its key"
