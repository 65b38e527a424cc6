"""Order per key: who stands in a line waits for all before, and for nobody else."""

import psycopg
import pytest

from tests.db.book import append, append_one, event, request
from tests.db.handing_out import (
    ack,
    claim,
    consume,
    drop,
    end,
    hands_in,
    letters,
    make_consumer,
    pay,
    release,
    replay,
    set_aside,
    states,
)

pytestmark = pytest.mark.promise("P8")


@pytest.fixture
def consumer(service: psycopg.Connection) -> psycopg.Connection:
    """A session of the service, in a book with a consumer in order per customer."""
    assert make_consumer(service, order_by="customer").status == "stored"
    return service


def lines(owner: psycopg.Connection) -> dict[str, list[int]]:
    """Who stands in which line, in its order."""
    rows = owner.execute(
        "select key, array_agg(position order by place) from counterfoil.delivery_keys group by key"
    )
    return {str(key): list(positions) for key, positions in rows}


def test_of_each_key_only_the_first_is_handed_out(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    one, two, three, four = pay(consumer, "customer:1", "customer:1", "customer:2", "customer:1")
    held = consume(consumer, claim(9))
    assert held.positions == [one, three]
    assert states(owner) == {one: "held", two: "waiting", three: "held", four: "waiting"}
    consume(consumer, ack(held.tokens[1]))
    assert consume(consumer, claim(9)).positions == []
    consume(consumer, ack(held.tokens[0]))
    assert states(owner) == {two: "ready", four: "waiting"}
    second = consume(consumer, claim(9))
    assert second.positions == [two]
    assert consume(consumer, claim(9, tokens=second.tokens)).positions == [four]
    assert lines(owner) == {"customer:1": [four]}


def test_tags_of_other_kinds_are_no_keys(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    """Nor are those whose kind only begins alike."""
    tags = ["customer2:1", "customers:1", "custome:1", "account:customer:1"]
    positions = pay(consumer, *[(tag, "a:1") for tag in tags], *[(tag, "a:1") for tag in tags])
    assert consume(consumer, claim(9)).positions == positions
    assert lines(owner) == {}


def test_an_event_without_a_key_waits_for_nobody(consumer: psycopg.Connection) -> None:
    one, two, three = pay(consumer, "customer:1", "a:1", "a:1")
    assert consume(consumer, claim(9)).positions == [one, two, three]


def test_who_fails_keeps_its_place(consumer: psycopg.Connection, owner: psycopg.Connection) -> None:
    one, two = pay(consumer, "customer:1", "customer:1")
    held = consume(consumer, claim())
    consume(consumer, release(*held.tokens, reason="No.", seconds=60))
    assert consume(consumer, claim()).positions == []
    assert states(owner) == {one: "delayed", two: "waiting"}
    end(owner, one)
    assert consume(consumer, claim(9)).positions == [one]
    end(owner, one)
    assert consume(consumer, claim(9)).positions == [one]


def test_an_event_of_two_keys_waits_for_both(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    one, two, both, after_one, after_two, free = pay(
        consumer,
        "customer:1",
        "customer:2",
        ("customer:1", "customer:2"),
        "customer:1",
        "customer:2",
        "customer:3",
    )
    held = consume(consumer, claim(9))
    assert held.positions == [one, two, free]
    consume(consumer, ack(held.tokens[0]))
    assert consume(consumer, claim(9)).positions == []
    consume(consumer, ack(held.tokens[1]))
    together = consume(consumer, claim(9))
    assert together.positions == [both]
    consume(consumer, ack(*together.tokens))
    assert consume(consumer, claim(9)).positions == [after_one, after_two]
    assert lines(owner)["customer:1"] == [after_one]


def test_all_before_may_leave_in_one_step(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    _, _, both = pay(consumer, "customer:1", "customer:2", ("customer:1", "customer:2"))
    held = consume(consumer, claim(9))
    answered = consume(consumer, ack(held.tokens[0]), ack(held.tokens[1]))
    assert [answered.status(0), answered.status(1)] == ["done", "done"]
    assert states(owner) == {both: "ready"}


def test_lines_go_on_over_the_seams_of_what_is_put_out(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    """1,000 at a time: an event of the second thousand waits for one of the first."""
    first, *_ = pay(consumer, "customer:1")
    append(consumer, request(*[event(event_type="payment") for _ in range(999)]))
    (last,) = pay(consumer, ("customer:1", "customer:9"))
    held = consume(consumer, claim(1_000))
    assert len(held.positions) == 1_000
    assert consume(consumer, claim()).positions == []
    assert states(owner)[last] == "waiting"
    consume(consumer, ack(*held.tokens))
    assert consume(consumer, claim()).positions == [last]
    assert first == held.positions[0]


def test_an_outcome_lets_those_behind_it_go(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    one, two = pay(consumer, "customer:1", "customer:1")
    held = consume(consumer, claim())
    outcome = request(principal="agent:a", **hands_in(*held.tokens))
    assert append_one(consumer, outcome).status == "stored"
    assert states(owner) == {two: "ready"}
    assert held.positions == [one]


def test_outcomes_of_one_group_let_go_who_waited_for_both(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    _, _, both = pay(consumer, "customer:1", "customer:2", ("customer:1", "customer:2"))
    held = consume(consumer, claim(9))
    outcomes = [request(principal="agent:a", **hands_in(token)) for token in held.tokens]
    assert [answer.status for answer in append(consumer, *outcomes)] == ["stored", "stored"]
    assert states(owner) == {both: "ready"}


# --- Dead letters in lines ---------------------------------------------------------------


def test_a_dead_letter_lets_its_key_pass(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    one, two = pay(consumer, "customer:1", "customer:1")
    set_aside(consumer, *consume(consumer, claim()).tokens)
    assert states(owner) == {two: "ready"}
    assert not letters(owner)[one]["holds_key"]


def test_a_dead_letter_that_holds_lets_nobody_pass(
    service: psycopg.Connection, owner: psycopg.Connection
) -> None:
    make_consumer(service, order_by="customer", dead_letters="hold")
    one, two, other = pay(service, "customer:1", "customer:1", "customer:2")
    (token,) = consume(service, claim()).tokens
    assert set_aside(service, token).status == "stored"
    assert states(owner) == {one: "set_aside", two: "waiting", other: "ready"}
    assert consume(service, claim(9)).positions == [other]
    (three,) = pay(service, "customer:1")
    assert consume(service, claim(9)).positions == []
    assert states(owner)[three] == "waiting"
    assert drop(service, one).status == "stored"
    assert states(owner) == {two: "ready", three: "waiting", other: "held"}
    assert letters(owner) == {}


def test_a_dead_letter_without_a_key_holds_nobody(
    service: psycopg.Connection, owner: psycopg.Connection
) -> None:
    make_consumer(service, order_by="customer", dead_letters="hold")
    (one,) = pay(service, "a:1")
    set_aside(service, *consume(service, claim()).tokens)
    assert states(owner) == {}
    assert not letters(owner)[one]["holds_key"]


def test_a_dead_letter_that_holds_is_replayed_in_its_place(
    service: psycopg.Connection, owner: psycopg.Connection
) -> None:
    make_consumer(service, order_by="customer", dead_letters="hold")
    one, two = pay(service, "customer:1", "customer:1")
    set_aside(service, *consume(service, claim()).tokens)
    assert replay(service, one).status == "stored"
    assert states(owner) == {one: "ready", two: "waiting"}
    held = consume(service, claim(9))
    assert held.positions == [one]
    consume(service, ack(*held.tokens))
    assert consume(service, claim(9)).positions == [two]


def test_a_dead_letter_that_let_pass_joins_its_lines_at_their_ends(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    one, two, three = pay(consumer, ("customer:1", "customer:2"), "customer:1", "customer:1")
    set_aside(consumer, *consume(consumer, claim()).tokens)
    held = consume(consumer, claim(9))
    assert replay(consumer, one).status == "stored"
    assert lines(owner) == {"customer:1": [two, three, one], "customer:2": [one]}
    (four,) = pay(consumer, ("customer:1", "customer:2"))
    assert consume(consumer, claim(9)).positions == []
    assert lines(owner) == {"customer:1": [two, three, one, four], "customer:2": [one, four]}
    order = []
    while held.positions:
        order += held.positions
        held = consume(consumer, claim(9, tokens=held.tokens))
    assert order == [two, three, one, four]
    assert lines(owner) == {}


def test_several_are_replayed_in_the_order_of_their_events(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    positions = pay(consumer, "customer:1", "customer:1", "customer:1")
    for position in positions:
        held = consume(consumer, claim())
        assert held.positions == [position]
        set_aside(consumer, *held.tokens)
    assert replay(consumer, *reversed(positions)).status == "stored"
    assert states(owner) == dict(zip(positions, ("ready", "waiting", "waiting"), strict=True))
    for position in positions:
        held = consume(consumer, claim(9))
        assert held.positions == [position]
        consume(consumer, ack(*held.tokens))


def test_replayed_over_and_over_places_only_grow(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    one, *_ = pay(consumer, "customer:1")
    for _ in range(3):
        held = consume(consumer, claim())
        assert held.positions == [one]
        set_aside(consumer, *held.tokens)
        (between,) = pay(consumer, "customer:1")
        held = consume(consumer, claim())
        assert held.positions == [between]
        replay(consumer, one)
        assert lines(owner) == {"customer:1": [between, one]}
        consume(consumer, ack(*held.tokens))
        assert lines(owner) == {"customer:1": [one]}


def test_one_that_is_in_a_line_twice_over_is_asked_for_once(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    """Two keys with one and the same line before them."""
    one, two = pay(consumer, ("customer:1", "customer:2"), ("customer:1", "customer:2"))
    held = consume(consumer, claim(9))
    assert held.positions == [one]
    consume(consumer, ack(*held.tokens))
    assert states(owner) == {two: "ready"}


def test_without_an_order_nothing_stands_in_lines(
    service: psycopg.Connection, owner: psycopg.Connection
) -> None:
    make_consumer(service)
    positions = pay(service, "customer:1", "customer:1")
    assert consume(service, claim(9)).positions == positions
    assert lines(owner) == {}
    set_aside(service, (1, positions[0], 1))
    replay(service, positions[0])
    assert lines(owner) == {}
    assert consume(service, claim(9)).positions == [positions[0]]
