"""The requests of a group behave as if they were run one after another.

One append is held at the lock; what comes to the same process meanwhile waits in its
queue, is seen there, and becomes the next group, in the order of its arrival. That it was
one group is seen afterwards: all its events were written by one transaction.
"""

import uuid
from collections.abc import Callable, Coroutine
from typing import Any

import httpx2
import pytest

from counterfoil.server.log.model import AppendRequest
from counterfoil.server.log.store import AppendResult
from tests.support.appends import (
    Caller,
    Json,
    append_request,
    approval,
    batch_request,
    flag,
    note,
    problem,
    stored,
    unless_flagged,
)
from tests.support.gates import Book
from tests.support.starting import Start

pytestmark = pytest.mark.anyio

Sending = Coroutine[Any, Any, httpx2.Response]
Group = Callable[..., Coroutine[Any, Any, list[httpx2.Response]]]


@pytest.fixture
async def group(book: Book, one: Caller, start: Start[Any]) -> Group:
    """Send requests so that they form one group, in this order; their answers."""

    async def run(*requests: Sending) -> list[httpx2.Response]:
        async with book.held() as gate:
            ahead = start(one.append(note(ahead=True)))
            await book.waiting(1)
            tasks = []
            for count, request in enumerate(requests, start=1):
                tasks.append(start(request))
                await one.queued(count)
            await gate.open()
            written = stored(await ahead)
            answers = [await task for task in tasks]
        ids = [number for answer in answers for number in fresh_ids(answer)]
        transactions = await book.rows(
            "select distinct xmin::text from counterfoil.events"
            " where tenant_id = 1 and position = any (%s)",
            ids,
        )
        assert len(transactions) <= 1, "not one group"
        # No position is left out, whatever was refused.
        assert ids == list(range(written + 1, written + 1 + len(ids)))
        assert await book.head() == written + len(ids)
        return answers

    return run


def fresh_ids(answer: httpx2.Response) -> list[int]:
    """The positions that this request was given, none if it was refused or replayed."""
    if answer.status_code != 201 or "Idempotent-Replayed" in answer.headers:
        return []
    body = answer.json()
    return list(body["ids"]) if "ids" in body else [body["id"]]


@pytest.mark.promise("P4")
async def test_a_flag_and_then_an_approval_in_one_group(
    group: Group, book: Book, one: Caller, tx: str
) -> None:
    """The flag is not committed yet, nor even seen by anybody else, and counts all the same."""
    after = await book.head()
    flagged, approved = await group(one.append(flag(tx)), one.append(approval(tx, after=after)))
    refusal = problem(approved, 409, "condition-failed")
    assert [conflict["id"] for conflict in refusal["conflicts"]] == [stored(flagged)]
    assert refusal["head"] == stored(flagged)


@pytest.mark.promise("P4")
async def test_an_approval_and_then_a_flag_in_one_group(
    group: Group, book: Book, one: Caller, tx: str
) -> None:
    """Nothing was in the way of the approval when its turn came."""
    after = await book.head()
    approved, flagged = await group(one.append(approval(tx, after=after)), one.append(flag(tx)))
    assert stored(flagged) == stored(approved) + 1


@pytest.mark.promise("P4")
async def test_of_two_that_exclude_each_other_in_one_group_the_first_wins(
    group: Group, book: Book, one: Caller, tx: str
) -> None:
    """Each is the other's conflict."""
    body = note(transaction_id=tx)
    condition = {"fail_if": [{"tags": [f"transaction:{tx}"]}], "after": await book.head()}
    first, second, third = await group(
        *(one.append({**body, "condition": condition}) for _ in range(3))
    )
    for loser in (second, third):
        refusal = problem(loser, 409, "condition-failed")
        assert [conflict["id"] for conflict in refusal["conflicts"]] == [stored(first)]


@pytest.mark.promise("P2", "P4")
async def test_refused_requests_between_accepted_ones_leave_no_gap(
    group: Group, book: Book, one: Caller, tx: str
) -> None:
    """Six requests, alternately accepted and refused, then a batch; positions are checked
    by the fixture, contents here."""
    after = await book.head()
    answers = await group(
        one.append(flag(tx)),
        one.append(approval(tx, after=after)),
        one.append(note(nth=1)),
        one.append(approval(tx, after=after)),
        one.batch([note(nth=2), note(nth=3)], condition=unless_flagged(tx, after=after)),
        one.batch([note(nth=4), note(nth=5)]),
        one.append(note(nth=6)),
    )
    assert [answer.status_code for answer in answers] == [201, 409, 201, 409, 409, 201, 201]
    written = [number for answer in answers for number in fresh_ids(answer)]
    events = [await one.get(number) for number in written]
    assert [event["payload"].get("nth") for event in events] == [None, 1, 4, 5, 6]
    assert events[0]["event_type"] == "flag_transaction"
    tagged = await one.read(tag=f"transaction:{tx}")
    assert tagged.ids == written[:1]


@pytest.mark.promise("P5")
async def test_one_key_twice_in_one_group(group: Group, one: Caller, tx: str) -> None:
    """The second is the first's echo, although the first is not committed yet."""
    key = str(uuid.uuid4())
    first, second = await group(
        one.append(note(transaction_id=tx), key=key), one.append(note(transaction_id=tx), key=key)
    )
    assert stored(first) == stored(second, replayed=True)
    assert first.json() == second.json()


@pytest.mark.promise("P5")
async def test_one_key_for_a_batch_twice_in_one_group(group: Group, one: Caller, tx: str) -> None:
    """All ids of the batch are given again."""
    key = str(uuid.uuid4())
    events = [note(transaction_id=tx, nth=nth) for nth in range(3)]
    first, between, second = await group(
        one.batch(events, key=key), one.append(note(between=True)), one.batch(events, key=key)
    )
    assert stored(second, replayed=True) == stored(first) == stored(between) - 3
    assert first.json() == second.json()


@pytest.mark.promise("P5")
async def test_one_key_for_different_content_in_one_group(
    group: Group, one: Caller, tx: str
) -> None:
    """The second is refused, and neither it nor its refusal costs the third anything."""
    key = str(uuid.uuid4())
    first, other_content, third = await group(
        one.append(note(transaction_id=tx, amount=1), key=key),
        one.append(note(transaction_id=tx, amount=2), key=key),
        one.append(note(transaction_id=tx, amount=1), key=key),
    )
    problem(other_content, 422, "idempotency-mismatch")
    assert stored(third, replayed=True) == stored(first)


@pytest.mark.promise("P5")
async def test_a_key_refused_in_a_group_is_free_for_the_next_in_it(
    group: Group, book: Book, one: Caller, tx: str
) -> None:
    """Refusals are not kept, not even for the length of a group."""
    key = str(uuid.uuid4())
    after = await book.head()
    flagged, refused, again = await group(
        one.append(flag(tx)),
        one.append(approval(tx, after=after), key=key),
        one.append(note(transaction_id=tx), key=key),
    )
    problem(refused, 409, "condition-failed")
    assert stored(again) == stored(flagged) + 1


@pytest.mark.promise("P4", "P5")
async def test_a_retry_in_the_same_group_is_not_refused_by_its_own_event(
    group: Group, book: Book, one: Caller, tx: str
) -> None:
    """The key is looked up before the condition."""
    key = str(uuid.uuid4())
    body: Json = {
        **note(transaction_id=tx),
        "condition": {"fail_if": [{"tags": [f"transaction:{tx}"]}], "after": await book.head()},
    }
    first, retry = await group(one.append(body, key=key), one.append(body, key=key))
    assert stored(retry, replayed=True) == stored(first)


@pytest.mark.promise("P13")
async def test_a_cause_that_is_stored_earlier_in_the_group_exists(
    group: Group, book: Book, one: Caller
) -> None:
    """The ids are known ahead only because the test holds the book. An event may rest on
    one that shares its commit, and never on itself or on a later one."""
    head = await book.head()
    cause = head + 2  # head + 1 is the append that is held
    answers = await group(
        one.append(note(nth="too early") | {"caused_by": [cause]}),
        one.append(note(nth="the cause")),
        one.append(note(nth="the effect") | {"caused_by": [cause]}),
        one.append(note(nth="itself") | {"caused_by": [cause + 2]}),
    )
    early, first, effect, itself = answers
    refusal = problem(early, 422, "unknown-cause")
    assert [error["pointer"] for error in refusal["errors"]] == ["/caused_by/0"]
    assert stored(first) == cause
    assert (await one.get(stored(effect)))["caused_by"] == [cause]
    problem(itself, 422, "unknown-cause")


@pytest.mark.promise("P13")
async def test_an_after_that_the_group_reaches_is_not_above_the_head(
    group: Group, book: Book, one: Caller, tx: str
) -> None:
    """A condition's ``after`` is held against the head as its own turn finds it."""
    head = await book.head()
    above, plain, reached = await group(
        one.append(approval(tx, after=head + 2)),
        one.append(note(nth=1)),
        one.append(approval(tx, after=head + 2)),
    )
    problem(above, 422, "after-above-head")
    assert stored(plain) == head + 2
    assert stored(reached) == head + 3


@pytest.mark.promise("P13")
async def test_a_payload_that_grows_too_large_in_postgresql_is_refused_alone(
    group: Group, one: Caller
) -> None:
    """Seven bytes each as sent, a hundred written out: only the database can tell. The
    pointer names the event within its own request, wherever that stands in the group."""
    small = {"numbers": [1]}
    large = {"numbers": [10.0**99 for _ in range(3_000)]}
    before, batch, after = await group(
        one.batch([note(**small), note(**small)]),
        one.batch([note(**small), note(**large), note(**small)]),
        one.append(note(**small)),
    )
    refusal = problem(batch, 422, "invalid-input")
    assert [error["pointer"] for error in refusal["errors"]] == ["/events/1/payload"]
    assert stored(after) == stored(before) + 2


async def committed(book: Book, *requests: AppendRequest) -> list[AppendResult]:
    """Run requests as one group of the stored function, and commit it."""
    async with book.session() as session:
        results = await session.append(*requests)
        await session.commit()
        return results


@pytest.mark.promise("P2", "P4", "P5")
async def test_a_group_answers_as_its_requests_one_by_one_would(book: Book, tx: str) -> None:
    """The same requests twice: as one group of sixteen, and as sixteen groups of one.

    The second run is on another transaction and other keys; all else is equal, so the
    answers are too, positions counted from where each run began.
    """
    runs = []
    for nth, together in enumerate((True, False)):
        head = await book.head()
        requests = mixed(f"{tx}_{nth}", head)
        if together:
            results = await committed(book, *requests)
        else:
            results = [(await committed(book, request))[0] for request in requests]
        runs.append(
            [
                (
                    result.status,
                    result.first_position and result.first_position - head,
                    result.event_count,
                    result.head - head,
                    [position - head for position in result.detail or ()],
                )
                for result in results
            ]
        )
        assert await book.head() == head + runs[-1][-1][3]
    assert runs[0] == runs[1]
    assert {status for status, *_ in runs[0]} == {
        "stored",
        "replayed",
        "key_reused",
        "condition_failed",
        "after_above_head",
        "unknown_cause",
    }


def mixed(transaction: str, head: int) -> list[AppendRequest]:
    """Requests that get in each other's way in every manner that there is."""
    key, batch_key = f"{transaction}/1", f"{transaction}/2"
    three = [note(transaction_id=transaction, nth=nth) for nth in range(3)]
    seen = {"fail_if": [{"agents": ["writer"], "tags": [f"transaction:{transaction}"]}]}
    return [
        append_request(approval(transaction, after=head)),
        append_request(note(nth=1), key=key),
        append_request(approval(transaction, after=head + 9)),
        batch_request(three, key=batch_key),
        append_request(flag(transaction)),
        append_request(approval(transaction, after=head)),
        append_request(note(nth=1), key=key),
        append_request(note(nth=2), key=key),
        batch_request(three, key=batch_key),
        batch_request(three, condition={**seen, "after": head + 5}),
        batch_request(three, condition={**seen, "after": head + 5}),
        append_request(note(nth=3) | {"caused_by": [head + 99]}),
        append_request(note(nth=4) | {"caused_by": [head + 9]}),
        append_request(approval(transaction, after=None)),
        append_request(approval(transaction, after=head + 6), key=f"{transaction}/3"),
        append_request(approval(transaction, after=head + 6), key=f"{transaction}/3"),
    ]
