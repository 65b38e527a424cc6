"""Consumers are made, looked at, changed, led elsewhere and deleted; each is an event."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.contract.problems import assert_problem
from tests.support.cluster import Cluster
from tests.support.consumers import QUERY, Consumer, note
from tests.support.keys import BOOTSTRAP, Holder, holder_of
from tests.support.service import Service, running_service

pytestmark = pytest.mark.promise("P8")

JSON = {"Content-Type": "application/json"}

REASON = "The model is being replaced."

DEFAULTS = {
    "query": QUERY,
    "start": "beginning",
    "lease_seconds": 60,
    "attempts_max": 10,
    "backoff": {"initial_seconds": 1, "factor": 2, "max_seconds": 300},
    "order_by": None,
    "in_flight_max": None,
    "dead_letters": "pass",
}

OTHERS = {
    "query": [{"types": ["noted"], "tags": ["customer:c"]}, {"agents": ["a"]}],
    "start": {"after": 1},
    "lease_seconds": 43_200,
    "attempts_max": 100,
    "backoff": {"initial_seconds": 0.125, "factor": 1.5, "max_seconds": 86_400},
    "order_by": "customer",
    "in_flight_max": 10_000,
    "dead_letters": "hold",
}


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
        tenant = operator.tenant(request.node.name)
        yield tenant.made(kind="person", name="keeper", scopes=["manage:*", "read:*"])


@pytest.fixture
def agent(admin: Holder) -> Holder:
    return admin.made(kind="agent", name="worker")


@pytest.fixture
def scorer(admin: Holder) -> Consumer:
    return Consumer(admin).made()


def told(holder: Holder, what: str) -> list[dict[str, Any]]:
    """The payloads of the service's own events of this kind about the consumer."""
    asked = {"type": f"counterfoil.{what}", "tag": "consumer:scorer"}
    return [event["payload"] for event in holder.get("/events", params=asked).json()["events"]]


# --- Made and changed -------------------------------------------------------------


@pytest.mark.parametrize("asked", [{}, OTHERS], ids=["defaults", "others"])
def test_a_consumer_is_made_as_it_is_asked_for(
    admin: Holder, agent: Holder, asked: dict[str, Any]
) -> None:
    note(agent, 2)
    answer = Consumer(admin).put(**asked)
    assert (answer.status_code, answer.headers["Location"]) == (201, "/consumers/scorer")
    state = answer.json()
    assert state == Consumer(agent).state() | {"lag": state["lag"]}
    assert {name: state[name] for name in DEFAULTS} == DEFAULTS | asked
    assert (state["status"], state["created_by"]) == ("running", "person:keeper")
    assert state["event_id"] == state["head"] == admin.head()
    assert (state["in_flight"], state["waiting"], state["set_aside"]) == (0, 0, 0)
    (payload,) = told(agent, "consumer_created")
    assert (payload["name"], payload["query"], payload["by"]) == (
        "scorer",
        state["query"],
        "person:keeper",
    )


def test_a_put_is_the_whole_consumer(admin: Holder) -> None:
    scorer = Consumer(admin).made(lease_seconds=5, attempts_max=2, dead_letters="hold")
    head = admin.head()
    same = scorer.put(lease_seconds=5, attempts_max=2, dead_letters="hold")
    assert (same.status_code, admin.head()) == (200, head), "nothing is written"
    assert "Location" not in same.headers
    changed = scorer.put()
    assert changed.status_code == 200
    assert {name: changed.json()[name] for name in DEFAULTS} == DEFAULTS
    assert changed.json()["event_id"] == head + 1
    (payload,) = told(admin.made(kind="agent", name="a"), "consumer_changed")
    assert payload["lease_seconds"] == 60


@pytest.mark.promise("P5")
def test_a_put_whose_answer_was_lost_is_answered_again(admin: Holder) -> None:
    scorer = Consumer(admin)
    first = scorer.put(key="k")
    again = scorer.put(key="k")
    assert (first.status_code, again.status_code) == (201, 201), again.text
    assert again.json() == first.json()
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["Location"] == first.headers["Location"]
    assert_problem(scorer.put(key="k", lease_seconds=5), 422, "idempotency-mismatch")
    assert scorer.put(key="k2", lease_seconds=5).status_code == 200
    changed = scorer.put(key="k2", lease_seconds=5)
    assert (changed.status_code, changed.headers["Idempotent-Replayed"]) == (200, "true")
    assert "Location" not in changed.headers


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"query": [{"types": ["other"]}]}, "/query"),
        ({"start": "now"}, "/start"),
        ({"order_by": "customer"}, "/order_by"),
    ],
    ids=["query", "start", "order_by"],
)
def test_what_has_begun_keeps_what_it_began_with(
    *, admin: Holder, agent: Holder, scorer: Consumer, change: Any, pointer: str
) -> None:
    assert scorer.put(**change).status_code == 200, "it has not begun"
    assert scorer.put().status_code == 200
    note(agent)
    scorer.by(agent).delivered()
    head = admin.head()
    refused = assert_problem(scorer.put(**change), 409, "consumer-started", pointer)
    assert len(refused["errors"]) == 1
    assert admin.head() == head
    by_name = scorer.put(**change, change_query=True)
    if pointer == "/query":
        assert (by_name.status_code, by_name.json()["query"]) == (200, change["query"])
    else:
        assert_problem(by_name, 409, "consumer-started", pointer)


@pytest.mark.promise("P13")
@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"query": None}, "/query"),
        ({"query": []}, "/query"),
        ({"query": [{}]}, "/query/0"),
        ({"query": [{"types": ["t"]}] * 101}, "/query"),
        ({"query": [{"types": ["t"], "payload": {}}]}, "/query/0/payload"),
        ({"start": "later"}, "/start"),
        ({"start": {"after": -1}}, "/start"),
        ({"start": {"after": 2**63}}, "/start"),
        ({"start": {"time": "2026-01-01T00:00:00Z"}}, "/start"),
        ({"start": None}, "/start"),
        ({"lease_seconds": 0}, "/lease_seconds"),
        ({"lease_seconds": 43_201}, "/lease_seconds"),
        ({"lease_seconds": 1.5}, "/lease_seconds"),
        ({"lease_seconds": True}, "/lease_seconds"),
        ({"attempts_max": 0}, "/attempts_max"),
        ({"attempts_max": 101}, "/attempts_max"),
        ({"backoff": []}, "/backoff"),
        ({"backoff": {"initial_seconds": -1}}, "/backoff/initial_seconds"),
        ({"backoff": {"factor": 0.5}}, "/backoff/factor"),
        ({"backoff": {"factor": 1.0001}}, "/backoff/factor"),
        ({"backoff": {"max_seconds": 86_401}}, "/backoff/max_seconds"),
        ({"backoff": {"jitter": 1}}, "/backoff/jitter"),
        ({"order_by": "a:b"}, "/order_by"),
        ({"order_by": ""}, "/order_by"),
        ({"order_by": "k" * 65}, "/order_by"),
        ({"in_flight_max": 0}, "/in_flight_max"),
        ({"in_flight_max": 10_001}, "/in_flight_max"),
        ({"dead_letters": "drop"}, "/dead_letters"),
        ({"change_query": "yes"}, "/change_query"),
        ({"name": "x"}, "/name"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_no_consumer_can_be(admin: Holder, body: dict[str, Any], pointer: str) -> None:
    head = admin.head()
    assert_problem(Consumer(admin).put(**body), 422, "invalid-input", pointer)
    assert admin.head() == head
    assert_problem(admin.get("/consumers/scorer"), 404, "consumer-not-found")


@pytest.mark.promise("P13")
@pytest.mark.parametrize("name", ["Scorer", "-a", ".a", "a" * 65, "%C3%A9", "a%20b", "a%00"])
def test_what_no_consumer_can_be_called(admin: Holder, name: str) -> None:
    for answer in (
        admin.get(f"/consumers/{name}"),
        admin.ask("PUT", f"/consumers/{name}", json={"query": QUERY}),
    ):
        assert_problem(answer, 422, "invalid-input", "/name", "path")
    assert Consumer(admin, "0a._-" + "z" * 59).put().status_code == 201


@pytest.mark.promise("P13")
def test_bodies_that_are_none(admin: Holder, agent: Holder, scorer: Consumer) -> None:
    for body in (b"", b"[]", b"{", b'{"query": 1, "query": 2}', b"\xff", b"null", b"[" * 100_000):
        for method, holder, path in (
            ("PUT", admin, "/consumers/scorer"),
            ("POST", admin, "/consumers/scorer/pause"),
            ("POST", agent, "/consumers/scorer/claim"),
            ("POST", agent, "/consumers/scorer/ack"),
        ):
            answer = holder.ask(method, path, content=body, headers=JSON)
            assert answer.status_code in {400, 422}, (path, body[:10], answer.text)
            assert_problem(answer, answer.status_code)
    huge = agent.ask(
        "POST", "/consumers/scorer/claim", content=b'{"holder": "h"}' + b" " * 2**18, headers=JSON
    )
    assert_problem(huge, 413)
    assert scorer.state()["status"] == "running"


def test_it_begins_no_further_than_the_book_goes(admin: Holder, scorer: Consumer) -> None:
    head = admin.head()
    beyond = {"after": head + 1}
    assert_problem(Consumer(admin, "b").put(start=beyond), 422, "after-above-head", "/start/after")
    refused = scorer.call("seek", to=beyond, reason=REASON)
    assert_problem(refused, 422, "after-above-head", "/to/after")
    assert admin.head() == head


# --- Lists ------------------------------------------------------------------------


def test_consumers_are_listed_by_their_names_in_pages(admin: Holder, agent: Holder) -> None:
    names = ["a", "b-2", "b.1", "c_", "d"]
    for name in reversed(names):
        Consumer(admin, name).made()
    shown, cursor = [], None
    while True:
        asked = {"limit": 2} | ({} if cursor is None else {"cursor": cursor})
        page = agent.get("/consumers", params=asked).json()
        assert len(page["consumers"]) <= 2
        shown += page["consumers"]
        cursor = page["next"]
        if cursor is None:
            break
    assert [one["name"] for one in shown] == sorted(names)
    assert shown[0] == Consumer(agent, "a").state()
    for cursor in ("x", "!!", "QQ=="):
        answer = agent.get("/consumers", params={"cursor": cursor})
        assert_problem(answer, 422, "invalid-input", "/cursor", "query")
    assert_problem(agent.get("/consumers", params={"limit": 0}), 422, "invalid-input")


@pytest.mark.promise("P7")
def test_each_tenant_has_its_own(admin: Holder, scorer: Consumer, service: Service) -> None:
    with holder_of(service) as operator:
        other = operator.tenant(f"another-{scorer.state()['event_id']}-{admin.key_id}")
        assert other.get("/consumers").json() == {"consumers": [], "next": None}
        assert_problem(other.get("/consumers/scorer"), 404, "consumer-not-found")
        for what in ("pause", "resume"):
            answer = Consumer(other).call(what, reason=REASON)
            assert_problem(answer, 404, "consumer-not-found")
        assert_problem(Consumer(other).delete(), 404, "consumer-not-found")
        assert Consumer(other).put().status_code == 201
        assert Consumer(other).delete().status_code == 200
    assert scorer.state()["status"] == "running"


@pytest.mark.promise("P7")
def test_only_who_manages_consumers_changes_them(
    admin: Holder, agent: Holder, scorer: Consumer
) -> None:
    clerk = admin.made(kind="person", name="clerk", scopes=["manage:keys", "read:*", "consume:*"])
    for holder in (agent, clerk):
        mine = scorer.by(holder)
        for answer in (
            mine.put(lease_seconds=5),
            mine.call("pause", reason=REASON),
            mine.call("resume", reason=REASON),
            mine.call("seek", to="now", reason=REASON),
            mine.call("dead-letters/replay", all=True),
            mine.call("dead-letters/drop", all=True, reason=REASON),
            mine.delete(),
        ):
            refused = assert_problem(answer, 403, "scope-missing")
            assert refused["scope"] == "manage:consumers"
        assert mine.state() == scorer.state()
    keeper = admin.made(kind="person", name="keeper", scopes=["manage:consumers"])
    assert scorer.by(keeper).put(lease_seconds=5).status_code == 200


# --- How it stands ----------------------------------------------------------------


def test_how_it_stands(admin: Holder, agent: Holder) -> None:
    scorer = Consumer(admin).made(order_by="customer", attempts_max=1)
    worker = scorer.by(agent)
    ids = note(agent, 3, "customer:c") + note(agent, 3)
    agent.append("worker", "other")
    state = scorer.state()
    assert (state["lag"]["events"], state["lag"]["at_least"]) == (6, False)
    assert state["lag"]["seconds"] >= 0
    assert (state["position"], state["waiting"]) == (0, 0)

    held = worker.tokens(4)
    assert worker.claim().json()["deliveries"] == [], "two wait behind the first of their key"
    state = scorer.state()
    assert (state["in_flight"], state["waiting"], state["lag"]["events"]) == (4, 2, 6)
    assert state["position"] == admin.head() == state["head"]
    worker.call("ack", tokens=held[1:])
    worker.call("set-aside", tokens=held[:1], reason="No.")
    state = scorer.state()
    assert (state["in_flight"], state["waiting"], state["set_aside"]) == (0, 2, 1)
    assert state["lag"]["events"] == 2
    assert worker.delivered()[0]["event"]["id"] == ids[1]


# --- Paused, led elsewhere, deleted -----------------------------------------------


@pytest.mark.promise("P5")
def test_what_is_paused_hands_out_nothing(admin: Holder, agent: Holder, scorer: Consumer) -> None:
    worker = scorer.by(agent)
    note(agent, 2)
    (held,) = worker.tokens()
    head = admin.head()
    paused = scorer.call("pause", key="k", reason=REASON)
    assert (paused.status_code, paused.json()["status"]) == (200, "paused")
    assert paused.json()["event_id"] == head + 1
    again = scorer.call("pause", key="k", reason=REASON)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert scorer.call("pause", reason="Another.").status_code == 200
    assert admin.head() == head + 1, "it was so already"
    assert worker.claim().json() == {"deliveries": [], "status": "paused"}
    assert worker.call("ack", tokens=[held]).status_code == 200, "what is held stays held"
    assert told(agent, "consumer_paused") == [
        {"name": "scorer", "reason": REASON, "by": "person:keeper"}
    ]
    assert scorer.call("resume", reason="On.").json()["status"] == "running"
    assert scorer.call("resume", reason="On.").status_code == 200
    assert len(told(agent, "consumer_resumed")) == 1
    worker.delivered()


@pytest.mark.parametrize("to", ["beginning", "now", "after", "time"])
def test_a_seek_leads_it_elsewhere_and_ends_all_that_is_out(
    *, agent: Holder, scorer: Consumer, to: str
) -> None:
    worker = scorer.by(agent)
    ids = note(agent, 2)
    second = agent.get(f"/events/{ids[1]}").json()["created_at"]
    places: dict[str, Any] = {"after": {"after": ids[0]}, "time": {"time": second}}
    out = worker.tokens(2)
    answer = scorer.call("seek", to=places.get(to, to), reason=REASON)
    assert answer.status_code == 200, answer.text
    assert answer.json()["in_flight"] == 0
    for call in ("ack", "extend", "release"):
        assert_problem(worker.call(call, tokens=out), 409, "lease-lost")
    note(agent)
    expected = {"beginning": 3, "now": 1, "after": 2, "time": 2}[to]
    again = worker.delivered(expected)
    assert min(delivery["token"] for delivery in again) > max(out), "tokens grow over it"
    (payload,) = told(agent, "consumer_sought")
    assert payload == {
        "name": "scorer",
        "to": places.get(to, to),
        "reason": REASON,
        "by": "person:keeper",
    }


@pytest.mark.promise("P13")
@pytest.mark.parametrize(
    ("call", "body", "pointer"),
    [
        ("pause", {}, "/reason"),
        ("pause", {"reason": ""}, "/reason"),
        ("resume", {"reason": "x" * 501}, "/reason"),
        ("resume", {"reason": "two\nlines"}, "/reason"),
        ("seek", {"to": "now"}, "/reason"),
        ("seek", {"reason": REASON}, "/to"),
        ("seek", {"to": "then", "reason": REASON}, "/to"),
        ("seek", {"to": {"time": "yesterday"}, "reason": REASON}, "/to"),
        ("seek", {"to": {"after": 1, "time": "x"}, "reason": REASON}, "/to"),
        ("seek", {"to": None, "reason": REASON}, "/to"),
        ("pause", {"reason": REASON, "until": "x"}, "/until"),
    ],
)
def test_what_is_asked_of_it_in_vain(
    *, admin: Holder, scorer: Consumer, call: str, body: dict[str, Any], pointer: str
) -> None:
    head = admin.head()
    assert_problem(scorer.call(call, **body), 422, "invalid-input", pointer)
    assert admin.head() == head


@pytest.mark.promise("P5")
def test_what_is_deleted_is_gone_with_all_that_is_out(
    admin: Holder, agent: Holder, scorer: Consumer
) -> None:
    worker = scorer.by(agent)
    note(agent, 3)
    out = worker.tokens()
    gone = scorer.delete(key="k")
    head = admin.head()
    assert gone.json() == {
        "name": "scorer",
        "event_id": head,
        "deleted_at": gone.json()["deleted_at"],
        "deleted_by": "person:keeper",
        "unfinished": 3,
        "dead_letters": 0,
    }
    assert datetime.fromisoformat(gone.json()["deleted_at"]).tzinfo == UTC
    again = scorer.delete(key="k")
    assert (again.status_code, again.json()) == (200, gone.json())
    assert again.headers["Idempotent-Replayed"] == "true"
    assert_problem(scorer.delete(), 404, "consumer-not-found")
    assert_problem(scorer.delete(key="k2"), 404, "consumer-not-found")
    assert_problem(worker.call("ack", tokens=out), 404, "consumer-not-found")
    event = {"agent_name": "worker", "event_type": "scored", "payload": {}}
    refused = worker.call("ack", tokens=out, events=[event])
    assert_problem(refused, 404, "consumer-not-found")
    assert admin.head() == head
    scorer.made()
    again_out = worker.tokens(3)
    assert_problem(worker.call("ack", tokens=out), 409, "lease-lost")
    assert worker.call("ack", tokens=again_out).status_code == 200


def test_dead_letters_are_not_deleted_unasked(
    admin: Holder, agent: Holder, scorer: Consumer
) -> None:
    worker = scorer.by(agent)
    note(agent)
    worker.call("set-aside", tokens=worker.tokens(), reason="No.")
    head = admin.head()
    assert_problem(scorer.delete(), 409, "consumer-has-dead-letters")
    answer = scorer.delete(dead_letters="keep")
    assert_problem(answer, 422, "invalid-input", "/dead_letters", "query")
    assert admin.head() == head
    assert scorer.delete(dead_letters="drop").json()["dead_letters"] == 1
