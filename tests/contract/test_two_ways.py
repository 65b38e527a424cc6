"""Our own door and FastAPI's own stack lead to the same answers.

A call of ours is served at the door, past everything that frameworks do in between. The way
through them is still there, for the pages and for whatever is wrong; so every request here
goes both ways, each to a service with a book of its own, and the answers must be the same:
status, headers and body, what is counted, and what is logged.
"""

import asyncio
import json
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, Final, cast
from urllib.parse import unquote

import httpx2
import pytest
import structlog
from pydantic import SecretStr
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from counterfoil.server import logs
from counterfoil.server.api.errors import PROBLEM_OF
from counterfoil.server.api.routes import OPEN, REFUSED_FOR, RawRoute
from counterfoil.server.app import Service, create_app
from counterfoil.server.core import metrics
from counterfoil.server.core.settings import LogLevel, Settings
from tests.support.cluster import Cluster
from tests.support.service import running_service
from tests.support.waiting import WAIT_SECONDS_MAX, wait_for

pytestmark = pytest.mark.anyio

KEY: Final = "a-key-of-both-ways"
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW")
JSON: Final = {"content-type": "application/json", "host": "localhost:8000"}

Counts = dict[tuple[str, ...], float]


@dataclass(frozen=True)
class Call:
    """One request. ``leaves`` is a caller who goes before its body is there."""

    method: str
    path: str
    query: str = ""
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)
    leaves: bool = False

    def with_headers(self, **more: str) -> "Call":
        """The same with more headers; ``_`` stands for ``-``."""
        renamed = {name.replace("_", "-"): value for name, value in more.items()}
        return replace(self, headers={**self.headers, **renamed})


@dataclass(frozen=True)
class Answer:
    """What came back, and what it left behind."""

    status: int | None
    headers: list[tuple[bytes, bytes]]
    body: bytes
    route: str
    counted: Counts


def note(nth: int, **more: object) -> bytes:
    """The body of an append."""
    return json.dumps(
        {"agent_name": "a", "event_type": "t", "payload": {"nth": nth}, "tags": ["x:1"], **more}
    ).encode()


ADDRESSES: Final = (
    "/agent-events",
    "/agent-events/a",
    "/agent-events/",
    "/agent-events/%C3%A4%2F%2E%2E",
    "/events",
    "/events/batch",
    "/events/query",
    "/events/stream",
    "/events/1",
    "/events/9999",
    "/events/stream/",
    "/events/",
    "/me",
    "/keys",
    "/keys/a",
    "/freezes",
    "/freezes/1",
    "/event-types",
    "/event-types/t",
    "/settings",
    "/health/live",
    "/problems",
    "/problems/busy",
    "/problems/nothing",
    "/nowhere",
    "/",
)

BATCH: Final = b'{"events": [%b, %b]}' % (note(3), note(4))
QUERY: Final = b'{"query": [{"tags": ["x:1"]}], "limit": 1}'
GUARDED: Final = note(5, condition={"fail_if": [{"tags": ["x:1"]}], "after": 1})

CALLS: Final = (
    # What is in the book first.
    Call("POST", "/events", body=note(1)),
    Call("POST", "/agent-events", body=note(2)).with_headers(idempotency_key="k"),
    Call("POST", "/agent-events", body=note(2)).with_headers(idempotency_key="k"),
    Call("POST", "/agent-events", body=note(9)).with_headers(idempotency_key="k"),
    Call("POST", "/events/batch", body=BATCH),
    Call("POST", "/events", body=GUARDED),
    Call("POST", "/events/query", body=QUERY),
    Call("GET", "/events", "tag=x:1&limit=2&order=desc"),
    Call("GET", "/events", "limit=x&nothing=1"),
    Call("GET", "/events", "%FF=1"),
    Call("GET", "/events", "after=999"),
    Call("GET", "/events/1", "limit=1"),
    Call("GET", "/events/stream", "after=0"),
    Call("GET", "/events/stream", "after=999"),
    Call("GET", "/events/stream").with_headers(last_event_id="rubbish"),
    Call("GET", "/agent-events/a", "limit=1"),
    Call("GET", "/agent-events/a", "limit=0"),
    Call("GET", "/agent-events/%00"),
    Call("GET", "/agent-events/%FF"),
    Call("GET", "/agent-events/a/b"),
    Call("GET", "/events/0"),
    Call("GET", "/events/one"),
    # Bodies, and what is said of them.
    Call("POST", "/events"),
    Call("POST", "/events", body=b"{"),
    Call("POST", "/events", body=b"[]"),
    Call("POST", "/events", body=note(1, caused_by=[999])),
    Call("POST", "/events", body=note(1)).with_headers(content_type="text/plain"),
    Call("POST", "/events", body=note(1)).with_headers(content_encoding="gzip"),
    Call("POST", "/events", body=note(1)).with_headers(content_length="99999999"),
    Call("POST", "/events", body=b"x" * 600_000),
    Call("POST", "/events/batch", body=b'{"events": []}'),
    Call("POST", "/events/query", "limit=1", body=QUERY),
    # Who asks, and from where.
    Call("GET", "/events").with_headers(host="bank.example"),
    Call("GET", "/nowhere").with_headers(host="bank.example"),
    Call("GET", "/events", headers={}),
    Call("GET", "/events/1").with_headers(x_request_id="x" * 129),
    *(Call(method, path) for method, path in product(METHODS, ADDRESSES)),
)

VARYING: Final = re.compile(
    rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}"
    rb"|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00|(?<=\"next\":\")[\w-]+"
)
"""What is another at every try: incarnations, ids of requests, times, cursors."""


def steady(text: bytes) -> bytes:
    """A text without what is another at every try, and without how long that is."""
    return VARYING.sub(b"~", text)


class Way:
    """One of the ways into a service, over a book of its own."""

    def __init__(self, app: Service, entrance: ASGIApp) -> None:
        self.app = app
        self._entrance = entrance

    async def ask(self, call: Call) -> Answer:
        """Send one request as a server would; a stream is left after its first piece."""
        raw = call.path.encode()
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": call.method,
            "scheme": "http",
            "path": unquote(call.path),
            "raw_path": raw,
            "query_string": call.query.encode(),
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in call.headers.items()],
            "server": ("localhost", 8000),
            "client": ("127.0.0.1", 50_000),
            "app": self.app,
        }
        sent: list[Message] = []
        left = asyncio.Event()
        arriving = iter([{"type": "http.request", "body": call.body, "more_body": False}])

        async def receive() -> Message:
            if not call.leaves and (message := next(arriving, None)) is not None:
                return message
            if not call.leaves:
                await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message)
            if message.get("more_body"):
                left.set()

        before = counted()
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            await self._entrance(scope, receive, send)
        starts = [message for message in sent if message["type"] == "http.response.start"]
        assert len(starts) <= 1
        pieces = [message["body"] for message in sent if message["type"] == "http.response.body"]
        if left.is_set():
            # What a stream says after its first piece depends on who is quicker.
            pieces = pieces[:1]
        return Answer(
            status=starts[0]["status"] if starts else None,
            headers=sorted((name, steady(value)) for name, value in starts[0]["headers"])
            if starts
            else [],
            body=steady(b"".join(pieces)),
            route=getattr(scope.get("route"), "path_format", "none"),
            counted={
                labels: value - before.get(labels, 0)
                for labels, value in counted().items()
                if value != before.get(labels, 0)
            },
        )


def counted() -> Counts:
    """How many requests were counted, by method, route and status."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for metric in (metrics.REQUESTS, metrics.REQUEST_SECONDS)
        for family in metric.collect()
        for sample in family.samples
        if sample.name.endswith(("_total", "_count"))
    }


@asynccontextmanager
async def service(cluster: Cluster, *, api_key: str | None) -> AsyncIterator[Service]:
    """A service in this process, with a book of its own."""
    with cluster.database() as database:
        app = create_app(
            Settings(
                database_url=SecretStr(database.url),
                api_key=None if api_key is None else SecretStr(api_key),
                open_to_this_machine=api_key is None,
            )
        )
        async with app.router.lifespan_context(app):
            yield app


@contextmanager
def logging_as_a_service(level: LogLevel) -> Iterator[None]:
    """Log as a service does, and then again as pytest does."""
    root = logging.getLogger()
    handlers, before = root.handlers[:], root.level
    logs.set_up("json", level)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(before)
        structlog.reset_defaults()


@asynccontextmanager
async def both_ways(cluster: Cluster, *, api_key: str | None) -> AsyncIterator[tuple[Way, Way]]:
    """The way through the door, and the way through FastAPI's own stack."""
    async with service(cluster, api_key=api_key) as near, service(cluster, api_key=api_key) as far:
        yield Way(near, near), Way(far, cast("Any", far)._door._long_way)


def our_routes() -> list[RawRoute]:
    """The calls that the door serves itself."""
    app = create_app(Settings(database_url=SecretStr("postgresql://nowhere")))
    return [route for route in app.routes if isinstance(route, RawRoute) and route.needs != OPEN]


@pytest.mark.promise("P13")
@pytest.mark.parametrize("api_key", [None, KEY], ids=["open", "key"])
async def test_both_ways_lead_to_the_same_answers(cluster: Cluster, api_key: str | None) -> None:
    calls = list(CALLS)
    if api_key is not None:
        calls = [call.with_headers(authorization=f"Bearer {api_key}") for call in CALLS]
        calls += [call.with_headers(x_api_key="another") for call in calls]
        calls += CALLS
    statuses = set()
    async with both_ways(cluster, api_key=api_key) as (near, far):
        for call in calls:
            answers = [await near.ask(call), await far.ask(call)]
            if answers[0].status in {401, 421}:
                # At the door it is known which call was not admitted; else there is none yet.
                assert {answer.route for answer in answers} <= {answers[0].route, "none"}
                answers = [replace(answer, route="", counted={}) for answer in answers]
            assert answers[0] == answers[1], call
            statuses.add(answers[0].status)
    expected = {200, 201, 400, 404, 405, 409, 413, 415, 422}
    assert statuses == expected | ({421} if api_key is None else {401})


async def test_every_call_of_ours_is_served_at_the_door(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def long_way(scope: Scope, _receive: Receive, _send: Send) -> None:
        raise AssertionError(f"{scope['method']} {scope['path']} went the long way")

    async with service(cluster, api_key=None) as app:
        monkeypatch.setattr(cast("Any", app)._door, "_long_way", long_way)
        way = Way(app, app)
        served = set()
        for route in our_routes():
            path = re.sub(r"\{[^}]+\}", "1", route.path_format)
            for method in route.methods or ():
                answer = await way.ask(Call(method, path, body=b"{}"))
                assert answer.status is not None
                assert answer.route == route.path_format
                assert ("counterfoil_http_requests_total", method, route.path_format) in {
                    labels[:3] for labels in answer.counted
                }
                served.add((method, route.path_format))
        assert len(served) == len(our_routes()) > 8


async def test_a_caller_who_leaves_is_neither_answered_nor_counted(cluster: Cluster) -> None:
    async with service(cluster, api_key=None) as app:
        answer = await Way(app, app).ask(Call("POST", "/events", body=note(1), leaves=True))
    assert answer == Answer(None, [], b"", "/events", {})


@pytest.mark.promise("P13")
async def test_a_fault_of_ours_is_answered_alike_on_both_ways(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("the secret is out")

    async with both_ways(cluster, api_key=None) as (near, far):
        for way in (near, far):
            monkeypatch.setattr(way.app.parts.log, "get", broken)
        call = Call("GET", "/events/1")
        answer = await near.ask(call)
        assert answer == await far.ask(call)
        assert answer.status == 500
        assert b"/problems/internal-error" in answer.body
        assert b"secret" not in answer.body


async def test_each_request_is_logged_under_its_id_on_both_ways(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = [
        Call("GET", "/events").with_headers(x_request_id="mine"),
        Call("GET", "/events/7").with_headers(x_request_id="mine-2"),
        Call("POST", "/events", body=b"{").with_headers(x_request_id="mine-3"),
        Call("GET", "/nowhere").with_headers(x_request_id="mine-4"),
    ]
    async with both_ways(cluster, api_key=None) as ways:
        with logging_as_a_service("debug"):
            for way in ways:
                for call in calls:
                    capsys.readouterr()
                    answer = await asyncio.create_task(way.ask(call))
                    lines = map(json.loads, capsys.readouterr().err.splitlines())
                    (line,) = [line for line in lines if line["event"] == "request"]
                    request_id = call.headers["x-request-id"]
                    assert (b"x-request-id", request_id.encode()) in answer.headers
                    assert line.get("request_id") == request_id
                    assert (line["method"], line["path"]) == (call.method, call.path)
                    assert line["status"] == answer.status


def test_requests_of_one_connection_are_logged_each_under_its_own_id(cluster: Cluster) -> None:
    """A connection outlives its requests, and must not keep the id of the first."""
    with (
        cluster.database() as database,
        running_service(database.url, environment={"COUNTERFOIL_LOG_LEVEL": "debug"}) as running,
        httpx2.Client(base_url=running.url, timeout=10) as client,
    ):
        ids = {}
        for path in ("/events", "/events/1", "/nowhere", "/health/live", "/agent-events/a"):
            ids[path] = client.get(path).headers["X-Request-Id"]
        posted = client.post("/events", content=b"{", headers={"X-Request-Id": "mine"})
        assert posted.headers["X-Request-Id"] == "mine"
        ids["/events"] = client.get("/events").headers["X-Request-Id"]

        def logged() -> dict[str, str]:
            lines = [json.loads(line) for line in running.log.splitlines() if line.startswith("{")]
            return {
                line["path"]: line.get("request_id", "")
                for line in lines
                if line["event"] == "request" and line["method"] == "GET"
            }

        wait_for(lambda: logged().items() >= ids.items(), "every request to be logged")
    assert len(set(ids.values())) == len(ids)


@pytest.mark.promise("P7")
async def test_what_a_key_is_let_at_is_asked_on_both_ways(cluster: Cluster) -> None:
    """A call that the door did not know would be slower, and open nothing more."""
    make = Call("POST", "/keys", body=b'{"kind": "auditor", "name": "k.osei"}')
    async with both_ways(cluster, api_key=KEY) as (near, far):
        for way in (near, far):
            made = await way.ask(make.with_headers(authorization=f"Bearer {KEY}"))
            bearer = f"Bearer {json.loads(made.body)['key']}"
            write = Call("POST", "/events", body=note(1)).with_headers(authorization=bearer)
            refused = await way.ask(write)
            assert refused.status == 403
            assert b"/problems/scope-missing" in refused.body
            read = Call("GET", "/events", "type=counterfoil.audit_read")
            told = await way.ask(read.with_headers(authorization=bearer))
            assert len(json.loads(told.body)["events"]) == 1


def test_whatever_is_answered_with_403_is_told_of() -> None:
    answered = {error for error, problem in PROBLEM_OF.items() if problem.status == 403}
    assert answered == set(REFUSED_FOR)


@pytest.mark.promise("P7")
async def test_each_refusal_of_a_right_key_is_counted_once_on_both_ways(cluster: Cluster) -> None:
    """Of every route, whether its door refused the call or what it asks for did."""
    key = b'{"kind": "agent", "name": "a", "scopes": ["append:t", "read:t@x"]}'
    asked = [
        Call("POST", "/events", body=note(1)),  # what the others ask about
        Call("POST", "/events", body=note(1, agent_name="b")),
        Call("POST", "/agent-events", body=note(1, event_type="u")),
        Call("POST", "/events/batch", body=b'{"events": [%b]}' % note(1, agent_name="b")),
        Call("POST", "/events", body=note(1, condition={"fail_if": [{"types": ["u"]}]})),
        Call("POST", "/events/query", body=b'{"query": [{"types": ["u"]}]}'),
        Call("GET", "/events", "type=u"),
        Call("GET", "/events/stream"),
        Call("GET", "/agent-events/b"),
        Call("GET", "/events/1"),
        *(
            Call(method, re.sub(r"\{[^}]+\}", "1", route.path_format), body=b"{}")
            for route in our_routes()
            for method in sorted(route.methods or ())
        ),
    ]
    seen = []
    async with both_ways(cluster, api_key=KEY) as ways:
        for way in ways:
            owner = {"authorization": f"Bearer {KEY}"}
            made = await way.ask(Call("POST", "/keys", body=key).with_headers(**owner))
            bearer = f"Bearer {json.loads(made.body)['key']}"
            answers = [await way.ask(call.with_headers(authorization=bearer)) for call in asked]
            refused = Counter(
                json.loads(answer.body)["type"].removeprefix("/problems/")
                for answer in answers
                if answer.status == 403
            )
            await way.app.parts.access.trail.close()  # tells what it has not told yet
            read = Call("GET", "/events", "type=counterfoil.access_refused").with_headers(**owner)
            events = json.loads((await way.ask(read)).body)["events"]
            reasons = {"name": refused["name-not-yours"], "scope": refused["scope-missing"]}
            assert [event["payload"]["reasons"] for event in events] == [reasons]
            assert events[0]["payload"]["attempts"] == refused.total()
            seen.append({answer.route for answer in answers if answer.status == 403})
    assert seen[0] == seen[1]
    # Every call that the key may not make at all, and every one that it may make in part.
    closed = {r.path_format for r in our_routes() if r.needs.startswith(("manage", "operate"))}
    in_part = {"/agent-events", "/agent-events/{agent_name}", "/events", "/events/batch"}
    assert seen[0] >= closed | in_part | {"/events/query", "/events/stream", "/events/{id}"}
