"""Decisions: made on what the book says, and recorded with all that they rest on."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.contract.problems import assert_problem
from tests.support.cluster import Cluster
from tests.support.decisions import (
    DEBTS,
    DECISION_MADE,
    INCOME,
    POLICY,
    WHY,
    Office,
    policy,
    stricter,
    with_rows,
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


# --- Deciding ---------------------------------------------------------------------


def test_a_decision_records_all_that_it_rests_on(office: Office) -> None:
    debt, income = office.known(debt=120_000, income=200_000)
    made = office.decided(on_behalf_of="branch 7")
    version = office.risk.get(f"/policies/{POLICY}").json()
    assert made["outcome"] == made["kind"] == "decline"
    assert made["reasons"] == [{"code": "D01", **policy()["outcomes"]["decline"]["reasons"]["D01"]}]
    assert (made["policy"], made["version"], made["digest"]) == (POLICY, 1, version["digest"])
    assert made["engine"] == "zen-engine 2.1.3"
    assert made["inputs"] == {"debt": 120_000, "income": 200_000}
    assert made["signals"] == {"debt": [debt], "income": [income]}
    assert made["matched"] == [{"table": "decide", "row": 1, "rule": "high"}]
    assert (made["asked_by"], made["on_behalf_of"]) == ("agent:policy_agent", "branch 7")
    assert (made["agent_name"], made["supersedes"]) == ("policy_agent", None)
    assert made["head"] == income == made["id"] - 1
    assert made["as_of"] <= made["created_at"]


def test_a_decision_is_an_event_of_the_agent_that_asked(office: Office) -> None:
    signals = office.known()
    made = office.decided()
    event = office.risk.get(f"/events/{made['id']}").json()
    assert (event["agent_name"], event["event_type"]) == ("policy_agent", DECISION_MADE)
    assert event["tags"] == ["application:1", f"decision:{POLICY}"]
    assert event["caused_by"] == sorted(signals)
    assert event["created_at"] == made["created_at"]
    assert event["payload"]["inputs"] == made["inputs"]


def test_nobody_writes_a_decision_by_themselves(office: Office) -> None:
    answer = office.decider.append("policy_agent", DECISION_MADE, tags=["application:1"])
    assert_problem(answer, 422, "invalid-input", "/event_type")


@pytest.mark.parametrize(
    ("debt", "income", "outcome", "row"),
    [
        (20_000, 200_000, "approve", 2),
        (60_000, 200_000, "approve", 2),
        (60_001, 200_000, "review", 3),
        (100_000, 200_000, "review", 3),
        (100_001, 200_000, "decline", 1),
    ],
)
def test_the_rules_are_applied_at_their_edges(
    office: Office, debt: int, income: int, outcome: str, row: int
) -> None:
    office.known(debt=debt, income=income)
    made = office.decided()
    assert (made["outcome"], made["matched"][0]["row"]) == (outcome, row)


def test_at_most_one_decision_stands_and_a_later_one_names_it(office: Office) -> None:
    office.known(debt=120_000)
    first = office.decided()
    problem = assert_problem(office.asked(), 409, "decision-stands")
    assert problem["decision"] == first
    office.signal(INCOME, 900_000)
    # Also after the signals have changed: nothing is replaced in silence.
    assert_problem(office.asked(), 409, "decision-stands")
    second = office.decided(supersedes={"decision": first["id"], **AGAIN})
    assert (second["outcome"], second["supersedes"]) == (
        "approve",
        {"decision": first["id"], **AGAIN},
    )
    states = [office.decider.get(f"/decisions/{made['id']}").json() for made in (first, second)]
    assert [(one["state"], one["superseded_by"]) for one in states] == [
        ("superseded", second["id"]),
        ("standing", None),
    ]
    # One that stands no more cannot be superseded a second time.
    stale = office.asked(supersedes={"decision": first["id"], **AGAIN})
    assert assert_problem(stale, 409, "decision-stands")["decision"]["id"] == second["id"]


@pytest.mark.parametrize("others", [0, 49, 60, 1_200])
def test_a_decision_finds_its_signals_among_however_many_events(
    office: Office, others: int
) -> None:
    """Of few events about a subject all are looked at; of many, it is looked how to find them."""
    signals = office.known(debt=120_000)
    for begin in range(0, others, 1_000):
        batch = [
            {
                "agent_name": "risk_agent",
                "event_type": "noted",
                "payload": {"monthly_minor": 1},
                "tags": ["application:1"],
            }
        ] * min(1_000, others - begin)
        assert office.risk.post("/events/batch", {"events": batch}).status_code == 201
    made = office.decided()
    assert made["signals"] == {"debt": [signals[0]], "income": [signals[1]]}
    assert assert_problem(office.asked(), 409, "decision-stands")["decision"] == made
    anew = office.decided(supersedes={"decision": made["id"], **AGAIN})
    assert anew["signals"] == made["signals"]
    replay = office.approver.post(f"/decisions/{made['id']}/replay", {}).json()
    assert (replay["identical"], replay["signals"]) == (True, "identical")


def test_more_signals_than_a_decision_may_rest_on_are_refused(office: Office) -> None:
    office.known()
    batch = [
        {
            "agent_name": "risk_agent",
            "event_type": DEBTS,
            "payload": {"monthly_minor": 1},
            "tags": ["application:1"],
        }
    ] * 999
    assert office.risk.post("/events/batch", {"events": batch}).status_code == 201
    said = refused(office, 422, "decision-inputs-refused", "/subject")
    assert "1,000 events at most" in said


def test_what_does_not_stand_cannot_be_superseded(office: Office) -> None:
    office.known()
    answer = office.asked(supersedes={"decision": 1, **AGAIN})
    assert_problem(answer, 422, "invalid-input", "/supersedes/decision")
    assert office.decisions() == []


def test_decisions_of_two_policies_and_of_two_subjects_stand_side_by_side(office: Office) -> None:
    office.in_force(stricter(), name="second_look")
    for subject in ("application:1", "application:2"):
        office.known(debt=90_000, subject=subject)
    made = [office.decided("application:1"), office.decided("application:2")]
    other = office.decider.post("/decisions", {"policy": "second_look", "subject": "application:1"})
    assert [one["outcome"] for one in (*made, other.json())] == ["review", "review", "decline"]


def test_inputs_may_come_with_the_request_where_the_policy_says_so(admin: Holder) -> None:
    office = Office.of(admin)
    document = policy(extra=["amount"])
    document["inputs_schema"]["properties"]["amount"] = {"type": "number", "maximum": 1_000_000}
    document["inputs_schema"]["required"].append("amount")
    for example in document["examples"]:
        example["inputs"]["amount"] = 1
    office.in_force(document)
    office.known()
    for inputs, pointer in (
        ({}, "/inputs/amount"),
        ({"amount": "1"}, "/inputs/amount"),
        ({"amount": 1_000_001}, "/inputs/amount"),
        ({"amount": 1, "income": 5}, "/inputs/income"),
        ({"amount": 1, "purpose": "car"}, "/inputs/purpose"),
        ({"amount": 2**53 + 1}, "/inputs/amount"),
    ):
        answer = office.asked("application:1", inputs=inputs)
        assert_problem(answer, 422, "decision-inputs-refused", pointer)
    made = office.decided(inputs={"amount": 1})
    assert (made["inputs"]["amount"], made["extra"]) == (1, ["amount"])


@pytest.mark.parametrize("number", ["1.50", "1e2", "150E-2", "-0", "-0.0", "0.10", "1.0e1"])
def test_an_answer_is_the_same_bytes_however_a_number_was_written(
    admin: Holder, number: str
) -> None:
    office = Office.of(admin)
    document = policy(extra=["amount"])
    document["inputs_schema"]["properties"]["amount"] = {"type": "number"}
    document["inputs_schema"]["required"].append("amount")
    for example in document["examples"]:
        example["inputs"]["amount"] = 1
    office.in_force(document)
    office.known()
    body = (
        f'{{"policy":"{POLICY}","subject":"application:1","inputs":{{"amount":{number}}}}}'
    ).encode()
    headers = {"Content-Type": "application/json", "Idempotency-Key": "once"}
    answers = [
        office.decider.ask("POST", "/decisions", content=body, headers=headers) for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].content == answers[1].content
    shown = office.decider.get(f"/decisions/{answers[0].json()['id']}").text
    assert answers[0].text.removesuffix("}") in shown


# --- What bad input gets ----------------------------------------------------------


def refused(office: Office, status: int, name: str, pointer: str | None = None, **more: Any) -> str:
    """Check that nothing is decided; returns what it says."""
    problem = assert_problem(office.asked(**more), status, name, pointer)
    assert office.decisions() == []
    return str(problem["detail"])


def test_a_missing_signal_is_refused_and_never_guessed(office: Office) -> None:
    office.signal(INCOME, 200_000)
    said = refused(office, 422, "decision-inputs-refused", "/inputs/debt")
    assert "`debts_checked`" in said


def test_a_signal_without_the_value_is_missing(office: Office) -> None:
    office.signal(INCOME, None)
    office.signal(DEBTS, 5)
    said = refused(office, 422, "decision-inputs-refused", "/inputs/income")
    assert "`/monthly_minor`" in said


@pytest.mark.parametrize("amount", ["many", 1.5, True, -1, [1], {"a": 1}, 2**53 + 1, 0.1])
def test_a_signal_of_the_wrong_kind_is_refused_and_its_event_named(
    office: Office, amount: Any
) -> None:
    office.signal(INCOME, 200_000)
    event_id = office.signal(DEBTS, amount)
    answer = office.asked()
    problem = assert_problem(answer, 422, "decision-inputs-refused", "/inputs/debt")
    assert str(event_id) in problem["errors"][0]["message"]
    assert office.decisions() == []


def test_a_signal_that_is_too_old_is_missing(office: Office, database_url: str) -> None:
    _, income = office.known()
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("alter table counterfoil.events disable trigger events_can_only_be_blanked")
        owner.execute(
            "update counterfoil.events set created_at = created_at - interval '91 days' "
            "where position = %s and event_type = %s",
            [income, INCOME],
        )
        owner.execute("alter table counterfoil.events enable trigger events_can_only_be_blanked")
    said = refused(office, 422, "decision-inputs-refused", "/inputs/income")
    assert "older than 7,776,000 seconds" in said
    assert str(income) in said


def test_an_erased_signal_is_refused(office: Office, database_url: str) -> None:
    debt, _ = office.known()
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute(
            "update counterfoil.events set payload = null, salt = null "
            "where position = %s and event_type = %s",
            [debt, DEBTS],
        )
    assert "erased" in refused(office, 422, "decision-inputs-refused", "/inputs/debt")


def test_a_subject_without_events_is_no_subject(office: Office) -> None:
    office.known(subject="application:2")
    assert "`application:1`" in refused(office, 404, "subject-without-events")


def test_a_subject_of_another_kind_is_refused(office: Office) -> None:
    office.known(subject="customer:1")
    refused(office, 422, "invalid-input", "/subject", subject="customer:1")


def test_rules_without_a_row_for_it_decide_nothing(admin: Holder) -> None:
    office = Office.of(admin)
    office.in_force(
        with_rows(
            {"_id": "low", "ratio": "<= 0.3", "outcome": '"approve"', "reasons": ""},
            {"_id": "high", "ratio": "> 0.5", "outcome": '"decline"', "reasons": '"D01"'},
        )
    )
    office.known(debt=80_000)
    assert "No row" in refused(office, 422, "not-decided")


def test_an_expression_that_comes_to_nothing_decides_nothing(admin: Holder) -> None:
    office = Office.of(admin)
    document = policy()
    document["inputs_schema"]["properties"]["income"]["minimum"] = 0
    office.in_force(document)
    office.known(income=0)
    assert "comes to nothing" in refused(office, 422, "not-decided")


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"policy": "Credit"}, "/policy"),
        ({"subject": "application"}, "/subject"),
        ({"subject": 1}, "/subject"),
        ({"inputs": []}, "/inputs"),
        ({"on_behalf_of": ""}, "/on_behalf_of"),
        ({"supersedes": 5}, "/supersedes"),
        ({"supersedes": {"decision": 5}}, "/supersedes/reason"),
        ({"supersedes": {"decision": 0, "reason": "x"}}, "/supersedes/decision"),
        ({"explain": "yes"}, "/explain"),
        ({"outcome": "approve"}, "/outcome"),
    ],
)
def test_what_is_asked_wrongly_is_pointed_at(
    office: Office, change: dict[str, Any], pointer: str
) -> None:
    office.known()
    body = {"policy": POLICY, "subject": "application:1", **change}
    assert_problem(office.decider.post("/decisions", body), 422, "invalid-input", pointer)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_number_is_not_even_a_document(office: Office, number: str) -> None:
    office.known()
    body = f'{{"policy":"{POLICY}","subject":"application:1","inputs":{{"amount":{number}}}}}'
    headers = {"Content-Type": "application/json"}
    answer = office.decider.ask("POST", "/decisions", content=body.encode(), headers=headers)
    assert_problem(answer, 400, "malformed-document")
    assert office.decisions() == []


def test_an_unknown_policy_decides_nothing(office: Office) -> None:
    office.known()
    refused(office, 404, "policy-not-found", policy="nothing")


def test_nothing_is_decided_about_what_is_frozen(office: Office) -> None:
    office.known()
    for frozen in ({"tag": "application:1"}, {"agent": "policy_agent"}, {"book": True}):
        freeze = office.approver.post("/freezes", {**frozen, "reason": "An incident."}).json()
        problem = assert_problem(office.asked(), 423, "frozen")
        assert problem["freeze"]["id"] == freeze["id"]
        office.approver.post(f"/freezes/{freeze['id']}/thaw", WHY)
    assert office.decided()["outcome"] == "approve"


# --- Who may ----------------------------------------------------------------------


@pytest.mark.promise("P7")
def test_a_key_decides_by_the_policies_that_it_was_given(office: Office, admin: Holder) -> None:
    office.known()
    body = {"policy": POLICY, "subject": "application:1"}
    for scopes, status in (
        (["read:*"], 403),
        (["decide:other", "read:*"], 403),
        (["decide:consumer*", f"read:{INCOME}"], 403),
        (["decide:consumer*", "read:*@customer"], 403),
        (["decide:consumer*", f"read:{INCOME}", f"read:{DEBTS}", "read:counterfoil.*"], 201),
    ):
        agent = admin.made(kind="agent", name="narrow", scopes=scopes)
        answer = agent.post("/decisions", body)
        assert answer.status_code == status, answer.text
        if status != 201:
            assert_problem(answer, 403, "scope-missing")


@pytest.mark.promise("P7")
def test_a_key_decides_in_its_own_name_only(office: Office, service: Service) -> None:
    office.known()
    assert_problem(office.asked(agent_name="risk_agent"), 403, "name-not-yours")
    with holder_of(service) as operator:
        body = {"policy": "nothing", "subject": "application:1"}
        assert_problem(operator.post("/decisions", body), 422, "invalid-input", "/agent_name")
        named = operator.post("/decisions", {**body, "agent_name": "somebody"})
        assert_problem(named, 404, "policy-not-found")


@pytest.mark.promise("P7")
def test_another_tenants_decisions_are_not_there(office: Office, service: Service) -> None:
    office.known()
    made = office.decided()
    with holder_of(service) as operator:
        rival = Office.of(operator.tenant(f"rival of {office.author.key_id}"))
        for path in ("", "/explanation"):
            answer = rival.decider.get(f"/decisions/{made['id']}{path}")
            assert_problem(answer, 404, "decision-not-found")
        replay = rival.decider.post(f"/decisions/{made['id']}/replay", {})
        assert_problem(replay, 404, "decision-not-found")
        assert rival.decider.get("/decisions").json()["decisions"] == []


# --- Once -------------------------------------------------------------------------


@pytest.mark.promise("P5")
def test_a_key_is_answered_alike_after_everything_has_changed(office: Office) -> None:
    office.known(debt=120_000)
    first = office.asked(key="one")
    office.signal(INCOME, 900_000)
    office.in_force(stricter())
    office.approver.post(f"/policies/{POLICY}/retire", WHY)
    again = office.asked(key="one")
    assert again.status_code == 201, again.text
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.content == first.content
    assert again.headers["Location"] == first.headers["Location"]
    assert len(office.decisions()) == 1


@pytest.mark.promise("P5", "P7")
def test_an_earlier_decision_is_explained_to_those_only_who_may_read_what_it_rests_on(
    office: Office, admin: Holder
) -> None:
    office.known()
    first = office.asked(key="one")
    explained = office.asked(key="one", explain=True)
    assert explained.json()["explanation"]["timeline"]
    narrow = admin.made(kind="agent", name="policy_agent", scopes=["decide:*"])
    body = {"policy": POLICY, "subject": "application:1", "explain": True}
    again = narrow.post("/decisions", body, headers={"Idempotency-Key": "one"})
    assert again.status_code == 201, again.text
    assert again.json() == first.json()


def test_a_decision_whose_record_would_be_too_long_is_refused_as_one(admin: Holder) -> None:
    office = Office.of(admin)
    document = policy()
    for nth in range(40):
        name = f"counts_{nth}"
        document["reads"][name] = {"types": ["counted"], "take": "list", "path": "/n"}
        counts = {"type": "array", "items": {"type": "integer"}}
        document["inputs_schema"]["properties"][name] = counts
        document["inputs_schema"]["required"].append(name)
        for example in document["examples"]:
            example["inputs"][name] = [0]
    office.in_force(document)
    office.known()
    counted = {
        "agent_name": "risk_agent",
        "event_type": "counted",
        "payload": {"n": 1},
        "tags": ["application:1"],
    }
    for _ in range(2):
        assert office.risk.post("/events/batch", {"events": [counted] * 490}).status_code == 201
    answer = office.asked()
    problem = assert_problem(answer, 422, "decision-inputs-refused")
    assert [error["pointer"] for error in problem["errors"]] == ["/subject"]
    assert "record of this decision" in problem["detail"]
    assert office.decisions() == []


@pytest.mark.parametrize("text", ["two\nlines", "\x1b[2J", "\x85"])
def test_for_whom_it_is_asked_stands_on_one_line(office: Office, text: str) -> None:
    office.known()
    problem = assert_problem(office.asked(on_behalf_of=text), 422, "invalid-input")
    assert problem["errors"][0]["pointer"] == "/on_behalf_of"


@pytest.mark.promise("P5")
def test_a_key_of_other_content_is_refused_and_a_refusal_is_not_kept(office: Office) -> None:
    assert_problem(office.asked(key="one"), 404, "subject-without-events")
    office.known()
    assert office.asked(key="one").status_code == 201
    for other in ({"subject": "application:2"}, {"on_behalf_of": "somebody"}):
        assert_problem(office.asked(key="one", **other), 422, "idempotency-mismatch")


# --- Counting ---------------------------------------------------------------------


def test_what_comes_of_asking_is_counted(service: Service, office: Office) -> None:
    def counted() -> dict[str, float]:
        with holder_of(service) as operator:
            lines = operator.get("/metrics").text.splitlines()
        found = {}
        for line in lines:
            if line.startswith(("counterfoil_decisions_total{", "counterfoil_decision_tries_")):
                name, _, value = line.rpartition(" ")
                found[name] = float(value)
        return found

    def by_result(result: str) -> str:
        return f'counterfoil_decisions_total{{result="{result}"}}'

    before = counted()
    assert office.asked().status_code == 404
    office.known(debt=20_000)
    for _ in range(2):
        assert office.asked(key="k").status_code == 201
    assert office.asked().status_code == 409
    office.known(debt=120_000, subject="application:2")
    office.decided("application:2")
    assert (
        office.decider.post("/decisions", {"policy": "none", "subject": "a:1"}).status_code == 404
    )
    after = counted()
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert {
        name: by for name, by in grown.items() if by and name.startswith("counterfoil_decisions")
    } == {
        by_result("approve"): 1,
        by_result("decline"): 1,
        by_result("replayed"): 1,
        by_result("stands"): 1,
        by_result("refused"): 2,
    }
    # A decision that was made before is not made again.
    assert grown["counterfoil_decision_tries_count"] == 2
    assert grown["counterfoil_decision_tries_sum"] == 2
