"""Queries and reads (skeleton: signatures only)."""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from counterfoil.server.core import limits
from counterfoil.server.log.cursor import Cursor

_WIRE = ConfigDict(strict=True, extra="forbid", frozen=True)


class QueryItem(BaseModel):
    """One item of a query, as it is sent."""

    model_config = _WIRE
    types: list[str] | None = None
    agents: list[str] | None = None
    tags: list[str] | None = None


class Condition(BaseModel):
    """The condition of an append, as it is sent."""

    model_config = _WIRE
    fail_if: list[QueryItem]
    after: int | None = None
    incarnation: str | None = None


class QueryBody(BaseModel):
    """The body of ``POST /events/query``."""

    model_config = _WIRE
    query: list[QueryItem]
    payload: dict[str, Any] | None = None
    after: int | None = None
    before: int | None = None
    up_to: int | None = None
    order: Literal["asc", "desc"] = "asc"
    limit: int = limits.PAGE_EVENTS_DEFAULT
    cursor: str | None = None


class ReadParameters(BaseModel):
    """The parameters of ``GET /events``; its JSON schema describes them for OpenAPI."""

    model_config = _WIRE
    tag: list[str] | None = None
    type: list[str] | None = None
    agent: list[str] | None = None
    payload: dict[str, Any] | None = None
    after: int | None = None
    before: int | None = None
    up_to: int | None = None
    order: Literal["asc", "desc"] = "asc"
    limit: int = limits.PAGE_EVENTS_DEFAULT
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One judged query item. An empty set: not asked."""

    types: frozenset[str]
    agents: frozenset[str]
    tags: frozenset[str]


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """A judged read."""

    query: tuple[Item, ...] | None = None
    query_document: str | None = None
    payload_document: str | None = None
    after: int = 0
    before: int | None = None
    up_to: int | None = None
    newest_first: bool = False
    limit: int = limits.PAGE_EVENTS_DEFAULT
    cursor: Cursor | None = None

    def cursor_at(self, *, incarnation: str, head: int, position: int) -> Cursor:
        """The cursor of this read's next page, ``position`` being the last event shown."""
        raise NotImplementedError


def matches(
    query: Iterable[Item] | None, agent_name: str, event_type: str, tags: Set[str]
) -> bool:
    """Whether an event matches any item (None: every event does)."""
    raise NotImplementedError


def judge_query(body: bytes) -> ReadRequest:
    """``POST /events/query``."""
    raise NotImplementedError


def judge_read_parameters(items: Sequence[tuple[str, str]]) -> ReadRequest:
    """``GET /events``: all query parameters, decoded, in the order they were sent."""
    raise NotImplementedError


def judge_stream_parameters(items: Sequence[tuple[str, str]]) -> tuple[ReadRequest, int | None]:
    """``GET /events/stream``: tag, type, agent, payload, after. Returns the filters and
    the position to start after (None: not given, so from now)."""
    raise NotImplementedError


def judge_latest_parameters(items: Sequence[tuple[str, str]]) -> tuple[int, int | None]:
    """``GET /agent-events/{agent_name}``: returns (limit, before)."""
    raise NotImplementedError


def judge_event_id(text: str) -> int:
    """The ``{id}`` of ``GET /events/{id}``: digits only, 1..POSITION_MAX; location path."""
    raise NotImplementedError


def judge_last_event_id(text: str | None) -> tuple[str, int] | None:
    """The header ``Last-Event-ID``, ``<incarnation>.<position>``; location header."""
    raise NotImplementedError
