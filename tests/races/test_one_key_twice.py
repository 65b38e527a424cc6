"""One idempotency key, sent more than once: from two processes, after a refusal, too late."""

import asyncio
import uuid
from typing import Any

import pytest

from tests.support.appends import (
    Caller,
    Json,
    append_request,
    approval,
    flag,
    note,
    problem,
    stored,
)
from tests.support.gates import Book
from tests.support.starting import Start

pytestmark = [pytest.mark.anyio, pytest.mark.promise("P5")]


@pytest.fixture
def key() -> str:
    """A key that was never used."""
    return str(uuid.uuid4())


async def test_one_key_from_two_processes_at_once_stores_one_event(
    book: Book, one: Caller, other: Caller, tx: str, key: str, start: Start[Any]
) -> None:
    """Both have looked at all that can be looked at before the lock when the gate opens."""
    body = note(transaction_id=tx)
    async with book.held() as gate:
        first = start(one.append(body, key=key))
        await book.waiting(1)
        second = start(other.append(body, key=key))
        await book.waiting(2)
        await gate.open()
        answers = [await first, await second]
    assert stored(answers[0]) == stored(answers[1], replayed=True)
    assert answers[0].json() == answers[1].json()
    assert (await one.read(tag=f"transaction:{tx}")).ids == [answers[0].json()["id"]]


async def test_one_key_from_two_processes_many_times_at_once_stores_one_batch(
    book: Book, one: Caller, other: Caller, tx: str, key: str, start: Start[Any]
) -> None:
    """Twenty retries of one batch, in groups with each other and with somebody else's."""
    events = [note(transaction_id=tx, nth=nth) for nth in range(3)]
    async with book.held() as gate:
        racing = [start(caller.batch(events, key=key)) for caller in (one, other) * 10]
        beside = [start(caller.append(note(beside=True))) for caller in (one, other)]
        await book.waiting(2)
        await gate.open()
        answers = await asyncio.gather(*racing)
        await asyncio.gather(*beside)
    fresh = [answer for answer in answers if "Idempotent-Replayed" not in answer.headers]
    assert len(fresh) == 1
    assert {answer.text for answer in answers} == {fresh[0].text}
    assert (await one.read(tag=f"transaction:{tx}")).ids == fresh[0].json()["ids"]


async def test_one_key_for_different_content_from_two_processes_at_once(
    book: Book, one: Caller, other: Caller, tx: str, key: str, start: Start[Any]
) -> None:
    """The second is told so, and is not the first's echo."""
    async with book.held() as gate:
        first = start(one.append(note(transaction_id=tx, amount=1), key=key))
        await book.waiting(1)
        second = start(other.append(note(transaction_id=tx, amount=2), key=key))
        await book.waiting(2)
        await gate.open()
        written = stored(await first)
        problem(await second, 422, "idempotency-mismatch")
    assert (await one.read(tag=f"transaction:{tx}")).ids == [written]


async def test_the_same_document_is_not_the_same_operation(
    one: Caller, other: Caller, tx: str, key: str
) -> None:
    """An append and a batch of one: another answer is due, so it is other content."""
    stored(await one.append(note(transaction_id=tx), key=key))
    problem(await other.batch([note(transaction_id=tx)], key=key), 422, "idempotency-mismatch")


@pytest.mark.promise("P4")
async def test_a_retried_success_is_not_refused_by_its_own_event(
    book: Book, one: Caller, other: Caller, tx: str, key: str, start: Start[Any]
) -> None:
    """The event matches its own condition. Its retry runs into it, and so does the one
    that raced it in the other process."""
    body: Json = {
        **note(transaction_id=tx),
        "condition": {"fail_if": [{"tags": [f"transaction:{tx}"]}], "after": await book.head()},
    }
    async with book.held() as gate:
        first = start(one.append(body, key=key))
        await book.waiting(1)
        racing = start(other.append(body, key=key))
        await book.waiting(2)
        await gate.open()
        written = stored(await first)
        assert stored(await racing, replayed=True) == written
    assert stored(await other.append(body, key=key), replayed=True) == written
    # Without the key it is a decision of its own, and refused.
    problem(await other.append(body), 409, "condition-failed")


@pytest.mark.promise("P4")
async def test_a_refused_key_may_be_tried_again(
    one: Caller, other: Caller, tx: str, key: str
) -> None:
    """A refusal is not the key's answer: whoever looks again may decide again under it."""
    flagged = stored(await one.append(flag(tx)))
    problem(await one.append(approval(tx, after=None), key=key), 409, "condition-failed")
    approved = stored(await other.append(approval(tx, after=flagged), key=key))
    assert stored(await one.append(approval(tx, after=flagged), key=key), replayed=True) == approved


async def test_a_key_whose_transaction_was_rolled_back_was_never_used(
    book: Book, one: Caller, tx: str, key: str, start: Start[Any]
) -> None:
    """The second waits behind a first that never commits, and is the first."""
    body = note(transaction_id=tx)
    async with book.session() as session:
        (first,) = await session.append(append_request(body, key=key))
        assert first.status == "stored"
        retrying = start(one.append(body, key=key))
        await book.waiting(1)
    assert stored(await retrying) == first.first_position


async def test_a_key_is_known_to_the_other_process_and_after_its_own_is_gone(
    book: Book, one: Caller, other: Caller, tx: str, key: str
) -> None:
    """The answer is the database's: a session of neither process gives it too."""
    body = note(transaction_id=tx)
    answer = await one.append(body, key=key)
    again = await other.append(body, key=key)
    assert stored(again, replayed=True) == stored(answer)
    async with book.session() as session:
        (result,) = await session.append(append_request(body, key=key))
    assert (result.status, result.first_position) == ("replayed", stored(answer))
    assert result.created_at == answer.json()["created_at"]
