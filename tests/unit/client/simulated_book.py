"""A simulated service: the HTTP contract in memory, with faults on order.

It is a simulator of the remote party and knows nothing of the client. What it promises is
what the service promises (one order, conditions, keys, pages pinned to a head, stream
ids), so that tests of the client can assert what the book holds afterwards, not only what
was sent. The contract tests run the client against the real service.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import httpx2
import msgspec

CREATED_AT = "2025-01-02T03:04:05.000006+00:00"


@dataclass(frozen=True)
class Received:
    """One request as it came in."""

    method: str
    path: str
    parameters: httpx2.QueryParams
    headers: httpx2.Headers
    body: bytes


@dataclass(frozen=True)
class Fault:
    """What happens to one request instead of a proper answer.

    ``served``: the request is carried out before, and only its answer is lost.
    """

    outcome: httpx2.Response | BaseException
    served: bool = False


class Stream(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """A body that comes in chunks, and ends or breaks after them."""

    def __init__(self, chunks: list[bytes], broken: BaseException | None) -> None:
        self.chunks = chunks
        self.broken = broken
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        yield from self.chunks
        if self.broken is not None:
            raise self.broken

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self:
            yield chunk

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


@dataclass
class SimulatedBook:
    """The book, its service, and what has been asked of it."""

    api_key: str | None = None
    incarnation: str = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
    page_events_max: int = 1_000
    events: list[dict[str, Any]] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    faults: deque[Fault | None] = field(default_factory=deque)
    streams: deque[Callable[[bytes], Stream]] = field(default_factory=deque)
    opened_streams: list[Stream] = field(default_factory=list)
    answers_by_key: dict[str, tuple[bytes, dict[str, Any]]] = field(default_factory=dict)
    before_page: Callable[[], None] = lambda: None

    @property
    def head(self) -> int:
        return len(self.events)

    @property
    def transport(self) -> httpx2.MockTransport:
        return httpx2.MockTransport(self.handle)

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        received = Received(
            request.method,
            request.url.path,
            request.url.params,
            request.headers,
            request.content,
        )
        self.received.append(received)
        fault = self.faults.popleft() if self.faults else None
        if fault is None:
            return self._serve(received)
        if fault.served:
            self._serve(received)
        if isinstance(fault.outcome, BaseException):
            raise fault.outcome
        made = fault.outcome  # A fault may be ordered several times, an answer be read once.
        return httpx2.Response(made.status_code, headers=made.headers, content=made.content)

    def add(self, count: int = 1, **members: Any) -> None:
        """Let another writer append events."""
        for _ in range(count):
            self._append({"agent_name": "other", "event_type": "seen", "payload": {}} | members)

    # --- The calls ----------------------------------------------------------------------

    def _serve(self, received: Received) -> httpx2.Response:
        if self.api_key and received.headers.get("Authorization") != f"Bearer {self.api_key}":
            return problem(401, "unauthenticated", "This service needs a key.")
        calls = {
            "POST /events": self._append_one,
            "POST /events/batch": self._append_batch,
            "POST /events/query": self._query,
            "GET /events": self._list,
            "GET /events/stream": self._stream,
        }
        return calls.get(f"{received.method} {received.path}", self._one)(received)

    def _append_one(self, received: Received) -> httpx2.Response:
        return self._write(received, [parsed(received.body)])

    def _append_batch(self, received: Received) -> httpx2.Response:
        return self._write(received, parsed(received.body)["events"])

    def _query(self, received: Received) -> httpx2.Response:
        body = parsed(received.body)
        return self._page(body["query"], body)

    def _list(self, received: Received) -> httpx2.Response:
        return self._page(items_of(received.parameters), dict(received.parameters))

    def _write(self, received: Received, events: list[dict[str, Any]]) -> httpx2.Response:
        body = parsed(received.body)
        key = received.headers["Idempotency-Key"]
        if key in self.answers_by_key:
            content, answer = self.answers_by_key[key]
            if content != received.body:
                return problem(422, "idempotency-mismatch", "The key was used for other content.")
            return created(answer, replayed=True)
        refused = self._refused(body.get("condition"))
        if refused is not None:
            return refused
        ids = [self._append(event) for event in events]
        answer = {"created_at": CREATED_AT, "status": "stored"}
        answer |= {"ids": ids} if "events" in body else {"id": ids[0]}
        self.answers_by_key[key] = (received.body, answer)
        return created(answer, replayed=False)

    def _refused(self, condition: Mapping[str, Any] | None) -> httpx2.Response | None:
        if condition is None:
            return None
        if condition.get("incarnation", self.incarnation) != self.incarnation:
            return problem(409, "book-restored", "The book was restored.")
        after = condition.get("after", 0)
        in_the_way = [
            event
            for event in self.events
            if event["id"] > after and matches(condition["fail_if"], event)
        ]
        if not in_the_way:
            return None
        more = {"head": self.head, "conflicts": in_the_way[:20]}
        return problem(409, "condition-failed", "Something was written since.", **more)

    def _append(self, event: Mapping[str, Any]) -> int:
        written = {
            "id": self.head + 1,
            "agent_name": event["agent_name"],
            "event_type": event["event_type"],
            "payload": event["payload"],
            "tags": sorted(event.get("tags", [])),
            "created_at": CREATED_AT,
            "occurred_at": event.get("occurred_at"),
            "caused_by": event.get("caused_by", []),
            "context": event.get("context"),
        }
        self.events.append(written)
        return self.head

    def _page(self, items: list[dict[str, Any]], asked: Mapping[str, Any]) -> httpx2.Response:
        self.before_page()
        newest_first = asked.get("order") == "desc"
        head, last = self.head, 2**63 if newest_first else 0
        if "cursor" in asked:
            head, last = map(int, asked["cursor"].split("."))
        found = [
            event
            for event in (reversed(self.events) if newest_first else self.events)
            if event["id"] <= min(head, int(asked.get("up_to", head)))
            and event["id"] > int(asked.get("after", 0))
            and event["id"] < int(asked.get("before", 2**63))
            and (event["id"] < last if newest_first else event["id"] > last)
            and matches(items, event)
        ]
        count = min(int(asked["limit"]), self.page_events_max)
        shown, more = found[:count], len(found) > count
        following = f"{head}.{shown[-1]['id']}" if more else None
        page = {"events": shown, "head": head, "next": following, "has_more": more}
        return httpx2.Response(200, headers=self._read_headers(head), content=written(page))

    def _one(self, received: Received) -> httpx2.Response:
        place = received.path.removeprefix("/events/")
        if not place.isdigit():
            return problem(404, "not-found", "No call has this path.")
        position = int(place)
        if position > self.head:
            return problem(404, "event-not-found", f"There is no event {position}.")
        content = written(self.events[position - 1])
        return httpx2.Response(200, headers=self._read_headers(self.head), content=content)

    def _stream(self, received: Received) -> httpx2.Response:
        last = received.headers.get("Last-Event-ID")
        if last is not None:
            incarnation, _, place = last.rpartition(".")
            if incarnation != self.incarnation:
                return problem(409, "book-restored", "The book was restored.")
            after = int(place)
        else:
            after = int(received.parameters.get("after", self.head))
        items = items_of(received.parameters)
        text = f": heartbeat\nid: {self.incarnation}.{after}\n\n"
        for event in self.events[after:]:
            if matches(items, event):
                data = written(event).decode()
                text += f"id: {self.incarnation}.{event['id']}\ndata: {data}\n\n"
        make = self.streams.popleft() if self.streams else whole
        stream = make(text.encode())
        self.opened_streams.append(stream)
        headers = self._read_headers(self.head) | {
            "Content-Type": "text/event-stream; charset=utf-8"
        }
        return httpx2.Response(200, headers=headers, stream=stream)

    def _read_headers(self, head: int) -> dict[str, str]:
        return {
            "Counterfoil-Head": str(head),
            "Counterfoil-Incarnation": self.incarnation,
            "Content-Type": "application/json",
            "X-Request-Id": "req_1",
        }


# --- Streams: how a connection serves its bytes -----------------------------------------


def whole(content: bytes) -> Stream:
    """Everything in one chunk, then the connection is closed in good order."""
    return Stream([content], None)


def byte_by_byte(content: bytes) -> Stream:
    return Stream([content[i : i + 1] for i in range(len(content))], None)


def broken_after(count: int) -> Callable[[bytes], Stream]:
    """The connection breaks after ``count`` bytes."""
    return lambda content: Stream([content[:count]], httpx2.ReadError("connection reset"))


# --- Parts ------------------------------------------------------------------------------


def problem(status: int, name: str, detail: str, **more: Any) -> httpx2.Response:
    """A problem document as the service writes it."""
    headers = more.pop("headers", {})
    document = {
        "type": f"/problems/{name}",
        "title": name.replace("-", " ").capitalize(),
        "status": status,
        "detail": detail,
        "request_id": "req_1",
    }
    return httpx2.Response(
        status,
        headers={"Content-Type": "application/problem+json", "X-Request-Id": "req_1"} | headers,
        content=written(document | more),
    )


def created(answer: Mapping[str, Any], *, replayed: bool) -> httpx2.Response:
    headers = {"Content-Type": "application/json"}
    if replayed:
        headers["Idempotent-Replayed"] = "true"
    return httpx2.Response(201, headers=headers, content=written(answer))


def matches(items: list[dict[str, Any]], event: Mapping[str, Any]) -> bool:
    """The rule of the query language; no items: everything."""
    return not items or any(
        event["event_type"] in item.get("types", [event["event_type"]])
        and event["agent_name"] in item.get("agents", [event["agent_name"]])
        and set(item.get("tags", [])) <= set(event["tags"])
        for item in items
    )


def items_of(parameters: httpx2.QueryParams) -> list[dict[str, Any]]:
    """The one item that the parameters of ``GET /events`` make."""
    named = {"types": "type", "agents": "agent", "tags": "tag"}
    item = {name: parameters.get_list(parameter) for name, parameter in named.items()}
    asked = {name: values for name, values in item.items() if values}
    return [asked] if asked else []


def parsed(body: bytes) -> Any:
    return json.loads(body, parse_float=Decimal)


def written(value: Any) -> bytes:
    return msgspec.json.Encoder(decimal_format="number").encode(value)
