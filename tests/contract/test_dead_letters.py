"""Dead letters: listed, looked at, handed out again, dropped; each of that is an event."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.problems import assert_problem
from tests.support.cluster import Cluster
from tests.support.consumers import Consumer, note
from tests.support.keys import BOOTSTRAP, Holder, holder_of
from tests.support.service import Service, running_service
from tests.support.waiting import wait_for

pytestmark = pytest.mark.promise("P8")

REASON = "The account is closed."


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


@pytest.fixture
def letters(scorer: Consumer, agent: Holder) -> list[int]:
    """The events of three dead letters."""
    ids = note(agent, 3)
    worker = scorer.by(agent)
    worker.call("set-aside", tokens=worker.tokens(3, holder="w-1"), reason=REASON)
    return ids


def settled(holder: Holder, what: str) -> list[dict[str, Any]]:
    """The payloads of the events that say so."""
    asked = {"type": f"counterfoil.dead_letters_{what}", "tag": "consumer:scorer"}
    return [event["payload"] for event in holder.get("/events", params=asked).json()["events"]]


def test_dead_letters_are_listed_in_pages_and_looked_at(
    scorer: Consumer, letters: list[int], agent: Holder
) -> None:
    page = agent.get("/consumers/scorer/dead-letters", params={"limit": 2}).json()
    assert [letter["event_id"] for letter in page["dead_letters"]] == letters[:2]
    asked = {"cursor": page["next"]}
    rest = agent.get("/consumers/scorer/dead-letters", params=asked).json()
    assert [letter["event_id"] for letter in rest["dead_letters"]] == letters[2:]
    assert rest["next"] is None
    letter = agent.get(f"/consumers/scorer/dead-letters/{letters[0]}").json()
    assert letter == page["dead_letters"][0]
    (attempt,) = letter["attempts"]
    assert (attempt["attempt"], attempt["holder"], attempt["reason"]) == (1, "w-1", REASON)
    assert attempt["claimed_at"] < attempt["ended_at"]
    assert (letter["reason"], letter["set_aside_by"]) == (REASON, "agent:worker")
    assert letter["holds_key"] is False
    said = agent.get(f"/events/{letter['said_by']}").json()
    assert said["event_type"] == "counterfoil.delivery_set_aside"
    assert said["created_at"] == letter["set_aside_at"]
    for cursor in ("x", "LTE=", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OQ=="):
        answer = agent.get("/consumers/scorer/dead-letters", params={"cursor": cursor})
        assert_problem(answer, 422, "invalid-input", "/cursor", "query")
    assert_problem(
        agent.get(f"/consumers/scorer/dead-letters/{letters[2] + 1}"), 404, "dead-letter-not-found"
    )
    assert_problem(agent.get("/consumers/x/dead-letters"), 404, "consumer-not-found")
    assert_problem(agent.get("/consumers/x/dead-letters/1"), 404, "consumer-not-found")
    assert_problem(agent.get("/consumers/scorer/dead-letters/x"), 422)
    assert scorer.state()["set_aside"] == 3


@pytest.mark.promise("P5")
@pytest.mark.parametrize("what", ["replay", "drop"])
@pytest.mark.parametrize("all_", [False, True], ids=["named", "all"])
def test_dead_letters_are_settled_once(
    *, scorer: Consumer, letters: list[int], agent: Holder, what: str, all_: bool
) -> None:
    past = {"replay": "replayed", "drop": "dropped"}[what]
    body: dict[str, Any] = {"reason": REASON}
    body |= {"all": True} if all_ else {"event_ids": [letters[2], letters[0], letters[2]]}
    gone = letters if all_ else [letters[0], letters[2]]

    first = scorer.call(f"dead-letters/{what}", key="k", **body)

    assert first.json() == {"status": past, "event_ids": gone}
    (event,) = settled(agent, past)
    assert event == {"name": "scorer", "event_ids": gone, "reason": REASON, "by": "person:keeper"}
    # What is set aside after it is none of its business, however often it is sent again.
    worker = scorer.by(agent)
    note(agent)
    tokens = worker.tokens(1 + (len(gone) if what == "replay" else 0))
    worker.call("set-aside", tokens=tokens, reason=REASON)
    before = scorer.letters()
    again = scorer.call(f"dead-letters/{what}", key="k", **body)
    assert (again.status_code, again.json()) == (200, first.json())
    assert again.headers["Idempotent-Replayed"] == "true"
    assert scorer.letters() == before
    other = {**body, "reason": "Another."}
    answer = scorer.call(f"dead-letters/{what}", key="k", **other)
    assert_problem(answer, 422, "idempotency-mismatch")


@pytest.mark.parametrize("key", [None, "k"])
def test_where_there_are_none_nothing_is_written(
    admin: Holder, scorer: Consumer, key: str | None
) -> None:
    head = admin.head()
    answer = scorer.call("dead-letters/drop", key=key, all=True, reason=REASON)
    assert answer.json() == {"status": "dropped", "event_ids": []}
    assert admin.head() == head
    nobody = Consumer(admin, "nobody")
    answer = nobody.call("dead-letters/drop", key=key, all=True, reason=REASON)
    assert_problem(answer, 404, "consumer-not-found")


def test_those_that_are_named_are_settled_together_or_not_at_all(
    admin: Holder, scorer: Consumer, letters: list[int]
) -> None:
    head = admin.head()
    for what in ("replay", "drop"):
        answer = scorer.call(
            f"dead-letters/{what}", event_ids=[*letters, letters[2] + 1], reason=REASON
        )
        assert_problem(answer, 404, "dead-letter-not-found")
    assert (admin.head(), len(scorer.letters())) == (head, 3)


@pytest.mark.promise("P13")
@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/reason"),
        ({"all": True}, "/reason"),
        ({"reason": REASON}, ""),
        ({"reason": REASON, "all": False}, "/all"),
        ({"reason": REASON, "all": True, "event_ids": [1]}, ""),
        ({"reason": REASON, "event_ids": []}, "/event_ids"),
        ({"reason": REASON, "event_ids": [0]}, "/event_ids/0"),
        ({"reason": REASON, "event_ids": ["1"]}, "/event_ids/0"),
        ({"reason": REASON, "event_ids": list(range(1, 1_002))}, "/event_ids"),
        ({"reason": REASON, "all": True, "x": 1}, "/x"),
    ],
)
def test_what_nobody_can_settle(
    *, admin: Holder, scorer: Consumer, body: dict[str, Any], pointer: str
) -> None:
    head = admin.head()
    answer = scorer.call("dead-letters/drop", **body)
    assert_problem(answer, 422, "invalid-input", pointer)
    assert admin.head() == head


def test_what_is_replayed_is_handed_out_with_as_many_attempts_as_at_first(
    admin: Holder, agent: Holder
) -> None:
    scorer = Consumer(admin).made(attempts_max=2)
    worker = scorer.by(agent)
    note(agent)
    for round_ in (1, 2):
        for nth in (1, 2):
            (delivery,) = worker.delivered()
            assert delivery["attempt"] == 2 * (round_ - 1) + nth
            worker.call(
                "release", tokens=[delivery["token"]], reason=f"Fault {nth}.", delay_seconds=0
            )
        (letter,) = wait_for(scorer.letters, "it to be set aside")
        assert len(letter["attempts"]) == 2 * round_
        assert scorer.call("dead-letters/replay", all=True).status_code == 200


@pytest.mark.parametrize("rule", ["hold", "pass"])
def test_a_dead_letter_holds_its_key_up_or_lets_it_pass(
    admin: Holder, agent: Holder, rule: str
) -> None:
    scorer = Consumer(admin).made(order_by="customer", dead_letters=rule)
    worker = scorer.by(agent)
    first, second = note(agent, 2, "customer:c")
    worker.call("set-aside", tokens=worker.tokens(), reason=REASON)
    (letter,) = scorer.letters()
    assert letter["holds_key"] == (rule == "hold")
    if rule == "hold":
        assert worker.claim().json()["deliveries"] == []
        scorer.call("dead-letters/replay", event_ids=[first])
        (delivery,) = worker.delivered()
        assert (delivery["event"]["id"], delivery["attempt"]) == (first, 2)
        worker.call("set-aside", tokens=[delivery["token"]], reason=REASON)
        scorer.call("dead-letters/drop", all=True, reason=REASON)
    (delivery,) = worker.delivered()
    assert delivery["event"]["id"] == second


def test_all_are_settled_also_where_that_takes_several_steps(admin: Holder, agent: Holder) -> None:
    """More than one event may name; and each of the service's own is in the book."""
    scorer = Consumer(admin).made()
    worker = scorer.by(agent)
    event = {"agent_name": "worker", "event_type": "noted", "payload": {}}
    for count in (1_000, 250):
        assert agent.post("/events/batch", {"events": [event] * count}).status_code == 201
        for _ in range(-(-count // 500)):
            tokens = [d["token"] for d in worker.claim(count=500).json()["deliveries"]]
            assert worker.call("set-aside", tokens=tokens, reason=REASON).status_code == 200
    assert scorer.state()["set_aside"] == 1_250
    answer = scorer.call("dead-letters/drop", key="k", all=True, reason=REASON)
    assert len(answer.json()["event_ids"]) == 1_250
    assert [len(one["event_ids"]) for one in settled(agent, "dropped")] == [1_000, 250]
    assert scorer.letters() == []
