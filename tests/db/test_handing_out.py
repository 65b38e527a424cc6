"""Claims, and what becomes of what was claimed: each state of a delivery, and each move."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.db.book import append, event, request
from tests.db.handing_out import (
    CONSUME,
    ack,
    claim,
    consume,
    delivery,
    end,
    extend,
    fail,
    group,
    make_consumer,
    pay,
    release,
    states,
)

pytestmark = pytest.mark.promise("P8")

FAR = 2**63 - 1


@pytest.fixture
def consumer(service: psycopg.Connection) -> psycopg.Connection:
    """A session of the service, in a book with a consumer of payments."""
    assert make_consumer(service).status == "stored"
    return service


def seconds_left(owner: psycopg.Connection, position: int) -> float:
    """How long until a delivery is due."""
    row = owner.execute(
        "select extract(epoch from due_at - clock_timestamp())::float8"
        " from counterfoil.deliveries where position = %s",
        [position],
    ).fetchone()
    assert row is not None
    return float(str(row[0]))


# --- Claims -----------------------------------------------------------------------


def test_matching_events_are_handed_out_once_in_their_order(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    positions = pay(consumer, "customer:1", "customer:1", "customer:2")
    append(consumer, request(event(event_type="refund")))
    first = consume(consumer, claim(2))
    assert first.positions == positions[:2]
    assert [delivery.attempt for delivery in first.deliveries] == [1, 1]
    assert consume(consumer, claim(5)).positions == positions[2:]
    assert consume(consumer, claim(5)).positions == []
    assert states(owner) == dict.fromkeys(positions, "held")


def test_claims_of_a_group_are_served_one_after_another(consumer: psycopg.Connection) -> None:
    positions = pay(consumer, "a:1", "a:2", "a:3", "a:4")
    answered = consume(
        consumer, claim(1, "one"), claim(2, "two"), claim(5, "three"), claim(1, "four")
    )
    assert [(d.request, d.position) for d in answered.deliveries] == [
        (0, positions[0]),
        (1, positions[1]),
        (1, positions[2]),
        (2, positions[3]),
    ]


def test_who_holds_it_and_until_when_is_kept(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    (position,) = pay(consumer, "a:1")
    consume(consumer, claim(holder="scorer-1", principal="agent:b"))
    row = delivery(owner, position)
    assert (row["holder"], row["principal"], row["state"]) == ("scorer-1", "agent:b", "held")
    assert 50 < seconds_left(owner, position) <= 60


def test_claim_of_a_consumer_that_there_is_not(consumer: psycopg.Connection) -> None:
    assert consume(consumer, claim(), name="nobody").told == {"status": "not_found"}


def test_what_is_put_out_is_bounded_and_the_rest_follows(consumer: psycopg.Connection) -> None:
    """1,000 at a time, at most four times in a call; nothing is passed over at the seams."""
    batch = request(*[event(event_type="payment") for _ in range(2_500)])
    (answer,) = append(consumer, batch)
    assert answer.first_position is not None
    first = consume(consumer, claim(1))
    assert first.told["behind"]
    found = first.positions + [
        position for _ in range(3) for position in consume(consumer, claim(1_000)).positions
    ]
    assert found == list(range(answer.first_position, answer.first_position + 2_500))


def test_a_claim_is_filled_over_the_seams_of_what_is_put_out(
    consumer: psycopg.Connection,
) -> None:
    batch = request(*[event(event_type="payment") for _ in range(2_500)])
    append(consumer, batch)
    assert len(consume(consumer, claim(1)).positions) == 1
    assert len(consume(consumer, claim(1_000)).positions) == 1_000
    assert len(consume(consumer, claim(1_000), claim(1_000)).positions) == 1_499


def test_an_answer_is_bounded_in_bytes_and_the_rest_stays_ready(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    """16 MiB: of 100 events of 250 kB each, 68 go out at once."""
    large = [event(event_type="payment", payload={"text": "x" * 250_000}) for _ in range(10)]
    for _ in range(10):
        append(consumer, request(*large))
    first = consume(consumer, claim(60, "one"), claim(40, "two"))
    assert 60 < len(first.positions) < 70
    assert list(states(owner).values()).count("ready") == 100 - len(first.positions)
    rest = consume(consumer, claim(100))
    assert first.positions + rest.positions == list(states(owner))


# --- Acknowledgements ----------------------------------------------------------------


def test_what_is_acknowledged_is_gone_for_good(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    pay(consumer, "a:1", "a:2")
    held = consume(consumer, claim(2))
    assert consume(consumer, ack(*held.tokens)).status() == "done"
    assert states(owner) == {}
    assert consume(consumer, claim(2)).positions == []
    again = consume(consumer, ack(*held.tokens))
    assert again.status() == "lost"
    assert again.lost() == held.tokens


def test_a_late_acknowledgement_is_refused(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    """By the database's clock, though nobody has claimed it meanwhile."""
    (position,) = pay(consumer, "a:1")
    held = consume(consumer, claim())
    end(owner, position)
    assert consume(consumer, ack(*held.tokens), look_for_due=False).status() == "lost"
    assert consume(consumer, extend(*held.tokens), look_for_due=False).status() == "lost"
    assert consume(consumer, release(*held.tokens), look_for_due=False).status() == "lost"
    assert states(owner) == {position: "held"}
    assert consume(consumer, claim()).deliveries[0].attempt == 2


def test_only_the_last_attempt_can_be_acknowledged(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    (position,) = pay(consumer, "a:1")
    (first,) = consume(consumer, claim()).tokens
    end(owner, position)
    (second,) = consume(consumer, claim()).tokens
    assert second > first
    for call in (ack, extend, release):
        assert consume(consumer, call(first)).status() == "lost"
    assert consume(consumer, ack(second)).status() == "done"


@pytest.mark.promise("P7")
def test_only_who_claimed_it_can_acknowledge_it(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    (position,) = pay(consumer, "a:1")
    held = consume(consumer, claim())
    for call in (ack, extend, release):
        stranger = call(*held.tokens, principal="agent:b")
        assert consume(consumer, stranger).status() == "lost"
    assert states(owner) == {position: "held"}
    assert consume(consumer, ack(*held.tokens)).status() == "done"


@pytest.mark.parametrize("call", [ack, extend, release])
def test_all_or_nothing(
    consumer: psycopg.Connection, owner: psycopg.Connection, call: Callable[..., dict[str, Any]]
) -> None:
    positions = pay(consumer, "a:1", "a:2", "a:3")
    held = consume(consumer, claim(3))
    assert consume(consumer, ack(held.tokens[1])).status() == "done"
    before = delivery(owner, positions[0]), delivery(owner, positions[2])
    answered = consume(consumer, call(*held.tokens))
    assert answered.status() == "lost"
    assert answered.lost() == [held.tokens[1]]
    assert (delivery(owner, positions[0]), delivery(owner, positions[2])) == before


def test_a_request_that_is_refused_does_not_touch_the_others(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    one, two, three = pay(consumer, "a:1", "a:2", "a:3")
    held = consume(consumer, claim(3)).tokens
    generation = held[0][0]
    answered = consume(
        consumer,
        ack(held[0], (generation, 998, 1)),
        ack(held[1]),
        release(held[2], (generation, 999, 1), reason="No."),
    )
    assert [answered.status(nth) for nth in range(3)] == ["lost", "done", "lost"]
    assert states(owner) == {one: "held", three: "held"}
    assert two not in states(owner)


def test_two_requests_that_name_one_delivery_are_told_apart(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    pay(consumer, "a:1", "a:2")
    held = consume(consumer, claim(2)).tokens
    answered = consume(consumer, ack(held[0]), release(*held), ack(held[1]))
    assert [answered.status(nth) for nth in range(3)] == ["done", "again", "again"]
    assert list(states(owner).values()) == ["held"]


@pytest.mark.parametrize("far", [(FAR, FAR, 2**31 - 1), (1, FAR, 1), (0, 0, 0), (FAR, 1, 1)])
def test_tokens_of_nothing_are_lost(
    consumer: psycopg.Connection, far: tuple[int, int, int]
) -> None:
    pay(consumer, "a:1")
    consume(consumer, claim())
    for call in (ack, extend, release):
        answered = consume(consumer, call(far))
        assert answered.status() == "lost"
        assert answered.lost() == [far]


def test_a_claim_acknowledges_before_it_takes(consumer: psycopg.Connection) -> None:
    one, two = pay(consumer, "a:1", "a:2")
    held = consume(consumer, claim())
    answered = consume(consumer, claim(tokens=held.tokens))
    assert (held.positions, answered.positions) == ([one], [two])
    assert answered.status() == "done"


def test_a_claim_whose_acknowledgement_is_lost_takes_nothing(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    one, two = pay(consumer, "a:1", "a:2")
    held = consume(consumer, claim())
    end(owner, one)
    answered = consume(consumer, claim(tokens=held.tokens), look_for_due=False)
    assert (answered.status(), answered.positions) == ("lost", [])
    assert states(owner) == {one: "held", two: "ready"}


# --- Leases -------------------------------------------------------------------------


def test_a_dead_holders_lease_runs_out(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    (position,) = pay(consumer, "a:1")
    consume(consumer, claim(holder="dead"))
    end(owner, position)
    assert consume(consumer, claim(), look_for_due=False).positions == []
    (again,) = consume(consumer, claim(holder="heir")).deliveries
    assert (again.position, again.attempt) == (position, 2)
    (ended,) = delivery(owner, position)["history"]
    assert (ended["attempt"], ended["holder"], ended["reason"]) == (1, "dead", "The lease ran out.")
    assert ended["claimed_at"]
    assert ended["ended_at"]


def test_extending_counts_from_now(consumer: psycopg.Connection, owner: psycopg.Connection) -> None:
    (position,) = pay(consumer, "a:1")
    held = consume(consumer, claim())
    for seconds, least, most in ((500, 490, 500), (5, 1, 5), (None, 50, 60)):
        more = {} if seconds is None else {"seconds": seconds}
        answered = consume(consumer, extend(*held.tokens, **more))
        assert answered.status() == "done"
        assert least < seconds_left(owner, position) <= most
        row = owner.execute(
            "select counterfoil.time_text(due_at) from counterfoil.deliveries"
        ).fetchone()
        assert row == (answered.told["lease_ends"]["0"],)


def test_the_next_that_is_due_is_told_where_a_claim_goes_short(
    consumer: psycopg.Connection,
) -> None:
    one, two = pay(consumer, "a:1", "a:2")
    full = consume(consumer, claim(2))
    assert full.told["next_due_seconds"] is None
    consume(consumer, extend(full.tokens[1], seconds=20))
    short = consume(consumer, claim(1))
    assert 10 < short.told["next_due_seconds"] <= 20
    assert short.told["unfinished"]
    consume(consumer, ack(*full.tokens))
    empty = consume(consumer, claim(1))
    assert (empty.told["next_due_seconds"], empty.told["unfinished"]) == (None, False)
    assert (one, two) == (full.positions[0], full.positions[1])


def test_what_is_due_is_found_however_long_ago_the_last_look_was(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    """The mark below which nothing is due moves on behind the clock, and passes over nothing."""
    one, two, three = pay(consumer, "a:1", "a:2", "a:3")
    held = consume(consumer, claim(3))
    consume(consumer, extend(held.tokens[2], seconds=3_600))
    marks = []
    for position in (one, two, one):
        end(owner, position)
        assert consume(consumer, claim()).positions == [position]
        row = owner.execute(
            "select due_low, due_low < clock_timestamp() - interval '29 s'"
            " from counterfoil.consumer_progress"
        ).fetchone()
        assert row is not None
        assert row[1], "a statement that is still running may make something due in the past"
        marks.append(row[0])
        # As if the last look had been an hour ago.
        owner.execute("update counterfoil.consumer_progress set due_low = due_low - interval '1 h'")
    assert marks == sorted(marks)
    assert states(owner)[three] == "held"


# --- Giving back -----------------------------------------------------------------------


def test_what_is_given_back_without_a_reason_does_not_count(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    (position,) = pay(consumer, "a:1")
    for attempt in range(1, 8):  # attempts_max is 3
        (held,) = consume(consumer, claim()).deliveries
        assert held.attempt == attempt
        assert consume(consumer, release(held.token)).status() == "done"
        assert states(owner) == {position: "ready"}
    row = delivery(owner, position)
    assert (row["attempts"], row["uncounted"], row["history"]) == (7, 7, None)
    assert (row["holder"], row["principal"], row["claimed_at"]) == (None, None, None)


def test_what_fails_too_often_is_exhausted_and_handed_out_no_more(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    (position,) = pay(consumer, "a:1")
    token = fail(consumer, owner, position)
    assert token[2] == 3
    answered = consume(consumer, claim())
    assert (answered.positions, answered.told["exhausted"]) == ([], True)
    assert [ended["reason"] for ended in delivery(owner, position)["history"]] == ["No."] * 3
    assert consume(consumer, ack(token)).status() == "lost"


def test_leases_that_run_out_exhaust_too(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    (position,) = pay(consumer, "a:1")
    for _ in range(3):
        assert consume(consumer, claim()).positions == [position]
        end(owner, position)
    answered = consume(consumer, claim())
    assert (answered.positions, answered.told["exhausted"]) == ([], True)
    assert states(owner) == {position: "exhausted"}
    reasons = [ended["reason"] for ended in delivery(owner, position)["history"]]
    assert reasons == ["The lease ran out."] * 3


def test_what_was_only_given_back_does_not_bring_it_nearer_to_its_end(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    (position,) = pay(consumer, "a:1")
    for reason in ("No.", None, "No.", None, None):
        (held,) = consume(consumer, claim()).tokens
        consume(consumer, release(held, seconds=0, **({"reason": reason} if reason else {})))
        assert states(owner) == {position: "ready"}
    (held,) = consume(consumer, claim()).tokens
    consume(consumer, release(held, seconds=3_600, reason="No."))
    assert states(owner) == {position: "exhausted"}


def test_what_is_given_back_for_later_waits_until_then(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    (position,) = pay(consumer, "a:1")
    held = consume(consumer, claim())
    assert consume(consumer, release(*held.tokens, seconds=604_800)).status() == "done"
    assert states(owner) == {position: "delayed"}
    assert 604_700 < seconds_left(owner, position) <= 604_800
    assert consume(consumer, claim()).positions == []
    assert consume(consumer, ack(*held.tokens)).status() == "lost"
    end(owner, position)
    assert consume(consumer, claim()).deliveries[0].attempt == 2


def test_backoff_grows_and_is_bounded(
    service: psycopg.Connection, owner: psycopg.Connection
) -> None:
    make_consumer(
        service,
        attempts_max=100,
        backoff_initial_seconds=1.5,
        backoff_factor=3,
        backoff_max_seconds=40,
    )
    (position,) = pay(service, "a:1")
    for seconds in (1.5, 4.5, 13.5, 40, 40):
        held = consume(service, claim())
        assert consume(service, release(*held.tokens, reason="No.")).status() == "done"
        assert states(owner) == {position: "delayed"}
        assert seconds - 1 < seconds_left(owner, position) <= seconds
        end(owner, position)


def test_backoff_after_very_many_failures_is_the_longest(owner: psycopg.Connection) -> None:
    """Without taking ten to the power of a hundred."""
    row = owner.execute(
        "select counterfoil.backoff_seconds(jsonb_populate_record(null::counterfoil.consumers,"
        ' \'{"backoff_initial_seconds": 3600, "backoff_factor": 10,'
        ' "backoff_max_seconds": 86400}\'), 2147483647)'
    ).fetchone()
    assert row is not None
    assert int(str(row[0])) == 86_400


# --- Bounds, pauses, and what is told -------------------------------------------------


def test_no_more_are_in_flight_than_allowed(
    service: psycopg.Connection, owner: psycopg.Connection
) -> None:
    make_consumer(service, in_flight_max=3)
    one, two, three, four = pay(service, "a:1", "a:2", "a:3", "a:4")
    held = consume(service, claim(2, "x"), claim(2, "y"))
    assert held.positions == [one, two, three]
    short = consume(service, claim())
    assert short.positions == []
    assert 50 < short.told["next_due_seconds"] <= 60, "it is told when to come again"
    assert short.told["unfinished"]
    consume(service, ack(held.tokens[0]))
    assert consume(service, claim(2)).positions == [four]
    end(owner, two)
    assert consume(service, claim(2)).positions == [two]


def test_what_is_paused_hands_nothing_out_but_takes_what_is_done(
    service: psycopg.Connection, owner: psycopg.Connection
) -> None:
    make_consumer(service)
    one, two = pay(service, "a:1", "a:2")
    held = consume(service, claim())
    owner.execute("update counterfoil.consumers set paused = true")
    answered = consume(service, claim(tokens=held.tokens))
    assert (answered.status(), answered.positions, answered.told["paused"]) == ("done", [], True)
    assert states(owner) == {two: "ready"}
    assert one not in states(owner)


def test_a_text_of_a_delivery_is_that_of_the_event(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    pay(consumer, "a:1")
    rows = consumer.execute(CONSUME, [1, "scorer", *group(claim()), True, 100]).fetchall()
    text = owner.execute(
        "select counterfoil.event_text(e) from counterfoil.events e where position = 2"
    ).fetchone()
    assert text is not None
    assert str(rows[0][2]).startswith(f'{{"event":{text[0]},"attempt":1,')


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_only_read_committed_will_do(consumer: psycopg.Connection, level: str) -> None:
    consumer.execute(f"set default_transaction_isolation = '{level}'")
    with pytest.raises(psycopg.errors.InvalidTransactionState, match="READ COMMITTED"):
        consume(consumer, claim())


@pytest.mark.promise("P7")
def test_a_transaction_works_for_its_own_tenant_only(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    owner.execute("insert into counterfoil.books (tenant_id, name) values (2, 'rival')")
    pay(consumer, "a:1")
    held = consume(consumer, claim())
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        consumer.execute(CONSUME, [2, "scorer", *group(claim()), True, 100])
    assert consume(consumer, ack(*held.tokens), tenant_id=2).told == {"status": "not_found"}
    assert list(states(owner).values()) == ["held"]


@pytest.mark.promise("P7")
def test_a_namesake_of_another_tenant_has_tokens_of_its_own(
    consumer: psycopg.Connection, owner: psycopg.Connection
) -> None:
    owner.execute("insert into counterfoil.books (tenant_id, name) values (2, 'rival')")
    pay(consumer, "a:1")
    held = consume(consumer, claim())
    own = {
        "effect": "put_consumer",
        "name": "scorer",
        "by": "p",
        "change_query": False,
        "query": [{"types": ["payment"]}],
        "start": "beginning",
        "order_by": None,
        "lease_seconds": 60,
        "attempts_max": 3,
        "backoff_initial_seconds": 0,
        "backoff_factor": 2,
        "backoff_max_seconds": 300,
        "in_flight_max": None,
        "dead_letters": "pass",
    }
    append(consumer, request(event("counterfoil", "c"), own=True, effect=own), tenant_id=2)
    append(consumer, request(event(event_type="payment")), tenant_id=2)
    theirs = consume(consumer, claim(), tenant_id=2)
    assert theirs.tokens == held.tokens, "the same place in another book"
    assert consume(consumer, ack(*held.tokens), tenant_id=2).status() == "done"
    assert consume(consumer, ack(*held.tokens)).status() == "done"
