"""Reading: pages that belong together, filters that arrive, values that keep their digits."""

import asyncio
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx2
import pytest

from counterfoil import (
    APIConnectionError,
    AsyncCounterfoil,
    Counterfoil,
    NotFoundError,
    QueryItem,
    UnexpectedAnswer,
    UsageError,
)
from tests.unit.client.doors import Connect
from tests.unit.client.simulated_book import Fault, SimulatedBook

EVENT = {
    "id": 1,
    "agent_name": "a",
    "event_type": "t",
    "payload": {},
    "tags": [],
    "created_at": "2025-01-02T03:04:05Z",
}


def ids(events: object) -> list[int]:
    return [event.id for event in events]  # type: ignore[attr-defined]  # of either door


def test_an_event_comes_back_as_it_was_written(cf: Counterfoil, book: SimulatedBook) -> None:
    book.add(
        payload={"amount": Decimal("12.30"), "count": 3},
        tags=["b:2", "a:1"],
        occurred_at="2025-01-01T00:00:00Z",
        caused_by=[1],
        context={"model": "m-1"},
    )
    event = cf.events.get(1)
    assert event.payload == {"amount": Decimal("12.30"), "count": 3}
    assert event.tags == ("a:1", "b:2")
    assert event.created_at == datetime(2025, 1, 2, 3, 4, 5, 6, UTC)
    assert event.occurred_at == datetime(2025, 1, 1, tzinfo=UTC)
    assert event.caused_by == (1,)
    assert event.context == {"model": "m-1"}
    assert json.loads(event.to_json(), parse_float=Decimal) == book.events[0] | {
        "occurred_at": "2025-01-01T00:00:00+00:00"
    }
    assert '"amount":12.30' in event.to_json()
    assert hash(event) == hash(cf.events.get(1))
    with pytest.raises(NotFoundError, match="There is no event 2"):
        cf.events.get(2)


def test_nothing_is_read_before_it_is_asked_for(cf: Counterfoil, book: SimulatedBook) -> None:
    book.add(5)
    events = cf.events.list(limit=2)
    with pytest.raises(UsageError, match="Nothing has been read yet"):
        _ = events.head
    assert book.received == []
    assert next(events).id == 1
    assert next(events).id == 2
    assert len(book.received) == 1
    assert ids(events) == [3, 4, 5]
    assert len(book.received) == 3
    assert ids(events) == []
    assert len(book.received) == 3


@pytest.mark.parametrize(
    ("order", "expected"), [("asc", [1, 2, 3, 4, 5]), ("desc", [5, 4, 3, 2, 1])]
)
def test_all_pages_show_the_book_as_of_the_first(
    cf: Counterfoil, book: SimulatedBook, order: str, expected: list[int]
) -> None:
    book.add(5)
    book.before_page = lambda: book.add() if book.received[1:] else None
    events = cf.events.list(order=order, limit=2)  # type: ignore[arg-type]  # a plain str, as parametrize gives
    assert ids(events) == expected
    assert (events.head, events.incarnation) == (5, book.incarnation)
    assert book.head == 7


def test_pages_can_be_had_one_by_one(cf: Counterfoil, book: SimulatedBook) -> None:
    book.add(3)
    pages = list(cf.events.list(limit=2).pages())
    assert [ids(page) for page in pages] == [[1, 2], [3]]
    assert [len(page) for page in pages] == [2, 1]
    assert pages[0][-1].id == 2
    assert {page.head for page in pages} == {3}


def test_every_filter_arrives_and_is_sent_again_with_each_page(
    cf: Counterfoil, book: SimulatedBook
) -> None:
    book.add(9, agent_name="fraud", event_type="flag", tags=["a:1", "b:2"])
    events = cf.events.list(
        tags=["a:1", "b:2"],
        types="flag",
        agents=("fraud", "risk"),
        payload={"amount": Decimal("1.50")},
        after=1,
        before=9,
        up_to=8,
        order="desc",
        limit=4,
    )
    assert ids(events) == [8, 7, 6, 5, 4, 3, 2]
    first, second = (received.parameters.multi_items() for received in book.received)
    assert first == [
        ("tag", "a:1"),
        ("tag", "b:2"),
        ("type", "flag"),
        ("agent", "fraud"),
        ("agent", "risk"),
        ("payload", '{"amount":1.50}'),
        ("after", "1"),
        ("before", "9"),
        ("up_to", "8"),
        ("order", "desc"),
        ("limit", "4"),
    ]
    assert second == [*first, ("cursor", "9.5")]


def test_a_query_of_several_items_reads_through_all_pages(
    cf: Counterfoil, book: SimulatedBook
) -> None:
    for kind in ("flag", "hold", "note") * 3:
        book.add(event_type=kind)
    items = [QueryItem(types="flag"), QueryItem(types="hold", agents="other")]
    assert ids(cf.events.query(items, payload={}, limit=4)) == [1, 2, 4, 5, 7, 8]
    assert json.loads(book.received[1].body) == {
        "query": [{"types": ["flag"]}, {"types": ["hold"], "agents": ["other"]}],
        "payload": {},
        "order": "asc",
        "limit": 4,
        "cursor": "9.5",
    }
    assert ids(cf.events.query(QueryItem(types="note"))) == [3, 6, 9]


def test_the_latest_of_an_agent_come_newest_first_with_their_head(
    cf: Counterfoil, book: SimulatedBook
) -> None:
    book.add(3, agent_name="a/b ü")
    book.add(1)
    page = cf.events.latest("a/b ü", limit=2)
    assert ids(page) == [3, 2]
    assert (page.head, page.incarnation) == (4, book.incarnation)
    assert ids(cf.events.latest("a/b ü", before=2)) == [1]


def test_a_lost_page_is_read_again(cf: Counterfoil, book: SimulatedBook) -> None:
    book.add(3)
    book.faults.extend([None, Fault(httpx2.ReadError("reset"))])
    assert ids(cf.events.list(limit=2)) == [1, 2, 3]


def test_a_page_that_cannot_be_had_ends_the_iteration_with_its_error(
    connect: Connect, book: SimulatedBook
) -> None:
    book.add(3)
    book.faults.extend([None, Fault(httpx2.ReadError("reset"))])
    events = connect(max_retries=0).events.list(limit=2)
    assert [next(events).id, next(events).id] == [1, 2]
    with pytest.raises(APIConnectionError):
        next(events)
    assert ids(events) == [3]  # Nothing was skipped.


# --- Pages that contradict each other ---------------------------------------------------


def page(head: int, positions: list[int], more: str | None = None, life: str = "x") -> Fault:
    events = [EVENT | {"id": position} for position in positions]
    document = {"events": events, "head": head, "next": more, "has_more": more is not None}
    headers = {"Counterfoil-Incarnation": life}
    return Fault(httpx2.Response(200, json=document, headers=headers))


@pytest.mark.parametrize(
    ("pages", "what"),
    [
        ([page(5, [1], "c"), page(6, [2])], "The head moved from 5 to 6"),
        ([page(5, [1], "c"), page(5, [2], life="y")], "do not belong together"),
        ([page(5, [1, 2], "c"), page(5, [2])], "Event 2 came after event 2"),
        ([page(5, [2, 1])], "Event 1 came after event 2"),
        ([page(5, [6])], "Event 6 lies above the head 5"),
        ([page(5, [1], "c"), page(5, [], "c")], "no cursor leads on"),
    ],
)
def test_pages_that_do_not_belong_together_are_refused(
    cf: Counterfoil, book: SimulatedBook, pages: list[Fault], what: str
) -> None:
    book.faults.extend(pages)
    with pytest.raises(UnexpectedAnswer, match=what):
        list(cf.events.list())


WRONG: list[dict[str, Any]] = [
    {"id": True},
    {"agent_name": 2},
    {"payload": []},
    {"tags": 3},
    {"created_at": 5},
    {"created_at": "soon"},
    {"created_at": "2025-01-02T03:04:05"},
    {"occurred_at": ""},
    {"caused_by": ["1"]},
    {"context": "m-1"},
]


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b"{}", *(json.dumps(EVENT | wrong).encode() for wrong in WRONG)]
)
def test_an_answer_that_is_not_the_services_is_not_believed(
    cf: Counterfoil, book: SimulatedBook, body: bytes
) -> None:
    book.faults.append(Fault(httpx2.Response(200, content=body)))
    with pytest.raises(UnexpectedAnswer, match="Check that `base_url` names the service"):
        cf.events.get(1)


def test_asynchronous_reads_read_like_python(book: SimulatedBook) -> None:
    async def read() -> list[int]:
        async with httpx2.AsyncClient(transport=book.transport) as http:
            cf = AsyncCounterfoil(http_client=http)
            found = [event.id async for event in cf.events.list(limit=2)]
            found += [len(page) async for page in cf.events.list(limit=2).pages()]
            async for event in cf.events.follow(after=2):
                found.append(event.id)
                break
            return found

    book.add(3)
    assert asyncio.run(read()) == [1, 2, 3, 2, 1, 3]
