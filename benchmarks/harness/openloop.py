"""Open-loop load: requests at a constant rate, whether or not the subject keeps up.

A closed loop sends its next request when the last was answered; so a subject that stalls is
asked less while it stalls, and the stall hardly shows. Here every request has a time at which
it is due, and its latency counts from that time: also while it waited for a connection, or
for this generator itself. How late the generator was by its own fault is a figure of its own
(``lag_p99_milliseconds``); the runner calls a run disturbed when it was too late.
"""

import asyncio
import gc
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, cast

import uvloop
from typing_extensions import override

from benchmarks.harness.figures import latency_figures, percentile
from benchmarks.harness.model import BenchmarkError

DRAIN_SECONDS_MAX: Final = 60.0
"""How long answers may be outstanding after the last request was due."""

GRAIN_SECONDS: Final = 0.001
"""The grain of uvloop's timers; what is due within it goes together. A shorter wait would be
none at all: the generator would spin, and take a processor away from what it measures. So
up to a millisecond of every latency is the generator's own, and ``lag_p99_milliseconds`` says
so."""

Clock = Callable[[], float]


@dataclass(slots=True)
class OpenLoopResult:
    """What was seen of the requests that were due after the warm-up.

    Attributes:
        latencies: milliseconds from due to answered, one a request.
        lags: milliseconds by which the generator itself was late, one a request.
        answered: requests that were answered, the warm-up's included.
    """

    seconds: float
    latencies: list[float] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    answered: int = 0

    def figures(self) -> dict[str, float]:
        """A cell's figures."""
        return {
            "events_per_second": len(self.latencies) / self.seconds,
            **latency_figures(self.latencies),
            "lag_p99_milliseconds": percentile(sorted(self.lags), 0.99),
            "errors": 0.0,
            "events": float(self.answered),
        }


def run(
    host: str,
    port: int,
    request: Callable[[int], bytes],
    *,
    connections: int,
    rate: float,
    seconds: float,
    warm_up_seconds: float = 1.0,
    status: int = 201,
) -> OpenLoopResult:
    """Send requests at a constant rate.

    Args:
        host: an address.
        port: its port.
        request: gives the whole request of a number, counted from 0.
        connections: kept alive, each with one request at a time.
        rate: requests per second.
        seconds: how long, behind the warm-up.
        warm_up_seconds: the same load before it, not counted.
        status: what every answer must have.

    Raises:
        BenchmarkError: another status, a lost connection, or answers that do not come.
    """
    with _without_garbage_collection():
        generator = _Generator(host, port, request, connections=connections, status=status)
        return uvloop.run(generator.drive(rate, seconds, warm_up_seconds))


class Schedule:
    """When requests are due, and what became of them. Knows no sockets."""

    def __init__(
        self, *, start: float, rate: float, warm_up: int, count: int, clock: Clock
    ) -> None:
        self._start = start
        self._rate = rate
        self._warm_up = warm_up
        self._count = count
        self._clock = clock
        self._next = 0
        self._waiting: deque[int] = deque()
        self.result = OpenLoopResult((count - warm_up) / rate)

    def due(self, number: int) -> float:
        """When a request is due, by the clock."""
        return self._start + number / self._rate

    def release(self) -> None:
        """Note all requests that are due by now."""
        now = self._clock()
        while self._next < self._count and (due := self.due(self._next)) <= now:
            if self._next >= self._warm_up:
                self.result.lags.append((now - due) * 1e3)
            self._waiting.append(self._next)
            self._next += 1

    def take(self) -> int | None:
        """The request that has been due for the longest, for a connection that is free."""
        return self._waiting.popleft() if self._waiting else None

    def answered(self, number: int) -> None:
        """Count an answer."""
        self.result.answered += 1
        if number >= self._warm_up:
            self.result.latencies.append((self._clock() - self.due(number)) * 1e3)

    @property
    def next_due(self) -> float | None:
        """When the next request is due; None: all were released."""
        return self.due(self._next) if self._next < self._count else None

    @property
    def finished(self) -> bool:
        """Whether every request was answered."""
        return self.result.answered == self._count


class _Connection(asyncio.Protocol):
    """One kept-alive connection with one request at a time."""

    def __init__(
        self,
        status: int,
        answered: Callable[["_Connection", int], None],
        failed: Callable[[str], None],
    ) -> None:
        self._expected = b" %d " % status
        self._answered = answered
        self._failed = failed
        self._transport: asyncio.WriteTransport | None = None
        self._buffer = b""
        self._number = -1

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not instances of asyncio's classes, only shaped like them.
        self._transport = cast("asyncio.WriteTransport", transport)

    def send(self, number: int, request: bytes) -> None:
        """Send a request; its answer is reported under its number."""
        assert self._transport is not None
        self._number = number
        self._transport.write(request)

    @override
    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(self._buffer) < end + 4 + length:
            return
        answer, self._buffer = self._buffer, b""
        if self._expected in answer[:16]:
            self._answered(self, self._number)
        else:
            self._failed(f"an answer was {answer[:200]!r}")

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._failed(f"a connection was closed by the service ({exc or 'in order'})")

    def close(self) -> None:
        """End the connection."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()


class _Generator:
    """The connections, and what is sent on them."""

    def __init__(
        self,
        host: str,
        port: int,
        request: Callable[[int], bytes],
        *,
        connections: int,
        status: int,
    ) -> None:
        self._host = host
        self._port = port
        self._request = request
        self._connections = connections
        self._status = status
        # The one that has waited longest goes first: a service closes a kept-alive connection
        # that sends nothing for too long, and at a low rate the last ones would never send.
        self._free: deque[_Connection] = deque()
        self._schedule = Schedule(start=0, rate=1, warm_up=0, count=0, clock=time.monotonic)
        self._failure: str | None = None
        self._over = asyncio.Event()

    async def drive(self, rate: float, seconds: float, warm_up_seconds: float) -> OpenLoopResult:
        """Open the connections, keep to the schedule, wait for the last answers."""
        loop = asyncio.get_running_loop()
        for _ in range(self._connections):
            _, connection = await loop.create_connection(
                lambda: _Connection(self._status, self._on_answer, self._on_failure),
                self._host,
                self._port,
            )
            self._free.append(connection)
        opened = list(self._free)
        warm_up = round(rate * warm_up_seconds)
        self._schedule = Schedule(
            start=time.monotonic(),
            rate=rate,
            warm_up=warm_up,
            count=warm_up + round(rate * seconds),
            clock=time.monotonic,
        )
        try:
            await self._keep_schedule()
            async with asyncio.timeout(DRAIN_SECONDS_MAX):
                await self._over.wait()
        except TimeoutError:
            raise BenchmarkError(
                f"answers are outstanding {DRAIN_SECONDS_MAX:.0f} s after the last request"
            ) from None
        finally:
            for connection in opened:
                connection.close()
        if self._failure is not None:
            raise BenchmarkError(self._failure)
        return self._schedule.result

    async def _keep_schedule(self) -> None:
        while (due := self._schedule.next_due) is not None and self._failure is None:
            await asyncio.sleep(max(GRAIN_SECONDS, due - time.monotonic()))
            self._schedule.release()
            while self._free and (number := self._schedule.take()) is not None:
                self._free.popleft().send(number, self._request(number))

    def _on_answer(self, connection: _Connection, number: int) -> None:
        self._schedule.answered(number)
        following = self._schedule.take()
        if following is None:
            self._free.append(connection)
        else:
            connection.send(following, self._request(following))
        if self._schedule.finished:
            self._over.set()

    def _on_failure(self, what: str) -> None:
        # Told and not raised: what a protocol's callback raises never gets to us.
        self._failure = self._failure or what
        self._over.set()


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """A collection would stop the generator for milliseconds; a run makes no cycles to speak of."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
