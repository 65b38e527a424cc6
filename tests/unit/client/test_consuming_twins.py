"""The loop of both clients: what it sends, and how a delivery ends."""

import json
from typing import Any

import httpx2
import pytest

from counterfoil import (
    Condition,
    ConditionFailed,
    Counterfoil,
    LeaseLost,
    NewEvent,
    NotFoundError,
    OutcomeUnknown,
    QueryItem,
    UsageError,
)
from tests.unit.client.doors import Clock, Connect
from tests.unit.client.simulated_book import Fault, problem
from tests.unit.client.simulated_consumers import SimulatedConsumers

SCORED = NewEvent(agent_name="scorer", event_type="score", payload={"score": 7})

pytestmark = pytest.mark.usefixtures("scorer")


@pytest.fixture
def scorer(service: SimulatedConsumers, connect: Connect) -> None:
    """A consumer of payments, with three of them waiting."""
    service.add(3, event_type="payment")
    connect().consumers.put("scorer", types="payment")
    service.received.clear()


def bodies(service: SimulatedConsumers, verb: str) -> list[dict[str, Any]]:
    found = [received for received in service.received if received.path.endswith(f"/{verb}")]
    return [json.loads(received.body) for received in found]


def unreachable() -> Fault:
    return Fault(httpx2.ConnectError("refused"))


def lost_answer() -> Fault:
    return Fault(httpx2.ReadError("connection reset"), served=True)


def test_events_come_one_after_another(cf: Counterfoil, service: SimulatedConsumers) -> None:
    seen = []
    with cf.consume("scorer", holder="h") as deliveries:
        assert deliveries.holder == "h"
        for delivery in deliveries:
            seen.append((delivery.event.id, delivery.attempt))
            assert delivery.done() is None
            assert (delivery.settled, delivery.lost) == (True, False)
            if len(seen) == 3:
                break
    assert seen == [(1, 1), (2, 1), (3, 1)]
    assert service.states() == ["done"] * 3
    assert bodies(service, "claim") == [{"holder": "h", "count": 1, "wait_seconds": 20.0}] * 3


def test_a_delivery_says_what_it_is(cf: Counterfoil, service: SimulatedConsumers) -> None:
    with cf.consume("scorer") as deliveries:
        delivery = deliveries.next()
        assert delivery is not None
        assert delivery.token == "scorer.1.00000001"
        assert delivery.lease_ends == service.moment(60)
        assert repr(delivery).endswith("HeldDelivery(event 1, attempt 1, held)")
        assert repr(deliveries).endswith("1 in hand)")


def test_the_outcome_is_stored_in_the_same_step(
    cf: Counterfoil, service: SimulatedConsumers
) -> None:
    with cf.consume("scorer") as deliveries:
        delivery = deliveries.next()
        assert delivery is not None
        service.faults.extend([lost_answer(), unreachable()])
        stored = delivery.done(SCORED)
        assert stored is not None
        assert (stored.ids, stored.replayed) == ((5,), True)
    assert [event["event_type"] for event in service.events].count("score") == 1


def test_what_one_attempt_leaves_open_stays_open(
    connect: Connect, service: SimulatedConsumers
) -> None:
    with connect(max_retries=0).consume("scorer") as deliveries:
        delivery = deliveries.next()
        assert delivery is not None
        refused = Fault(problem(403, "scope-missing", "No."))
        service.faults.extend([lost_answer(), unreachable(), refused])
        with pytest.raises(OutcomeUnknown) as unknown:
            delivery.done(SCORED)
        assert unknown.value.attempts == 3
        stored = delivery.done(SCORED)
        assert stored is not None
        assert stored.replayed


def test_a_claim_is_made_until_it_is_answered(
    connect: Connect, service: SimulatedConsumers, clock: Clock
) -> None:
    service.faults.extend([lost_answer(), *[unreachable()] * 20])
    with connect(max_retries=0).consume("scorer") as deliveries:
        delivery = deliveries.next()
        assert delivery is not None
        assert delivery.attempt == 1
    keys = {r.headers["Idempotency-Key"] for r in service.received if r.path.endswith("/claim")}
    assert len(keys) == 1
    assert sum(clock.waits) > 60


def test_no_consumer_no_loop(cf: Counterfoil) -> None:
    with cf.consume("nobody") as deliveries, pytest.raises(NotFoundError):
        deliveries.next()


def test_exceptions_give_back_with_their_reason(
    cf: Counterfoil, service: SimulatedConsumers
) -> None:
    with cf.consume("scorer") as deliveries:
        delivery = deliveries.next()
        assert delivery is not None
        with pytest.raises(ZeroDivisionError), delivery:
            _ = 1 / 0
        assert delivery.settled
    assert bodies(service, "release")[0]["reason"] == "ZeroDivisionError: division by zero"


def test_interruptions_give_back_and_do_not_count(
    cf: Counterfoil, service: SimulatedConsumers
) -> None:
    with cf.consume("scorer") as deliveries:
        delivery = deliveries.next()
        assert delivery is not None
        with pytest.raises(SystemExit), delivery:
            raise SystemExit
    (back,) = bodies(service, "release")
    assert (back["delay_seconds"], "reason" in back) == (0, False)


def test_what_is_left_unsettled_is_an_error(cf: Counterfoil, service: SimulatedConsumers) -> None:
    with cf.consume("scorer") as deliveries:
        delivery = deliveries.next()
        assert delivery is not None
        with pytest.raises(UsageError, match="neither done, given back nor set aside"), delivery:
            pass
    assert "without settling" in bodies(service, "release")[0]["reason"]


def test_a_delivery_is_settled_once(cf: Counterfoil, service: SimulatedConsumers) -> None:
    with cf.consume("scorer", max_at_once=3) as deliveries:
        first, second, third = (deliveries.next() for _ in range(3))
        assert first is not None
        assert second is not None
        assert third is not None
        first.done()
        second.release(delay_seconds=5, reason="Closed.")
        assert third.set_aside("Broken.") == 5
        for each, state in ((first, "done"), (second, "given back"), (third, "set aside")):
            with pytest.raises(UsageError, match=state):
                each.done(SCORED)
            with pytest.raises(UsageError, match=state):
                each.release()
    assert service.states() == ["done", "ready", "dead"]
    assert len(bodies(service, "ack")) == 1


def test_a_refused_outcome_leaves_it_in_hand(cf: Counterfoil, service: SimulatedConsumers) -> None:
    with cf.consume("scorer") as deliveries:
        delivery = deliveries.next()
        assert delivery is not None
        with pytest.raises(ConditionFailed):
            delivery.done(SCORED, condition=Condition(QueryItem(types="payment")))
        delivery.done(SCORED, idempotency_key="mine")
    assert service.received[-1].headers["Idempotency-Key"] == "mine"


def test_a_guard_and_a_delivery_go_together(cf: Counterfoil, service: SimulatedConsumers) -> None:
    with cf.consume("scorer") as deliveries:
        delivery = deliveries.next()
        assert delivery is not None
        with delivery, cf.guard(types="flag") as seen:
            service.add(event_type="flag")
            while not delivery.settled:
                event_type = "declined" if seen.events else "approved"
                decided = NewEvent(agent_name="approver", event_type=event_type, payload={})
                try:
                    delivery.done(decided, condition=seen.condition)
                except ConditionFailed:
                    seen.refresh()
    assert [event["event_type"] for event in service.events[-2:]] == ["flag", "declined"]


def test_what_is_lost_says_so(cf: Counterfoil, service: SimulatedConsumers) -> None:
    with cf.consume("scorer") as deliveries:
        delivery = deliveries.next()
        cf.consumers.seek("scorer", "beginning", reason="Once more.")
        assert delivery is not None
        with pytest.raises(LeaseLost):
            delivery.done(SCORED)
        assert (delivery.lost, delivery.settled) == (True, False)
        following = deliveries.next()
        assert following is not None
        following.done()
    assert service.states() == ["done", "ready", "ready"]


def test_to_forget_one_is_told_at_the_next(cf: Counterfoil, service: SimulatedConsumers) -> None:
    with cf.consume("scorer") as deliveries:
        deliveries.next()
        with pytest.raises(UsageError, match="event 1 is neither done nor given back"):
            deliveries.next()
    assert service.states() == ["ready"] * 3


def test_leaving_gives_back_what_is_in_hand(cf: Counterfoil, service: SimulatedConsumers) -> None:
    with cf.consume("scorer", max_at_once=3) as deliveries:
        first = deliveries.next()
        assert service.states() == ["held"] * 3
    assert service.states() == ["ready"] * 3
    assert first is not None
    with pytest.raises(UsageError, match="was given back already"):
        first.done()


def test_a_loop_may_be_left_and_gone_on_with_inside_its_block(
    cf: Counterfoil, service: SimulatedConsumers
) -> None:
    with cf.consume("scorer") as deliveries:
        for _ in range(3):
            for delivery in deliveries:
                delivery.done()
                break
    assert service.states() == ["done"] * 3


def test_a_stopped_loop_ends(cf: Counterfoil, service: SimulatedConsumers) -> None:
    with cf.consume("scorer", max_at_once=2) as deliveries:
        for delivery in deliveries:
            deliveries.stop()
            delivery.done()
    assert service.states() == ["done", "ready", "ready"]


def test_a_stop_gives_back_what_nobody_has_begun_with(
    cf: Counterfoil, service: SimulatedConsumers
) -> None:
    with cf.consume("scorer", max_at_once=3) as deliveries:
        delivery = deliveries.next()
        deliveries.stop()
        assert deliveries.next() is None
        assert service.states() == ["held", "ready", "ready"]
        assert delivery is not None
        delivery.done()


def test_one_at_least_is_in_hand(cf: Counterfoil) -> None:
    with pytest.raises(UsageError, match="max_at_once"):
        cf.consume("scorer", max_at_once=0)


def test_an_answer_of_something_else_is_not_waited_for(
    cf: Counterfoil, service: SimulatedConsumers
) -> None:
    service.faults.append(Fault(httpx2.Response(200, text="<html>Hello</html>")))
    with cf.consume("scorer") as deliveries, pytest.raises(OutcomeUnknown):
        deliveries.next()
