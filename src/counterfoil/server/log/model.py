"""Events and appends (skeleton: signatures only)."""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from counterfoil.server.log.query import Condition

_WIRE = ConfigDict(strict=True, extra="forbid", frozen=True)


class NewEvent(BaseModel):
    """One event to append, as it is sent."""

    model_config = _WIRE
    agent_name: str
    event_type: str
    payload: dict[str, Any]
    tags: list[str] | None = None
    occurred_at: str | None = None
    caused_by: list[int] | None = None
    context: dict[str, Any] | None = None


class AppendBody(NewEvent):
    """The body of ``POST /events``."""

    condition: Condition | None = None


class BatchBody(BaseModel):
    """The body of ``POST /events/batch``."""

    model_config = _WIRE
    events: list[NewEvent]
    condition: Condition | None = None


@dataclass(frozen=True, slots=True)
class AppendRequest:
    """A judged append, ready for the database.

    ``document`` is the JSON object that the stored function takes; ``causes`` are the
    ids of ``caused_by`` with the pointer to each.
    """

    operation: Literal["append", "batch"]
    document: bytes
    event_count: int
    size_bytes: int
    keyed: bool
    causes: tuple[tuple[str, int], ...]
    has_condition: bool


def judge_append(
    body: bytes, *, principal: str, key: str | None, traceparent: str | None
) -> AppendRequest:
    """``POST /agent-events``. ``key`` and ``traceparent`` are judged ones."""
    raise NotImplementedError


def judge_batch(
    body: bytes, *, principal: str, key: str | None, traceparent: str | None
) -> AppendRequest:
    """``POST /events/batch``."""
    raise NotImplementedError


def judge_idempotency_key(value: str | None) -> str | None:
    """The header ``Idempotency-Key``: 1..255 visible ASCII characters."""
    raise NotImplementedError


def judge_traceparent(value: str | None) -> str | None:
    """The header ``traceparent`` in the W3C form; anything else counts as not sent."""
    raise NotImplementedError
