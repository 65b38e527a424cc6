"""Something shown again and again: in place, in blocks, through a restart, until Ctrl-C."""

import io
import json
import re
from collections.abc import Callable, Iterator
from typing import Final

import pytest
from rich.console import Console
from rich.text import Text

from counterfoil import APIConnectionError, PermissionDenied
from counterfoil.cli import watching
from counterfoil.cli.exits import ExitCode
from counterfoil.cli.watching import watch_blocks, watch_on
from tests.unit.cli.conftest import Call
from tests.unit.client.simulated_book import Fault, problem
from tests.unit.client.simulated_consumers import SimulatedConsumers

AWAY: Final = APIConnectionError("The service cannot be reached.")
HIDE_CURSOR: Final = "\x1b[?25l"
SHOW_CURSOR: Final = "\x1b[?25h"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What was waited for; with the fourth time comes Ctrl-C."""
    waited: list[float] = []

    def pause(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(watching, "pause", pause)
    return waited


def looking(*seen: str | Exception) -> Callable[[], str]:
    """Sees one after another."""
    left: Iterator[str | Exception] = iter(seen)

    def look() -> str:
        found = next(left)
        if isinstance(found, Exception):
            raise found
        return found

    return look


def screen(height: int = 24) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=True, width=60, height=height, color_system=None
    )


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_every_look_is_a_block(waits: list[float]) -> None:
    shown: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        watch_blocks(looking("a", "b", "c", "d"), shown.append, 0.5)

    assert shown == ["a", "b", "c", "d"]
    assert waits == [0.5] * 4


def test_what_goes_away_is_told_of_once_and_waited_for(
    waits: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        watch_blocks(looking("a", AWAY, AWAY, "b"), shown.append, 1)

    assert shown == ["a", "b"]
    told = capsys.readouterr().err
    assert told.count("The service cannot be reached. Trying until it is back …") == 1
    assert len(waits) == 4


@pytest.mark.usefixtures("waits")
def test_a_refusal_or_a_failure_at_the_start_ends_it() -> None:
    shown: list[str] = []
    with pytest.raises(APIConnectionError):
        watch_blocks(looking(AWAY), shown.append, 1)
    with pytest.raises(PermissionDenied):
        watch_blocks(looking("a", PermissionDenied(status_code=403)), shown.append, 1)

    assert shown == ["a"]


@pytest.mark.usefixtures("waits")
def test_a_terminal_shows_it_in_one_place_and_gets_its_cursor_back() -> None:
    console = screen(height=10)
    room: list[tuple[int, int]] = []

    def draw(seen: str, width: int, lines: int) -> Text:
        room.append((width, lines))
        return Text(f"<{seen}>")

    with pytest.raises(KeyboardInterrupt):
        watch_on(
            console, looking("a", AWAY, "b", "c"), said=lambda _: "1 thing", draw=draw, every=1
        )

    raw = written(console)
    assert room == [(60, 9), (60, 8), (60, 9), (60, 9)]
    assert raw.startswith(HIDE_CURSOR)
    assert raw.endswith(f"<c>\n{SHOW_CURSOR}")
    # What was seen last stays while the service is away, and the reason stands above it.
    frames = re.split(r"(?:\r|\x1b\[2K|\x1b\[1A)+", raw)
    assert [each.strip().splitlines()[-1] for each in frames[:4]] == ["<a>", "<a>", "<b>", "<c>"]
    assert "The service cannot be reached. Trying until it is" in " ".join(frames[1].split())
    assert "UTC  1 thing" in frames[2]


@pytest.mark.usefixtures("waits")
def test_a_failure_at_the_start_draws_nothing() -> None:
    console = screen()
    with pytest.raises(APIConnectionError):
        watch_on(console, looking(AWAY), said=str, draw=lambda seen, *_: Text(seen), every=1)
    assert written(console) == ""


# --- As it is called ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "seconds"),
    [
        (("--watch",), 1.0),
        (("-w",), 1.0),
        (("--watch", "-o", "text"), 1.0),
        (("--watch", "2.5"), 2.5),
        (("-w", "10"), 10.0),
        (("list", "--watch=0.1"), 0.1),
    ],
)
def test_it_is_shown_every_second_or_as_often_as_is_said(
    call: Call, waits: list[float], arguments: tuple[str, ...], seconds: float
) -> None:
    call("consumers", "put", "scorer", "--type", "payment")

    ended = call("consumers", *arguments)

    assert (ended.code, ended.stderr) == (ExitCode.INTERRUPTED, "")
    assert waits == [seconds] * 4
    blocks = ended.stdout.removesuffix("\n\n").split("\n\n")
    assert len(blocks) == 4
    for block in blocks:
        said, heading, line = block.splitlines()
        assert said.endswith(" UTC  1 consumer, head 1")
        assert heading.startswith("NAME")
        assert line.startswith("scorer")


@pytest.mark.usefixtures("waits")
def test_a_program_that_watches_gets_a_line_for_each_consumer_and_look(call: Call) -> None:
    call("consumers", "put", "scorer", "--type", "payment")
    call("consumers", "put", "notifier", "--type", "payment")

    ended = call("consumers", "--watch", "-o", "json")

    names = [json.loads(line)["name"] for line in ended.stdout.splitlines()]
    assert names == ["scorer", "notifier"] * 4
    assert ended.code == ExitCode.INTERRUPTED


@pytest.mark.usefixtures("waits")
def test_no_consumer_yet_is_watched_too(call: Call) -> None:
    ended = call("consumers", "--watch")
    assert ended.code == ExitCode.INTERRUPTED
    assert ended.stdout.count("UTC  no consumers\n\n") == 4


@pytest.mark.usefixtures("waits")
def test_a_key_that_opens_nothing_any_more_ends_it(call: Call, service: SimulatedConsumers) -> None:
    gone = problem(401, "unauthenticated", "This key was revoked.")
    service.faults.extend([None, Fault(gone)])

    ended = call("consumers", "--watch")

    assert ended.code == ExitCode.REFUSED
    assert "This key was revoked." in ended.stderr
    assert ended.stdout.count("no consumers") == 1
