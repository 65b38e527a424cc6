"""The blocking client's loop and ``run``, in real threads.

Nothing here waits for time to pass: threads meet at barriers and events, with a bound. Leases of
two seconds are extended at once, because so exactly is the service's clock known.
"""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

from counterfoil import Counterfoil, HeldDelivery, LeaseLost, NewEvent, PermissionDenied, UsageError
from tests.unit.client.simulated_book import Fault, parsed, problem
from tests.unit.client.simulated_consumers import SimulatedConsumers

SCORED = NewEvent(agent_name="scorer", event_type="score", payload={"score": 7})

BOUND_SECONDS = 20.0
"""What fails a test, and is never waited out."""


class Threaded:
    """The simulated consumers for several threads: claims wait for work."""

    def __init__(self, payments: int, **made: Any) -> None:
        self.consumers = SimulatedConsumers()
        self.news = threading.Condition()
        self.claims_waiting = 0
        self.consumers.add(payments, event_type="payment")
        with self.client() as cf:
            cf.consumers.put("scorer", types="payment", **made)

    @contextmanager
    def client(self) -> Iterator[Counterfoil]:
        with (
            httpx2.Client(transport=httpx2.MockTransport(self._handle)) as http,
            Counterfoil(http_client=http) as cf,
        ):
            yield cf

    def _handle(self, request: httpx2.Request) -> httpx2.Response:
        with self.news:
            if request.url.path.endswith("/claim") and not self.consumers.faults:
                wait = float(parsed(request.content).get("wait_seconds", 0))
                self.claims_waiting += 1
                self.news.notify_all()
                self.news.wait_for(lambda: self.consumers.ready("scorer"), wait)
                self.claims_waiting -= 1
            answer = self.consumers.handle(request)
            self.news.notify_all()
            return answer

    def calls(self, verb: str) -> list[dict[str, Any]]:
        return [
            parsed(received.body)
            for received in self.consumers.received
            if received.path.endswith(f"/{verb}")
        ]

    def arrived(self, verb: str, count: int) -> bool:
        """Wait until so many of these calls have come."""
        with self.news:
            return self.news.wait_for(lambda: len(self.calls(verb)) >= count, BOUND_SECONDS)

    def settled(self, count: int) -> bool:
        """Wait until so many events are done or dead."""

        def enough() -> bool:
            states = self.consumers.states()
            return states.count("done") + states.count("dead") >= count

        with self.news:
            return self.news.wait_for(enough, BOUND_SECONDS)


@contextmanager
def running(
    service: Threaded, handle: Callable[[HeldDelivery], Any], **settings: Any
) -> Iterator[list[BaseException]]:
    """Run a handler in a thread of its own; leaving the block stops it, and waits for it."""
    stop = threading.Event()
    raised: list[BaseException] = []

    def run() -> None:
        try:
            with service.client() as cf:
                cf.run({"scorer": handle}, stop=stop, **{"wait_seconds": 0.05} | settings)
        except BaseException as error:  # noqa: BLE001 - handed to the test
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield raised
    finally:
        stop.set()
        thread.join(BOUND_SECONDS)
        assert not thread.is_alive()


# --- Leases -----------------------------------------------------------------------------


def test_a_thread_extends_what_is_in_hand_and_ends_with_the_loop() -> None:
    service = Threaded(payments=2, lease_seconds=2)
    with service.client() as cf, cf.consume("scorer", max_at_once=2) as deliveries:
        first, second = deliveries.next(), deliveries.next()
        assert first is not None
        assert second is not None
        assert service.arrived("extend", 2)
        assert {len(call["tokens"]) for call in service.calls("extend")} == {2}
        first.done()
        extender = deliveries._extender
    assert extender is not None
    extender.join(BOUND_SECONDS)
    assert not extender.is_alive()
    assert service.consumers.states() == ["done", "ready"]


def test_a_lost_lease_is_told_from_the_other_thread() -> None:
    service = Threaded(payments=2, lease_seconds=2)
    with service.client() as cf, cf.consume("scorer", max_at_once=2) as deliveries:
        first, second = deliveries.next(), deliveries.next()
        assert first is not None
        assert second is not None
        cf.consumers.release("scorer", first.token)
        with deliveries._state:
            assert deliveries._state.wait_for(lambda: first.lost, BOUND_SECONDS)
        with pytest.raises(LeaseLost):
            first.done(SCORED)
        second.done(SCORED)
    assert service.consumers.states() == ["ready", "done"]


def test_where_nothing_can_be_extended_the_next_asked_for_says_why() -> None:
    service = Threaded(payments=1, lease_seconds=2)
    with service.client() as cf, cf.consume("scorer", max_at_once=2) as deliveries:
        delivery = deliveries.next()
        assert delivery is not None
        with service.news:
            service.consumers.faults.append(Fault(problem(403, "scope-missing", "No.")))
        with deliveries._state:
            assert deliveries._state.wait_for(lambda: delivery.lost, BOUND_SECONDS)
        with pytest.raises(PermissionDenied):
            deliveries.next()


def test_what_is_given_back_is_not_claimed_by_the_same_loop() -> None:
    service = Threaded(payments=1)
    with (
        service.client() as cf,
        cf.consume("scorer", max_at_once=2, wait_seconds=0.3) as deliveries,
    ):
        assert deliveries.next() is not None
        other = threading.Thread(target=deliveries.next)
        other.start()
        with service.news:
            assert service.news.wait_for(lambda: service.claims_waiting, BOUND_SECONDS)
    other.join(BOUND_SECONDS)
    assert service.consumers.states() == ["ready"]
    assert service.consumers.tokens == 1


def test_what_was_being_given_back_when_it_was_interrupted_is_given_back_at_the_end() -> None:
    service = Threaded(payments=3)
    with service.client() as cf, cf.consume("scorer", max_at_once=3) as deliveries:
        assert deliveries.next() is not None
        deliveries.stop()
        service.consumers.faults.append(Fault(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            deliveries.next()
        assert service.consumers.states() == ["held"] * 3
    assert service.consumers.states() == ["ready"] * 3


# --- Handlers ---------------------------------------------------------------------------


def test_ten_are_handled_at_once() -> None:
    service = Threaded(payments=20)
    together = threading.Barrier(10, timeout=BOUND_SECONDS)

    def handle(_: HeldDelivery) -> NewEvent:
        together.wait()
        return SCORED

    with running(service, handle, max_at_once=10) as raised:
        assert service.settled(20)
    assert raised == []
    assert service.consumers.states() == ["done"] * 20
    types = [event["event_type"] for event in service.consumers.events]
    assert types.count("score") == 20


def test_each_handler_ends_in_its_own_way(caplog: pytest.LogCaptureFixture) -> None:
    service = Threaded(payments=4, attempts_max=1)

    def handle(delivery: HeldDelivery) -> Any:
        if delivery.event.id == 1:
            return delivery.done(SCORED)
        if delivery.event.id == 2:
            return [SCORED, {"agent_name": "scorer", "event_type": "note", "payload": {}}]
        if delivery.event.id == 3:
            raise ValueError("No such currency.")
        return 7

    with running(service, handle) as raised:
        assert service.settled(4)
    assert raised == []
    assert service.consumers.states() == ["done", "done", "dead", "dead"]
    reasons = sorted(call["reason"] for call in service.calls("release"))
    assert reasons[1] == "ValueError: No such currency."
    assert reasons[0].startswith("UsageError: A handler returns an event")
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2


def test_a_lost_lease_is_told_and_dropped(caplog: pytest.LogCaptureFixture) -> None:
    service = Threaded(payments=1)

    with service.client() as cf:

        def handle(delivery: HeldDelivery) -> NewEvent:
            if len(service.calls("claim")) == 1:
                cf.consumers.release("scorer", delivery.token, delay_seconds=0)
            return SCORED

        with running(service, handle, max_at_once=1) as raised:
            assert service.settled(1)
    assert raised == []
    assert any("whoever holds it now" in record.getMessage() for record in caplog.records)


def test_there_is_something_to_run() -> None:
    with Threaded(payments=0).client() as cf, pytest.raises(UsageError, match="a handler"):
        cf.run({})


# --- Stopping ---------------------------------------------------------------------------


def test_a_stop_lets_the_handlers_finish() -> None:
    service = Threaded(payments=3)
    begun, stopped = threading.Event(), threading.Event()

    def handle(_: HeldDelivery) -> NewEvent:
        begun.set()
        assert stopped.wait(BOUND_SECONDS)
        return SCORED

    with running(service, handle, max_at_once=1, stop_seconds=BOUND_SECONDS):
        assert begun.wait(BOUND_SECONDS)
        threading.Timer(0.3, stopped.set).start()
    assert service.consumers.states() == ["done", "ready", "ready"]
    assert service.calls("release") == []


def test_what_does_not_finish_in_time_is_given_back_and_does_not_count(
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = Threaded(payments=1)
    begun, stopped, ended = threading.Event(), threading.Event(), threading.Event()

    def handle(delivery: HeldDelivery) -> None:
        begun.set()
        try:
            assert stopped.wait(BOUND_SECONDS)
            with pytest.raises(UsageError, match="was given back already"):
                delivery.done(SCORED)
        finally:
            ended.set()

    with running(service, handle, stop_seconds=0) as raised:
        assert begun.wait(BOUND_SECONDS)
    assert raised == []
    (back,) = service.calls("release")
    assert (back["delay_seconds"], "reason" in back) == (0, False)
    assert service.consumers.states() == ["ready"]
    stopped.set()
    assert ended.wait(BOUND_SECONDS)
    assert not [record for record in caplog.records if record.levelno == logging.ERROR]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it(number: signal.Signals) -> None:
    service = Threaded(payments=2)
    before = signal.getsignal(number)

    def handle(_: HeldDelivery) -> NewEvent:
        signal.raise_signal(number)
        return SCORED

    with service.client() as cf:
        cf.run({"scorer": handle}, max_at_once=1, wait_seconds=0.05)
    assert service.consumers.states()[0] == "done"
    assert "held" not in service.consumers.states()
    assert signal.getsignal(number) is before


def test_what_the_service_refuses_ends_the_run() -> None:
    service = Threaded(payments=0)
    service.consumers.faults.append(Fault(problem(403, "scope-missing", "No.")))
    with service.client() as cf, pytest.raises(PermissionDenied):
        cf.run({"scorer": lambda _: None}, wait_seconds=0.05)
