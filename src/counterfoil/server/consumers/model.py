"""What is asked of consumers, judged: making them, claiming, and what becomes of what is held."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from counterfoil.server.consumers.calls import Token
from counterfoil.server.core import limits
from counterfoil.server.core.document import quote
from counterfoil.server.core.errors import FieldError, InvalidInput
from counterfoil.server.log.fields import (
    REASON_MUST_BE,
    REFUSAL,
    EventId,
    Name,
    Reason,
    Time,
    Wire,
)
from counterfoil.server.log.model import (
    AppendRequest,
    OutcomeBody,
    judge_outcome,
    parsed_object,
)
from counterfoil.server.log.query import Query, query_document

# --- Tokens -----------------------------------------------------------------------


_TOKEN: Final = re.compile(r"[0-7][0-9a-f]{15}\.[0-7][0-9a-f]{15}\.[0-7][0-9a-f]{7}")


def _judge_token(text: str) -> str:
    if not _TOKEN.fullmatch(text):
        raise PydanticCustomError(
            REFUSAL,
            f"{quote(text)} is no token. Send the `token` of a delivery as it came.",
        )
    return text


def _each_once(texts: list[str]) -> list[str]:
    # Two attempts of one event cannot both be held, so that is a mistake too.
    if len({text.rpartition(".")[0] for text in texts}) < len(texts):
        raise PydanticCustomError(REFUSAL, "Two of these tokens are of the same event.")
    return texts


_TokenText = Annotated[
    str,
    AfterValidator(_judge_token),
    Field(json_schema_extra={"pattern": rf"^{_TOKEN.pattern}$"}),
]
Tokens = Annotated[
    list[_TokenText],
    Field(
        min_length=1,
        max_length=limits.TOKENS_MAX,
        description="The tokens of deliveries that are held.",
        examples=[["000000000000000c.0000000000000029.00000001"]],
    ),
    AfterValidator(_each_once),
]
_TOKENS_MUST_BE: Final = f"a list of 1 to {limits.TOKENS_MAX} tokens"

# --- Numbers ----------------------------------------------------------------------

_FRACTION_DIGITS_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class _Number:
    """A number, whole or with at most three digits behind the point."""

    least: int
    most: int
    what: str

    def __get_pydantic_core_schema__(
        self, _source: Any, _handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._judge)

    def __get_pydantic_json_schema__(
        self, _schema: CoreSchema, _handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "number", "minimum": self.least, "maximum": self.most}

    def _judge(self, value: Any) -> Any:
        sentence = f"`{self.what}` must be a number from {self.least} to {self.most}"
        if type(value) not in (int, Decimal):
            raise PydanticCustomError(REFUSAL, f"{sentence}.")
        if not self.least <= value <= self.most:
            raise PydanticCustomError(REFUSAL, f"{sentence}; this is {quote(str(value))}.")
        exponent = Decimal(value).as_tuple().exponent
        if isinstance(exponent, int) and exponent < -_FRACTION_DIGITS_MAX:
            raise PydanticCustomError(
                REFUSAL,
                f"`{self.what}` has at most {_FRACTION_DIGITS_MAX} digits behind the point.",
            )
        return value


Number: TypeAlias = int | Decimal

# --- Making and changing ----------------------------------------------------------

_AFTER: Final = re.compile(r"[0-9]{1,19}")
_START_MUST_BE: Final = '`"beginning"`, `"now"` or `{"after": position}`'
_TO_MUST_BE: Final = '`"beginning"`, `"now"`, `{"after": position}` or `{"time": time}`'


class _AfterPlace(Wire):
    after: Annotated[int, Field(ge=0, le=limits.POSITION_MAX)]


class _TimePlace(Wire):
    time: Time


def _judge_place(value: Any, *, with_time: bool) -> Any:
    """Where a consumer begins, as the database takes it."""
    if value in ("beginning", "now"):
        return value
    models: list[type[Wire]] = [_AfterPlace, _TimePlace] if with_time else [_AfterPlace]
    if isinstance(value, dict):
        for model in models:
            try:
                return model.model_validate(value).model_dump()
            except ValidationError as error:
                own = next((e for e in error.errors() if e["type"] == REFUSAL), None)
                if own is not None:
                    raise PydanticCustomError(REFUSAL, own["msg"]) from None
    name, places = ("to", _TO_MUST_BE) if with_time else ("start", _START_MUST_BE)
    raise PydanticCustomError(REFUSAL, f"`{name}` must be {places}.")


def _place_schema(*, with_time: bool) -> dict[str, Any]:
    after = {
        "type": "object",
        "properties": {"after": {"type": "integer", "minimum": 0, "maximum": limits.POSITION_MAX}},
        "required": ["after"],
        "additionalProperties": False,
    }
    time = {
        "type": "object",
        "properties": {"time": {"type": "string", "format": "date-time"}},
        "required": ["time"],
        "additionalProperties": False,
    }
    places = [{"enum": ["beginning", "now"]}, after]
    return {"oneOf": [*places, time] if with_time else places}


_Start = Annotated[
    Any,
    AfterValidator(lambda value: _judge_place(value, with_time=False)),
    Field(json_schema_extra=_place_schema(with_time=False)),
]
_To = Annotated[
    Any,
    AfterValidator(lambda value: _judge_place(value, with_time=True)),
    Field(json_schema_extra=_place_schema(with_time=True)),
]


def _judge_kind(kind: str) -> str:
    if ":" in kind:
        raise PydanticCustomError(
            REFUSAL,
            "`order_by` is the kind of a tag, what stands before its colon, as `customer`.",
        )
    return kind


class Backoff(Wire):
    """How long an event waits after its k-th failure: initial * factor^(k-1), bounded."""

    initial_seconds: Annotated[
        Annotated[Number, _Number(0, limits.BACKOFF_INITIAL_SECONDS_MAX, "initial_seconds")],
        Field(description="After the first failure."),
    ] = limits.BACKOFF_INITIAL_SECONDS_DEFAULT
    factor: Annotated[
        Annotated[Number, _Number(1, limits.BACKOFF_FACTOR_MAX, "factor")],
        Field(description="What each further failure multiplies it by."),
    ] = limits.BACKOFF_FACTOR_DEFAULT
    max_seconds: Annotated[
        Annotated[Number, _Number(0, limits.BACKOFF_GROWS_TO_SECONDS_MAX, "max_seconds")],
        Field(description="What it grows to at most."),
    ] = limits.BACKOFF_GROWS_TO_SECONDS_DEFAULT


class NewConsumer(Wire):
    """A consumer as it is to be. What is left out takes its default, on every call."""

    must_be = {  # noqa: RUF012 - a ClassVar of the base
        "lease_seconds": f"a whole number from 1 to {limits.LEASE_SECONDS_MAX}",
        "attempts_max": f"a whole number from 1 to {limits.ATTEMPTS_MAX}",
        "backoff": "an object with `initial_seconds`, `factor` and `max_seconds`",
        "order_by": f"the kind of a tag: 1 to {limits.TAG_KIND_CHARACTERS_MAX} characters",
        "in_flight_max": f"a whole number from 1 to {limits.IN_FLIGHT_MAX}",
        "dead_letters": "`hold` or `pass`",
        "change_query": "true or false",
    }

    query: Annotated[Query, Field(description="Which events it is handed.")]
    start: Annotated[
        _Start,
        Field(description="Where in the book it begins.", examples=["beginning", {"after": 42}]),
    ] = "beginning"
    lease_seconds: Annotated[
        Annotated[int, Field(ge=1, le=limits.LEASE_SECONDS_MAX)],
        Field(description="How long a delivery is held, unless its holder extends that."),
    ] = limits.LEASE_SECONDS_DEFAULT
    attempts_max: Annotated[
        Annotated[int, Field(ge=1, le=limits.ATTEMPTS_MAX)],
        Field(description="How often an event is handed out before it is set aside."),
    ] = limits.ATTEMPTS_DEFAULT
    backoff: Annotated[Backoff, Field(description="How long it waits after a failure.")] = Backoff()
    order_by: Annotated[
        Annotated[
            str,
            Field(max_length=limits.TAG_KIND_CHARACTERS_MAX, min_length=1, pattern=r"^\S(.*\S)?$"),
            AfterValidator(_judge_kind),
        ]
        | None,
        Field(
            description="The kind of tag by which events are in order: those that share a tag of "
            "this kind are handed out one after another. Left out: all are free.",
            examples=["customer"],
        ),
    ] = None
    in_flight_max: Annotated[
        Annotated[int, Field(ge=1, le=limits.IN_FLIGHT_MAX)] | None,
        Field(description="How many may be held at a time, by all holders together."),
    ] = None
    dead_letters: Annotated[
        Literal["hold", "pass"],
        Field(description="With `order_by`: whether a dead letter holds up its key."),
    ] = "pass"
    change_query: Annotated[
        bool, Field(description="Whether the query of a consumer that has begun is to be changed.")
    ] = False


class Because(Wire):
    """The body of a call that pauses or resumes."""

    must_be = {"reason": REASON_MUST_BE}  # noqa: RUF012 - a ClassVar of the base

    reason: Reason


class Seek(Wire):
    """Where a consumer is to go on."""

    must_be = {"reason": REASON_MUST_BE, "to": _TO_MUST_BE}  # noqa: RUF012 - a ClassVar

    to: Annotated[
        _To,
        Field(
            description="Everything after this place is handed out, again or for the first time.",
            examples=[{"time": "2026-03-01T00:00:00Z"}],
        ),
    ]
    reason: Reason


class DeleteParameters(Wire):
    """The parameters of ``DELETE /consumers/{name}``."""

    must_be = {"dead_letters": "`drop`"}  # noqa: RUF012 - a ClassVar of the base

    dead_letters: Annotated[
        Literal["drop"] | None, Field(description="`drop`: its dead letters go with it.")
    ] = None


class _Letters(Wire):
    must_be = {  # noqa: RUF012 - a ClassVar of the base
        "event_ids": f"a list of 1 to {limits.TOKENS_MAX} ids of events",
        "all": "true",
        "reason": REASON_MUST_BE,
    }
    each_must_be = {  # noqa: RUF012 - a ClassVar of the base
        "event_ids": f"a whole number from 1 to {limits.POSITION_MAX}"
    }

    event_ids: Annotated[
        Annotated[list[EventId], Field(min_length=1, max_length=limits.TOKENS_MAX, fail_fast=True)]
        | None,
        Field(description="Which dead letters, by their events.", examples=[[41]]),
    ] = None
    all: Annotated[Literal[True] | None, Field(description="All that there are.")] = None

    @model_validator(mode="after")
    def _names_some(self) -> Self:
        if (self.event_ids is None) == (self.all is None):
            raise PydanticCustomError(
                REFUSAL, "Name dead letters by `event_ids`, or send `all: true`."
            )
        return self


class Replay(_Letters):
    """Dead letters to hand out again."""

    reason: Reason | None = None


class Drop(_Letters):
    """Dead letters that nobody is to work on any more."""

    reason: Reason


_CONSUMER_NAME: Final = re.compile(
    rf"[a-z0-9][a-z0-9._-]{{0,{limits.CONSUMER_NAME_CHARACTERS_MAX - 1}}}"
)


def judge_consumer_name(text: str) -> str:
    """The ``{name}`` of a path. Raises ``InvalidInput``."""
    if _CONSUMER_NAME.fullmatch(text):
        return text
    message = (
        f"A consumer's name has 1 to {limits.CONSUMER_NAME_CHARACTERS_MAX} characters: lower-case "
        "letters, digits, `.`, `_` and `-`, and begins with a letter or a digit."
    )
    raise InvalidInput(message, [FieldError("/name", message, "path")])


def consumer_effect(name: str, asked: NewConsumer, by: str) -> dict[str, Any]:
    """What ``put_consumer`` in the database is given."""
    return {
        "effect": "put_consumer",
        "name": name,
        "query": query_document(asked.query),
        "start": asked.start,
        "order_by": asked.order_by,
        "lease_seconds": asked.lease_seconds,
        "attempts_max": asked.attempts_max,
        "backoff_initial_seconds": asked.backoff.initial_seconds,
        "backoff_factor": asked.backoff.factor,
        "backoff_max_seconds": asked.backoff.max_seconds,
        "in_flight_max": asked.in_flight_max,
        "dead_letters": asked.dead_letters,
        "change_query": asked.change_query,
        "by": by,
    }


# --- Working ----------------------------------------------------------------------


class Next(Wire):
    """Deliveries to be handed out to a holder, of what is ready now."""

    must_be = {  # noqa: RUF012 - a ClassVar of the base
        "holder": f"a string of 1 to {limits.NAME_CHARACTERS_MAX} characters",
        "count": f"a whole number from 1 to {limits.CLAIM_DELIVERIES_MAX}",
    }

    holder: Annotated[
        Name, Field(description="Who holds them: a name for this process.", examples=["scorer-1"])
    ]
    count: Annotated[
        int, Field(ge=1, le=limits.CLAIM_DELIVERIES_MAX, description="How many, at most.")
    ] = 1


class Claim(Next):
    """Deliveries to be handed out to a holder."""

    must_be = {**Next.must_be, "done": _TOKENS_MUST_BE}  # noqa: RUF012 - a ClassVar of the base
    each_must_be = {"done": "a token"}  # noqa: RUF012 - a ClassVar of the base

    wait_seconds: Annotated[
        Annotated[Number, _Number(0, limits.CLAIM_WAIT_SECONDS_MAX, "wait_seconds")],
        Field(description="How long to wait for the first, where there is none."),
    ] = 0
    done: Annotated[
        Tokens | None,
        Field(description="What is acknowledged in the same step, before anything is handed out."),
    ] = None


class Ack(OutcomeBody):
    """What is done, and the events that are its outcome."""

    must_be = {  # noqa: RUF012 - a ClassVar of the base
        "tokens": _TOKENS_MUST_BE,
        "next": "an object with `holder` and `count`",
    }
    each_must_be = {"tokens": "a token"}  # noqa: RUF012 - a ClassVar of the base

    tokens: Tokens
    next: Annotated[
        Next | None,
        Field(
            description="What to claim in the same call, once all of that is done. It waits for no work."
        ),
    ] = None

    @model_validator(mode="after")
    def _condition_has_events(self) -> Self:
        if self.condition is not None and self.events is None:
            raise PydanticCustomError(
                REFUSAL, "A `condition` is for the `events` that are written under it; send some."
            )
        return self


class Extend(Wire):
    """Leases to be extended."""

    must_be = {  # noqa: RUF012 - a ClassVar of the base
        "tokens": _TOKENS_MUST_BE,
        "lease_seconds": f"a whole number from 1 to {limits.LEASE_SECONDS_MAX}",
    }
    each_must_be = {"tokens": "a token"}  # noqa: RUF012 - a ClassVar of the base

    tokens: Tokens
    lease_seconds: Annotated[
        Annotated[int, Field(ge=1, le=limits.LEASE_SECONDS_MAX)] | None,
        Field(description="From now on; left out, as long as the consumer says."),
    ] = None


class Release(Wire):
    """Deliveries to be given back."""

    must_be = {"tokens": _TOKENS_MUST_BE, "reason": REASON_MUST_BE}  # noqa: RUF012 - a ClassVar
    each_must_be = {"tokens": "a token"}  # noqa: RUF012 - a ClassVar of the base

    tokens: Tokens
    delay_seconds: Annotated[
        Annotated[Number, _Number(0, limits.RELEASE_DELAY_SECONDS_MAX, "delay_seconds")] | None,
        Field(
            description="When they are handed out again. Left out: at once; with a `reason`, after "
            "the consumer's backoff."
        ),
    ] = None
    reason: Annotated[
        Reason | None,
        Field(
            description="What went wrong; the attempt counts. Without one they were only given "
            "back, and it does not.",
            examples=["The scoring model timed out."],
        ),
    ] = None


class SetAside(Wire):
    """Deliveries that nobody can work on as they are."""

    must_be = {"tokens": _TOKENS_MUST_BE, "reason": REASON_MUST_BE}  # noqa: RUF012 - a ClassVar
    each_must_be = {"tokens": "a token"}  # noqa: RUF012 - a ClassVar of the base

    tokens: Tokens
    reason: Reason


@dataclass(frozen=True, slots=True)
class JudgedAck:
    """A judged acknowledgement.

    Attributes:
        tokens: what is done.
        outcome: the append that it is part of, if it has events.
        next: what is claimed then. Without an outcome, the claim acknowledges the tokens too.
    """

    tokens: Sequence[str]
    outcome: AppendRequest | None
    next: Claim | None = None


def judge_ack(
    body: bytes, *, consumer: str, principal: str, key: str | None, traceparent: str | None
) -> JudgedAck:
    """Judge the body of ``POST /consumers/{name}/ack``. Raises as ``judge_append``."""
    tree = parsed_object(body)
    asked, outcome = judge_outcome(
        tree,
        Ack,
        principal=principal,
        key=key,
        traceparent=traceparent,
        hands_in=lambda ack: _hands_in(ack, consumer),
    )
    if asked.next is None:
        return JudgedAck(asked.tokens, outcome)
    done = asked.tokens if outcome is None else None
    claim = Claim(holder=asked.next.holder, count=asked.next.count, done=done)
    return JudgedAck(asked.tokens, outcome, claim)


def _hands_in(ack: Ack, consumer: str) -> dict[str, Any]:
    """What an append takes out of its holder's hands, as the stored function takes it."""
    handed_in: dict[str, Any] = {"consumer": consumer, "tokens": Token.all_of(ack.tokens)}
    if ack.next is not None:
        # The append makes nothing of it: it is there to be compared with a later call's.
        handed_in["next"] = ack.next.model_dump()
    return handed_in


def key_of_next(key: str | None) -> str | None:
    """The key of the claim that follows an outcome under this one.

    It has a space in it, so no caller can send it (``judge_idempotency_key``).
    """
    return None if key is None else f"{key} next"
