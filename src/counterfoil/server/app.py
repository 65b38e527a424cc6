"""The composition root: the one place where the parts are put together."""

import asyncio
import contextlib
import functools
import gc
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from types import FrameType
from typing import Any, Final

import structlog
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from counterfoil.server.access.operations import Access
from counterfoil.server.api import (
    consumers,
    decisions,
    docs_page,
    errors,
    event_types,
    events,
    freezes,
    health,
    keys,
    pages,
    stream,
)
from counterfoil.server.api.appends import Appends
from counterfoil.server.api.door import Door
from counterfoil.server.api.openapi import DescribedService
from counterfoil.server.api.parts import Parts
from counterfoil.server.api.requests import body_shares
from counterfoil.server.api.routes import OPEN, RawRoute
from counterfoil.server.brake.operations import Brake
from counterfoil.server.consumers.handing_out import HandingOut
from counterfoil.server.core.settings import Settings
from counterfoil.server.decisions.operations import Decisions
from counterfoil.server.event_types.operations import EventTypes
from counterfoil.server.log.operations import Log

_log = structlog.get_logger(__name__)

CLOSE_SECONDS_MAX: Final = 5.0
"""How much of ``limits.SHUTDOWN_SECONDS_MAX`` is kept for closing the log, after the open
requests were answered."""

_COLLECTOR_THRESHOLDS: Final = (20_000, 50, 100)
"""How many new objects, and how many collections of the younger ones, start a collection."""

_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


# `stream` before `events`: /events/stream is not the event with the id "stream".
_ROUTERS: Final = (
    *(stream.router, events.router, keys.router, event_types.router, freezes.router),
    *(consumers.router, decisions.router, health.router, pages.router, docs_page.router),
)


def create_app(settings: Settings) -> "Service":
    """Put the service together. It connects to the database when the server starts it.

    The database need not be there at that time: ``/health/ready`` says 503 until it is.
    """
    app = Service(
        settings,
        title="Counterfoil",
        version=_version(),
        lifespan=_lifespan,
        redirect_slashes=False,  # a redirected POST would lose its body, or its key
        docs_url=None,  # docs_page.py
        redoc_url=None,
    )
    for router in _ROUTERS:
        # Not include_router: it would stand between each request and its route (20 us) with
        # prefixes and dependencies that these routers do not have.
        app.router.routes.extend(router.routes)
    errors.register(app)
    return app


class Service(DescribedService):
    """The application behind our own door: its id and its key come before all else.

    The door stands around FastAPI's whole stack and not in it as middleware, so that it can
    lead to our calls by the short way.
    """

    def __init__(self, settings: Settings, **more: Any) -> None:
        super().__init__(**more)
        self.parts: Parts
        """Put together when the server starts. Not in ``state``, which looks each name up twice."""
        self.state.settings = settings
        self.state.body_shares = body_shares()

    @functools.cached_property
    def _door(self) -> Door:
        routes = [
            route
            for router in _ROUTERS
            for route in router.routes
            if isinstance(route, RawRoute) and route.needs != OPEN
        ]
        return Door(super().__call__, routes, lambda: self.parts.access)

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["app"] = self
            await self._door(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


@contextlib.asynccontextmanager
async def _lifespan(app: "Service") -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    log = await Log.open(settings)
    access = Access(
        log,
        api_key=None if settings.api_key is None else settings.api_key.get_secret_value(),
        is_open=settings.open_to_this_machine,
    )
    event_types, brake = EventTypes(log), Brake(log)
    handing_out = HandingOut(log, settings)
    await handing_out.open()
    app.parts = Parts(
        *(log, access, event_types, brake, Appends(event_types, brake), handing_out),
        Decisions(log, event_types, brake),
    )

    def closing() -> None:
        log.closing()
        handing_out.closing()

    loop = asyncio.get_running_loop()
    _spare_the_garbage_collector()
    try:
        with _on_stop_signal(lambda: loop.call_soon_threadsafe(closing)):
            yield
    finally:
        try:
            async with asyncio.timeout(CLOSE_SECONDS_MAX):
                await handing_out.close()
                await access.close()
                await log.close()
        except TimeoutError:
            _log.error("the log could not be closed in time")


def _spare_the_garbage_collector() -> None:
    """Take what was loaded at the start out of the collector's sight, and call it less often.

    A full collection looked through some 300,000 objects of libraries that never go away, for
    up to 80 ms in which nobody was answered: it made the slowest hundredth of all appends. What
    requests leave behind is freed by counting references; the collector is for cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTOR_THRESHOLDS)


@contextlib.contextmanager
def _on_stop_signal(notify: Callable[[], object]) -> Iterator[None]:
    """Hear of SIGINT and SIGTERM when they arrive, and leave the rest to the server.

    A server waits for open answers before it ends the lifespan. Live streams never end by
    themselves, so they have to learn of the end earlier than that.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Signals cannot be listened to here; a server in a thread is a test's.
        return
    before = {number: signal.getsignal(number) for number in _STOP_SIGNALS}

    def on_signal(number: int, frame: FrameType | None) -> None:
        notify()
        following = before[signal.Signals(number)]
        if callable(following):
            following(number, frame)

    for number in _STOP_SIGNALS:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("counterfoil")
    except PackageNotFoundError:
        return "0+unknown"
