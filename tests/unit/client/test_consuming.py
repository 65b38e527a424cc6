"""The loop: what is handed out, and how long it is held. The asynchronous client, in virtual time."""

import asyncio

import httpx2
import pytest

from counterfoil import (
    AsyncCounterfoil,
    LeaseLost,
    NotFoundError,
)
from tests.unit.client.simulated_book import Fault, problem
from tests.unit.client.virtual_consumers import (
    SCORED,
    VirtualService,
    only,
    unreachable,
    warnings_of,
)

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
        await service.clock.let_pass(65)
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
            await service.clock.let_pass(30)
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
        await service.clock.let_pass(10)
        await delivery.done()

    service.run(test)
    assert service.attempts(1) == []
    assert len(service.calls("extend")) <= 40


def test_a_lease_is_measured_by_the_services_clock() -> None:
    # The simulated service's clock stands in 2025, and this machine's does not: if it counted, every lease
    # would be over, or endless.
    service = VirtualService(payments=1, lease_seconds=600)

    async def test(cf: AsyncCounterfoil) -> None:
        (delivery,) = await only(cf, 1)
        await service.clock.let_pass(280)
        assert service.calls("extend") == []
        await service.clock.let_pass(20)
        assert len(service.calls("extend")) == 1
        await delivery.done()

    service.run(test)


def test_ten_in_hand_are_extended_in_one_call() -> None:
    service = VirtualService(payments=10)

    async def test(cf: AsyncCounterfoil) -> None:
        held = await only(cf, 10)
        await service.clock.let_pass(70)
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
                await service.clock.let_pass(100)
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
        await service.clock.let_pass(40)
        assert [each.lost for each in (first, second, third)] == [False, True, False]
        with pytest.raises(LeaseLost):
            await second.done(SCORED)
        await service.clock.let_pass(60)
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
        await service.clock.let_pass(40)
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
            await service.clock.let_pass(40)
            second = await deliveries.next()
            assert second is not None
            assert second.event.id == 2

    service.run(test)


def test_extensions_outlast_a_short_outage() -> None:
    service = VirtualService(payments=1)

    async def test(cf: AsyncCounterfoil) -> None:
        (delivery,) = await only(cf, 1)
        await service.clock.let_pass(25)
        service.consumers.faults.extend([unreachable()] * 8)
        await service.clock.let_pass(100)
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
            await service.clock.let_pass(40)
            assert delivery is not None
            assert delivery.lost
            with pytest.raises(NotFoundError):
                await deliveries.next()
            service.put("scorer")

    service.run(test)
