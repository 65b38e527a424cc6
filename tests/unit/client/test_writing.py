"""Appending: what is sent, once, however often it has to be sent."""

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import httpx2
import pytest

from counterfoil import (
    APIConnectionError,
    Condition,
    Counterfoil,
    IdempotencyMismatch,
    NewEvent,
    OutcomeUnknown,
    QueryItem,
    UnsendableValue,
)
from tests.unit.client.doors import Clock, Connect
from tests.unit.client.simulated_book import Fault, SimulatedBook, problem

EVENT: dict[str, Any] = {
    "agent_name": "risk",
    "event_type": "scored",
    "payload": {"customer_id": "c_1"},
}


def keys(book: SimulatedBook) -> list[str]:
    return [received.headers["Idempotency-Key"] for received in book.received]


def test_an_event_is_sent_with_what_was_given_and_nothing_else(
    cf: Counterfoil, book: SimulatedBook
) -> None:
    stored = cf.events.append(**EVENT)
    assert (stored.id, stored.replayed) == (1, False)
    assert stored.created_at == datetime(2025, 1, 2, 3, 4, 5, 6, UTC)
    (received,) = book.received
    assert (received.method, received.path) == ("POST", "/events")
    assert json.loads(received.body) == EVENT
    assert received.headers["Content-Type"] == "application/json"
    assert received.headers["User-Agent"].startswith("counterfoil-python/")
    assert UUID(keys(book)[0]).version == 4


def test_everything_that_an_event_can_hold_arrives(cf: Counterfoil, book: SimulatedBook) -> None:
    book.add(2)
    cause = cf.events.get(2)
    cf.events.append(
        agent_name="risk",
        event_type="scored",
        payload={"amount": Decimal("12.30"), "score": 0.1},
        tags="transaction:tx_1",
        occurred_at=datetime(2025, 1, 2, tzinfo=timezone(timedelta(hours=2))),
        caused_by=[1, cause],
        context={"model": "m-1"},
        condition=Condition(
            [QueryItem(types=["flag"], agents="fraud"), QueryItem(tags="customer:c_1")],
            after=2,
            incarnation=book.incarnation,
        ),
    )
    assert book.received[-1].body == (
        b'{"agent_name":"risk","event_type":"scored","payload":{"amount":12.30,"score":0.1},'
        b'"tags":["transaction:tx_1"],"occurred_at":"2025-01-02T00:00:00+02:00",'
        b'"caused_by":[1,2],"context":{"model":"m-1"},"condition":{"fail_if":'
        b'[{"types":["flag"],"agents":["fraud"]},{"tags":["customer:c_1"]}],"after":2,'
        b'"incarnation":"7c9e6679-7425-40de-944b-e07fc1f90ae7"}}'
    )


def test_a_batch_is_one_call(cf: Counterfoil, book: SimulatedBook) -> None:
    batch = cf.events.append_batch(
        [NewEvent(**EVENT), NewEvent(**EVENT, tags={"a:b"}, occurred_at="2025-01-02T03:04:05Z")],
        condition=Condition(QueryItem(types="flag")),
    )
    assert batch.ids == (1, 2)
    assert not batch.replayed
    (received,) = book.received
    assert received.path == "/events/batch"
    assert json.loads(received.body) == {
        "events": [EVENT, EVENT | {"tags": ["a:b"], "occurred_at": "2025-01-02T03:04:05Z"}],
        "condition": {"fail_if": [{"types": ["flag"]}]},
    }


def test_a_batch_answered_with_too_few_ids_is_not_believed(
    cf: Counterfoil, book: SimulatedBook
) -> None:
    short = {"ids": [1], "created_at": "2025-01-02T03:04:05Z", "status": "stored"}
    book.faults.append(Fault(httpx2.Response(201, json=short)))
    with pytest.raises(OutcomeUnknown, match="1 ids for 2 events"):
        cf.events.append_batch([NewEvent(**EVENT), NewEvent(**EVENT)])


# --- Once, however often it has to be sent ----------------------------------------------


def test_each_call_has_a_key_of_its_own(cf: Counterfoil, book: SimulatedBook) -> None:
    cf.events.append(**EVENT)
    cf.events.append(**EVENT)
    assert len(set(keys(book))) == 2
    assert book.head == 2


@pytest.mark.parametrize(
    "fault",
    [
        Fault(httpx2.ConnectError("refused")),
        Fault(httpx2.ReadError("reset"), served=True),
        Fault(httpx2.ReadTimeout("late"), served=True),
        Fault(problem(503, "outcome-unknown", "Lost."), served=True),
        Fault(problem(503, "busy", "Full.", headers={"Retry-After": "1"})),
        Fault(problem(429, "too-many-requests", "Slow down.")),
    ],
)
def test_a_retry_sends_the_same_key_and_body_and_stores_once(
    cf: Counterfoil, book: SimulatedBook, clock: Clock, fault: Fault
) -> None:
    book.faults.extend([fault, fault])
    stored = cf.events.append(**EVENT)
    assert len(book.received) == 3
    assert len(set(keys(book))) == 1
    assert len({received.body for received in book.received}) == 1
    assert book.head == stored.id == 1
    assert stored.replayed == fault.served
    assert len(clock.waits) == 2


def test_retry_after_is_waited_for(cf: Counterfoil, book: SimulatedBook, clock: Clock) -> None:
    book.faults.append(Fault(problem(503, "busy", "Full.", headers={"Retry-After": "9"})))
    cf.events.append(**EVENT)
    (wait,) = clock.waits
    assert 9.0 <= wait <= 9.0 * 1.25


def test_a_write_in_doubt_can_be_settled_with_its_key(cf: Counterfoil, book: SimulatedBook) -> None:
    book.faults.extend([Fault(httpx2.ReadError("reset"), served=True)] * 3)
    with pytest.raises(OutcomeUnknown) as raised:
        cf.events.append(**EVENT)
    assert raised.value.attempts == 3
    settled = cf.events.append(**EVENT, idempotency_key=raised.value.idempotency_key)
    assert settled.replayed
    assert book.head == settled.id == 1


def test_a_service_that_is_not_there_leaves_no_doubt(connect: Connect) -> None:
    def refuse(_: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused")

    with pytest.raises(APIConnectionError, match="cannot be reached"):
        connect(httpx2.MockTransport(refuse)).events.append(**EVENT)


def test_ones_own_key_is_sent_as_it_is(cf: Counterfoil, book: SimulatedBook) -> None:
    assert not cf.events.append(**EVENT, idempotency_key="order-17/approve").replayed
    assert cf.events.append(**EVENT, idempotency_key="order-17/approve").replayed
    assert keys(book) == ["order-17/approve"] * 2
    with pytest.raises(IdempotencyMismatch):
        cf.events.append(**EVENT | {"payload": {}}, idempotency_key="order-17/approve")
    assert book.head == 1


@pytest.mark.parametrize("key", ["", "with space", "ü", "line\nbreak", "x" * 256])
def test_a_key_that_cannot_be_a_header_is_refused_before_sending(
    cf: Counterfoil, book: SimulatedBook, key: str
) -> None:
    with pytest.raises(UnsendableValue) as refused:
        cf.events.append(**EVENT, idempotency_key=key)
    assert refused.value.pointer == "/Idempotency-Key"
    assert book.received == []


def test_what_cannot_be_written_is_refused_before_sending(
    cf: Counterfoil, book: SimulatedBook
) -> None:
    with pytest.raises(UnsendableValue) as refused:
        cf.events.append_batch(
            [NewEvent(**EVENT), NewEvent(**EVENT | {"payload": {"score": float("nan")}})]
        )
    assert refused.value.pointer == "/events/1/payload/score"
    with pytest.raises(UnsendableValue, match="without a time zone") as naive:
        cf.events.append_batch(
            [NewEvent(**EVENT, occurred_at=datetime(2025, 1, 1))]  # noqa: DTZ001 - the point
        )
    assert naive.value.pointer == "/events/0/occurred_at"
    assert book.received == []


def test_a_query_that_asks_nothing_cannot_be_made() -> None:
    with pytest.raises(UnsendableValue, match="must ask for"):
        QueryItem()
    with pytest.raises(UnsendableValue, match="at least one item"):
        Condition([])
