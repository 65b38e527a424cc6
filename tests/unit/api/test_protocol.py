"""Connections that say nothing: given up in time."""

import asyncio

import pytest
import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from counterfoil.server.core import limits
from counterfoil.server.protocol import BoundedHttpProtocol

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LAST_REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


async def end_of(app: ASGIApp, *said: bytes) -> tuple[bytes, BoundedHttpProtocol]:
    """Say something to a server; returns everything that it says until it hangs up."""
    config = uvicorn.Config(app, http=BoundedHttpProtocol, lifespan="off")
    config.load()
    connections: list[BoundedHttpProtocol] = []

    def connection() -> BoundedHttpProtocol:
        connections.append(BoundedHttpProtocol(config, ServerState(), {}))
        return connections[-1]

    server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", 0)
    async with server, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for part in said:
            writer.write(part)
            await writer.drain()
        heard = await reader.read()
        writer.close()
    return heard, connections[0]


@pytest.mark.parametrize(
    "said",
    [[], [b"GET"], [REQUEST[:-2]], [REQUEST, b"GET /again HTTP/1.1\r\n"]],
    ids=["nothing", "a word", "all but the end", "a second request's beginning"],
)
def test_headers_that_do_not_end_are_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, said: list[bytes]
) -> None:
    monkeypatch.setattr(limits, "HEADERS_SECONDS_MAX", 0.1)

    heard, _ = asyncio.run(end_of(PlainTextResponse("hello"), *said))

    assert heard.count(b"HTTP/1.1 200 OK") == (1 if len(said) == 2 else 0)


def test_a_request_that_comes_byte_by_byte_is_read() -> None:
    said = [bytes([byte]) for byte in LAST_REQUEST]

    heard, _ = asyncio.run(end_of(PlainTextResponse("hello"), *said))

    assert heard.endswith(b"hello")


def test_once_its_headers_are_there_a_request_is_not_hurried() -> None:
    """The clock that ran for them has stopped."""
    heard, connection = asyncio.run(
        end_of(PlainTextResponse("hello"), *LAST_REQUEST.partition(b"Host"))
    )
    assert heard.endswith(b"hello")
    assert connection._too_late is None
