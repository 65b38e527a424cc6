"""Shows something again and again, until Ctrl-C.

On a terminal it is drawn anew in its place; what is piped gets one block after another. A
service that goes away meanwhile is waited for, and what was seen last stays: things are watched
just when a service is restarted. One that cannot be reached at the start ends the command, as
everywhere.
"""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Annotated, Final, TypeVar

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text
from typer.core import TyperCommand

from counterfoil import APIConnectionError, RateLimited, ServiceUnavailable
from counterfoil.cli.output import remark, visible
from counterfoil.cli.service import ended_by_signals

SeenT = TypeVar("SeenT")

WATCH_SECONDS_DEFAULT: Final = 1.0
WATCH_SECONDS_MIN: Final = 0.1
WATCH_SECONDS_MAX: Final = 86_400.0

Watch = Annotated[
    float | None,
    typer.Option(
        "--watch",
        "-w",
        metavar="[SECONDS]",
        min=WATCH_SECONDS_MIN,
        max=WATCH_SECONDS_MAX,
        show_default=False,
        help="Show it again and again until Ctrl-C: every second, or every so many.",
    ),
]

_NAMES: Final = frozenset({"--watch", "-w"})

_AWAY: Final = (APIConnectionError, ServiceUnavailable, RateLimited)
"""What passes by itself. Anything else would be refused again."""

pause = time.sleep
"""Waits between two looks; tests, which do not wait, put something else here."""


class Watchable(TyperCommand):
    """A command whose ``--watch`` may stand without its number."""

    # The context's own type is private to typer; this is the public one, which is below it.
    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]  # above
        """Give ``--watch`` its number where none follows."""
        given = list(args)
        for index, each in enumerate(args):
            following = args[index + 1 : index + 2]
            if each in _NAMES and (not following or following[0].startswith("-")):
                given[index] = f"--watch={WATCH_SECONDS_DEFAULT:g}"
        return super().parse_args(ctx, given)


def watch_blocks(look: Callable[[], SeenT], show: Callable[[SeenT], None], every: float) -> None:
    """Print what is seen, for a pipe or a file, until the command is interrupted."""
    away = False
    for seen, why in _rounds(look, every):
        if why is None:
            show(seen)
        elif not away:
            remark(why)
        away = why is not None


def watch_on(
    console: Console,
    look: Callable[[], SeenT],
    *,
    said: Callable[[SeenT], str],
    draw: Callable[[SeenT, int, int], RenderableType],
    every: float,
) -> None:
    """Draw what is seen in one place of a terminal, until the command is interrupted.

    Args:
        console: the terminal.
        look: asks the service.
        said: a few words about what was seen, for the line above.
        draw: what stands below in this width, in at most so many lines.
        every: the seconds between two looks.
    """
    rounds = _rounds(look, every)
    # The first may fail, and then nothing is drawn.
    seen, why = next(rounds)
    # Whatever ends it, the terminal gets its cursor back.
    with ended_by_signals(), Live(console=console, auto_refresh=False) as live:
        while True:
            if why is None:
                above = Text(f"{stamp()}  {said(seen)}", style="dim")
            else:
                above = Text(visible(why), style="red")
            taken = len(above.wrap(console, console.width))
            live.update(
                Group(above, draw(seen, console.width, console.height - taken)), refresh=True
            )
            seen, why = next(rounds)


def _rounds(look: Callable[[], SeenT], every: float) -> Iterator[tuple[SeenT, str | None]]:
    """What was seen last; and why it could not be seen again, where that is so."""
    seen = look()
    yield seen, None
    while True:
        pause(every)
        why = None
        try:
            seen = look()
        except _AWAY as error:
            why = f"{stamp()}  {error} Trying until it is back …"
        yield seen, why


def stamp() -> str:
    """The time now, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
