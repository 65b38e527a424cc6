"""Work that is handed over: claims, acknowledgements, extensions, and what is given back."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, NamedTuple

import httpx2
import pytest

from tests.contract.problems import assert_problem
from tests.support.cluster import Cluster
from tests.support.consumers import Consumer, note
from tests.support.keys import BOOTSTRAP, Holder, holder_of
from tests.support.service import Service, running_service
from tests.support.waiting import wait_for

pytestmark = pytest.mark.promise("P8")

WORTHLESS = "0000000000000001.0000000000000001.00000001"

SOON = 3.0
"""Seconds within which a claim that waits for twenty has to be woken."""


class Services(NamedTuple):
    """Two processes at one database."""

    one: Service
    other: Service


@pytest.fixture(scope="module")
def services(cluster: Cluster) -> Iterator[Services]:
    with ExitStack() as stack:
        database = stack.enter_context(cluster.database())
        yield Services(
            *(
                stack.enter_context(running_service(database.url, api_key=BOOTSTRAP))
                for _ in range(2)
            )
        )


@pytest.fixture
def admin(services: Services, request: pytest.FixtureRequest) -> Iterator[Holder]:
    with holder_of(services.one) as operator:
        yield operator.tenant(request.node.name)


@pytest.fixture
def agent(admin: Holder) -> Holder:
    return admin.made(kind="agent", name="worker")


@pytest.fixture
def scorer(admin: Holder, agent: Holder) -> Consumer:
    """A consumer as the agent sees it; nothing is in the book for it yet."""
    return Consumer(admin).made().by(agent)


@pytest.fixture
def elsewhere(services: Services, agent: Holder) -> Iterator[Holder]:
    """The same agent, at the other process."""
    with httpx2.Client(base_url=services.other.url, timeout=30) as client:
        yield Holder(client, agent.text, agent.key_id)


def lost(answer: httpx2.Response, *tokens: str) -> None:
    """An answer that says that these are not held, and nothing else."""
    document = assert_problem(answer, 409, "lease-lost")
    assert document["lost"] == list(tokens)


# --- Claims -----------------------------------------------------------------------


def test_a_claim_hands_out_events_with_attempt_lease_and_token(
    scorer: Consumer, agent: Holder
) -> None:
    ids = note(agent, 3, "customer:c")
    first, second = scorer.delivered(2)
    assert [first["event"]["id"], second["event"]["id"]] == ids[:2]
    assert first["event"] == agent.get(f"/events/{ids[0]}").json()
    assert first["attempt"] == 1
    assert first["lease_ends"] == second["lease_ends"]
    assert set(first) == {"event", "attempt", "lease_ends", "token"}
    assert first["token"].isascii()
    answer = scorer.claim(count=5)
    assert [d["event"]["id"] for d in answer.json()["deliveries"]] == ids[2:]
    assert scorer.claim().json() == {"deliveries": [], "status": "running"}


@pytest.mark.promise("P2")
def test_tokens_of_an_event_grow_with_each_handing_out(scorer: Consumer, agent: Holder) -> None:
    note(agent)
    seen = []
    for attempt in range(1, 5):
        (delivery,) = scorer.delivered()
        assert delivery["attempt"] == attempt
        seen.append(delivery["token"])
        assert scorer.call("release", tokens=[delivery["token"]]).status_code == 200
    assert seen == sorted(set(seen))


def test_what_is_done_is_acknowledged_with_the_next_claim(scorer: Consumer, agent: Holder) -> None:
    note(agent, 2)
    (one,) = scorer.tokens()
    (other,) = scorer.tokens(done=[one])
    lost(scorer.claim(done=[one]), one)
    answer = scorer.claim(done=[other], wait_seconds=0.1)
    assert answer.json() == {"deliveries": [], "status": "running"}
    assert (scorer.state()["lag"]["events"], scorer.state()["in_flight"]) == (0, 0)


def test_a_claim_with_a_token_that_is_lost_claims_nothing(scorer: Consumer, agent: Holder) -> None:
    note(agent, 2)
    (held,) = scorer.tokens()
    lost(scorer.claim(done=[held, WORTHLESS]), WORTHLESS)
    assert scorer.state()["in_flight"] == 1
    assert scorer.call("ack", tokens=[held]).status_code == 200


# --- What was asked for before ----------------------------------------------------


@pytest.mark.promise("P5")
def test_a_claim_is_answered_again_with_what_is_still_held(
    *, scorer: Consumer, agent: Holder, elsewhere: Holder
) -> None:
    note(agent, 3)
    first = scorer.claim(key="k", count=2).json()["deliveries"]
    for again in (scorer, scorer.by(elsewhere)):
        assert again.claim(key="k", count=2).json()["deliveries"] == first
    assert scorer.call("ack", tokens=[first[0]["token"]]).status_code == 200
    assert scorer.claim(key="k", count=2).json()["deliveries"] == first[1:]
    assert scorer.state()["in_flight"] == 1
    assert_problem(scorer.claim(key="k", count=3), 422, "idempotency-mismatch")


@pytest.mark.promise("P5")
def test_a_claim_that_was_given_nothing_may_be_given_something_under_its_key(
    scorer: Consumer, agent: Holder
) -> None:
    assert scorer.claim(key="k").json()["deliveries"] == []
    note(agent)
    (delivery,) = scorer.claim(key="k").json()["deliveries"]
    assert scorer.claim(key="k").json()["deliveries"] == [delivery]


@pytest.mark.promise("P5")
@pytest.mark.parametrize("call", ["ack", "release", "set-aside"])
def test_what_became_of_a_delivery_is_answered_again(
    *, scorer: Consumer, agent: Holder, elsewhere: Holder, call: str
) -> None:
    note(agent)
    tokens = scorer.tokens()
    body: dict[str, Any] = {"tokens": tokens}
    if call == "set-aside":
        body["reason"] = "No such account."
    first = scorer.call(call, key="k", **body)
    assert first.status_code == 200, first.text
    assert "Idempotent-Replayed" not in first.headers
    for again in (scorer, scorer.by(elsewhere)):
        answer = again.call(call, key="k", **body)
        assert (answer.status_code, answer.json()) == (200, first.json())
        assert answer.headers["Idempotent-Replayed"] == "true"
    lost(scorer.call(call, **body), *tokens)
    assert_problem(
        scorer.call(call, key="k", **{**body, "tokens": [WORTHLESS]}), 422, "idempotency-mismatch"
    )


@pytest.mark.promise("P5")
def test_an_outcome_is_in_the_book_once(
    *, scorer: Consumer, agent: Holder, elsewhere: Holder
) -> None:
    note(agent)
    body: dict[str, Any] = {
        "tokens": scorer.tokens(),
        "events": [
            {"agent_name": "worker", "event_type": "scored", "payload": {"n": n}} for n in (1, 2)
        ],
    }
    first = scorer.call("ack", key="k", **body)
    assert first.status_code == 201, first.text
    head = agent.head()
    assert first.json()["ids"] == [head - 1, head]
    assert first.json()["status"] == "stored"
    read = agent.get(first.headers["Location"]).json()["events"]
    assert [event["payload"]["n"] for event in read] == [1, 2]
    for again in (scorer, scorer.by(elsewhere)):
        answer = again.call("ack", key="k", **body)
        assert (answer.status_code, answer.json()) == (201, first.json())
        assert answer.headers["Idempotent-Replayed"] == "true"
    lost(scorer.call("ack", **body), *body["tokens"])
    assert agent.head() == head


def test_a_refused_key_may_be_tried_again(scorer: Consumer, agent: Holder) -> None:
    note(agent)
    (token,) = scorer.tokens()
    later = f"{token.rpartition('.')[0]}.00000002"
    lost(scorer.call("ack", key="k", tokens=[later]), later)
    scorer.call("release", tokens=[token])
    assert scorer.tokens() == [later]
    assert scorer.call("ack", key="k", tokens=[later]).status_code == 200


# --- Acknowledging ----------------------------------------------------------------


@pytest.mark.promise("P4")
def test_an_outcome_whose_condition_fails_leaves_it_held_and_says_how_long(
    scorer: Consumer, agent: Holder
) -> None:
    (event_id,) = note(agent)
    (delivery,) = scorer.delivered()
    flagged = agent.append("worker", "flagged").json()["id"]
    head = agent.head()
    asked: dict[str, Any] = {
        "tokens": [delivery["token"]],
        "events": [{"agent_name": "worker", "event_type": "scored", "payload": {}}],
        "condition": {"fail_if": [{"types": ["flagged"]}], "after": event_id},
    }
    refused = assert_problem(scorer.call("ack", key="k", **asked), 409, "condition-failed")
    assert refused["lease_ends"] == delivery["lease_ends"]
    assert (refused["head"], [event["id"] for event in refused["conflicts"]]) == (head, [flagged])
    assert agent.head() == head
    assert scorer.state()["in_flight"] == 1
    asked["condition"]["after"] = flagged
    assert scorer.call("ack", key="k", **asked).status_code == 201
    assert scorer.state()["in_flight"] == 0


def test_nothing_is_written_for_what_is_not_held(scorer: Consumer, agent: Holder) -> None:
    note(agent, 2)
    held, other = scorer.tokens(2)
    scorer.call("release", tokens=[other], delay_seconds=60)
    head = agent.head()
    event = {"agent_name": "worker", "event_type": "scored", "payload": {}}
    lost(scorer.call("ack", tokens=[held, other], events=[event]), other)
    assert agent.head() == head
    assert scorer.call("ack", tokens=[held], events=[event]).status_code == 201


@pytest.mark.promise("P7")
def test_an_outcome_is_judged_as_any_append(scorer: Consumer, agent: Holder, admin: Holder) -> None:
    note(agent)
    (token,) = scorer.tokens()
    judged: list[tuple[dict[str, Any], int, str, str | None]] = [
        ({"agent_name": "other", "event_type": "t", "payload": {}}, 403, "name-not-yours", None),
        ({"agent_name": "worker", "event_type": "t"}, 422, "invalid-input", "/events/0/payload"),
        (
            {"agent_name": "worker", "event_type": "counterfoil.thawed", "payload": {}},
            422,
            "invalid-input",
            "/events/0/event_type",
        ),
        (
            {"agent_name": "worker", "event_type": "t", "payload": {}, "caused_by": [9999]},
            422,
            "unknown-cause",
            None,
        ),
    ]
    for event, status, problem, pointer in judged:
        answer = scorer.call("ack", tokens=[token], events=[event])
        assert answer.status_code == status, answer.text
        assert_problem(answer, status, problem, pointer)
    admin.post("/freezes", {"book": True, "reason": "Audit."})
    fine = {"agent_name": "worker", "event_type": "t", "payload": {}}
    assert_problem(scorer.call("ack", tokens=[token], events=[fine]), 423, "frozen")
    assert scorer.state()["in_flight"] == 1


# --- Extending, giving back, setting aside ----------------------------------------


def test_a_lease_is_extended_from_now_on(scorer: Consumer, agent: Holder) -> None:
    note(agent)
    (delivery,) = scorer.delivered()
    longer = scorer.call("extend", tokens=[delivery["token"]], lease_seconds=600)
    assert longer.status_code == 200
    assert longer.json()["lease_ends"] > delivery["lease_ends"]
    assert set(longer.json()) == {"lease_ends"}
    shorter = scorer.call("extend", tokens=[delivery["token"]])
    assert delivery["lease_ends"] < shorter.json()["lease_ends"] < longer.json()["lease_ends"]


def test_a_lease_runs_out_and_its_token_is_worthless(scorer: Consumer, agent: Holder) -> None:
    note(agent)
    (token,) = scorer.tokens()
    scorer.call("extend", tokens=[token], lease_seconds=1)
    (delivery,) = scorer.delivered(wait_seconds=20)
    assert delivery["attempt"] == 2
    for call in ("ack", "extend", "release"):
        lost(scorer.call(call, tokens=[token]), token)
    lost(scorer.call("set-aside", tokens=[token], reason="Too late."), token)
    assert scorer.state()["in_flight"] == 1


def test_what_is_given_back_without_a_reason_was_no_attempt(
    admin: Holder, scorer: Consumer, agent: Holder
) -> None:
    Consumer(admin).put(attempts_max=2)
    note(agent)
    for _ in range(3):
        assert scorer.call("release", tokens=scorer.tokens()).json() == {"status": "released"}
    scorer.call("release", tokens=scorer.tokens(), reason="It failed.", delay_seconds=0)
    scorer.call("release", tokens=scorer.tokens(), reason="Again.", delay_seconds=0)
    (letter,) = wait_for(scorer.letters, "it to be set aside")
    assert [attempt["reason"] for attempt in letter["attempts"]] == ["It failed.", "Again."]
    assert letter["set_aside_by"] == "service:counterfoil"
    assert scorer.claim().json()["deliveries"] == []


def test_a_failure_waits_as_long_as_the_backoff_says(
    admin: Holder, scorer: Consumer, agent: Holder
) -> None:
    Consumer(admin).put(backoff={"initial_seconds": 0.5, "factor": 1, "max_seconds": 1})
    note(agent)
    scorer.call("release", tokens=scorer.tokens(), reason="It failed.")
    assert scorer.claim().json()["deliveries"] == []
    assert scorer.state()["waiting"] == 1
    (delivery,) = scorer.delivered(wait_seconds=SOON)
    assert delivery["attempt"] == 2


def test_what_is_set_aside_is_an_event_each(scorer: Consumer, agent: Holder) -> None:
    ids = note(agent, 2)
    tokens = scorer.tokens(2, holder="worker-1")
    answer = scorer.call("set-aside", tokens=[tokens[1], tokens[0]], reason="No such account.")
    head = agent.head()
    assert answer.json() == {"status": "set_aside", "event_ids": [head - 1, head]}
    told = [agent.get(f"/events/{n}").json() for n in (head - 1, head)]
    assert [event["payload"]["event_id"] for event in told] == ids[::-1]
    assert [event["caused_by"] for event in told] == [[ids[1]], [ids[0]]]
    assert {event["event_type"] for event in told} == {"counterfoil.delivery_set_aside"}
    assert {tuple(event["tags"]) for event in told} == {("consumer:scorer",)}
    (attempt,) = told[0]["payload"]["attempts"]
    assert (attempt["holder"], attempt["reason"]) == ("worker-1", "No such account.")


# --- Whose it is ------------------------------------------------------------------


@pytest.mark.promise("P7")
@pytest.mark.parametrize("call", ["ack", "extend", "release", "set-aside"])
def test_anothers_tokens_are_worthless(
    scorer: Consumer, agent: Holder, admin: Holder, call: str
) -> None:
    note(agent)
    tokens = scorer.tokens()
    stranger = scorer.by(admin.made(kind="agent", name="other"))
    body: dict[str, Any] = {"tokens": tokens} | ({"reason": "Mine."} if call == "set-aside" else {})
    lost(stranger.call(call, **body), *tokens)
    same = scorer.by(admin.made(kind="agent", name="worker"))
    assert same.call(call, **body).status_code == 200, "another key of the same principal"


@pytest.mark.promise("P7")
@pytest.mark.parametrize("call", ["claim", "ack", "extend", "release", "set-aside"])
def test_who_may_work_for_a_consumer(
    scorer: Consumer, agent: Holder, admin: Holder, call: str
) -> None:
    note(agent)
    tokens = scorer.tokens()
    body: dict[str, Any] = {
        "claim": {"holder": "h", "done": tokens},
        "set-aside": {"tokens": tokens, "reason": "R."},
    }.get(call, {"tokens": tokens})

    def calling(*scopes: str) -> httpx2.Response:
        holder = admin.made(kind="agent", name="worker", scopes=list(scopes))
        return scorer.by(holder).call(call, **body)

    refused = assert_problem(calling("consume:other", "read:*"), 403, "scope-missing")
    assert refused["scope"] == "consume:scorer"
    assert_problem(calling("append:*", "read:*"), 403, "scope-missing")
    if call == "claim":
        unreadable = assert_problem(calling("consume:*", "read:other"), 403, "scope-missing")
        assert unreadable["scope"] == "read:noted"
    assert calling("consume:sc*", "read:noted").status_code == 200


@pytest.mark.promise("P7")
@pytest.mark.parametrize("call", ["claim", "ack", "extend", "release", "set-aside"])
def test_another_tenant_sees_no_consumer(
    *, scorer: Consumer, agent: Holder, services: Services, call: str, request: Any
) -> None:
    note(agent)
    tokens = scorer.tokens()
    body: dict[str, Any] = {"holder": "h"} if call == "claim" else {"tokens": tokens}
    if call == "set-aside":
        body["reason"] = "R."
    with holder_of(services.one) as operator:
        stranger = operator.tenant(f"{request.node.name}-2").made(kind="agent", name="worker")
        answer = scorer.by(stranger).call(call, **body)
        nothing = Consumer(stranger, "nobody").call(call, **body)
    document = assert_problem(answer, 404, "consumer-not-found")
    other = assert_problem(nothing, 404, "consumer-not-found")
    assert document | {"request_id": ""} == other | {"request_id": ""}
    assert scorer.state()["in_flight"] == 1


def test_a_claim_whose_query_was_made_wider_is_refused_to_who_may_not_read_it(
    *, scorer: Consumer, agent: Holder, admin: Holder, elsewhere: Holder
) -> None:
    """In each process, however long ago it looked at what the consumer reads."""
    narrow = {"kind": "agent", "name": "worker", "scopes": ["consume:*", "read:noted"]}
    key = admin.made(**narrow)
    both = [scorer.by(key), scorer.by(Holder(elsewhere.client, key.text, key.key_id))]
    for one in both:
        assert one.claim().status_code == 200
    query = [{"types": ["noted", "secret"]}]
    assert Consumer(admin).put(query=query, change_query=True).status_code == 200
    agent.append("worker", "secret")
    for one in both:
        refused = assert_problem(one.claim(), 403, "scope-missing")
        assert refused["scope"] == "read:secret"


# --- Waiting ----------------------------------------------------------------------


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


class Waiter:
    """A claim that waits, on a connection of its own."""

    def __init__(self, pool: ThreadPoolExecutor, service: Service, consumer: Consumer) -> None:
        self.connected = threading.Event()
        self.client = httpx2.Client(base_url=service.url, timeout=30)
        self.consumer = consumer.by(Holder(self.client, consumer.holder.text))
        self.answer = pool.submit(self._claim)

    def _claim(self) -> httpx2.Response:
        with self.client:
            return self.consumer.claim(wait_seconds=20)

    def soon(self) -> list[dict[str, Any]]:
        """What it is handed out, soon."""
        answer = self.answer.result(SOON)
        assert answer.status_code == 200, answer.text
        deliveries: list[dict[str, Any]] = answer.json()["deliveries"]
        return deliveries


def parked(service: Service, count: int) -> None:
    """Wait until so many claims are parked in this process."""

    with httpx2.Client(base_url=service.url, timeout=10) as client:

        def look() -> bool:
            text = client.get("/metrics", headers={"Authorization": f"Bearer {BOOTSTRAP}"}).text
            return f"counterfoil_parked_claims {count:.1f}\n" in text

        wait_for(look, f"{count} parked claims")


@pytest.mark.parametrize("what", ["event", "release", "ack", "resume", "replay", "seek"])
@pytest.mark.parametrize("where", ["one", "other"])
def test_a_claim_that_waits_is_answered_as_soon_as_there_is_something(
    *,
    services: Services,
    admin: Holder,
    agent: Holder,
    elsewhere: Holder,
    pool: ThreadPoolExecutor,
    what: str,
    where: str,
) -> None:
    managed = Consumer(admin).made(order_by="customer")
    here = managed.by(agent)
    tokens = []
    if what != "event":
        note(agent, 2 if what == "ack" else 1, "customer:c")
        tokens = here.tokens()
    if what == "resume":
        managed.call("pause", reason="Wait.")
        here.call("release", tokens=tokens)
    elif what == "replay":
        here.call("set-aside", tokens=tokens, reason="No.")
    elif what == "seek":
        here.call("ack", tokens=tokens)
    waiter = Waiter(pool, services.one, here)
    parked(services.one, 1)
    by = agent if where == "one" else elsewhere
    operator = admin if where == "one" else Holder(elsewhere.client, admin.text)
    match what:
        case "event":
            note(by, 1, "customer:c")
        case "release" | "ack":
            assert here.by(by).call(what, tokens=tokens).status_code == 200
        case "resume":
            managed.by(operator).call("resume", reason="On.")
        case "replay":
            managed.by(operator).call("dead-letters/replay", all=True)
        case "seek":
            managed.by(operator).call("seek", to="beginning", reason="Anew.")
        case _:
            raise AssertionError(what)
    assert len(waiter.soon()) == 1


def test_a_claim_that_waits_in_vain_is_answered_in_time(scorer: Consumer, admin: Holder) -> None:
    assert scorer.claim(wait_seconds=0.2).json() == {"deliveries": [], "status": "running"}
    Consumer(admin).call("pause", reason="Wait.")
    assert scorer.claim(wait_seconds=0.2).json() == {"deliveries": [], "status": "paused"}


@pytest.mark.promise("P7")
def test_what_is_done_to_a_key_ends_its_wait(
    *, services: Services, scorer: Consumer, agent: Holder, admin: Holder, pool: ThreadPoolExecutor
) -> None:
    leaked = admin.made(kind="agent", name="worker")
    waiter = Waiter(pool, services.one, scorer.by(leaked))
    parked(services.one, 1)
    admin.post(f"/keys/{leaked.key_id}/revoke", {"reason": "It leaked."})
    assert waiter.soon() == []
    note(agent)
    assert scorer.state()["in_flight"] == 0


def test_who_has_gone_is_handed_out_nothing(
    *, services: Services, scorer: Consumer, agent: Holder
) -> None:
    with (
        httpx2.Client(base_url=services.one.url, timeout=0.5) as client,
        pytest.raises(httpx2.ReadTimeout),
    ):
        scorer.by(Holder(client, agent.text)).claim(wait_seconds=20)
    parked(services.one, 0)
    note(agent)
    (delivery,) = scorer.delivered()
    assert delivery["attempt"] == 1


def test_a_service_that_stops_answers_who_waits(cluster: Cluster, pool: ThreadPoolExecutor) -> None:
    with (
        cluster.database() as database,
        running_service(database.url, api_key=BOOTSTRAP) as service,
        holder_of(service) as operator,
    ):
        Consumer(operator).made()
        agent = operator.made(kind="agent", name="worker")
        waiters = [Waiter(pool, service, Consumer(agent)) for _ in range(3)]
        parked(service, 3)
        service.terminate()
        for waiter in waiters:
            assert waiter.soon() == []
        assert service.process.wait(20) == 0


# --- Counting ---------------------------------------------------------------------


def test_what_becomes_of_deliveries_is_counted(
    services: Services, scorer: Consumer, agent: Holder
) -> None:
    def counted() -> dict[str, float]:
        with holder_of(services.one) as operator:
            lines = operator.get("/metrics").text.splitlines()
        found = {}
        for line in lines:
            if line.startswith("counterfoil_deliveries_total{"):
                name, _, value = line.partition(" ")
                found[name.partition('"')[2].partition('"')[0]] = float(value)
        return found

    before = counted()
    note(agent, 6)
    held = scorer.tokens(6)
    scorer.claim(key="k", done=held[:1])
    event = {"agent_name": "worker", "event_type": "scored", "payload": {}}
    scorer.call("ack", tokens=held[1:2])
    for _ in range(2):
        scorer.call("ack", key="a", tokens=held[2:3], events=[event])
    scorer.call("extend", tokens=held[3:4])
    scorer.call("release", tokens=held[3:4], delay_seconds=60)
    scorer.call("set-aside", tokens=held[4:5], reason="No.")
    lost(scorer.call("ack", tokens=held[:1]), held[0])
    after = counted()
    told = {name: value - before.get(name, 0) for name, value in after.items()}
    assert told == {"claim": 6, "ack": 3, "extend": 1, "release": 1, "set_aside": 1}
