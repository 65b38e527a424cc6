"""Where a paged read goes on.

A cursor is opaque to callers, and is read without any tolerance: one byte of version, one
of flags, the book's incarnation, the pinned head, the last position shown and a digest of
the filters, as base64url. Its 42 bytes are exactly 56 characters, so that no bits are left
over and one cursor has one spelling. It is not signed: it grants nothing that the same
caller could not read without it.
"""

import re
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Final, Self
from uuid import UUID

from counterfoil.server.core.errors import FieldError, InvalidInput, Location

_VERSION: Final = 1
_ASCENDING: Final = 0
_NEWEST_FIRST: Final = 1
_LAYOUT: Final = struct.Struct(">BB16sqq8s")
_TEXT: Final = re.compile(r"[A-Za-z0-9_-]{56}")

QUERY_DIGEST_BYTES: Final = 8
"""Enough to notice other filters by mistake; nobody gains by deceiving it."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a paged read goes on, and the head that it is pinned to.

    ``position`` is the last event already shown: the next page starts above it, or below
    it when ``newest_first``. It lies in 1..``head``. ``incarnation`` is the book's, as the
    text of a UUID in lower case.
    """

    incarnation: str
    head: int
    position: int
    newest_first: bool
    query_digest: bytes

    def encode(self) -> str:
        """The text that a caller sends back: 56 characters of base64url."""
        packed = _LAYOUT.pack(
            _VERSION,
            _NEWEST_FIRST if self.newest_first else _ASCENDING,
            UUID(self.incarnation).bytes,
            self.head,
            self.position,
            self.query_digest,
        )
        return urlsafe_b64encode(packed).decode("ascii")

    @classmethod
    def decode(cls, text: str, *, location: Location = "body") -> Self:
        """The cursor that ``encode`` wrote.

        Raises ``InvalidInput`` at ``/cursor`` for anything else.
        """
        if not _TEXT.fullmatch(text):
            raise refused_cursor("It is not one that this service gave out", location)
        version, flags, incarnation, head, position, digest = _LAYOUT.unpack(
            urlsafe_b64decode(text)
        )
        if version != _VERSION:
            raise refused_cursor("It is of a version that this service does not read", location)
        if flags not in {_ASCENDING, _NEWEST_FIRST} or not 1 <= position <= head:
            raise refused_cursor("It is not one that this service gave out", location)
        return cls(str(UUID(bytes=incarnation)), head, position, flags == _NEWEST_FIRST, digest)


def refused_cursor(why: str, location: Location) -> InvalidInput:
    """The refusal of a cursor; ``why`` is a sentence without its full stop."""
    message = f"This cursor cannot be used. {why}. Leave `cursor` out to start from the first page."
    return InvalidInput(message, [FieldError("/cursor", message, location)])
