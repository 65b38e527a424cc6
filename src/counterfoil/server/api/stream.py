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
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

import structlog
from fastapi import APIRouter
from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from counterfoil.server.api import openapi
from counterfoil.server.api.requests import header, principal, query_parameters, the_log
from counterfoil.server.api.routes import RawRoute
from counterfoil.server.core import limits
from counterfoil.server.core.errors import AfterAboveHead, FieldError, Location, Unavailable
from counterfoil.server.log.follow import StreamItem
from counterfoil.server.log.query import judge_last_event_id, judge_stream_parameters

router = APIRouter(route_class=RawRoute)

_log = structlog.get_logger(__name__)

_RETRY_MILLISECONDS: Final = 1_000
"""How long a client waits before it reconnects."""


class EventStream(EventSourceResponse):
    """A response that gives back what it iterates over, however it ends.

    The base class stops when the client leaves. This one also closes the iterator there
    and then, instead of when it is collected, and takes a client that reads nothing for
    ``limits.STREAM_WRITE_SECONDS_MAX`` as gone.
    """

    def __init__(self, content: AsyncGenerator[bytes, None], headers: dict[str, str]) -> None:
        super().__init__(content, headers=headers)
        self._content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until they end or the client is gone."""

        async def send_in_time(message: Message) -> None:
            try:
                async with asyncio.timeout(limits.STREAM_WRITE_SECONDS_MAX):
                    await send(message)
            except TimeoutError:
                _log.info("subscriber reads nothing, dropped")
                raise ClientDisconnect from None

        try:
            await super().__call__(scope, receive, send_in_time)
        finally:
            await self._content.aclose()


# Not response_class=EventSourceResponse: with it FastAPI takes whatever is returned for a
# generator, and has begun its answer before the log could refuse.
@router.get("/events/stream", response_class=StreamingResponse, **openapi.STREAM)
async def stream_events(request: Request) -> EventStream:
    """Follow what matches the parameters, live."""
    filters, after = judge_stream_parameters(query_parameters(request))
    resumed = judge_last_event_id(header(request, "Last-Event-ID"))
    incarnation: str | None = None
    source: tuple[str, Location] = ("/after", "query")
    if resumed is not None:
        # The address still holds the `after` of the first connection; this is newer.
        incarnation, after = resumed
        source = ("/Last-Event-ID", "header")
    try:
        stream = await the_log(request).follow(
            principal(request).tenant_id, filters, after=after, incarnation=incarnation
        )
    except AfterAboveHead as error:
        pointer, location = source
        raise AfterAboveHead(str(error), [FieldError(pointer, str(error), location)]) from None
    written = _written(aiter(stream))
    # A generator that never started would not run its `finally`, and keep its place for ever.
    # The first thing it yields is there at once.
    await anext(written, b"")
    return EventStream(
        written,
        headers={
            "Cache-Control": "no-store",
            "Counterfoil-Head": str(stream.head),
            "Counterfoil-Incarnation": stream.incarnation,
            "X-Accel-Buffering": "no",  # nginx would collect events before it passes them on
        },
    )


async def _written(items: AsyncIterator[StreamItem]) -> AsyncGenerator[bytes, None]:
    """Write each item in the form of a server-sent event. The first value says nothing."""
    try:
        first = await anext(items)
        yield b""
        yield format_sse_event(retry=_RETRY_MILLISECONDS) + _event(first)
        async for item in items:
            yield _event(item)
    except (StopAsyncIteration, Unavailable) as end:
        # The answer has begun, so no problem document can be sent any more.
        _log.info("stream ends", reason=type(end).__name__)
    finally:
        if isinstance(items, AsyncGenerator):
            await items.aclose()


def _event(item: StreamItem) -> bytes:
    event_id = f"{item.incarnation}.{item.position}"
    if item.text is None:
        return format_sse_event(comment="heartbeat", id=event_id)
    return format_sse_event(data_str=item.text, id=event_id)
