"""How consumers stand: whole in a pipe, within any terminal, and never cut where it counts."""

import io
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console, RenderableType

from counterfoil import Attempt, Backoff, Consumer, DeadLetter, QueryItem
from counterfoil.cli.consumer_table import (
    age,
    consumer_fields,
    consumers_screen,
    consumers_table,
    letter_fields,
    print_consumers,
    rate,
    summary,
)
from counterfoil.client.consumer_model import Lag

AT = datetime(2026, 1, 5, 8, tzinfo=UTC)
LONG = "everything-that-the-compliance-team-of-the-north-has-to-see-0001"


def consumer(name: str = "scorer", **members: Any) -> Consumer:
    return Consumer(
        **{
            "name": name,
            "query": (QueryItem(types="payment"),),
            "start": "beginning",
            "lease_seconds": 60,
            "attempts_max": 10,
            "backoff": Backoff(),
            "order_by": None,
            "in_flight_max": None,
            "dead_letters": "pass",
            "status": "running",
            "position": 1_204,
            "head": 1_310,
            "lag": Lag(events=106, seconds=83.4, at_least=False),
            "in_flight": 8,
            "waiting": 98,
            "set_aside": 2,
            "rate": 12.34,
            "event_id": 3,
            "created_at": AT,
            "created_by": "person:m.ito",
            **members,
        }
    )


def shown(what: RenderableType, width: int, height: int = 24) -> list[str]:
    screen = io.StringIO()
    Console(file=screen, force_terminal=True, width=width, height=height, color_system=None).print(
        what
    )
    return [line.rstrip() for line in screen.getvalue().splitlines()]


def test_a_pipe_gets_a_line_for_each_with_everything(capsys: pytest.CaptureFixture[str]) -> None:
    idle = consumer(
        LONG, lag=Lag(events=0, seconds=0, at_least=False), rate=0.0, set_aside=0, status="paused"
    )
    print_consumers([consumer(), idle])

    heading, *lines = capsys.readouterr().out.splitlines()
    first, second = (line.split() for line in lines)
    assert re.split("  +", heading) == [
        "NAME",
        "STATUS",
        "POSITION/HEAD",
        "LAG",
        "OLDEST",
        "IN FLIGHT",
        "WAITING",
        "SET ASIDE",
        "RATE",
    ]
    assert first == ["scorer", "running", "1204/1310", "106", "1m23s", "8", "98", "2", "12/s"]
    assert second == [LONG, "paused", "1204/1310", "0", "-", "8", "98", "0", "0/s"]


@pytest.mark.parametrize("width", [200, 120, 100, 80, 60, 40])
def test_a_terminal_gets_as_much_as_has_room_and_no_number_is_cut(width: int) -> None:
    far = consumer(LONG, position=123_456_789_012, head=123_456_789_013, rate=0.25)
    lines = shown(consumers_table([consumer(), far], width), width)

    assert all(len(line) <= width for line in lines)
    assert not any("…" in line for line in lines)
    words = " ".join(lines).split()
    assert "106" in words
    assert ("123456789012" in words or "123456789012/123456789013" in words) == (width >= 100)
    assert ("0.25/s" in words) == (width >= 80)
    name = "".join(line.split(" ")[0] for line in lines if line)
    assert LONG in name


def test_a_wide_terminal_has_the_head_and_a_narrow_one_has_not() -> None:
    assert "1204/1310" in shown(consumers_table([consumer()], 120), 120)[1]
    narrow = shown(consumers_table([consumer()], 76), 76)
    assert "  1204  " in narrow[2]
    assert "1310" not in narrow[2]


def test_numbers_stand_below_each_other_at_the_right() -> None:
    _, first, second = shown(consumers_table([consumer(), consumer(in_flight=1_000)], 120), 120)
    assert first.index("   8 ") + 3 == second.index("1000") + 3


@pytest.mark.parametrize(("count", "below"), [(3, 0), (30, 22), (31, 23)])
def test_a_low_window_says_how_many_have_no_room(count: int, below: int) -> None:
    lines = shown(consumers_screen([consumer(LONG)] * count, 80, 11), 80)

    assert len(lines) <= 11
    assert (lines[-1] == f"… and {below} more") == bool(below)
    assert all("running" in line for line in lines[2 : len(lines) - bool(below)])


def test_no_consumer_at_all_says_how_to_make_one() -> None:
    assert "counterfoil consumers put NAME" in shown(consumers_screen([], 80, 11), 80)[0]
    assert summary([]) == "no consumers"
    assert summary([consumer()]) == "1 consumer, head 1310"
    assert summary([consumer(), consumer()]) == "2 consumers, head 1310"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0s"),
        (9.94, "9.9s"),
        (10, "10s"),
        (59.9, "59s"),
        (60, "1m"),
        (200, "3m20s"),
        (5_400, "1h30m"),
        (5_459, "1h30m"),
        (187_300, "2d4h"),
        (60_000_000, "694d10h"),
    ],
)
def test_an_age_is_its_two_largest_units(seconds: float, text: str) -> None:
    assert age(seconds) == text


@pytest.mark.parametrize(
    ("per_second", "text"),
    [(0, "0/s"), (0.021, "0.02/s"), (1.26, "1.3/s"), (12.34, "12/s"), (12_345.6, "12346/s")],
)
def test_a_rate_has_digits_that_say_something(per_second: float, text: str) -> None:
    assert rate(per_second) == text


def fields(**members: Any) -> dict[str, str]:
    return {name: str(value) for name, value in consumer_fields(consumer(**members))}


def test_all_that_is_known_of_one_is_said_in_words() -> None:
    plain = fields()
    assert plain["hands out"] == "type=payment"
    assert plain["position"] == "1204 of 1310"
    assert plain["lag"] == "106 events not done, the oldest 1m23s old"
    assert plain["in flight"] == "8"
    assert plain["began"] == "at the beginning"
    assert plain["attempts"] == (
        "10; waits 1s after a failure, 2 times as long after each more, up to 5m"
    )
    assert plain["order"] == "none: all events are free"
    assert plain["made"] == "2026-01-05 08:00 UTC by person:m.ito"

    other = fields(
        query=(QueryItem(types="a"), QueryItem(tags="x:1")),
        start=17,
        lag=Lag(events=10_000, seconds=90_000, at_least=True),
        in_flight_max=50,
        order_by="customer",
        dead_letters="hold",
        backoff=Backoff(initial_seconds=0.5, factor=1),
    )
    assert (other["hands out"], other["or"]) == ("type=a", "tag=x:1")
    assert other["began"] == "after 17"
    assert other["lag"] == "10000+ events not done, the oldest 1d1h old"
    assert other["in flight"] == "8 of at most 50"
    assert other["attempts"] == "10; waits 0.5s after a failure"
    assert other["order"].endswith("a dead letter holds up its customer")
    assert fields(start="now")["began"] == "with what came after it was made"
    passing = fields(order_by="customer")["order"]
    assert passing.endswith("a dead letter lets the next pass of its customer")


def test_a_dead_letter_says_whether_it_holds_up_others() -> None:
    letter = DeadLetter(
        event_id=17,
        attempts=(Attempt(attempt=1, holder="h", claimed_at=AT, ended_at=AT, reason="No."),),
        reason="It failed as often as it may.",
        set_aside_at=AT,
        set_aside_by="service:counterfoil",
        said_by=18,
        holds_key=True,
    )
    assert dict(letter_fields(letter))["holds up"] == "what comes after it under its key"
