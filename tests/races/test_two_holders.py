"""One event, several who want it: who has it is settled by locks and by the database's clock."""

from collections.abc import Callable
from typing import Any

import pytest
from psycopg.errors import LockNotAvailable

from tests.db.book import append, append_one, event, request
from tests.db.handing_out import (
    ack,
    claim,
    consume,
    delivery,
    end,
    extend,
    hands_in,
    make_consumer,
    pay,
    release,
    set_aside,
    states,
)
from tests.support.racing import Race, result
from tests.support.waiting import wait_for

pytestmark = pytest.mark.promise("P8")

Call = Callable[..., dict[str, Any]]


def ends_soon(race: Race, position: int) -> None:
    """Let a lease end in a moment, which is long enough for one statement."""
    race.owner.execute(
        "update counterfoil.deliveries set due_at = clock_timestamp() + interval '700 ms'"
        " where position = %s",
        [position],
    )


def ended(race: Race, position: int) -> None:
    """Wait until the database's clock is past the end of a lease."""

    def look() -> bool:
        row = race.owner.execute(
            "select due_at < clock_timestamp() from counterfoil.deliveries where position = %s",
            [position],
        ).fetchone()
        return row == (True,)

    wait_for(look, "the lease to end")


def test_two_claimers_never_hold_one_event(race: Race) -> None:
    """The second passes over what the first has locked, and waits for nobody."""
    make_consumer(race.service)
    one, two, three = pay(race.service, "a:1", "a:2", "a:3")
    first, second = race.session(), race.session()
    assert consume(first.connection, claim()).positions == [one]
    assert consume(second.connection, claim()).positions == []
    first.commit()
    second.commit()
    assert consume(first.connection, claim()).positions == [two]
    assert consume(second.connection, claim()).positions == [three]
    first.commit()
    second.commit()
    assert [delivery(race.owner, n)["attempts"] for n in (one, two, three)] == [1, 1, 1]


def test_a_claim_that_is_rolled_back_held_nothing(race: Race) -> None:
    make_consumer(race.service)
    (position,) = pay(race.service, "a:1")
    first = race.session()
    assert consume(first.connection, claim()).positions == [position]
    first.rollback()
    assert consume(race.service, claim()).deliveries[0].attempt == 1


def test_two_that_fill_one_claim_put_nothing_out_twice(race: Race) -> None:
    """The second cannot have the progress, and is told that there is more."""
    make_consumer(race.service)
    positions = pay(race.service, "a:1", "a:2", "a:3")
    first, second = race.session(), race.session()
    assert consume(first.connection, claim(2)).positions == positions[:2]
    short = consume(second.connection, claim(2))
    assert (short.positions, short.told["behind"]) == ([], True)
    first.commit()
    second.commit()
    assert consume(race.service, claim(2)).positions == positions[2:]


def test_with_a_bound_in_flight_claims_take_turns(race: Race) -> None:
    make_consumer(race.service, in_flight_max=2)
    one, two, _ = pay(race.service, "a:1", "a:2", "a:3")
    first, second = race.session(), race.session()
    assert consume(first.connection, claim()).positions == [one]
    claiming = race.begin(consume, second.connection, claim(2))
    race.waits_for(second, first)
    first.commit()
    assert result(claiming).positions == [two]


def test_a_lease_that_is_being_extended_is_in_flight(race: Race) -> None:
    """Though it seems to be over, to whoever cannot see yet that it was extended in time."""
    make_consumer(race.service, in_flight_max=1)
    one, two = pay(race.service, "a:1", "a:2")
    held = consume(race.service, claim())
    extender, claimer = race.session(), race.session()
    ends_soon(race, one)
    assert consume(extender.connection, extend(*held.tokens)).status() == "done"
    ended(race, one)
    assert consume(claimer.connection, claim()).positions == []
    claimer.commit()
    extender.commit()
    assert consume(race.service, claim()).positions == []
    assert consume(race.service, ack(*held.tokens)).status() == "done"
    assert consume(race.service, claim()).positions == [two]


def test_a_claim_at_the_end_of_a_lease_passes_over_who_is_extending_it(race: Race) -> None:
    make_consumer(race.service)
    (one,) = pay(race.service, "a:1")
    held = consume(race.service, claim())
    extender, claimer = race.session(), race.session()
    ends_soon(race, one)
    assert consume(extender.connection, extend(*held.tokens)).status() == "done"
    ended(race, one)
    assert consume(claimer.connection, claim()).positions == []
    claimer.commit()
    extender.commit()
    assert consume(race.service, claim()).positions == []
    assert consume(race.service, ack(*held.tokens)).status() == "done"


@pytest.mark.parametrize("call", [ack, extend, release])
def test_who_comes_while_it_is_handed_out_anew_is_too_late(race: Race, call: Call) -> None:
    """The lock is waited for, and then the token is one attempt behind."""
    make_consumer(race.service)
    (one,) = pay(race.service, "a:1")
    held = consume(race.service, claim())
    end(race.owner, one)
    claimer, holder = race.session(), race.session()
    assert consume(claimer.connection, claim()).deliveries[0].attempt == 2
    late = race.begin(consume, holder.connection, call(*held.tokens))
    race.waits_for(holder, claimer)
    claimer.commit()
    assert result(late).status() == "lost"
    holder.commit()
    assert delivery(race.owner, one)["attempts"] == 2


@pytest.mark.parametrize("call", [ack, extend, release])
def test_a_lock_that_is_waited_for_beyond_the_lease_costs_it(race: Race, call: Call) -> None:
    """The clock is read once the lock is had. The lease stood when the call came."""
    make_consumer(race.service)
    (one,) = pay(race.service, "a:1")
    held = consume(race.service, claim())
    ends_soon(race, one)
    gate = race.locks("select from counterfoil.deliveries for update")
    holder = race.session()
    late = race.begin(consume, holder.connection, call(*held.tokens), look_for_due=False)
    race.waits_for(holder, gate)
    ended(race, one)
    gate.rollback()
    assert result(late).status() == "lost"
    holder.commit()
    assert states(race.owner) == {one: "held"}


def test_an_acknowledgement_in_time_stands_against_a_claim_at_the_end(race: Race) -> None:
    make_consumer(race.service)
    (one,) = pay(race.service, "a:1")
    held = consume(race.service, claim())
    holder, claimer = race.session(), race.session()
    ends_soon(race, one)
    assert consume(holder.connection, ack(*held.tokens)).status() == "done"
    ended(race, one)
    assert consume(claimer.connection, claim()).positions == []
    claimer.commit()
    holder.commit()
    assert states(race.owner) == {}


def test_of_two_acknowledgements_one_counts(race: Race) -> None:
    make_consumer(race.service)
    pay(race.service, "a:1")
    held = consume(race.service, claim())
    first, second = race.session(), race.session()
    assert consume(first.connection, ack(*held.tokens)).status() == "done"
    other = race.begin(consume, second.connection, ack(*held.tokens))
    race.waits_for(second, first)
    first.commit()
    assert result(other).status() == "lost"


@pytest.mark.promise("P5")
def test_one_acknowledgement_in_two_processes_is_answered_once(race: Race) -> None:
    make_consumer(race.service)
    pay(race.service, "a:1")
    held = consume(race.service, claim())
    keyed = ack(*held.tokens, key="k", digest="00" * 32)
    first, second = race.session(), race.session()
    assert consume(first.connection, keyed).status() == "done"
    other = race.begin(consume, second.connection, keyed)
    race.waits_for(second, first)
    first.commit()
    assert result(other).status() == "replayed"


@pytest.mark.promise("P5")
@pytest.mark.parametrize("same", [True, False], ids=["the same", "another"])
def test_one_key_in_two_processes_at_once_is_used_once(race: Race, same: bool) -> None:
    """Two claims, or two acknowledgements of different deliveries, under one key."""
    make_consumer(race.service)
    pay(race.service, "a:1", "a:2")
    held = consume(race.service, claim(2))
    first, second = race.session(), race.session()
    one = ack(held.tokens[0], key="k", digest="00" * 32)
    two = ack(held.tokens[1], key="k", digest=("00" if same else "01") * 32)
    assert consume(first.connection, one).status() == "done"
    other = race.begin(consume, second.connection, two)
    race.waits_for(second, first)
    first.commit()
    assert result(other).status() == ("replayed" if same else "key_reused")
    second.commit()
    assert list(states(race.owner).values()) == ["held"]


@pytest.mark.promise("P5")
def test_one_claim_in_two_processes_at_once_is_given_one_answer(race: Race) -> None:
    make_consumer(race.service)
    one, _ = pay(race.service, "a:1", "a:2")
    consume(race.service, release(*consume(race.service, claim(2)).tokens))
    keyed = claim(key="k", digest="00" * 32)
    first, second = race.session(), race.session()
    assert consume(first.connection, keyed).positions == [one]
    other = race.begin(consume, second.connection, keyed)
    race.waits_for(second, first)
    first.commit()
    again = result(other)
    assert (again.status(), again.positions) == ("replayed", [one])
    second.commit()
    assert sorted(states(race.owner).values()) == ["held", "ready"]


@pytest.mark.promise("P5")
def test_a_key_whose_first_call_was_rolled_back_is_free(race: Race) -> None:
    make_consumer(race.service)
    pay(race.service, "a:1")
    held = consume(race.service, claim())
    keyed = ack(*held.tokens, key="k", digest="00" * 32)
    first, second = race.session(), race.session()
    assert consume(first.connection, keyed).status() == "done"
    other = race.begin(consume, second.connection, keyed)
    race.waits_for(second, first)
    first.rollback()
    assert result(other).status() == "done"


# --- Under the book's head ------------------------------------------------------------


def busy(race: Race, *tokens: tuple[int, int, int], around: int = 2) -> list[str]:
    """How a request that hands these in fares, and those around it in its group."""
    note = request(event(event_type="note"))
    outcome = request(event(event_type="scored"), principal="agent:a", **hands_in(*tokens))
    try:
        answers = append(race.service, *[note] * around, outcome, *[note] * around)
    except LockNotAvailable as error:
        raise AssertionError("all of the book's writers wait for a row") from error
    return [answer.status for answer in answers]


STORED = ["stored", "stored"]


@pytest.mark.parametrize("call", [ack, extend, release])
def test_nothing_is_waited_for_under_the_head(race: Race, call: Call) -> None:
    """What another has locked makes its own request come again, and no other."""
    make_consumer(race.service)
    pay(race.service, "a:1")
    held = consume(race.service, claim())
    other = race.session()
    assert consume(other.connection, call(*held.tokens)).status() == "done"
    assert busy(race, *held.tokens) == [*STORED, "row_busy", *STORED]
    other.rollback()
    assert busy(race, *held.tokens) == [*STORED, "stored", *STORED]
    assert states(race.owner) == {}


def test_who_is_next_in_line_is_not_waited_for_under_the_head(race: Race) -> None:
    """Two leave two lines of one event; the second under the head."""
    make_consumer(race.service, order_by="customer")
    one, two, both = pay(race.service, "customer:1", "customer:2", ("customer:1", "customer:2"))
    held = consume(race.service, claim(3))
    assert held.positions == [one, two]
    other = race.session()
    assert consume(other.connection, ack(held.tokens[0])).status() == "done"
    assert busy(race, held.tokens[1]) == [*STORED, "row_busy", *STORED]
    other.commit()
    assert busy(race, held.tokens[1]) == [*STORED, "stored", *STORED]
    assert states(race.owner) == {both: "ready"}


def test_an_outcome_stands_against_an_acknowledgement_that_waits_for_it(race: Race) -> None:
    make_consumer(race.service)
    pay(race.service, "a:1")
    held = consume(race.service, claim())
    writer, other = race.session(), race.session()
    handing_in = request(principal="agent:a", **hands_in(*held.tokens))
    assert append_one(writer.connection, handing_in).status == "stored"
    acknowledging = race.begin(consume, other.connection, ack(*held.tokens))
    race.waits_for(other, writer)
    writer.commit()
    assert result(acknowledging).status() == "lost"


def test_an_outcome_that_is_rolled_back_leaves_it_held(race: Race) -> None:
    make_consumer(race.service)
    pay(race.service, "a:1")
    held = consume(race.service, claim())
    writer, other = race.session(), race.session()
    handing_in = request(principal="agent:a", **hands_in(*held.tokens))
    assert append_one(writer.connection, handing_in).status == "stored"
    acknowledging = race.begin(consume, other.connection, ack(*held.tokens))
    race.waits_for(other, writer)
    writer.rollback()
    assert result(acknowledging).status() == "done"


def test_setting_aside_does_not_wait_either(race: Race) -> None:
    make_consumer(race.service)
    pay(race.service, "a:1")
    held = consume(race.service, claim())
    other = race.session()
    consume(other.connection, extend(*held.tokens))
    assert set_aside(race.service, *held.tokens).status == "row_busy"
    other.commit()
    assert set_aside(race.service, *held.tokens).status == "stored"


def test_a_claim_does_not_wait_for_an_append(race: Race) -> None:
    """Nor the other way round: claims know nothing of the book's head."""
    make_consumer(race.service)
    one, two = pay(race.service, "a:1", "a:2")
    held = consume(race.service, claim())
    writer, claimer = race.session(), race.session()
    handing_in = request(principal="agent:a", **hands_in(*held.tokens))
    assert append_one(writer.connection, handing_in).status == "stored"
    assert consume(claimer.connection, claim()).positions == [two]
    claimer.commit()
    writer.commit()
    assert states(race.owner) == {two: "held"}
    assert one < two
