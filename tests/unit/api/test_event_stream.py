"""The answer that carries a live stream: who is served, who is dropped, what is given back."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from counterfoil.server.api.stream import EventStream
from counterfoil.server.core import limits
from counterfoil.server.core.errors import DatabaseUnavailable
from counterfoil.server.log.follow import StreamItem

FIRST = StreamItem(0, "i", None)


class Items:
    """A stream of the log that counts what was taken, and knows whether it was closed."""

    def __init__(self, count: int, error: Exception | None = None) -> None:
        self.taken = 0
        self.closed = False
        self._count = count
        self._error = error

    async def run(self) -> AsyncGenerator[StreamItem, None]:
        try:
            yield FIRST
            for position in range(1, self._count + 1):
                self.taken += 1
                yield StreamItem(position, "i", '{"x":"' + "x" * 1000 + '"}')
            if self._error is not None:
                raise self._error
            await asyncio.Event().wait()
        finally:
            self.closed = True


async def begun(items: Items) -> EventStream:
    iterator: AsyncIterator[StreamItem] = items.run()
    return EventStream(await anext(iterator), iterator, lambda: None, {})


async def never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


async def gone() -> Message:
    return {"type": "http.disconnect"}


def test_events_that_came_together_are_sent_together() -> None:
    async def go() -> list[bytes]:
        sent: list[bytes] = []

        async def send(message: Message) -> None:
            sent.append(message.get("body", b""))

        items = Items(20, DatabaseUnavailable("away"))
        await (await begun(items))({"type": "http"}, never, send)
        assert items.closed
        return sent

    start, *bodies, end = asyncio.run(go())
    assert start == end == b""
    assert len(bodies) <= 2
    assert b"".join(bodies).count(b"data: ") == 20


def test_a_client_that_reads_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STREAM_WRITE_SECONDS_MAX", 0.02)
    items = Items(10_000)

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def go() -> None:
        with pytest.raises(ClientDisconnect):
            await (await begun(items))({"type": "http"}, never, send)

    asyncio.run(go())
    assert items.closed
    assert items.taken < 200  # and until then, little was held for it


def test_a_client_that_leaves_ends_the_stream() -> None:
    items = Items(3)

    async def send(message: Message) -> None:
        pass

    async def go() -> None:
        await (await begun(items))({"type": "http"}, gone, send)

    asyncio.run(go())
    assert items.closed


def test_an_answer_that_is_cancelled_closes_the_stream() -> None:
    """Even before it could take its first item."""
    items = Items(3)

    async def send(_message: Message) -> None:
        await asyncio.Event().wait()

    async def go() -> None:
        stream = await begun(items)
        task = asyncio.ensure_future(stream({"type": "http"}, never, send))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(go())
    assert items.closed


def test_a_cancellation_that_is_missed_is_repeated() -> None:
    """As ``asyncio.wait_for`` misses one before Python 3.12, in the pool of connections."""
    items = Items(0)
    taking = asyncio.Event()

    async def deaf_once() -> AsyncGenerator[StreamItem, None]:
        try:
            yield FIRST
            with contextlib.suppress(asyncio.CancelledError):
                taking.set()
                await asyncio.Event().wait()
            await asyncio.Event().wait()
        finally:
            items.closed = True

    async def leave() -> Message:
        await taking.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        pass

    async def go() -> None:
        iterator = deaf_once()
        async with asyncio.timeout(10):
            await EventStream(await anext(iterator), iterator, lambda: None, {})(
                {"type": "http"}, leave, send
            )

    asyncio.run(go())
    assert items.closed
