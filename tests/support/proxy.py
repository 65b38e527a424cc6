"""A proxy between a service and PostgreSQL that can break a connection at a chosen moment.

It passes bytes on and understands none of them. A *catch* waits for a mark in what the
service sends; the connection then stands still, and the test says what comes next::

    catch = proxy.catch(b"some payload")
    ...                                # an append with that payload is started
    await catch.arrived()              # the service has sent it, PostgreSQL has not seen it
    catch.forward()                    # PostgreSQL gets it; its answer is kept back
    catch.answer()                     # the answer goes out, and everything after it
    catch.cut()                        # instead, at any time: the connection is lost

Threads and plain sockets, so that it also runs while a test waits for a service's start.
"""

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator
from typing import Any

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.support.waiting import WAIT_SECONDS_MAX, eventually

_CHUNK_BYTES = 65_536


class Catch:
    """One request that is held on its way; see the module."""

    def __init__(self, mark: bytes) -> None:
        self.mark = mark
        self._link: _Link | None = None
        self._decided = threading.Event()
        self._forwarded = False

    @property
    def seen(self) -> bool:
        """Whether the marked request has come."""
        return self._link is not None

    async def arrived(self) -> None:
        """Wait until the marked request is here."""

        async def look() -> bool:
            return self.seen

        await eventually(look, "the request to arrive at the proxy")

    def forward(self) -> None:
        """Pass the request on, and keep back whatever PostgreSQL answers."""
        self._forwarded = True
        self._decided.set()

    def answer(self) -> None:
        """Let the answers pass again."""
        assert self._link is not None
        self._link.may_answer.set()

    def cut(self) -> None:
        """Lose the connection, on both sides."""
        assert self._link is not None
        self._link.close()
        self._decided.set()

    def take(self, link: "_Link") -> bool:
        """Hold this connection until it is decided; whether the request may go on."""
        link.may_answer.clear()
        self._link = link
        self._decided.wait(WAIT_SECONDS_MAX)
        return self._forwarded


class _Link:
    """One connection of the service, and the one to PostgreSQL that belongs to it."""

    def __init__(self, service: socket.socket, postgres: socket.socket) -> None:
        self.service = service
        self.postgres = postgres
        self.may_answer = threading.Event()
        self.may_answer.set()
        self._closed = False

    def close(self) -> None:
        self._closed = True
        for end in (self.service, self.postgres):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self.may_answer.set()

    def pass_requests(self, proxy: "Proxy") -> None:
        """Service to PostgreSQL, until either is gone."""
        with contextlib.suppress(OSError):
            while data := self.service.recv(_CHUNK_BYTES):
                catch = proxy.caught(data)
                if catch is not None and not catch.take(self):
                    break
                self.postgres.sendall(data)
        self.close()

    def pass_answers(self) -> None:
        """PostgreSQL to service, until either is gone."""
        with contextlib.suppress(OSError):
            while data := self.postgres.recv(_CHUNK_BYTES):
                self.may_answer.wait(WAIT_SECONDS_MAX)
                if self._closed:
                    break
                self.service.sendall(data)
        self.close()


class Proxy:
    """The running proxy. ``url`` is the database's address through it."""

    def __init__(self, database_url: str, port: int) -> None:
        self.url = make_conninfo(database_url, host="127.0.0.1", port=port)
        self._upstream = conninfo_to_dict(database_url)
        self._catches: list[Catch] = []
        self._links: list[_Link] = []

    def catch(self, mark: bytes) -> Catch:
        """Hold the next request that contains ``mark``."""
        catch = Catch(mark)
        self._catches.append(catch)
        return catch

    def forget(self, catch: Catch) -> None:
        """Hold nothing for this catch any more."""
        self._catches.remove(catch)

    def caught(self, data: bytes) -> Catch | None:
        """The catch that waits for this request, which it does only once."""
        for catch in self._catches:
            if catch.mark in data:
                self._catches.remove(catch)
                return catch
        return None

    def cut_all(self) -> None:
        """Lose every connection that there is now."""
        while self._links:
            self._links.pop().close()

    def serve(self, service: socket.socket) -> None:
        """Carry one connection of the service to its end."""
        with self._connect() as postgres:
            link = _Link(service, postgres)
            self._links.append(link)
            answers = threading.Thread(target=link.pass_answers)
            answers.start()
            link.pass_requests(self)
            answers.join()

    def _connect(self) -> socket.socket:
        host, port = str(self._upstream["host"]), int(str(self._upstream.get("port") or 5432))
        if host.startswith("/"):
            upstream = socket.socket(socket.AF_UNIX)
            upstream.connect(f"{host}/.s.PGSQL.{port}")
            return upstream
        return socket.create_connection((host, port))


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = False
    proxy: Proxy


class _Handler(socketserver.BaseRequestHandler):
    server: _Server
    request: Any

    def handle(self) -> None:
        self.server.proxy.serve(self.request)


@contextlib.contextmanager
def proxying(database_url: str) -> Iterator[Proxy]:
    """Run a proxy to this database while the block does."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.proxy = Proxy(database_url, server.server_address[1])
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        serving.start()
        try:
            yield server.proxy
        finally:
            server.proxy.cut_all()
            server.shutdown()
            serving.join()
            server.proxy.cut_all()
