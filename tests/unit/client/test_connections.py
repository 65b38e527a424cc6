"""Real sockets, really dropped: what httpx2 raises then is understood rightly."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx2
import pytest

from counterfoil import (
    APIConnectionError,
    APITimeoutError,
    Counterfoil,
    OutcomeUnknown,
)
from tests.unit.client.doors import Connect
from tests.unit.client.simulated_book import CREATED_AT

Script = Callable[[socket.socket], None]

LIFE = "7c9e6679-7425-40de-944b-e07fc1f90ae7"


class Server:
    """Takes one connection for each script, in order, and notes what was sent to it."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.requests: list[bytes] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    @contextmanager
    def running(self, *scripts: Script) -> Iterator[None]:
        thread = threading.Thread(target=self._run, args=(scripts,))
        thread.start()
        try:
            yield
        finally:
            self.listener.close()
            thread.join(timeout=10)

    def _run(self, scripts: tuple[Script, ...]) -> None:
        for script in scripts:
            connection, _ = self.listener.accept()
            with connection:
                connection.settimeout(10)
                self.requests.append(read_request(connection))
                script(connection)

    def header(self, index: int, name: bytes) -> bytes | None:
        head = self.requests[index].partition(b"\r\n\r\n")[0]
        for line in head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b": ")
            if key.lower() == name.lower():
                return value
        return None


def read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            while len(body) < int(line.partition(b":")[2]):
                body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def hang_up(_: socket.socket) -> None:
    """Close without a word."""


def reset(connection: socket.socket) -> None:
    """Send a TCP reset instead of an orderly end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def half_an_answer(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 500\r\n\r\n{")


def silence(connection: socket.socket) -> None:
    """Say nothing until the client is gone."""
    connection.recv(1)


def stored(connection: socket.socket) -> None:
    body = json.dumps({"id": 1, "created_at": CREATED_AT, "status": "stored"}).encode()
    head = f"HTTP/1.1 201 Created\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    connection.sendall(head.encode() + body)


def streamed(*blocks: str, tail: bytes = b"") -> Script:
    def script(connection: socket.socket) -> None:
        head = (
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            f"Counterfoil-Head: 0\r\nCounterfoil-Incarnation: {LIFE}\r\n"
            "Transfer-Encoding: chunked\r\n\r\n"
        )
        connection.sendall(head.encode())
        for block in blocks:
            data = block.encode()
            connection.sendall(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        connection.sendall(tail)

    return script


def block(position: int) -> str:
    event = {
        "id": position,
        "agent_name": "a",
        "event_type": "t",
        "payload": {},
        "tags": [],
        "created_at": CREATED_AT,
    }
    return f"id: {LIFE}.{position}\ndata: {json.dumps(event)}\n\n"


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.listener.close()


@pytest.fixture
def kind(connect: Connect) -> Connect:
    """Make clients that use real connections."""

    def connected(transport: object = None, **settings: object) -> Counterfoil:
        blocking = type(connect(max_retries=0)) is Counterfoil
        transport = httpx2.HTTPTransport() if blocking else httpx2.AsyncHTTPTransport()
        return connect(transport, **settings)

    return connected


@pytest.mark.parametrize("lose", [hang_up, reset, half_an_answer])
def test_a_dropped_append_is_sent_again_with_its_key(
    kind: Connect, server: Server, lose: Script
) -> None:
    cf = kind(base_url=server.address)
    with server.running(lose, lose, stored):
        answer = cf.events.append(agent_name="a", event_type="t", payload={}, idempotency_key="k")
    assert answer.id == 1
    assert [server.header(n, b"Idempotency-Key") for n in range(3)] == [b"k"] * 3
    assert len(set(server.requests)) == 1


@pytest.mark.parametrize("lose", [hang_up, reset, half_an_answer])
def test_an_append_that_is_always_dropped_ends_in_doubt(
    kind: Connect, server: Server, lose: Script
) -> None:
    cf = kind(base_url=server.address)
    with server.running(lose, lose, lose), pytest.raises(OutcomeUnknown) as unknown:
        cf.events.append(agent_name="a", event_type="t", payload={})
    key = unknown.value.idempotency_key.encode()
    assert [server.header(n, b"Idempotency-Key") for n in range(3)] == [key] * 3


def test_an_append_that_is_never_answered_ends_in_doubt(kind: Connect, server: Server) -> None:
    cf = kind(base_url=server.address, timeout=httpx2.Timeout(10, read=0.05), max_retries=0)
    with server.running(silence), pytest.raises(OutcomeUnknown, match="ReadTimeout") as unknown:
        cf.events.append(agent_name="a", event_type="t", payload={})
    assert isinstance(unknown.value.__cause__, APITimeoutError)


def test_a_refused_connection_leaves_no_doubt(kind: Connect, server: Server) -> None:
    cf = kind(base_url=server.address)
    server.listener.close()
    with pytest.raises(APIConnectionError, match="cannot be reached"):
        cf.events.append(agent_name="a", event_type="t", payload={})


def test_a_stream_cut_within_an_event_goes_on_with_that_event(
    kind: Connect, server: Server
) -> None:
    cf = kind(base_url=server.address)
    half = block(2).encode()[:40]
    tail = f"{len(half):x}\r\n".encode() + half + b"\r\n"
    with (
        server.running(
            streamed(f": heartbeat\nid: {LIFE}.0\n\n", block(1), tail=tail),
            hang_up,
            streamed(block(2), block(3), tail=b"0\r\n\r\n"),
            streamed(block(4)),
        ),
        cf.events.follow() as events,
    ):
        assert [next(events).id for _ in range(4)] == [1, 2, 3, 4]
    resumed = [server.header(n, b"Last-Event-ID") for n in range(4)]
    assert resumed == [None, *(f"{LIFE}.{n}".encode() for n in (1, 1, 3))]


def test_a_stream_may_be_left_while_it_is_quiet(kind: Connect, server: Server) -> None:
    cf = kind(base_url=server.address)

    def one_then_quiet(connection: socket.socket) -> None:
        streamed(block(1))(connection)
        silence(connection)

    with server.running(one_then_quiet), cf.events.follow(after=0) as events:
        assert next(events).id == 1
        # Leaving has closed the connection: the server's `recv` returns, and its thread ends.
