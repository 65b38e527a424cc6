"""The loop: what is held, how long, and how it ends. The asynchronous client, in virtual time."""

import asyncio
import logging
from typing import Any

import httpx2
import pytest

from counterfoil import (
    APIConnectionError,
    APIStatusError,
    AsyncCounterfoil,
    AsyncHeldDelivery,
    AuthenticationError,
    Condition,
    ConditionFailed,
    InvalidRequestError,
    LeaseLost,
    NewEvent,
    NotFoundError,
    OutcomeUnknown,
    PermissionDenied,
    QueryItem,
    UnexpectedAnswer,
    UsageError,
)
from tests.support.virtual_time import passes_of_the_loop
from tests.unit.client.simulated_book import Fault, problem
from tests.unit.client.virtual_consumers import VirtualService

SCORED = NewEvent(agent_name="scorer", event_type="score", payload={"score": 7})


def unreachable() -> Fault:
    return Fault(httpx2.ConnectError("refused"))


def lost_answer() -> Fault:
    return Fault(httpx2.ReadError("connection reset"), served=True)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "counterfoil" and record.levelno >= logging.WARNING
    ]


async def only(cf: AsyncCounterfoil, count: int, **settings: Any) -> list[AsyncHeldDelivery]:
    """So many deliveries of one loop that stays open."""
    deliveries = cf.consume("scorer", max_at_once=max(count, 1), **settings)
    held = [await deliveries.next() for _ in range(count)]
    return [delivery for delivery in held if delivery is not None]


# --- One after another ------------------------------------------------------------------


def test_each_event_is_handed_out_once_and_acknowledged() -> None:
    service = VirtualService(payments=3)
    seen: list[tuple[int, int]] = []

    async def test(cf: AsyncCounterfoil) -> None:
        async with cf.consume("scorer", holder="scorer-1") as deliveries:
            assert deliveries.holder == "scorer-1"
            async for delivery in deliveries:
                seen.append((delivery.event.id, delivery.attempt))
                assert await delivery.done() is None
                assert (delivery.settled, delivery.lost) == (True, False)
                if len(seen) == 3:
                    break

    service.run(test)
    assert seen == [(1, 1), (2, 1), (3, 1)]
    assert service.states() == ["done"] * 3
    assert service.calls("claim") == [{"holder": "scorer-1", "count": 1, "wait_seconds": 20.0}] * 3
    assert service.calls("release") == []


def test_the_outcome_is_stored_in_the_same_step() -> None:
    service = VirtualService(payments=1)

    async def test(cf: AsyncCounterfoil) -> None:
        (delivery,) = await only(cf, 1)
        stored = await delivery.done(
            SCORED, {"agent_name": "scorer", "event_type": "note", "payload": {}}
        )
        assert stored is not None
        assert (stored.ids, stored.replayed) == ((3, 4), False)

    service.run(test)
    assert service.types() == ["payment", "score", "note"]
    assert service.states() == ["done"]


def test_a_holder_of_ones_own_is_made_for_each_loop() -> None:
    service = VirtualService()

    async def test(cf: AsyncCounterfoil) -> None:
        one, other = cf.consume("scorer"), cf.consume("scorer")
        assert one.holder != other.holder
        assert 1 < len(one.holder) <= 128

    service.run(test)


def test_a_loop_waits_for_work_without_calling_all_the_time() -> None:
    service = VirtualService()

    async def test(cf: AsyncCounterfoil) -> None:
        deliveries = cf.consume("scorer")
        waiting = asyncio.create_task(deliveries.next())
        await asyncio.sleep(65)
        service.add()
        delivery = await waiting
        assert delivery is not None
        assert service.clock.seconds < 66
        await deliveries.close()

    service.run(test)
    assert len(service.calls("claim")) == 4
    assert len(set(service.keys("claim"))) == 4


def test_claims_that_come_back_empty_at_once_are_not_made_without_a_pause() -> None:
    service = VirtualService(payments=1)
    empty = httpx2.Response(200, json={"deliveries": [], "status": "running"})
    service.consumers.faults.extend([Fault(empty)] * 5)

    async def test(cf: AsyncCounterfoil) -> None:
        await only(cf, 1)
        assert 5 <= service.clock.seconds < 6

    service.run(test)


def test_a_stalled_consumer_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    service = VirtualService(payments=1)
    stalled = httpx2.Response(200, json={"deliveries": [], "status": "stalled"})
    service.consumers.faults.extend([Fault(stalled)] * 3)

    async def test(cf: AsyncCounterfoil) -> None:
        await only(cf, 1)

    service.run(test)
    assert warnings_of(caplog)[0] == "The consumer 'scorer' is stalled."
    assert "stalled" not in "".join(warnings_of(caplog)[1:])


# --- Leases -----------------------------------------------------------------------------


def test_a_lease_is_extended_at_about_its_half_for_as_long_as_it_takes() -> None:
    service = VirtualService(payments=1, lease_seconds=60)
    ends = []

    async def test(cf: AsyncCounterfoil) -> None:
        (delivery,) = await only(cf, 1)
        for _ in range(10):
            ends.append(delivery.lease_ends)
            await asyncio.sleep(30)
        await delivery.done()

    service.run(test)
    assert service.states() == ["done"]
    assert service.attempts(1) == []
    assert 9 <= len(service.calls("extend")) <= 11
    assert ends == sorted(set(ends))


def test_a_lease_of_one_second_is_extended_in_time_too() -> None:
    service = VirtualService(payments=1, lease_seconds=1)

    async def test(cf: AsyncCounterfoil) -> None:
        (delivery,) = await only(cf, 1)
        await asyncio.sleep(10)
        await delivery.done()

    service.run(test)
    assert service.attempts(1) == []
    assert len(service.calls("extend")) <= 40


def test_a_lease_is_measured_by_the_services_clock() -> None:
    # The sim's clock stands in 2025, and this machine's does not: if it counted, every lease
    # would be over, or endless.
    service = VirtualService(payments=1, lease_seconds=600)

    async def test(cf: AsyncCounterfoil) -> None:
        (delivery,) = await only(cf, 1)
        await asyncio.sleep(280)
        assert service.calls("extend") == []
        await asyncio.sleep(20)
        assert len(service.calls("extend")) == 1
        await delivery.done()

    service.run(test)


def test_ten_in_hand_are_extended_in_one_call() -> None:
    service = VirtualService(payments=10)

    async def test(cf: AsyncCounterfoil) -> None:
        held = await only(cf, 10)
        await asyncio.sleep(70)
        for delivery in held:
            await delivery.done()

    service.run(test)
    assert service.states() == ["done"] * 10
    assert len(service.calls("claim")) == 1
    assert [len(call["tokens"]) for call in service.calls("extend")] == [10, 10]


def test_what_was_fetched_ahead_is_held_too() -> None:
    service = VirtualService(payments=5)

    async def test(cf: AsyncCounterfoil) -> None:
        async with cf.consume("scorer", max_at_once=5) as deliveries:
            async for delivery in deliveries:
                await asyncio.sleep(100)
                await delivery.done()
                if delivery.event.id == 5:
                    break

    service.run(test)
    assert service.states() == ["done"] * 5
    assert all(service.attempts(event) == [] for event in range(1, 6))


def test_a_lost_lease_is_told_and_the_others_are_extended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = VirtualService(payments=3)

    async def test(cf: AsyncCounterfoil) -> None:
        first, second, third = await only(cf, 3)
        # Somebody with the token gives it back behind this loop's back.
        await cf.consumers.release("scorer", second.token)
        await asyncio.sleep(40)
        assert [each.lost for each in (first, second, third)] == [False, True, False]
        with pytest.raises(LeaseLost):
            await second.done(SCORED)
        await asyncio.sleep(60)
        await first.done()
        await third.done()

    service.run(test)
    assert [len(call["tokens"]) for call in service.calls("extend")] == [3, 2, 2, 2]
    assert service.types() == ["payment"] * 3
    assert (
        warnings_of(caplog)[0]
        == "Event 2 of the consumer 'scorer' is not held any more (attempt 1)."
    )


def test_a_loss_that_names_nobody_is_everybodys() -> None:
    service = VirtualService(payments=2)

    async def test(cf: AsyncCounterfoil) -> None:
        held = await only(cf, 2)
        service.consumers.faults.append(Fault(problem(409, "lease-lost", "No.")))
        await asyncio.sleep(40)
        assert all(delivery.lost for delivery in held)

    service.run(test)


def test_a_loss_is_learned_from_the_acknowledgement_too() -> None:
    service = VirtualService(payments=1)

    async def test(cf: AsyncCounterfoil) -> None:
        (delivery,) = await only(cf, 1)
        await cf.consumers.seek("scorer", "beginning", reason="Once more.")
        with pytest.raises(LeaseLost):
            await delivery.done(SCORED)
        assert (delivery.lost, delivery.settled) == (True, False)
        assert repr(delivery) == "AsyncHeldDelivery(event 1, attempt 1, lost)"

    service.run(test)
    assert service.types() == ["payment"]


def test_after_a_loss_there_is_room_again() -> None:
    service = VirtualService(payments=2)

    async def test(cf: AsyncCounterfoil) -> None:
        async with cf.consume("scorer") as deliveries:
            first = await deliveries.next()
            assert first is not None
            await cf.consumers.release("scorer", first.token, delay_seconds=1000)
            await asyncio.sleep(40)
            second = await deliveries.next()
            assert second is not None
            assert second.event.id == 2

    service.run(test)


def test_extensions_outlast_a_short_outage() -> None:
    service = VirtualService(payments=1)

    async def test(cf: AsyncCounterfoil) -> None:
        (delivery,) = await only(cf, 1)
        await asyncio.sleep(25)
        service.consumers.faults.extend([unreachable()] * 8)
        await asyncio.sleep(100)
        assert not delivery.lost
        await delivery.done()

    service.run(test)
    assert service.attempts(1) == []


def test_where_nothing_can_be_extended_the_next_asked_for_says_why() -> None:
    service = VirtualService(payments=2)

    async def test(cf: AsyncCounterfoil) -> None:
        async with cf.consume("scorer", max_at_once=2) as deliveries:
            delivery = await deliveries.next()
            del service.consumers.consumers["scorer"]
            await asyncio.sleep(40)
            assert delivery is not None
            assert delivery.lost
            with pytest.raises(NotFoundError):
                await deliveries.next()
            service.put("scorer")

    service.run(test)


# --- Answers that are lost --------------------------------------------------------------


@pytest.mark.parametrize("retries", [0, 2])
def test_a_claim_whose_answer_is_lost_brings_the_same(retries: int) -> None:
    service = VirtualService(payments=2)
    service.consumers.faults.extend([lost_answer(), unreachable(), unreachable()])

    async def test(cf: AsyncCounterfoil) -> None:
        (delivery,) = await only(cf, 1)
        assert (delivery.event.id, delivery.attempt) == (1, 1)

    service.run(test, max_retries=retries)
    assert service.states() == ["held", "ready"]
    assert len(set(service.keys("claim"))) == 1


@pytest.mark.parametrize("retries", [0, 2])
def test_an_acknowledgement_whose_answer_is_lost_is_made_once(retries: int) -> None:
    service = VirtualService(payments=1)

    async def test(cf: AsyncCounterfoil) -> None:
        (delivery,) = await only(cf, 1)
        service.consumers.faults.extend([lost_answer(), unreachable()])
        stored = await delivery.done(SCORED)
        assert stored is not None
        assert stored.replayed

    service.run(test, max_retries=retries)
    assert service.types() == ["payment", "score"]


def test_what_is_being_acknowledged_is_not_lost_because_it_cannot_be_extended() -> None:
    service = VirtualService(payments=1)

    async def test(cf: AsyncCounterfoil) -> None:
        (delivery,) = await only(cf, 1)
        await asyncio.sleep(28)
        service.consumers.faults.extend([lost_answer(), unreachable()])
        acknowledged = asyncio.create_task(delivery.done(SCORED))
        await asyncio.sleep(1.1)
        # The acknowledgement waits to be sent again; the extension was told that it is lost.
        assert len(service.calls("extend")) == 1
        assert not acknowledged.done()
        assert not delivery.lost
        assert (await acknowledged) is not None

    service.run(test, max_retries=0)
    assert service.types() == ["payment", "score"]


def test_what_could_not_be_acknowledged_is_lost_after_all() -> None:
    service = VirtualService(payments=1)

    async def test(cf: AsyncCounterfoil) -> None:
        (delivery,) = await only(cf, 1)
        await asyncio.sleep(28)
        service.consumers.faults.extend(
            [lost_answer(), unreachable(), None, *[unreachable()] * 100]
        )
        with pytest.raises(OutcomeUnknown):
            await delivery.done(SCORED)
        assert len(service.calls("extend")) == 1
        assert delivery.lost

    service.run(test, max_retries=0)


def test_what_was_acknowledged_during_an_extension_is_done(
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = VirtualService(payments=2)

    async def test(cf: AsyncCounterfoil) -> None:
        first, second = await only(cf, 2)
        await asyncio.sleep(28.995)
        await first.done()  # While the extension is on its way, which comes too late for it.
        await asyncio.sleep(1)
        assert (first.settled, first.lost) == (True, False)
        assert not second.lost

    service.run(test)
    assert [len(call["tokens"]) for call in service.calls("extend")] == [2, 1]
    assert warnings_of(caplog) == []


def test_an_acknowledgement_is_tried_until_the_lease_is_over() -> None:
    service = VirtualService(payments=1)

    async def test(cf: AsyncCounterfoil) -> None:
        (delivery,) = await only(cf, 1)
        service.consumers.faults.extend([unreachable()] * 100)
        with pytest.raises(APIConnectionError):
            await delivery.done(SCORED)
        assert 40 < service.clock.seconds < 61
        await asyncio.sleep(20)
        service.consumers.faults.clear()
        await asyncio.sleep(20)
        assert delivery.lost

    service.run(test)
    assert service.types() == ["payment"]


def test_an_acknowledgement_of_which_nothing_is_known_can_be_made_again() -> None:
    service = VirtualService(payments=1)

    async def test(cf: AsyncCounterfoil) -> None:
        (delivery,) = await only(cf, 1)
        service.consumers.faults.extend([lost_answer(), *[unreachable()] * 100])
        with pytest.raises(OutcomeUnknown):
            await delivery.done(SCORED)
        service.consumers.faults.clear()
        await asyncio.sleep(60)
        assert delivery.lost  # As far as the extension knows.
        stored = await delivery.done(SCORED)
        assert stored is not None
        assert (stored.replayed, delivery.lost, delivery.settled) == (True, False, True)

    service.run(test)
    assert service.types() == ["payment", "score"]


def test_a_key_of_ones_own_is_sent() -> None:
    service = VirtualService(payments=2)

    async def test(cf: AsyncCounterfoil) -> None:
        first, second = await only(cf, 2)
        await first.done(SCORED, idempotency_key="mine")
        await second.done(SCORED)

    service.run(test)
    mine, made = service.keys("ack")
    assert mine == "mine"
    assert len(made) == 64


# --- A service that is not there, or refuses --------------------------------------------


def test_a_loop_outlasts_an_outage_and_tells_of_it_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "counterfoil")
    service = VirtualService(payments=1)
    busy = problem(503, "busy", "Later.", headers={"Retry-After": "60"})
    service.consumers.faults.extend([unreachable()] * 30 + [Fault(busy)] * 3)

    async def test(cf: AsyncCounterfoil) -> None:
        (delivery,) = await only(cf, 1)
        await delivery.done()

    service.run(test)
    assert service.clock.seconds > 180
    told = [record.getMessage() for record in caplog.records if record.name == "counterfoil"]
    assert len(told) == 2
    assert told[0].startswith(
        "The consumer 'scorer' cannot be worked just now, and is tried again:"
    )
    assert told[1] == "The consumer 'scorer' can be worked again."


def test_a_service_is_left_alone_for_as_long_as_it_asks() -> None:
    service = VirtualService(payments=1)
    busy = problem(503, "busy", "Later.", headers={"Retry-After": "60"})
    limited = problem(429, "rate-limited", "Later.", headers={"Retry-After": "90"})
    service.consumers.faults.extend([Fault(busy), Fault(busy), Fault(limited)])

    async def test(cf: AsyncCounterfoil) -> None:
        await only(cf, 1)
        assert 210 <= service.clock.seconds < 211

    service.run(test)
    assert len(service.calls("claim")) == 4


@pytest.mark.parametrize(
    ("status", "name", "kind"),
    [
        (401, "unauthenticated", AuthenticationError),
        (403, "scope-missing", PermissionDenied),
        (404, "consumer-not-found", NotFoundError),
        (422, "invalid-input", InvalidRequestError),
    ],
)
def test_what_the_service_decides_is_raised(
    status: int, name: str, kind: type[APIStatusError]
) -> None:
    service = VirtualService(payments=1)

    async def test(cf: AsyncCounterfoil) -> None:
        service.consumers.faults.append(Fault(problem(status, name, "No.")))
        async with cf.consume("scorer") as deliveries:
            with pytest.raises(kind):
                await deliveries.next()
            # Once it is mended, the loop goes on.
            assert await deliveries.next() is not None

    service.run(test)
    assert len(set(service.keys("claim"))) == 2


def test_another_service_is_not_waited_for() -> None:
    service = VirtualService()
    service.consumers.faults.append(Fault(httpx2.Response(200, text="<html>Hello</html>")))

    async def test(cf: AsyncCounterfoil) -> None:
        with pytest.raises(OutcomeUnknown) as unknown:
            await cf.consume("scorer").next()
        assert isinstance(unknown.value.__cause__, UnexpectedAnswer)

    service.run(test)


# --- How a delivery ends ----------------------------------------------------------------


def test_an_exception_in_the_block_gives_it_back_with_the_reason() -> None:
    service = VirtualService(payments=1)

    async def test(cf: AsyncCounterfoil) -> None:
        (delivery,) = await only(cf, 1)
        with pytest.raises(ZeroDivisionError):
            async with delivery:
                _ = 1 / 0
        assert delivery.settled

    service.run(test)
    assert service.attempts(1) == ["ZeroDivisionError: division by zero"]
    assert "delay_seconds" not in service.calls("release")[0]


@pytest.mark.parametrize("message", ["x" * 600, "a\0b", "a\ud800b", ""])
def test_a_reason_fits_whatever_the_exception_says(message: str) -> None:
    service = VirtualService(payments=1)

    async def test(cf: AsyncCounterfoil) -> None:
        (delivery,) = await only(cf, 1)
        with pytest.raises(ValueError):  # noqa: PT011 - whatever it says is the point
            async with delivery:
                raise ValueError(message)

    service.run(test)
    (reason,) = service.attempts(1)
    assert reason.startswith("ValueError: ")
    assert len(reason) <= 500
    assert "\0" not in reason


def test_to_leave_the_block_unsettled_is_an_error_and_a_failed_attempt() -> None:
    service = VirtualService(payments=1)

    async def test(cf: AsyncCounterfoil) -> None:
        (delivery,) = await only(cf, 1)
        with pytest.raises(UsageError, match="event 1 was neither done, given back nor set aside"):
            async with delivery:
                pass

    service.run(test)
    assert service.states() == ["ready"]
    assert service.attempts(1) == ["The handler left the delivery without settling it."]


def test_what_was_settled_or_lost_leaves_the_block_quietly() -> None:
    service = VirtualService(payments=3)

    async def test(cf: AsyncCounterfoil) -> None:
        first, second, third = await only(cf, 3)
        async with first:
            await first.done()
        async with second:
            await second.set_aside("The currency is unknown.")
        async with third:
            await cf.consumers.release("scorer", third.token)
            await asyncio.sleep(40)
            assert third.lost

    service.run(test)
    assert service.states() == ["done", "dead", "ready"]


def test_a_cancelled_block_has_not_failed() -> None:
    service = VirtualService(payments=1)

    async def test(cf: AsyncCounterfoil) -> None:
        (delivery,) = await only(cf, 1)

        async def handle() -> None:
            async with delivery:
                await asyncio.sleep(1000)

        handling = asyncio.create_task(handle())
        await asyncio.sleep(1)
        handling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await handling

    service.run(test)
    assert service.states() == ["ready"]
    assert service.attempts(1) == []


def test_what_cannot_be_given_back_is_let_go(caplog: pytest.LogCaptureFixture) -> None:
    service = VirtualService(payments=1)

    async def test(cf: AsyncCounterfoil) -> None:
        (delivery,) = await only(cf, 1)
        service.consumers.faults.append(Fault(problem(403, "scope-missing", "No.")))
        with pytest.raises(ZeroDivisionError):
            async with delivery:
                _ = 1 / 0
        await asyncio.sleep(100)

    service.run(test)
    assert service.calls("extend") == []
    assert service.attempts(1) == ["The lease ran out."]
    assert "Event 1 could not be given back" in warnings_of(caplog)[0]


def test_it_is_given_back_as_it_is_asked() -> None:
    service = VirtualService(payments=2)

    async def test(cf: AsyncCounterfoil) -> None:
        first, second = await only(cf, 2)
        await first.release()
        await second.release(delay_seconds=60, reason="Closed.")

    service.run(test)
    one, other = service.calls("release")
    assert set(one) == {"tokens"}
    assert (other["delay_seconds"], other["reason"]) == (60, "Closed.")
    assert service.attempts(1) == []
    assert service.attempts(2) == ["Closed."]


def test_it_is_set_aside() -> None:
    service = VirtualService(payments=1)

    async def test(cf: AsyncCounterfoil) -> None:
        (delivery,) = await only(cf, 1)
        assert await delivery.set_aside("The currency is unknown.") == 3

    service.run(test)
    assert service.states() == ["dead"]


def test_a_delivery_is_settled_once() -> None:
    service = VirtualService(payments=4)

    async def test(cf: AsyncCounterfoil) -> None:
        first, second, third, fourth = await only(cf, 4)
        await first.done()
        with pytest.raises(UsageError, match="Event 1 is done already"):
            await first.done()
        await second.release()
        with pytest.raises(UsageError, match="Event 2 was given back already"):
            await second.done(SCORED)
        await third.set_aside("Broken.")
        with pytest.raises(UsageError, match="Event 3 was set aside already"):
            await third.release()
        acknowledged = asyncio.create_task(fourth.done())
        await passes_of_the_loop(3)
        with pytest.raises(UsageError, match="Event 4 is just being settled"):
            await fourth.release()
        await acknowledged

    service.run(test)
    assert len(service.calls("ack")) == 2
    assert service.types() == ["payment"] * 4


def test_a_refused_outcome_leaves_it_in_hand() -> None:
    service = VirtualService(payments=1)

    async def test(cf: AsyncCounterfoil) -> None:
        (delivery,) = await only(cf, 1)
        with pytest.raises(ConditionFailed) as refused:
            await delivery.done(SCORED, condition=Condition(QueryItem(types="payment")))
        assert refused.value.lease_ends == delivery.lease_ends
        assert not delivery.settled
        await delivery.done(SCORED)

    service.run(test)
    assert service.types() == ["payment", "score"]


# --- Several at once, and the end -------------------------------------------------------


def test_to_forget_a_delivery_is_told_at_the_next() -> None:
    service = VirtualService(payments=2)

    async def test(cf: AsyncCounterfoil) -> None:
        async with cf.consume("scorer") as deliveries:
            await deliveries.next()
            with pytest.raises(UsageError, match="event 1 is neither done nor given back"):
                await deliveries.next()

    service.run(test)
    assert service.states() == ["ready", "ready"]


def test_no_more_is_in_hand_than_was_said() -> None:
    service = VirtualService(payments=5)

    async def test(cf: AsyncCounterfoil) -> None:
        async with cf.consume("scorer", max_at_once=2) as deliveries:
            first = await deliveries.next()
            await deliveries.next()
            third = asyncio.create_task(deliveries.next())
            await asyncio.sleep(30)
            assert not third.done()
            assert service.states().count("held") == 2
            assert first is not None
            await first.done()
            following = await third
            assert following is not None
            assert following.event.id == 3

    service.run(test)
    assert [call["count"] for call in service.calls("claim")] == [2, 1]


def test_one_at_least_is_in_hand() -> None:
    service = VirtualService()

    async def test(cf: AsyncCounterfoil) -> None:
        with pytest.raises(UsageError, match="max_at_once"):
            cf.consume("scorer", max_at_once=0)

    service.run(test)


def test_leaving_gives_back_what_is_in_hand_and_does_not_count_it() -> None:
    service = VirtualService(payments=4)

    async def test(cf: AsyncCounterfoil) -> None:
        async with cf.consume("scorer", max_at_once=3) as deliveries:
            async for delivery in deliveries:
                await delivery.done()
                break
        with pytest.raises(UsageError, match="is done already"):
            await delivery.done()
        assert await deliveries.next() is None
        await deliveries.close()

    service.run(test)
    assert service.states() == ["done", "ready", "ready", "ready"]
    (back,) = service.calls("release")
    assert (len(back["tokens"]), back["delay_seconds"], "reason" in back) == (2, 0, False)


def test_leaving_does_not_take_away_what_is_just_being_acknowledged() -> None:
    service = VirtualService(payments=2)

    async def test(cf: AsyncCounterfoil) -> None:
        async with cf.consume("scorer", max_at_once=2) as deliveries:
            delivery = await deliveries.next()
            assert delivery is not None
            acknowledged = asyncio.create_task(delivery.done(SCORED))
            await passes_of_the_loop(3)
        await acknowledged

    service.run(test)
    assert service.states() == ["done", "ready"]
    assert [len(call["tokens"]) for call in service.calls("release")] == [1]


def test_what_was_lost_meanwhile_does_not_keep_the_others_from_going_back() -> None:
    service = VirtualService(payments=3)

    async def test(cf: AsyncCounterfoil) -> None:
        async with cf.consume("scorer", max_at_once=3) as deliveries:
            delivery = await deliveries.next()
            assert delivery is not None
            await cf.consumers.set_aside("scorer", delivery.token, reason="By another.")

    service.run(test)
    assert service.states() == ["dead", "ready", "ready"]


def test_what_cannot_be_given_back_at_the_end_is_told(caplog: pytest.LogCaptureFixture) -> None:
    service = VirtualService(payments=2)

    async def test(cf: AsyncCounterfoil) -> None:
        async with cf.consume("scorer", max_at_once=2) as deliveries:
            await deliveries.next()
            service.consumers.faults.extend([unreachable()] * 3)

    service.run(test)
    assert "2 deliveries of the consumer 'scorer' could not be given back" in warnings_of(caplog)[0]


def test_a_cancelled_loop_gives_back_what_is_in_hand() -> None:
    service = VirtualService(payments=3)

    async def test(cf: AsyncCounterfoil) -> None:
        async def loop() -> None:
            async with cf.consume("scorer", max_at_once=2) as deliveries:
                async for _ in deliveries:
                    await asyncio.sleep(1000)

        looping = asyncio.create_task(loop())
        await asyncio.sleep(100)
        assert service.states() == ["held", "held", "ready"]
        looping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await looping
        assert service.states() == ["ready"] * 3
        assert service.attempts(1) == []

    service.run(test)


def test_a_loop_without_a_block_gives_back_what_is_in_hand() -> None:
    service = VirtualService(payments=3)

    async def test(cf: AsyncCounterfoil) -> None:
        async def loop() -> None:
            async for delivery in cf.consume("scorer", max_at_once=2):
                await delivery.done()
                await asyncio.sleep(1000)

        looping = asyncio.create_task(loop())
        await asyncio.sleep(10)
        looping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await looping
        del looping
        await asyncio.sleep(1)
        assert service.states() == ["done", "ready", "ready"]

    service.run(test)


def test_a_loop_that_is_cancelled_while_it_waits_holds_nothing() -> None:
    service = VirtualService()

    async def test(cf: AsyncCounterfoil) -> None:
        async def loop() -> None:
            async for _ in cf.consume("scorer"):
                raise AssertionError

        looping = asyncio.create_task(loop())
        await asyncio.sleep(5)
        assert service.claims_waiting == 1
        looping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await looping
        assert service.claims_waiting == 0
        service.add()
        await asyncio.sleep(30)
        assert service.states() == ["ready"]

    service.run(test)


def test_a_claim_that_was_interrupted_is_made_again_with_its_key() -> None:
    service = VirtualService()

    async def test(cf: AsyncCounterfoil) -> None:
        async with cf.consume("scorer") as deliveries:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(5):
                    await deliveries.next()
            service.consumers.faults.append(lost_answer())
            service.add()
            delivery = await deliveries.next()
            assert delivery is not None

    service.run(test)
    assert len(set(service.keys("claim"))) == 1


def test_a_stopped_loop_ends_and_what_is_in_hand_stays_so() -> None:
    service = VirtualService(payments=3)

    async def test(cf: AsyncCounterfoil) -> None:
        async with cf.consume("scorer", max_at_once=3) as deliveries:
            delivery = await deliveries.next()
            deliveries.stop()
            assert await deliveries.next() is None
            assert service.states() == ["held", "ready", "ready"]
            await asyncio.sleep(100)
            assert delivery is not None
            await delivery.done()

    service.run(test)
    assert service.states() == ["done", "ready", "ready"]


def test_a_stop_does_not_wait_for_a_claim_or_an_outage() -> None:
    service = VirtualService()

    async def test(cf: AsyncCounterfoil) -> None:
        deliveries = cf.consume("scorer")
        waiting = asyncio.create_task(deliveries.next())
        await asyncio.sleep(3)
        deliveries.stop()
        assert await waiting is None
        assert service.clock.seconds < 3.1
        service.consumers.faults.extend([unreachable()] * 50)
        deliveries = cf.consume("scorer")
        waiting = asyncio.create_task(deliveries.next())
        await asyncio.sleep(100)
        deliveries.stop()
        assert await waiting is None
        assert service.clock.seconds < 104

    service.run(test)
