"""The table at the end of a run says what happened, and what should not have."""

import pytest

from counterfoil.cli.demo import wire
from counterfoil.cli.demo.report import show_outcome
from tests.unit.cli.test_demo_tally import found, guarded_tally, outcome, unguarded_tally


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def row(shown: str, name: str) -> list[str]:
    (line,) = (line for line in shown.splitlines() if f"│ {name} " in line)
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_a_guarded_run(capsys: pytest.CaptureFixture[str]) -> None:
    show_outcome(outcome(guarded_tally(), found(stopped="gh"), guarded=True))

    shown = capsys.readouterr().out
    assert row(shown, "posted")[1] == "4"
    assert row(shown, "refused by a late flag")[1:] == ["2", "2 of 2 races"]
    assert row(shown, "approved past a flag")[1] == "0"
    assert "✓ The check of the book found nothing wrong." in shown


def test_an_unguarded_run(capsys: pytest.CaptureFixture[str]) -> None:
    checked = found("late-flag", "late-flag", slipped="gh")

    show_outcome(outcome(unguarded_tally(), checked, guarded=False))

    shown = capsys.readouterr().out
    assert row(shown, "refused by a late flag")[1:] == ["0", "there was no guard"]
    assert row(shown, "approved past a flag")[1:] == ["2", "2 of 2 races"]
    assert "✗ The check of the book found 2 approvals above a flag." in shown


def test_a_flag_from_elsewhere_is_told_apart_from_the_races(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tally = guarded_tally()
    tally[wire.REFUSED].add("tx_a")
    tally[wire.DECLINED].add("tx_a")
    tally[wire.APPROVED].remove("tx_a")

    show_outcome(outcome(tally, found(stopped="agh"), guarded=True))

    refused = row(capsys.readouterr().out, "refused by a late flag")
    assert refused[1:] == ["3", "2 of 2 races, 1 by a flag from elsewhere"]


def test_accounts_that_do_not_agree_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    tally = guarded_tally()
    tally[wire.REFUSED].remove("tx_g")

    show_outcome(outcome(tally, found(stopped="gh"), guarded=True))

    shown = capsys.readouterr().out
    assert "The accounts of this run do not agree:" in shown
    assert "refused: missing tx_g" in shown
