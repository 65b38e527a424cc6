"""Running handlers for what consumers hand out, until it is time to stop. The blocking shell."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Final

from counterfoil.client.errors import LeaseLost
from counterfoil.client.handling import (
    GIVE_BACK_SECONDS,
    Outcome,
    check_handlers,
    holder_of,
    outcome_of,
    tell_failure,
    tell_loss,
    tell_stop,
)
from counterfoil.client.stopping import first_signal
from counterfoil.client.sync_consuming import Deliveries, HeldDelivery
from counterfoil.client.sync_transport import SyncTransport

Handler = Callable[[HeldDelivery], Outcome]

LOOK_SECONDS: Final = 0.2
"""How often the main thread looks whether it is to stop. A handler of a signal can set no
``Event``: it might interrupt the very thread that waits for it, with the lock in its hands."""


def run(
    transport: SyncTransport,
    handlers: Mapping[str, Handler],
    *,
    holder: str | None,
    max_at_once: int,
    wait_seconds: float,
    stop_seconds: float,
    stop: threading.Event | None,
) -> None:
    """Handle what these consumers hand out; see the client's ``run``."""
    check_handlers(handlers)
    holder = holder_of(holder)
    served = {
        name: Deliveries(
            transport,
            name,
            holder=holder,
            max_at_once=max_at_once,
            wait_seconds=wait_seconds,
        )
        for name in handlers
    }
    work = _Work()
    threads = [
        # None of them keeps the process from ending: what a handler does that does not stop is
        # given back.
        threading.Thread(
            target=work.go_on,
            args=(served[name], name, handle),
            name=f"counterfoil-{name}-{number}",
            daemon=True,
        )
        for name, handle in handlers.items()
        for number in range(max_at_once)
    ]
    with first_signal(work.hear):
        for thread in threads:
            thread.start()
        try:
            while not (work.heard or (stop is not None and stop.is_set())):
                if work.failed.wait(LOOK_SECONDS):
                    break
            tell_stop(handlers, stop_seconds)
            for deliveries in served.values():
                deliveries.stop()
            _wait_for(threads, stop_seconds)
        finally:
            _close(served.values(), wait_seconds + GIVE_BACK_SECONDS)
    if work.failures:
        raise work.failures[0]


class _Work:
    """What the threads of one ``run`` share."""

    def __init__(self) -> None:
        self.heard = False
        self.failed = threading.Event()
        self.failures: list[BaseException] = []

    def hear(self) -> None:
        self.heard = True

    def go_on(self, deliveries: Deliveries, consumer: str, handle: Handler) -> None:
        try:
            while (delivery := deliveries.next()) is not None:
                _handled(delivery, consumer, handle)
        except BaseException as failure:  # noqa: BLE001 - raised by who waits for the threads
            self.failures.append(failure)
            self.failed.set()


def _handled(delivery: HeldDelivery, consumer: str, handle: Handler) -> None:
    try:
        with delivery:
            returned = handle(delivery)
            outcome = outcome_of(returned, settled=delivery.settled)
            if not delivery.settled:
                delivery.done(*outcome)
    except LeaseLost:
        tell_loss(consumer, delivery.event, delivery.attempt)
    except Exception as error:  # noqa: BLE001 - whatever it is, the next event is handled
        tell_failure(consumer, delivery.event, delivery.attempt, error)


def _wait_for(threads: Collection[threading.Thread], seconds: float) -> None:
    ends = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(ends - time.monotonic(), 0.0))


def _close(served: Collection[Deliveries], seconds: float) -> None:
    closing = [
        threading.Thread(target=deliveries.close, name="counterfoil-give-back", daemon=True)
        for deliveries in served
    ]
    for thread in closing:
        thread.start()
    _wait_for(closing, seconds)
