"""The door: where a request comes in, and where it is led.

Our own calls, whose method and path it knows, are served right here: the request's id, the
key, the call, the answer with its headers, the count. FastAPI and Starlette would lead each
request through seven layers to the same endpoint (nets for errors, limits that we set
ourselves, exit stacks that hold nothing, a list of routes that is tried one after another);
that cost an append several times what judging it costs.

Everything else (pages for people and for the platform, unknown paths, wrong methods) goes
the long way, on which the same is done by ``Surroundings`` and ``Authentication``. FastAPI
holds and describes every route. One that were missing here would only be slower.
"""

from collections.abc import Callable, Iterable

import structlog
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from counterfoil.server.access.operations import Access
from counterfoil.server.api.auth import Authentication, admit
from counterfoil.server.api.errors import refusal
from counterfoil.server.api.middleware import Exchange, Surroundings
from counterfoil.server.api.routes import Answer, RawRoute
from counterfoil.server.core.errors import CounterfoilError

_log = structlog.get_logger(__name__)


class Door:
    """The ASGI application in front of FastAPI's own.

    Args:
        app: FastAPI's, which the long way ends in.
        routes: our calls; in the order in which they are tried where a path is not a fixed one.
        access: tells who may come in, once the service has opened its log.
    """

    def __init__(
        self, app: ASGIApp, routes: Iterable[RawRoute], access: Callable[[], Access]
    ) -> None:
        self._long_way = Surroundings(Authentication(app, lambda: access().keyring))
        self._access = access
        self._fixed: dict[tuple[str, str], RawRoute] = {}
        self._others: dict[str, list[RawRoute]] = {}
        for route in routes:
            for method in route.methods or ():
                if route.param_convertors:
                    self._others.setdefault(method, []).append(route)
                else:
                    self._fixed[method, route.path] = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        route = self._fixed.get((scope["method"], scope["path"])) or self._matching(scope)
        if route is None:
            await self._long_way(scope, receive, send)
            return
        scope["route"] = route
        exchange = Exchange(scope, send)
        access = self._access()
        try:
            try:
                await admit(access.keyring, scope)
                answer = await route.answered(access, scope, receive)
            except CounterfoilError as error:
                answer = refusal(error, request_id=exchange.request_id)
            if type(answer) is Answer:
                await answer.send(send, exchange.started(answer.status, answer.headers))
            else:
                await answer(scope, receive, exchange.send)
        except ClientDisconnect:
            _log.debug("client left", path=scope["path"])
        except Exception:  # noqa: BLE001 - the net under everything else
            await exchange.fail(receive)
        exchange.log()

    def _matching(self, scope: Scope) -> RawRoute | None:
        """The route of a path with parts that vary; its parts are left in the scope."""
        for route in self._others.get(scope["method"], ()):
            # What cannot match is passed over without a word: `matches` does more than to look.
            if route.path_regex.match(scope["path"]) is None:
                continue
            match, found = route.matches(scope)
            if match is Match.FULL:
                scope["path_params"] = found["path_params"]
                return route
        return None
