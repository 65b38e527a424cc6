"""A run's three accounts: whatever does not agree is named."""

from collections.abc import Mapping
from typing import Any

import pytest

from counterfoil.cli.demo import wire
from counterfoil.cli.demo.pipeline import Left
from counterfoil.cli.demo.schedule import Schedule
from counterfoil.cli.demo.tally import Outcome, Tally
from counterfoil.cli.demo.vocabulary import APPROVER, INVESTIGATOR, SCORER
from counterfoil.cli.demo.wire import Brief, Report

SCHEDULE = Schedule(
    flagged=frozenset({"tx_f"}),
    cleared=frozenset({"tx_a", "tx_g", "tx_h"}),
    gated=frozenset({"tx_g", "tx_h"}),
    middle="tx_a",
)
EVERYTHING = SCHEDULE.flagged | SCHEDULE.cleared


ALL_DONE = {agent: Left(0, 0) for agent in (SCORER, INVESTIGATOR, APPROVER)}


def told(**done: str) -> Tally:
    """A tally in which each kind was reported of the transactions named, by their letters."""
    tally = Tally()
    for kind, letters in done.items():
        for letter in letters:
            tally.take(Report("scorer-1", kind.replace("_", "-"), f"tx_{letter}"), 2.0)
    return tally


def guarded_tally() -> Tally:
    return told(
        posted="afgh",
        scored="afgh",
        flagged="f",
        cleared="agh",
        read="gh",
        flagged_late="gh",
        refused="gh",
        approved="a",
        declined="fgh",
        noted="gh",
    )


def killed_tally(*, taken_over: str = "ag") -> Tally:
    """Scorer 2 was killed with a and g in hand; what scorer 1 took over of that."""
    tally = told(posted="afgh", flagged="f", cleared="agh", read="gh", flagged_late="gh")
    tally.take(Report("scorer-2", wire.SCORED, "tx_f"), 1.0)
    for letter in "ga":
        tally.take(Report("scorer-2", wire.HELD, f"tx_{letter}"), 2.0)
    tally.take(Report("scorer-2", wire.KILLED, "tx_a"), 2.0)
    for letter in "agh":
        attempt = 2 if letter in taken_over else 1
        tally.take(Report("scorer-1", wire.SCORED, f"tx_{letter}", attempt=attempt), 5.0)
    for kind, letters in ((wire.REFUSED, "gh"), (wire.APPROVED, "a"), (wire.DECLINED, "fgh")):
        for letter in letters:
            tally.take(Report("approver", kind, f"tx_{letter}"), 6.0)
    return tally


def unguarded_tally() -> Tally:
    return told(
        posted="afgh",
        scored="afgh",
        flagged="f",
        cleared="agh",
        read="gh",
        flagged_late="gh",
        approved="agh",
        declined="f",
    )


def found(*rules: str, stopped: str = "", slipped: str = "", again: str = "") -> dict[str, Any]:
    return {
        "findings": [{"rule": rule, "position": 7, "message": f"{rule} at 7"} for rule in rules],
        "stopped": [f"tx_{letter}" for letter in stopped],
        "slipped": [f"tx_{letter}" for letter in slipped],
        "handed_out_again": [f"tx_{letter}" for letter in again],
    }


def outcome(
    tally: Tally,
    checked: dict[str, Any],
    *,
    guarded: bool = True,
    killed_at: str = "",
    left: Mapping[str, Left] = ALL_DONE,
) -> Outcome:
    return Outcome("r", guarded, killed_at, SCHEDULE, tally, left, checked)


def test_a_guarded_run_in_which_exactly_the_races_were_refused_is_as_it_must_be() -> None:
    run = outcome(guarded_tally(), found(stopped="gh"), guarded=True)

    assert list(run.contradictions()) == []
    assert run.document()["ok"] is True
    assert run.document()["refused"] == 2


def test_an_unguarded_run_in_which_exactly_the_races_slipped_is_as_it_must_be() -> None:
    checked = found("late-flag", "late-flag", slipped="gh")

    run = outcome(unguarded_tally(), checked, guarded=False)

    assert list(run.contradictions()) == []
    assert run.document()["slipped"] == 2


def test_a_race_that_was_not_refused_is_named() -> None:
    tally = guarded_tally()
    tally[wire.REFUSED].remove("tx_g")

    run = outcome(tally, found(stopped="gh"), guarded=True)

    assert list(run.contradictions()) == ["refused: missing tx_g"]


def test_an_approval_past_a_flag_under_the_guard_is_named() -> None:
    tally = guarded_tally()
    tally[wire.APPROVED].add("tx_g")

    run = outcome(tally, found("late-flag", stopped="h", slipped="g"), guarded=True)

    assert "late-flag: late-flag at 7" in list(run.contradictions())
    assert "raced, but not stopped: tx_g" in list(run.contradictions())


def test_a_refusal_that_nobody_foresaw_is_named() -> None:
    tally = guarded_tally()
    tally[wire.REFUSED].add("tx_a")

    run = outcome(tally, found(stopped="gh"), guarded=True)

    assert list(run.contradictions()) == ["refused: not foreseen tx_a"]


def test_a_flag_from_elsewhere_is_treated_like_a_race() -> None:
    tally = guarded_tally()
    tally[wire.REFUSED].add("tx_a")
    tally[wire.DECLINED].add("tx_a")
    tally[wire.APPROVED].remove("tx_a")

    run = outcome(tally, found(stopped="agh"), guarded=True)

    assert list(run.contradictions()) == []


def test_without_the_guard_a_race_that_did_not_slip_is_named() -> None:
    run = outcome(unguarded_tally(), found("late-flag", slipped="g"), guarded=False)

    assert list(run.contradictions()) == ["raced, but not slipped past: tx_h"]


def test_without_the_guard_any_other_fault_of_the_book_still_counts() -> None:
    checked = found("late-flag", "late-flag", "scored", slipped="gh")

    run = outcome(unguarded_tally(), checked, guarded=False)

    assert list(run.contradictions()) == ["scored: scored at 7"]


def test_without_the_guard_the_check_must_name_every_slip() -> None:
    run = outcome(unguarded_tally(), found("late-flag", slipped="gh"), guarded=False)

    assert list(run.contradictions()) == ["2 slipped past a flag, and the check names 1"]


@pytest.mark.parametrize("kind", [wire.POSTED, wire.SCORED, wire.APPROVED, wire.DECLINED])
def test_a_transaction_that_is_forgotten_is_named(kind: str) -> None:
    tally = guarded_tally()
    forgotten = tally[kind].pop()

    run = outcome(tally, found(stopped="gh"), guarded=True)

    assert f"{kind}: missing {forgotten}" in list(run.contradictions())


def test_a_verdict_other_than_the_one_foreseen_is_named() -> None:
    tally = guarded_tally()
    tally[wire.CLEARED].remove("tx_a")
    tally[wire.FLAGGED].add("tx_a")

    named = list(outcome(tally, found(stopped="gh"), guarded=True).contradictions())

    assert named == ["flagged: not foreseen tx_a", "cleared: missing tx_a"]


def test_events_are_what_the_agents_wrote() -> None:
    run = outcome(guarded_tally(), found(stopped="gh"), guarded=True)

    assert run.tally.events == 4 + 4 + 1 + 3 + 2 + 1 + 3
    assert run.tally.decided == 4
    assert run.events_per_second == run.tally.events / 2.0


def test_a_killed_scorer_whose_work_was_taken_over_is_as_it_must_be() -> None:
    run = outcome(killed_tally(), found(stopped="gh", again="ag"), killed_at="tx_a")

    assert list(run.contradictions()) == []
    document = run.document()
    assert document["killed_copy"] == "scorer-2"
    assert document["taken_over"] == document["handed_out_again"] == document["held"] == 2
    assert document["scored_by"] == {"scorer-1": 3, "scorer-2": 1}
    assert run.tally.taken_over_after - run.tally.killed_after == 3.0


def test_what_a_killed_scorer_held_and_nobody_was_handed_again_is_named() -> None:
    run = outcome(killed_tally(taken_over="g"), found(stopped="gh", again="g"), killed_at="tx_a")

    assert list(run.contradictions()) == ["held, but not taken over: tx_a"]


def test_a_kill_that_did_not_come_is_named() -> None:
    run = outcome(guarded_tally(), found(stopped="gh"), killed_at="tx_a")

    assert list(run.contradictions()) == ["killed: missing tx_a"]


def test_a_second_attempt_of_which_the_book_knows_nothing_is_named() -> None:
    run = outcome(killed_tally(), found(stopped="gh", again="a"), killed_at="tx_a")

    assert list(run.contradictions()) == ["handed out again: missing tx_g"]


@pytest.mark.parametrize(
    ("left", "named"),
    [
        (Left(2, 0), "scorer: its consumer has 2 events that are not done"),
        (Left(0, 1), "scorer: its consumer has set 1 events aside"),
    ],
)
def test_what_consumers_have_left_over_is_named(left: Left, named: str) -> None:
    run = outcome(guarded_tally(), found(stopped="gh"), left={SCORER: left})

    assert list(run.contradictions()) == [named]
    assert run.undone == left.unfinished + left.set_aside


def test_a_brief_survives_the_pipe() -> None:
    brief = Brief(run_id="r", guarded=False, gated=("tx_a", "tx_b"), killed_at="tx_a")

    assert Brief.read(brief.command()) == brief
