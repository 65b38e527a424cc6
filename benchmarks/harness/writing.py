"""Appends at a constant rate, noting for each event which position it got and when.

The schedule is that of ``openloop.py``. What is added is the answer's content: whoever measures
how fast others learn of an event has to know when its own writer did.
"""

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

import httptools
import uvloop

from benchmarks.harness.figures import percentile
from benchmarks.harness.model import BenchmarkError
from benchmarks.harness.openloop import Schedule

DRAIN_SECONDS_MAX: Final = 30.0
"""How long answers may be outstanding after the last request was due."""

LOOK_SECONDS: Final = 0.01

_ID: Final = re.compile(rb'"id": ?(\d+)')


@dataclass(slots=True)
class Written:
    """What was written.

    Attributes:
        answered: when each event's answer came, in nanoseconds of the monotonic clock, by the
            event's position.
        numbers: the request's number, by the event's position.
        lags: milliseconds by which the writer itself was late, one a request.
    """

    answered: dict[int, int] = field(default_factory=dict)
    numbers: dict[int, int] = field(default_factory=dict)
    lags: list[float] = field(default_factory=list)

    def lag_p99_milliseconds(self) -> float:
        """How late the writer itself was at the worst but one in a hundred."""
        return percentile(sorted(self.lags), 0.99)


def write(
    host: str,
    port: int,
    request: Callable[[int], bytes],
    *,
    connections: int,
    rate: float,
    seconds: float,
) -> Written:
    """Send so many appends of one event per second, for so long.

    Args:
        host: an address.
        port: its port.
        request: gives the whole request of a number, counted from 0.
        connections: kept alive, each with one request at a time.
        rate: requests per second.
        seconds: how long.

    Raises:
        BenchmarkError: an answer other than 201, a lost connection, or none in time.
    """
    return uvloop.run(_Writers(request, round(rate * seconds)).write(host, port, connections, rate))


class _Connection(asyncio.Protocol):
    """One kept-alive connection with one request at a time."""

    def __init__(self, answered: "Callable[[_Connection, bytes], None]") -> None:
        self.number = -1
        self.lost: Exception | None = None
        self._answered = answered
        self._transport: asyncio.Transport | None = None
        self._http = httptools.HttpResponseParser(self)
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def send(self, number: int, request: bytes) -> None:
        assert self._transport is not None
        self.number = number
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._http.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        body, self._body = self._body, b""
        if self._http.get_status_code() != 201:
            self.lost = BenchmarkError(f"an append was answered with {body[:300]!r}")
        self._answered(self, body)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = self.lost or exc or BenchmarkError("a connection was closed by the service")

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class _Writers:
    """All connections, and what they wrote."""

    def __init__(self, request: Callable[[int], bytes], count: int) -> None:
        self._request = request
        self._count = count
        self._written = Written()
        # Who has been free for the longest is next: the service closes what is silent for long.
        self._free: deque[_Connection] = deque()
        self._schedule = Schedule(start=0, rate=1, warm_up=0, count=0, clock=time.monotonic)

    async def write(self, host: str, port: int, connections: int, rate: float) -> Written:
        """Open the connections, send what is due, and wait for all answers."""
        loop = asyncio.get_running_loop()
        opened = [
            (await loop.create_connection(lambda: _Connection(self._answered), host, port))[1]
            for _ in range(connections)
        ]
        self._free.extend(opened)
        self._schedule = Schedule(
            start=time.monotonic(), rate=rate, warm_up=0, count=self._count, clock=time.monotonic
        )
        try:
            await self._drive(opened, time.monotonic() + self._count / rate + DRAIN_SECONDS_MAX)
        finally:
            for connection in opened:
                connection.close()
        if len(self._written.answered) != self._count:
            raise BenchmarkError(
                f"{self._count} events were sent, and {len(self._written.answered)} got an id."
            )
        self._written.lags = self._schedule.result.lags
        return self._written

    async def _drive(self, opened: Sequence[_Connection], deadline: float) -> None:
        while not self._schedule.finished:
            due = self._schedule.next_due
            # Once all are sent, look again and again whether all are answered.
            await asyncio.sleep(LOOK_SECONDS if due is None else max(0.0, due - time.monotonic()))
            self._schedule.release()
            self._send()
            for connection in opened:
                if connection.lost is not None:
                    raise BenchmarkError(f"A writer failed: {connection.lost}")
            if time.monotonic() > deadline:
                raise BenchmarkError("Appends are still unanswered long after the last was sent.")

    def _send(self) -> None:
        while self._free and (number := self._schedule.take()) is not None:
            self._free.popleft().send(number, self._request(number))

    def _answered(self, connection: _Connection, body: bytes) -> None:
        now = time.monotonic_ns()
        self._schedule.answered(connection.number)
        found = _ID.search(body)
        if connection.lost is None and found is not None:
            position = int(found[1])
            self._written.answered[position] = now
            self._written.numbers[position] = connection.number
        self._free.append(connection)
        self._send()
