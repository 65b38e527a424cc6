"""The guard: everything that matters is read, and a write stands on just that."""

import asyncio
import json
from typing import Any

import httpx2
import pytest

from counterfoil import (
    AsyncCounterfoil,
    BookRestored,
    Busy,
    ConditionFailed,
    Counterfoil,
    Event,
    GuardTooLarge,
    IdempotencyMismatch,
    InvalidRequestError,
    NewEvent,
    OutcomeUnknown,
    QueryItem,
    UnexpectedAnswer,
    UnsendableValue,
    UsageError,
)
from tests.unit.client.doors import Connect
from tests.unit.client.simulated_book import Fault, SimulatedBook, problem

TX = "transaction:tx_987"
APPROVED: dict[str, Any] = {
    "agent_name": "approver",
    "event_type": "approved",
    "payload": {"transaction_id": "tx_987"},
    "tags": (TX,),
}


def flag(book: SimulatedBook) -> None:
    book.add(agent_name="fraud", event_type="flag", tags=[TX])


def test_a_decision_stands_when_nothing_was_added(cf: Counterfoil, book: SimulatedBook) -> None:
    book.add(3)
    with cf.guard(tags=TX, types="flag") as seen:
        assert seen.events == ()
        assert (seen.head, seen.incarnation) == (3, book.incarnation)
        stored = seen.commit(**APPROVED, caused_by=[1])
    assert stored.id == 4
    assert json.loads(book.received[-1].body) == APPROVED | {
        "tags": [TX],
        "caused_by": [1],
        "condition": {
            "fail_if": [{"types": ["flag"], "tags": [TX]}],
            "after": 3,
            "incarnation": book.incarnation,
        },
    }


def test_what_the_decision_rests_on_is_recorded_only_when_it_is_said(
    cf: Counterfoil, book: SimulatedBook
) -> None:
    flag(book)
    with cf.guard(tags=TX) as seen:
        seen.commit(**APPROVED)
        assert "caused_by" not in json.loads(book.received[-1].body)
        seen.refresh()
        seen.commit(**APPROVED, caused_by=seen.events)
        assert json.loads(book.received[-1].body)["caused_by"] == [1, 2]


def test_a_flag_between_the_read_and_the_write_refuses_the_write(
    cf: Counterfoil, book: SimulatedBook
) -> None:
    with cf.guard(tags=TX, types="flag") as seen:
        flag(book)
        with pytest.raises(ConditionFailed) as refused:
            seen.commit(**APPROVED)
    assert [conflict.event_type for conflict in refused.value.conflicts] == ["flag"]
    assert [event["event_type"] for event in book.events] == ["flag"]


def test_after_a_refusal_one_looks_again_and_decides_again(
    cf: Counterfoil, book: SimulatedBook
) -> None:
    with cf.guard(tags=TX, types="flag") as seen:
        flag(book)
        with pytest.raises(ConditionFailed):
            seen.commit(**APPROVED)
        with pytest.raises(UsageError, match="refresh"):
            seen.commit(**APPROVED)
        assert len(book.received) == 2
        seen.refresh()
        assert [event.event_type for event in seen.events] == ["flag"]
        assert seen.commit(**APPROVED | {"event_type": "declined"}).id == 2


def test_what_does_not_match_stands_in_nobodys_way(cf: Counterfoil, book: SimulatedBook) -> None:
    with cf.guard(tags=TX, types="flag") as seen:
        book.add(tags=["transaction:other"], event_type="flag")
        assert seen.commit(**APPROVED).id == 2


def test_leaving_without_a_commit_writes_nothing(cf: Counterfoil, book: SimulatedBook) -> None:
    with cf.guard(tags=TX):
        pass
    with pytest.raises(ZeroDivisionError), cf.guard(tags=TX):
        _ = 1 / 0
    assert [received.path for received in book.received] == ["/events/query"] * 2


def test_a_guard_commits_once(cf: Counterfoil, book: SimulatedBook) -> None:
    with cf.guard(tags=TX, types="flag") as seen:
        seen.commit(**APPROVED)
        with pytest.raises(UsageError, match="has been used"):
            seen.commit(**APPROVED)
        with pytest.raises(UsageError, match="has been used"):
            seen.commit_batch([NewEvent(**APPROVED)])
    assert book.head == 1


def test_a_batch_is_guarded_too(cf: Counterfoil, book: SimulatedBook) -> None:
    with cf.guard(tags=TX, types="flag") as seen:
        assert seen.commit_batch([NewEvent(**APPROVED)] * 2).ids == (1, 2)
    with cf.guard(tags=TX, types="flag") as seen:
        flag(book)
        with pytest.raises(ConditionFailed):
            seen.commit_batch([NewEvent(**APPROVED)] * 2)
    assert book.head == 3


def test_a_write_that_is_made_elsewhere_stands_under_the_same_condition(
    cf: Counterfoil, book: SimulatedBook
) -> None:
    with cf.guard(tags=TX, types="flag") as seen:
        assert cf.events.append(**APPROVED, condition=seen.condition).id == 1
        flag(book)
        with pytest.raises(ConditionFailed):
            cf.events.append(**APPROVED, condition=seen.condition)
        seen.refresh()
        cf.events.append(**APPROVED, condition=seen.condition)
    with pytest.raises(UsageError, match="has read nothing yet"):
        _ = cf.guard(tags=TX).condition


def test_a_query_of_several_items_guards_as_a_whole(cf: Counterfoil, book: SimulatedBook) -> None:
    items = [QueryItem(types="flag", tags=TX), QueryItem(types="hold", tags="customer:c_1")]
    with cf.guard(query=items) as seen:
        book.add(event_type="hold", tags=["customer:c_1"])
        with pytest.raises(ConditionFailed):
            seen.commit(**APPROVED)


# --- It reads all, or fails -------------------------------------------------------------


def test_all_pages_are_read_as_of_one_head(cf: Counterfoil, book: SimulatedBook) -> None:
    book.page_events_max = 3
    for _ in range(10):
        flag(book)
    # An unrelated writer goes on between the pages; the guard's head stays where it was.
    book.before_page = lambda: book.add() if book.received[1:] else None
    with cf.guard(tags=TX, types="flag") as seen:
        assert [event.id for event in seen.events] == list(range(1, 11))
        assert seen.head == 10
        assert book.head == 13
        assert seen.commit(**APPROVED).id == 14


def test_what_was_added_between_its_pages_refuses_the_write(
    cf: Counterfoil, book: SimulatedBook
) -> None:
    book.page_events_max = 3
    for _ in range(4):
        flag(book)
    book.before_page = lambda: flag(book) if book.received[1:] else None
    with cf.guard(tags=TX, types="flag") as seen:
        assert (len(seen.events), seen.head, book.head) == (4, 4, 5)
        with pytest.raises(ConditionFailed):
            seen.commit(**APPROVED)


def test_more_than_it_may_read_is_an_error_and_not_a_part(
    cf: Counterfoil, book: SimulatedBook
) -> None:
    for _ in range(5):
        flag(book)
    guard = cf.guard(tags=TX, max_events=4)
    with pytest.raises(GuardTooLarge) as raised:
        guard.refresh()
    assert (raised.value.max_events, raised.value.head) == (4, 5)
    with pytest.raises(UsageError):
        _ = guard.events
    with pytest.raises(UsageError):
        guard.commit(**APPROVED)
    with cf.guard(tags=TX, max_events=5) as seen:
        assert len(seen.events) == 5


def test_a_page_that_is_lost_for_good_leaves_nothing_to_decide_on(
    connect: Connect, book: SimulatedBook
) -> None:
    book.page_events_max = 1
    flag(book)
    flag(book)
    cf = connect(max_retries=0)
    with cf.guard(tags=TX) as seen:
        book.faults.extend([None, Fault(httpx2.Response(200, content=b"{}"))])
        with pytest.raises(UnexpectedAnswer):
            seen.refresh()
        for look in ("events", "head", "incarnation"):
            with pytest.raises(UsageError):
                getattr(seen, look)
        with pytest.raises(UsageError, match="has not read"):
            seen.commit(**APPROVED)


def test_a_guard_must_ask_for_something(cf: Counterfoil) -> None:
    with pytest.raises(UnsendableValue):
        cf.guard()
    with pytest.raises(UnsendableValue):
        cf.guard(query=[])
    with pytest.raises(UsageError, match="not both"):
        cf.guard(query=QueryItem(types="flag"), tags=TX)
    with pytest.raises(UsageError, match="1 or more"):
        cf.guard(tags=TX, max_events=0)


def test_a_guard_that_was_not_entered_cannot_decide(cf: Counterfoil, book: SimulatedBook) -> None:
    guard = cf.guard(tags=TX)
    with pytest.raises(UsageError, match="Enter it"):
        guard.commit(**APPROVED)
    assert book.received == []


# --- A commit that does not come back ---------------------------------------------------


def test_a_commit_in_doubt_may_only_be_repeated_with_its_key(
    cf: Counterfoil, book: SimulatedBook
) -> None:
    with cf.guard(tags=TX) as seen:
        book.faults.extend([Fault(httpx2.ReadError("reset"), served=True)] * 3)
        with pytest.raises(OutcomeUnknown) as unknown:
            seen.commit(**APPROVED)
        with pytest.raises(UsageError, match="outcome is unknown") as refused:
            seen.commit(**APPROVED)
        key = unknown.value.idempotency_key
        assert key in str(refused.value)
        # The event itself matches the guard's query; the key is looked up before it.
        assert seen.commit(**APPROVED, idempotency_key=key).replayed
        with pytest.raises(UsageError, match="has been used"):
            seen.commit(**APPROVED, idempotency_key=key)
    assert book.head == 1


def test_a_second_try_that_does_not_get_through_leaves_it_in_doubt(
    connect: Connect, book: SimulatedBook
) -> None:
    cf = connect(max_retries=0)
    with cf.guard(tags=TX) as seen:
        book.faults.extend(
            [Fault(httpx2.ReadError("reset"), served=True), Fault(problem(503, "busy", "Full."))]
        )
        with pytest.raises(OutcomeUnknown) as unknown:
            seen.commit(**APPROVED)
        key = unknown.value.idempotency_key
        with pytest.raises(Busy):
            seen.commit(**APPROVED, idempotency_key=key)
        with pytest.raises(UsageError, match="outcome is unknown"):
            seen.commit(**APPROVED)
        assert seen.commit(**APPROVED, idempotency_key=key).replayed


def test_a_second_look_does_not_make_a_commit_in_doubt_forgotten(
    cf: Counterfoil, book: SimulatedBook
) -> None:
    # The approval does not match the guard's query: reading again would not show it.
    with cf.guard(tags=TX, types="flag") as seen:
        book.faults.extend([Fault(httpx2.ReadError("reset"), served=True)] * 3)
        with pytest.raises(OutcomeUnknown) as unknown:
            seen.commit(**APPROVED)
        seen.refresh()
        assert not seen.events
        with pytest.raises(UsageError, match="outcome is unknown"):
            seen.commit(**APPROVED)
        with pytest.raises(IdempotencyMismatch):
            seen.commit(**APPROVED, idempotency_key=unknown.value.idempotency_key)
        assert book.head == 1
        with pytest.raises(UsageError, match="has been used"):
            seen.commit(**APPROVED)


def test_a_second_look_may_write_what_was_lost(cf: Counterfoil, book: SimulatedBook) -> None:
    with cf.guard(tags=TX, types="flag") as seen:
        book.faults.extend([Fault(httpx2.ReadError("reset"))] * 3)
        with pytest.raises(OutcomeUnknown) as unknown:
            seen.commit(**APPROVED)
        flag(book)
        seen.refresh()
        declined = APPROVED | {"event_type": "declined"}
        assert not seen.commit(**declined, idempotency_key=unknown.value.idempotency_key).replayed
    assert [event["event_type"] for event in book.events] == ["flag", "declined"]


def test_a_key_that_was_used_elsewhere_leaves_the_guard_as_it_was(
    cf: Counterfoil, book: SimulatedBook
) -> None:
    cf.events.append(**APPROVED | {"tags": ()}, idempotency_key="taken")
    with cf.guard(tags=TX, types="flag") as seen:
        with pytest.raises(IdempotencyMismatch):
            seen.commit(**APPROVED, idempotency_key="taken")
        assert seen.commit(**APPROVED, idempotency_key="free").id == book.head == 2


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (problem(422, "invalid-input", "No."), InvalidRequestError),
        (problem(503, "busy", "Full."), Busy),
    ],
)
def test_a_write_that_was_not_made_for_another_reason_may_be_made_still(
    connect: Connect, book: SimulatedBook, answer: httpx2.Response, kind: type[Exception]
) -> None:
    with connect(max_retries=0).guard(tags=TX) as seen:
        book.faults.append(Fault(answer))
        with pytest.raises(kind):
            seen.commit(**APPROVED)
        assert seen.commit(**APPROVED).id == 1


def test_what_cannot_be_sent_does_not_use_the_guard_up(cf: Counterfoil) -> None:
    with cf.guard(tags=TX) as seen:
        with pytest.raises(UnsendableValue):
            seen.commit(**APPROVED | {"payload": {"amount": float("nan")}})
        assert seen.commit(**APPROVED).id == 1


def test_a_restored_book_refuses_what_was_decided_before(
    cf: Counterfoil, book: SimulatedBook
) -> None:
    with cf.guard(tags=TX) as seen:
        book.incarnation = "11111111-7425-40de-944b-e07fc1f90ae7"
        with pytest.raises(BookRestored):
            seen.commit(**APPROVED)
        with pytest.raises(UsageError):
            seen.commit(**APPROVED)
        seen.refresh()
        assert seen.commit(**APPROVED).id == 1


def test_a_cancelled_commit_leaves_the_guard_in_doubt(book: SimulatedBook) -> None:
    async def cancelled() -> None:
        sending = asyncio.Event()

        async def hang(request: httpx2.Request) -> httpx2.Response:
            if request.url.path == "/events/query":
                return book.handle(request)
            sending.set()
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

        http = httpx2.AsyncClient(transport=httpx2.MockTransport(hang))
        async with http, AsyncCounterfoil(http_client=http) as cf, cf.guard(tags=TX) as seen:
            commit = asyncio.create_task(seen.commit(**APPROVED))
            await sending.wait()
            with pytest.raises(UsageError, match="under way"):
                await seen.commit(**APPROVED)
            commit.cancel()
            with pytest.raises(asyncio.CancelledError):
                await commit
            with pytest.raises(UsageError, match="outcome is unknown"):
                await seen.commit(**APPROVED)

    asyncio.run(cancelled())


def test_a_guard_tells_its_state(cf: Counterfoil) -> None:
    guard: Any = cf.guard(tags=TX)
    assert "unread" in repr(guard)
    with guard as seen:
        assert "fresh, head=0" in repr(seen)
        event: Event = cf.events.get(seen.commit(**APPROVED).id)
        assert event.event_type == "approved"
        assert "spent" in repr(seen)
