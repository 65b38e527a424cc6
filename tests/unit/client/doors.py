"""One test for both clients: the asynchronous one behind the blocking one's interface.

The two are twins (``test_public_names`` holds their signatures against each other), so a
test that is written for ``Counterfoil`` runs against ``AsyncCounterfoil`` too, each of its
coroutines run to its end where the blocking client would block.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, Self, cast

import httpx2
import pytest

from counterfoil import (
    AsyncCounterfoil,
    AsyncDeliveries,
    AsyncEventIterator,
    AsyncFollower,
    AsyncGuard,
    AsyncHeldDelivery,
    Counterfoil,
)
from counterfoil.client.async_access import AsyncKeys, AsyncTenants
from counterfoil.client.async_consumers import AsyncConsumers
from counterfoil.client.async_decisions import AsyncDecisions, AsyncPolicies
from counterfoil.client.async_events import AsyncEvents
from counterfoil.client.async_rules import AsyncBookSettings, AsyncBrake, AsyncEventTypes
from tests.unit.client.simulated_book import SimulatedBook
from tests.unit.client.simulated_consumers import SimulatedConsumers

_TWINS = (
    AsyncBookSettings,
    AsyncBrake,
    AsyncConsumers,
    AsyncDecisions,
    AsyncDeliveries,
    AsyncEventIterator,
    AsyncEventTypes,
    AsyncEvents,
    AsyncFollower,
    AsyncGuard,
    AsyncHeldDelivery,
    AsyncKeys,
    AsyncPolicies,
    AsyncTenants,
)


class Blocking:
    """An asynchronous object behind the interface of its blocking twin."""

    def __init__(self, target: Any, runner: asyncio.Runner) -> None:
        self._target = target
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if isinstance(value, _TWINS):
            return Blocking(value, self._runner)
        if inspect.ismethod(value):
            return lambda *args, **kwargs: self._called(value(*args, **kwargs))
        return value

    def _called(self, result: Any) -> Any:
        if inspect.iscoroutine(result):
            return self._called(self._runner.run(result))
        if isinstance(result, _TWINS) or inspect.isasyncgen(result):
            return Blocking(result, self._runner)
        return result

    def __enter__(self) -> Self:
        self._runner.run(self._target.__aenter__())
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._runner.run(self._target.__aexit__(exc_type, exc, traceback))

    def __iter__(self) -> Blocking:
        return self if hasattr(self._target, "__anext__") else self._called(aiter(self._target))

    def __next__(self) -> Any:
        async def step() -> Any:
            return await anext(self._target)

        try:
            return self._called(self._runner.run(step()))
        except StopAsyncIteration:
            raise StopIteration from None

    def __repr__(self) -> str:
        return repr(self._target)


class Clock:
    """Notes the waits instead of waiting. ``on_wait`` lets a test act during one."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.on_wait: Callable[[], None] = lambda: None

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.on_wait()

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)


class Connect(Protocol):
    """Makes a client; the default is one of the simulated book."""

    def __call__(self, transport: Any = ..., **settings: Any) -> Counterfoil: ...


@pytest.fixture
def service() -> SimulatedConsumers:
    """The simulated service that the client talks to."""
    return SimulatedConsumers()


@pytest.fixture
def book(service: SimulatedConsumers) -> SimulatedBook:
    """The same, for tests of which the book is all that matters."""
    return service


@pytest.fixture
def clock() -> Clock:
    """What the client waits with."""
    return Clock()


@pytest.fixture(params=["blocking", "asynchronous"])
def connect(request: pytest.FixtureRequest, book: SimulatedBook, clock: Clock) -> Any:
    """Make clients, of one kind and of the other; all are closed in the end."""
    runner = asyncio.Runner()
    made: list[Counterfoil] = []

    def connected(transport: Any = None, **settings: Any) -> Counterfoil:
        transport = transport or book.transport
        if request.param == "blocking":
            http = httpx2.Client(transport=transport)
            client = Counterfoil(http_client=http, sleep=clock.sleep, **settings)
        else:
            http_async = httpx2.AsyncClient(transport=transport)
            twin = AsyncCounterfoil(http_client=http_async, sleep=clock.sleep_async, **settings)
            client = cast("Counterfoil", Blocking(twin, runner))
        made.append(client)
        return client

    with runner:
        yield connected
        for client in made:
            client.close()


@pytest.fixture
def cf(connect: Connect) -> Counterfoil:
    """A client of the simulated book."""
    return connect()
