"""Where a paged read goes on (skeleton: signatures only)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a paged read goes on, and the head that it is pinned to.

    ``position`` is the last event already shown: the next page starts above it, or
    below it when ``newest_first``.
    """

    incarnation: str
    head: int
    position: int
    newest_first: bool
    query_digest: bytes

    def encode(self) -> str:
        """The text that a caller sends back (base64url, 56 characters)."""
        raise NotImplementedError

    @classmethod
    def decode(cls, text: str) -> "Cursor":
        """Raises ``InvalidInput`` with the pointer ``/cursor``."""
        raise NotImplementedError
