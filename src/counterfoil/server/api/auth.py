"""The key is asked for here, before anything else of a request is looked at.

Closed unless opened: a call that is not in the list below needs the key, also one that
does not exist. So a route that is added later cannot be forgotten, a caller without the
key learns nothing of which paths there are, and no byte of its body is read.
"""

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from counterfoil.server.access.keys import ANONYMOUS, KeyGate
from counterfoil.server.api.errors import refusal
from counterfoil.server.api.requests import request_id
from counterfoil.server.core.errors import Unauthenticated

OPEN_PATHS: Final = frozenset(
    {"/health/live", "/health/ready", "/problems", "/openapi.json", "/docs"}
)
"""What answers without a key: nothing of it is about the content of a book."""

OPEN_PREFIX: Final = "/problems/"


def is_open(path: str) -> bool:
    """Whether this path answers without a key."""
    return path in OPEN_PATHS or path.startswith(OPEN_PREFIX)


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
                scope["state"]["principal"] = self._gate.admit(_presented(scope["headers"]))
            except Unauthenticated as error:
                response = refusal(error, request_id=request_id(scope))
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


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
