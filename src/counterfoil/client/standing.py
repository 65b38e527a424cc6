"""How far an import has come, in one book: what is kept of it between runs. No I/O."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Final

from counterfoil.client import document

_FORMAT: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Lines that are written, and the digest of their bytes."""

    first_line: int
    last_line: int
    sha256: str
    events: int
    first_id: int
    last_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How far an import has come, in one book.

    Attributes:
        incarnation: the book's. In another life of the book, or in another book, this
            standing means nothing.
        name: what the import is called, if its caller gave it a name.
        identity: what its keys begin with.
        lines, size_bytes, sha256: the part of the file, from its beginning, that is written.
        events, first_id, last_id: what it came to, ``ahead`` not counted.
        ahead: what is written behind that part.
    """

    incarnation: str
    name: str
    identity: str = ""
    lines: int = 0
    size_bytes: int = 0
    sha256: str = field(default_factory=lambda: hashlib.sha256().hexdigest())
    events: int = 0
    first_id: int = 0
    last_id: int = 0
    ahead: tuple[Span, ...] = ()

    @property
    def events_written(self) -> int:
        """The events of all that is written."""
        return self.events + sum(span.events for span in self.ahead)

    @property
    def ids(self) -> tuple[int, int] | None:
        """The first and the last id of what is written; they need not be next to each other."""
        known = [(span.first_id, span.last_id) for span in self.ahead]
        if self.events:
            known.append((self.first_id, self.last_id))
        if not known:
            return None
        return min(first for first, _ in known), max(last for _, last in known)

    @property
    def written_lines(self) -> list[tuple[int, int]]:
        """First and last line of each part of the file that is written."""
        parts = [(1, self.lines)] if self.lines else []
        for span in sorted(self.ahead, key=lambda span: span.first_line):
            if parts and parts[-1][1] + 1 == span.first_line:
                parts[-1] = (parts[-1][0], span.last_line)
            else:
                parts.append((span.first_line, span.last_line))
        return parts

    def to_json(self) -> bytes:
        """Write it as one JSON object."""
        members = {name: getattr(self, name) for name in _SCALARS}
        ahead = [{name: getattr(span, name) for name in _SPAN} for span in self.ahead]
        return document.encode({"counterfoil_import": _FORMAT, **members, "ahead": ahead}) + b"\n"

    @classmethod
    def from_json(cls, text: bytes) -> Standing:
        """Read what ``to_json`` wrote.

        Raises:
            ValueError: it is something else.
        """
        data = document.decode(text)
        if not isinstance(data, dict) or data.get("counterfoil_import") != _FORMAT:
            raise ValueError("no progress of an import")
        try:
            ahead = tuple(Span(**_checked(span, _SPAN)) for span in data["ahead"])
            return cls(**_checked(data, _SCALARS), ahead=ahead)
        except (KeyError, TypeError) as error:
            raise ValueError("no progress of an import") from error


_SCALARS: Final[dict[str, type]] = {
    "incarnation": str,
    "name": str,
    "identity": str,
    "lines": int,
    "size_bytes": int,
    "sha256": str,
    "events": int,
    "first_id": int,
    "last_id": int,
}
_SPAN: Final[dict[str, type]] = {
    "first_line": int,
    "last_line": int,
    "sha256": str,
    "events": int,
    "first_id": int,
    "last_id": int,
}


def _checked(data: dict[str, Any], kinds: dict[str, type]) -> dict[str, Any]:
    members = {name: data[name] for name in kinds}
    for name, kind in kinds.items():
        if type(members[name]) is not kind:
            raise TypeError(name)
    return members
