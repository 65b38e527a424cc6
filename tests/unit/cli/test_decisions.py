"""``decisions``: as its commands are called."""

import json
import threading
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, cast

import pytest

from counterfoil import CounterfoilError
from counterfoil.cli import replaying
from counterfoil.cli.exits import ExitCode
from tests.unit.cli.conftest import Call
from tests.unit.client.simulated_book import Fault, problem
from tests.unit.client.simulated_decisions import ENGINE, SimulatedDecisions


@pytest.fixture
def service() -> SimulatedDecisions:
    made = SimulatedDecisions()
    made.in_force("credit", {"subject": "application"})
    return made


def made(call: Call, number: int, amount: int = 1) -> int:
    """Decide about one application."""
    ended = call(
        *("decisions", "make", "credit", f"application:{number}"),
        *("--input", f"amount={amount}", "-o", "json"),
    )
    assert ended.code == ExitCode.OK, ended.stderr
    return int(json.loads(ended.stdout)["id"])


# --- make -----------------------------------------------------------------------------------


def test_a_decision_is_one_line_with_its_reasons(call: Call) -> None:
    ended = call("decisions", "make", "credit", "application:42", "--input", "amount=5000")
    assert ended.code == ExitCode.OK
    assert ended.stdout == (
        "Decision 3 about application:42: decline (A01 Too much.), by credit@1.\n"
    )


def test_everything_that_can_be_asked_with_is_sent(call: Call, service: SimulatedDecisions) -> None:
    first = made(call, 42)
    ended = call(
        *("decisions", "make", "credit", "application:42", "--input", "amount=12.30"),
        *("--input", 'channel="branch"', "--on-behalf-of", "j.doe", "--agent", "night_agent"),
        *("--supersedes", str(first), "--reason", "New pay slips.", "--idempotency-key", "k"),
    )
    assert ended.code == ExitCode.OK
    body = json.loads(service.received[-1].body, parse_float=Decimal)
    assert str(body["inputs"]["amount"]) == "12.30"
    assert body == {
        "policy": "credit",
        "subject": "application:42",
        "inputs": {"amount": Decimal("12.30"), "channel": "branch"},
        "on_behalf_of": "j.doe",
        "agent_name": "night_agent",
        "supersedes": {"decision": first, "reason": "New pay slips."},
    }
    assert service.received[-1].headers["Idempotency-Key"] == "k"


def test_the_same_again_says_that_it_was_decided_before(call: Call) -> None:
    asked = ("decisions", "make", "credit", "a:1", "--input", "amount=1", "--idempotency-key", "k")
    first, again = call(*asked), call(*asked)
    assert first.stdout == again.stdout
    assert (first.stderr, again.stderr) == (
        *("", "It had been decided before, under the same idempotency key.\n"),
    )


def test_a_decision_that_stands_is_shown_with_the_way_out(
    call: Call, service: SimulatedDecisions
) -> None:
    first = made(call, 42)
    ended = call("decisions", "make", "credit", "application:42", "--input", "amount=2")
    assert (ended.code, ended.stdout) == (ExitCode.REFUSED, "")
    assert f"Decision {first} about application:42: approve, by credit@1." in ended.stderr
    assert f'give --supersedes {first} --reason "…"' in ended.stderr

    erased = problem(409, "decision-stands", "One stands.", decision={"id": 58})
    service.faults.append(Fault(erased))
    assert "--supersedes 58" in call("decisions", "make", "credit", "application:42").stderr


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--input", "amount"), "is not NAME=JSON"),
        (("--input", "=1"), "is not NAME=JSON"),
        (("--input", "channel=branch"), "--input 'channel=\"branch\"'"),
        (("--input", "amount=NaN"), "is not JSON"),
        (("--input", "a=1", "--input", "a=2"), "gives a twice"),
        (("--supersedes", "3"), "--supersedes and --reason belong together"),
        (("--reason", "x"), "--supersedes and --reason belong together"),
        (("--supersedes", "0", "--reason", "x"), "greater than or equal to 1"),
    ],
)
def test_misuse_is_named_and_nothing_is_asked(
    call: Call, service: SimulatedDecisions, options: tuple[str, ...], why: str
) -> None:
    ended = call("decisions", "make", "credit", "application:42", *options)
    assert ended.code == ExitCode.USAGE
    assert why in ended.stderr
    assert service.received == []


def test_what_changed_in_every_try_is_a_condition_that_failed(
    call: Call, service: SimulatedDecisions
) -> None:
    answer = problem(409, "condition-failed", "It changed.", head=9, conflicts=[])
    service.faults.append(Fault(answer))
    assert call("decisions", "make", "credit", "a:1").code == ExitCode.CONDITION_FAILED


# --- list, show, explain --------------------------------------------------------------------


def test_decisions_are_listed(call: Call, service: SimulatedDecisions) -> None:
    assert call("decisions", "list").stderr == "There is no such decision.\n"
    ids = [made(call, 1), made(call, 2, 5_000), made(call, 3)]

    ended = call("decisions", "list")
    _, *lines = (line.split() for line in ended.stdout.splitlines())
    assert [int(line[0]) for line in lines] == ids
    assert lines[1] == [
        *(str(ids[1]), "2025-01-02", "03:04", "credit@1", "application:2", "decline", "A01"),
    ]
    assert ended.stderr == "3 decisions.\n"

    cut = call("decisions", "list", "-n", "2", "--newest-first")
    assert [line.split()[0] for line in cut.stdout.splitlines()[1:]] == [str(ids[2]), str(ids[1])]
    assert cut.stderr == "2 decisions. There are more: --all, or a larger -n.\n"
    about = call("decisions", "list", "--subject", "application:2", "--policy", "credit")
    assert about.stderr == "1 decision.\n"
    listed = call("decisions", "list", "--all", "-o", "json").stdout.splitlines()
    assert [json.loads(line)["id"] for line in listed] == ids
    assert dict(service.received[-1].parameters)["limit"] == "1000"


def shown(call: Call, decision_id: int) -> list[str]:
    """The lines of a decision, their words one blank apart."""
    lines = call("decisions", "show", str(decision_id)).stdout.splitlines()
    return [" ".join(line.split()) for line in lines]


def test_a_decision_is_shown_with_what_it_rests_on(call: Call) -> None:
    first = made(call, 42, 5_000)
    call(
        *("decisions", "make", "credit", "application:42", "--input", "amount=1"),
        *("--supersedes", str(first), "--reason", "New pay slips.", "--on-behalf-of", "j.doe"),
    )
    before = shown(call, first)
    assert f"state superseded by decision {first + 1}" in before
    assert "reason A01: Too much." in before
    after = shown(call, first + 1)
    assert f"supersedes {first}: New pay slips." in after
    assert "on behalf of j.doe" in after
    assert "matched row 1 of decide (r1)" in after
    assert "flags 0 event 1, 2" in after
    assert "amount 1 the request" in after

    document = json.loads(call("decisions", "show", str(first), "-o", "json").stdout)
    assert (document["state"], document["superseded_by"]) == ("superseded", first + 1)
    assert document["signals"] == {"flags": [1, 2]}
    assert document["as_of"] == "2025-01-02T03:04:05.000006+00:00"


def test_a_decision_is_explained_on_a_page(call: Call, service: SimulatedDecisions) -> None:
    first = made(call, 42)
    assert call("decisions", "explain", str(first)).stdout == (
        f"Decision {first}\n  about application:42\n"
    )
    service.decisions[first]["subject"] = "a:\x1b[2J"
    assert "\x1b" not in call("decisions", "explain", str(first)).stdout
    document = json.loads(call("decisions", "explain", str(first), "-o", "json").stdout)
    assert document["customer"] == ["It is too much for us."]
    assert document["decision"]["id"] == first


def test_a_decision_that_is_not_there_is_refused(call: Call) -> None:
    for command in ("show", "explain", "replay"):
        ended = call("decisions", command, "99")
        assert ended.code == ExitCode.REFUSED
        assert "decision-not-found" in ended.stderr


# --- replay ---------------------------------------------------------------------------------

DIFFERS: dict[str, Any] = {
    "identical": False,
    "differences": [
        {"what": "outcome", "recorded": "approve", "recomputed": "review"},
        {"what": "reasons", "recorded": [], "recomputed": ["R01"]},
    ],
}
CHANGED = {"engine": {"recorded": ENGINE, "now": "zen-engine 3", "changed": True}}


def test_a_decision_comes_out_the_same(call: Call, service: SimulatedDecisions) -> None:
    first = made(call, 42)
    ended = call("decisions", "replay", str(first))
    assert (ended.code, ended.stderr) == (ExitCode.OK, "")
    assert ended.stdout == f"Decision {first} comes out the same by version 1.\n"

    service.differing[first] = CHANGED | {"signals": "erased"}
    engine = call("decisions", "replay", str(first))
    assert engine.code == ExitCode.OK
    assert f"another: {ENGINE} then, zen-engine 3 now." in engine.stderr
    assert "erased since" in engine.stderr


def test_a_decision_that_differs_says_how(call: Call, service: SimulatedDecisions) -> None:
    first = made(call, 42)
    service.differing[first] = DIFFERS | {"refused": None}
    ended = call("decisions", "replay", str(first), "--version", "2")
    assert ended.code == ExitCode.REFUSED
    first_line, _, outcome, reasons = ended.stdout.splitlines()
    assert first_line == f"Decision {first} differs by version 2."
    assert outcome.split() == ["outcome", "approve", "review"]
    assert reasons.split() == ["reasons", "[]", '["R01"]']
    assert json.loads(service.received[-1].body) == {"version": 2}

    as_json = call("decisions", "replay", str(first), "-o", "json")
    assert as_json.code == ExitCode.REFUSED
    assert json.loads(as_json.stdout)["differences"] == DIFFERS["differences"]

    service.differing[first] |= {"refused": "No row fits.", "recomputed": None}
    assert "Nothing is decided now: No row fits." in call("decisions", "replay", str(first)).stdout


def test_all_decisions_are_replayed_and_counted(
    call: Call, service: SimulatedDecisions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replaying, "_REPORT_SECONDS", 0)
    ids = [made(call, number) for number in range(4)]
    same = call("decisions", "replay", "--all")
    assert same.code == ExitCode.OK
    assert same.stdout.startswith("4 decisions: 4 come out the same, 0 differ; ")
    progress = same.stderr.splitlines()
    assert [line.split(" decisions")[0] for line in progress] == [
        *("1 of 4", "2 of 4", "3 of 4", "4 of 4"),
    ]
    assert all("/s" in line for line in progress)

    service.differing[ids[1]] = DIFFERS | CHANGED
    service.differing[ids[2]] = CHANGED | {"signals": "erased"}
    ended = call("decisions", "replay", "--all", "--policy", "credit", "--version", "2")
    assert ended.code == ExitCode.REFUSED
    _, outcome, reasons, _, counted = ended.stdout.splitlines()
    assert outcome.split() == [str(ids[1]), "outcome", "approve", "review"]
    assert reasons.split() == [str(ids[1]), "reasons", "[]", '["R01"]']
    assert counted.startswith("4 decisions: 3 come out the same, 1 differ; ")
    assert f"another than for 2 of them: {ENGINE} then, zen-engine 3 now." in ended.stderr
    assert "Of 1 a signal was erased" in ended.stderr
    assert json.loads(service.received[-1].body) == {"version": 2}

    as_json = call("decisions", "replay", "--all", "-o", "json")
    assert as_json.code == ExitCode.REFUSED
    document = json.loads(as_json.stdout)
    assert (document["status"], document["decisions"], document["identical"]) == ("differ", 4, 3)
    assert [each["decision"] for each in document["differ"]] == [ids[1]]
    assert (document["engine_changed"], document["signals_erased"]) == (2, 1)


def test_there_may_be_nothing_to_replay(call: Call) -> None:
    ended = call("decisions", "replay", "--all")
    assert (ended.code, ended.stdout) == (ExitCode.OK, "There is no decision to replay.\n")


def test_decisions_are_replayed_at_the_same_time_and_told_in_their_order() -> None:
    everybody = threading.Barrier(replaying.AT_ONCE, timeout=10)

    def replay(decision: int, *, version: int | None) -> tuple[int, int | None]:
        # Nobody comes further who is not one of so many.
        everybody.wait()
        return decision, version

    cf = SimpleNamespace(decisions=SimpleNamespace(replay=replay))
    ids = range(2 * replaying.AT_ONCE)
    found: list[Any] = list(replaying.replays(cast("Any", cf), ids, 3))
    assert found == [(decision, 3) for decision in ids]


def test_what_was_not_begun_is_left_when_a_replay_fails() -> None:
    begun: list[int] = []

    def replay(decision: int, **_asked: int | None) -> int:
        begun.append(decision)
        if decision == 0:
            raise CounterfoilError("It fails.")
        return decision

    cf = SimpleNamespace(decisions=SimpleNamespace(replay=replay))
    with pytest.raises(CounterfoilError):
        list(replaying.replays(cast("Any", cf), range(1_000), None))
    assert max(begun) <= replaying.AT_ONCE


def test_a_replay_that_is_broken_off_says_how_far_it_came(
    call: Call, service: SimulatedDecisions, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The faults are for the requests in their order.
    monkeypatch.setattr(replaying, "AT_ONCE", 1)
    for number in range(3):
        made(call, number)
    refusal = problem(403, "scope-missing", "No more.", scope="read:x")
    service.faults.extend([None, None, Fault(refusal)])
    ended = call("decisions", "replay", "--all")
    assert (ended.code, ended.stdout) == (ExitCode.REFUSED, "")
    assert "Broken off. 1 of 3 decisions were replayed: 1 came out the same" in ended.stderr
    assert "No more." in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), "Name one decision by its ID, or all of them with --all"),
        (("58", "--all"), "Name one decision by its ID, or all of them with --all"),
        (("58", "--policy", "credit"), "--policy belongs to --all"),
        (("--all", "--version", "2"), "give --policy too"),
        (("0",), "greater than or equal to 1"),
    ],
)
def test_what_is_to_be_replayed_must_be_said(
    call: Call, service: SimulatedDecisions, arguments: tuple[str, ...], why: str
) -> None:
    ended = call("decisions", "replay", *arguments)
    assert ended.code == ExitCode.USAGE
    assert why in ended.stderr
    assert service.received == []
