"""The brake: what is frozen, what is refused meanwhile, and how it is let go."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.problems import assert_problem
from tests.support.cluster import Cluster
from tests.support.keys import BOOTSTRAP, Holder, holder_of
from tests.support.service import Service, running_service
from tests.support.waiting import wait_for

REASON = "Account takeover is suspected."
TAG = "customer:cust_1"


@pytest.fixture(scope="module")
def service(cluster: Cluster) -> Iterator[Service]:
    with (
        cluster.database() as database,
        running_service(database.url, api_key=BOOTSTRAP) as running,
    ):
        yield running


@pytest.fixture
def admin(service: Service, request: pytest.FixtureRequest) -> Iterator[Holder]:
    with holder_of(service) as operator:
        yield operator.tenant(request.node.name)


@pytest.fixture
def agent(admin: Holder) -> Holder:
    return admin.made(kind="agent", name="fraud_agent")


def freeze(holder: Holder, **what: Any) -> dict[str, Any]:
    answer = holder.post("/freezes", {"reason": REASON, **what})
    assert answer.status_code == 201, answer.text
    frozen: dict[str, Any] = answer.json()
    assert answer.headers["Location"] == f"/freezes/{frozen['id']}"
    return frozen


@pytest.mark.parametrize(
    ("what", "subject", "sentence"),
    [
        ({"tag": TAG}, TAG, f"The tag `{TAG}` is frozen"),
        ({"agent": "fraud_agent"}, "fraud_agent", "The agent `fraud_agent` is frozen"),
        ({"book": True}, None, "The whole book is frozen"),
    ],
    ids=["tag", "agent", "book"],
)
def test_nothing_is_written_about_what_is_frozen_until_it_is_thawed(
    admin: Holder, agent: Holder, what: Any, subject: str | None, sentence: str
) -> None:
    frozen = freeze(admin, **what)
    head = agent.head()

    refused = agent.append("fraud_agent", payload={"customer_id": "cust_1"})

    document = assert_problem(refused, 423, "frozen")
    assert document["detail"].startswith(sentence)
    assert REASON in document["detail"]
    assert document["freeze"] == frozen
    assert (frozen["subject"], frozen["frozen_by"]) == (subject, "admin:admin")
    assert agent.head() == head
    assert agent.get("/freezes").json() == {"freezes": [frozen]}
    assert agent.get(f"/freezes/{frozen['id']}").json() == frozen

    thawed = admin.post(f"/freezes/{frozen['id']}/thaw", {"reason": "All is well."})
    assert thawed.status_code == 200, thawed.text
    assert thawed.json() | frozen == thawed.json()
    assert (thawed.json()["thawed_by"], thawed.json()["event_id"]) == ("admin:admin", head + 1)
    assert agent.append("fraud_agent", payload={"customer_id": "cust_1"}).status_code == 201
    assert_problem(agent.get(f"/freezes/{frozen['id']}"), 404, "freeze-not-found")


def test_what_is_not_frozen_goes_on(admin: Holder, agent: Holder) -> None:
    freeze(admin, tag=TAG)
    freeze(admin, agent="other_agent")
    assert agent.append("fraud_agent", payload={"customer_id": "cust_2"}).status_code == 201
    assert agent.get("/events", params={"tag": TAG}).status_code == 200


def test_freezing_and_thawing_are_events_about_the_thing(admin: Holder, agent: Holder) -> None:
    frozen = freeze(admin, tag=TAG)
    admin.post(f"/freezes/{frozen['id']}/thaw", {"reason": "All is well."})
    told = agent.get("/events", params={"tag": TAG}).json()["events"]
    assert [event["event_type"] for event in told] == ["counterfoil.frozen", "counterfoil.thawed"]
    assert told[0]["payload"]["reason"] == REASON
    assert told[1]["payload"]["thawed_because"] == "All is well."


def test_two_freezes_of_one_thing_are_thawed_one_by_one(admin: Holder, agent: Holder) -> None:
    first, second = freeze(admin, tag=TAG), freeze(admin, tag=TAG, reason="A court order.")
    admin.post(f"/freezes/{first['id']}/thaw", {"reason": "Settled."})
    refused = agent.append("fraud_agent", payload={"customer_id": "cust_1"})
    assert assert_problem(refused, 423, "frozen")["freeze"] == second


def test_a_freeze_ends_by_itself(admin: Holder, agent: Holder) -> None:
    past = admin.post("/freezes", {"book": True, "reason": REASON, "until": "2020-01-01T00:00:00Z"})
    assert_problem(past, 422, "invalid-input", "/until")
    now = admin.append("admin")  # refused, and so tells nothing but the time
    assert now.status_code == 403
    from datetime import UTC, datetime, timedelta

    until = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    freeze(admin, book=True, until=until)
    assert agent.append("fraud_agent").status_code == 423
    wait_for(lambda: agent.append("fraud_agent").status_code == 201, "the freeze to end")
    assert agent.get("/freezes").json() == {"freezes": []}


def test_a_frozen_book_can_still_be_managed(admin: Holder, agent: Holder) -> None:
    """Keys are made and revoked, and it is thawed: these are the service's own events."""
    frozen = freeze(admin, book=True)
    made = admin.made(kind="agent", name="late")
    assert admin.post(f"/keys/{made.key_id}/revoke", {"reason": REASON}).status_code == 200
    assert admin.post(f"/freezes/{frozen['id']}/thaw", {"reason": "On."}).status_code == 200
    assert agent.append("fraud_agent").status_code == 201


@pytest.mark.promise("P5")
def test_what_was_written_before_is_answered_again_while_it_is_frozen(
    admin: Holder, agent: Holder
) -> None:
    key = {"Idempotency-Key": "k"}
    event = {"agent_name": "fraud_agent", "event_type": "t", "payload": {"customer_id": "cust_1"}}
    first = agent.post("/events", event, headers=key)
    freeze(admin, tag=TAG)
    again = agent.post("/events", event, headers=key)
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["Idempotent-Replayed"] == "true"


@pytest.mark.promise("P5")
def test_freezing_and_thawing_once(admin: Holder, agent: Holder) -> None:
    key = {"Idempotency-Key": "k"}
    body = {"tag": TAG, "reason": REASON}
    one, two = (admin.post("/freezes", body, headers=key) for _ in range(2))
    assert (two.status_code, two.json()) == (201, one.json())
    assert len(agent.get("/freezes").json()["freezes"]) == 1
    path = f"/freezes/{one.json()['id']}/thaw"
    first, again = (
        admin.post(path, {"reason": "On."}, headers={"Idempotency-Key": "k2"}) for _ in range(2)
    )
    assert (again.status_code, again.json()) == (200, first.json())
    assert again.headers["Idempotent-Replayed"] == "true"
    assert_problem(admin.post(path, {"reason": "On."}), 404, "freeze-not-found")


@pytest.mark.parametrize(
    "body",
    [{}, {"tag": TAG, "agent": "a"}, {"tag": TAG, "book": True}, {"book": False}, {"tag": "x"}],
)
def test_a_freeze_of_nothing_or_of_two_things_is_refused(admin: Holder, body: Any) -> None:
    refused = admin.post("/freezes", {"reason": REASON, **body})
    assert_problem(refused, 422, "invalid-input")


def test_a_person_with_the_scope_may_brake_and_others_may_not(admin: Holder, agent: Holder) -> None:
    person = admin.made(kind="person", name="m.ito", scopes=["read:*", "manage:brake"])
    frozen = freeze(person, tag=TAG)
    assert frozen["frozen_by"] == "person:m.ito"
    refused = agent.post("/freezes", {"tag": TAG, "reason": REASON})
    assert assert_problem(refused, 403, "scope-missing")["scope"] == "manage:brake"
    thaw = agent.post(f"/freezes/{frozen['id']}/thaw", {"reason": "I would."})
    assert_problem(thaw, 403, "scope-missing")
