"""An acknowledgement that claims what comes next, in the same call."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import httpx2
import psycopg
import pytest

from tests.contract.problems import assert_problem
from tests.support.cluster import Cluster, Database
from tests.support.consumers import Consumer, Json, note
from tests.support.keys import BOOTSTRAP, Holder, holder_of
from tests.support.service import Service, running_service
from tests.support.waiting import wait_for

pytestmark = pytest.mark.promise("P8")

WORTHLESS: Final = "0000000000000001.0000000000000001.00000001"

OUTCOME: Final = {"agent_name": "worker", "event_type": "scored", "payload": {"score": 7}}

NEXT: Final = {"holder": "h", "count": 2}

HOLDER_MUST_BE: Final = "`holder` must be a string of 1 to 128 characters"

COUNT_MUST_BE: Final = "`count` must be a whole number from 1 to 1000"

UNKNOWN: Final = "There is no field `{}` here; known fields: `holder`, `count`."


class Place(NamedTuple):
    """A process, and its database."""

    service: Service
    database: Database


@pytest.fixture(scope="module")
def place(cluster: Cluster) -> Iterator[Place]:
    with (
        cluster.database() as database,
        running_service(database.url, api_key=BOOTSTRAP) as service,
    ):
        yield Place(service, database)


@pytest.fixture
def admin(place: Place, request: pytest.FixtureRequest) -> Iterator[Holder]:
    with holder_of(place.service) as operator:
        yield operator.tenant(request.node.name)


@pytest.fixture
def agent(admin: Holder) -> Holder:
    return admin.made(kind="agent", name="worker")


@pytest.fixture
def scorer(admin: Holder, agent: Holder) -> Consumer:
    return Consumer(admin).made().by(agent)


def acked(answer: httpx2.Response, *, stored: bool) -> Json:
    """What came with an acknowledgement that was made."""
    assert answer.status_code == (201 if stored else 200), answer.text
    document: Json = answer.json()
    assert document["status"] == ("stored" if stored else "done")
    return document


def ids_of(claimed: Json) -> list[int]:
    """Which events were handed out."""
    return [delivery["event"]["id"] for delivery in claimed["deliveries"]]


@contextmanager
def claims_held_up(place: Place) -> Iterator[None]:
    """Hold what every claim of a bounded consumer waits for, and no acknowledgement does."""
    with psycopg.connect(place.database.url) as session:
        session.execute("select from counterfoil.consumer_progress for update")
        yield


@pytest.mark.parametrize("stored", [False, True], ids=["done", "with an outcome"])
def test_what_is_next_comes_with_the_acknowledgement(
    scorer: Consumer, agent: Holder, *, stored: bool
) -> None:
    ids = note(agent, 4)
    tokens = scorer.tokens()
    more: Json = {"events": [OUTCOME]} if stored else {}
    for expected in (ids[1:3], ids[3:], []):
        document = acked(scorer.call("ack", tokens=tokens, next=NEXT, **more), stored=stored)
        assert set(document["next"]) == {"deliveries", "status"}
        assert ids_of(document["next"]) == expected
        assert document["next"]["status"] == "running"
        tokens = [delivery["token"] for delivery in document["next"]["deliveries"]]
        for delivery in document["next"]["deliveries"]:
            assert delivery["event"] == agent.get(f"/events/{delivery['event']['id']}").json()
    state = scorer.state()
    assert (state["in_flight"], state["lag"]["events"]) == (0, 0)


def test_one_is_claimed_where_no_number_is_given(scorer: Consumer, agent: Holder) -> None:
    ids = note(agent, 3)
    document = acked(
        scorer.call("ack", tokens=scorer.tokens(), events=[OUTCOME], next={"holder": "h"}),
        stored=True,
    )
    assert ids_of(document["next"]) == [ids[1]]


def test_who_asks_for_nothing_more_is_answered_as_ever(scorer: Consumer, agent: Holder) -> None:
    note(agent, 2)
    one, other = scorer.tokens(2)
    assert scorer.call("ack", tokens=[one], next=None).text == '{"status":"done"}'
    stored = scorer.call("ack", tokens=[other], events=[OUTCOME], next=None)
    assert list(stored.json()) == ["ids", "created_at", "status"]
    assert scorer.state()["in_flight"] == 0


# --- What is refused hands out nothing --------------------------------------------


@pytest.mark.promise("P4")
def test_a_condition_that_fails_hands_out_nothing(scorer: Consumer, agent: Holder) -> None:
    (first, _) = note(agent, 2)
    tokens = scorer.tokens()
    agent.append("worker", "flagged")
    asked: Json = {
        "tokens": tokens,
        "events": [OUTCOME],
        "condition": {"fail_if": [{"types": ["flagged"]}], "after": first},
        "next": NEXT,
    }
    assert_problem(scorer.call("ack", **asked), 409, "condition-failed")
    assert scorer.state()["in_flight"] == 1
    asked["condition"]["after"] = agent.head()
    assert len(acked(scorer.call("ack", **asked), stored=True)["next"]["deliveries"]) == 1


@pytest.mark.parametrize("more", [{}, {"events": [OUTCOME]}], ids=["done", "with an outcome"])
def test_who_holds_it_no_longer_is_handed_nothing(
    scorer: Consumer, agent: Holder, more: Json
) -> None:
    note(agent, 2)
    (held,) = scorer.tokens()
    head = agent.head()
    answer = scorer.call("ack", tokens=[held, WORTHLESS], next=NEXT, **more)
    assert assert_problem(answer, 409, "lease-lost")["lost"] == [WORTHLESS]
    assert agent.head() == head
    assert scorer.state()["in_flight"] == 1


@pytest.mark.promise("P7")
@pytest.mark.parametrize("more", [{}, {"events": [OUTCOME]}], ids=["done", "with an outcome"])
def test_who_may_not_read_what_is_handed_out_acknowledges_nothing_so(
    scorer: Consumer, agent: Holder, admin: Holder, more: Json
) -> None:
    note(agent, 2)
    tokens = scorer.tokens()
    scopes = ["consume:*", "append:*", "read:other"]
    blind = scorer.by(admin.made(kind="agent", name="worker", scopes=scopes))
    head = agent.head()
    refused = assert_problem(
        blind.call("ack", tokens=tokens, next=NEXT, **more), 403, "scope-missing"
    )
    assert refused["scope"] == "read:noted"
    assert agent.head() == head
    assert scorer.state()["in_flight"] == 1
    assert blind.call("ack", tokens=tokens, **more).status_code in {200, 201}


@pytest.mark.promise("P7")
@pytest.mark.parametrize("more", [{}, {"events": [OUTCOME]}], ids=["done", "with an outcome"])
def test_what_may_not_be_read_any_more_is_not_shown(
    scorer: Consumer, admin: Holder, more: Json
) -> None:
    """The query was made wider, and this process has not heard of that before the claim."""
    scopes = ["consume:*", "append:*", "read:noted", "read:worker"]
    narrow = admin.made(kind="agent", name="worker", scopes=scopes)
    mine = scorer.by(narrow)
    note(narrow, 2)
    tokens = mine.tokens()
    query = [{"types": ["noted", "secret"]}]
    assert Consumer(admin).put(query=query, change_query=True).status_code == 200
    admin.made(kind="agent", name="other").append("other", "secret")
    document = acked(mine.call("ack", tokens=tokens, next=NEXT, **more), stored=bool(more))
    assert document["next"] is None
    refused = assert_problem(
        mine.call("ack", tokens=tokens, next=NEXT, **more), 403, "scope-missing"
    )
    assert refused["scope"] == "read:secret"


# --- What comes of the claim --------------------------------------------------------


def test_a_paused_consumer_hands_out_nothing_and_says_so(
    scorer: Consumer, agent: Holder, admin: Holder
) -> None:
    note(agent, 2)
    tokens = scorer.tokens()
    assert Consumer(admin).call("pause", reason="A release.").status_code == 200
    document = acked(scorer.call("ack", tokens=tokens, events=[OUTCOME], next=NEXT), stored=True)
    assert document["next"] == {"deliveries": [], "status": "paused"}


def test_an_acknowledgement_stands_though_nothing_can_be_claimed(
    scorer: Consumer, agent: Holder, admin: Holder, place: Place
) -> None:
    """Somebody holds the lock that a claim of a bounded consumer waits for."""
    Consumer(admin).put(in_flight_max=5)
    ids = note(agent, 2)
    asked: Json = {"tokens": scorer.tokens(), "events": [OUTCOME], "next": NEXT}
    with claims_held_up(place):
        document = acked(scorer.call("ack", key="k", **asked), stored=True)
    assert document["next"] is None
    assert agent.get(f"/events/{document['ids'][0]}").json()["event_type"] == "scored"
    assert scorer.state()["in_flight"] == 0
    again = acked(scorer.call("ack", key="k", **asked), stored=True)
    assert (again["ids"], ids_of(again["next"])) == (document["ids"], ids[1:])


def test_without_an_outcome_it_is_one_step_that_is_done_or_not(
    scorer: Consumer, agent: Holder, admin: Holder, place: Place
) -> None:
    Consumer(admin).put(in_flight_max=5)
    note(agent, 2)
    tokens = scorer.tokens()
    with claims_held_up(place):
        assert_problem(scorer.call("ack", tokens=tokens, next=NEXT), 503, "busy")
    assert scorer.state()["in_flight"] == 1
    acked(scorer.call("ack", tokens=tokens, next=NEXT), stored=False)


def test_who_has_gone_by_then_is_handed_nothing(
    scorer: Consumer, agent: Holder, admin: Holder, place: Place
) -> None:
    Consumer(admin).put(in_flight_max=5)
    ids = note(agent, 2)
    tokens = scorer.tokens()
    head = agent.head()
    with (
        claims_held_up(place),
        httpx2.Client(base_url=place.service.url, timeout=0.5) as client,
    ):
        impatient = scorer.by(Holder(client, agent.text))
        with pytest.raises(httpx2.ReadTimeout):
            impatient.call("ack", tokens=tokens, events=[OUTCOME], next=NEXT)
    assert agent.head() == head + 1, "the outcome stands"
    (delivery,) = wait_for(
        lambda: scorer.claim().json()["deliveries"], "what was handed out to be given back"
    )
    assert (delivery["event"]["id"], delivery["attempt"]) == (ids[1], 2)


def test_the_room_that_an_outcome_makes_is_there_for_what_is_next(
    scorer: Consumer, agent: Holder, admin: Holder
) -> None:
    Consumer(admin).put(in_flight_max=1)
    ids = note(agent, 2)
    document = acked(
        scorer.call("ack", tokens=scorer.tokens(), events=[OUTCOME], next=NEXT), stored=True
    )
    assert ids_of(document["next"]) == [ids[1]]


def test_who_is_behind_it_in_line_is_next(agent: Holder, admin: Holder) -> None:
    lined = Consumer(admin, "lined").made(order_by="customer").by(agent)
    ids = note(agent, 3, "customer:c")
    tokens = lined.tokens()
    for expected in ids[1:]:
        document = acked(lined.call("ack", tokens=tokens, events=[OUTCOME], next=NEXT), stored=True)
        assert ids_of(document["next"]) == [expected]
        tokens = [delivery["token"] for delivery in document["next"]["deliveries"]]


# --- The same call again ------------------------------------------------------------


@pytest.mark.promise("P5")
@pytest.mark.parametrize("stored", [False, True], ids=["done", "with an outcome"])
def test_a_lost_answer_costs_nothing(scorer: Consumer, agent: Holder, *, stored: bool) -> None:
    ids = note(agent, 6)
    asked: Json = {
        "tokens": scorer.tokens(),
        "next": NEXT,
        **({"events": [OUTCOME]} if stored else {}),
    }
    first = acked(scorer.call("ack", key="k", **asked), stored=stored)
    assert ids_of(first["next"]) == ids[1:3]
    head = agent.head()
    for _ in range(2):
        assert acked(scorer.call("ack", key="k", **asked), stored=stored) == first
    assert agent.head() == head
    assert scorer.state()["in_flight"] == 2
    done, held = first["next"]["deliveries"]
    assert scorer.call("ack", tokens=[done["token"]]).status_code == 200
    again = acked(scorer.call("ack", key="k", **asked), stored=stored)
    assert again["next"]["deliveries"] == [held]
    assert scorer.state()["in_flight"] == 1


@pytest.mark.promise("P5")
@pytest.mark.parametrize("stored", [False, True], ids=["done", "with an outcome"])
@pytest.mark.parametrize("other", [None, {"holder": "h", "count": 3}, {"holder": "i", "count": 2}])
def test_a_key_is_for_one_next(
    scorer: Consumer, agent: Holder, *, other: Json | None, stored: bool
) -> None:
    note(agent, 6)
    asked: Json = {"tokens": scorer.tokens(), **({"events": [OUTCOME]} if stored else {})}
    acked(scorer.call("ack", key="k", next=NEXT, **asked), stored=stored)
    head, in_flight = agent.head(), scorer.state()["in_flight"]
    changed = asked if other is None else {**asked, "next": other}
    assert_problem(scorer.call("ack", key="k", **changed), 422, "idempotency-mismatch")
    assert (agent.head(), scorer.state()["in_flight"]) == (head, in_flight)


@pytest.mark.promise("P5")
def test_the_key_of_an_acknowledgement_stays_its_own(scorer: Consumer, agent: Holder) -> None:
    """What is claimed with it is remembered under another, which no call can bear."""
    note(agent, 4)
    asked: Json = {"tokens": scorer.tokens(), "events": [OUTCOME], "next": NEXT}
    acked(scorer.call("ack", key="k", **asked), stored=True)
    assert_problem(scorer.claim(key="k"), 422, "idempotency-mismatch")
    assert_problem(scorer.claim(key="k next"), 422, "invalid-input")
    plain: Json = {"tokens": scorer.tokens(), "events": [OUTCOME]}
    acked(scorer.call("ack", key="own", **plain), stored=True)


@pytest.mark.promise("P5")
def test_an_outcome_is_answered_again_though_its_consumer_is_gone(
    scorer: Consumer, agent: Holder, admin: Holder, place: Place
) -> None:
    """Also by a process that has never known what it read, to a key that may not read all."""
    note(agent)
    scopes = ["consume:*", "append:*", "read:noted"]
    narrow = admin.made(kind="agent", name="worker", scopes=scopes)
    mine = scorer.by(narrow)
    asked: Json = {"tokens": mine.tokens(), "events": [OUTCOME], "next": NEXT}
    first = acked(mine.call("ack", key="k", **asked), stored=True)
    assert Consumer(admin).delete().status_code == 200
    with (
        running_service(place.database.url, api_key=BOOTSTRAP) as another,
        httpx2.Client(base_url=another.url, timeout=20) as client,
    ):
        for holder in (narrow, Holder(client, narrow.text)):
            there = scorer.by(holder)
            again = acked(there.call("ack", key="k", **asked), stored=True)
            assert again == {**first, "next": None}
            for events in (None, [OUTCOME]):
                refused = there.call("ack", tokens=asked["tokens"], next=NEXT, events=events)
                assert_problem(refused, 404, "consumer-not-found")


# --- Wrong input ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "pointer", "sentence"),
    [
        ({}, "/next/holder", "`holder` is missing. It must be a string of 1 to 128 characters."),
        ({"holder": ""}, "/next/holder", f"{HOLDER_MUST_BE}; this one is empty."),
        ({"holder": "h" * 129}, "/next/holder", f"{HOLDER_MUST_BE}; this one has 129."),
        ({"holder": 7}, "/next/holder", f"{HOLDER_MUST_BE}; this is a number."),
        ({"holder": None}, "/next/holder", f"{HOLDER_MUST_BE}; this is null."),
        ({"holder": "h", "count": 0}, "/next/count", f"{COUNT_MUST_BE}; this is `0`."),
        ({"holder": "h", "count": 1001}, "/next/count", f"{COUNT_MUST_BE}; this is `1001`."),
        ({"holder": "h", "count": "1"}, "/next/count", f"{COUNT_MUST_BE}; this is a string."),
        ({"holder": "h", "count": True}, "/next/count", f"{COUNT_MUST_BE}; this is a boolean."),
        ({"holder": "h", "count": None}, "/next/count", f"{COUNT_MUST_BE}; this is null."),
        ({"holder": "h", "wait_seconds": 1}, "/next/wait_seconds", UNKNOWN.format("wait_seconds")),
        ({"holder": "h", "done": [WORTHLESS]}, "/next/done", UNKNOWN.format("done")),
        ([], "/next", "`next` must be an object with `holder` and `count`; this is a list."),
        ("h", "/next", "`next` must be an object with `holder` and `count`; this is a string."),
    ],
    # A tenant is called as its test is, and its name has a length.
    ids=lambda value: value[:16] if isinstance(value, str) else None,
)
def test_what_is_wrong_with_next_is_said_where_it_is(
    *, scorer: Consumer, agent: Holder, asked: Any, pointer: str, sentence: str
) -> None:
    note(agent, 2)
    tokens = scorer.tokens()
    head = agent.head()
    answer = scorer.call("ack", tokens=tokens, events=[OUTCOME], next=asked)
    document = assert_problem(answer, 422, "invalid-input", pointer)
    assert [error["message"] for error in document["errors"]] == [sentence]
    assert agent.head() == head
    assert scorer.state()["in_flight"] == 1
