"""The shapes of answers, for the description of the service only.

Answers are written as bytes from PostgreSQL's own texts and never pass through these
models; contract tests hold the two together.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from counterfoil.server.core import limits

Id = Annotated[
    int,
    Field(ge=1, le=limits.POSITION_MAX, description="The event's position: 1, 2, 3 … no gaps."),
]
Position = Annotated[int, Field(ge=0, le=limits.POSITION_MAX)]
Time = Annotated[
    str,
    Field(
        description="ISO 8601 with six digits of a second and an offset.",
        examples=["2026-03-01T12:00:00.000000+00:00"],
        json_schema_extra={"format": "date-time"},
    ),
]


class Answered(BaseModel):
    """A part of an answer: it has these members and no others."""

    model_config = ConfigDict(extra="forbid")


class StoredEvent(Answered):
    """The event is committed and flushed."""

    id: Id
    created_at: Time
    status: Literal["stored"]


class StoredEvents(Answered):
    """All events are committed and flushed, next to each other, in the order sent."""

    ids: list[Id]
    created_at: Time
    status: Literal["stored"]


class AgentEvent(Answered):
    """An event in the short form of an agent's latest list."""

    id: Id
    agent_name: str
    event_type: str
    payload: dict[str, Any] | None
    created_at: Time


class Event(Answered):
    """An event with all its members. It never changes."""

    id: Id
    agent_name: str
    event_type: str
    payload: Annotated[
        dict[str, Any] | None, Field(description="null once it was blanked by an erasure.")
    ]
    tags: Annotated[
        list[str],
        Field(description="Given and derived ones, `kind:value`, sorted.", examples=[["card:c_1"]]),
    ]
    created_at: Time
    occurred_at: Time | None
    caused_by: list[Id]
    context: dict[str, Any] | None


class EventPage(Answered):
    """One page of a read."""

    events: list[Event]
    head: Annotated[
        Position,
        Field(
            description="The last position that this read saw: what a condition's `after` takes."
        ),
    ]
    next: Annotated[
        str | None, Field(description="The `cursor` of the next page; null if there is none.")
    ]
    has_more: bool


class FieldProblem(Answered):
    """One offending field of a request."""

    pointer: Annotated[
        str, Field(description="A JSON pointer (RFC 6901) into that part of the request.")
    ]
    message: str
    in_: Annotated[
        Literal["body", "query", "header", "path"],
        Field(alias="in", description="The part of the request that `pointer` points into."),
    ]


class Problem(BaseModel):
    """A refusal (RFC 9457). `type` is stable, and leads to a page that explains it."""

    model_config = ConfigDict(extra="forbid")

    type: Annotated[str, Field(examples=["/problems/invalid-input"])]
    title: str
    status: int
    detail: str
    request_id: str
    errors: Annotated[list[FieldProblem], Field(default_factory=list)]


class ConditionFailedProblem(Problem):
    """A condition did not hold (only this has conflicts), or it has lost what it rested on."""

    head: Annotated[
        Position | None, Field(description="The last position at the time of the check.")
    ] = None
    conflicts: Annotated[
        list[Event],
        Field(
            description="The first events in the way, oldest first.",
            max_length=limits.CONFLICTS_MAX,
            default_factory=list,
        ),
    ]
    lease_ends: Annotated[
        Time | None,
        Field(
            description="Of an acknowledgement: until when the first of its deliveries is still held."
        ),
    ] = None
    lost: Annotated[
        list[str] | None,
        Field(description="Where a lease was lost instead: the tokens of what is not held."),
    ] = None


class NotReadyProblem(Problem):
    """The service cannot serve calls now."""

    checks: dict[str, str]


class Live(Answered):
    """The process runs."""

    status: Literal["live"]


class Ready(Answered):
    """The service can serve calls."""

    status: Literal["ready"]
    checks: dict[str, str]


class ProblemDescription(Answered):
    """One entry of the catalogue of problems."""

    type: str
    status: int
    title: str
    meaning: str
    remedy: str
