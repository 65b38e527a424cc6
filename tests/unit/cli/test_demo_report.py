"""The table at the end of a run says what happened, and what should not have."""

import pytest

from counterfoil.cli.demo import wire
from counterfoil.cli.demo.report import show_outcome
from tests.unit.cli.test_demo_tally import (
    found,
    guarded_tally,
    killed_tally,
    outcome,
    unguarded_tally,
)


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


def test_a_killed_scorer_and_what_became_of_its_work(capsys: pytest.CaptureFixture[str]) -> None:
    show_outcome(outcome(killed_tally(), found(stopped="gh", again="ag"), killed_at="tx_a"))

    shown = capsys.readouterr().out
    assert row(shown, "scored")[1:] == ["4", "by two copies of the scorer: 3 and 1"]
    assert row(shown, "scorers killed")[1:] == ["1", "scorer-2, half-way, with payments in hand"]
    assert row(shown, "handed out again")[1:] == ["2", "to scorer-1, within 3.0 s"]
    assert row(shown, "not done")[1] == "0"
    assert "What scorer-2 had in hand is not lost, and not scored twice." in shown


def test_nothing_is_wider_than_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    show_outcome(outcome(killed_tally(), found(stopped="gh", again="ag"), killed_at="tx_a"))
    show_outcome(outcome(guarded_tally(), found(stopped="gh")))
    show_outcome(
        outcome(unguarded_tally(), found("late-flag", "late-flag", slipped="gh"), guarded=False)
    )

    assert max(len(line.rstrip()) for line in capsys.readouterr().out.splitlines()) <= 80
