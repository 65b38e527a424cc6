"""A process that reads many live streams and notes when each event arrived, and does no more.

It runs by itself (``python -m benchmarks.harness.sse``), on uvloop's bare protocols, so that
what it measures is the service's delay and not its own. It is told what to do in lines of
JSON on its standard input, and answers on its standard output:

1. ``{"host", "port", "headers", "paths", "deaf"}``: open a stream for each path, all on
   connections of their own. The last ``deaf`` of them stop reading after the first heartbeat.
   It answers ``{"ready": n}`` when all have had that.
2. ``{}``: stop. It answers one line that counts what follows, ``{"counts", "ended", "lag"}``,
   and then, for each path, the positions that arrived and their times, as 64-bit integers of
   this machine. ``ended`` names the streams that the service ended, and ``lag`` is how
   late, in nanoseconds, this process came to a timer of ``LAG_SECONDS``, each time: what its
   own share of the delays may have been.

Times are ``time.monotonic_ns()``, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import socket
import sys
import time
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import httptools
import uvloop

LAG_SECONDS: Final = 0.005

_DEAF_RECEIVE_BYTES: Final = 4096
"""The socket's own buffer of a reader that reads nothing: the operating system's default
would swallow seconds of a full stream before the service notices anything."""

_CONNECT_AT_ONCE: Final = 50


class EventParser:
    """Takes the body of a stream in any pieces, and finds the positions of its events."""

    def __init__(self) -> None:
        self.heartbeats = 0
        self._rest = b""

    def feed(self, data: bytes) -> list[int]:
        """The positions of the events that ``data`` completes.

        Raises ``ValueError`` for an event without an ``id:`` of the service's form.
        """
        *blocks, self._rest = (self._rest + data).split(b"\n\n")
        positions = []
        for block in blocks:
            if block.startswith(b"data: "):
                positions.append(_position(block))
            elif block.startswith(b": heartbeat"):
                self.heartbeats += 1
        return positions


def _position(block: bytes) -> int:
    """The position in the last line, ``id: <incarnation>.<position>``."""
    _, found, event_id = block.rpartition(b"\nid: ")
    _, dot, position = event_id.rpartition(b".")
    if not found or not dot:
        raise ValueError(f"an event without an id: {block[-80:]!r}")
    return int(position)


class _Stream(asyncio.Protocol):
    """One subscriber."""

    def __init__(self, request: bytes, *, deaf: bool) -> None:
        self.positions = array("q")
        self.times = array("q")
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended = False
        self._request = request
        self._deaf = deaf
        self._transport: asyncio.Transport | None = None
        self._http = httptools.HttpResponseParser(self)
        self._events = EventParser()
        self._now = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._now = time.monotonic_ns()
        self._http.feed_data(data)

    def on_headers_complete(self) -> None:
        status = self._http.get_status_code()
        if status != 200:
            self._fail(RuntimeError(f"a stream was answered with {status}"))

    def on_body(self, body: bytes) -> None:
        for position in self._events.feed(body):
            self.positions.append(position)
            self.times.append(self._now)
        if self._events.heartbeats and not self.ready.done():
            self.ready.set_result(None)
            if self._deaf and self._transport is not None:
                self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        self._fail(exc or RuntimeError("a stream ended before it began"))

    def close(self) -> None:
        """End it without a word."""
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, error: Exception) -> None:
        if not self.ready.done():
            self.ready.set_exception(error)


async def _open(order: Mapping[str, Any]) -> list[_Stream]:
    """Open all streams, and wait until each has had its first heartbeat."""
    loop = asyncio.get_running_loop()
    host, port, paths = order["host"], order["port"], order["paths"]
    headers = "".join(f"{name}: {value}\r\n" for name, value in order["headers"].items())
    streams: list[_Stream] = []
    for start in range(0, len(paths), _CONNECT_AT_ONCE):
        for number, path in enumerate(paths[start : start + _CONNECT_AT_ONCE], start):
            deaf = number >= len(paths) - order["deaf"]
            request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n{headers}\r\n".encode()
            stream = _Stream(request, deaf=deaf)
            streams.append(stream)
            connection = await _connect(host, port, small=deaf)
            await loop.create_connection(functools.partial(_itself, stream), sock=connection)
        for stream in streams[start:]:
            await stream.ready
    return streams


def _itself(stream: _Stream) -> _Stream:
    return stream


async def _connect(host: str, port: int, *, small: bool) -> socket.socket:
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if small:
        # Only before the connection is made does this bound the window.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _DEAF_RECEIVE_BYTES)
    await asyncio.get_running_loop().sock_connect(connection, (host, port))
    return connection


async def _note_lag(late: array[int]) -> None:
    """Note again and again how late a timer is, until cancelled."""
    while True:
        due = time.monotonic_ns() + int(LAG_SECONDS * 1e9)
        await asyncio.sleep(LAG_SECONDS)
        late.append(time.monotonic_ns() - due)


async def _main() -> None:
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    streams = await _open(json.loads(await orders.readline()))
    _say({"ready": len(streams)})
    # A collection in the middle would be a pause of the measuring, and there are no cycles.
    gc.collect()
    gc.disable()
    late = array("q")
    watch = asyncio.create_task(_note_lag(late))
    await orders.readline()
    watch.cancel()
    _report(streams, late)
    for stream in streams:
        stream.close()


def _report(streams: Sequence[_Stream], late: array[int]) -> None:
    _say(
        {
            "counts": [len(stream.positions) for stream in streams],
            "ended": [number for number, stream in enumerate(streams) if stream.ended],
            "lag": len(late),
        }
    )
    output = sys.stdout.buffer
    for stream in streams:
        output.write(stream.positions.tobytes())
        output.write(stream.times.tobytes())
    output.write(late.tobytes())
    output.flush()


def _say(answer: Mapping[str, object]) -> None:
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    uvloop.run(_main())
