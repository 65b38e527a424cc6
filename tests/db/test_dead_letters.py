"""What keeps failing is set aside, never lost: dead letters, their replay and their end."""

from collections.abc import Mapping

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.db.book import append_one, event, request
from tests.db.handing_out import (
    ack,
    change,
    claim,
    consume,
    delivery,
    drop,
    end,
    fail,
    letters,
    make_consumer,
    own,
    pay,
    release,
    replay,
    set_aside,
    stands,
    states,
)

pytestmark = pytest.mark.promise("P8")


@pytest.fixture
def consumer(service: psycopg.Connection) -> psycopg.Connection:
    """A session of the service, in a book with a consumer of payments."""
    make_consumer(service)
    return service


def refusal(connection: psycopg.Connection, effect: Mapping[str, object], count: int = 1) -> str:
    """Why one of the service's own appends was refused."""
    events = [event("counterfoil", "counterfoil.x") for _ in range(count)]
    row = connection.execute(
        "select others -> 0 ->> 'reason' from counterfoil.append_v4(1, %s::jsonb, 1000)",
        [Jsonb([request(*events, own=True, effect=dict(effect))])],
    ).fetchone()
    assert row is not None
    return str(row[0])


def test_a_holder_sets_aside_what_it_holds(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    one, two = pay(consumer, "a:1", "a:2")
    held = consume(consumer, claim(2, holder="scorer-1"))
    answer = set_aside(consumer, *held.tokens)
    assert states(owner) == {}
    assert answer.first_position is not None
    said = {one: answer.first_position, two: answer.first_position + 1}
    for position, letter in letters(owner).items():
        assert letter["said_by"] == said[position]
        assert (letter["reason"], letter["set_aside_by"]) == ("No such account.", "agent:a")
        assert (letter["attempts"], letter["holds_key"]) == (1, False)
        (ended,) = letter["history"]
        assert (ended["attempt"], ended["holder"]) == (1, "scorer-1")
        assert ended["reason"] == "No such account."
    assert sorted(letters(owner)) == [one, two]
    assert consume(consumer, claim(9)).positions == []


def test_said_by_follows_the_order_of_the_tokens(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    one, two = pay(consumer, "a:1", "a:2")
    first, second = consume(consumer, claim(2)).tokens
    answer = set_aside(consumer, second, first)
    assert answer.first_position is not None
    assert {position: letter["said_by"] for position, letter in letters(owner).items()} == {
        two: answer.first_position,
        one: answer.first_position + 1,
    }


def test_what_is_exhausted_is_set_aside_by_the_service(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    (position,) = pay(consumer, "a:1")
    token = fail(consumer, owner, position)
    assert set_aside(consumer, token, principal=None).status == "stored"
    letter = letters(owner)[position]
    assert [ended["attempt"] for ended in letter["history"]] == [1, 2, 3]
    assert (letter["attempts"], letter["set_aside_by"]) == (3, "counterfoil")
    assert states(owner) == {}
    assert consume(consumer, claim()).told["exhausted"] is False


@pytest.mark.parametrize("which", ["held", "other attempt", "gone", "other generation", "partly"])
def test_only_what_is_exhausted_is_set_aside_without_a_holder(
    consumer: psycopg.Connection, owner: psycopg.Connection, which: str
) -> None:
    one, _ = pay(consumer, "a:1", "a:2")
    if which == "held":
        tokens = consume(consumer, claim()).tokens
    else:
        generation, _, attempt = fail_first(consumer, owner, one)
        tokens = {
            "other attempt": [(generation, one, attempt - 1)],
            "gone": [(generation, 99, attempt)],
            "other generation": [(generation + 1, one, attempt)],
            "partly": [(generation, one, attempt), (generation, one + 1, 1)],
        }[which]
    before = states(owner)
    effect = {
        "effect": "set_aside",
        "consumer": "scorer",
        "tokens": tokens,
        "principal": None,
        "reason": "No.",
        "by": "counterfoil",
    }
    assert refusal(consumer, effect, len(tokens)) == "unchanged"
    assert (states(owner), letters(owner)) == (before, {})


def fail_first(
    connection: psycopg.Connection, owner: psycopg.Connection, position: int
) -> tuple[int, int, int]:
    """Exhaust the first of several events, and leave the others ready."""
    while True:
        (token,) = consume(connection, claim()).tokens
        assert token[1] == position
        consume(connection, release(token, reason="No.", seconds=0))
        if states(owner)[position] == "exhausted":
            return token


def test_what_was_exhausted_before_a_seek_is_not_set_aside_after_it(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    """Nor does its sweeper come again and again."""
    (position,) = pay(consumer, "a:1")
    token = fail(consumer, owner, position)
    change(consumer, "seek", to="now")
    effect = {
        "effect": "set_aside",
        "consumer": "scorer",
        "tokens": [token],
        "principal": None,
        "reason": "No.",
        "by": "counterfoil",
    }
    assert refusal(consumer, effect) == "unchanged"
    assert letters(owner) == {}


@pytest.mark.parametrize("which", ["principal", "attempt", "ended", "partly"])
def test_a_holder_sets_aside_nothing_else(
    consumer: psycopg.Connection, owner: psycopg.Connection, which: str
) -> None:
    one, two = pay(consumer, "a:1", "a:2")
    held = consume(consumer, claim(2)).tokens
    effect = {
        "effect": "set_aside",
        "consumer": "scorer",
        "tokens": list(held),
        "principal": "agent:a",
        "reason": "No.",
        "by": "agent:a",
    }
    if which == "principal":
        effect["principal"] = "agent:b"
    elif which == "attempt":
        effect["tokens"] = [held[0], (held[1][0], two, 2)]
    elif which == "ended":
        end(owner, two)
    else:
        effect["tokens"] = [held[0], (held[1][0], 99, 1)]
    assert refusal(consumer, effect, 2) == "lease_lost"
    assert states(owner) == {one: "held", two: "held"}
    assert letters(owner) == {}


def test_one_that_is_named_twice_is_refused(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    (position,) = pay(consumer, "a:1")
    (token,) = consume(consumer, claim()).tokens
    effect = {
        "effect": "set_aside",
        "consumer": "scorer",
        "tokens": [token, token],
        "principal": "agent:a",
        "reason": "No.",
        "by": "agent:a",
    }
    assert refusal(consumer, effect, 2) == "lease_lost"
    assert states(owner) == {position: "held"}


def test_what_is_replayed_is_handed_out_with_fresh_attempts(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    (position,) = pay(consumer, "a:1")
    token = fail(consumer, owner, position)
    set_aside(consumer, token, principal=None)
    assert replay(consumer, position).status == "stored"
    assert letters(owner) == {}
    held = consume(consumer, claim())
    assert held.tokens == [(token[0], position, 4)], "and tokens go on growing"
    consume(consumer, release(*held.tokens, reason="No.", seconds=0))
    assert states(owner) == {position: "ready"}
    again = fail(consumer, owner, position)
    assert again[2] == 6
    set_aside(consumer, again, principal=None)
    assert [e["attempt"] for e in letters(owner)[position]["history"]] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("dead_letters", ["hold", "pass"])
def test_what_was_set_aside_by_its_holder_keeps_its_attempts_over_a_replay(
    service: psycopg.Connection, owner: psycopg.Connection, dead_letters: str
) -> None:
    make_consumer(service, order_by="customer", dead_letters=dead_letters)
    (position,) = pay(service, "customer:1")
    for attempt in (1, 2):
        held = consume(service, claim())
        assert held.tokens == [(1, position, attempt)]
        set_aside(service, *held.tokens)
        history = letters(owner)[position]["history"]
        assert [ended["attempt"] for ended in history] == list(range(1, attempt + 1))
        replay(service, position)


def test_replayed_deliveries_are_found_however_far_the_consumer_has_come(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    """Below which nothing is looked for moves on, and back."""
    (old,) = pay(consumer, "a:1")
    set_aside(consumer, *consume(consumer, claim()).tokens)
    for _ in range(3):
        pay(consumer, "a:2")
        consume(consumer, ack(*consume(consumer, claim()).tokens))
    low = "select low from counterfoil.consumer_progress"
    row = owner.execute(low).fetchone()
    assert row is not None
    assert int(str(row[0])) > old
    replay(consumer, old)
    assert consume(consumer, claim()).positions == [old]
    pay(consumer, "a:3")
    assert len(consume(consumer, claim(9)).positions) == 1
    end(owner, old)
    assert consume(consumer, claim()).positions == [old]


def test_only_dead_letters_are_replayed_or_dropped_and_all_or_none(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    one, two = pay(consumer, "a:1", "a:2")
    held = consume(consumer, claim(2))
    set_aside(consumer, held.tokens[0])
    for effect in ("replay_dead_letters", "drop_dead_letters"):
        for ids in ([one, two], [two], [one, 99], [one, one], [2**63 - 1]):
            asked = {"effect": effect, "name": "scorer", "event_ids": ids}
            assert refusal(consumer, asked) == "dead_letter_not_found"
        asked = {"effect": effect, "name": "nobody", "event_ids": [one]}
        assert refusal(consumer, asked) == "consumer_not_found"
    assert (list(letters(owner)), states(owner)) == ([one], {two: "held"})


def test_what_is_dropped_is_gone(consumer: psycopg.Connection, owner: psycopg.Connection) -> None:
    one, two = pay(consumer, "a:1", "a:2")
    set_aside(consumer, *consume(consumer, claim(2)).tokens)
    assert drop(consumer, one, two).status == "stored"
    assert (letters(owner), states(owner)) == ({}, {})
    assert consume(consumer, claim()).positions == []


def test_a_letter_of_one_consumer_is_none_of_another(consumer: psycopg.Connection) -> None:
    make_consumer(consumer, name="other")
    (one,) = pay(consumer, "a:1")
    set_aside(consumer, *consume(consumer, claim()).tokens)
    asked = {"effect": "replay_dead_letters", "name": "other", "event_ids": [one]}
    assert refusal(consumer, asked) == "dead_letter_not_found"
    assert consume(consumer, claim(), name="other").positions == [one]


def test_a_letter_that_is_replayed_counts_as_put_out(consumer: psycopg.Connection) -> None:
    one, _ = pay(consumer, "a:1", "a:2")
    held = consume(consumer, claim(2)).tokens
    set_aside(consumer, *held)
    assert stands(consumer)["lag"]["events"] == 0
    replay(consumer, one)
    told = stands(consumer)
    assert (told["lag"]["events"], told["waiting"], told["set_aside"]) == (1, 1, 1)
    assert told["rate"] <= 2


def test_a_letter_of_before_can_be_replayed_by_whoever_reads_something_else_now(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    """The consumer was sought past it, and its query was changed."""
    (one,) = pay(consumer, "a:1")
    set_aside(consumer, *consume(consumer, claim()).tokens)
    change(consumer, "seek", to="now")
    refunds = [{"types": ["refund"], "agents": [], "tags": []}]
    make_consumer(consumer, query=refunds, change_query=True)
    append_one(consumer, request(event(event_type="refund")))
    assert replay(consumer, one).status == "stored"
    held = consume(consumer, claim(9))
    assert held.positions[0] == one
    assert len(held.positions) == 2
    set_aside(consumer, held.tokens[0])
    assert list(letters(owner)) == [one]
    assert delivery(owner, held.positions[1])["state"] == "held"


def test_an_effect_of_no_kind_is_refused(consumer: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.CaseNotFound):
        own(consumer, "x", {"effect": "change_consumer", "change": "x", "name": "scorer"})
