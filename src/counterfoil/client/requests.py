"""What each call sends, and how its answer is read: without I/O.

An ``Ask`` joins the two, so that the clients that do the I/O know neither paths nor
bodies. Both of them, the blocking one and the asynchronous one, get their asks from here.
"""

from __future__ import annotations

import operator
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final, Generic, Literal, TypeVar

from counterfoil.client import answers, document
from counterfoil.client import lines as json_lines
from counterfoil.client.answers import Answer
from counterfoil.client.errors import UnsendableValue
from counterfoil.client.model import (
    Condition,
    Event,
    NewEvent,
    Page,
    Query,
    QueryItem,
    Stored,
    StoredBatch,
    Texts,
    items_of,
    texts,
)

T = TypeVar("T")

Order = Literal["asc", "desc"]

PAGE_EVENTS_DEFAULT: Final = 100
"""Events of a page when the caller does not say; the service allows up to 1,000."""

IDEMPOTENCY_KEY_CHARACTERS_MAX: Final = 255
"""The service's own limit, checked here too: this client promises that a key is sent."""

Parameters = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, without the service's address and without the API key.

    Each request that writes has an idempotency key, and no other has one. ``wait_seconds`` is
    how long the service was asked to wait before it answers: the time for that comes on top.
    """

    method: str
    path: str
    parameters: Parameters = ()
    body: bytes | None = None
    idempotency_key: str | None = None
    last_event_id: str | None = None
    accept: str = "application/json"
    wait_seconds: float = 0.0

    def headers(self) -> dict[str, str]:
        """Return the headers that belong to this request."""
        headers = {"Accept": self.accept}
        if self.body is not None:
            headers["Content-Type"] = "application/json"
        if self.idempotency_key is not None:
            headers["Idempotency-Key"] = self.idempotency_key
        if self.last_event_id is not None:
            headers["Last-Event-ID"] = self.last_event_id
        return headers


@dataclass(frozen=True, slots=True)
class Ask(Generic[T]):
    """A request, and how the answer to it is read when it succeeds."""

    request: Request
    read: Callable[[Answer], T]


# --- Writing ----------------------------------------------------------------------------


def append(
    event: NewEvent, condition: Condition | None, idempotency_key: str | None
) -> Ask[Stored]:
    """Ask for one event to be appended.

    Raises:
        UnsendableValue: something in it cannot be written as JSON, or the key is unfit.
    """
    body = event_document(event, "") | condition_document(condition)
    request = Request(
        "POST",
        "/events",
        body=document.encode(body),
        idempotency_key=idempotency_key_of(idempotency_key),
    )
    return Ask(request, answers.stored)


def append_batch(
    events: Collection[NewEvent], condition: Condition | None, idempotency_key: str | None
) -> Ask[StoredBatch]:
    """Ask for several events to be appended, all or none.

    Raises:
        UnsendableValue: as ``append``.
    """
    written = [event_document(event, f"/events/{index}") for index, event in enumerate(events)]
    request = Request(
        "POST",
        "/events/batch",
        body=document.encode({"events": written} | condition_document(condition)),
        idempotency_key=idempotency_key_of(idempotency_key),
    )
    return Ask(request, partial(answers.stored_batch, count=len(written)))


def append_lines(
    lines: Collection[bytes], condition: Condition | None, idempotency_key: str | None
) -> Ask[StoredBatch]:
    """Ask for events that are JSON already to be appended, byte for byte, all or none.

    Raises:
        UnsendableValue: as ``append``; a line is not exactly one JSON object.
    """
    stripped = [line.strip(json_lines.WHITE_SPACE) for line in lines]
    for index, line in enumerate(stripped):
        try:
            json_lines.read_object(line)
        except ValueError as fault:
            raise UnsendableValue(
                f"A line must be exactly one JSON object, and {fault}.", f"/events/{index}"
            ) from None
    given = document.encode(condition_document(condition))
    end = b"}" if condition is None else b"," + given.removeprefix(b"{")
    request = Request(
        "POST",
        "/events/batch",
        body=json_lines.joined(stripped) + end,
        idempotency_key=idempotency_key_of(idempotency_key),
    )
    return Ask(request, partial(answers.stored_batch, count=len(stripped)))


def event_document(event: NewEvent, pointer: str) -> dict[str, Any]:
    """Return an event as it is sent; ``pointer`` says where it stands in what is sent.

    Raises:
        UnsendableValue: one of its moments has no time zone.
    """
    written: dict[str, Any] = {
        "agent_name": event.agent_name,
        "event_type": event.event_type,
        "payload": event.payload,
    }
    if event.tags:
        written["tags"] = texts(event.tags)
    if event.occurred_at is not None:
        written["occurred_at"] = moment_text(event.occurred_at, f"{pointer}/occurred_at")
    if event.caused_by:
        written["caused_by"] = [
            cause.id if isinstance(cause, Event) else cause for cause in event.caused_by
        ]
    if event.context is not None:
        written["context"] = event.context
    return written


def moment_text(value: datetime | str, pointer: str) -> str:
    """A moment as it is sent.

    Raises:
        UnsendableValue: it has no time zone.
    """
    if isinstance(value, str):
        return value
    if value.tzinfo is None:
        raise UnsendableValue(
            "A datetime without a time zone says no moment. Give it one, for example with "
            "`datetime.now(timezone.utc)`.",
            pointer,
        )
    return value.isoformat()


def condition_document(condition: Condition | None) -> dict[str, Any]:
    """Return the member ``condition`` of a body, or nothing."""
    if condition is None:
        return {}
    written: dict[str, Any] = {"fail_if": query_document(condition.fail_if)}
    if condition.after is not None:
        written["after"] = condition.after
    if condition.incarnation is not None:
        written["incarnation"] = condition.incarnation
    return {"condition": written}


def query_document(items: Collection[QueryItem]) -> list[dict[str, tuple[str, ...]]]:
    """Return a query as it is sent."""
    return [
        {
            name: value
            for name, value in (
                ("types", item.types),
                ("agents", item.agents),
                ("tags", item.tags),
            )
            if value
        }
        for item in items
    ]


def idempotency_key_of(given: str | None) -> str:
    """The caller's key, or a new one: random enough that no two calls ever share it.

    Raises:
        UnsendableValue: a header cannot carry it.
    """
    if given is None:
        return str(uuid.uuid4())
    visible = all("!" <= character <= "~" for character in given)
    if not (visible and 1 <= len(given) <= IDEMPOTENCY_KEY_CHARACTERS_MAX):
        raise UnsendableValue(
            f"An idempotency key is 1 to {IDEMPOTENCY_KEY_CHARACTERS_MAX} visible ASCII "
            "characters, without spaces.",
            "/Idempotency-Key",
        )
    return given


# --- Reading ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What ``events.list`` and ``events.query`` ask for; ``page`` gives each page's ask.

    The filters go with every page unchanged; the cursor holds only the place and the head
    that the pages are pinned to, and the service refuses it with other filters.
    """

    query: Query | None = None
    tags: Texts = ()
    types: Texts = ()
    agents: Texts = ()
    payload: Mapping[str, Any] | None = None
    after: int | None = None
    before: int | None = None
    up_to: int | None = None
    order: Order = "asc"
    limit: int = PAGE_EVENTS_DEFAULT

    def page(self, cursor: str | None = None) -> Ask[Page]:
        """Ask for the first page, or for the page at ``cursor``."""
        return Ask(
            self._by_filters(cursor) if self.query is None else self._by_query(cursor), answers.page
        )

    def _places(self, cursor: str | None) -> dict[str, Any]:
        places = {
            "after": self.after,
            "before": self.before,
            "up_to": self.up_to,
            "order": self.order,
            "limit": self.limit,
            "cursor": cursor,
        }
        return {name: value for name, value in places.items() if value is not None}

    def _by_filters(self, cursor: str | None) -> Request:
        places = tuple((name, str(value)) for name, value in self._places(cursor).items())
        filters = filter_parameters(self.tags, self.types, self.agents, self.payload)
        return Request("GET", "/events", filters + places)

    def _by_query(self, cursor: str | None) -> Request:
        body: dict[str, Any] = {"query": query_document(items_of(self.query or ()))}
        if self.payload is not None:
            body["payload"] = self.payload
        return Request("POST", "/events/query", body=document.encode(body | self._places(cursor)))


def filter_parameters(
    tags: Texts, types: Texts, agents: Texts, payload: Mapping[str, Any] | None
) -> Parameters:
    """Return the filters of ``GET /events`` and of the live stream as URL parameters."""
    named = (
        *(("tag", tag) for tag in texts(tags)),
        *(("type", event_type) for event_type in texts(types)),
        *(("agent", agent) for agent in texts(agents)),
    )
    if payload is None:
        return named
    return (*named, ("payload", document.encode(payload).decode()))


def get(position: int) -> Ask[Event]:
    """Ask for the event at ``position``."""
    return Ask(Request("GET", f"/events/{operator.index(position)}"), answers.event)


def latest(agent_name: str, limit: int, before: int | None) -> Ask[Page]:
    """Ask for an agent's latest events, newest first.

    This is ``GET /events`` rather than the tutorial's ``/agent-events/{agent_name}``, whose
    bare list leaves out tags, causes and the head.
    """
    return Listing(agents=agent_name, before=before, order="desc", limit=limit).page()


def stream(filters: Parameters, after: int | None, last_event_id: str | None) -> Request:
    """Return the request that opens the live stream."""
    places = () if after is None else (("after", str(after)),)
    return Request(
        "GET",
        "/events/stream",
        filters + places,
        last_event_id=last_event_id,
        accept="text/event-stream",
    )
