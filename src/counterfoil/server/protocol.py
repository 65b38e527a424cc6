"""HTTP as uvicorn speaks it, with bounds on what comes before a request can be judged.

uvicorn's fast parser takes a request line and headers of any length, for any time (60 MB of
one header were accepted when it was tried), and all that before a key could be asked for.
Here both are bounded, and what cannot be read as HTTP gets a problem document like every
other refusal.
"""

import secrets
from asyncio import BaseTransport, TimerHandle, Transport
from typing import Any, Final, cast

from typing_extensions import override
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from counterfoil.server.api import problems
from counterfoil.server.core import limits

_WHITESPACE_AND_COLON_BYTES: Final = 4


class _HeadersTooLargeError(Exception):
    """Raised in a callback of the parser to stop it."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection, on which a request's line and headers are bounded in bytes and time.

    Bytes are counted twice, since neither count sees all: what the parser hands over (a
    request that arrives whole), and what arrives while it hands over nothing (a line
    without end).
    """

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], **more: Any
    ) -> None:
        super().__init__(config, server_state, app_state, **more)
        self._in_headers = False
        self._header_bytes = 0
        self._arrived_bytes = 0
        self._too_late: TimerHandle | None = None

    @override
    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(cast("Transport", transport))
        self._expect_headers()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    @override
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._in_headers:
            self._stop_waiting()
        elif not self.transport.is_closing():
            self._arrived_bytes += len(data)
            if self._arrived_bytes > limits.HEADERS_BYTES_MAX:
                self.send_400_response("")
            else:
                self._expect_headers()

    @override
    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers = True
        self._header_bytes = self._arrived_bytes = 0

    @override
    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    @override
    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count(len(name) + len(value) + _WHITESPACE_AND_COLON_BYTES)

    @override
    def on_headers_complete(self) -> None:
        self._in_headers = False
        super().on_headers_complete()

    @override
    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be read, and close: where the next request starts is unknown."""
        if max(self._header_bytes, self._arrived_bytes) > limits.HEADERS_BYTES_MAX:
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
            (b"connection", b"close"),
        ]
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self.transport.write(STATUS_LINE[problem.status] + lines + b"\r\n" + body)
        self.transport.close()

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > limits.HEADERS_BYTES_MAX:
            raise _HeadersTooLargeError

    def _expect_headers(self) -> None:
        if self._too_late is None:
            self._too_late = self.loop.call_later(limits.HEADERS_SECONDS_MAX, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._too_late is not None:
            self._too_late.cancel()
            self._too_late = None
