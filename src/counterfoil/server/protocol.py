"""HTTP as uvicorn speaks it, with bounds on what comes before a request can be judged.

uvicorn's fast parser takes a request line and headers of any length, for any time (60 MB of
one header were accepted when it was tried), and all that before a key could be asked for.
Here they are bounded in bytes, number and time, and what cannot be read as HTTP gets a problem
document like every other refusal.

Bounded, too, is what a caller without a key costs after that. A body that was refused unread is
thrown away for a while only (uvicorn does so for ever), and the connection is then closed so
that the refusal still arrives (``lingering.py``). One on which 401 was answered several times in
a row is closed with the last of them.

Three of its gaps are closed as well. A request that offers another protocol (``Upgrade: h2c``,
as curl and Java do by themselves) lost its body, and the body was then read as the next
request; here the offer is passed over. Of several requests that were sent ahead of their
answers, only the last learned that its caller had gone. And what may follow a body in chunks
(trailers) was added to the headers, without a bound and after the key had been asked for; here it
is dropped.
"""

import secrets
from asyncio import BaseTransport, TimerHandle, Transport
from collections import deque
from collections.abc import Collection
from typing import Any, Final, cast

import httptools
from typing_extensions import override
from uvicorn._types import (
    ASGI3Application,
    ASGIReceiveCallable,
    ASGISendCallable,
    ASGISendEvent,
    HTTPResponseStartEvent,
    Scope,
)
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from counterfoil.server.api import problems
from counterfoil.server.api.middleware import FIXED_HEADERS, STRICT_TRANSPORT
from counterfoil.server.api.requests import HAS_LEFT
from counterfoil.server.core import limits
from counterfoil.server.core.errors import invariant
from counterfoil.server.core.proxies import NO_PROXIES, TrustedProxies
from counterfoil.server.lingering import linger

_WHITESPACE_AND_COLON_BYTES: Final = 4

_UNAUTHENTICATED: Final = problems.UNAUTHENTICATED.status

_CLOSE: Final = (b"connection", b"close")

_FRAMING_HEADERS: Final = frozenset({b"content-length", b"transfer-encoding"})
"""The headers that tell a parser where a body ends."""


class _HeadersTooLargeError(Exception):
    """Raised in a callback of the parser to stop it."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection, on which a request's line and headers are bounded.

    Bytes are counted twice, since neither count sees all: what the parser has handed over when
    the headers are complete (a request that arrives whole), and what has arrived while they
    are not (a line without end).

    Args:
        config, server_state, app_state, more: uvicorn's own.
        proxies: whose word counts on where a request came from.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        *,
        proxies: TrustedProxies = NO_PROXIES,
        **more: Any,
    ) -> None:
        super().__init__(config, server_state, app_state, **more)
        self._proxies = proxies
        self._peer_is_proxy = False
        self._too_many_headers = False
        self._unread_bytes = 0
        self._unauthenticated = 0
        self._in_headers = False
        self._began_now = False
        self._header_bytes = 0
        self._arrived_bytes = 0
        self._too_late: TimerHandle | None = None
        self._head_is_known = False
        self._unanswered: deque[RequestResponseCycle] = deque()

    @override
    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(cast("Transport", transport))
        self._peer_is_proxy = self.client is not None and self.client[0] in self._proxies
        self._expect_headers()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        for request in self._unanswered:
            request.disconnected = True
            request.message_event.set()
        super().connection_lost(exc)

    @override
    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self._began_now = False
        try:
            self._read(data)
        except httptools.HttpParserError:
            self.logger.info("Invalid HTTP request received.")
            self.send_400_response("")
            return
        if self._in_headers:
            # Where the request has only begun in them, they may be the end of a long one before.
            self._arrived_bytes += 0 if self._began_now else len(data)
            if self._arrived_bytes > limits.HEADERS_BYTES_MAX:
                self.send_400_response("")
            else:
                self._expect_headers()
        elif not self._unanswered or self._unanswered[-1].response_complete:
            # Empty lines, or the rest of a body that nobody reads: no sign of a next request.
            self._expect_headers()
            self._unread_bytes += len(data)
            if self._unread_bytes > limits.UNREAD_BODY_BYTES_MAX:
                self._end_gently()
        elif self.cycle.more_body and not self.cycle.body:
            # Nothing of the body yet: it has the rest of the headers' time to begin.
            self._expect_headers()
        else:
            self._stop_waiting()

    @override
    def on_message_begin(self) -> None:
        if self._head_is_known:
            return
        super().on_message_begin()
        self._in_headers = self._began_now = True
        self._header_bytes = self._arrived_bytes = self._unread_bytes = 0

    @override
    def on_header(self, name: bytes, value: bytes) -> None:
        # In place of uvicorn's, which takes trailers for headers, and any number of them.
        if not self._in_headers:
            return
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))
        if len(self.headers) > limits.HEADERS_MAX:
            self._too_many_headers = True
            raise _HeadersTooLargeError

    @override
    def on_headers_complete(self) -> None:
        if self._head_is_known:
            return
        self._in_headers = False
        self._header_bytes = len(self.url) + sum(
            [len(name) + len(value) + _WHITESPACE_AND_COLON_BYTES for name, value in self.headers]
        )
        if self._header_bytes > limits.HEADERS_BYTES_MAX:
            raise _HeadersTooLargeError
        super().on_headers_complete()
        if self._peer_is_proxy and self.client is not None:
            self.scope["client"] = (self._proxies.caller(self.client[0], self.headers), 0)
            self.scope["scheme"] = self._proxies.scheme(self.headers) or self.scope["scheme"]
        # They are answered in their order.
        while self._unanswered and self._unanswered[0].response_complete:
            self._unanswered.popleft()
        self._unanswered.append(self.cycle)

    @override
    def on_message_complete(self) -> None:
        # With an offer of another protocol, the parser says so before it comes to the body.
        if not self.parser.should_upgrade():
            super().on_message_complete()

    @override
    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        # It begins in the next turn of the loop, when all that came with this turn is parsed.
        task = self.loop.create_task(_serve(self, cycle, app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    @override
    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be read, and close: where the next request starts is unknown."""
        if self._too_many_headers:
            problem = problems.HEADERS_TOO_LARGE
            detail = f"A request has at most {limits.HEADERS_MAX} headers."
        elif max(self._header_bytes, self._arrived_bytes) > limits.HEADERS_BYTES_MAX:
            problem = problems.HEADERS_TOO_LARGE
            detail = (
                f"A request line with its headers has at most {limits.HEADERS_BYTES_MAX:,} bytes."
            )
        else:
            problem = problems.MALFORMED_REQUEST
            detail = "What was sent cannot be read as an HTTP/1.1 request."
        request_id = secrets.token_hex(16)
        body = problems.document(problem, detail, request_id=request_id)
        headers = [
            *self.server_state.default_headers,
            (b"content-type", problems.MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", request_id.encode()),
            *FIXED_HEADERS,
            _CLOSE,
        ]
        if self.scheme == "https":
            headers.append(STRICT_TRANSPORT)
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self.transport.write(STATUS_LINE[problem.status] + lines + b"\r\n" + body)
        self._end_gently()

    def answering(self, cycle: RequestResponseCycle, status: int) -> None:
        """Judge, before the head of an answer is sent, whether it is the connection's last."""
        if status != _UNAUTHENTICATED:
            self._unauthenticated = 0
            return
        self._unauthenticated += 1
        if self._unauthenticated >= limits.UNAUTHENTICATED_MAX:
            cycle.keep_alive = False

    def answered_early(self, *, last: bool) -> None:
        """Bound what is read of a body that was answered before its end.

        Args:
            last: whether the answer said that the connection ends with it.
        """
        if last:
            self._end_gently()
            return
        self._stop_waiting()
        self._too_late = self.loop.call_later(limits.UNREAD_BODY_SECONDS_MAX, self.transport.close)

    def _end_gently(self) -> None:
        self._stop_waiting()
        linger(self, self.transport, self.loop, thrown_away_bytes=self._unread_bytes)

    def _read(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offered:
            # Nothing but HTTP/1.1 is spoken here, and that is answered as usual (RFC 9110,
            # 7.8). The parser takes what follows for the other protocol; a new one is told
            # where the body ends, and goes on.
            self.parser = httptools.HttpRequestParser(self)
            framing = [
                b"%b: %b\r\n" % header for header in self.headers if header[0] in _FRAMING_HEADERS
            ]
            known = self.url, self.headers
            self.url, self.headers = b"", []
            self._head_is_known = True
            self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(framing))
            self._head_is_known = False
            self.url, self.headers = known
            (offset,) = offered.args
            self._read(data[offset:])

    def _expect_headers(self) -> None:
        if self._too_late is None:
            self._too_late = self.loop.call_later(limits.HEADERS_SECONDS_MAX, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._too_late is not None:
            self._too_late.cancel()
            self._too_late = None


async def _serve(
    connection: BoundedHttpProtocol, cycle: RequestResponseCycle, app: ASGI3Application
) -> None:
    """Serve one request; by the straight way if it has arrived as a whole."""
    cycle.scope.setdefault("state", {})[HAS_LEFT] = lambda: cycle.disconnected
    if cycle.more_body:
        await cycle.run_asgi(_bounding_what_is_left(connection, cycle, app))
        return
    if cycle.disconnected or cycle.scope["method"] == "HEAD":
        await cycle.run_asgi(app)
        return
    try:
        await app(cycle.scope, cycle.receive, _Answering(connection, cycle).send)
    except Exception:
        cycle.logger.exception("The application raised an error.")
    if not cycle.response_complete and not cycle.disconnected:
        cycle.logger.error("The application returned without a whole answer.")
        cycle.transport.close()


def _bounding_what_is_left(
    connection: BoundedHttpProtocol, cycle: RequestResponseCycle, app: ASGI3Application
) -> ASGI3Application:
    """Wrap the application for one request, whose answer may come before the end of its body."""

    async def send_on(message: ASGISendEvent) -> None:
        last = False
        if message["type"] == "http.response.start":
            connection.answering(cycle, message["status"])
        elif message["type"] == "http.response.body" and not message.get("more_body"):
            last = cycle.more_body and not cycle.keep_alive
            # Its head has said so; uvicorn would now close at once, and with what is still to
            # come the operating system would throw the answer away.
            cycle.keep_alive = cycle.keep_alive or last
        await cycle.send(message)
        if cycle.response_complete and (last or cycle.more_body):
            connection.answered_early(last=last)

    async def bounded(scope: Scope, receive: ASGIReceiveCallable, _send: ASGISendCallable) -> None:
        await app(scope, receive, send_on)

    return bounded


class _Answering:
    """Sends an answer that is there as a whole in one piece.

    uvicorn takes each message for itself: it looks at every header with two expressions and
    writes twice, which was a sixth of the service's work for an append. What comes in several
    pieces, or without its length, goes through uvicorn.
    """

    __slots__ = ("_connection", "_cycle", "_start")

    def __init__(self, connection: BoundedHttpProtocol, cycle: RequestResponseCycle) -> None:
        self._connection = connection
        self._cycle = cycle
        self._start: HTTPResponseStartEvent | None = None

    async def send(self, message: ASGISendEvent) -> None:
        """Keep the start of the answer until its body is there, and write both."""
        cycle = self._cycle
        if message["type"] == "http.response.start" and self._start is None:
            self._start = message
            self._connection.answering(cycle, message["status"])
            return
        if message["type"] == "http.response.body" and self._start is not None:
            body, headers = message.get("body", b""), list(self._start["headers"])
            if (
                cycle.response_started
                or message.get("more_body")
                or cycle.flow.write_paused
                or (b"content-length", b"%d" % len(body)) not in headers
            ):
                if not cycle.response_started:
                    await cycle.send(self._start)
                await cycle.send(message)
                return
            if cycle.disconnected:
                return
            cycle.transport.write(_whole_answer(self._start["status"], headers, body, cycle))
            cycle.response_started = cycle.response_complete = True
            cycle.message_event.set()
            if not cycle.keep_alive:
                cycle.transport.close()
            cycle.on_response()
            return
        await cycle.send(message)


def _whole_answer(
    status: int, headers: Collection[tuple[bytes, bytes]], body: bytes, cycle: RequestResponseCycle
) -> bytes:
    if _CLOSE in headers:
        cycle.keep_alive = False
    elif not cycle.keep_alive:
        headers = [*headers, _CLOSE]
    fields = [*cycle.default_headers, *headers]
    head = STATUS_LINE[status] + b"\r\n".join(map(b": ".join, fields))
    # A line's end within a value would begin a header, or an answer, of its own.
    invariant(head.count(b"\n") == len(fields) == head.count(b"\r"), "a header is one line")
    return head + b"\r\n\r\n" + body
