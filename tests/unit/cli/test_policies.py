"""``policies``: as its commands are called, with and without a service."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from counterfoil.cli.exits import ExitCode
from tests.unit.cli.conftest import Call
from tests.unit.cli.policy_files import Policy, kept, policy, rows_of, with_change
from tests.unit.client.simulated_book import Fault, problem
from tests.unit.client.simulated_decisions import DIGEST, SimulatedDecisions


@pytest.fixture
def service() -> SimulatedDecisions:
    return SimulatedDecisions()


def failing(document: Policy) -> None:
    """Let two of four examples come out otherwise than they say."""
    document["examples"][0]["outcome"] = "review"
    document["examples"].append(
        {"name": "no income", "inputs": {"debt": 1, "income": 0, "flags": 0}, "outcome": "review"}
    )


# --- lint ---------------------------------------------------------------------------------


def test_a_policy_that_is_fine_is_one_line_and_a_warning_for_each_row_not_reached(
    call: Call, service: SimulatedDecisions, tmp_path: Path
) -> None:
    file = kept(tmp_path, policy())
    ended = call("policies", "lint", file)
    assert ended.code == ExitCode.OK
    assert ended.stdout.startswith(f"{file}: fine, and its 2 examples pass; digest ")
    assert ended.stderr == f"{file}: warning: no example reaches row 3 of table decide\n"
    assert service.received == []

    document = json.loads(call("policies", "lint", file, "-o", "json").stdout)
    assert document["digest"] in ended.stdout
    assert (document["status"], document["examples"]) == ("fine", 2)
    assert document["unreached"] == [{"table": "decide", "row": 3}]


def test_each_fault_is_a_line_with_its_place(call: Call, tmp_path: Path) -> None:
    def two_faults(document: Policy) -> None:
        rows_of(document)[0]["c1"] = "> age"
        rows_of(document)[1]["c2"] = "personalStatus"

    fine = kept(tmp_path, policy(), "fine.json")
    file = kept(tmp_path, with_change(two_faults))
    ended = call("policies", "lint", fine, file)
    assert ended.code == ExitCode.REFUSED
    first, *faults = ended.stdout.splitlines()
    assert first.startswith(f"{fine}: fine")
    assert len(faults) == 2
    assert all(line.startswith(f"{file}: /rules/nodes/2/content/rules/") for line in faults)
    assert all("forbidden_inputs" in line for line in faults)

    document = json.loads(call("policies", "lint", file, "-o", "json").stdout)
    assert (document["file"], document["status"]) == (file, "refused")
    assert len(document["errors"]) == len(faults)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "-: The document is not JSON"),
        ("[]", "-: A policy is a JSON object."),
        ('{"subject": "a", "subject": "b"}', "-: "),
        ('{"subject": "a b"}', "-: /subject: "),
    ],
)
def test_what_is_no_policy_is_a_fault_too(call: Call, text: str, why: str) -> None:
    for command in ("lint", "test"):
        ended = call("policies", command, "-", stdin=text)
        assert ended.code == ExitCode.REFUSED
        assert ended.stdout.startswith(why)


def test_an_editors_byte_order_mark_is_no_fault(call: Call) -> None:
    text = "\ufeff" + json.dumps(policy())
    assert call("policies", "lint", "-", stdin=text).code == ExitCode.OK


def test_a_file_that_is_not_there_is_misuse(call: Call, tmp_path: Path) -> None:
    for command in ("lint", "test", "publish"):
        ended = call("policies", command, str(tmp_path / "none.json"))
        assert ended.code == ExitCode.USAGE
        assert "cannot be read: No such file" in ended.stderr


@pytest.mark.parametrize("command", ["lint", "test"])
def test_without_the_engine_it_says_what_to_install(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    for name in [each for each in sys.modules if each.startswith("counterfoil.server.decisions")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "zen", None)
    ended = call("policies", command, kept(tmp_path, policy()))
    assert ended.code == ExitCode.USAGE
    assert "zen is missing" in ended.stderr
    assert "pip install '.[server]'" in ended.stderr


# --- test ---------------------------------------------------------------------------------


def test_examples_are_shown_with_what_came_of_each(call: Call, tmp_path: Path) -> None:
    ended = call("policies", "test", kept(tmp_path, policy()))
    assert ended.code == ExitCode.OK
    _, little, much, unreached = ended.stdout.splitlines()
    assert little.split() == ["little", "debt", "approve", "approve", "decide", "2", "ok"]
    assert much.endswith("decline (D01)  decline (D01)  decide 1  ok")
    assert unreached == "no example reaches row 3 of table decide"
    assert ended.stderr == "2 examples, none failed.\n"


def test_an_example_that_fails_does_not_keep_the_others(call: Call, tmp_path: Path) -> None:
    file = kept(tmp_path, with_change(failing))
    assert call("policies", "lint", file).code == ExitCode.REFUSED

    ended = call("policies", "test", file)
    assert ended.code == ExitCode.REFUSED
    _, little, much, income, _ = ended.stdout.splitlines()
    assert little.endswith("FAILED")
    assert much.endswith("ok")
    assert "/examples/2/inputs/income: " in income
    assert ended.stderr == "3 examples, 2 of them failed.\n"

    document = json.loads(call("policies", "test", file, "-o", "json").stdout)
    assert document["status"] == "failed"
    assert [each["ok"] for each in document["examples"]] == [False, True, False]
    assert document["examples"][0]["got"] == {"outcome": "approve", "reasons": []}
    assert document["examples"][0]["matched"] == [{"table": "decide", "row": 2}]
    assert document["examples"][2]["got"] is None
    assert document["examples"][2]["refused"].startswith("/examples/2/inputs/income")


def test_rules_that_come_to_nothing_are_told_beside_their_example(
    call: Call, tmp_path: Path
) -> None:
    def without_catch_all(document: Policy) -> None:
        rows_of(document).pop()
        rows_of(document).reverse()
        inputs = {"debt": 1, "income": 100, "flags": 1}
        document["examples"].append({"name": "flagged", "inputs": inputs, "outcome": "review"})

    ended = call("policies", "test", kept(tmp_path, with_change(without_catch_all)))
    assert ended.code == ExitCode.REFUSED
    assert "fits these inputs, so nothing is decided" in ended.stdout


def test_a_policy_that_cannot_be_run_says_why(call: Call, tmp_path: Path) -> None:
    def broken(document: Policy) -> None:
        failing(document)
        rows_of(document)[0]["c1"] = "> age"

    ended = call("policies", "test", kept(tmp_path, with_change(broken)))
    assert ended.code == ExitCode.REFUSED
    assert "/rules/nodes/2" in ended.stdout
    assert "little debt" not in ended.stdout


# --- publish, activate, retire --------------------------------------------------------------


def test_a_policy_is_published_under_its_files_name(
    call: Call, service: SimulatedDecisions, tmp_path: Path
) -> None:
    file = kept(tmp_path, policy())
    ended = call("policies", "publish", file, "--idempotency-key", "release-1")
    assert ended.code == ExitCode.OK
    assert ended.stdout == f"Version 1 of credit is a draft, event 1; digest {DIGEST}\n"
    assert "counterfoil policies activate credit 1" in ended.stderr
    assert service.received[0].headers["Idempotency-Key"] == "release-1"
    assert json.loads(service.received[0].body) == policy()

    again = call("policies", "publish", file)
    assert again.stdout == "Version 1 of credit is this very policy: draft.\n"
    named = call("policies", "publish", file, "--name", "loans", "-o", "json")
    assert json.loads(named.stdout)["name"] == "loans"
    piped = call("policies", "publish", "-", stdin=json.dumps(policy()))
    assert piped.code == ExitCode.USAGE
    assert "--name" in piped.stderr


def test_numbers_of_a_policy_are_sent_digit_for_digit(
    call: Call, service: SimulatedDecisions, tmp_path: Path
) -> None:
    file = tmp_path / "credit.json"
    file.write_text('{"ratio": 0.50, "sum": 12345678901234567890}')
    call("policies", "publish", str(file))
    assert service.received[0].body == b'{"ratio":0.50,"sum":12345678901234567890}'


def test_what_the_service_refuses_is_shown_as_lint_shows_it(
    call: Call, service: SimulatedDecisions, tmp_path: Path
) -> None:
    errors = [
        {"pointer": "/reads/age", "message": "This is among `forbidden_inputs`."},
        {"pointer": "", "message": "Too long."},
    ]
    service.faults.append(Fault(problem(422, "policy-refused", "No.", errors=errors)))
    file = kept(tmp_path, policy())
    ended = call("policies", "publish", file)
    assert (ended.code, ended.stdout) == (ExitCode.REFUSED, "")
    assert f"{file}: /reads/age: This is among `forbidden_inputs`.\n" in ended.stderr
    assert f"{file}: Too long.\n" in ended.stderr


def test_a_version_is_activated_by_another_and_retired(
    call: Call, service: SimulatedDecisions, tmp_path: Path
) -> None:
    call("policies", "publish", kept(tmp_path, policy()))
    activate = ("policies", "activate", "credit", "1", "--reason", "Agreed.")
    own = call(*activate)
    assert own.code == ExitCode.REFUSED
    assert "four-eyes" in own.stderr

    service.caller = "person:j.doe"
    assert call(*activate).stdout == (
        "Version 1 of credit decides since 2025-01-02 03:04 UTC, activated by person:j.doe.\n"
    )
    assert json.loads(call(*activate, "-o", "json").stdout)["state"] == "active"
    retire = ("policies", "retire", "credit", "--reason", "No more.")
    assert call(*retire).stdout == "Version 1 of credit was retired; the policy decides no more.\n"
    assert call(*retire).code == ExitCode.REFUSED


# --- list, show -----------------------------------------------------------------------------


def test_policies_are_listed_and_shown(call: Call, service: SimulatedDecisions) -> None:
    assert "counterfoil policies publish FILE" in call("policies", "list").stderr
    service.in_force("credit", policy())
    service._draft(received_with(policy() | {"extra": ["amount"]}), "credit")
    service._draft(received_with(policy()), "loans")

    _, credit, loans = (line.split() for line in call("policies", "list").stdout.splitlines())
    assert credit == ["credit", "1", "2", "2025-01-02", "03:04", DIGEST[:12]]
    assert loans[:3] == ["loans", "none", "1"]
    listed = [
        json.loads(line) for line in call("policies", "list", "-o", "json").stdout.splitlines()
    ]
    assert [each["active_version"] for each in listed] == [1, None]

    shown = call("policies", "show", "credit").stdout
    assert "version    1, active; there is 2\n" in shown
    assert "activated  2025-01-02 03:04 by person:board\n" in shown
    assert '"subject": "application"' in shown
    second = json.loads(call("policies", "show", "credit", "--version", "2", "-o", "json").stdout)
    assert (second["state"], second["policy"]["extra"]) == ("draft", ["amount"])


def received_with(document: dict[str, Any]) -> Any:
    """A request that has this body."""

    class Request:
        body = json.dumps(document).encode()

    return Request


# --- diff -----------------------------------------------------------------------------------


def test_two_files_are_compared_without_a_service(
    call: Call, service: SimulatedDecisions, tmp_path: Path
) -> None:
    def changed(document: Policy) -> None:
        document["reads"]["income"]["max_age_seconds"] = 60
        rows_of(document)[1]["c1"] = "<= 0.4"
        document["forbidden_inputs"].append("Foreign")

    before = kept(tmp_path, policy(), "a.json")
    after = kept(tmp_path, with_change(changed), "b.json")
    ended = call("policies", "diff", before, after)
    assert ended.code == ExitCode.OK
    assert ended.stdout.splitlines() == [
        f"--- {before}",
        f"+++ {after}",
        "",
        "reads",
        "  ~ income  max_age_seconds: 7776000 → 60",
        "",
        "forbidden_inputs",
        "  + Foreign",
        "",
        "table decide",
        "  ~ row 2 (r2)  ratio: <= 0.5 → <= 0.4",
    ]
    assert service.received == []

    document = json.loads(call("policies", "diff", before, after, "-o", "json").stdout)
    assert (document["same"], len(document["changes"])) == (False, 3)
    assert document["changes"][2] == {
        "part": "table decide",
        "kind": "changed",
        "name": "row 2 (r2)",
        "pointer": "/rules/nodes/2/content/rules/1/c1",
        "old": "<= 0.5",
        "new": "<= 0.4",
    }
    same = call("policies", "diff", before, before)
    assert same.stdout == f"{before} and {before} are the same policy.\n"


def test_a_published_version_is_compared_by_its_name(
    call: Call, service: SimulatedDecisions, tmp_path: Path
) -> None:
    service.in_force("credit", policy())
    file = kept(tmp_path, with_change(lambda p: p["forbidden_inputs"].append("Foreign")))
    call("policies", "publish", file)

    assert "  + Foreign" in call("policies", "diff", "credit", file).stdout
    assert "  - Foreign" in call("policies", "diff", "credit@2", "credit").stdout
    assert "same policy" in call("policies", "diff", "credit@2", file).stdout
    assert call("policies", "diff", "credit@3", file).code == ExitCode.REFUSED
    assert call("policies", "diff", "none", file).code == ExitCode.REFUSED
    assert call("policies", "diff", "none.json", file).code == ExitCode.USAGE


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p["reads"].update({"a\x1b[2J": {"types": ["a\x1b[2J"], "take": "count"}}),
        lambda p: rows_of(p)[0].update(c1="> 0\x1b[2J"),
        lambda p: p.update({"\x1b[2J": "\x1b[2J"}),
    ],
    ids=["a name", "a cell", "a member"],
)
def test_nothing_in_a_policy_steers_the_terminal(
    call: Call, tmp_path: Path, change: Callable[[Policy], object]
) -> None:
    before, after = (
        kept(tmp_path, policy(), "a.json"),
        kept(tmp_path, with_change(change), "b.json"),
    )
    assert "\x1b" not in call("policies", "diff", before, after).stdout
