"""The loop when answers get lost, and when the service is not there. In virtual time."""

import asyncio
import logging

import httpx2
import pytest

from counterfoil import (
    APIConnectionError,
    APIStatusError,
    AsyncCounterfoil,
    AuthenticationError,
    InvalidRequestError,
    NotFoundError,
    OutcomeUnknown,
    PermissionDenied,
    UnexpectedAnswer,
)
from tests.unit.client.simulated_book import Fault, problem
from tests.unit.client.virtual_consumers import (
    SCORED,
    VirtualService,
    lost_answer,
    only,
    unreachable,
    warnings_of,
)

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
        await service.clock.let_pass(28)
        service.consumers.faults.extend([lost_answer(), unreachable()])
        acknowledged = asyncio.create_task(delivery.done(SCORED))
        await service.clock.let_pass(1.1)
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
        await service.clock.let_pass(28)
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
        await service.clock.let_pass(28.995)
        await first.done()  # While the extension is on its way, which comes too late for it.
        await service.clock.let_pass(1)
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
        await service.clock.let_pass(20)
        service.consumers.faults.clear()
        await service.clock.let_pass(20)
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
        await service.clock.let_pass(60)
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
