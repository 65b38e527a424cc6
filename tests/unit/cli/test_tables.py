"""Lists and single things: whole in a pipe, shared out on a terminal, never obeyed."""

import io
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from counterfoil import CreatedKey, CreatedTenant, Freeze
from counterfoil.cli import tables
from counterfoil.cli.output import print_line
from counterfoil.cli.tables import as_document, minute, pretty, show_fields, show_table, span

LONG = "word " * 60


def test_a_row_in_a_pipe_is_one_line_whole(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(("ID", "REASON", "BY"), [("1", LONG.strip(), "m.ito"), ("22", "short", "")])

    first, second, third = capsys.readouterr().out.splitlines()
    assert first == f"ID  REASON{' ' * (len(LONG) - 6)} BY"
    assert second == f"1   {LONG} m.ito"
    assert third == "22  short"


def test_wide_characters_keep_the_columns(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(("NAME", "BY"), [("日本", "a"), ("é", "b")])

    assert capsys.readouterr().out.splitlines() == ["NAME  BY", "日本  a", "é     b"]


def test_a_terminal_breaks_long_cells_and_never_the_id(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=40, color_system=None)
    monkeypatch.setattr(tables, "results", lambda: terminal)

    show_table(("ID", "REASON"), [("k7x2mq4awp5yjn3d", LONG)])
    show_fields([("reason", LONG)])

    lines = screen.getvalue().splitlines()
    assert all(len(line) <= 40 for line in lines)
    assert screen.getvalue().count("word") == 120
    assert sum("k7x2mq4awp5yjn3d" in line for line in lines) == 1


@pytest.mark.parametrize("dangerous", ["\x1b[2J", "\x9b2J", "\r", "\n", "\u202e"])
def test_nothing_in_a_cell_steers_the_terminal(
    dangerous: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show_table(("ID", "REASON"), [("1", f"a{dangerous}[red]b")])
    show_fields([("reason", f"a{dangerous}[red]b")])
    print_line(pretty({f"a{dangerous}": [f"b{dangerous}"]}))

    shown = capsys.readouterr().out
    assert len(shown.splitlines()) == 6
    assert all(line.isprintable() for line in shown.splitlines())
    assert shown.count("[red]b") == 2


def test_json_for_people_is_the_same_json() -> None:
    schema: dict[str, Any] = {
        "type": "object",
        "required": ["amount", "currency"],
        "properties": {"amount": {"multipleOf": Decimal("0.010")}, "é": {}},
        "anyOf": [{"a": True}, []],
        "enum": [],
        "huge": 90071992547409931,
    }

    shown = pretty(schema)

    assert json.loads(shown, parse_float=Decimal) == schema
    assert '"multipleOf": 0.010' in shown
    assert '\n  "required": ["amount", "currency"],\n' in shown
    assert '"é": {}' in shown


def test_times_are_short_for_people() -> None:
    assert minute(datetime(2026, 1, 5, 9, 0, 59, tzinfo=UTC)) == "2026-01-05 09:00"
    assert span(timedelta(days=1, hours=12)) == "1d12h"
    assert span(timedelta(hours=1, minutes=30, seconds=5)) == "1h30m5s"
    assert span(timedelta()) == "0s"


def test_a_value_becomes_a_document_without_its_secrets() -> None:
    at = datetime(2026, 1, 5, 8, tzinfo=UTC)
    key = CreatedKey(
        key_id="k",
        kind="admin",
        name="admin",
        mode="live",
        scopes=("manage:*",),
        created_at=at,
        created_by="api-key",
        event_id=1,
        text="cf_live_secret",
    )
    tenant = CreatedTenant(tenant_id=2, name="acme", created_at=at, key=key)

    written = as_document(tenant)

    assert written["created_at"] == "2026-01-05T08:00:00.000000+00:00"
    assert written["key"]["scopes"] == ["manage:*"]
    assert "cf_live_secret" not in json.dumps(written)


def test_a_document_has_every_field_null_or_not() -> None:
    at = datetime(2026, 1, 5, 8, tzinfo=UTC)
    freeze = Freeze(
        id=1, kind="book", subject=None, reason="x", until=None, frozen_at=at, frozen_by="b"
    )
    assert list(as_document(freeze)) == [
        "id",
        "kind",
        "subject",
        "reason",
        "until",
        "frozen_at",
        "frozen_by",
    ]
    assert as_document(freeze)["until"] is None


def test_ones_own_text_keeps_its_style(capsys: pytest.CaptureFixture[str]) -> None:
    show_fields([("id", Text("k", style="bold"))])
    assert capsys.readouterr().out == "id  k\n"
