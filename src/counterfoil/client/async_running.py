"""Running handlers for what consumers hand out, until it is time to stop. The asynchronous shell."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

from counterfoil.client.async_consuming import AsyncDeliveries, AsyncHeldDelivery, is_interruption
from counterfoil.client.async_transport import AsyncTransport
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

AsyncHandler = Callable[[AsyncHeldDelivery], Awaitable[Outcome]]


async def run(
    transport: AsyncTransport,
    handlers: Mapping[str, AsyncHandler],
    *,
    holder: str | None,
    max_at_once: int,
    wait_seconds: float,
    stop_seconds: float,
    stop: asyncio.Event | None,
) -> None:
    """Handle what these consumers hand out; see the client's ``run``."""
    check_handlers(handlers)
    holder = holder_of(holder)
    served = {
        name: AsyncDeliveries(
            transport,
            name,
            holder=holder,
            max_at_once=max_at_once,
            wait_seconds=wait_seconds,
        )
        for name in handlers
    }
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    with first_signal(lambda: loop.call_soon_threadsafe(stopping.set)):
        workers = [
            asyncio.create_task(_work(served[name], name, handle))
            for name, handle in handlers.items()
            for _ in range(max_at_once)
        ]
        signs = [asyncio.create_task(event.wait()) for event in (stopping, stop) if event]
        try:
            await asyncio.wait({*workers, *signs}, return_when=asyncio.FIRST_COMPLETED)
            tell_stop(handlers, stop_seconds)
            for deliveries in served.values():
                deliveries.stop()
            await asyncio.wait(workers, timeout=stop_seconds)
        finally:
            unfinished = await _end([*signs, *workers])
            await _give_back(served.values())
            for task in unfinished:
                task.cancel()
    failures = [
        worker.exception() for worker in workers if worker.done() and not worker.cancelled()
    ]
    for failure in failures:
        if failure is not None:
            raise failure


async def _end(tasks: Collection[asyncio.Task[Any]]) -> set[asyncio.Task[Any]]:
    """Cancel these tasks, and return those that would not end in time."""
    for task in tasks:
        task.cancel()
    _, unfinished = await asyncio.wait(tasks, timeout=GIVE_BACK_SECONDS)
    return unfinished


async def _give_back(served: Collection[AsyncDeliveries]) -> None:
    closing = [asyncio.create_task(deliveries.close()) for deliveries in served]
    _, unfinished = await asyncio.wait(closing, timeout=GIVE_BACK_SECONDS)
    for task in unfinished:
        task.cancel()


async def _work(deliveries: AsyncDeliveries, consumer: str, handle: AsyncHandler) -> None:
    while (delivery := await deliveries.next()) is not None:
        try:
            async with delivery:
                returned = await handle(delivery)
                outcome = outcome_of(returned, settled=delivery.settled)
                if not delivery.settled:
                    await delivery.done(*outcome)
        except LeaseLost:
            tell_loss(consumer, delivery.event, delivery.attempt)
        except asyncio.CancelledError as error:
            if is_interruption(error):
                raise
            tell_failure(consumer, delivery.event, delivery.attempt, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next event is handled
            tell_failure(consumer, delivery.event, delivery.attempt, error)
