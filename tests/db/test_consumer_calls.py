"""Idempotency keys of calls that leave no event: the same answer to the same call."""

from collections.abc import Callable
from typing import Any, Final

import psycopg
import pytest

from tests.db.book import append_one, event, request
from tests.db.handing_out import (
    Token,
    ack,
    claim,
    consume,
    end,
    extend,
    hands_in,
    make_consumer,
    pay,
    release,
    states,
)

pytestmark = pytest.mark.promise("P5")

KEYED: Final[dict[str, Any]] = {"key": "k", "digest": "00" * 32}
OTHER: Final[dict[str, Any]] = {"key": "k", "digest": "01" * 32}


@pytest.fixture
def consumer(service: psycopg.Connection) -> psycopg.Connection:
    """A session of the service, in a book with a consumer of payments."""
    make_consumer(service)
    return service


@pytest.mark.parametrize("call", [ack, release])
def test_a_call_is_answered_again(
    consumer: psycopg.Connection, owner: psycopg.Connection, call: Callable[..., dict[str, Any]]
) -> None:
    pay(consumer, "a:1")
    held = consume(consumer, claim())
    assert consume(consumer, call(*held.tokens, **KEYED)).status() == "done"
    before = states(owner)
    assert consume(consumer, call(*held.tokens, **KEYED)).status() == "replayed"
    assert consume(consumer, call(*held.tokens, **OTHER)).status() == "key_reused"
    assert states(owner) == before
    assert consume(consumer, call(*held.tokens)).status() == "lost"


def test_a_key_belongs_to_its_principal(consumer: psycopg.Connection) -> None:
    one, two = pay(consumer, "a:1", "a:2")
    mine = consume(consumer, claim())
    theirs = consume(consumer, claim(principal="agent:b"))
    assert consume(consumer, ack(*mine.tokens, **KEYED)).status() == "done"
    answered = consume(consumer, ack(*theirs.tokens, principal="agent:b", **OTHER))
    assert answered.status() == "done"
    assert (mine.positions, theirs.positions) == ([one], [two])


def test_a_refusal_is_not_kept(consumer: psycopg.Connection, owner: psycopg.Connection) -> None:
    pay(consumer, "a:1")
    held = consume(consumer, claim())
    (generation, position, attempt) = held.tokens[0]
    none = (generation, position, attempt + 1)
    assert consume(consumer, ack(none, **KEYED)).status() == "lost"
    assert consume(consumer, ack(*held.tokens, **OTHER)).status() == "done"
    assert states(owner) == {}


def test_a_claim_gives_the_same_deliveries_again(consumer: psycopg.Connection) -> None:
    pay(consumer, "a:1", "a:2", "a:3")
    first = consume(consumer, claim(2, **KEYED))
    again = consume(consumer, claim(2, **KEYED))
    assert (again.status(), again.deliveries) == ("replayed", first.deliveries)
    reused = consume(consumer, claim(2, **OTHER))
    assert (reused.status(), reused.positions) == ("key_reused", [])


def test_a_claim_gives_again_only_what_is_still_held(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    one, two, three, four = pay(consumer, "a:1", "a:2", "a:3", "a:4")
    first = consume(consumer, claim(4, **KEYED))
    consume(consumer, ack(first.tokens[0]))
    consume(consumer, release(first.tokens[1]))
    end(owner, three)
    again = consume(consumer, claim(4, **KEYED), look_for_due=False)
    assert (again.status(), again.positions) == ("replayed", [four])
    heirs = consume(consumer, claim(2))
    assert heirs.positions == [two, three]
    assert consume(consumer, claim(4, **KEYED)).positions == [four], "attempts of others are not"
    assert one not in states(owner)


def test_a_claim_that_found_nothing_looks_again(consumer: psycopg.Connection) -> None:
    assert consume(consumer, claim(**KEYED)).status() is None
    (one,) = pay(consumer, "a:1")
    first = consume(consumer, claim(**KEYED))
    assert (first.status(), first.positions) == (None, [one])
    again = consume(consumer, claim(**KEYED))
    assert (again.status(), again.deliveries) == ("replayed", first.deliveries)


def test_a_claim_that_acknowledged_and_found_nothing_acknowledges_once(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    """What it was to be given it may still get: the caller has had nothing."""
    pay(consumer, "a:1")
    held = consume(consumer, claim())
    both = claim(tokens=held.tokens, **KEYED)
    first = consume(consumer, both)
    assert (first.status(), first.positions) == ("done", [])
    (two,) = pay(consumer, "a:2")
    second = consume(consumer, both)
    assert second.positions == [two]
    third = consume(consumer, both)
    assert (third.status(), third.deliveries) == ("replayed", second.deliveries)
    assert states(owner) == {two: "held"}


def test_two_calls_of_a_group_with_one_key_are_told_apart(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    pay(consumer, "a:1", "a:2")
    held = consume(consumer, claim(2))
    answered = consume(consumer, ack(held.tokens[0], **KEYED), ack(held.tokens[1], **OTHER))
    assert [answered.status(nth) for nth in range(2)] == ["done", "again"]
    assert consume(consumer, ack(held.tokens[1], **OTHER)).status() == "key_reused"
    assert list(states(owner).values()) == ["held"]


def test_extending_is_done_each_time(consumer: psycopg.Connection) -> None:
    pay(consumer, "a:1")
    held = consume(consumer, claim())
    for _ in range(2):
        assert consume(consumer, extend(*held.tokens, **KEYED)).status() == "done"


def test_a_key_of_an_outcome_is_no_key_for_another_call(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    pay(consumer, "a:1", "a:2")
    held = consume(consumer, claim(2))
    outcome = request(principal="agent:a", key="k", **hands_in(held.tokens[0]))
    assert append_one(consumer, outcome).status == "stored"
    assert consume(consumer, ack(held.tokens[1], **KEYED)).status() == "key_reused"
    assert consume(consumer, claim(**KEYED)).status() == "key_reused"
    assert consume(consumer, release(held.tokens[1], **KEYED)).status() == "key_reused"
    assert list(states(owner).values()) == ["held"]


def test_a_key_of_a_call_is_no_key_for_an_outcome(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    pay(consumer, "a:1", "a:2")
    held = consume(consumer, claim(2))
    assert consume(consumer, ack(held.tokens[0], **KEYED)).status() == "done"
    outcome = request(principal="agent:a", key="k", **hands_in(held.tokens[1]))
    assert append_one(consumer, outcome).status == "key_reused"
    assert list(states(owner).values()) == ["held"]


def test_an_outcome_is_answered_again(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    """Its deliveries are gone, and it is not refused for that."""
    pay(consumer, "a:1", "a:2")
    held = consume(consumer, claim(2))
    outcome = request(principal="agent:a", key="k", **hands_in(held.tokens[0]))
    first = append_one(consumer, outcome)
    again = append_one(consumer, outcome)
    assert (again.status, again.first_position) == ("replayed", first.first_position)
    other = request(principal="agent:a", key="k", **hands_in(held.tokens[1]))
    assert append_one(consumer, other).status == "key_reused"
    events = request(
        event(event_type="x"), principal="agent:a", key="k", **hands_in(held.tokens[0])
    )
    assert append_one(consumer, events).status == "key_reused"
    assert list(states(owner).values()) == ["held"]


def test_what_is_next_is_a_part_of_what_an_outcomes_key_stands_for(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    """The append makes nothing else of it, and its claim has another key."""
    _, two, three = pay(consumer, "a:1", "a:2", "a:3")
    held = consume(consumer, claim())
    plain = hands_in(*held.tokens)["hands_in"]

    def outcome(**following: Any) -> str:
        asked = request(principal="agent:a", key="k", hands_in={**plain, **following})
        return append_one(consumer, asked).status

    following = {"next": {"holder": "h", "count": 1}}
    assert outcome(**following) == "stored"
    assert states(owner) == {two: "ready", three: "ready"}
    after: dict[str, Any] = {"key": "k next", "digest": "00" * 32}
    assert consume(consumer, claim(**after)).positions == [two]
    assert outcome(**following) == "replayed"
    assert consume(consumer, claim(**after)).positions == [two]
    for other in ({}, {"next": {"holder": "h", "count": 2}}, {"next": {"holder": "i", "count": 1}}):
        assert outcome(**other) == "key_reused"
    assert states(owner) == {two: "held", three: "ready"}


def test_answers_are_kept_for_as_long_as_they_are_asked_for(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    pay(consumer, "a:1", "a:2")
    held = consume(consumer, claim(2))
    consume(consumer, ack(held.tokens[0], **KEYED))
    consume(consumer, ack(held.tokens[1], key="younger", digest="00" * 32))
    clear = "select counterfoil.clear_consumers_v1(100)"
    assert consumer.execute(clear).fetchone() == (0,)
    owner.execute(
        "update counterfoil.consumer_calls set created_at = created_at - interval '10 minutes'"
        " where key = 'k'"
    )
    assert consumer.execute(clear).fetchone() == (1,)
    assert owner.execute("select key from counterfoil.consumer_calls").fetchall() == [("younger",)]


# --- Whose claim it was has gone --------------------------------------------------


def give_back(*tokens: Token, **more: Any) -> dict[str, Any]:
    """What a process asks for whose caller has gone while it was handed something out."""
    return {**release(*tokens, **more), "call": "give_back"}


@pytest.mark.parametrize("keyed", [{}, KEYED], ids=["without a key", "with a key"])
def test_what_nobody_was_told_of_is_given_back(
    consumer: psycopg.Connection, keyed: dict[str, Any]
) -> None:
    """And the same claim is given it anew, in an attempt that is not counted twice."""
    pay(consumer, "a:1")
    first = consume(consumer, claim(**keyed))
    consume(consumer, give_back(*first.tokens, **keyed))
    again = consume(consumer, claim(**keyed))
    assert again.positions == first.positions
    assert again.deliveries[0].attempt == 2
    assert consume(consumer, give_back(*first.tokens, **keyed)).deliveries == []
    assert consume(consumer, ack(*again.tokens)).status() == "done"


@pytest.mark.promise("P8")
def test_what_was_asked_for_again_is_not_given_back(consumer: psycopg.Connection) -> None:
    """Its caller came back before it was noticed that it had gone: it works on it by now."""
    pay(consumer, "a:1")
    held = consume(consumer, claim(**KEYED))
    assert consume(consumer, claim(**KEYED)).tokens == held.tokens
    assert consume(consumer, give_back(*held.tokens, **KEYED)).status() == "replayed"
    assert consume(consumer, ack(*held.tokens)).status() == "done"
