"""The simulated consumers and the asynchronous client on one clock that nobody waits for.

Calls take their time, claims wait for work, and leases run out: all in virtual time.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest

from counterfoil import AsyncCounterfoil, AsyncHeldDelivery, NewEvent
from tests.support.virtual_time import Clock
from tests.unit.client.simulated_book import Fault, parsed
from tests.unit.client.simulated_consumers import SimulatedConsumers

CALL_SECONDS = 0.01
LOOK_SECONDS = 0.1


class VirtualService:
    """A service with a consumer ``scorer``, and clients of it."""

    def __init__(self, payments: int = 0, **made: Any) -> None:
        self.clock = Clock()
        self.consumers = SimulatedConsumers(seconds=lambda: self.clock.seconds)
        self.claims_waiting = 0
        self.add(payments)
        self.put("scorer", **made)

    def add(self, count: int = 1) -> None:
        """Let another writer append payments."""
        self.consumers.add(count, event_type="payment")

    def put(self, name: str, **made: Any) -> None:
        """Make a consumer of payments, without a call."""
        body = httpx2.Request("PUT", "http://x/", json={"query": [{"types": ["payment"]}]} | made)
        request = httpx2.Request(
            "PUT",
            f"http://x/consumers/{name}",
            content=body.content,
            headers={"Idempotency-Key": f"put-{name}"},
        )
        assert self.consumers.handle(request).is_success
        self.consumers.received.clear()

    def run(self, test: Callable[[AsyncCounterfoil], Awaitable[None]], **settings: Any) -> None:
        """Run it with a client, to its end."""

        async def main() -> None:
            async with self.client(**settings) as cf:
                await test(cf)

        self.clock.run(main())

    @asynccontextmanager
    async def client(self, **settings: Any) -> AsyncIterator[AsyncCounterfoil]:
        """A client of this service; its waits pass in virtual time."""
        transport = httpx2.MockTransport(self._handle)
        async with (
            httpx2.AsyncClient(transport=transport) as http,
            AsyncCounterfoil(http_client=http, **settings) as cf,
        ):
            yield cf

    async def _handle(self, request: httpx2.Request) -> httpx2.Response:
        await self.clock.let_pass(CALL_SECONDS)
        if request.url.path.endswith("/claim") and not self.consumers.faults:
            await self._work_or_time(request)
        return self.consumers.handle(request)

    async def _work_or_time(self, request: httpx2.Request) -> None:
        name = request.url.path.split("/")[2]
        ends = self.clock.seconds + float(parsed(request.content).get("wait_seconds", 0))
        self.claims_waiting += 1
        try:
            while (
                self.clock.seconds < ends
                and name in self.consumers.consumers
                and not self.consumers.ready(name)
            ):
                await self.clock.let_pass(LOOK_SECONDS)
        finally:
            self.claims_waiting -= 1

    # --- What was asked -----------------------------------------------------------------

    def calls(self, verb: str) -> list[dict[str, Any]]:
        """The bodies of all calls of this kind, in the order in which they came."""
        return [
            parsed(received.body)
            for received in self.consumers.received
            if received.path.endswith(f"/{verb}")
        ]

    def keys(self, verb: str) -> list[str]:
        """Their idempotency keys."""
        return [
            received.headers["Idempotency-Key"]
            for received in self.consumers.received
            if received.path.endswith(f"/{verb}")
        ]

    def states(self, name: str = "scorer") -> list[str]:
        """How the events of a consumer stand."""
        return self.consumers.states(name)

    def attempts(self, event: int, name: str = "scorer") -> list[str]:
        """Why the attempts at an event failed."""
        self.states(name)
        entry = self.consumers.consumers[name].entries[event]
        return [attempt["reason"] for attempt in entry.attempts]

    def types(self) -> list[str]:
        """The types of all events that the service itself did not write."""
        return [
            event["event_type"]
            for event in self.consumers.events
            if event["agent_name"] != "counterfoil"
        ]


# --- What tests say often ---------------------------------------------------------------

SCORED = NewEvent(agent_name="scorer", event_type="score", payload={"score": 7})


def unreachable() -> Fault:
    """Nobody is there."""
    return Fault(httpx2.ConnectError("refused"))


def lost_answer() -> Fault:
    """The call is carried out, and its answer gets lost."""
    return Fault(httpx2.ReadError("connection reset"), served=True)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the client has warned of."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "counterfoil" and record.levelno >= logging.WARNING
    ]


async def only(cf: AsyncCounterfoil, count: int) -> list[AsyncHeldDelivery]:
    """So many deliveries of one loop that stays open."""
    deliveries = cf.consume("scorer", max_at_once=max(count, 1))
    held = [await deliveries.next() for _ in range(count)]
    return [delivery for delivery in held if delivery is not None]
