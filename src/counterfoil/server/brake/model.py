"""Freezing and thawing: what is asked for, judged."""

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from counterfoil.server.core import limits
from counterfoil.server.log.fields import REASON_MUST_BE, REFUSAL, Name, Reason, Tag, Time, Wire

Kind = Literal["agent", "tag", "book"]

_ONE: Final = "Name one thing to freeze: an `agent`, a `tag`, or `book: true` for the whole book."


class NewFreeze(Wire):
    """Something to freeze: one agent, one tag, or the whole book."""

    must_be = {  # noqa: RUF012 - a ClassVar of the base
        "agent": f"a string of 1 to {limits.NAME_CHARACTERS_MAX} characters",
        "tag": "a string: a tag, as `customer:cust_123`",
        "book": "true",
        "reason": REASON_MUST_BE,
        "until": "a string: a time as in RFC 3339",
    }

    agent: Annotated[
        Name | None,
        Field(description="Nothing is written under this name.", examples=["fraud_agent"]),
    ] = None
    tag: Annotated[
        Tag | None,
        Field(
            description="Nothing is written that bears this tag.", examples=["customer:cust_123"]
        ),
    ] = None
    book: Annotated[
        Literal[True] | None, Field(description="Nothing is written into the book at all.")
    ] = None
    reason: Reason
    until: Annotated[
        Time | None,
        Field(
            description="When it ends by itself; left out, when somebody thaws it.",
            examples=["2027-03-01T00:00:00Z"],
        ),
    ] = None

    @model_validator(mode="after")
    def _names_one_thing(self) -> Self:
        if [self.agent, self.tag, self.book].count(None) != 2:
            raise PydanticCustomError(REFUSAL, _ONE)
        return self

    @property
    def kind(self) -> Kind:
        """What sort of thing it is."""
        return "agent" if self.agent is not None else "tag" if self.tag is not None else "book"

    @property
    def subject(self) -> str:
        """Which one; empty for the book."""
        return self.agent or self.tag or ""


class Thaw(Wire):
    """A freeze to end."""

    must_be = {"reason": REASON_MUST_BE}  # noqa: RUF012 - a ClassVar of the base

    reason: Reason
