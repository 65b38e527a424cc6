"""What is printed is safe to show: somebody else wrote it."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from counterfoil import Event
from counterfoil.cli.output import (
    EventPrinter,
    Format,
    agent_style,
    event_line,
    heading,
    payload_text,
    print_json,
    visible,
)


def an_event(**members: Any) -> Event:
    values: dict[str, Any] = {
        "id": 17,
        "agent_name": "fraud_agent",
        "event_type": "flag_transaction",
        "payload": {"transaction_id": "tx_987", "amount": Decimal("12.30")},
        "tags": ("transaction:tx_987",),
        "created_at": datetime(2026, 1, 5, 8, 0, 0, 123456, tzinfo=UTC),
    }
    return Event(**{**values, **members})


def test_an_event_is_one_line() -> None:
    assert event_line(an_event()).plain == (
        "     17  2026-01-05 08:00:00.123  fraud_agent   flag_transaction    "
        "amount=12.30 transaction_id=tx_987"
    )


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        ({}, ""),
        ({"score": 75, "ok": True, "none": None}, "score=75 ok=true none=null"),
        ({"run_id": "r", "customer_id": "c", "score": 1}, "score=1 customer_id=c run_id=r"),
        ({"amount": Decimal("12.30")}, "amount=12.30"),
        ({"a": "two words", "b": "", "c": "12", "d": "true"}, 'a="two words" b="" c="12" d="true"'),
        ({"list": ["a", {"b": 1}]}, 'list=["a",{"b":1}]'),
        ({"a b": "x=y"}, '"a b"="x=y"'),
    ],
)
def test_a_payload_says_what_it_says_before_what_it_is_about(
    payload: dict[str, Any], shown: str
) -> None:
    assert payload_text(payload) == shown


def test_a_line_is_cut_to_the_terminal() -> None:
    line = event_line(an_event(payload={"note": "long " * 100}), width=100)

    assert len(line.plain) == 100
    assert line.plain.endswith("…")


def test_a_narrow_terminal_has_the_time_of_day_and_room_for_the_payload() -> None:
    event = an_event()

    assert event_line(event, width=80).plain == (
        "     17  08:00:00.123  fraud_agent   flag_transaction    amount=12.30 transacti…"
    )
    for width, shown in ((80, "08:00:00.123"), (99, "08:00:00.123"), (100, "2026-01-05 ")):
        line, above = event_line(event, width).plain, heading(width).plain
        assert line[9:].startswith(shown)
        assert line.index("amount=") == above.index("PAYLOAD")
    assert heading().plain == heading(100).plain


@pytest.mark.parametrize(
    "dangerous",
    [
        "\x1b[2J",  # clears the terminal
        "\x9b31m",  # the same door in one character
        "\r",  # writes over what stands there
        "\n",
        "\u202e",  # turns the direction of the text
        "\x07",
    ],
)
def test_nothing_in_an_event_steers_the_terminal(dangerous: str) -> None:
    event = an_event(
        agent_name=f"a{dangerous}", event_type=f"t{dangerous}", payload={"note": dangerous}
    )

    shown = event_line(event).plain

    assert dangerous not in shown
    assert shown.isprintable()


@pytest.mark.parametrize(
    "dangerous", ["\x1b[2J", "\x9b2J", "\x7f", "\u202e", "\U000e0041", "\u2028"]
)
def test_no_json_steers_the_terminal(dangerous: str, capsys: pytest.CaptureFixture[str]) -> None:
    event = an_event(payload={f"a{dangerous}": [f"{dangerous}é😀"]})

    EventPrinter(Format.JSON).show(event)
    print_json(event.payload)

    first, second = capsys.readouterr().out.splitlines()
    assert first.isprintable()
    assert second.isprintable()
    assert json.loads(first)["payload"] == json.loads(second) == event.payload
    assert "é😀" in first


def test_markup_is_shown_and_not_obeyed() -> None:
    assert "[red]" in event_line(an_event(agent_name="[red]", payload={"n": "[red]"})).plain


def test_what_is_kept_is_kept() -> None:
    assert visible("two\nlines\x1b", keep="\n") == "two\nlines\\u001b"
    assert visible("café €") == "café €"


def test_an_agent_keeps_its_colour_and_none_is_red() -> None:
    assert agent_style("scorer") == agent_style("scorer")
    assert not any("red" in agent_style(f"agent_{number}") for number in range(100))
