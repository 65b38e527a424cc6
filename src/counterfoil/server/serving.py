"""Running the service: one process or several, their start, and their graceful end.

With one worker the server runs in this process. With several, uvicorn's supervisor starts
each in a process of its own, all on one socket that is bound here; one that dies is
replaced, and all end when the supervisor does, however it ends. SIGTERM or SIGINT stops
everything within ``limits.SHUTDOWN_SECONDS_MAX``: no new connections, live streams end at
once, what was accepted is answered.
"""

import asyncio
import contextlib
import functools
import multiprocessing
import os
import signal
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, cast

import structlog
import uvicorn
from fastapi import FastAPI
from typing_extensions import override
from uvicorn.supervisors import Multiprocess

from counterfoil.server import logs
from counterfoil.server.app import CLOSE_SECONDS_MAX, create_app
from counterfoil.server.core import limits, metrics
from counterfoil.server.core.errors import InvariantBroken
from counterfoil.server.core.proxies import TrustedProxies
from counterfoil.server.core.settings import Settings
from counterfoil.server.protocol import BoundedHttpProtocol
from counterfoil.server.tls import tls_context

_BACKLOG: Final = 2_048
"""Connections that may wait to be taken; the operating system may allow fewer."""

_KEEP_ALIVE_SECONDS: Final = 30
"""How long a connection stays open between two requests."""

_WORKER_SILENCE_SECONDS_MAX: Final = 30
"""How long a worker may not answer its supervisor before it counts as hung. It answers from
a thread of its own, so only one that is stopped or starved stays silent."""

_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

_log = structlog.get_logger(__name__)


def serve(
    settings: Settings,
    *,
    host: str,
    port: int,
    workers: int = 1,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until a signal asks to stop; return when all is finished.

    Args:
        settings: what every worker is built from.
        host: the address to listen on.
        port: the port; 0 takes a free one.
        workers: processes; 1 serves in this one.
        on_ready: called once, with the service's address, when every worker takes calls. It
            takes them before the database is there: see ``/health/ready``.

    Raises:
        OSError: the address cannot be listened on.
        SettingsError: certificate and key of the settings cannot be used.
    """
    logs.set_up(settings.log_format, settings.log_level)
    over_tls = tls_context(settings) is not None
    listener = _listen(host, port)
    address = _address(host, listener.getsockname()[1], over_tls=over_tls)
    report = functools.partial(on_ready or _ignore, address)
    config = uvicorn.Config(
        functools.partial(_worker_app, settings),
        factory=True,
        http=cast(
            "type[asyncio.Protocol]",
            functools.partial(
                BoundedHttpProtocol, proxies=TrustedProxies.parse(settings.trusted_proxies or "")
            ),
        ),
        # Not the context itself: it cannot be sent to a worker.
        ssl_context_factory=functools.partial(_worker_tls, settings) if over_tls else None,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        # uvicorn's believes what stands in them, whatever it is; see core/proxies.py.
        proxy_headers=False,
        workers=workers,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(limits.SHUTDOWN_SECONDS_MAX - CLOSE_SECONDS_MAX),
        timeout_worker_healthcheck=_WORKER_SILENCE_SECONDS_MAX,
    )
    with contextlib.closing(listener):
        if workers == 1:
            _Server(config, report).run(sockets=[listener])
        else:
            with _shared_counters(), _signals_given_back():
                _Supervisor(config, [listener], report).run()


class _Server(uvicorn.Server):
    """A server that says when it takes calls, and returns when it was asked to stop."""

    def __init__(self, config: uvicorn.Config, report: Callable[[], None]) -> None:
        super().__init__(config)
        self._report = report

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._report()

    @override
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        with super().capture_signals():
            yield
            # The base class would now raise what it caught once more, and so kill the process
            # before our caller could put its own things in order (an embedded PostgreSQL).
            self._captured_signals.clear()


class _Supervisor(Multiprocess):
    """A supervisor that says when all workers take calls, and does not wait for ever."""

    def __init__(
        self, config: uvicorn.Config, sockets: list[socket.socket], report: Callable[[], None]
    ) -> None:
        super().__init__(config, sockets)
        self._report: Callable[[], None] | None = report

    @override
    def keep_subprocess_alive(self) -> None:
        super().keep_subprocess_alive()
        if self._report is not None and all(process.is_ready() for process in self.processes):
            self._report()
            self._report = None

    @override
    def join_all(self) -> None:
        deadline = time.monotonic() + limits.SHUTDOWN_SECONDS_MAX
        for process in self.processes:
            process.process.join(max(0.0, deadline - time.monotonic()))
            if process.process.is_alive():
                _log.error("a worker did not stop in time", process_id=process.pid)
                process.process.kill()
                process.process.join()


def _worker_app(settings: Settings) -> FastAPI:
    """Build the application in the process that will serve it."""
    logs.set_up(settings.log_format, settings.log_level)
    supervisor = multiprocessing.parent_process()
    if supervisor is not None:
        # A supervisor that was killed cannot stop its workers. Without it they would keep
        # the port, and the next start would fail.
        loop = asyncio.get_running_loop()
        sentinel = supervisor.sentinel

        def stop() -> None:
            loop.remove_reader(sentinel)
            _log.error("the supervisor is gone; stopping")
            signal.raise_signal(signal.SIGTERM)

        loop.add_reader(sentinel, stop)
    return create_app(settings)


def _worker_tls(settings: Settings, *_uvicorns: Any) -> ssl.SSLContext:
    """Read certificate and key in the process that will use them."""
    context = tls_context(settings)
    if context is None:  # pragma: no cover
        raise InvariantBroken("TLS is asked for")
    return context


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=_BACKLOG)


def _address(host: str, port: int, *, over_tls: bool) -> str:
    scheme = "https" if over_tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


@contextlib.contextmanager
def _shared_counters() -> Iterator[None]:
    """Let the workers, which inherit the environment, count into one folder."""
    with tempfile.TemporaryDirectory(prefix="counterfoil-metrics-") as folder:
        os.environ[metrics.MULTIPROCESS_FOLDER_VARIABLE] = folder
        try:
            yield
        finally:
            del os.environ[metrics.MULTIPROCESS_FOLDER_VARIABLE]


@contextlib.contextmanager
def _signals_given_back() -> Iterator[None]:
    """Put back the handlers that uvicorn's supervisor replaces and leaves."""
    before = {number: signal.getsignal(number) for number in _STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore(_address: str) -> None:
    pass
