"""Making consumers, changing them, seeking and deleting: what begins anew, and what stays."""

from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.db.book import Answer, append_one, event, request
from tests.db.handing_out import (
    CONSUMER,
    ack,
    change,
    claim,
    consume,
    drop,
    extend,
    fail,
    hands_in,
    letters,
    make_consumer,
    pay,
    release,
    replay,
    set_aside,
    stands,
)

pytestmark = pytest.mark.promise("P8")

REFUNDS = [{"types": ["refund"], "agents": [], "tags": []}]
BOTH = [{"types": ["refund", "payment"], "agents": [], "tags": []}]


def reason(connection: psycopg.Connection, name: str, **other: Any) -> str | None:
    """Why a PUT was refused; None: it was not."""
    asked = {**CONSUMER, "change_query": False, **other}
    effect = {"effect": "put_consumer", "name": name, "by": "person:p", **asked}
    return why(connection, effect)


def why(connection: psycopg.Connection, effect: dict[str, Any]) -> str | None:
    """Why an effect was refused, in one word; None: it was not."""
    row = connection.execute(
        "select others from counterfoil.append_v4(1, %s::jsonb, 1000)",
        [Jsonb([request(event("counterfoil", "c"), own=True, effect=effect)])],
    ).fetchone()
    assert row is not None
    others: Any = row[0]
    return None if others is None else others[0].get("reason", others[0]["status"])


def refund(connection: psycopg.Connection) -> int:
    """Append a refund."""
    answer = append_one(connection, request(event(event_type="refund")))
    assert answer.first_position is not None
    return answer.first_position


def positions_of(answer: Answer) -> int:
    """The position of an event that has to be stored."""
    assert answer.status == "stored", answer
    assert answer.first_position is not None
    return answer.first_position


# --- Where it begins ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "expected"),
    [("beginning", [1, 2, 4]), ("now", [4]), ({"after": 1}, [2, 4]), ({"after": 2}, [4])],
)
def test_a_consumer_begins_where_it_is_told(
    service: psycopg.Connection, start: Any, expected: list[int]
) -> None:
    pay(service, "a:1", "a:2")
    make_consumer(service, start=start)
    pay(service, "a:3")
    assert consume(service, claim(9)).positions == expected


def test_a_start_that_the_book_has_not_come_to_is_refused(service: psycopg.Connection) -> None:
    """The event that makes it is the book's next, and lies behind it already."""
    pay(service, "a:1")
    assert reason(service, "ahead", start={"after": 2}) == "after_above_head"
    assert reason(service, "at the head", start={"after": 1}) is None


def test_the_same_again_writes_nothing(service: psycopg.Connection) -> None:
    assert make_consumer(service).status == "stored"
    assert reason(service, "scorer") == "unchanged"
    assert reason(service, "scorer", backoff_factor=2.0) == "unchanged"
    assert stands(service)["event_id"] == 1


def test_what_may_change_always_does(service: psycopg.Connection) -> None:
    made = positions_of(make_consumer(service))
    pay(service, "a:1")
    consume(service, claim())
    other: dict[str, Any] = {
        "lease_seconds": 7,
        "attempts_max": 2,
        "backoff_initial_seconds": 1,
        "backoff_factor": 1.5,
        "backoff_max_seconds": 9,
        "in_flight_max": 4,
        "dead_letters": "hold",
    }
    changed = positions_of(make_consumer(service, **other))
    told = stands(service)
    assert told["backoff"] == {"initial_seconds": 1, "factor": 1.5, "max_seconds": 9}
    assert {name: told[name] for name in ("lease_seconds", "attempts_max", "in_flight_max")} == {
        "lease_seconds": 7,
        "attempts_max": 2,
        "in_flight_max": 4,
    }
    assert (told["dead_letters"], told["event_id"]) == ("hold", changed)
    assert made < changed


def test_what_has_begun_keeps_its_start_and_its_order(service: psycopg.Connection) -> None:
    make_consumer(service)
    pay(service, "customer:1")
    consume(service, claim())
    assert reason(service, "scorer", start="now") == "begun_start"
    assert reason(service, "scorer", start={"after": 0}) == "begun_start"
    assert reason(service, "scorer", order_by="customer") == "begun_order_by"
    assert reason(service, "scorer", query=REFUNDS) == "begun_query"
    assert reason(service, "scorer", query=REFUNDS, change_query=True) is None


def test_a_query_that_is_changed_holds_for_what_was_not_put_out(
    service: psycopg.Connection,
) -> None:
    make_consumer(service)
    (one,) = pay(service, "a:1")
    early = refund(service)
    assert consume(service, claim(9)).positions == [one]
    make_consumer(service, query=BOTH, change_query=True)
    (two,) = pay(service, "a:1")
    late = refund(service)
    assert consume(service, claim(9)).positions == [two, late]
    assert early < two


def test_what_has_not_begun_can_change_altogether(service: psycopg.Connection) -> None:
    pay(service, "customer:1", "customer:1")
    make_consumer(service, start="now")
    assert consume(service, claim()).positions == []
    make_consumer(service, start="beginning", order_by="customer")
    assert consume(service, claim(9)).positions == [1]


def test_a_consumer_from_now_on_keeps_its_place_when_its_query_is_changed(
    service: psycopg.Connection,
) -> None:
    """What was written since it was made is not passed over."""
    make_consumer(service, start="now", query=REFUNDS)
    (position,) = pay(service, "a:1")
    make_consumer(service, start="now")
    assert consume(service, claim()).positions == [position]


def test_a_changed_query_of_what_has_not_begun_looks_from_the_start_again(
    service: psycopg.Connection,
) -> None:
    (position,) = pay(service, "a:1")
    make_consumer(service, query=REFUNDS)
    assert consume(service, claim()).positions == []
    make_consumer(service)
    assert consume(service, claim()).positions == [position]


def test_consumers_are_bounded(service: psycopg.Connection, owner: psycopg.Connection) -> None:
    make_consumer(service)
    owner.execute(
        "insert into counterfoil.consumers select (jsonb_populate_record("
        "  c, jsonb_build_object('name', 'c' || n))).*"
        " from counterfoil.consumers c, generate_series(1, 999) as n"
    )
    assert reason(service, "one-more") == "too_many"
    assert reason(service, "c7") == "unchanged"
    assert reason(service, "c7", lease_seconds=5) is None


# --- Seeking ------------------------------------------------------------------------------


def test_a_seek_makes_all_that_was_out_worthless(service: psycopg.Connection) -> None:
    make_consumer(service, order_by="customer")
    one, two = pay(service, "customer:1", "customer:1")
    held = consume(service, claim())
    seek = positions_of(change(service, "seek", to="beginning"))
    for call in (ack, extend, release):
        assert consume(service, call(*held.tokens), look_for_due=False).status() == "lost"
    late = append_one(service, request(principal="agent:a", **hands_in(*held.tokens)))
    assert late.status == "lease_lost"
    assert set_aside(service, *held.tokens).status == "effect_refused"
    again = consume(service, claim(9))
    assert again.tokens == [(seek, one, 1)]
    assert again.tokens > held.tokens
    assert consume(service, ack(*again.tokens)).status() == "done"
    assert consume(service, claim(9)).positions == [two]


def test_seeking_to_each_kind_of_place(service: psycopg.Connection) -> None:
    make_consumer(service)
    one, two, three = pay(service, "a:1", "a:2", "a:3")
    times = service.execute("select position, created_at::text from counterfoil.events").fetchall()
    at = {int(str(position)): str(time) for position, time in times}

    def after(to: Any) -> list[int]:
        assert change(service, "seek", to=to).status == "stored"
        return consume(service, claim(9)).positions

    assert after({"after": two}) == [three]
    assert after("beginning") == [one, two, three]
    assert after({"time": at[three]}) == [three]
    assert after({"time": at[one]}) == [one, two, three]
    assert after({"time": "0001-01-01T00:00:00Z"}) == [one, two, three]
    assert after({"time": "9999-12-31T23:59:59Z"}) == []
    assert after("now") == []
    assert pay(service, "a:4") == after({"after": three})


def test_a_seek_beyond_the_head_is_refused(service: psycopg.Connection) -> None:
    make_consumer(service)
    effect = {"effect": "change_consumer", "change": "seek", "name": "scorer"}
    assert why(service, {**effect, "to": {"after": 2}}) == "after_above_head"
    assert why(service, {**effect, "to": {"after": 2**63 - 1}}) == "after_above_head"
    assert why(service, {**effect, "to": {"after": 1}}) is None


def test_a_seek_is_not_undone_by_a_change_of_the_query(service: psycopg.Connection) -> None:
    """What was sought has begun, though nothing was put out since."""
    make_consumer(service)
    pay(service, "a:1", "a:2")
    consume(service, ack(*consume(service, claim(2)).tokens))
    change(service, "seek", to="now")
    assert reason(service, "scorer", query=BOTH) == "begun_query"
    assert reason(service, "scorer", start="now") == "begun_start"
    assert reason(service, "scorer", order_by="a") == "begun_order_by"
    assert reason(service, "scorer", query=BOTH, change_query=True) is None
    assert consume(service, claim(2)).positions == []


def test_dead_letters_outlive_a_seek_unless_their_events_are_put_out_anew(
    service: psycopg.Connection, owner: psycopg.Connection
) -> None:
    make_consumer(service, order_by="customer", dead_letters="hold")
    one, two = pay(service, "customer:1", "customer:2")
    set_aside(service, *consume(service, claim(2)).tokens)
    assert {letter["holds_key"] for letter in letters(owner).values()} == {True}
    change(service, "seek", to={"after": one})
    assert {position: letter["holds_key"] for position, letter in letters(owner).items()} == {
        one: False
    }
    assert consume(service, claim(9)).positions == [two]
    assert replay(service, one).status == "stored"
    assert consume(service, claim(9)).positions == [one]
    assert drop(service, one).status == "effect_refused"


def test_a_paused_consumer_stays_paused_over_a_seek_and_a_change(
    service: psycopg.Connection,
) -> None:
    make_consumer(service)
    pay(service, "a:1")
    assert change(service, "pause").status == "stored"
    change(service, "seek", to="beginning")
    make_consumer(service, lease_seconds=5)
    told = consume(service, claim())
    assert (told.positions, told.told["paused"], stands(service)["status"]) == ([], True, "paused")
    assert change(service, "resume").status == "stored"
    assert len(consume(service, claim()).positions) == 1


def test_pausing_what_is_paused_writes_nothing(service: psycopg.Connection) -> None:
    make_consumer(service)
    effect = {"effect": "change_consumer", "name": "scorer"}
    assert why(service, {**effect, "change": "resume"}) == "unchanged"
    assert why(service, {**effect, "change": "pause"}) is None
    assert why(service, {**effect, "change": "pause"}) == "unchanged"
    assert why(service, {**effect, "change": "resume"}) is None


@pytest.mark.parametrize("what", ["pause", "resume", "seek", "delete"])
def test_a_consumer_that_there_is_not_cannot_be_changed(
    service: psycopg.Connection, what: str
) -> None:
    effect = {"effect": "change_consumer", "change": what, "name": "nobody", "to": "now"}
    assert why(service, effect) == "consumer_not_found"


# --- Deleting -----------------------------------------------------------------------------


def test_what_is_deleted_hands_out_and_takes_nothing(
    service: psycopg.Connection, owner: psycopg.Connection
) -> None:
    make_consumer(service)
    pay(service, "a:1")
    held = consume(service, claim())
    assert change(service, "delete", drop_dead_letters=False).status == "stored"
    assert consume(service, ack(*held.tokens)).told == {"status": "not_found"}
    late = append_one(service, request(principal="agent:a", **hands_in(*held.tokens)))
    assert late.status == "consumer_not_found"
    make_consumer(service)
    assert consume(service, ack(*held.tokens)).status() == "lost", "it is another one now"
    late = append_one(service, request(principal="agent:a", **hands_in(*held.tokens)))
    assert late.status == "lease_lost"
    assert consume(service, claim()).deliveries[0].attempt == 1
    kept = owner.execute("select count(*) from counterfoil.deliveries").fetchone()
    assert kept == (2,), "the old one's is still to be cleared away"


def test_a_consumer_with_dead_letters_is_deleted_only_with_them(
    service: psycopg.Connection, owner: psycopg.Connection
) -> None:
    make_consumer(service)
    (position,) = pay(service, "a:1")
    fail(service, owner, position)
    set_aside(service, (1, position, 3), principal=None)
    effect = {"effect": "change_consumer", "change": "delete", "name": "scorer"}
    assert why(service, {**effect, "drop_dead_letters": False}) == "has_dead_letters"
    assert list(letters(owner)) == [position]
    assert why(service, {**effect, "drop_dead_letters": True}) is None
    assert letters(owner) == {}


# --- How it stands -------------------------------------------------------------------------


def test_how_a_consumer_stands(service: psycopg.Connection, owner: psycopg.Connection) -> None:
    made = positions_of(make_consumer(service, order_by="customer"))
    told = stands(service)
    assert told["lag"] == {"events": 0, "seconds": 0, "at_least": False}
    assert (told["position"], told["head"], told["start"]) == (0, made, "beginning")
    pay(service, "customer:1", "customer:1", "customer:2", "customer:3")
    assert stands(service)["lag"]["events"] == 4
    held = consume(service, claim(2))
    (last,) = pay(service, "customer:4")
    told = stands(service)
    # One stands behind another of its key, one is ready, and one is not put out.
    assert (told["in_flight"], told["waiting"], told["set_aside"]) == (2, 2, 0)
    assert (told["lag"]["events"], told["head"], told["position"]) == (5, last, last - 1)
    assert told["lag"]["seconds"] > 0
    assert (told["status"], told["created_by"]) == ("running", "person:p")
    consume(service, ack(held.tokens[0]))
    set_aside(service, held.tokens[1])
    told = stands(service)
    assert (told["in_flight"], told["waiting"], told["set_aside"]) == (0, 2, 1)
    assert told["lag"]["events"] == 3
    owner.execute("update counterfoil.consumer_progress set before_at = now() - interval '10 s'")
    assert 0.15 <= stands(service)["rate"] <= 0.2


def test_a_lease_that_is_over_is_not_in_flight(
    service: psycopg.Connection, owner: psycopg.Connection
) -> None:
    make_consumer(service)
    pay(service, "a:1")
    consume(service, claim())
    assert (stands(service)["in_flight"], stands(service)["waiting"]) == (1, 0)
    owner.execute("update counterfoil.deliveries set due_at = clock_timestamp()")
    assert (stands(service)["in_flight"], stands(service)["waiting"]) == (0, 1)


def test_what_has_too_many_dead_letters_is_stalled_and_puts_nothing_out(
    service: psycopg.Connection, owner: psycopg.Connection
) -> None:
    make_consumer(service)
    owner.execute(
        "insert into counterfoil.dead_letters select 1, 'scorer', -n, 1, 1, '[]', 'No.', 1, now(),"
        " 'p', false from generate_series(1, 10000) as n"
    )
    pay(service, "a:1")
    assert consume(service, claim()).positions == []
    assert stands(service)["status"] == "stalled"
    owner.execute("delete from counterfoil.dead_letters where position = -7")
    assert stands(service)["status"] == "running"
    assert len(consume(service, claim()).positions) == 1


def test_nothing_more_is_put_out_while_too_much_is_unfinished(
    service: psycopg.Connection, owner: psycopg.Connection
) -> None:
    make_consumer(service)
    pay(service, "a:1")
    owner.execute(
        "insert into counterfoil.deliveries (tenant_id, generation, position, state, place)"
        " select 1, 1, n, 'waiting', n from generate_series(3, 20002) as n"
    )
    owner.execute("update counterfoil.consumer_progress set reached = 20003, low = 3")
    assert stands(service)["waiting"] == 20_000
    fill = (
        "select f.events, f.held_back"
        " from counterfoil.consumers c, counterfoil.put_out(1, c, 30000) as f"
    )
    assert owner.execute(fill).fetchone() == (0, "full")
    reached = "select reached from counterfoil.consumer_progress"
    assert owner.execute(reached).fetchone() == (20_003,)
    owner.execute("delete from counterfoil.deliveries where position = 9000")
    owner.execute(fill)
    assert owner.execute(reached).fetchone() == (30_000,)


def test_lag_is_counted_up_to_a_limit(service: psycopg.Connection) -> None:
    make_consumer(service)
    for _ in range(11):
        append_one(service, request(*[event(event_type="payment") for _ in range(1_000)]))
    assert stands(service)["lag"] | {"seconds": 0} == {
        "events": 10_000,
        "seconds": 0,
        "at_least": True,
    }
