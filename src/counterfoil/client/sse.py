"""The event-stream format: bytes in, messages out.

https://html.spec.whatwg.org/multipage/server-sent-events.html

httpx2 brings a reader of its own (``EventSource``). It is not used, because it hides the
asynchronous generators beneath it, so that a follower could not close them in time, and
because a message above its limit looks like a lost connection there, which a follower
would run into again and again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024
"""The longest message that is held while it comes in: several times the largest event."""

_LINE_END: Final = re.compile(rb"\r\n|\r|\n")
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Message:
    """One block of a stream. ``id`` is the last one seen; ``data`` may be empty."""

    id: str
    data: str
    retry_milliseconds: int | None = None


class EventStreamParser:
    r"""Cuts a stream into messages, whatever chunks it arrives in.

    Unlike a browser it also hands out blocks without data, because our heartbeats are such
    blocks: an id, and nothing to dispatch. A block that the end of the stream cuts off is
    never handed out.

    >>> parser = EventStreamParser()
    >>> parser.feed(b"id: b.7\nda")
    []
    >>> parser.feed(b"ta: {}\n\n")
    [Message(id='b.7', data='{}', retry_milliseconds=None)]
    """

    def __init__(self) -> None:
        self._partial: list[bytes] = []
        self._after_cr = False
        self._at_start = True
        self._id = ""
        self._data: list[str] = []
        self._retry: int | None = None
        self._has_fields = False
        self._size_bytes = 0

    def feed(self, chunk: bytes) -> list[Message]:
        """Take in the next bytes; return the messages that they complete.

        Raises:
            ValueError: a line is not UTF-8, or a message is longer than the bound.
        """
        if chunk and self._after_cr:
            chunk = chunk.removeprefix(b"\n")  # Of a CRLF that two chunks shared.
            self._after_cr = False
        if not chunk:
            return []
        self._after_cr = chunk.endswith(b"\r")
        self._size_bytes += len(chunk)
        first, *rest = _LINE_END.split(chunk)
        self._partial.append(first)
        messages: list[Message] = []
        for start_of_next in rest:
            message = self._line(b"".join(self._partial))
            self._partial = [start_of_next]
            if message is not None:
                messages.append(message)
        if self._size_bytes > MESSAGE_BYTES_MAX:
            raise ValueError(f"a message is longer than {MESSAGE_BYTES_MAX} bytes")
        return messages

    def _line(self, line: bytes) -> Message | None:
        if self._at_start:
            line = line.removeprefix(_BYTE_ORDER_MARK)
            self._at_start = False
        if not line:
            return self._block()
        name, _, value = line.decode().partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self._retry = int(value)
        else:
            return None  # A comment, or a field that means nothing here.
        self._has_fields = True
        return None

    def _block(self) -> Message | None:
        self._size_bytes = 0
        if not self._has_fields:
            return None
        message = Message(self._id, "\n".join(self._data), self._retry)
        self._data = []
        self._retry = None
        self._has_fields = False
        return message
