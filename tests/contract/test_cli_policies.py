"""``policies`` and ``decisions`` on the command line, against a real service."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import pytest

from counterfoil import Counterfoil
from counterfoil.cli.app import run
from counterfoil.cli.exits import ExitCode
from tests.contract.conftest import KEY
from tests.support.cluster import Cluster
from tests.support.service import Service, running_service
from tests.unit.cli.policy_files import kept, policy, rows_of, with_change

pytestmark = pytest.mark.promise("P9")

AUTHOR, BOARD, AGENT = "author", "board", "agent"


class Call(Protocol):
    """Runs a command as somebody, and returns what it printed: results, and remarks."""

    def __call__(
        self, who: str, *arguments: str, ends: ExitCode = ExitCode.OK
    ) -> tuple[str, str]: ...


@pytest.fixture(scope="module")
def service(cluster: Cluster) -> Iterator[Service]:
    """A service with a key. Each test has a tenant of its own in it."""
    with (
        cluster.database() as database,
        running_service(database.url, api_key=KEY) as started,
    ):
        yield started


@pytest.fixture
def keys(service: Service) -> dict[str, str]:
    """The keys of those who draft, activate and decide, in a book of their own."""
    with Counterfoil(base_url=service.url, api_key=KEY) as operator:
        created = operator.tenants.create(f"tenant {uuid4()}").key.reveal()
    manages = ["manage:policies", "read:*"]
    with Counterfoil(base_url=service.url, api_key=created) as admin:
        return {
            AUTHOR: admin.keys.create(kind="person", name="ada", scopes=manages).reveal(),
            BOARD: admin.keys.create(kind="person", name="grace", scopes=manages).reveal(),
            AGENT: admin.keys.create(
                kind="agent", name="credit_agent", scopes=["append:*", "read:*", "decide:*"]
            ).reveal(),
        }


@pytest.fixture
def call(
    service: Service,
    keys: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Call:
    """Run commands against the service."""
    monkeypatch.setenv("COUNTERFOIL_BASE_URL", service.url)
    monkeypatch.setenv("COLUMNS", "200")

    def called(who: str, *arguments: str, ends: ExitCode = ExitCode.OK) -> tuple[str, str]:
        monkeypatch.setenv("COUNTERFOIL_API_KEY", keys[who])
        capsys.readouterr()
        code = run(list(arguments))
        printed = capsys.readouterr()
        assert code == ends, printed.err
        return printed.out, printed.err

    return called


def in_force(call: Call, file: str, name: str, version: int) -> None:
    call(AUTHOR, "policies", "publish", file, "--name", name)
    call(BOARD, "policies", "activate", name, str(version), "--reason", "A test.")


def applicant(call: Call, number: int, *, debt: Any = 10) -> str:
    """Let signals be there about an application; return its tag."""
    subject = f"application:{number}"
    for event_type, amount in (("debt_checked", debt), ("income_verified", 100)):
        payload = json.dumps({"monthly_minor": amount})
        call(AGENT, "append", "credit_agent", event_type, payload, "--tag", subject)
    return subject


def test_a_policy_is_published_activated_compared_and_retired(call: Call, tmp_path: Path) -> None:
    file = kept(tmp_path, policy())
    fine, _ = call(AUTHOR, "policies", "lint", file)
    published, hint = call(AUTHOR, "policies", "publish", file)
    # What is judged here is what the service judges: the same document has the same digest.
    assert published.split()[-1] == fine.split()[-1]
    assert "counterfoil policies activate credit 1" in hint
    again, _ = call(AUTHOR, "policies", "publish", file)
    assert again == "Version 1 of credit is this very policy: draft.\n"

    activate = ("policies", "activate", "credit", "1", "--reason", "Agreed.")
    _, refused = call(AUTHOR, *activate, ends=ExitCode.REFUSED)
    assert "four-eyes" in refused
    assert "activated by person:grace" in call(BOARD, *activate)[0]
    assert call(AGENT, "policies", "list")[0].splitlines()[1].split()[:3] == ["credit", "1", "1"]

    stricter = kept(tmp_path, with_change(lambda p: rows_of(p)[0].update(c1="> 0.4")), "new.json")
    changed = "  ~ row 1 (r1)  ratio: > 0.5 → > 0.4"
    assert changed in call(AGENT, "policies", "diff", "credit", stricter)[0].splitlines()
    in_force(call, stricter, "credit", 2)
    assert changed in call(AGENT, "policies", "diff", "credit@1", "credit@2")[0].splitlines()
    assert "same policy" in call(AGENT, "policies", "diff", "credit", stricter)[0]

    shown, _ = call(AGENT, "policies", "show", "credit", "--version", "1")
    assert "version    1, retired; there is 2\n" in shown
    (tmp_path / "back.json").write_text(
        json.dumps(json.loads(call(AGENT, "policies", "show", "credit", "-o", "json")[0])["policy"])
    )
    assert "same" in call(AGENT, "policies", "diff", stricter, str(tmp_path / "back.json"))[0]

    retired, _ = call(BOARD, "policies", "retire", "credit", "--reason", "No more.")
    assert retired == "Version 2 of credit was retired; the policy decides no more.\n"
    assert "none" in call(AGENT, "policies", "list")[0]


def test_what_lint_refuses_the_service_refuses_alike(call: Call, tmp_path: Path) -> None:
    bad = [
        with_change(lambda p: rows_of(p)[0].update(c1="> age")),
        with_change(lambda p: rows_of(p).insert(0, {"_id": "r0", "o1": '"review"'})),
        with_change(lambda p: p["examples"][0].update(outcome="review")),
        with_change(lambda p: p.update(subject="a b")),
        with_change(lambda p: p["rules"]["nodes"].pop()),
    ]
    for document in bad:
        file = kept(tmp_path, document)
        faults, _ = call(AUTHOR, "policies", "lint", file, ends=ExitCode.REFUSED)
        _, refused = call(AUTHOR, "policies", "publish", file, ends=ExitCode.REFUSED)
        assert refused == f"Error: {faults}"


def test_a_decision_is_made_explained_replaced_and_replayed(call: Call, tmp_path: Path) -> None:
    in_force(call, kept(tmp_path, policy()), "credit", 1)
    subject = applicant(call, 42, debt=45)
    made = json.loads(call(AGENT, "decisions", "make", "credit", subject, "-o", "json")[0])
    assert (made["outcome"], made["agent_name"]) == ("approve", "credit_agent")
    first = str(made["id"])
    _, stands = call(AGENT, "decisions", "make", "credit", subject, ends=ExitCode.REFUSED)
    assert f"give --supersedes {first}" in stands

    applicant(call, 42, debt=90)
    replaced, _ = call(
        *(AGENT, "decisions", "make", "credit", subject, "--supersedes", first),
        *("--reason", "New signals.", "--on-behalf-of", "j.doe"),
    )
    assert ": decline (D01 Debt is above half of the income.), by credit@1.\n" in replaced
    listed, _ = call(AGENT, "decisions", "list", "--subject", subject, "-o", "json")
    ids = [str(json.loads(line)["id"]) for line in listed.splitlines()]
    assert ids[0] == first
    state = json.loads(call(AGENT, "decisions", "show", first, "-o", "json")[0])
    assert (state["state"], str(state["superseded_by"])) == ("superseded", ids[1])
    page, _ = call(AGENT, "decisions", "explain", ids[1])
    assert "Your monthly debts are high for your income." in page
    assert page.startswith(f"Decision {ids[1]}: decline about {subject}\n")

    stricter = kept(tmp_path, with_change(lambda p: rows_of(p)[0].update(c1="> 0.4")), "new.json")
    in_force(call, stricter, "credit", 2)
    same, _ = call(AGENT, "decisions", "replay", first)
    assert same == f"Decision {first} comes out the same by version 1.\n"
    what_if = ("decisions", "replay", first, "--version", "2")
    differs, _ = call(AGENT, *what_if, ends=ExitCode.REFUSED)
    assert ["outcome", "approve", "decline"] in [line.split() for line in differs.splitlines()]


def test_all_decisions_are_replayed(call: Call, tmp_path: Path) -> None:
    in_force(call, kept(tmp_path, policy()), "credit", 1)
    in_force(call, kept(tmp_path, policy()), "loans", 1)
    subjects = [applicant(call, number, debt=45) for number in range(3)]
    for subject in subjects:
        call(AGENT, "decisions", "make", "credit", subject)
    call(AGENT, "decisions", "make", "loans", subjects[0])
    stricter = kept(tmp_path, with_change(lambda p: rows_of(p)[0].update(c1="> 0.4")), "new.json")
    in_force(call, stricter, "credit", 2)

    every, _ = call(AGENT, "decisions", "replay", "--all")
    assert every.startswith("4 decisions: 4 come out the same, 0 differ; ")
    own, _ = call(AGENT, "decisions", "replay", "--all", "--policy", "loans", "-o", "json")
    assert json.loads(own)["decisions"] == 1
    what_if = ("decisions", "replay", "--all", "--policy", "credit", "--version", "2")
    document = json.loads(call(AGENT, *what_if, "-o", "json", ends=ExitCode.REFUSED)[0])
    assert (document["status"], document["decisions"], len(document["differ"])) == ("differ", 3, 3)
    assert document["engine_changed"] == 0


def test_what_cannot_be_decided_names_the_input(call: Call, tmp_path: Path) -> None:
    in_force(call, kept(tmp_path, policy()), "credit", 1)
    subject = applicant(call, 1, debt="much")
    _, wrong = call(AGENT, "decisions", "make", "credit", subject, ends=ExitCode.REFUSED)
    assert "/inputs/debt" in wrong
    extra = ("decisions", "make", "credit", subject, "--input", "age=40")
    _, unknown = call(AGENT, *extra, ends=ExitCode.REFUSED)
    assert "/inputs/age" in unknown
    assert call(AGENT, "decisions", "list")[1] == "There is no such decision.\n"
