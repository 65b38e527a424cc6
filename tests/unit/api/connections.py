"""A server of one connection, and what can be said to it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from counterfoil.server.core.proxies import NO_PROXIES, TrustedProxies
from counterfoil.server.protocol import BoundedHttpProtocol

REQUEST: Final = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LAST_REQUEST: Final = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@asynccontextmanager
async def connected(
    app: ASGIApp, *, proxies: TrustedProxies = NO_PROXIES
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, BoundedHttpProtocol]]:
    """Connect to a server: what it says, where to say something, and its end of it."""
    config = uvicorn.Config(app, lifespan="off", proxy_headers=False)
    config.load()
    connection = BoundedHttpProtocol(config, ServerState(), {}, proxies=proxies)
    server = await asyncio.get_running_loop().create_server(lambda: connection, "127.0.0.1", 0)
    async with server, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        yield reader, writer, connection
        writer.close()
        connection.transport.abort()
        await asyncio.sleep(0)


async def end_of(
    app: ASGIApp,
    *said: bytes,
    in_turn: bool = False,
    proxies: TrustedProxies = NO_PROXIES,
) -> tuple[bytes, BoundedHttpProtocol]:
    """Say something to a server; returns everything that it says until it hangs up.

    ``in_turn``: what ends a request's headers is answered with "hello" before the next part.
    """
    async with connected(app, proxies=proxies) as (reader, writer, connection):
        heard = b""
        for part in said:
            writer.write(part)
            await writer.drain()
            if in_turn and part.endswith(b"\r\n\r\n"):
                heard += await reader.readuntil(b"hello")
        heard += await reader.read()
    return heard, connection
