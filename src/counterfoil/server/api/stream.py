"""The live stream: what matches, as server-sent events, from a position or from now.

::

    retry: 1000                                     once, at the start

    : heartbeat                                     at once, and whenever it is quiet
    id: 7c9e6679-7425-40de-944b-e07fc1f90ae7.41     where the stream stands

    data: {"id":42,"agent_name":"fraud_agent",...}  one event, on one line
    id: 7c9e6679-7425-40de-944b-e07fc1f90ae7.42

An ``id:`` is the book's incarnation and a position. A client that reconnects sends the
last one back as ``Last-Event-ID`` and misses nothing. Heartbeats bear one too, so that a
rare filter does not read all again. When the service stops, or cannot read on, the stream
ends, and reconnecting is the way on.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from typing import Final

import structlog
from fastapi import APIRouter
from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from counterfoil.server.api import openapi
from counterfoil.server.api.parts import parts
from counterfoil.server.api.requests import admission, header, principal, query_parameters
from counterfoil.server.api.routes import RawRoute
from counterfoil.server.core import limits
from counterfoil.server.core.errors import AfterAboveHead, FieldError, Location, Unavailable
from counterfoil.server.log.follow import StreamItem
from counterfoil.server.log.query import judge_last_event_id, judge_stream_parameters

router = APIRouter(route_class=RawRoute)

_log = structlog.get_logger(__name__)

_RETRY_MILLISECONDS: Final = 1_000
"""How long a client waits before it reconnects."""

_UNSENT_BYTES_MAX: Final = 64 * 1024
"""What may wait between the log and a connection; beyond, the log's own buffer fills up."""

_CANCEL_AGAIN_SECONDS: Final = 0.5
"""How long a cancelled task has, before it is taken to have missed it."""


class EventStream(Response):
    """An answer that goes on until the log's stream ends, or the client is gone.

    One task takes what is there from the log, another sends it. While a write is under way,
    events gather, and go out together in the next one: with many subscribers, sending them
    one by one was most of the work.
    """

    media_type = EventSourceResponse.media_type

    def __init__(
        self,
        first: StreamItem,
        items: AsyncIterator[StreamItem],
        left: Callable[[], None],
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(headers=headers)
        del self.headers["content-length"]
        self._items = items
        self._left = left
        self._unsent = bytearray(format_sse_event(retry=_RETRY_MILLISECONDS) + _written(first))
        self._changed = asyncio.Event()  # there is something to send, or the end
        self._room = asyncio.Event()
        self._ended = False

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        tasks = [
            asyncio.create_task(self._take(), name="stream: take"),
            asyncio.create_task(self._leave(receive), name="stream: leave"),
        ]
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            await self._send(send)
        finally:
            self._left()
            await _cancelled(tasks)
            # Only this gives the subscriber's place back.
            if isinstance(self._items, AsyncGenerator):
                await self._items.aclose()

    async def _take(self) -> None:
        """Take items from the log, as fast as they are there and there is room for them."""
        try:
            async for item in self._items:
                self._unsent += _written(item)
                self._changed.set()
                if len(self._unsent) >= _UNSENT_BYTES_MAX:
                    self._room.clear()
                    await self._room.wait()
        except Unavailable as error:
            # The answer has begun, so no problem document can be sent any more.
            _log.info("a stream ends early", reason=str(error))
        except Exception:  # noqa: BLE001 - the same, and the fault is ours
            _log.exception("a stream broke")
        finally:
            self._end()

    async def _leave(self, receive: Receive) -> None:
        """Wait until the client is gone."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._end()

    async def _send(self, send: Send) -> None:
        """Send what was taken until the end, and then the end itself."""
        while not self._ended or self._unsent:
            if not self._unsent:
                self._changed.clear()
                await self._changed.wait()
                continue
            body, self._unsent = bytes(self._unsent), bytearray()
            self._room.set()
            try:
                async with asyncio.timeout(limits.STREAM_WRITE_SECONDS_MAX):
                    await send({"type": "http.response.body", "body": body, "more_body": True})
            except TimeoutError:
                _log.info("a subscriber reads nothing, and is dropped")
                raise ClientDisconnect from None
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _end(self) -> None:
        self._ended = True
        self._changed.set()


async def _cancelled(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks until they have ended.

    Once is not enough. A task that is just given the connection it waits for may miss its
    cancellation: before Python 3.12, ``asyncio.wait_for`` returns instead. It would go on
    for ever, and keep a place of the ``STREAM_SUBSCRIBERS_MAX``.
    """
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=_CANCEL_AGAIN_SECONDS)


@router.get("/events/stream", response_class=EventSourceResponse, **openapi.STREAM)
async def stream_events(request: Request) -> EventStream:
    """Follow what matches the parameters, live."""
    filters, after = judge_stream_parameters(query_parameters(request))
    caller = principal(request)
    caller.must_read(filters.query)
    resumed = judge_last_event_id(header(request, "Last-Event-ID"))
    incarnation: str | None = None
    source: tuple[str, Location] = ("/after", "query")
    if resumed is not None:
        # The address still holds the `after` of the first connection; this is newer.
        incarnation, after = resumed
        source = ("/Last-Event-ID", "header")
    try:
        stream = await parts(request).log.follow(
            caller.tenant_id, filters, after=after, incarnation=incarnation
        )
    except AfterAboveHead as error:
        pointer, location = source
        raise AfterAboveHead(str(error), [FieldError(pointer, str(error), location)]) from None
    items = aiter(stream)
    # An iterator that never began would never end, and keep its place in the log for ever.
    # The first item, which says where the stream stands, is there at once.
    first = await anext(items)
    # What is done to the key from here on ends the stream, as it would refuse another call.
    unwatch = parts(request).access.keyring.watch(admission(request), stream.end)
    return EventStream(
        first,
        items,
        unwatch,
        headers={
            "Cache-Control": "no-store",
            "Counterfoil-Head": str(stream.head),
            "Counterfoil-Incarnation": stream.incarnation,
            "X-Accel-Buffering": "no",  # nginx would collect events before it passes them on
        },
    )


def _written(item: StreamItem) -> bytes:
    """Write an item as a server-sent event. PostgreSQL's text of an event is one line."""
    event_id = f"{item.incarnation}.{item.position}"
    if item.text is None:
        return format_sse_event(comment="heartbeat", id=event_id)
    # format_sse_event would write the same in six times the time, for each subscriber.
    return f"data: {item.text}\nid: {event_id}\n\n".encode()
