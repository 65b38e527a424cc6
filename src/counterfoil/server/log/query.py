"""Queries: what a condition forbids, what a read asks for, and what matches.

The same words mean the same in a condition, in a page and in a live stream. The database
holds one form of the rule (``matching_v1``) and ``matches`` the other; a test compares
the two.
"""

import re
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from counterfoil.server.core import limits
from counterfoil.server.core.document import encode, quote
from counterfoil.server.core.errors import FieldError, Location
from counterfoil.server.log.cursor import QUERY_DIGEST_BYTES, Cursor, refused_cursor
from counterfoil.server.log.fields import REFUSAL, EventId, Name, Names, Position, Tags, Wire
from counterfoil.server.log.parameters import judged_parameters, whole_number
from counterfoil.server.log.refusals import field_errors, judged_document, refuse

# --- On the wire ------------------------------------------------------------------


class QueryItem(Wire):
    """What an event must be to match: all that is asked here, and at least one thing is.

    A list that is left out, null or empty is not asked.
    """

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    types: Annotated[
        Names | None,
        Field(description="The event's type is any of these.", examples=[["flag_transaction"]]),
    ] = None
    agents: Annotated[
        Names | None,
        Field(description="The event's agent is any of these.", examples=[["fraud_agent"]]),
    ] = None
    tags: Annotated[
        Tags | None,
        Field(description="The event bears all of these.", examples=[["transaction:tx_987"]]),
    ] = None

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if not (self.types or self.agents or self.tags):
            raise PydanticCustomError(
                REFUSAL,
                "A query item must ask for something, or it would match every event: give it "
                "`types`, `agents` or `tags`.",
            )
        return self


Query = Annotated[
    list[QueryItem],
    Field(
        min_length=1,
        max_length=limits.QUERY_ITEMS_MAX,
        description="An event matches if it matches any item.",
        examples=[[{"types": ["flag_transaction"], "tags": ["transaction:tx_987"]}]],
    ),
]

_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _judge_incarnation(text: str) -> str:
    lowered = text.lower()
    if not _UUID.fullmatch(lowered):
        raise PydanticCustomError(
            REFUSAL,
            "`incarnation` is the UUID in the header `Counterfoil-Incarnation` of the read that "
            "the condition rests on; send that, or leave it out.",
        )
    return lowered


class Condition(Wire):
    """What must not be in the book above what the writer has read."""

    fail_if: Annotated[Query, Field(description="Nothing that matches may lie above `after`.")]
    after: Annotated[
        Position | None,
        Field(
            description="The `head` of the read that the decision rests on. Left out: nothing "
            "that matches may exist at all.",
            examples=[42],
        ),
    ] = None
    incarnation: Annotated[
        Annotated[
            str, Field(json_schema_extra={"format": "uuid"}), AfterValidator(_judge_incarnation)
        ]
        | None,
        Field(
            description="The book's incarnation as of that read. When the book was restored from "
            "a backup since then, the append is refused.",
        ),
    ] = None


class _Narrowing(Wire):
    payload: Annotated[
        dict[str, Any] | None,
        Field(
            description="The payload contains this object, as PostgreSQL's `@>` has it.",
            examples=[{"decision": "block"}],
        ),
    ] = None
    after: Annotated[
        Position | None, Field(description="Only events above this id.", examples=[42])
    ] = None


class _Paging(_Narrowing):
    before: Annotated[EventId | None, Field(description="Only events below this id.")] = None
    up_to: Annotated[
        Position | None,
        Field(description="As the book stood at this head: nothing above it is shown."),
    ] = None
    order: Annotated[
        Literal["asc", "desc"], Field(description="Oldest first, or newest first.")
    ] = "asc"
    limit: Annotated[
        int, Field(ge=1, le=limits.PAGE_EVENTS_MAX, description="Events of one page, at most.")
    ] = limits.PAGE_EVENTS_DEFAULT
    cursor: Annotated[
        str | None,
        Field(
            description="The `next` of the page before. The filters and the order must be sent "
            "with it again, unchanged; `limit` may change."
        ),
    ] = None


class QueryBody(_Paging):
    """The body of ``POST /events/query``."""

    query: Query


class _Filters(Wire):
    tag: Annotated[
        Tags | None,
        Field(description="The event bears all of these.", examples=[["transaction:tx_987"]]),
    ] = None
    type: Annotated[
        Names | None,
        Field(description="The event's type is any of these.", examples=[["flag_transaction"]]),
    ] = None
    agent: Annotated[
        Names | None,
        Field(description="The event's agent is any of these.", examples=[["fraud_agent"]]),
    ] = None


class ReadParameters(_Paging, _Filters):
    """The parameters of ``GET /events``; lists are given by repeating the parameter."""


class StreamParameters(_Narrowing, _Filters):
    """The parameters of ``GET /events/stream``."""


class LatestParameters(Wire):
    """The parameters of ``GET /agent-events/{agent_name}``."""

    limit: Annotated[
        int, Field(ge=1, le=limits.PAGE_EVENTS_MAX, description="Events of the list, at most.")
    ] = limits.LATEST_EVENTS_DEFAULT
    before: Annotated[EventId | None, Field(description="Only events below this id.")] = None


class AgentPath(Wire):
    """The path of ``GET /agent-events/{agent_name}``."""

    agent_name: Annotated[Name, Field(description="Whose events.", examples=["fraud_agent"])]


# --- Judged -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Item:
    """One judged query item. An empty set is not asked; at least one is not empty."""

    types: frozenset[str] = frozenset()
    agents: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """A judged read.

    Attributes:
        query: any of these items; None asks nothing, and every event matches.
        query_document: the same as JSON text for the database.
        payload_document: the object that the payload contains, as JSON text.
        after: exclusive lower bound; 0 when there is none.
        before: exclusive upper bound.
        up_to: inclusive upper bound, and no head above it is shown.
        newest_first: the order.
        limit: events of one page.
        cursor: where to go on; it belongs to these very filters.
    """

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
        """The cursor of the page after one whose last event is ``position``."""
        return Cursor(incarnation, head, position, self.newest_first, self._digest())

    def resumed_at(self, text: str, location: Location) -> "ReadRequest":
        """This read, going on at a cursor. Raises ``InvalidInput`` at ``/cursor``."""
        cursor = Cursor.decode(text, location=location)
        if cursor != self.cursor_at(
            incarnation=cursor.incarnation, head=cursor.head, position=cursor.position
        ):
            raise refused_cursor(
                "It belongs to other filters or another order, which must be sent again unchanged",
                location,
            )
        return replace(self, cursor=cursor)

    def _digest(self) -> bytes:
        filters = (
            self.query_document,
            self.payload_document,
            self.after,
            self.before,
            self.up_to,
            self.newest_first,
        )
        return blake2b(encode(filters), digest_size=QUERY_DIGEST_BYTES).digest()


def query_document(query: Iterable[QueryItem | Item]) -> list[dict[str, list[str]]]:
    """A judged query as the database takes it: what is asked only, each value once, sorted."""
    document = []
    for asked in query:
        item = {}
        if asked.types:
            item["types"] = sorted(set(asked.types))
        if asked.agents:
            item["agents"] = sorted(set(asked.agents))
        if asked.tags:
            item["tags"] = sorted(set(asked.tags))
        document.append(item)
    return document


def _item(types: list[str] | None, agents: list[str] | None, tags: list[str] | None) -> Item:
    return Item(frozenset(types or ()), frozenset(agents or ()), frozenset(tags or ()))


def matches(
    query: Iterable[Item] | None, agent_name: str, event_type: str, tags: AbstractSet[str]
) -> bool:
    """Whether an event matches any item of the query; None asks nothing."""
    return query is None or any(
        (not item.types or event_type in item.types)
        and (not item.agents or agent_name in item.agents)
        and item.tags <= tags
        for item in query
    )


Lead: TypeAlias = tuple[Literal["tag", "agent", "type"], str] | None
"""A value of an event, and what of the event it is; None is in every event."""


def leads_to(query: Iterable[Item] | None) -> frozenset[Lead]:
    """Of these, every event that matches has at least one: what to look for it by.

    As few as tell it apart: of each item one tag, or else its agents, or else its types.
    """
    found: set[Lead] = set()
    for item in (Item(),) if query is None else query:
        if item.tags:
            found.add(("tag", min(item.tags)))
        elif item.agents:
            found.update(("agent", name) for name in item.agents)
        elif item.types:
            found.update(("type", name) for name in item.types)
        else:
            found.add(None)
    return frozenset(found)


def leads_of(agent_name: str, event_type: str, tags: Iterable[str]) -> list[Lead]:
    """All that an event can be found by."""
    return [None, ("agent", agent_name), ("type", event_type), *(("tag", tag) for tag in tags)]


def _filtered(asked: _Narrowing, items: tuple[Item, ...] | None) -> ReadRequest:
    return ReadRequest(
        query=items,
        query_document=None if items is None else encode(query_document(items)).decode(),
        payload_document=None if asked.payload is None else encode(asked.payload).decode(),
        after=asked.after or 0,
    )


def _paged(asked: _Paging, items: tuple[Item, ...] | None, location: Location) -> ReadRequest:
    read = replace(
        _filtered(asked, items),
        before=asked.before,
        up_to=asked.up_to,
        newest_first=asked.order == "desc",
        limit=asked.limit,
    )
    return read if asked.cursor is None else read.resumed_at(asked.cursor, location)


def _items_of(asked: _Filters) -> tuple[Item, ...] | None:
    """The one item that query parameters can ask for; None when they ask nothing."""
    if not (asked.type or asked.agent or asked.tag):
        return None
    return (_item(asked.type, asked.agent, asked.tag),)


# --- Judging ----------------------------------------------------------------------


def judge_query(body: bytes) -> ReadRequest:
    """``POST /events/query``. Raises ``MalformedDocument`` or ``InvalidInput``."""
    asked = judged_document(QueryBody, body)
    items = tuple(_item(item.types, item.agents, item.tags) for item in asked.query)
    return _paged(asked, items, "body")


def judge_read_parameters(parameters: Sequence[tuple[str, str]]) -> ReadRequest:
    """``GET /events``: all its query parameters, decoded. Raises ``InvalidInput``."""
    asked = judged_parameters(ReadParameters, parameters)
    return _paged(asked, _items_of(asked), "query")


def judge_stream_parameters(
    parameters: Sequence[tuple[str, str]],
) -> tuple[ReadRequest, int | None]:
    """``GET /events/stream``: its filters, and the position to start after.

    The position is None when it was not given: the stream starts from now. Raises
    ``InvalidInput``.
    """
    asked = judged_parameters(StreamParameters, parameters)
    return _filtered(asked, _items_of(asked)), asked.after


def judge_latest_parameters(parameters: Sequence[tuple[str, str]]) -> tuple[int, int | None]:
    """``GET /agent-events/{agent_name}``: its limit, and the exclusive upper bound."""
    asked = judged_parameters(LatestParameters, parameters)
    return asked.limit, asked.before


def judge_agent_name(text: str) -> str:
    """The ``{agent_name}`` of ``GET /agent-events/{agent_name}``. Raises ``InvalidInput``.

    What no event can bear as its agent's name is refused, and not answered with an empty list.
    """
    try:
        return AgentPath(agent_name=text).agent_name
    except ValidationError as error:
        raise refuse(field_errors(error, AgentPath, "path")) from None


def judge_event_id(text: str) -> int:
    """The ``{id}`` of ``GET /events/{id}``. Raises ``InvalidInput``."""
    position = whole_number(text)
    if not isinstance(position, int) or not 1 <= position <= limits.POSITION_MAX:
        raise refuse(
            [
                FieldError(
                    "/id",
                    f"An event's id is a whole number from 1 to {limits.POSITION_MAX}, in digits "
                    f"only; this is {quote(text)}.",
                    "path",
                )
            ]
        )
    return position


def judge_last_event_id(text: str | None) -> tuple[str, int] | None:
    """The header ``Last-Event-ID``: the incarnation and position where a stream was left.

    None when it was not sent. Raises ``InvalidInput`` for what no stream of ours has sent.
    """
    if text is None:
        return None
    incarnation, _, digits = text.partition(".")
    position = whole_number(digits)
    if (
        not _UUID.fullmatch(incarnation)
        or not isinstance(position, int)
        or position > limits.POSITION_MAX
    ):
        raise refuse(
            [
                FieldError(
                    "/Last-Event-ID",
                    "`Last-Event-ID` must be the id of the last event of the stream that broke, "
                    "`<incarnation>.<position>`, unchanged. Leave it out to start from now.",
                    "header",
                )
            ]
        )
    return incarnation, position
