"""The loop: how a delivery ends, and the loop itself. The asynchronous client, in virtual time."""

import asyncio

import pytest

from counterfoil import (
    AsyncCounterfoil,
    Condition,
    ConditionFailed,
    QueryItem,
    UsageError,
)
from tests.support.virtual_time import passes_of_the_loop
from tests.unit.client.simulated_book import Fault, problem
from tests.unit.client.virtual_consumers import (
    CALL_SECONDS,
    SCORED,
    VirtualService,
    lost_answer,
    only,
    unreachable,
    warnings_of,
)

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
            await service.clock.let_pass(40)
            assert third.lost

    service.run(test)
    assert service.states() == ["done", "dead", "ready"]


def test_a_cancelled_block_has_not_failed() -> None:
    service = VirtualService(payments=1)

    async def test(cf: AsyncCounterfoil) -> None:
        (delivery,) = await only(cf, 1)

        async def handle() -> None:
            async with delivery:
                await service.clock.let_pass(1000)

        handling = asyncio.create_task(handle())
        await service.clock.let_pass(1)
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
        await service.clock.let_pass(100)

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
            await service.clock.let_pass(30)
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
        assert asyncio.all_tasks() == {asyncio.current_task()}

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


@pytest.mark.parametrize("arrived", [False, True])
def test_what_was_being_given_back_when_all_was_cancelled_is_given_back_at_the_end(
    *, arrived: bool
) -> None:
    service = VirtualService(payments=3)

    async def test(cf: AsyncCounterfoil) -> None:
        async with cf.consume("scorer", max_at_once=3) as deliveries:
            assert await deliveries.next() is not None
            deliveries.stop()
            if arrived:
                service.consumers.faults.extend([lost_answer(), unreachable()])
            ending = asyncio.create_task(deliveries.next())
            await service.clock.let_pass(0.2 if arrived else CALL_SECONDS / 2)
            ending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await ending
            assert service.states() == ["held", *["ready" if arrived else "held"] * 2]

    service.run(test)
    assert service.states() == ["ready"] * 3
    assert [service.attempts(number) for number in (1, 2, 3)] == [[]] * 3
    assert service.clock.seconds < 5


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
                    await service.clock.let_pass(1000)

        looping = asyncio.create_task(loop())
        await service.clock.let_pass(100)
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
                await service.clock.let_pass(1000)

        looping = asyncio.create_task(loop())
        await service.clock.let_pass(10)
        looping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await looping
        del looping
        await service.clock.let_pass(1)
        assert service.states() == ["done", "ready", "ready"]

    service.run(test)


def test_a_loop_that_is_cancelled_while_it_waits_holds_nothing() -> None:
    service = VirtualService()

    async def test(cf: AsyncCounterfoil) -> None:
        async def loop() -> None:
            async for _ in cf.consume("scorer"):
                raise AssertionError

        looping = asyncio.create_task(loop())
        await service.clock.let_pass(5)
        assert service.claims_waiting == 1
        looping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await looping
        assert service.claims_waiting == 0
        service.add()
        await service.clock.let_pass(30)
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
            await service.clock.let_pass(100)
            assert delivery is not None
            await delivery.done()

    service.run(test)
    assert service.states() == ["done", "ready", "ready"]


def test_a_stop_does_not_wait_for_a_claim_or_an_outage() -> None:
    service = VirtualService()

    async def test(cf: AsyncCounterfoil) -> None:
        deliveries = cf.consume("scorer")
        waiting = asyncio.create_task(deliveries.next())
        await service.clock.let_pass(3)
        deliveries.stop()
        assert await waiting is None
        assert service.clock.seconds < 3.1
        service.consumers.faults.extend([unreachable()] * 50)
        deliveries = cf.consume("scorer")
        waiting = asyncio.create_task(deliveries.next())
        await service.clock.let_pass(100)
        deliveries.stop()
        assert await waiting is None
        assert service.clock.seconds < 104

    service.run(test)
