"""Calls: what holders ask of a consumer, as a group of them goes to the database."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from hashlib import sha256
from struct import Struct
from typing import Any, Final, Literal, NamedTuple

from counterfoil.server.core.document import encode


class Token(NamedTuple):
    """What a holder shows for what it holds. Those of one event grow with each handing out."""

    generation: int
    position: int
    attempt: int

    @property
    def text(self) -> str:
        """As it is given out: of one length, so that texts compare as the tokens do."""
        return f"{self.generation:016x}.{self.position:016x}.{self.attempt:08x}"

    @classmethod
    def of(cls, text: str) -> "Token":
        """The token of a judged text."""
        return cls.all_of([text])[0]

    @classmethod
    def all_of(cls, texts: Sequence[str]) -> list["Token"]:
        """The tokens of judged texts: at once, since one by one they took longer than all else."""
        together = bytes.fromhex("".join(texts).replace(".", ""))
        return [cls._make(parts) for parts in _PARTS.iter_unpack(together)]


_PARTS: Final = Struct(">qqi")


class Call(NamedTuple):
    """A request of a group, as ``consume_v2`` takes it.

    Attributes:
        what: claim, ack, extend, release or give_back: whose claim it was has gone.
        principal: who asks.
        tokens: what it names; of a claim, what is done.
        holder, takes: of a claim: who is to hold what it takes, and how many those are at most.
        more: its key and digest, seconds, and reason, where it has them.
    """

    what: str
    principal: str
    tokens: Sequence[Token] = ()
    holder: str | None = None
    takes: int = 0
    more: Mapping[str, Any] = {}

    @property
    def size(self) -> int:
        """How many deliveries it names and asks for."""
        return len(self.tokens) + self.takes


def call_of(
    what: Literal["claim", "ack", "extend", "release"],
    consumer: str,
    *,
    principal: str,
    key: str | None = None,
    tokens: Sequence[str] = (),
    holder: str | None = None,
    count: int = 0,
    seconds: int | Decimal | None = None,
    reason: str | None = None,
) -> Call:
    """A request of a group, with a digest of its content where it has a key."""
    call = Call(what, principal, Token.all_of(tokens), holder, count)
    more = _said(seconds=seconds, reason=reason)
    if key is not None:
        content = {
            "consumer": consumer,
            "call": what,
            "principal": principal,
            "tokens": call.tokens,
            **_said(holder=holder, count=count or None),
            **more,
        }
        more |= {"key": key, "digest": sha256(encode(content)).hexdigest()}
    return call._replace(more=more) if more else call


def _said(**asked: Any) -> dict[str, Any]:
    return {name: value for name, value in asked.items() if value is not None}
