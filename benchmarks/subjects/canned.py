"""A server that answers every request at once with the same few bytes: the generator's ceiling.

What a load generator reaches here, it could reach anywhere; a subject that comes near it would
be measured against the generator instead of against its own limits.

Run as ``python -m benchmarks.subjects.canned``; prints its port.
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, cast

import uvloop
from typing_extensions import override

from benchmarks.harness.model import BenchmarkError

_BODY: Final = b'{"id":1,"created_at":"2026-01-01T00:00:00.000000Z","status":"stored"}'

ANSWER: Final = (
    b"HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
    % (len(_BODY), _BODY)
)


class _Canned(asyncio.Protocol):
    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None
        self._buffer = b""

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not instances of asyncio's classes, only shaped like them.
        self._transport = cast("asyncio.WriteTransport", transport)

    @override
    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        at = self._buffer.find(b"Content-Length:", 0, end)
        length = int(self._buffer[at + 15 : self._buffer.find(b"\r", at)])
        if len(self._buffer) >= end + 4 + length and self._transport is not None:
            # One request at a time: nothing may stand behind it.
            self._buffer = b""
            self._transport.write(ANSWER)


class CannedServer:
    """The server while it runs. Made by ``running``."""

    def __init__(self, pid: int, port: int) -> None:
        self.pid = pid
        self.host = "127.0.0.1"
        self.port = port

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.host}:{self.port}"


@contextmanager
def running() -> Iterator[CannedServer]:
    """Run the server, a process of its own, while the block does."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.subjects.canned"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        if not port:
            raise BenchmarkError("The server of canned answers does not start.")
        yield CannedServer(process.pid, int(port))
    finally:
        process.terminate()
        process.communicate()


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Canned, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve())
