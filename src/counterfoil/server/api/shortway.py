"""The short way: from the door to our own calls, past what frameworks do in between.

FastAPI and Starlette lead a request through seven layers to its endpoint: nets for errors,
limits that we set ourselves, exit stacks that hold nothing, and a list of routes that is
tried one after another. Together they cost an append several times what judging it costs.
Here a request whose method and path are those of one of our calls goes to its route at
once, and a refusal becomes its problem document. Everything else (pages for people and for
the platform, unknown paths, wrong methods) goes the long way.

It leads to the very same routes, which FastAPI still holds and describes: a call that were
missing here would only be slower.
"""

from collections.abc import Iterable

from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from counterfoil.server.api.errors import refusal
from counterfoil.server.api.requests import request_id
from counterfoil.server.api.routes import RawRoute
from counterfoil.server.core.errors import CounterfoilError


class ShortWay:
    """ASGI middleware that serves the calls of ``routes``, and passes on what is none of them.

    Args:
        app: the long way, whose routing must lead to the same routes.
        routes: in the order in which they are tried where a path is not a fixed one.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[RawRoute]) -> None:
        self._app = app
        self._fixed: dict[tuple[str, str], RawRoute] = {}
        self._others: list[RawRoute] = []
        for route in routes:
            if route.param_convertors:
                self._others.append(route)
            else:
                for method in route.methods or ():
                    self._fixed[method, route.path] = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        route = self._fixed.get((scope["method"], scope["path"])) or self._matching(scope)
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        try:
            await route.app(scope, receive, send)
        except CounterfoilError as error:
            response = refusal(error, request_id=request_id(scope))
            await response(scope, receive, send)

    def _matching(self, scope: Scope) -> RawRoute | None:
        """The route of a path with parts that vary; its parts are left in the scope."""
        for route in self._others:
            match, found = route.matches(scope)
            if match is Match.FULL:
                scope["path_params"] = found["path_params"]
                return route
        return None
