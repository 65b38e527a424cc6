"""Policies: drafted, judged, put in force by somebody else, and never changed."""

from collections.abc import Iterator

import psycopg
import pytest

from tests.contract.problems import assert_problem
from tests.support.cluster import Cluster
from tests.support.decisions import POLICY, WHY, Office, policy, stricter, with_rows
from tests.support.keys import BOOTSTRAP, Holder, holder_of
from tests.support.service import Service, running_service

pytestmark = pytest.mark.promise("P9")


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
    return Office.of(admin)


def test_a_policy_is_drafted_activated_and_retired_and_each_is_an_event(office: Office) -> None:
    drafted = office.drafted()
    assert (drafted["version"], drafted["state"], drafted["drafted_by"]) == (
        1,
        "draft",
        "person:ada",
    )
    assert drafted["policy"] == policy()
    active = office.activated()
    assert (active["state"], active["activated_by"]) == ("active", "person:grace")
    assert active["digest"] == drafted["digest"]
    assert office.risk.get(f"/policies/{POLICY}").json() == active
    retired = office.approver.post(f"/policies/{POLICY}/retire", WHY).json()
    assert (retired["state"], retired["retired_by"]) == ("retired", "person:grace")
    told = office.approver.get("/events", params={"tag": f"policy:{POLICY}"}).json()["events"]
    assert [event["event_type"] for event in told] == [
        "counterfoil.policy_drafted",
        "counterfoil.policy_activated",
        "counterfoil.policy_retired",
    ]
    assert {event["payload"]["version"] for event in told} == {1}
    assert told[0]["payload"]["digest"] == told[1]["payload"]["digest"] == drafted["digest"]
    assert_problem(office.risk.get(f"/policies/{POLICY}"), 409, "policy-not-active")


def test_the_same_policy_again_is_no_new_version(office: Office) -> None:
    first = office.drafted()
    reordered = dict(reversed(policy().items()))
    again = office.author.post(f"/policies/{POLICY}/drafts", reordered)
    assert again.status_code == 200
    assert again.json() == first
    assert office.drafted(stricter())["versions"] == [1, 2]


def test_one_version_is_in_force_and_an_earlier_one_can_be_again(office: Office) -> None:
    office.in_force()
    office.in_force(stricter())
    listed = office.risk.get(f"/policies/{POLICY}/versions").json()["versions"]
    assert [(one["version"], one["state"]) for one in listed] == [(2, "active"), (1, "retired")]
    back = office.activated(1)
    assert (back["version"], back["state"], back["retired_by"]) == (1, "active", None)
    summary = office.risk.get("/policies").json()["policies"]
    assert [(one["name"], one["active_version"], one["versions"]) for one in summary] == [
        (POLICY, 1, 2)
    ]
    assert summary[0]["digest"] == back["digest"]


def test_activating_what_is_active_changes_nothing(office: Office) -> None:
    office.in_force()
    head = office.approver.head()
    office.activated(1)
    assert office.approver.head() == head


def test_the_author_cannot_activate_their_own_draft(office: Office, admin: Holder) -> None:
    office.drafted()
    path = f"/policies/{POLICY}/versions/1/activate"
    assert_problem(office.author.post(path, WHY), 409, "four-eyes")
    # Neither with another kind of key under the same name.
    other = admin.made(kind="admin", name="ada", scopes=["manage:policies"])
    assert_problem(other.post(path, WHY), 409, "four-eyes")
    assert_problem(office.risk.get(f"/policies/{POLICY}"), 409, "policy-not-active")


def test_what_a_version_says_cannot_be_changed_in_the_database(
    office: Office, database_url: str
) -> None:
    office.in_force()
    office.in_force(stricter())
    for change in (
        "update counterfoil.policies set document = '{}', digest = sha256('{}') where version = 1",
        "update counterfoil.policies set drafted_by = 'person:nobody'",
        "update counterfoil.policies set version = 7 where version = 1",
        "delete from counterfoil.policies",
        "truncate counterfoil.policies",
    ):
        with (
            psycopg.connect(database_url, autocommit=True) as owner,
            pytest.raises(psycopg.errors.RestrictViolation),
        ):
            owner.execute(change)


def test_the_table_itself_holds_four_eyes_and_one_version_in_force(
    office: Office, database_url: str
) -> None:
    office.in_force(name="of-the-table")
    office.drafted(stricter(), "of-the-table")
    activate = (
        "update counterfoil.policies set state = 'active', activated_at = now(), activated_by = %s "
        "where version = 2 and name = 'of-the-table'"
    )
    with psycopg.connect(database_url, autocommit=True) as owner:
        for by in ("person:ada", "admin:ada"):
            with pytest.raises(psycopg.errors.CheckViolation, match="activated_by_another"):
                owner.execute(activate, [by])
        with pytest.raises(psycopg.errors.UniqueViolation, match="policies_in_force"):
            owner.execute(activate, ["person:grace"])


def test_a_policy_with_faults_is_not_drafted_and_all_are_told(office: Office) -> None:
    faulty = with_rows(
        {"_id": "1", "ratio": "> 0.5", "outcome": '"decline"', "reasons": ""},
        {"_id": "2", "ratio": "< 0.1", "outcome": '"refuse"', "reasons": ""},
        {"_id": "3", "ratio": "", "outcome": '"approve"', "reasons": ""},
    )
    faulty["forbidden_inputs"] = ["nationality"]
    answer = office.author.post(f"/policies/{POLICY}/drafts", faulty)
    problem = assert_problem(answer, 422, "policy-refused")
    where = {one["pointer"]: one["message"] for one in problem["errors"]}
    rows = "/rules/nodes/2/content/rules"
    assert "specific reason" in where[f"{rows}/0"]
    assert "`approve`" in where[f"{rows}/1/outcome"]
    assert "approve a guess" in where[f"{rows}/2"]
    assert_problem(office.risk.get(f"/policies/{POLICY}"), 404, "policy-not-found")


@pytest.mark.promise("P5")
def test_a_draft_under_a_key_is_made_once(office: Office) -> None:
    headers = {"Idempotency-Key": "draft-1"}
    first = office.author.post(f"/policies/{POLICY}/drafts", policy(), headers=headers)
    office.drafted(stricter())
    again = office.author.post(f"/policies/{POLICY}/drafts", policy(), headers=headers)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json()["version"] == 1
    other = office.author.post(f"/policies/{POLICY}/drafts", stricter("0.45"), headers=headers)
    assert_problem(other, 422, "idempotency-mismatch")
    assert again.json()["digest"] == first.json()["digest"]


@pytest.mark.promise("P5")
def test_an_activation_under_a_key_is_answered_again_after_another_was_activated(
    office: Office,
) -> None:
    office.drafted()
    path, headers = f"/policies/{POLICY}/versions/1/activate", {"Idempotency-Key": "go"}
    assert office.approver.post(path, WHY, headers=headers).json()["state"] == "active"
    office.in_force(stricter())
    again = office.approver.post(path, WHY, headers=headers)
    assert again.headers["Idempotent-Replayed"] == "true"
    # What was done is not done again: it tells how that version stands today.
    assert again.json()["state"] == "retired"
    assert office.risk.get(f"/policies/{POLICY}").json()["version"] == 2


@pytest.mark.promise("P7")
def test_policies_are_managed_by_those_who_may_and_seen_by_their_tenant_only(
    office: Office, service: Service
) -> None:
    office.in_force()
    assert_problem(office.risk.post(f"/policies/{POLICY}/drafts", policy()), 403, "scope-missing")
    with holder_of(service) as operator:
        rival = Office.of(operator.tenant(f"rival of {office.author.key_id}"))
        assert_problem(rival.risk.get(f"/policies/{POLICY}"), 404, "policy-not-found")
        assert rival.risk.get("/policies").json()["policies"] == []


@pytest.mark.parametrize(
    ("path", "status", "problem"),
    [
        ("/policies/Credit", 422, "invalid-input"),
        pytest.param(f"/policies/{'a' * 65}", 422, "invalid-input", id="a name that is too long"),
        ("/policies/nothing", 404, "policy-not-found"),
        ("/policies/nothing/versions", 404, "policy-not-found"),
        ("/policies/nothing?version=0", 422, "invalid-input"),
        ("/policies/nothing?version=1", 404, "policy-not-found"),
        ("/policies?cursor=x", 422, "invalid-input"),
    ],
)
def test_what_is_no_policy_is_told_apart(
    office: Office, path: str, status: int, problem: str
) -> None:
    assert_problem(office.risk.get(path), status, problem)


@pytest.mark.parametrize(
    ("path", "status", "problem"),
    [
        ("/policies/nothing/versions/1/activate", 404, "policy-not-found"),
        ("/policies/nothing/versions/0/activate", 422, "invalid-input"),
        ("/policies/nothing/versions/x/activate", 422, "invalid-input"),
        ("/policies/nothing/retire", 404, "policy-not-found"),
    ],
)
def test_what_is_no_policy_cannot_be_changed(
    office: Office, path: str, status: int, problem: str
) -> None:
    assert_problem(office.approver.post(path, WHY), status, problem)
    assert_problem(office.approver.post(path, {"reason": ""}), 422, "invalid-input")


def test_a_draft_can_neither_be_retired_nor_decide(office: Office) -> None:
    office.drafted()
    office.known()
    assert_problem(
        office.approver.post(f"/policies/{POLICY}/retire", WHY), 409, "policy-not-active"
    )
    assert_problem(office.asked(), 409, "policy-not-active")
