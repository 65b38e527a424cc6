"""An append that hands in what it was about: done and in the book, or neither."""

from collections.abc import Mapping

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.db.book import append, append_one, event, fail_if, request, statuses, stored_types
from tests.db.handing_out import (
    Token,
    ack,
    claim,
    consume,
    end,
    extend,
    hands_in,
    make_consumer,
    own,
    pay,
    release,
    replay,
    set_aside,
    states,
)

pytestmark = pytest.mark.promise("P8")


@pytest.fixture
def consumer(service: psycopg.Connection) -> psycopg.Connection:
    """A session of the service, in a book with a consumer of payments."""
    make_consumer(service)
    return service


def outcome(*tokens: Token, principal: str = "agent:a", **more: object) -> dict[str, object]:
    """An event that says what came of these deliveries."""
    return request(event(event_type="scored"), principal=principal, **{**hands_in(*tokens), **more})


def test_an_outcome_takes_what_it_was_about_out_of_hand(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    pay(consumer, "a:1", "a:2", "a:3")
    held = consume(consumer, claim(3))
    assert append_one(consumer, outcome(*held.tokens[:2])).status == "stored"
    assert list(states(owner)) == held.positions[2:]
    assert stored_types(owner)[-1] == "scored"
    assert append_one(consumer, outcome(held.tokens[0])).status == "lease_lost"
    assert append_one(consumer, outcome(held.tokens[2])).status == "stored"


def test_a_lost_lease_writes_nothing_and_takes_nothing(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    one, two = pay(consumer, "a:1", "a:2")
    held = consume(consumer, claim(2))
    end(owner, one)
    before = stored_types(owner)
    assert append_one(consumer, outcome(*held.tokens)).status == "lease_lost"
    assert stored_types(owner) == before
    assert states(owner) == {one: "held", two: "held"}
    assert append_one(consumer, outcome(held.tokens[1])).status == "stored"


@pytest.mark.parametrize(
    "which",
    ["principal", "attempt", "generation", "position", "ended", "given back", "consumer"],
)
def test_only_what_is_held_can_be_handed_in(
    consumer: psycopg.Connection, owner: psycopg.Connection, which: str
) -> None:
    make_consumer(consumer, name="other")
    (position,) = pay(consumer, "a:1")
    (token,) = consume(consumer, claim()).tokens
    generation, _, attempt = token
    asked = {
        "principal": outcome(token, principal="agent:b"),
        "attempt": outcome((generation, position, attempt + 1)),
        "generation": outcome((generation + 1, position, attempt)),
        "position": outcome((generation, position + 1, attempt)),
        "consumer": outcome(token, **hands_in(token, name="other")),
    }.get(which, outcome(token))
    if which == "ended":
        end(owner, position)
    elif which == "given back":
        consume(consumer, release(token))
    before = states(owner)
    assert append_one(consumer, asked).status == "lease_lost"
    assert states(owner) == before
    unknown = outcome(token, **hands_in(token, name="nobody"))
    assert append_one(consumer, unknown).status == "consumer_not_found"


def test_requests_of_a_group_fare_as_if_one_after_another(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    pay(consumer, "a:1", "a:2", "a:3")
    one, two, three = consume(consumer, claim(3)).tokens
    answers = append(
        consumer,
        outcome(one),
        outcome(one),
        request(),
        outcome(two, three, (one[0], 99, 1)),
        outcome(three),
        outcome(two, three),
        outcome(two),
    )
    assert statuses(answers) == [
        *("stored", "lease_lost", "stored", "lease_lost", "stored", "lease_lost", "stored")
    ]
    assert states(owner) == {}


def test_what_a_refused_request_named_stays_held(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    """Refused for what it would write: its deliveries are whoever's they were."""
    pay(consumer, "a:1", "a:2", "a:3", "a:4")
    one, two, three, four = consume(consumer, claim(4)).tokens
    answers = append(
        consumer,
        outcome(one, condition=fail_if({"types": ["payment"], "agents": [], "tags": []}, after=0)),
        outcome(two),
        outcome(three, condition=fail_if({"types": ["x"], "agents": [], "tags": []}, after=99)),
        outcome(four, cause_max=99),
    )
    assert statuses(answers) == ["condition_failed", "stored", "after_above_head", "unknown_cause"]
    assert [*states(owner)] == [one[1], three[1], four[1]]
    assert consume(consumer, ack(one, three, four)).status() == "done"


def test_a_failed_condition_tells_when_the_first_lease_ends(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    pay(consumer, "a:1", "a:2")
    held = consume(consumer, claim(2)).tokens
    consume(consumer, extend(held[0], seconds=500))
    condition = fail_if({"types": ["payment"], "agents": [], "tags": []}, after=0)
    row = consumer.execute(
        "select others -> 0 ->> 'lease_ends' from counterfoil.append_v4(1, %s::jsonb, 1000)",
        [Jsonb([outcome(*held, condition=condition)])],
    ).fetchone()
    ends = owner.execute(
        "select counterfoil.time_text(min(due_at)) from counterfoil.deliveries"
    ).fetchone()
    assert row == ends


def test_a_frozen_outcome_leaves_it_held(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    (position,) = pay(consumer, "a:1")
    held = consume(consumer, claim())
    freeze = {
        "effect": "freeze",
        "kind": "agent",
        "subject": "fraud_agent",
        "reason": "r",
        "by": "p",
    }
    own(consumer, "frozen", freeze)
    assert append_one(consumer, outcome(*held.tokens)).status == "frozen"
    assert states(owner) == {position: "held"}


def test_an_outcome_may_be_what_another_consumer_reads(consumer: psycopg.Connection) -> None:
    """And of its own consumer too: it is put out like any other event."""
    make_consumer(consumer, name="next", query=[{"types": ["scored"], "agents": [], "tags": []}])
    pay(consumer, "a:1")
    held = consume(consumer, claim())
    answer = append_one(consumer, outcome(*held.tokens))
    assert consume(consumer, claim(), name="next").positions == [answer.first_position]


def test_one_outcome_may_name_a_thousand(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    append(consumer, request(*[event(event_type="payment") for _ in range(1_000)]))
    held = consume(consumer, claim(1_000))
    assert len(held.tokens) == 1_000
    assert append_one(consumer, outcome(*held.tokens)).status == "stored"
    assert states(owner) == {}


def test_a_token_that_stands_twice_is_one(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    pay(consumer, "a:1")
    (token,) = consume(consumer, claim()).tokens
    assert append_one(consumer, outcome(token, token)).status == "stored"
    assert states(owner) == {}


# --- In a group with the service's own effects ---------------------------------------------


def effect(what: Mapping[str, object], count: int = 1) -> dict[str, object]:
    return request(
        *[event("counterfoil", "counterfoil.x") for _ in range(count)], own=True, effect=dict(what)
    )


def seek(to: object = "beginning") -> dict[str, object]:
    return effect({"effect": "change_consumer", "change": "seek", "name": "scorer", "to": to})


def test_an_outcome_behind_a_seek_of_its_group_is_too_late(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    pay(consumer, "a:1", "a:2")
    one, two = consume(consumer, claim(2)).tokens
    answers = append(consumer, outcome(one), seek(), outcome(two))
    assert statuses(answers) == ["stored", "stored", "lease_lost"]
    assert states(owner) == {two[1]: "held"}, "of the generation before"
    assert len(consume(consumer, claim(9)).positions) == 2


def test_an_outcome_behind_a_deletion_of_its_group_is_too_late(
    consumer: psycopg.Connection,
) -> None:
    pay(consumer, "a:1", "a:2")
    one, two = consume(consumer, claim(2)).tokens
    delete = {"effect": "change_consumer", "change": "delete", "name": "scorer"}
    answers = append(
        consumer, outcome(one), effect({**delete, "drop_dead_letters": False}), outcome(two)
    )
    assert statuses(answers) == ["stored", "stored", "consumer_not_found"]


def test_setting_aside_and_handing_in_the_same_one_in_a_group(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    pay(consumer, "a:1", "a:2")
    one, two = consume(consumer, claim(2)).tokens
    aside = {
        "effect": "set_aside",
        "consumer": "scorer",
        "tokens": [list(one)],
        "principal": "agent:a",
        "reason": "No.",
        "by": "agent:a",
    }
    answers = append(
        consumer, effect(aside), outcome(one), outcome(two), effect({**aside, "tokens": [two]})
    )
    assert statuses(answers) == ["stored", "lease_lost", "stored", "effect_refused"]
    assert states(owner) == {}


def test_a_replay_of_its_group_joins_behind_what_is_handed_in_after_it(
    service: psycopg.Connection, owner: psycopg.Connection
) -> None:
    """It is seen by the outcome behind it, though it came after the first look at the group."""
    make_consumer(service, order_by="customer")
    one, two = pay(service, "customer:1", "customer:1")
    set_aside(service, *consume(service, claim()).tokens)
    held = consume(service, claim())
    assert held.positions == [two]
    again = {"effect": "replay_dead_letters", "name": "scorer", "event_ids": [one]}
    answers = append(service, effect(again), outcome(*held.tokens))
    assert statuses(answers) == ["stored", "stored"]
    assert states(owner) == {one: "ready"}


def test_a_replay_behind_an_outcome_of_its_group_finds_the_line_empty(
    service: psycopg.Connection, owner: psycopg.Connection
) -> None:
    make_consumer(service, order_by="customer")
    one, two = pay(service, "customer:1", "customer:1")
    set_aside(service, *consume(service, claim()).tokens)
    held = consume(service, claim())
    assert held.positions == [two]
    again = {"effect": "replay_dead_letters", "name": "scorer", "event_ids": [one]}
    assert statuses(append(service, outcome(*held.tokens), effect(again))) == ["stored", "stored"]
    assert states(owner) == {one: "ready"}
    assert replay(service, one).status == "effect_refused"


@pytest.mark.promise("P7")
def test_another_tenants_token_hands_in_nothing_of_this_one(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    owner.execute("insert into counterfoil.books (tenant_id, name) values (2, 'rival')")
    pay(consumer, "a:1")
    held = consume(consumer, claim())
    (answer,) = append(consumer, outcome(*held.tokens), tenant_id=2)
    assert answer.status == "consumer_not_found"
    assert list(states(owner).values()) == ["held"]
