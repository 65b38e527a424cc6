"""What surrounds every request: its id, its count, its headers, and the net below it.

Written as plain ASGI: a stream must pass through without a queue or a task in between.
"""

import logging
import secrets
import time
from collections.abc import Iterable
from contextvars import ContextVar
from functools import cache
from typing import Any, Final

import structlog
from prometheus_client import Counter, Histogram
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from counterfoil.server.api.errors import internal_error_response
from counterfoil.server.core import limits, metrics

_log = structlog.get_logger(__name__)

FIXED_HEADERS: Final = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
"""What every answer bears, unless it has a rule of its own.

What is in the book is about money and people, and a read from a cache would bring an old head:
so nothing is kept. The others are for browsers, which a web page of anybody's may send here (a
``dev`` without a key has no other lock for them than this machine's name): an answer is never
taken for a script, loads and runs nothing, stands in no frame, and is not handed to pages of
other origins that ask for it as a picture or a script. ``X-Frame-Options`` and
``Referrer-Policy`` would add bytes to every append and nothing to JSON: the first is what
``frame-ancestors`` replaced, and a document without links refers nobody. Pages have both
(``pages.py``). No answer bears ``Access-Control-*``: no page of another origin may read one.
"""

STRICT_TRANSPORT: Final = (b"strict-transport-security", b"max-age=31536000")
"""What an answer over TLS bears besides: for a year, this name is called over TLS only. Of
names below it, whose they are is not known here."""

_EXCHANGE: Final[ContextVar["Exchange"]] = ContextVar("exchange")

_FIXED_NAMES: Final = frozenset(name for name, _ in FIXED_HEADERS)

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Surroundings:
    """ASGI middleware around everything else of the service.

    * Each request has an id: the caller's ``X-Request-Id`` if it is visible ASCII of at
      most ``limits.REQUEST_ID_CHARACTERS_MAX``, otherwise a new one. It is sent back, stands
      in every log line that the request causes (with the caller's address), and in its problem
      document.
    * Answers are counted and timed by route template.
    * Each answer bears ``FIXED_HEADERS``, and over TLS ``STRICT_TRANSPORT``.
    * What nobody caught becomes ``internal-error``; the log has the stack trace, the caller
      only the id.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, send)
        try:
            await self._app(scope, receive, exchange.send)
        except ClientDisconnect:
            _log.debug("client left", path=scope["path"])
        except Exception:  # noqa: BLE001 - the net under everything else
            await exchange.fail(receive)
        exchange.log()


class Exchange:
    """One request and its answer: what is done for each, whichever way it goes.

    To be made when the request arrives: the time is taken from there on.

    Attributes:
        request_id: the caller's own if it is a fit one, otherwise a new one. It stands in the
            scope, too, and in every log line of this task.
    """

    __slots__ = ("_scope", "_send", "_started_at", "_status", "request_id")

    def __init__(self, scope: Scope, send: Send) -> None:
        self._started_at = time.perf_counter()
        self._scope = scope
        self._send = send
        self._status = 0
        self.request_id = request_id_of(scope["headers"])
        scope.setdefault("state", {})["request_id"] = self.request_id
        # Each request is served in a task of its own, and so in a context of its own.
        _EXCHANGE.set(self)

    @property
    def client(self) -> str:
        """The caller's address, as far as it is known for sure (``core/proxies.py``)."""
        known = self._scope.get("client")
        return known[0] if known else "unknown"

    async def send(self, message: Message) -> None:
        """Send a part of the answer; with its start go our headers, and it is counted."""
        if message["type"] == "http.response.start":
            message["headers"] = self.started(message["status"], message["headers"])
        await self._send(message)

    def started(self, status: int, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Count an answer that is about to be sent; return its headers, with ours."""
        self._status = status
        _count(self._scope, status, time.perf_counter() - self._started_at)
        over_tls = self._scope.get("scheme") == "https"
        ours = _with_ours(headers, self.request_id, over_tls=over_tls)
        # What is left of the caller's rate, where something bounds it (auth.py).
        ours += self._scope["state"].get("rate_headers", ())
        return ours

    async def fail(self, receive: Receive) -> None:
        """Log what nobody caught, and answer with ``internal-error`` unless an answer began.

        To be called where the exception is being handled.
        """
        _log.exception("internal error", method=self._scope["method"], path=self._scope["path"])
        if not self._status:
            response = internal_error_response(request_id=self.request_id)
            await response(self._scope, receive, self.send)

    def log(self) -> None:
        """Log the request, where that much is logged."""
        if logging.getLogger(__name__).isEnabledFor(logging.DEBUG):
            _log.debug(
                "request",
                method=self._scope["method"],
                path=self._scope["path"],
                status=self._status,
                seconds=round(time.perf_counter() - self._started_at, 6),
            )


def tell_whose(
    _logger: Any, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Add the request, and who made it, to a log line that one causes.

    A processor of structlog. Binding both for each request, in structlog's own way, would cost
    more than the few requests that cause a line.
    """
    exchange = _EXCHANGE.get(None)
    if exchange is not None:
        event["request_id"] = exchange.request_id
        event["client"] = exchange.client
    return event


def request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the request's id: the caller's own if it is a fit one, otherwise a new one."""
    for name, value in headers:
        if (
            name == b"x-request-id"
            and 0 < len(value) <= limits.REQUEST_ID_CHARACTERS_MAX
            and all(0x21 <= byte <= 0x7E for byte in value)
        ):
            return value.decode("ascii")
    return secrets.token_hex(16)


def _with_ours(
    headers: list[tuple[bytes, bytes]], request_id: str, *, over_tls: bool
) -> list[tuple[bytes, bytes]]:
    ours = [*headers, (b"x-request-id", request_id.encode("ascii"))]
    if _FIXED_NAMES.isdisjoint(dict(headers)):
        ours += FIXED_HEADERS
    else:
        # An answer's own rule stands: a page has other content, and may be kept for a while.
        given = {name for name, _ in headers}
        ours += [header for header in FIXED_HEADERS if header[0] not in given]
    if over_tls:
        ours.append(STRICT_TRANSPORT)
    return ours


def _count(scope: Scope, status: int, seconds: float) -> None:
    # Labels are never what a caller chose: an unknown method or path is one value each.
    method = scope["method"] if scope["method"] in _METHODS else "other"
    route = getattr(scope.get("route"), "path_format", "none")
    requests, request_seconds = _series(method, route, status)
    requests.inc()
    request_seconds.observe(seconds)


@cache
def _series(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    """The counters of one kind of answer: looking them up costs as much as counting."""
    return metrics.REQUESTS.labels(method, route, status), metrics.REQUEST_SECONDS.labels(route)
