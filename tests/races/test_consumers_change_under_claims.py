"""What changes a consumer meets claims that are in flight: neither waits for ever, nothing is lost."""

import psycopg
import pytest

from tests.db.book import append_one, event, request
from tests.db.handing_out import (
    ack,
    change,
    claim,
    consume,
    make_consumer,
    pay,
    states,
)
from tests.support.racing import Race, result

pytestmark = pytest.mark.promise("P8")

REFUNDS = [{"types": ["refund"], "agents": [], "tags": []}]


def refund(connection: psycopg.Connection) -> int:
    answer = append_one(connection, request(event(event_type="refund")))
    assert answer.first_position is not None
    return answer.first_position


def test_a_claim_that_waits_for_a_change_puts_out_by_the_new_query(race: Race) -> None:
    """It had read the consumer before: an event that only the new query asks for would be lost."""
    make_consumer(race.service, in_flight_max=9)
    pay(race.service, "a:1")
    refunded = refund(race.service)
    changer, claimer = race.session(), race.session()
    make_consumer(changer.connection, in_flight_max=9, query=REFUNDS)
    claiming = race.begin(consume, claimer.connection, claim(9))
    race.waits_for(claimer, changer)
    changer.commit()
    assert result(claiming).positions in ([], [refunded])
    claimer.commit()
    assert {**states(race.owner), refunded: "held"} == {refunded: "held"}
    consume(race.service, claim(9))
    assert states(race.owner) == {refunded: "held"}


def test_a_claim_that_waits_for_a_change_of_the_order_keeps_the_new_one(race: Race) -> None:
    make_consumer(race.service, in_flight_max=9)
    one, _ = pay(race.service, "customer:1", "customer:1")
    changer, claimer = race.session(), race.session()
    make_consumer(changer.connection, in_flight_max=9, order_by="customer")
    claiming = race.begin(consume, claimer.connection, claim(9))
    race.waits_for(claimer, changer)
    changer.commit()
    assert result(claiming).positions in ([], [one])
    claimer.commit()
    assert consume(race.service, claim(9)).positions in ([], [one])
    assert sorted(states(race.owner).values()) == ["held", "waiting"]


@pytest.mark.parametrize("what", ["seek", "delete"])
def test_a_claim_that_meets_a_seek_or_a_deletion_hands_out_what_is_worthless(
    race: Race, what: str
) -> None:
    """It counts as one before it. Nothing of it can be acknowledged, and nothing is left over."""
    make_consumer(race.service, in_flight_max=9)
    one, two = pay(race.service, "a:1", "a:2")
    gate = race.locks("select from counterfoil.consumer_progress for update")
    claimer = race.session()
    claiming = race.begin(consume, claimer.connection, claim(1))
    race.waits_for(claimer, gate)
    change(race.service, what, to="beginning", drop_dead_letters=False)
    gate.rollback()
    handed_out = result(claiming)
    claimer.commit()
    late = consume(race.service, ack(*handed_out.tokens)) if handed_out.tokens else None
    if what == "seek":
        assert late is None or late.status() == "lost"
        assert consume(race.service, claim(9)).positions == [one, two]
    else:
        assert late is None or late.told == {"status": "not_found"}


@pytest.mark.parametrize("what", ["pause", "seek", "delete", "put"])
def test_who_changes_a_consumer_does_not_wait_for_a_claim_in_flight(race: Race, what: str) -> None:
    """All of the book's writers would wait with him."""
    make_consumer(race.service, in_flight_max=9)
    pay(race.service, "a:1")
    claimer = race.session()
    held = consume(claimer.connection, claim())
    if what == "put":
        busy = make_consumer(race.service, in_flight_max=9, query=REFUNDS)
        assert busy.status == "row_busy", "it is sent again"
        answer = make_consumer(race.service, in_flight_max=3)
    else:
        answer = change(race.service, what, to="beginning", drop_dead_letters=False)
    assert answer.status == "stored"
    claimer.commit()
    expected = {"pause": "done", "put": "done", "seek": "lost", "delete": None}[what]
    after = consume(race.service, ack(*held.tokens))
    assert after.told["status"] == ("not_found" if what == "delete" else "found")
    assert what == "delete" or after.status() == expected
