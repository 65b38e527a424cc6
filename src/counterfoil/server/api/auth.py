"""The key is asked for here, before anything else of a request is looked at.

Closed unless opened: a call that is not in the list below needs the key, also one that
does not exist. So a route that is added later cannot be forgotten, a caller without the
key learns nothing of which paths there are, and no byte of its body is read.

Where no key is configured, calls must address the machine by a name of its own. A browser
on it could otherwise be led there by any web page, whose name was made to stand for
127.0.0.1 (DNS rebinding): to the browser that is the page's own origin.
"""

import ipaddress
import re
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from counterfoil.server.access.keys import ANONYMOUS, KeyGate, Principal
from counterfoil.server.api.errors import refusal
from counterfoil.server.api.requests import request_id
from counterfoil.server.core.errors import ForeignHost, Unauthenticated

OPEN_PATHS: Final = frozenset(
    {"/health/live", "/health/ready", "/problems", "/openapi.json", "/docs"}
)
"""What answers without a key: nothing of it is about the content of a book."""

OPEN_PREFIX: Final = "/problems/"


def is_open(path: str) -> bool:
    """Whether this path answers without a key."""
    return path in OPEN_PATHS or path.startswith(OPEN_PREFIX)


_HOST: Final = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[a-z0-9.-]+))(?::[0-9]*)?")


class Authentication:
    """ASGI middleware that admits a request, and leaves its principal in its state."""

    def __init__(self, app: ASGIApp, gate: KeyGate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass an admitted request on; answer any other with 401."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if is_open(scope["path"]):
            scope["state"]["principal"] = ANONYMOUS
        else:
            try:
                scope["state"]["principal"] = admitted(self._gate, scope["headers"])
            except (Unauthenticated, ForeignHost) as error:
                response = refusal(error, request_id=request_id(scope))
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


def admitted(gate: KeyGate, headers: list[tuple[bytes, bytes]]) -> Principal:
    """Return whose call this is.

    Raises ``Unauthenticated``, and ``ForeignHost`` where no key is asked for.
    """
    if gate.is_open:
        _must_be_addressed_locally(headers)
    return gate.admit(_presented(headers))


def _presented(headers: list[tuple[bytes, bytes]]) -> list[bytes]:
    """Collect every credential of a request.

    An ``Authorization`` of another scheme is no credential of ours: a proxy in front may
    have one of its own.
    """
    presented = []
    for name, value in headers:
        if name == b"x-api-key":
            presented.append(value.strip())
        elif name == b"authorization":
            scheme, _, token = value.strip().partition(b" ")
            if scheme.lower() == b"bearer":
                presented.append(token.strip())
    return presented


def _must_be_addressed_locally(headers: list[tuple[bytes, bytes]]) -> None:
    """Refuse a call whose ``Host`` is not this machine. Without one it is from no browser.

    Raises ``ForeignHost``.
    """
    for name, value in headers:
        if name == b"host" and not _is_local(value.decode("latin-1").strip().lower()):
            raise ForeignHost(
                "Without a key this service answers to localhost and to loopback addresses only. "
                "Set API_KEY for it to be reached under another name."
            )


def _is_local(host: str) -> bool:
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    if found["name"] == "localhost":
        return True
    try:
        return ipaddress.ip_address(found["v6"] or found["name"]).is_loopback
    except ValueError:
        return False
