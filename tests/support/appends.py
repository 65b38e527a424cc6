"""What the tests write, and agents that write and read it over plain HTTP.

Nothing of the client library is used here: what it does for its user (retries, keys,
reconnects) is exactly what a test of the service has to see undone.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx2

from counterfoil.server.log.model import AppendRequest, judge_append, judge_batch
from tests.support.waiting import ARRIVAL_SECONDS_MAX, WAIT_SECONDS_MAX, eventually

Json = dict[str, Any]

PRINCIPAL = "anonymous"
"""Who a caller is to a service that asks for no key."""


def note(**payload: object) -> Json:
    """An event that nobody guards against."""
    return {"agent_name": "writer", "event_type": "noted", "payload": payload}


def flag(transaction: str) -> Json:
    """The event that must not slip past an approval."""
    return {
        "agent_name": "fraud_agent",
        "event_type": "flag_transaction",
        "payload": {"transaction_id": transaction, "reason": "velocity_threshold_exceeded"},
    }


def approval(transaction: str, *, after: int | None) -> Json:
    """An approval that stands only if its transaction was not flagged after ``after``."""
    return {
        "agent_name": "approver",
        "event_type": "approved",
        "payload": {"transaction_id": transaction},
        "condition": unless_flagged(transaction, after=after),
    }


def unless_flagged(transaction: str, *, after: int | None) -> Json:
    """A condition: no flag of this transaction above ``after`` (None: none at all)."""
    asked = {"types": ["flag_transaction"], "tags": [f"transaction:{transaction}"]}
    return {"fail_if": [asked]} | ({} if after is None else {"after": after})


def append_request(body: Json, *, key: str | None = None) -> AppendRequest:
    """What the HTTP door makes of the body of an append."""
    return judge_append(json.dumps(body).encode(), principal=PRINCIPAL, key=key, traceparent=None)


def batch_request(events: list[Json], *, key: str | None = None, **more: object) -> AppendRequest:
    """What the HTTP door makes of the body of a batch."""
    body = json.dumps({"events": events, **more}).encode()
    return judge_batch(body, principal=PRINCIPAL, key=key, traceparent=None)


def stored(answer: httpx2.Response, *, replayed: bool = False) -> int:
    """The id of the event that was stored; of a batch, the first."""
    assert answer.status_code == 201, answer.text
    assert ("Idempotent-Replayed" in answer.headers) == replayed
    body = answer.json()
    return int(body["id"] if "id" in body else body["ids"][0])


def problem(answer: httpx2.Response, status: int, name: str) -> Json:
    """The problem document of a refusal, which must be this one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert ("Retry-After" in answer.headers) == (status == 503)
    document: Json = answer.json()
    assert document["type"] == f"/problems/{name}", document
    return document


@dataclass(frozen=True)
class Page:
    """What a read answered."""

    ids: list[int]
    events: list[Json]
    head: int
    incarnation: str
    next: str | None


class Told(NamedTuple):
    """One message of a stream: where it stands, and the event, if it is not a heartbeat."""

    id: str
    event: Json | None

    @property
    def position(self) -> int:
        """The position in the message's id."""
        return int(self.id.partition(".")[2])


@dataclass
class Following:
    """An open stream. Read it, or leave it unread."""

    response: httpx2.Response
    _lines: AsyncIterator[str] = field(init=False)

    def __post_init__(self) -> None:
        self._lines = self.response.aiter_lines()

    async def next(self) -> Told | None:
        """The next message, heartbeats included; None at the end of the stream."""
        told_id, event, heartbeat = "", None, False
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            async for line in self._lines:
                name, _, value = line.partition(": ")
                if name == "id":
                    told_id = value
                elif name == "data":
                    event = json.loads(value)
                elif name == "":
                    heartbeat = heartbeat or value == "heartbeat"
                    if line == "" and (event is not None or heartbeat):
                        return Told(told_id, event)
        return None

    async def events(self, count: int) -> list[Told]:
        """The next so many events, heartbeats passed over."""
        found: list[Told] = []
        while len(found) < count:
            told = await self.next()
            assert told is not None, f"the stream ended after {len(found)} events"
            if told.event is not None:
                found.append(told)
        return found


class Caller:
    """An agent at one process of the service."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self.client = client

    async def append(self, body: Json, *, key: str | None = None) -> httpx2.Response:
        """Post one event, with its condition if it has one."""
        return await self.client.post("/events", json=body, headers=_keyed(key))

    async def batch(
        self, events: list[Json], *, key: str | None = None, condition: Json | None = None
    ) -> httpx2.Response:
        """Post several events as one."""
        body: Json = {"events": events} | ({} if condition is None else {"condition": condition})
        return await self.client.post("/events/batch", json=body, headers=_keyed(key))

    async def read(self, **parameters: str | int) -> Page:
        """Read one page."""
        return self.page(await self.client.get("/events", params=parameters))

    async def query(self, items: list[Json], **more: str | int) -> Page:
        """Read one page of a whole query."""
        return self.page(
            await self.client.post("/events/query", json={"query": items, **more}),
        )

    async def get(self, position: int) -> Json:
        """Read one event."""
        answer = await self.client.get(f"/events/{position}")
        assert answer.status_code == 200, answer.text
        event: Json = answer.json()
        return event

    def page(self, answer: httpx2.Response) -> Page:
        """Understand the answer of a read, which must be one."""
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert int(answer.headers["Counterfoil-Head"]) == body["head"]
        assert body["has_more"] == (body["next"] is not None)
        return Page(
            ids=[event["id"] for event in body["events"]],
            events=body["events"],
            head=body["head"],
            incarnation=answer.headers["Counterfoil-Incarnation"],
            next=body["next"],
        )

    @asynccontextmanager
    async def follow(
        self, *, last_event_id: str | None = None, **parameters: str | int
    ) -> AsyncIterator[Following]:
        """Open a live stream."""
        headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
        async with self.client.stream(
            "GET", "/events/stream", params=parameters, headers=headers
        ) as response:
            assert response.status_code == 200, (await response.aread()).decode()
            yield Following(response)

    async def queued(self, count: int) -> None:
        """Wait until so many appends wait in this process for their group to start."""

        async def look() -> bool:
            return await self.metric("counterfoil_queue_requests") == count

        await eventually(look, f"{count} appends in the queue", ARRIVAL_SECONDS_MAX)

    async def metric(self, name: str) -> float:
        """What the service counts under this name (with its labels, if it has any)."""
        text = (await self.client.get("/metrics")).text
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0


@asynccontextmanager
async def calling(url: str, *, key: str | None = None) -> AsyncIterator[Caller]:
    """Talk to the service at this address, over as many connections as it takes."""
    bounds = httpx2.Limits(max_connections=None, max_keepalive_connections=64)
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with httpx2.AsyncClient(
        base_url=url, headers=headers, timeout=WAIT_SECONDS_MAX, limits=bounds, trust_env=False
    ) as client:
        yield Caller(client)


def _keyed(key: str | None) -> Mapping[str, str]:
    return {} if key is None else {"Idempotency-Key": key}
