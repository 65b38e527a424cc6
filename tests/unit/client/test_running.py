"""``run``: handlers, how they end, and how all of it stops. The asynchronous client, in virtual time."""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from counterfoil import (
    AsyncCounterfoil,
    AsyncHeldDelivery,
    CounterfoilError,
    PermissionDenied,
    UsageError,
)
from tests.unit.client.simulated_book import Fault, problem
from tests.unit.client.virtual_consumers import SCORED, VirtualService, lost_answer, unreachable

NOTED = {"agent_name": "scorer", "event_type": "note", "payload": {}}

Handler = Callable[[AsyncHeldDelivery], Awaitable[Any]]


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "counterfoil"]


def ran(service: VirtualService, handle: Handler, seconds: float = 30, **settings: Any) -> None:
    """Run a handler, and stop it after so many seconds."""

    async def test(cf: AsyncCounterfoil) -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(seconds, stop.set)
        await cf.run({"scorer": handle}, stop=stop, **settings)

    service.run(test)


# --- How a handler ends -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("returned", "types"),
    [
        (None, []),
        ([], []),
        (SCORED, ["score"]),
        (NOTED, ["note"]),
        ([SCORED, NOTED], ["score", "note"]),
        ((SCORED,), ["score"]),
    ],
)
def test_what_a_handler_returns_is_written_as_it_is_acknowledged(
    returned: object, types: list[str]
) -> None:
    service = VirtualService(payments=1)

    async def handle(_: AsyncHeldDelivery) -> Any:
        return returned

    ran(service, handle)
    assert service.states() == ["done"]
    assert service.types() == ["payment", *types]
    assert len(service.calls("ack")) == 1


def test_a_handler_may_settle_by_itself() -> None:
    service = VirtualService(payments=3)

    async def handle(delivery: AsyncHeldDelivery) -> Any:
        if delivery.event.id == 1:
            return await delivery.done(SCORED)
        if delivery.event.id == 2:
            await delivery.release(delay_seconds=1000)
        else:
            await delivery.set_aside("Broken.")
        return None

    ran(service, handle)
    assert service.states() == ["done", "ready", "dead"]
    assert len(service.calls("ack")) == 1


def test_what_a_handler_has_written_by_itself_is_not_its_outcome() -> None:
    service = VirtualService(payments=1)

    async def test(cf: AsyncCounterfoil) -> None:
        async def handle(_: AsyncHeldDelivery) -> Any:
            stop.set()
            return await cf.events.append(agent_name="scorer", event_type="note", payload={})

        stop = asyncio.Event()
        await cf.run({"scorer": handle}, stop=stop)

    service.run(test)
    assert service.types() == ["payment", "note"]
    assert service.states() == ["done"]


def test_an_exception_gives_the_event_back_until_it_is_set_aside(
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = VirtualService(payments=1, attempts_max=3)

    async def handle(delivery: AsyncHeldDelivery) -> Any:
        raise ValueError(f"attempt {delivery.attempt}")

    ran(service, handle)
    assert service.states() == ["dead"]
    assert service.attempts(1) == [f"ValueError: attempt {number}" for number in (1, 2, 3)]
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.getMessage() for record in errors] == [
        f"Event 1 of the consumer 'scorer' was not handled (attempt {number})."
        for number in (1, 2, 3)
    ]
    assert all(record.exc_info for record in errors)


@pytest.mark.parametrize("returned", ["score", 7, [SCORED, "note"], {"event_type": "score"}])
def test_what_is_no_outcome_is_a_failed_attempt(
    returned: object, caplog: pytest.LogCaptureFixture
) -> None:
    service = VirtualService(payments=1, attempts_max=1)

    async def handle(_: AsyncHeldDelivery) -> Any:
        return returned

    ran(service, handle)
    assert service.states() == ["dead"]
    assert service.types() == ["payment"]
    assert any(isinstance(r.exc_info and r.exc_info[1], CounterfoilError) for r in caplog.records)


def test_events_that_come_too_late_are_told(caplog: pytest.LogCaptureFixture) -> None:
    service = VirtualService(payments=1)

    async def handle(delivery: AsyncHeldDelivery) -> Any:
        await delivery.done()
        return SCORED

    ran(service, handle)
    assert service.states() == ["done"]
    (error,) = [record.exc_info for record in caplog.records if record.levelno == logging.ERROR]
    assert error
    assert "those were not written" in str(error[1])


def test_a_lost_lease_is_told_and_dropped(caplog: pytest.LogCaptureFixture) -> None:
    service = VirtualService(payments=2)
    seen: list[int] = []

    async def test(cf: AsyncCounterfoil) -> None:
        async def handle(delivery: AsyncHeldDelivery) -> Any:
            seen.append(delivery.event.id)
            if seen == [1]:
                await cf.consumers.release("scorer", delivery.token, delay_seconds=5)
            elif len(seen) == 3:
                stop.set()
            return SCORED

        stop = asyncio.Event()
        await cf.run({"scorer": handle}, max_at_once=1, stop=stop)

    service.run(test)
    assert seen == [1, 2, 1]
    assert service.states() == ["done", "done"]
    assert service.types() == ["payment", "payment", "score", "score"]
    assert any("whoever holds it now goes on with it" in line for line in told(caplog))
    assert not [record for record in caplog.records if record.levelno == logging.ERROR]


def test_an_outcome_whose_answer_is_lost_is_written_once() -> None:
    service = VirtualService(payments=1)

    async def handle(_: AsyncHeldDelivery) -> Any:
        service.consumers.faults.extend([lost_answer(), *[unreachable()] * 10])
        return SCORED

    ran(service, handle, seconds=100)
    assert service.states() == ["done"]
    assert service.types() == ["payment", "score"]


def test_something_cancelled_that_a_handler_waits_for_is_a_failed_attempt() -> None:
    service = VirtualService(payments=2, attempts_max=1)

    async def handle(delivery: AsyncHeldDelivery) -> Any:
        if delivery.event.id == 1:
            waited_for = asyncio.get_running_loop().create_future()
            waited_for.cancel()
            await waited_for
        await service.clock.let_pass(5)

    ran(service, handle)
    assert service.states() == ["dead", "done"]
    assert service.attempts(1) == ["CancelledError: "]
    assert service.clock.seconds >= 30


# --- At once ----------------------------------------------------------------------------


def test_ten_are_handled_at_once_and_no_more() -> None:
    service = VirtualService(payments=25)
    now, most = 0, 0

    async def handle(_: AsyncHeldDelivery) -> Any:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await service.clock.let_pass(5)
        now -= 1
        return SCORED

    ran(service, handle, max_at_once=10)
    assert most == 10
    assert service.states() == ["done"] * 25
    assert service.types().count("score") == 25
    assert service.calls("claim")[0]["count"] == 10


def test_several_consumers_are_served_under_one_name() -> None:
    service = VirtualService(payments=2)
    service.put("auditor")
    seen: list[str] = []

    async def test(cf: AsyncCounterfoil) -> None:
        def handler(name: str) -> Handler:
            async def handle(delivery: AsyncHeldDelivery) -> Any:
                seen.append(f"{name} {delivery.event.id}")
                if len(seen) == 4:
                    stop.set()
                return None

            return handle

        stop = asyncio.Event()
        handlers = {name: handler(name) for name in ("scorer", "auditor")}
        await cf.run(handlers, holder="worker-1", stop=stop)

    service.run(test)
    assert sorted(seen) == ["auditor 1", "auditor 2", "scorer 1", "scorer 2"]
    assert {call["holder"] for call in service.calls("claim")} == {"worker-1"}


def test_there_is_something_to_run() -> None:
    async def test(cf: AsyncCounterfoil) -> None:
        with pytest.raises(UsageError, match="a handler for each consumer"):
            await cf.run({})

    VirtualService().run(test)


# --- Stopping ---------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_handlers_finish_and_claims_nothing_more(
    number: signal.Signals,
) -> None:
    service = VirtualService(payments=5)
    before = signal.getsignal(number)

    async def handle(delivery: AsyncHeldDelivery) -> Any:
        await service.clock.let_pass(1)
        if delivery.event.id == 1:
            signal.raise_signal(number)
        await service.clock.let_pass(10)
        return SCORED

    async def test(cf: AsyncCounterfoil) -> None:
        await cf.run({"scorer": handle}, max_at_once=2)

    service.run(test)
    assert 11 < service.clock.seconds < 13
    assert service.states() == ["done", "done", "ready", "ready", "ready"]
    assert service.types().count("score") == 2
    assert service.calls("release") == []
    assert signal.getsignal(number) is before


def test_the_second_signal_is_for_whoever_had_it_before() -> None:
    service = VirtualService(payments=1)
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))

    async def handle(_: AsyncHeldDelivery) -> Any:
        for _attempt in range(2):
            signal.raise_signal(signal.SIGTERM)
            await service.clock.let_pass(1)
        return None

    async def test(cf: AsyncCounterfoil) -> None:
        await cf.run({"scorer": handle})

    try:
        service.run(test)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]
    assert service.states() == ["done"]


def test_what_does_not_finish_in_time_is_given_back_and_does_not_count() -> None:
    service = VirtualService(payments=3)

    async def handle(delivery: AsyncHeldDelivery) -> Any:
        await service.clock.let_pass(1000 if delivery.event.id == 1 else 25)
        return SCORED

    ran(service, handle, seconds=10, stop_seconds=20)
    assert 30 <= service.clock.seconds < 31
    assert service.states() == ["ready", "done", "done"]
    assert service.attempts(1) == []
    assert service.types().count("score") == 2


def test_a_handler_that_will_not_stop_is_left_behind() -> None:
    service = VirtualService(payments=1)
    tried: list[str] = []

    async def handle(delivery: AsyncHeldDelivery) -> Any:
        try:
            await service.clock.let_pass(1000)
        except asyncio.CancelledError:
            await service.clock.let_pass(6)
        with pytest.raises(UsageError, match="was given back already"):
            await delivery.done(SCORED)
        tried.append("too late")
        return None

    async def test(cf: AsyncCounterfoil) -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(10, stop.set)
        await cf.run({"scorer": handle}, stop=stop, stop_seconds=0)
        assert service.states() == ["ready"]
        assert 15 <= service.clock.seconds < 16

    service.run(test)
    assert service.types() == ["payment"]


def test_an_idle_run_stops_at_once() -> None:
    service = VirtualService()

    async def handle(_: AsyncHeldDelivery) -> Any:
        raise AssertionError

    ran(service, handle, seconds=5)
    assert service.clock.seconds < 5.1
    assert service.claims_waiting == 0


def test_to_cancel_a_run_gives_everything_back() -> None:
    service = VirtualService(payments=3)

    async def handle(_: AsyncHeldDelivery) -> Any:
        await service.clock.let_pass(1000)
        return SCORED

    async def test(cf: AsyncCounterfoil) -> None:
        running = asyncio.create_task(cf.run({"scorer": handle}, max_at_once=2))
        await service.clock.let_pass(100)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert service.states() == ["ready"] * 3
        assert service.attempts(1) == []

    service.run(test)
    assert service.clock.seconds < 101


def test_a_stop_in_an_outage_does_not_take_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    service = VirtualService(payments=1)

    async def handle(_: AsyncHeldDelivery) -> Any:
        service.consumers.faults.extend([unreachable()] * 500)
        return SCORED

    ran(service, handle, seconds=10)
    assert service.clock.seconds < 41
    service.consumers.faults.clear()
    assert any("tried again" in line for line in told(caplog))


def test_what_the_service_refuses_ends_the_whole_run() -> None:
    service = VirtualService(payments=1)
    service.put("auditor")

    async def handle(_: AsyncHeldDelivery) -> Any:
        await service.clock.let_pass(5)
        return SCORED

    async def test(cf: AsyncCounterfoil) -> None:
        service.consumers.faults.extend([None, Fault(problem(403, "scope-missing", "No."))])
        with pytest.raises(PermissionDenied):
            await cf.run({"scorer": handle, "auditor": handle}, max_at_once=1)

    service.run(test)
    assert service.states() == ["done"]
    assert service.clock.seconds < 6
