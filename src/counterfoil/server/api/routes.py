"""The kind of route that every call of ours is, and the answer that the hot ones give."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, cast

from fastapi.routing import APIRoute
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send
from typing_extensions import override

from counterfoil.server.access.operations import Access
from counterfoil.server.api.auth import must_be_let
from counterfoil.server.core.errors import (
    CounterfoilError,
    NameNotYours,
    ScopeMissing,
    invariant,
)

OPEN: Final = "nothing"
"""What a call needs that asks for no key."""

NEEDS: Final = "x-needs"
"""Under which name a route's description says what a key needs for it. No route is without."""

REFUSED_FOR: Final[Mapping[type[CounterfoilError], str]] = {
    ScopeMissing: "scope",
    NameNotYours: "name",
}
"""The refusals of a key that may not do what it asks for (403), and what the trail calls each."""


class _Anything(Convertor[str]):
    """The rest of a path, whatever it is: Starlette's `path` stops at a line's end."""

    regex = r"[\s\S]*"

    @override
    def convert(self, value: str) -> str:
        return value

    @override
    def to_string(self, value: str) -> str:
        return value


register_url_convertor("anything", _Anything())


class RawRoute(APIRoute):
    """A FastAPI route whose endpoint takes the request and returns the response, no more.

    FastAPI routes to it and describes it. What it would do in between (two exit stacks,
    solving dependencies, serialising, a second net for exceptions) has nothing to do here,
    and was measured as 25 of the 110 us of an append outside the database, and half of a short
    read.
    """

    def __init__(
        self, path: str, endpoint: Callable[[Request], Awaitable[ASGIApp]], **more: Any
    ) -> None:
        # What is answered stands in the description that comes with the route (openapi.py).
        super().__init__(path, endpoint, **{**more, "response_model": None})
        self.needs: str = (self.openapi_extra or {})[NEEDS]
        """What the caller's key has to be let at: see ``auth.must_be_let``."""
        wanted = self.dependant
        invariant(
            wanted.request_param_name is not None
            and not (wanted.dependencies or wanted.query_params or wanted.body_params),
            f"{endpoint.__name__} takes the request and nothing else",
        )

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            if self.needs == OPEN:
                response = await endpoint(Request(scope, receive))
            else:
                response = await self.answered(scope["app"].parts.access, scope, receive)
            await response(scope, receive, send)

        self.app = serve

    async def answered(self, access: Access, scope: Scope, receive: Receive) -> ASGIApp:
        """Let an admitted caller make this call; returns the answer, to be sent.

        The one place through which every call that needs a key goes, at the door and on the long
        way alike: here it waits for its tenant's turn where others call, too; and here it is seen
        that the key may make it, and counted, once, where it may not.

        Raises ``ScopeMissing`` for a call that the key's scopes rule out, ``Unavailable`` where an
        auditor's read cannot be told, and so is not made, ``Busy`` where its turn does not come;
        and what the endpoint raises.
        """
        principal = scope["state"]["admission"].principal
        queue = access.turns.queue_of(principal.tenant_id)
        if queue is not None:
            await queue.begin()
        try:
            must_be_let(principal, self.needs)
            if principal.kind == "auditor":
                await access.trail.audited(principal, self.call_of(scope))
            return cast("ASGIApp", await self.endpoint(Request(scope, receive)))
        except CounterfoilError as error:
            reason = REFUSED_FOR.get(type(error))
            if reason is not None:
                access.trail.refused(principal, reason)
            raise

    def call_of(self, scope: Scope) -> str:
        """What is called, for the book: the method and the route, never what a caller chose."""
        return f"{scope['method']} {self.path_format}"


class Answer:
    """A whole answer in JSON, sent as it is.

    A Starlette ``Response`` would write the same; its headers, which one can look up and
    change until it is sent, take four times as long to make.

    Args:
        body: the JSON text.
        headers: more headers, with names in lower case.
    """

    __slots__ = ("body", "headers", "status")

    def __init__(
        self, body: str, *, status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        self.status = status
        self.body = body.encode()
        self.headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(self.body)),
            *headers,
        ]

    async def send(self, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
        """Send it, with these headers in the place of its own."""
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send it as an ASGI application, as FastAPI's routes do."""
        await self.send(send, self.headers)
