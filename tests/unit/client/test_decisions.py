"""Policies and decisions: what is sent, and what comes back."""

import json
import pickle
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx2
import pytest

from counterfoil import (
    Compared,
    ConditionFailed,
    Counterfoil,
    Decision,
    DecisionInputsRefused,
    DecisionNotFound,
    DecisionStands,
    Difference,
    FourEyes,
    InvalidRequestError,
    Matched,
    NotDecided,
    OutcomeUnknown,
    PolicyNotActive,
    PolicyNotFound,
    PolicyRefused,
    Reason,
    SubjectWithoutEvents,
    Superseded,
    UnexpectedAnswer,
    UnsendableValue,
    UsageError,
)
from tests.unit.client.doors import Connect
from tests.unit.client.simulated_book import Fault, problem
from tests.unit.client.simulated_decisions import DIGEST, ENGINE, SimulatedDecisions

CREATED = datetime(2025, 1, 2, 3, 4, 5, 6, UTC)
POLICY: dict[str, Any] = {"subject": "application", "ratio": Decimal("0.50")}
AMOUNT = Decimal("12.30")


@pytest.fixture
def service() -> SimulatedDecisions:
    return SimulatedDecisions()


@pytest.fixture
def credit(service: SimulatedDecisions) -> str:
    """A policy that decides."""
    service.in_force("credit", POLICY)
    return "credit"


def sent(service: SimulatedDecisions) -> object:
    return json.loads(service.received[-1].body, parse_float=Decimal)


# --- Policies ---------------------------------------------------------------------------


def test_a_policy_is_drafted_in_versions_and_activated_by_another(
    cf: Counterfoil, service: SimulatedDecisions
) -> None:
    first = cf.policies.draft("credit", POLICY, idempotency_key="release-1")
    assert (service.received[0].method, service.received[0].path) == (
        *("POST", "/policies/credit/drafts"),
    )
    assert sent(service) == POLICY
    assert service.received[0].headers["Idempotency-Key"] == "release-1"
    assert (first.name, first.version, first.state) == ("credit", 1, "draft")
    assert (first.digest, first.drafted_by, first.drafted_at) == (DIGEST, "person:m.ito", CREATED)
    assert (first.event_id, first.versions, first.policy) == (1, (1,), POLICY)
    assert (first.changed, first.replayed) == (True, False)
    assert str((first.policy or {})["ratio"]) == "0.50"

    again = cf.policies.draft("credit", POLICY)
    assert (again.version, again.changed) == (1, False)
    assert cf.policies.draft("credit", POLICY, idempotency_key="release-1").replayed

    with pytest.raises(FourEyes):
        cf.policies.activate("credit", 1, reason="Agreed.")
    service.caller = "person:j.doe"
    active = cf.policies.activate("credit", 1, reason="Agreed.")
    assert service.received[-1].path == "/policies/credit/versions/1/activate"
    assert sent(service) == {"reason": "Agreed."}
    assert (active.state, active.activated_by, active.activated_at) == (
        *("active", "person:j.doe", CREATED),
    )
    assert cf.policies.get("credit") == active


def test_versions_stay_readable_and_one_at_most_decides(
    cf: Counterfoil, service: SimulatedDecisions, credit: str
) -> None:
    cf.policies.draft(credit, POLICY | {"ratio": Decimal("0.40")})
    assert cf.policies.get(credit).version == 1
    second = cf.policies.get(credit, version=2)
    assert dict(service.received[-1].parameters) == {"version": "2"}
    assert (second.state, second.versions) == ("draft", (1, 2))

    versions = cf.policies.versions(credit)
    assert [(one.version, one.state) for one in versions] == [(2, "draft"), (1, "active")]
    assert [one.policy for one in versions] == [None, None]
    (summary,) = cf.policies.list()
    assert (summary.name, summary.active_version, summary.versions) == ("credit", 1, 2)
    assert (summary.digest, summary.changed_at) == (DIGEST, CREATED)

    retired = cf.policies.retire(credit, reason="No more.")
    assert (retired.version, retired.state, retired.retired_by) == (1, "retired", "person:m.ito")
    with pytest.raises(PolicyNotActive):
        cf.policies.retire(credit, reason="Again.")
    assert [one.active_version for one in cf.policies.list()] == [None]
    with pytest.raises(PolicyNotFound):
        cf.policies.get(credit, version=3)


def test_policies_are_listed_through_all_pages(
    cf: Counterfoil, service: SimulatedDecisions
) -> None:
    for nth in range(5):
        cf.policies.draft(f"p{nth}", POLICY)
    assert [one.name for one in cf.policies.list(limit=2)] == ["p0", "p1", "p2", "p3", "p4"]
    pages = [one for one in service.received if one.method == "GET"]
    assert [dict(one.parameters) for one in pages] == [
        {"limit": "2"},
        {"limit": "2", "cursor": "2"},
        {"limit": "2", "cursor": "4"},
    ]


def test_a_policy_that_is_refused_says_where(cf: Counterfoil, service: SimulatedDecisions) -> None:
    errors = [{"pointer": "/reads/age", "message": "This is among `forbidden_inputs`."}]
    service.faults.append(Fault(problem(422, "policy-refused", "No.", errors=errors)))
    with pytest.raises(PolicyRefused, match="/reads/age: This is among") as refused:
        cf.policies.draft("credit", POLICY)
    assert isinstance(refused.value, InvalidRequestError)
    assert len(service.received) == 1


@pytest.mark.parametrize("name", ["", ".", "..", "\ud800"])
def test_a_name_that_no_address_can_carry_is_not_sent(
    cf: Counterfoil, service: SimulatedDecisions, name: str
) -> None:
    with pytest.raises(UnsendableValue) as refused:
        cf.policies.get(name)
    assert (refused.value.pointer, service.received) == ("/name", [])


# --- Deciding ---------------------------------------------------------------------------


def test_a_decision_is_made_with_what_was_given_and_nothing_else(
    cf: Counterfoil, service: SimulatedDecisions, credit: str
) -> None:
    decision = cf.decide(credit, "application:42", inputs={"amount": AMOUNT})
    assert (service.received[0].method, service.received[0].path) == ("POST", "/decisions")
    assert sent(service) == {
        "policy": "credit",
        "subject": "application:42",
        "inputs": {"amount": AMOUNT},
    }
    assert len(service.received[0].headers["Idempotency-Key"]) == 36
    assert decision == Decision(
        id=3,
        created_at=CREATED,
        agent_name="credit_agent",
        policy="credit",
        version=1,
        digest=DIGEST,
        engine=ENGINE,
        subject="application:42",
        outcome="approve",
        kind="approve",
        reasons=(),
        inputs={"flags": 0, "amount": AMOUNT},
        extra=("amount",),
        signals={"flags": (1, 2)},
        matched=(Matched(table="decide", row=1, rule="r1"),),
        head=2,
        as_of=CREATED,
        asked_by="agent:credit_agent",
    )
    assert str(decision.inputs["amount"]) == "12.30"
    assert isinstance(decision.inputs["flags"], int)
    assert len({decision, decision}) == 1


def test_everything_that_a_decision_can_be_asked_with_arrives(
    cf: Counterfoil, service: SimulatedDecisions, credit: str
) -> None:
    first = cf.decide(credit, "application:42", inputs={"amount": 5_000})
    assert first.reasons == (
        Reason(code="A01", text="Too much.", customer="It is too much for us."),
    )
    second = cf.decide(
        credit,
        "application:42",
        inputs={"amount": 500},
        on_behalf_of="j.doe",
        agent_name="night_agent",
        supersedes=first,
        reason="New pay slips.",
        explain=True,
        idempotency_key="application-42-2",
    )
    assert sent(service) == {
        "policy": "credit",
        "subject": "application:42",
        "inputs": {"amount": 500},
        "on_behalf_of": "j.doe",
        "agent_name": "night_agent",
        "supersedes": {"decision": first.id, "reason": "New pay slips."},
        "explain": True,
    }
    assert service.received[-1].headers["Idempotency-Key"] == "application-42-2"
    assert (second.agent_name, second.on_behalf_of) == ("night_agent", "j.doe")
    assert second.supersedes == Superseded(decision=first.id, reason="New pay slips.")
    assert second.explanation is not None
    assert second.explanation.decision.id == second.id
    assert second.explanation.customer == ("It is too much for us.",)

    before = cf.decisions.get(first)
    assert (before.state, before.superseded_by) == ("superseded", second.id)
    assert (cf.decisions.get(second.id).state, cf.decisions.get(second.id).superseded_by) == (
        *("standing", None),
    )


def test_the_same_decision_again_is_answered_from_the_book(
    cf: Counterfoil, service: SimulatedDecisions, credit: str
) -> None:
    asked: dict[str, Any] = {"inputs": {"amount": 1}, "idempotency_key": "k"}
    first = cf.decide(credit, "application:42", **asked)
    again = cf.decide(credit, "application:42", **asked)
    assert (again.id, first.replayed, again.replayed) == (first.id, False, True)

    service.faults.append(Fault(httpx2.ReadError("reset"), served=True))
    lost = cf.decide(credit, "application:43", inputs={"amount": 1})
    assert lost.replayed
    keys = {one.headers["Idempotency-Key"] for one in service.received[-2:]}
    assert len(keys) == 1


def test_a_decision_whose_outcome_nobody_knows_says_so(
    connect: Connect, service: SimulatedDecisions, credit: str
) -> None:
    service.faults.append(Fault(httpx2.ReadError("reset"), served=True))
    with pytest.raises(OutcomeUnknown) as unknown:
        connect(max_retries=0).decide(credit, "application:42", inputs={"amount": 1})
    again = connect().decide(
        credit,
        "application:42",
        inputs={"amount": 1},
        idempotency_key=unknown.value.idempotency_key,
    )
    assert again.replayed


def test_a_decision_that_stands_is_told(cf: Counterfoil, credit: str) -> None:
    first = cf.decide(credit, "application:42", inputs={"amount": 1})
    with pytest.raises(DecisionStands) as standing:
        cf.decide(credit, "application:42", inputs={"amount": 2})
    assert (standing.value.decision, standing.value.decision_id) == (first, first.id)
    copied = pickle.loads(pickle.dumps(standing.value))  # noqa: S301 - our own, made on this line
    assert copied.decision == first


def test_a_decision_that_stands_and_was_erased_has_its_id_only(
    cf: Counterfoil, service: SimulatedDecisions
) -> None:
    answer = problem(409, "decision-stands", "One stands.", decision={"id": 58})
    service.faults.append(Fault(answer))
    with pytest.raises(DecisionStands) as standing:
        cf.decide("credit", "application:42")
    assert (standing.value.decision, standing.value.decision_id) == (None, 58)


@pytest.mark.parametrize("half", [{"supersedes": 3}, {"reason": "New pay slips."}])
def test_what_takes_a_place_says_why(
    cf: Counterfoil, service: SimulatedDecisions, half: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match="give both, or neither"):
        cf.decide("credit", "application:42", **half)
    assert service.received == []


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (problem(404, "policy-not-found", "No."), PolicyNotFound),
        (problem(404, "subject-without-events", "No."), SubjectWithoutEvents),
        (problem(409, "policy-not-active", "No."), PolicyNotActive),
        (problem(409, "condition-failed", "No.", head=9, conflicts=[]), ConditionFailed),
        (problem(422, "decision-inputs-refused", "No."), DecisionInputsRefused),
        (problem(422, "not-decided", "No."), NotDecided),
    ],
)
def test_what_cannot_be_decided_is_not_tried_again(
    cf: Counterfoil, service: SimulatedDecisions, answer: httpx2.Response, kind: type[Exception]
) -> None:
    service.faults.append(Fault(answer))
    with pytest.raises(kind):
        cf.decide("credit", "application:42")
    assert len(service.received) == 1


def test_an_input_that_is_missing_is_named(cf: Counterfoil, credit: str) -> None:
    with pytest.raises(DecisionInputsRefused, match="It is missing") as refused:
        cf.decide(credit, "application:42")
    assert refused.value.errors[0].pointer == "/inputs/amount"


# --- Looking at decisions ---------------------------------------------------------------


def test_decisions_are_listed_through_all_pages_by_policy_and_subject(
    cf: Counterfoil, service: SimulatedDecisions, credit: str
) -> None:
    ids = [cf.decide(credit, f"application:{n}", inputs={"amount": n}).id for n in range(5)]
    service.received.clear()

    assert [one.id for one in cf.decisions.list(limit=2)] == ids
    assert [dict(one.parameters) for one in service.received] == [
        {"order": "asc", "limit": "2"},
        {"order": "asc", "limit": "2", "cursor": "2"},
        {"order": "asc", "limit": "2", "cursor": "4"},
    ]
    assert [one.id for one in cf.decisions.list(policy=credit, order="desc")] == ids[::-1]
    (third,) = cf.decisions.list(policy=credit, subject="application:2")
    assert dict(service.received[-1].parameters) == {
        "policy": "credit",
        "subject": "application:2",
        "order": "asc",
        "limit": "100",
    }
    assert (third.id, third.state) == (ids[2], None)
    assert list(cf.decisions.list(policy="another")) == []


def test_a_decision_is_replayed_and_nothing_is_written(
    cf: Counterfoil, service: SimulatedDecisions, credit: str
) -> None:
    decision = cf.decide(credit, "application:42", inputs={"amount": 5_000})
    replay = cf.decisions.replay(decision)
    assert service.received[-1].path == f"/decisions/{decision.id}/replay"
    assert "Idempotency-Key" not in service.received[-1].headers
    assert sent(service) == {}
    assert (replay.decision, replay.identical, replay.differences) == (decision.id, True, ())
    assert (replay.version, replay.refused, replay.signals) == (1, None, "identical")
    assert replay.engine == Compared(recorded=ENGINE, now=ENGINE, changed=False)
    assert replay.recomputed is not None
    assert (replay.recomputed.outcome, replay.recomputed.reasons) == ("decline", ("A01",))
    assert replay.recomputed.matched == decision.matched

    service.differing[decision.id] = {
        "identical": False,
        "differences": [{"what": "outcome", "recorded": "decline", "recomputed": None}],
        "engine": {"recorded": ENGINE, "now": "zen-engine 3", "changed": True},
        "recomputed": None,
        "refused": "No row fits.",
        "signals": "differ",
    }
    other = cf.decisions.replay(decision.id, version=2)
    assert sent(service) == {"version": 2}
    assert (other.identical, other.version, other.refused) == (False, 2, "No row fits.")
    assert other.differences == (Difference(what="outcome", recorded="decline", recomputed=None),)
    assert (other.engine.changed, other.recomputed, other.signals) == (True, None, "differ")


def test_a_lost_replay_is_asked_again(
    cf: Counterfoil, service: SimulatedDecisions, credit: str
) -> None:
    decision = cf.decide(credit, "application:42", inputs={"amount": 1})
    service.faults.append(Fault(httpx2.ReadError("reset"), served=True))
    assert cf.decisions.replay(decision).identical


def test_a_decision_is_explained(cf: Counterfoil, credit: str) -> None:
    decision = cf.decide(credit, "application:42", inputs={"amount": AMOUNT})
    explanation = cf.decisions.explain(decision.id)
    assert explanation.decision == decision
    (signal,) = explanation.timeline
    assert (signal.id, signal.event_type, signal.inputs) == (1, "flagged", ("flags",))
    assert signal.age_seconds == Decimal("0.25")
    amount, flags = explanation.inputs
    assert (amount.name, amount.value, amount.origin) == ("amount", AMOUNT, "request")
    assert (flags.origin, flags.take, flags.events) == ("book", "count", (1, 2))
    (row,) = explanation.rows
    assert [(one.field, one.condition) for one in row.conditions] == [("amount", "> 1000")]
    assert (row.table, row.row, row.rule, row.gives) == (
        *("decide", 2, "r1", {"outcome": '"decline"'}),
    )
    assert explanation.text.startswith(f"Decision {decision.id}\n")


def test_a_decision_that_is_not_there_is_not_found(cf: Counterfoil) -> None:
    for ask in (cf.decisions.get, cf.decisions.replay, cf.decisions.explain):
        with pytest.raises(DecisionNotFound):
            ask(99)


@pytest.mark.parametrize("broken", [{"id": "3"}, {"reasons": {}}, {"signals": {"flags": ["1"]}}])
def test_an_answer_of_another_shape_is_no_decision(
    cf: Counterfoil, service: SimulatedDecisions, credit: str, broken: dict[str, Any]
) -> None:
    decision = cf.decide(credit, "application:42", inputs={"amount": 1})
    service.decisions[decision.id] |= broken
    with pytest.raises(UnexpectedAnswer):
        cf.decisions.get(decision)
