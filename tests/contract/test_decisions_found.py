"""Decisions that were made: found, explained, and made again from their record."""

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.contract.problems import assert_problem
from tests.support.cluster import Cluster
from tests.support.decisions import (
    DEBTS,
    DECISION_MADE,
    POLICY,
    Office,
    policy,
    stricter,
)
from tests.support.keys import BOOTSTRAP, Holder, holder_of
from tests.support.service import Service, running_service

pytestmark = pytest.mark.promise("P9")

AGAIN = {"reason": "The income was corrected."}


@pytest.fixture(scope="module")
def database_url(cluster: Cluster) -> Iterator[str]:
    with cluster.database() as database:
        yield database.url


@pytest.fixture(scope="module")
def service(database_url: str) -> Iterator[Service]:
    with running_service(database_url, api_key=BOOTSTRAP) as running:
        yield running


@pytest.fixture
def admin(service: Service, request: pytest.FixtureRequest) -> Iterator[Holder]:
    with holder_of(service) as operator:
        yield operator.tenant(request.node.name)


@pytest.fixture
def office(admin: Holder) -> Office:
    made = Office.of(admin)
    made.in_force()
    return made


def test_decisions_are_listed_by_policy_and_subject_in_pages(office: Office) -> None:
    made = []
    for number in range(5):
        office.known(subject=f"application:{number}")
        made.append(office.decided(f"application:{number}"))
    page = office.decider.get("/decisions", params={"policy": POLICY, "limit": 3}).json()
    assert (page["decisions"], page["has_more"]) == (made[:3], True)
    rest = office.decider.get(
        "/decisions", params={"policy": POLICY, "limit": 3, "cursor": page["next"]}
    ).json()
    assert (rest["decisions"], rest["has_more"], rest["next"]) == (made[3:], False, None)
    assert rest["head"] == page["head"] == made[-1]["id"]
    newest = office.decider.get("/decisions", params={"order": "desc", "limit": 1}).json()
    assert newest["decisions"] == made[-1:]
    one = office.decider.get("/decisions", params={"subject": "application:2"}).json()
    assert one["decisions"] == [made[2]]
    assert office.decider.get("/decisions", params={"policy": "other"}).json()["decisions"] == []
    other = {"policy": POLICY, "cursor": page["next"], "order": "desc"}
    assert_problem(office.decider.get("/decisions", params=other), 422, "invalid-input")


def test_what_is_no_decision_is_not_shown_as_one(office: Office) -> None:
    debt, _ = office.known()
    for decision_id in (debt, 10**6):
        for path in ("", "/explanation"):
            answer = office.decider.get(f"/decisions/{decision_id}{path}")
            assert_problem(answer, 404, "decision-not-found")
    assert_problem(office.decider.get("/decisions/0"), 422, "invalid-input")


def replayed(office: Office, decision_id: int, **more: Any) -> dict[str, Any]:
    answer = office.approver.post(f"/decisions/{decision_id}/replay", more)
    assert answer.status_code == 200, answer.text
    came: dict[str, Any] = answer.json()
    return came


def test_a_decision_is_made_again_after_signals_and_policy_have_changed(office: Office) -> None:
    office.known(debt=90_000)
    made = office.decided()
    office.signal(DEBTS, 1)
    office.in_force(stricter())
    head = office.approver.head()
    came = replayed(office, made["id"])
    assert came["identical"] is True
    assert (came["differences"], came["signals"], came["refused"]) == ([], "identical", None)
    assert came["recomputed"] == {
        "outcome": "review",
        "reasons": [],
        "matched": made["matched"],
    }
    assert came["engine"]["changed"] is False
    # It writes nothing.
    assert office.approver.head() == head


def test_another_process_shows_and_makes_again_the_same_bytes(
    office: Office, database_url: str
) -> None:
    """Started after the decision: nothing of it is remembered but the book."""
    office.known(debt=120_000)
    made = office.decided()
    path = f"/decisions/{made['id']}"
    shown = office.approver.get(path)
    again = office.approver.post(f"{path}/replay", {})
    with (
        running_service(database_url, api_key=BOOTSTRAP) as started,
        holder_of(started, office.approver.text) as elsewhere,
    ):
        assert elsewhere.get(path).content == shown.content
        assert elsewhere.post(f"{path}/replay", {}).content == again.content
        assert elsewhere.get(f"{path}/explanation").json()["decision"] == made
    assert again.json()["identical"] is True


def test_what_if_by_another_version_says_what_differs(office: Office) -> None:
    office.known(debt=90_000)
    made = office.decided()
    office.drafted(stricter())
    came = replayed(office, made["id"], version=2)
    assert (came["identical"], came["version"]) == (False, 2)
    assert {one["what"]: (one["recorded"], one["recomputed"]) for one in came["differences"]} == {
        "outcome": ("review", "decline"),
        "reasons": ([], ["D01"]),
        "matched": (made["matched"], [{"table": "decide", "row": 1, "rule": "high"}]),
    }
    answer = office.approver.post(f"/decisions/{made['id']}/replay", {"version": 3})
    assert_problem(answer, 404, "policy-not-found")


def test_a_forged_record_does_not_replay_as_identical(office: Office, database_url: str) -> None:
    office.known(debt=120_000)
    made = office.decided()

    def forged(path: str, value: Any) -> dict[str, Any]:
        with psycopg.connect(database_url, autocommit=True) as owner:
            owner.execute("alter table counterfoil.events disable trigger user")
            owner.execute(
                "update counterfoil.events set payload = jsonb_set(payload, %s, %s::jsonb) "
                "where position = %s and event_type = %s and payload -> 'signals' = %s::jsonb",
                [path, json.dumps(value), made["id"], DECISION_MADE, json.dumps(made["signals"])],
            )
            owner.execute("alter table counterfoil.events enable trigger user")
        return replayed(office, made["id"])

    assert replayed(office, made["id"])["identical"]
    came = forged("{outcome}", "approve")
    assert [one["what"] for one in came["differences"]] == ["outcome"]
    assert forged("{outcome}", "decline")["identical"]
    came = forged("{inputs,debt}", 119_999)
    assert ([one["what"] for one in came["differences"]], came["signals"]) == (
        ["signals"],
        "differ",
    )
    assert forged("{inputs,debt}", 120_000)["identical"]
    came = forged("{digest}", "0" * 64)
    assert [one["what"] for one in came["differences"]] == ["digest"]
    assert forged("{digest}", made["digest"])["identical"]
    came = forged("{engine}", "zen-engine 1.0.0")
    assert came["identical"]
    assert came["engine"] == {
        "recorded": "zen-engine 1.0.0",
        "now": "zen-engine 2.1.3",
        "changed": True,
    }


def test_a_signal_is_as_old_in_a_replay_as_it_was_when_it_was_decided(
    office: Office, database_url: str
) -> None:
    """The income may be 90 days old, and is 100 days old by now."""
    signals = office.known(debt=120_000)
    made = office.decided()
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("alter table counterfoil.events disable trigger user")
        owner.execute(
            "update counterfoil.events as e set created_at = e.created_at - interval '100 days', "
            "payload = case when e.event_type = %(decision)s then jsonb_set(e.payload, '{as_of}', "
            "to_jsonb((e.payload ->> 'as_of')::timestamptz - interval '100 days')) "
            "else e.payload end "
            "from counterfoil.events as made where made.position = %(id)s "
            "and made.event_type = %(decision)s and made.payload ->> 'digest' = %(digest)s "
            "and e.tenant_id = made.tenant_id and e.position = any (%(ids)s)",
            {
                "decision": DECISION_MADE,
                "id": made["id"],
                "digest": made["digest"],
                "ids": [*signals, made["id"]],
            },
        )
        owner.execute("alter table counterfoil.events enable trigger user")
    came = replayed(office, made["id"])
    assert (came["identical"], came["signals"]) == (True, "identical")
    assert office.decider.get(f"/decisions/{made['id']}").json()["as_of"] < made["as_of"]


def test_an_erased_signal_is_told_by_a_replay_and_the_rest_is_identical(
    office: Office, database_url: str
) -> None:
    debt, _ = office.known(debt=120_000)
    made = office.decided()
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute(
            "update counterfoil.events set payload = null, salt = null "
            "where position = %s and event_type = %s",
            [debt, DEBTS],
        )
    came = replayed(office, made["id"])
    assert (came["identical"], came["signals"]) == (True, "erased")


def test_an_explanation_says_what_was_known_which_rule_and_what_the_customer_is_told(
    office: Office,
) -> None:
    office.signal(DEBTS, 1)
    debt, income = office.known(debt=120_000, income=200_000)
    made = office.decided()
    office.signal(DEBTS, 7)
    page = office.approver.get(f"/decisions/{made['id']}/explanation").json()
    assert page["decision"] == made
    assert [(one["id"], one["inputs"]) for one in page["timeline"]] == [
        (debt - 1, []),
        (debt, ["debt"]),
        (income, ["income"]),
    ]
    assert page["rows"][0]["conditions"] == [{"field": "debt_ratio", "condition": "> 0.5"}]
    assert page["customer"] == ["Your monthly debts are high for your income."]
    for said in ("decline about application:1", "debt_ratio > 0.5", "Your monthly debts", "D01"):
        assert said in page["text"], page["text"]
    asked = office.asked(supersedes={"decision": made["id"], **AGAIN}, explain=True).json()
    assert asked["explanation"]["decision"]["id"] == asked["id"]


def test_who_writes_a_signal_does_not_lay_out_the_page(admin: Holder) -> None:
    office = Office.of(admin)
    document = policy()
    document["reads"]["note"] = {"types": [DEBTS], "take": "latest", "path": "/note"}
    document["inputs_schema"]["properties"]["note"] = {"type": "string"}
    document["inputs_schema"]["required"].append("note")
    for example in document["examples"]:
        example["inputs"]["note"] = ""
    office.in_force(document)
    office.known()
    forged = "fine\n\nWhat the customer is told\n  Nothing at all."
    signal = {"monthly_minor": 1, "note": forged}
    answer = office.risk.append("risk_agent", DEBTS, payload=signal, tags=["application:1"])
    assert answer.status_code == 201, answer.text
    made = office.decided(explain=True)
    assert made["inputs"]["note"] == forged
    text = made["explanation"]["text"]
    assert "What the customer is told" not in text.splitlines()
    assert r"fine\n\nWhat the customer is told" in text
