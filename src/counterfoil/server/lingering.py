"""Closing a connection so that its last answer still arrives.

Where an answer was sent before all of the request had been read, to close at once would lose
it: what still arrives meets a closed socket, the operating system answers with a reset, and a
reset may discard what the other side has not read yet. So the connection is first closed in our
direction only, which ends the answer; what comes is read and thrown away, and then the rest is
closed. (nginx calls it a lingering close; RFC 9112, 9.6, asks for it.)

Both directions are bounded. After ``limits.UNREAD_BODY_BYTES_MAX`` nothing more is read: who
sends on is held up by TCP, at no cost of ours, and may still read its answer. After
``limits.UNREAD_BODY_SECONDS_MAX`` it is over.
"""

import asyncio

from typing_extensions import override

from counterfoil.server.core import limits


def linger(
    connection: asyncio.Protocol,
    transport: asyncio.Transport,
    loop: asyncio.AbstractEventLoop,
    *,
    thrown_away_bytes: int,
) -> None:
    """Close a connection that has nothing more to say. Its protocol hears of the end only.

    Args:
        connection: the protocol until now.
        transport: what it writes to.
        loop: in which it runs.
        thrown_away_bytes: how much of the last request was thrown away already.
    """
    if transport.is_closing():
        return
    # TLS has no half of a connection to close; there the answer's own length ends it.
    if transport.can_write_eof():
        transport.write_eof()
    lingering = _Lingering(connection, transport, loop)
    transport.set_protocol(lingering)
    transport.resume_reading()
    lingering.count(thrown_away_bytes)


class _Lingering(asyncio.Protocol):
    """What takes the place of a connection's protocol until the other side has closed."""

    def __init__(
        self,
        before: asyncio.Protocol,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._before = before
        self._transport = transport
        self._thrown_away_bytes = 0
        self._end = loop.call_later(limits.UNREAD_BODY_SECONDS_MAX, transport.close)

    @override
    def data_received(self, data: bytes) -> None:
        self.count(len(data))

    def count(self, thrown_away_bytes: int) -> None:
        """Count what was thrown away, and read no more where it was enough."""
        self._thrown_away_bytes += thrown_away_bytes
        if self._thrown_away_bytes > limits.UNREAD_BODY_BYTES_MAX:
            self._transport.pause_reading()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._end.cancel()
        self._before.connection_lost(exc)

    @override
    def pause_writing(self) -> None:
        self._before.pause_writing()

    @override
    def resume_writing(self) -> None:
        self._before.resume_writing()
