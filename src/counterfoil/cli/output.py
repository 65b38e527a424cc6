"""What the commands print: people's text, or JSON for programs.

Results go to standard output, everything else (progress, remarks, errors) to standard
error, so that a pipe carries results only. Text that comes from a book is somebody else's:
it is never read as markup, and characters that could steer a terminal are written out.
"""

import json
import os
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, TypeVar
from zlib import crc32

import typer
from rich.console import Console
from rich.text import Text

from counterfoil import Event
from counterfoil.client import document

ConsoleT = TypeVar("ConsoleT", bound=Console)


class Format(StrEnum):
    """How results are written."""

    TEXT = "text"
    JSON = "json"


class _Results(Console):
    """Standard output; ends the command in silence when nobody reads it any more."""

    def on_broken_pipe(self) -> None:
        reader_gone()


def results() -> Console:
    """A console on standard output as it is now (tests replace it)."""
    return _wrapping_by_words(_Results(highlight=False))


def remarks() -> Console:
    """A console on standard error as it is now."""
    return _wrapping_by_words(Console(stderr=True, highlight=False))


def _wrapping_by_words(console: ConsoleT) -> ConsoleT:
    """Break long sentences on a terminal only: a file or a pipe gets them whole."""
    console.soft_wrap = not console.is_terminal
    return console


def print_json(value: Any) -> None:
    """One JSON value on one line of standard output, numbers digit for digit."""
    print_line(_steerless(document.encode(value).decode()))


def print_line(line: str) -> None:
    """One line of standard output, at once: whoever reads it may be waiting for it."""
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        reader_gone()


def remark(message: str) -> None:
    """A sentence on standard error."""
    remarks().print(Text(visible(message)))


def complain(message: str) -> None:
    """An error's sentence on standard error."""
    remarks().print(Text.assemble(("Error: ", "bold red"), visible(message, keep="\n")))


def reader_gone() -> None:
    """End the command: ``| head`` has seen enough, and that is no error.

    Standard output is pointed at nothing first, or the interpreter would complain when it
    flushes it at its end.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise typer.Exit(0)


def visible(text: str, keep: str = "") -> str:
    """``text`` with every character that prints nothing itself written as an escape."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in keep else f"\\u{ord(each):04x}" for each in text
    )


def _steerless(written: str) -> str:
    """The same JSON, where what could steer a terminal stands as an escape.

    JSON itself asks that only of U+0000 to U+001F; a terminal obeys U+009B too.
    """
    if written.isprintable():
        return written
    # Outside of strings, nothing is written that is not printable.
    return "".join(each if each.isprintable() else json.dumps(each).strip('"') for each in written)


# --- Events as lines ------------------------------------------------------------------

_ID_WIDTH: Final = 7
_TIME_WIDTH: Final = 23
_CLOCK_WIDTH: Final = 12
_AGENT_WIDTH: Final = 12
_TYPE_WIDTH: Final = 18

_WIDTH_WITH_DATE_MIN: Final = 100
"""A narrower terminal shows the time of day only: with the date, 80 columns would leave 12
characters for what happened."""

_PLAIN: Final = re.compile(r"[A-Za-z_][\w.:@/+-]*")
"""A string that cannot be taken for a number or for two words …"""

_JSON_WORDS: Final = frozenset({"true", "false", "null"})
"""… and these could be taken for what they are not."""

_AGENT_STYLES: Final = ("cyan", "magenta", "green", "yellow", "blue", "bright_cyan")
"""An agent keeps its colour from call to call. Red is left for what is wrong."""


class EventPrinter:
    """Prints events as they come, one a line: under headings, or as JSON.

    A line for people is cut to the terminal's width, and is whole in a pipe or a file. On a
    narrow terminal the date is left out.
    """

    def __init__(self, output: Format) -> None:
        self._console = results() if output is Format.TEXT else None
        self._begun = False

    @property
    def _width(self) -> int | None:
        """The terminal's width as it is now; ``None`` where there is no terminal."""
        console = self._console
        return console.width if console is not None and console.is_terminal else None

    def begin(self) -> None:
        """Print the headings, once; the first event does it otherwise."""
        if self._console is not None and not self._begun:
            self._console.print(heading(self._width))
        self._begun = True

    def show(self, event: Event) -> None:
        """Print one event."""
        self.begin()
        if self._console is None:
            print_line(_steerless(event.to_json()))
        else:
            self._console.print(event_line(event, self._width))


def heading(width: int | None = None) -> Text:
    """What stands above the events' lines of this ``width``."""
    created = (
        f"{'TIME (UTC)':<{_CLOCK_WIDTH}}"
        if _is_narrow(width)
        else f"{'CREATED (UTC)':<{_TIME_WIDTH}}"
    )
    return Text(
        f"{'ID':>{_ID_WIDTH}}  {created}  {'AGENT':<{_AGENT_WIDTH}}  "
        f"{'TYPE':<{_TYPE_WIDTH}}  PAYLOAD",
        style="bold",
    )


def event_line(event: Event, width: int | None = None) -> Text:
    """One event on one line; cut to ``width`` characters where that is given."""
    created = moment(event.created_at)
    if _is_narrow(width):
        created = created[-_CLOCK_WIDTH:]
    line = Text.assemble(
        (f"{event.id:>{_ID_WIDTH}}", "bold"),
        ("  " + created, "dim"),
        (f"  {visible(event.agent_name):<{_AGENT_WIDTH}}", agent_style(event.agent_name)),
        (f"  {visible(event.event_type):<{_TYPE_WIDTH}}", "bold"),
        f"  {payload_text(event.payload)}",
        no_wrap=True,
        overflow="ignore",
    )
    if width is not None:
        line.truncate(width, overflow="ellipsis")
    return line


def _is_narrow(width: int | None) -> bool:
    return width is not None and width < _WIDTH_WITH_DATE_MIN


def moment(time: datetime) -> str:
    """A time as UTC to the millisecond: ``2026-01-05 08:00:00.123``."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def payload_text(payload: Mapping[str, Any]) -> str:
    """A payload on one line: ``score=75 reason=amount transaction_id=tx_987``.

    First what is said, then the ids that it is said about, the longest name first: where a
    line is cut, it should not lose the most telling part. Numbers are shown digit for
    digit; a string that could be taken for something else, as JSON.
    """
    ids = sorted((name for name in payload if name.endswith("_id")), key=len, reverse=True)
    names = [name for name in payload if not name.endswith("_id")] + ids
    return visible(" ".join(f"{_word(name)}={_word(payload[name])}" for name in names))


def _word(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value not in _JSON_WORDS:
        return value
    return document.encode(value).decode()


def agent_style(agent_name: str) -> str:
    """The colour of an agent, the same in every run."""
    return _AGENT_STYLES[crc32(agent_name.encode()) % len(_AGENT_STYLES)]
