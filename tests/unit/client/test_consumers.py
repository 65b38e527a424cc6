"""The calls about consumers: what is sent, what comes back, and what is refused."""

import json
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx2
import pytest

from counterfoil import (
    Acknowledged,
    APIStatusError,
    Backoff,
    Condition,
    ConditionFailed,
    Consumer,
    ConsumerStarted,
    Counterfoil,
    Event,
    InvalidRequestError,
    LeaseLost,
    NewEvent,
    Next,
    NotFoundError,
    OutcomeUnknown,
    QueryItem,
    UnexpectedAnswer,
    UnsendableValue,
    UsageError,
)
from tests.unit.client.doors import Connect
from tests.unit.client.simulated_book import Fault, problem
from tests.unit.client.simulated_consumers import SimulatedConsumers

SCORED = NewEvent(agent_name="scorer", event_type="score", payload={"score": 7})
BEGAN = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def scorer(cf: Counterfoil, service: SimulatedConsumers) -> Consumer:
    """A consumer of payments, with three of them waiting."""
    service.add(3, event_type="payment")
    return cf.consumers.put("scorer", types="payment")


def sent(service: SimulatedConsumers) -> Any:
    return json.loads(service.received[-1].body)


def keys_sent(service: SimulatedConsumers) -> list[str | None]:
    return [received.headers.get("Idempotency-Key") for received in service.received]


def lost_answer() -> Fault:
    return Fault(httpx2.ReadError("connection reset"), served=True)


# --- Managing ---------------------------------------------------------------------------


def test_a_consumer_is_made_with_what_was_given_and_nothing_else(
    cf: Counterfoil, service: SimulatedConsumers
) -> None:
    made = cf.consumers.put("scorer", types="payment")
    assert sent(service) == {"query": [{"types": ["payment"]}]}
    assert (service.received[0].method, service.raw_paths) == ("PUT", ["/consumers/scorer"])
    assert UUID(keys_sent(service)[0]).version == 4
    assert (made.name, made.query) == ("scorer", (QueryItem(types="payment"),))
    assert (made.start, made.lease_seconds, made.attempts_max) == ("beginning", 60, 10)
    assert made.backoff == Backoff()
    assert (made.order_by, made.in_flight_max, made.dead_letters) == (None, 10_000, "pass")
    assert (made.status, made.rate, made.lag.seconds) == ("running", 1.5, 0.5)
    with pytest.raises(FrozenInstanceError):
        made.status = "paused"  # type: ignore[misc]  # that is the point


def test_everything_that_a_consumer_can_be_arrives(
    cf: Counterfoil, service: SimulatedConsumers
) -> None:
    made = cf.consumers.put(
        "scorer",
        query=[QueryItem(types=["payment", "refund"]), QueryItem(tags="kind:urgent")],
        start=17,
        lease_seconds=600,
        attempts_max=3,
        backoff=Backoff(initial_seconds=5, factor=1.5, max_seconds=60),
        order_by="customer",
        in_flight_max=20,
        dead_letters="hold",
        change_query=True,
        idempotency_key="my-key",
    )
    assert sent(service) == {
        "query": [{"types": ["payment", "refund"]}, {"tags": ["kind:urgent"]}],
        "start": {"after": 17},
        "lease_seconds": 600,
        "attempts_max": 3,
        "backoff": {"initial_seconds": 5, "factor": 1.5, "max_seconds": 60},
        "order_by": "customer",
        "in_flight_max": 20,
        "dead_letters": "hold",
        "change_query": True,
    }
    assert keys_sent(service) == ["my-key"]
    assert (made.start, made.order_by, made.dead_letters) == (17, "customer", "hold")
    assert made.backoff == Backoff(initial_seconds=5, factor=1.5, max_seconds=60)


def test_a_consumer_asks_for_something_in_one_way(
    cf: Counterfoil, service: SimulatedConsumers
) -> None:
    with pytest.raises(UnsendableValue, match="must ask for"):
        cf.consumers.put("scorer")
    with pytest.raises(UsageError, match="not both"):
        cf.consumers.put("scorer", types="payment", query=QueryItem(tags="a:b"))
    assert service.received == []


def test_what_is_settled_cannot_be_changed(cf: Counterfoil, scorer: Consumer) -> None:
    with pytest.raises(ConsumerStarted) as refused:
        cf.consumers.put("scorer", types="refund", start="now")
    assert [error.pointer for error in refused.value.errors] == ["/start", "/query"]
    assert cf.consumers.put("scorer", types="refund", change_query=True).query != scorer.query


def test_consumers_are_read_one_by_one_and_through_pages(
    cf: Counterfoil, service: SimulatedConsumers
) -> None:
    for name in "abc":
        cf.consumers.put(name, types="payment")
    assert [consumer.name for consumer in cf.consumers.list(limit=2)] == ["a", "b", "c"]
    assert [received.path for received in service.received[-2:]] == ["/consumers"] * 2
    assert cf.consumers.get("b").name == "b"
    with pytest.raises(NotFoundError):
        cf.consumers.get("nobody")


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_that_would_be_another_path_is_not_sent(
    cf: Counterfoil, service: SimulatedConsumers, name: str
) -> None:
    with pytest.raises(UnsendableValue):
        cf.consumers.get(name)
    assert service.received == []


@pytest.mark.usefixtures("scorer")
def test_a_consumer_is_paused_and_resumed(cf: Counterfoil, service: SimulatedConsumers) -> None:
    assert cf.consumers.pause("scorer", reason="A new model.").status == "paused"
    assert sent(service) == {"reason": "A new model."}
    assert cf.consumers.claim("scorer", holder="h").status == "paused"
    assert cf.consumers.resume("scorer", reason="It is there.").status == "running"
    assert service.raw_paths[1:] == [
        "/consumers/scorer/pause",
        "/consumers/scorer/claim",
        "/consumers/scorer/resume",
    ]


@pytest.mark.usefixtures("scorer")
@pytest.mark.parametrize(
    ("to", "written"),
    [
        ("beginning", "beginning"),
        ("now", "now"),
        (17, {"after": 17}),
        (datetime(2027, 3, 1, tzinfo=UTC), {"time": "2027-03-01T00:00:00+00:00"}),
    ],
)
def test_a_consumer_goes_on_from_where_it_is_told(
    cf: Counterfoil, service: SimulatedConsumers, to: Any, written: object
) -> None:
    (held,) = cf.consumers.claim("scorer", holder="h")
    cf.consumers.seek("scorer", to, reason="Once more.")
    assert sent(service) == {"to": written, "reason": "Once more."}
    with pytest.raises(LeaseLost):
        cf.consumers.ack("scorer", held)


@pytest.mark.usefixtures("scorer")
def test_a_place_without_a_zone_is_not_sent(cf: Counterfoil) -> None:
    with pytest.raises(UnsendableValue, match="without a time zone"):
        cf.consumers.seek("scorer", datetime(2027, 1, 1), reason="No.")  # noqa: DTZ001 - the point


@pytest.mark.usefixtures("scorer")
def test_a_consumer_with_dead_letters_is_deleted_only_on_purpose(
    cf: Counterfoil, service: SimulatedConsumers
) -> None:
    cf.consumers.set_aside("scorer", cf.consumers.claim("scorer", holder="h"), reason="Broken.")
    with pytest.raises(APIStatusError) as refused:
        cf.consumers.delete("scorer")
    assert refused.value.problem == "consumer-has-dead-letters"
    deleted = cf.consumers.delete("scorer", dead_letters="drop")
    assert dict(service.received[-1].parameters) == {"dead_letters": "drop"}
    assert service.received[-1].body == b""
    assert (deleted.name, deleted.unfinished, deleted.dead_letters) == ("scorer", 2, 1)
    assert service.consumers == {}


# --- Working ----------------------------------------------------------------------------


@pytest.mark.usefixtures("scorer")
def test_a_claim_brings_events_with_what_to_settle_them_with(
    cf: Counterfoil, service: SimulatedConsumers
) -> None:
    claimed = cf.consumers.claim("scorer", holder="h", count=2, wait_seconds=1.5)
    assert sent(service) == {"holder": "h", "count": 2, "wait_seconds": 1.5}
    assert (len(claimed), claimed.status, claimed.answered_at) == (2, "running", BEGAN)
    first, second = claimed
    assert isinstance(first.event, Event)
    assert (first.event.id, first.attempt) == (1, 1)
    assert first.lease_ends == BEGAN + timedelta(seconds=60)
    assert first.token < second.token
    assert service.states() == ["held", "held", "ready"]


@pytest.mark.usefixtures("scorer")
def test_a_claim_acknowledges_what_was_held_before(
    cf: Counterfoil, service: SimulatedConsumers
) -> None:
    first = cf.consumers.claim("scorer", holder="h")
    assert cf.consumers.claim("scorer", holder="h", done=first).deliveries[0].event.id == 2
    assert sent(service)["done"] == [first.deliveries[0].token]
    assert service.states() == ["done", "held", "ready"]


def test_a_wait_that_is_asked_for_comes_on_top_of_the_timeout(service: SimulatedConsumers) -> None:
    limits: list[dict[str, float]] = []

    def noted(request: httpx2.Request) -> httpx2.Response:
        limits.append(request.extensions["timeout"])
        return service.handle(request)

    service.add(event_type="payment")
    with Counterfoil(
        http_client=httpx2.Client(transport=httpx2.MockTransport(noted)), timeout=5
    ) as patient:
        patient.consumers.put("scorer", types="payment")
        patient.consumers.claim("scorer", holder="h", wait_seconds=20)
    assert [limit["read"] for limit in limits] == [5.0, 25.0]
    assert [limit["connect"] for limit in limits] == [5.0, 5.0]


@pytest.mark.usefixtures("scorer")
def test_a_claim_whose_answer_is_lost_brings_the_same_again(
    cf: Counterfoil, service: SimulatedConsumers
) -> None:
    service.faults.append(lost_answer())
    claimed = cf.consumers.claim("scorer", holder="h", count=2)
    assert [delivery.event.id for delivery in claimed] == [1, 2]
    assert service.states() == ["held", "held", "ready"]
    first, again = keys_sent(service)[-2:]
    assert first == again


@pytest.mark.usefixtures("scorer")
def test_a_claim_of_which_nothing_is_known_says_with_which_key_to_ask(
    connect: Connect, service: SimulatedConsumers
) -> None:
    cf = connect(max_retries=0)
    service.faults.append(lost_answer())
    with pytest.raises(OutcomeUnknown) as unknown:
        cf.consumers.claim("scorer", holder="h")
    key = unknown.value.idempotency_key
    (delivery,) = cf.consumers.claim("scorer", holder="h", idempotency_key=key)
    assert delivery.event.id == 1


@pytest.mark.usefixtures("scorer")
def test_what_is_acknowledged_alone_stores_nothing(
    cf: Counterfoil, service: SimulatedConsumers
) -> None:
    claimed = cf.consumers.claim("scorer", holder="h", count=3)
    assert cf.consumers.ack("scorer", claimed.deliveries[0]) is None
    assert sent(service) == {"tokens": [claimed.deliveries[0].token]}
    assert cf.consumers.ack("scorer", [each.token for each in claimed.deliveries[1:]]) is None
    assert service.states() == ["done"] * 3
    assert service.head == 4  # The payments, and the making of the consumer.


@pytest.mark.usefixtures("scorer")
def test_an_outcome_is_stored_in_the_same_step(
    cf: Counterfoil, service: SimulatedConsumers
) -> None:
    claimed = cf.consumers.claim("scorer", holder="h")
    as_mapping = {"agent_name": "scorer", "event_type": "note", "payload": {}, "caused_by": [1]}
    stored = cf.consumers.ack("scorer", claimed, events=[SCORED, as_mapping])
    assert stored is not None
    assert (stored.ids, stored.replayed) == ((5, 6), False)
    assert [event["event_type"] for event in service.events[-2:]] == ["score", "note"]


@pytest.mark.usefixtures("scorer")
def test_an_acknowledgement_whose_answer_is_lost_is_made_once(
    cf: Counterfoil, service: SimulatedConsumers
) -> None:
    claimed = cf.consumers.claim("scorer", holder="h")
    service.faults.append(lost_answer())
    stored = cf.consumers.ack("scorer", claimed, events=[SCORED])
    assert stored is not None
    assert (stored.ids, stored.replayed) == ((5,), True)
    assert service.head == 5


@pytest.mark.usefixtures("scorer")
def test_an_acknowledgement_claims_what_is_next(
    cf: Counterfoil, service: SimulatedConsumers
) -> None:
    first = cf.consumers.claim("scorer", holder="h")
    done = cf.consumers.ack("scorer", first, events=[SCORED], next=Next(holder="h"))
    assert sent(service)["next"] == {"holder": "h", "count": 1}
    assert done.stored is not None
    assert (done.stored.ids, done.stored.replayed) == ((5,), False)
    assert done.next is not None
    assert [delivery.event.id for delivery in done.next] == [2]
    assert (done.next.status, done.next.answered_at) == ("running", BEGAN)
    last = cf.consumers.ack("scorer", done.next, next=Next(holder="h", count=10))
    assert sent(service) == {
        "tokens": [done.next.deliveries[0].token],
        "next": {"holder": "h", "count": 10},
    }
    assert (last.stored, [delivery.event.id for delivery in last.next or ()]) == (None, [3])
    assert service.states() == ["done", "done", "held"]
    with pytest.raises(FrozenInstanceError):
        last.next = None  # type: ignore[misc]  # that is the point


@pytest.mark.usefixtures("scorer")
@pytest.mark.parametrize("events", [[], [SCORED]])
def test_what_was_next_in_a_lost_answer_is_brought_again(
    cf: Counterfoil, service: SimulatedConsumers, events: list[NewEvent]
) -> None:
    claimed = cf.consumers.claim("scorer", holder="h")
    service.faults.append(lost_answer())
    done = cf.consumers.ack("scorer", claimed, events=events, next=Next(holder="h"))
    assert [delivery.event.id for delivery in done.next or ()] == [2]
    assert (done.stored is not None) == bool(events)
    assert done.stored is None or done.stored.replayed
    assert service.states() == ["done", "held", "ready"]


@pytest.mark.usefixtures("scorer")
def test_an_acknowledgement_stands_though_nothing_was_claimed(
    cf: Counterfoil, service: SimulatedConsumers
) -> None:
    answer = {"ids": [5], "created_at": "2025-01-02T03:04:05+00:00", "status": "stored"}
    service.faults.append(Fault(httpx2.Response(201, json={**answer, "next": None})))
    done = cf.consumers.ack("scorer", "token", events=[SCORED], next=Next(holder="h"))
    assert isinstance(done, Acknowledged)
    assert done.stored is not None
    assert (done.stored.ids, done.next) == ((5,), None)


@pytest.mark.usefixtures("scorer")
@pytest.mark.parametrize(
    "document",
    [{}, {"status": "done"}, {"status": "done", "next": []}, {"status": "done", "next": {}}],
)
def test_an_answer_that_does_not_say_what_is_next_is_none(
    connect: Connect, service: SimulatedConsumers, document: object
) -> None:
    service.faults.append(Fault(httpx2.Response(200, json=document)))
    with pytest.raises(OutcomeUnknown) as unknown:
        connect(max_retries=0).consumers.ack("scorer", "token", next=Next(holder="h"))
    assert isinstance(unknown.value.__cause__, UnexpectedAnswer)


@pytest.mark.usefixtures("scorer")
@pytest.mark.parametrize(
    ("event", "text"),
    [
        ({"agent_name": "a", "event_type": "t"}, "payload"),
        ({"agent_name": "a", "event_type": "t", "payload": {}, "colour": 1}, "colour"),
        ("score", "a mapping, not str"),
    ],
)
def test_an_outcome_that_is_no_event_is_not_sent(
    cf: Counterfoil, service: SimulatedConsumers, event: Any, text: str
) -> None:
    with pytest.raises(UnsendableValue, match=text) as refused:
        cf.consumers.ack("scorer", "token", events=[SCORED, event])
    assert refused.value.pointer == "/events/1"
    assert len(service.received) == 1


@pytest.mark.usefixtures("scorer")
def test_an_outcome_under_a_condition_says_how_long_the_lease_holds(
    cf: Counterfoil, service: SimulatedConsumers
) -> None:
    claimed = cf.consumers.claim("scorer", holder="h")
    with pytest.raises(ConditionFailed) as refused:
        cf.consumers.ack(
            "scorer",
            claimed,
            events=[SCORED],
            condition=Condition(QueryItem(types="payment"), after=2),
        )
    assert refused.value.lease_ends == BEGAN + timedelta(seconds=60)
    assert [conflict.id for conflict in refused.value.conflicts] == [3]
    assert service.states() == ["held", "ready", "ready"]


def test_a_refused_condition_elsewhere_has_no_lease(cf: Counterfoil) -> None:
    cf.events.append(agent_name="a", event_type="t", payload={})
    with pytest.raises(ConditionFailed) as refused:
        cf.events.append(
            agent_name="a", event_type="t", payload={}, condition=Condition(QueryItem(types="t"))
        )
    assert refused.value.lease_ends is None


@pytest.mark.usefixtures("scorer")
def test_what_was_lost_is_named_and_nothing_was_done(
    cf: Counterfoil, service: SimulatedConsumers
) -> None:
    claimed = cf.consumers.claim("scorer", holder="h", count=2)
    cf.consumers.release("scorer", claimed.deliveries[0])
    with pytest.raises(LeaseLost) as lost:
        cf.consumers.ack("scorer", claimed, events=[SCORED])
    assert lost.value.lost == (claimed.deliveries[0].token,)
    assert service.states() == ["ready", "held", "ready"]
    assert service.head == 4


@pytest.mark.usefixtures("scorer")
@pytest.mark.parametrize("lost", [None, "x", [1, {}]])
def test_a_loss_that_names_nothing_is_a_loss_all_the_same(
    cf: Counterfoil, service: SimulatedConsumers, lost: object
) -> None:
    service.faults.append(Fault(problem(409, "lease-lost", "No.", lost=lost)))
    with pytest.raises(LeaseLost) as refused:
        cf.consumers.extend("scorer", "token")
    assert refused.value.lost == ()


@pytest.mark.usefixtures("scorer")
def test_a_lease_is_extended(cf: Counterfoil, service: SimulatedConsumers) -> None:
    claimed = cf.consumers.claim("scorer", holder="h")
    assert cf.consumers.extend("scorer", claimed) == BEGAN + timedelta(seconds=60)
    assert sent(service) == {"tokens": [claimed.deliveries[0].token]}
    ends = cf.consumers.extend("scorer", claimed, lease_seconds=600)
    assert ends == BEGAN + timedelta(seconds=600)
    assert sent(service)["lease_seconds"] == 600
    # To extend twice does no harm, so there is nothing to remember.
    assert keys_sent(service)[-2:] == [None, None]


@pytest.mark.usefixtures("scorer")
def test_what_is_given_back_counts_only_with_a_reason(
    cf: Counterfoil, service: SimulatedConsumers
) -> None:
    claimed = cf.consumers.claim("scorer", holder="h")
    cf.consumers.release("scorer", claimed, delay_seconds=0)
    assert sent(service)["delay_seconds"] == 0
    assert "reason" not in sent(service)
    claimed = cf.consumers.claim("scorer", holder="h")
    assert claimed.deliveries[0].attempt == 1
    cf.consumers.release("scorer", claimed, delay_seconds=0, reason="Overloaded.")
    assert cf.consumers.claim("scorer", holder="h").deliveries[0].attempt == 2


# --- Dead letters -----------------------------------------------------------------------


@pytest.mark.usefixtures("scorer")
def test_a_dead_letter_says_what_was_tried(cf: Counterfoil) -> None:
    claimed = cf.consumers.claim("scorer", holder="h")
    cf.consumers.release("scorer", claimed, delay_seconds=0, reason="Overloaded.")
    claimed = cf.consumers.claim("scorer", holder="h")
    assert cf.consumers.set_aside("scorer", claimed, reason="No such currency.") == (5,)
    (letter,) = cf.consumers.dead_letters("scorer")
    assert (letter.event_id, letter.reason, letter.said_by) == (1, "No such currency.", 5)
    assert (letter.set_aside_at, letter.holds_key) == (BEGAN, False)
    (attempt,) = letter.attempts
    assert (attempt.attempt, attempt.holder, attempt.reason) == (1, "h", "Overloaded.")
    assert cf.consumers.dead_letter("scorer", letter) == letter
    assert cf.consumers.dead_letter("scorer", claimed.deliveries[0].event) == letter
    with pytest.raises(NotFoundError):
        cf.consumers.dead_letter("scorer", 2)


@pytest.mark.usefixtures("scorer")
def test_dead_letters_are_read_through_pages(cf: Counterfoil, service: SimulatedConsumers) -> None:
    claimed = cf.consumers.claim("scorer", holder="h", count=3)
    cf.consumers.set_aside("scorer", claimed, reason="Broken.")
    letters = cf.consumers.dead_letters("scorer", limit=2)
    assert [letter.event_id for letter in letters] == [1, 2, 3]
    assert service.raw_paths[-2:] == ["/consumers/scorer/dead-letters"] * 2


@pytest.mark.usefixtures("scorer")
def test_dead_letters_are_replayed_and_dropped(
    cf: Counterfoil, service: SimulatedConsumers
) -> None:
    claimed = cf.consumers.claim("scorer", holder="h", count=3)
    cf.consumers.set_aside("scorer", claimed, reason="Broken.")
    first, *_ = cf.consumers.dead_letters("scorer")
    assert cf.consumers.replay("scorer", first) == (1,)
    assert sent(service) == {"event_ids": [1]}
    assert cf.consumers.replay("scorer", [2], reason="Mended.") == (2,)
    assert sent(service) == {"event_ids": [2], "reason": "Mended."}
    assert cf.consumers.drop("scorer", all=True, reason="A test.") == (3,)
    assert sent(service) == {"all": True, "reason": "A test."}
    assert service.states() == ["ready", "ready", "done"]


def test_some_are_meant_or_all(cf: Counterfoil, service: SimulatedConsumers) -> None:
    with pytest.raises(UsageError, match="all=True"):
        cf.consumers.replay("scorer")
    with pytest.raises(UsageError, match="all=True"):
        cf.consumers.drop("scorer", 1, all=True, reason="No.")
    assert service.received == []


# --- Answers that are none --------------------------------------------------------------


@pytest.mark.usefixtures("scorer")
@pytest.mark.parametrize(
    "document",
    [
        {},
        {"deliveries": {}, "status": "running"},
        {"deliveries": [{"event": {}, "attempt": 1}], "status": "running"},
        {"deliveries": []},
    ],
)
def test_an_answer_of_another_shape_is_no_claim(
    connect: Connect, service: SimulatedConsumers, document: object
) -> None:
    service.faults.append(Fault(httpx2.Response(200, json=document)))
    with pytest.raises(OutcomeUnknown) as unknown:
        connect(max_retries=0).consumers.claim("scorer", holder="h")
    assert isinstance(unknown.value.__cause__, UnexpectedAnswer)


@pytest.mark.usefixtures("scorer")
@pytest.mark.parametrize("date", ["yesterday", "Thu, 02 Jan 2025 03:04:05 -0000"])
def test_a_time_that_cannot_be_read_is_none(
    cf: Counterfoil, service: SimulatedConsumers, date: str
) -> None:
    answer = httpx2.Response(
        200, json={"deliveries": [], "status": "running"}, headers={"Date": date}
    )
    service.faults.append(Fault(answer))
    assert cf.consumers.claim("scorer", holder="h").answered_at is None


@pytest.mark.usefixtures("scorer")
def test_a_refused_field_is_named(cf: Counterfoil, service: SimulatedConsumers) -> None:
    errors = [{"pointer": "/count", "message": "At most 1,000."}]
    service.faults.append(Fault(problem(422, "invalid-input", "No.", errors=errors)))
    with pytest.raises(InvalidRequestError) as refused:
        cf.consumers.claim("scorer", holder="h", count=2_000)
    assert refused.value.errors[0].pointer == "/count"
