"""What is next, taken in the call that acknowledges. The asynchronous client, in virtual time."""

import asyncio
import contextlib
from typing import Any

import pytest

from counterfoil import AsyncCounterfoil, AsyncHeldDelivery, LeaseLost, OutcomeUnknown
from tests.unit.client.virtual_consumers import (
    CALL_SECONDS,
    SCORED,
    VirtualService,
    lost_answer,
    unreachable,
)

pytestmark = pytest.mark.promise("P8")


def ran(service: VirtualService, handle: Any, seconds: float = 30, **settings: Any) -> None:
    """Run a handler, and stop it after so many seconds."""

    async def test(cf: AsyncCounterfoil) -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(seconds, stop.set)
        await cf.run({"scorer": handle}, stop=stop, **settings)

    service.run(test)


def test_while_there_is_work_a_run_makes_one_call_for_each_piece_of_it() -> None:
    service = VirtualService(payments=40)
    seen: list[int] = []

    async def handle(delivery: AsyncHeldDelivery) -> Any:
        assert len(service.consumers.consumers["scorer"].held()) <= 2
        seen.append(delivery.event.id)
        await service.clock.let_pass(0.1)
        return SCORED

    ran(service, handle, seconds=10, max_at_once=2, holder="h")
    assert sorted(seen) == list(range(1, 41))
    assert service.states() == ["done"] * 40
    assert len(service.calls("ack")) == 40
    assert service.calls("ack")[0]["next"] == {"holder": "h", "count": 1}
    first, *when_idle = service.calls("claim")
    assert first["count"] == 2
    assert len(when_idle) <= 2


def test_nothing_is_asked_for_where_a_claim_waits_already() -> None:
    service = VirtualService(payments=1)

    async def handle(_: AsyncHeldDelivery) -> Any:
        await service.clock.let_pass(1)
        assert service.claims_waiting == 1
        return SCORED

    ran(service, handle, seconds=5, max_at_once=2)
    (ack,) = service.calls("ack")
    assert "next" not in ack


def test_what_is_here_does_not_wait_for_a_claim_that_is_under_way() -> None:
    service = VirtualService(payments=1)

    async def test(cf: AsyncCounterfoil) -> None:
        async with cf.consume("scorer", max_at_once=2) as deliveries:
            first = await deliveries.next()
            assert first is not None
            settling = asyncio.create_task(first.done(SCORED, and_next=True))
            await service.clock.let_pass(CALL_SECONDS / 2)
            service.add()
            other = asyncio.create_task(deliveries.next())
            await settling
            asking = asyncio.create_task(deliveries.next())
            await service.clock.let_pass(1)
            assert (asking.done(), other.done()) == (True, False)
            second = await asking
            assert second is not None
            assert second.event.id > first.event.id
            deliveries.stop()
            assert await other is None

    service.run(test)


def test_a_lost_answer_brings_the_same_next() -> None:
    service = VirtualService(payments=3)
    seen: list[tuple[int, int]] = []

    async def handle(delivery: AsyncHeldDelivery) -> Any:
        seen.append((delivery.event.id, delivery.attempt))
        if len(seen) == 1:
            service.consumers.faults.append(lost_answer())
        return SCORED

    ran(service, handle, max_at_once=1)
    assert seen == [(1, 1), (2, 1), (3, 1)]
    assert service.types().count("score") == 3
    assert len(service.calls("ack")) == 4
    assert len(set(service.keys("ack"))) == 3


def test_what_cannot_be_claimed_with_it_is_claimed_by_itself() -> None:
    service = VirtualService(payments=3)
    service.consumers.next_fails = True

    async def handle(_: AsyncHeldDelivery) -> Any:
        return SCORED

    ran(service, handle, max_at_once=1)
    assert service.states() == ["done"] * 3
    assert len(service.calls("claim")) >= 3


def test_the_lease_of_what_came_so_is_extended() -> None:
    service = VirtualService(payments=2, lease_seconds=10)

    async def handle(delivery: AsyncHeldDelivery) -> Any:
        await service.clock.let_pass(0.1 if delivery.event.id == 1 else 100)
        return SCORED

    ran(service, handle, seconds=150, max_at_once=1)
    assert service.states() == ["done"] * 2
    assert service.attempts(2) == []
    assert len(service.calls("claim")) < 10


@pytest.mark.parametrize("closed", [True, False])
def test_what_comes_after_a_stop_is_given_back_and_does_not_count(*, closed: bool) -> None:
    service = VirtualService(payments=2)

    async def test(cf: AsyncCounterfoil) -> None:
        deliveries = cf.consume("scorer")
        delivery = await deliveries.next()
        assert delivery is not None
        settling = asyncio.create_task(delivery.done(SCORED, and_next=True))
        await service.clock.let_pass(CALL_SECONDS / 2)
        if closed:
            await deliveries.close()
        else:
            deliveries.stop()
        stored = await settling
        assert stored is not None
        assert service.states() == ["done", "ready"]
        await deliveries.close()

    service.run(test)
    assert service.clock.seconds < 1
    assert service.attempts(2) == []
    assert service.calls("ack")[0]["next"]["count"] == 1
    assert len(service.calls("release")) == 1


def test_nothing_is_asked_for_once_it_stops() -> None:
    service = VirtualService(payments=2)

    async def test(cf: AsyncCounterfoil) -> None:
        async with cf.consume("scorer") as deliveries:
            delivery = await deliveries.next()
            assert delivery is not None
            deliveries.stop()
            await delivery.done(SCORED, and_next=True)

    service.run(test)
    assert "next" not in service.calls("ack")[0]
    assert service.calls("release") == []


def test_the_same_acknowledgement_again_is_the_same_though_all_has_stopped() -> None:
    service = VirtualService(payments=2)

    async def test(cf: AsyncCounterfoil) -> None:
        async with cf.consume("scorer") as deliveries:
            delivery = await deliveries.next()
            assert delivery is not None
            service.consumers.faults.extend([lost_answer(), *[unreachable()] * 400])
            with pytest.raises(OutcomeUnknown):
                await delivery.done(SCORED, and_next=True)
            deliveries.stop()
            service.consumers.faults.clear()
            stored = None
            with contextlib.suppress(LeaseLost):
                stored = await delivery.done(SCORED, and_next=True)
            assert stored is not None, "it was acknowledged before"

    service.run(test)
    assert service.types().count("score") == 1
    assert len(set(service.keys("ack"))) == 1
    assert service.states()[0] == "done"


def test_whoever_leaves_the_block_gives_back_what_was_taken_for_the_next_turn() -> None:
    service = VirtualService(payments=2)

    async def test(cf: AsyncCounterfoil) -> None:
        async with cf.consume("scorer") as deliveries:
            async for delivery in deliveries:
                assert await delivery.done(and_next=True) is None
                break
            assert service.states() == ["done", "held"]

    service.run(test)
    assert service.states() == ["done", "ready"]
    assert service.attempts(2) == []
