"""An open loop counts from the time at which a request was due."""

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator

import pytest

from benchmarks.harness import openloop
from benchmarks.harness.model import BenchmarkError
from benchmarks.harness.openloop import Schedule

REQUEST = b"POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n"
STORED = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}"

Answer = Callable[[asyncio.StreamWriter, int], None]


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def schedule(clock: Clock, *, count: int = 10, warm_up: int = 0) -> Schedule:
    """Ten requests a second, from second 0 on."""
    return Schedule(start=0.0, rate=10.0, warm_up=warm_up, count=count, clock=clock)


def test_waiting_for_a_connection_counts() -> None:
    """The only connection is taken by the first answer for a second: all behind it show it."""
    clock = Clock()
    plan = schedule(clock)
    plan.release()
    assert plan.take() == 0
    clock.now = 1.0
    plan.release()
    plan.answered(0)
    for number in range(1, 10):
        assert plan.take() == number
        plan.answered(number)
    assert plan.finished
    assert plan.result.latencies == pytest.approx([1_000 - 100 * number for number in range(10)])


def test_lateness_of_the_generator_counts_and_is_told_apart() -> None:
    clock = Clock()
    plan = schedule(clock, count=2)
    clock.now = 0.25  # it should have been here at 0.0 and at 0.1
    plan.release()
    for _ in range(2):
        number = plan.take()
        assert number is not None
        plan.answered(number)
    assert plan.result.lags == pytest.approx([250, 150])
    assert plan.result.latencies == pytest.approx([250, 150])


def test_nothing_is_sent_before_it_is_due() -> None:
    clock = Clock()
    plan = schedule(clock)
    plan.release()
    assert plan.take() == 0
    assert plan.take() is None
    assert plan.next_due == pytest.approx(0.1)


def test_warm_up_is_sent_but_not_counted() -> None:
    clock = Clock()
    plan = schedule(clock, warm_up=8)
    clock.now = 2.0
    plan.release()
    while (number := plan.take()) is not None:
        plan.answered(number)
    assert plan.finished
    assert plan.next_due is None
    assert plan.result.answered == 10
    assert len(plan.result.latencies) == len(plan.result.lags) == 2
    assert plan.result.figures()["events_per_second"] == pytest.approx(10.0)


@contextlib.contextmanager
def server(answer: Answer) -> Iterator[int]:
    """A server on a thread of its own, which answers each request as the test says."""
    loop = asyncio.new_event_loop()
    started: list[asyncio.Server] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Both ends of a connection may be the first to close it; neither is an error here.
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            try:
                for number in itertools.count():
                    await reader.readuntil(b"\r\n\r\n")
                    answer(writer, number)
            finally:
                writer.close()
                await writer.wait_closed()

    async def start() -> None:
        started.append(await asyncio.start_server(handle, "127.0.0.1", 0))

    async def stop() -> None:
        started[0].close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield started[0].sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def drive(
    port: int, *, rate: float, seconds: float, connections: int = 1
) -> openloop.OpenLoopResult:
    return openloop.run(
        "127.0.0.1",
        port,
        lambda _: REQUEST,
        connections=connections,
        rate=rate,
        seconds=seconds,
        warm_up_seconds=0,
    )


def test_stall_shows_in_every_request_that_was_due_meanwhile() -> None:
    """A closed loop would have sent one request during the stall, and counted it once."""
    stall = 0.2

    def answer(writer: asyncio.StreamWriter, number: int) -> None:
        if number == 0:
            asyncio.get_running_loop().call_later(stall, writer.write, STORED)
        else:
            writer.write(STORED)

    with server(answer) as port:
        result = drive(port, rate=100, seconds=0.2)
    assert result.answered == 20
    # None was sent before the stall was over, whatever else the machine did.
    for number, latency in enumerate(result.latencies):
        assert latency >= (stall - number / 100) * 1e3 - 1


def test_answer_in_pieces_is_one_answer() -> None:
    def answer(writer: asyncio.StreamWriter, _: int) -> None:
        writer.write(STORED[:20])
        asyncio.get_running_loop().call_soon(writer.write, STORED[20:])

    with server(answer) as port:
        assert drive(port, rate=100, seconds=0.05).answered == 5


def test_another_status_is_no_result() -> None:
    def answer(writer: asyncio.StreamWriter, _: int) -> None:
        writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")

    with server(answer) as port, pytest.raises(BenchmarkError, match="503"):
        drive(port, rate=100, seconds=0.05)


def test_closed_connection_is_no_result() -> None:
    def answer(writer: asyncio.StreamWriter, _: int) -> None:
        writer.close()

    with server(answer) as port, pytest.raises(BenchmarkError, match="closed"):
        drive(port, rate=100, seconds=0.05)


def test_connections_take_turns() -> None:
    """At a rate that one could carry, all are used: a service closes those that are silent."""
    used: list[asyncio.StreamWriter] = []

    def answer(writer: asyncio.StreamWriter, _: int) -> None:
        used.append(writer)
        writer.write(STORED)

    with server(answer) as port:
        drive(port, rate=50, seconds=0.16, connections=4)
    assert len({*used[:4]}) == 4
    assert len({*used[4:]}) == 4
