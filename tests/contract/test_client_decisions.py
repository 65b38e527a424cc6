"""Both clients against the real service: policies, decisions, replays, explanations.

What the simulated service of the client's unit tests promises about them, the real one keeps.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from counterfoil import (
    Counterfoil,
    DecisionInputsRefused,
    DecisionNotFound,
    DecisionStands,
    FourEyes,
    Frozen,
    InvalidRequestError,
    NotDecided,
    PermissionDenied,
    PolicyNotActive,
    PolicyNotFound,
    PolicyRefused,
    SubjectWithoutEvents,
)
from tests.contract.conftest import KEY, Connect
from tests.support.cluster import Cluster
from tests.support.service import Service, running_service
from tests.unit.cli.policy_files import Policy, policy, rows_of, with_change

pytestmark = pytest.mark.promise("P9")


@dataclass(frozen=True)
class Office:
    """Clients of those who have to do with decisions, in a book of their own."""

    author: Counterfoil
    board: Counterfoil
    agent: Counterfoil
    admin: Counterfoil

    def in_force(self, document: Policy, name: str = "credit") -> int:
        """Let a policy decide; return its version."""
        version = self.author.policies.draft(name, document).version
        self.board.policies.activate(name, version, reason="A test.")
        return version

    def applicant(self, number: int, *, debt: Any = 10, income: Any = 100) -> str:
        """Let signals be there about an application; return its tag."""
        subject = f"application:{number}"
        for event_type, amount in (("debt_checked", debt), ("income_verified", income)):
            self.agent.events.append(
                agent_name="credit_agent",
                event_type=event_type,
                payload={"monthly_minor": amount},
                tags=subject,
            )
        return subject


@pytest.fixture(scope="module")
def service(cluster: Cluster) -> Iterator[Service]:
    """A service with a key. Each test has a tenant of its own in it."""
    with (
        cluster.database() as database,
        running_service(database.url, api_key=KEY) as started,
    ):
        yield started


@pytest.fixture
def office(connect: Connect, service: Service) -> Office:
    """Those who draft, activate and decide."""
    operator = connect(service, api_key=KEY)
    admin = connect(service, api_key=operator.tenants.create(f"tenant {uuid4()}").key.reveal())

    def client(**key: Any) -> Counterfoil:
        return connect(service, api_key=admin.keys.create(**key).reveal())

    manages = ["manage:policies", "read:*"]
    return Office(
        author=client(kind="person", name="ada", scopes=manages),
        board=client(kind="person", name="grace", scopes=manages),
        agent=client(
            kind="agent", name="credit_agent", scopes=["append:*", "read:*", "decide:credit*"]
        ),
        admin=admin,
    )


def amount_matters(document: Policy) -> None:
    """Let an amount come with the request, with its digits."""
    document["extra"] = ["amount"]
    document["inputs_schema"]["properties"]["amount"] = {"type": "number", "minimum": 0}
    document["inputs_schema"]["required"].append("amount")
    for example in document["examples"]:
        example["inputs"]["amount"] = 1


# --- Policies ---------------------------------------------------------------------------


def test_the_life_of_a_policy(office: Office) -> None:
    drafted = office.author.policies.draft("credit", policy())
    assert (drafted.version, drafted.state, drafted.changed) == (1, "draft", True)
    assert (drafted.drafted_by, drafted.policy, drafted.versions) == ("person:ada", policy(), (1,))
    again = office.author.policies.draft("credit", policy())
    assert (again.version, again.changed, again.digest) == (1, False, drafted.digest)
    with pytest.raises(PolicyNotActive):
        office.author.policies.get("credit")

    with pytest.raises(FourEyes):
        office.author.policies.activate("credit", 1, reason="It is good.")
    active = office.board.policies.activate("credit", 1, reason="Agreed.")
    assert (active.state, active.activated_by) == ("active", "person:grace")
    assert office.agent.policies.get("credit") == active
    assert office.board.policies.activate("credit", 1, reason="Again.") == active

    stricter = with_change(lambda p: rows_of(p)[0].update(c1="> 0.4"))
    assert office.in_force(stricter) == 2
    versions = office.agent.policies.versions("credit")
    assert [(each.version, each.state) for each in versions] == [(2, "active"), (1, "retired")]
    assert [each.policy for each in versions] == [None, None]
    assert office.agent.policies.get("credit", version=1).policy == policy()
    (summary,) = office.agent.policies.list()
    assert (summary.name, summary.active_version, summary.versions) == ("credit", 2, 2)

    retired = office.board.policies.retire("credit", reason="No more.")
    assert (retired.version, retired.state, retired.retired_by) == (2, "retired", "person:grace")
    with pytest.raises(PolicyNotActive):
        office.board.policies.retire("credit", reason="Again.")
    with pytest.raises(PolicyNotFound):
        office.agent.policies.get("credit", version=3)
    with pytest.raises(PolicyNotFound):
        office.agent.policies.versions("none")


def test_policies_are_listed_through_all_pages(office: Office) -> None:
    for nth in range(3):
        office.author.policies.draft(f"p{nth}", policy())
    assert [each.name for each in office.agent.policies.list(limit=1)] == ["p0", "p1", "p2"]


def test_a_policy_that_may_not_be_published_says_where(office: Office) -> None:
    with pytest.raises(PolicyRefused) as refused:
        office.author.policies.draft(
            "credit", with_change(lambda p: rows_of(p)[0].update(c1="> age"))
        )
    assert refused.value.errors[0].pointer == "/rules/nodes/2/content/rules/0/c1"
    with pytest.raises(PermissionDenied, match="manage:policies"):
        office.agent.policies.draft("credit", policy())


# --- Deciding ---------------------------------------------------------------------------


def test_the_life_of_a_decision(office: Office) -> None:
    office.in_force(with_change(amount_matters))
    subject = office.applicant(42, debt=90)
    amount = Decimal("12.50")
    asked: dict[str, Any] = {
        "inputs": {"amount": amount},
        "on_behalf_of": "j.doe",
        "idempotency_key": "application-42",
    }
    decision = office.agent.decide("credit", subject, explain=True, **asked)
    assert (decision.outcome, decision.kind) == ("decline", "decline")
    assert [reason.code for reason in decision.reasons] == ["D01"]
    assert decision.reasons[0].customer == "Your monthly debts are high for your income."
    assert decision.inputs["debt"] == 90
    assert (decision.inputs["amount"], decision.extra) == (amount, ("amount",))
    debt_id, income_id = decision.signals["debt"][0], decision.signals["income"][0]
    assert debt_id < income_id <= decision.head < decision.id
    assert decision.signals["flags"] == ()
    assert [(row.table, row.row, row.rule) for row in decision.matched] == [("decide", 1, "r1")]
    assert (decision.agent_name, decision.asked_by) == ("credit_agent", "agent:credit_agent")
    assert (decision.policy, decision.version, decision.on_behalf_of) == ("credit", 1, "j.doe")
    assert decision.explanation is not None
    assert decision.explanation.customer == ("Your monthly debts are high for your income.",)

    again = office.agent.decide("credit", subject, **asked)
    assert (again.id, again.replayed) == (decision.id, True)
    with pytest.raises(DecisionStands) as standing:
        office.agent.decide("credit", subject, inputs={"amount": 1})
    assert standing.value.decision_id == decision.id
    assert standing.value.decision is not None
    assert standing.value.decision.outcome == "decline"

    office.applicant(42, debt=20)
    second = office.agent.decide(
        "credit", subject, inputs={"amount": 1}, supersedes=decision, reason="New signals."
    )
    assert second.outcome == "approve"
    assert second.supersedes is not None
    assert (second.supersedes.decision, second.supersedes.reason) == (decision.id, "New signals.")
    before, after = office.agent.decisions.get(decision), office.agent.decisions.get(second.id)
    assert (before.state, before.superseded_by) == ("superseded", second.id)
    assert (after.state, after.superseded_by) == ("standing", None)
    with pytest.raises(DecisionStands):
        office.agent.decide(
            "credit", subject, inputs={"amount": 1}, supersedes=decision.id, reason="Again."
        )


def test_what_cannot_be_decided_is_refused_by_its_own_name(office: Office) -> None:
    with pytest.raises(PolicyNotFound):
        office.agent.decide("credit", "application:1")
    office.author.policies.draft("credit", policy())
    with pytest.raises(PolicyNotActive):
        office.agent.decide("credit", "application:1")
    office.board.policies.activate("credit", 1, reason="Agreed.")
    with pytest.raises(SubjectWithoutEvents):
        office.agent.decide("credit", "application:1")
    with pytest.raises(DecisionInputsRefused) as wrong:
        office.agent.decide("credit", office.applicant(2, debt="90"))
    assert wrong.value.errors[0].pointer == "/inputs/debt"
    with pytest.raises(DecisionInputsRefused) as unknown:
        office.agent.decide("credit", office.applicant(3), inputs={"age": 40})
    assert unknown.value.errors[0].pointer == "/inputs/age"
    with pytest.raises(PermissionDenied, match="decide:"):
        office.board.decide("credit", "application:2")
    with pytest.raises(InvalidRequestError):
        office.agent.decide("credit", "customer:1")
    frozen = office.applicant(4)
    office.admin.brake.freeze(tag=frozen, reason="A test.")
    with pytest.raises(Frozen):
        office.agent.decide("credit", frozen)
    assert list(office.agent.decisions.list()) == []


def test_rules_that_come_to_nothing_decide_nothing(office: Office) -> None:
    def without_the_last(document: Policy) -> None:
        declines, approves, _ = rows_of(document)
        rows_of(document)[:] = [approves, declines]

    office.in_force(with_change(without_the_last))
    subject = office.applicant(1)
    office.agent.events.append(
        agent_name="credit_agent", event_type="flagged", payload={}, tags=subject
    )
    with pytest.raises(NotDecided):
        office.agent.decide("credit", subject)


# --- Looking at decisions ---------------------------------------------------------------


def test_decisions_are_listed_by_policy_and_subject_through_all_pages(office: Office) -> None:
    office.in_force(policy())
    office.in_force(policy(), "credit-line")
    subjects = [office.applicant(number) for number in range(5)]
    ids = [office.agent.decide("credit", subject).id for subject in subjects]
    line = office.agent.decide("credit-line", subjects[0]).id

    listed = office.agent.decisions.list
    assert [each.id for each in listed(policy="credit", limit=2)] == ids
    assert [each.id for each in listed(policy="credit", order="desc", limit=2)] == ids[::-1]
    assert [each.id for each in listed(subject=subjects[0])] == [ids[0], line]
    assert [each.id for each in listed(policy="credit-line", subject=subjects[0])] == [line]
    assert [each.id for each in listed(limit=1)] == [*ids, line]
    assert next(iter(listed(order="desc"))).subject == subjects[0]


def test_a_decision_is_replayed_also_by_another_version(office: Office) -> None:
    office.in_force(policy())
    decision = office.agent.decide("credit", office.applicant(42, debt=45))
    office.in_force(with_change(lambda p: rows_of(p)[0].update(c1="> 0.4")))

    same = office.agent.decisions.replay(decision)
    assert (same.identical, same.differences, same.version) == (True, (), 1)
    assert (same.engine.changed, same.digest.changed, same.signals) == (False, False, "identical")
    assert same.recomputed is not None
    assert same.recomputed.matched == decision.matched

    other = office.agent.decisions.replay(decision.id, version=2)
    assert (other.identical, other.version) == (False, 2)
    assert other.recomputed is not None
    assert (other.recomputed.outcome, other.recomputed.reasons) == ("decline", ("D01",))
    assert {each.what for each in other.differences} == {"outcome", "reasons", "matched"}
    with pytest.raises(PolicyNotFound):
        office.agent.decisions.replay(decision, version=3)


def test_a_decision_is_explained(office: Office) -> None:
    office.in_force(with_change(amount_matters))
    subject = office.applicant(42, debt=90)
    decision = office.agent.decide("credit", subject, inputs={"amount": 7})
    explanation = office.agent.decisions.explain(decision)
    assert explanation.decision.id == decision.id
    assert [each.event_type for each in explanation.timeline] == ["debt_checked", "income_verified"]
    assert [each.inputs for each in explanation.timeline] == [("debt",), ("income",)]
    assert all((each.age_seconds or 0) >= 0 for each in explanation.timeline)
    by_name = {each.name: each for each in explanation.inputs}
    assert (by_name["debt"].origin, by_name["debt"].take) == ("book", "latest")
    assert (by_name["amount"].origin, by_name["amount"].value) == ("request", 7)
    (row,) = explanation.rows
    assert [(each.field, each.condition) for each in row.conditions] == [("ratio", "> 0.5")]
    assert row.gives == {"outcome": '"decline"', "reasons": '"D01"'}
    assert "Your monthly debts are high" in explanation.text


def test_a_decision_that_is_not_there_is_not_found(office: Office) -> None:
    noted = office.agent.events.append(agent_name="credit_agent", event_type="noted", payload={}).id
    for ask in (
        office.agent.decisions.get,
        office.agent.decisions.replay,
        office.agent.decisions.explain,
    ):
        for absent in (noted, 10**9):
            with pytest.raises(DecisionNotFound):
                ask(absent)
