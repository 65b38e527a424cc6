"""The credit demo for real: agents' processes decide on a real service, and all of it is checked."""

import json
import signal
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from counterfoil import Counterfoil, Event
from counterfoil.cli.demo import vocabulary
from counterfoil.cli.demo.credit import words
from counterfoil.cli.demo.credit.portfolios import APPLICANTS, PERSONAL, subject
from tests.contract.conftest import KEY
from tests.support.cluster import Database
from tests.support.command_line import counterfoil, ending, started
from tests.support.service import Service, running_service
from tests.unit.test_credit_demo import GERMAN_FILE, GERMAN_ROW, german_file, needs_data

APPLICANTS_OF_A_RUN = "40"
CORRECTED = 5


@pytest.fixture
def cf(locked_service: Service) -> Iterator[Counterfoil]:
    with Counterfoil(base_url=locked_service.url, api_key=KEY) as client:
        yield client


def perform(service: Service, *options: str) -> dict[str, Any]:
    """Run the demo on a service, as JSON."""
    ended = counterfoil(
        *("demo", "credit", "-o", "json", *options),
        COUNTERFOIL_BASE_URL=service.url,
        COUNTERFOIL_API_KEY=KEY,
    )
    assert ended.returncode == 0, ended.stderr + ended.stdout
    outcome: dict[str, Any] = json.loads(ended.stdout)
    return outcome


def decisions(cf: Counterfoil, policy: str) -> dict[str, list[Event]]:
    """What was decided about each subject, in its order: read by the test itself."""
    told: defaultdict[str, list[Event]] = defaultdict(list)
    for event in cf.events.list(types=words.DECISION_MADE, tags=f"decision:{policy}", limit=1_000):
        told[event.payload["subject"]].append(event)
    return dict(told)


def left_over(cf: Counterfoil, run_id: str) -> list[str]:
    """The consumers of a run, and the keys of its people and agents that still open something."""
    names = {*words.PROCESSES, words.AUTHOR, words.APPROVER}
    return [
        *(one.name for one in cf.consumers.list() if run_id in one.name),
        *(one.name for one in cf.keys.list() if one.name in names and one.revoked_at is None),
    ]


# --- Whole runs -------------------------------------------------------------------------


@pytest.mark.promise("P9")
def test_every_decision_replays_identically_and_none_stands_on_what_changed(
    locked_service: Service, cf: Counterfoil
) -> None:
    outcome = perform(locked_service, "--applicants", APPLICANTS_OF_A_RUN)

    assert outcome["ok"] is True
    assert outcome["contradictions"] == []
    assert outcome["applications"] == int(APPLICANTS_OF_A_RUN)
    assert outcome["approve"] + outcome["review"] + outcome["decline"] == 40
    assert outcome["corrected"] == CORRECTED
    assert outcome["corrected_in_time"] + outcome["decided_anew"] == CORRECTED
    # Every third is corrected when it is decided: none of those can be in time.
    assert outcome["decided_anew"] >= 2
    assert set(outcome["by_version"]) == {"1", "2"}
    assert sum(sum(each.values()) for each in outcome["known"].values()) == 40
    # The test's own reading of the book, and its own replays.
    told = decisions(cf, outcome["policy"])
    assert len(told) == 40
    made = [each for chain in told.values() for each in chain]
    assert len(made) == outcome["decisions"] == outcome["check"]["replayed"]
    assert all(cf.decisions.replay(each.id).identical for each in made)
    for about, chain in told.items():
        assert cf.decisions.get(chain[-1].id).state == "standing"
        signals = list(cf.events.list(tags=about, agents=[words.RISK_AGENT, words.UNDERWRITER]))
        for decision in chain:
            assert not [
                each for each in signals if decision.payload["head"] < each.id < decision.id
            ]
        assert max(each.id for each in signals) < chain[-1].id


def test_who_takes_part_has_a_key_of_their_own_and_nothing_is_left_behind(
    locked_service: Service, cf: Counterfoil
) -> None:
    outcome = perform(locked_service, "--applicants", "12", "--seed", "4")

    run_id, policy = outcome["run_id"], outcome["policy"]
    versions = cf.policies.versions(policy)
    assert {each.drafted_by for each in versions} == {f"person:{words.AUTHOR}"}
    assert {each.activated_by for each in versions} == {f"person:{words.APPROVER}"}
    assert sorted(each.state for each in versions) == ["active", "retired"]
    assert "second pair of eyes" in outcome["refused"]["own_draft"]
    for chain in decisions(cf, policy).values():
        assert {each.payload["asked_by"] for each in chain} == {f"agent:{words.POLICY_AGENT}"}
    assert left_over(cf, run_id) == []


def test_what_no_rule_may_read_is_in_the_book_and_in_no_decision(
    locked_service: Service, cf: Counterfoil
) -> None:
    outcome = perform(locked_service, "--applicants", "6")

    assert outcome["refused"]["forbidden_input"].startswith("/reads/age: ")
    assert "forbidden_inputs" in outcome["refused"]["forbidden_input"]
    of_run = vocabulary.run_tag(outcome["run_id"])
    details = list(cf.events.list(types=PERSONAL, tags=of_run))
    assert all(each.payload["age"] >= 18 for each in details)
    personal = {each.id for each in details}
    for chain in decisions(cf, outcome["policy"]).values():
        for decision in chain:
            used = {each for ids in decision.payload["signals"].values() for each in ids}
            assert not used & personal
            assert set(decision.payload["inputs"]) <= set(APPLICANTS.policy["reads"])


def test_it_starts_what_it_needs_takes_a_file_and_keeps_the_book(
    data_dir: Path, tmp_path: Path
) -> None:
    file = german_file(tmp_path / "german.csv")
    riskier = {**GERMAN_ROW, "Duration": "48", "Saving_account": "A61", "Result": "2"}
    with file.open("a", encoding="utf-8") as more:
        more.writelines(",".join(riskier.values()) + "\n" for _ in range(9))

    ended = counterfoil(
        *("demo", "credit", "--data", str(file), "--limit", "8", "--data-dir", str(data_dir)),
        # The demo must not write into whatever book is configured here.
        DATABASE_URL="postgresql://nobody@127.0.0.1:1/none",
    )

    assert ended.returncode == 0, ended.stderr + ended.stdout
    assert "German credit (Statlog)" in ended.stdout
    assert "decisions replay identically" in ended.stdout
    assert "For each application exactly one decision stands." in ended.stdout
    assert "Cost per applicant: " in ended.stdout
    assert "Approving all: 4.375" in ended.stdout
    assert "/reads/Personal_status: " in ended.stdout
    assert "One declined application, explained" in ended.stdout
    assert "What the customer is told" in ended.stdout
    assert f"counterfoil dev --data-dir {data_dir}" in ended.stderr


@needs_data
def test_the_german_data_itself(locked_service: Service) -> None:
    outcome = perform(locked_service, "--data", str(GERMAN_FILE), "--limit", "40")

    assert outcome["portfolio"] == "german_credit"
    assert outcome["cost_per_applicant"]["decided"] < outcome["cost_per_applicant"]["approving_all"]
    assert Counter({known: sum(each.values()) for known, each in outcome["known"].items()}) == {
        "good": 25,
        "bad": 15,
    }


# --- What goes wrong --------------------------------------------------------------------


def test_a_signal_that_nobody_decided_on_ends_it_with_1_and_is_named(database: Database) -> None:
    """Somebody writes into the book whom the policy agent does not hear: the check does."""
    with (
        running_service(database.url) as service,
        Counterfoil(base_url=service.url) as cf,
        started("demo", "credit", "--applicants", "60", "--base-url", service.url) as process,
    ):
        with cf.events.follow(types=words.DECISION_MADE, after=0) as made:
            decision = next(made)
        about = decision.payload["subject"]
        stray = cf.events.append(
            agent_name="somebody",
            event_type="income_verified",
            payload={"monthly_minor": 1},
            tags=about,
        )
        printed, errors = process.communicate()

    assert process.returncode == 1, errors
    assert "The check found what must not be" in printed
    assert f"`income_verified` at {stray.id} has changed what it rests on" in printed


def test_a_policy_agent_that_is_frozen_ends_it_with_6_and_its_reason(database: Database) -> None:
    with running_service(database.url) as service, Counterfoil(base_url=service.url) as cf:
        cf.brake.freeze(agent=words.POLICY_AGENT, reason="Every decision is looked at today.")
        ended = counterfoil("demo", "credit", "--applicants", "20", "--base-url", service.url)
        left = left_over(cf, "demo")

    assert ended.returncode == 6, ended.stderr
    assert f"The {words.POLICY_AGENT} ended early" in ended.stderr
    assert ended.stderr.count("Every decision is looked at today.") == 1
    assert left == []


def test_a_key_that_may_make_no_keys_is_refused_before_anything_is_written(
    locked_service: Service, cf: Counterfoil
) -> None:
    key = cf.keys.create(kind="person", name="onlooker", scopes=["read:*"]).reveal()
    before = next(cf.events.list(limit=1).pages()).head

    ended = counterfoil(
        *("demo", "credit", "--applicants", "6", "--base-url", locked_service.url),
        COUNTERFOIL_API_KEY=key,
    )

    assert ended.returncode == 1
    assert "manage:keys" in ended.stderr
    written = cf.events.list(after=before)
    assert {event.agent_name for event in written} <= {"counterfoil"}


def test_ctrl_c_ends_it_and_its_keys(database: Database) -> None:
    with (
        running_service(database.url) as service,
        Counterfoil(base_url=service.url) as cf,
        started("demo", "credit", "--applicants", "20000", "--base-url", service.url) as process,
    ):
        with cf.events.follow(types=words.DECISION_MADE, after=0) as made:
            next(made)
        process.send_signal(signal.SIGINT)
        code, _ = ending(process)
        left = left_over(cf, "demo")

    assert code == 130
    assert left == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--applicants", "5", "--data", "a.csv"], "give one of them"),
        (["--limit", "5"], "--limit belongs to --data"),
        (["--data", "missing.csv"], "missing.csv cannot be read: No such file"),
        (["--data", "."], "cannot be read: Is a directory"),
        (["--base-url", "http://127.0.0.1:1", "--data-dir", "d"], "leave out --data-dir"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_started(
    options: list[str], sentence: str
) -> None:
    ended = counterfoil("demo", "credit", *options)

    assert ended.returncode == 2
    assert sentence in ended.stderr


def test_another_file_gets_a_clear_sentence(tmp_path: Path) -> None:
    file = tmp_path / "other.csv"
    file.write_text("id,name\n1,a\n", encoding="utf-8")

    ended = counterfoil("demo", "credit", "--data", str(file))

    assert ended.returncode == 2
    assert "other.csv is neither the German credit data nor those of Lending Club" in ended.stderr


def test_the_subject_of_an_application_is_its_tag() -> None:
    assert subject("app_1") == "application:app_1"
