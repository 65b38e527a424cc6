r"""The fields that events and queries are made of, and the one rule of tags.

Names and tags are compared byte by byte, everywhere and for ever: nothing is normalised,
folded or trimmed. What looks alike in a list and is not the same would let a decision
look past what it should have seen, so white space at the ends of a name, of a kind or of
a value is refused, and so are control characters (U+0000 to U+001F, U+007F to U+009F).
"""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic_core import PydanticCustomError

from counterfoil.server.core import limits
from counterfoil.server.core.document import quote

REFUSAL: Final = "counterfoil"
"""The pydantic error type whose message is already the sentence for the caller."""

_FIELDS_MAX: Final = 16
"""Fields of one object that are looked at one by one. No model has more; pydantic makes an
error of each that it does not know, and a body has room for half a million."""

_CONTROL: Final = r"\x00-\x1f\x7f-\x9f"
_LINE: Final = rf"[^\s{_CONTROL}](?:[^{_CONTROL}]*[^\s{_CONTROL}])?"


class Wire(BaseModel):
    """A part of a request: strict, no unknown fields, and its schema describes it."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    must_be: ClassVar[Mapping[str, str]] = {}
    """What a field must be, to follow "must be", where ``refusals.py`` has no text for it."""

    each_must_be: ClassVar[Mapping[str, str]] = {}
    """The same for each entry of a list."""

    @model_validator(mode="before")
    @classmethod
    def _has_few_fields(cls, value: Any) -> Any:
        if type(value) is dict and len(value) > _FIELDS_MAX:
            raise PydanticCustomError(
                REFUSAL, f"There are {len(value)} fields here; known fields: {known_fields(cls)}."
            )
        return value


def known_fields(model: type[BaseModel]) -> str:
    """The names of a model's fields, for a sentence about one that it does not have."""
    return ", ".join(f"`{name}`" for name in model.model_fields)


# --- Tags -------------------------------------------------------------------------

_KIND: Final = (
    rf"[^\s:{_CONTROL}]"
    rf"(?:[^:{_CONTROL}]{{0,{limits.TAG_KIND_CHARACTERS_MAX - 2}}}[^\s:{_CONTROL}])?"
)
_TAG: Final = re.compile(f"{_KIND}:{_LINE}")
_CONTROL_CHARACTER: Final = re.compile(f"[{_CONTROL}]")
_DERIVING_SUFFIX: Final = "_id"


def tag_fault(tag: str) -> str | None:
    """Why this is not a tag, as the end of a sentence; None if it is one.

    A tag is ``kind:value``: its first colon splits it, so a value may hold others.
    """
    if len(tag) <= limits.TAG_CHARACTERS_MAX and _TAG.fullmatch(tag):
        return None
    kind, colon, value = tag.partition(":")
    faults = (
        (
            len(tag) > limits.TAG_CHARACTERS_MAX,
            f"it has {len(tag)} characters, and may have {limits.TAG_CHARACTERS_MAX}",
        ),
        (not colon, "there is no colon between its kind and its value"),
        (not kind, "its kind is empty"),
        (not value, "its value is empty"),
        (
            len(kind) > limits.TAG_KIND_CHARACTERS_MAX,
            f"its kind has {len(kind)} characters, and may have {limits.TAG_KIND_CHARACTERS_MAX}",
        ),
        (_CONTROL_CHARACTER.search(tag) is not None, "it holds a control character"),
    )
    white_space = "its kind or its value begins or ends with white space"
    return next((sentence for holds, sentence in faults if holds), white_space)


def derived_tags(payload: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The tags that a payload gives by itself, each with the field that it comes from.

    A top-level field named ``<kind>_id`` with a string or a whole number gives the tag
    ``<kind>:<value>``. They are not judged here; see ``derived_tag_fault``.
    """
    for field, value in payload.items():
        # Not isinstance: a bool is an int too, and gives no tag.
        if field.endswith(_DERIVING_SUFFIX) and type(value) in (str, int):
            kind = field.removesuffix(_DERIVING_SUFFIX)
            if kind:
                yield field, f"{kind}:{value}"


def derived_tag_fault(field: str, tag: str) -> str | None:
    """Why a derived tag refuses its event, as a sentence; None if it does not.

    A kind with a colon would make the tag of another kind, so that is refused too.
    """
    fault = "its kind holds a colon" if ":" in field else tag_fault(tag)
    if fault is None:
        return None
    return (
        f"The field {quote(field)} gives the event the tag {quote(tag)}, which is refused: {fault}. "
        f"Correct the value, send null, or give the field a name that does not end in "
        f"`{_DERIVING_SUFFIX}`."
    )


def _judge_tag(tag: str) -> str:
    if fault := tag_fault(tag):
        raise PydanticCustomError(
            REFUSAL,
            f"A tag is `kind:value`, as `transaction:tx_987`; {quote(tag)} is not: {fault}.",
        )
    return tag


# --- Times ------------------------------------------------------------------------

_RFC_3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt](?:[01][0-9]|2[0-3]):[0-5][0-9]:(?P<second>[0-6][0-9])"
    r"(?:\.(?P<fraction>[0-9]+))?(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
_FRACTION_DIGITS_MAX: Final = 6


def _judge_time(text: str) -> str:
    """The same instant in UTC with six digits, as PostgreSQL reads it without loss."""
    found = _RFC_3339.fullmatch(text)
    if found is None:
        raise PydanticCustomError(
            REFUSAL,
            "A time is written as in RFC 3339, with its offset: `2026-03-01T12:30:00.25Z` or "
            "`2026-03-01T13:30:00+01:00`.",
        )
    if len(found["fraction"] or "") > _FRACTION_DIGITS_MAX:
        raise PydanticCustomError(
            REFUSAL,
            f"A time has at most {_FRACTION_DIGITS_MAX} digits after the second, which is what "
            f"PostgreSQL keeps; this one has {len(found['fraction'])}. Round it.",
        )
    if found["second"] == "60":
        raise PydanticCustomError(
            REFUSAL, "PostgreSQL has no leap seconds. Send the second before or after it."
        )
    try:
        instant = datetime.fromisoformat(text.upper()).astimezone(UTC)
    except ValueError:
        raise PydanticCustomError(REFUSAL, "There is no such day or time.") from None
    except OverflowError:
        raise PydanticCustomError(
            REFUSAL, "A time must lie in the years 0001 to 9999, in UTC."
        ) from None
    return instant.isoformat(timespec="microseconds")


# --- The fields themselves --------------------------------------------------------


OWN_AGENT: Final = "counterfoil"
"""Under which name the service itself writes: about keys, rules and freezes. No key may."""

OWN_TYPE_PREFIX: Final = "counterfoil."
"""How the types of those events begin."""


def _not_the_services_name(name: str) -> str:
    if name == OWN_AGENT:
        raise PydanticCustomError(
            REFUSAL,
            f"`{OWN_AGENT}` is the name under which the service itself writes. Choose another.",
        )
    return name


def _not_the_services_type(event_type: str) -> str:
    if event_type.startswith(OWN_TYPE_PREFIX):
        raise PydanticCustomError(
            REFUSAL,
            f"Event types that begin with `{OWN_TYPE_PREFIX}` are the service's own: it writes "
            "them about keys, rules and freezes. Choose another.",
        )
    return event_type


def _not_a_dot_segment(name: str) -> str:
    if name in {".", ".."}:
        raise PydanticCustomError(
            REFUSAL,
            f"An agent cannot be named `{name}`: in the path of `/agent-events/{{agent_name}}` it "
            "means another place.",
        )
    return name


Name = Annotated[
    str,
    Field(min_length=1, max_length=limits.NAME_CHARACTERS_MAX, pattern=rf"^{_LINE}$"),
]
"""An agent name or an event type, where one is asked for."""

AgentName = Annotated[
    Name,
    AfterValidator(_not_a_dot_segment),
    AfterValidator(_not_the_services_name),
    Field(json_schema_extra={"not": {"enum": [".", "..", OWN_AGENT]}}),
]
"""The agent name of a new event."""

NewEventType = Annotated[
    Name,
    AfterValidator(_not_the_services_type),
    Field(json_schema_extra={"not": {"pattern": rf"^{re.escape(OWN_TYPE_PREFIX)}"}}),
]
"""The event type of a new event."""

Tag = Annotated[
    str,
    Field(
        json_schema_extra={
            "minLength": 3,
            "maxLength": limits.TAG_CHARACTERS_MAX,
            "pattern": rf"^{_KIND}:{_LINE}$",
            "examples": ["transaction:tx_987"],
        }
    ),
    AfterValidator(_judge_tag),
]

Tags = Annotated[list[Tag], Field(max_length=limits.TAGS_MAX, fail_fast=True)]
Names = Annotated[list[Name], Field(max_length=limits.QUERY_ITEM_VALUES_MAX, fail_fast=True)]

EventId = Annotated[int, Field(ge=1, le=limits.POSITION_MAX)]
"""The position of an event."""

Position = Annotated[int, Field(ge=0, le=limits.POSITION_MAX)]
"""A place between events: 0 lies before the first."""

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"}), AfterValidator(_judge_time)]

Reason = Annotated[
    str,
    Field(
        min_length=1,
        max_length=limits.REASON_CHARACTERS_MAX,
        pattern=r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$",
        description="Why, in a sentence. It stands in the book.",
        examples=["The laptop that held it was lost."],
    ),
]
"""A sentence for the book, on one line."""


REASON_MUST_BE: Final = f"a sentence of 1 to {limits.REASON_CHARACTERS_MAX} characters, on one line"
