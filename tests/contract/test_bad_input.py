"""What bad input gets: a problem document that points at the field, and nothing stored.

Bodies are sent as bytes, exactly as they are written here.
"""

import json
import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from counterfoil.server.core import limits
from tests.contract.conftest import Door
from tests.contract.problems import assert_problem

pytestmark = pytest.mark.promise("P13")

POSITION_MAX = 2**63 - 1
SECONDS_MAX = 5.0
"""A refusal takes milliseconds. What grew with the square of a body took a quarter of a minute;
between the two there is room for a machine that does other things at the same time."""


def event(**members: object) -> dict[str, Any]:
    return {"agent_name": "a", "event_type": "t", "payload": {}, **members}


def without(member: str) -> dict[str, Any]:
    return {name: value for name, value in event().items() if name != member}


def with_payload(text: str) -> str:
    """An event whose payload is this very text."""
    return '{"agent_name":"a","event_type":"t","payload":' + text + "}"


def send(door: Door, path: str, body: object, **headers: str) -> httpx2.Response:
    """Post a body, and check that the answer came at once and that nothing was stored."""
    content = (
        body
        if isinstance(body, bytes)
        else (body.encode() if isinstance(body, str) else json.dumps(body).encode())
    )
    with door.stores_nothing():
        started_at = time.perf_counter()
        answer = door.client.post(
            path, content=content, headers={"Content-Type": "application/json", **headers}
        )
        assert time.perf_counter() - started_at < SECONDS_MAX
    return answer


MALFORMED = {
    "no body": b"",
    "white space": b"  \n ",
    "not JSON": b"hello",
    "a word too many": b"{} {}",
    "single quotes": b"{'agent_name': 'a'}",
    "a trailing comma": with_payload("{},").encode(),
    "a comment": b"// an event\n" + with_payload("{}").encode(),
    "cut off": with_payload('{"a": ').encode()[:-1],
    "a byte order mark": b"\xef\xbb\xbf" + with_payload("{}").encode(),
    "Latin-1": with_payload('{"a":"\xe9"}').encode("latin-1"),
    "UTF-16": with_payload("{}").encode("utf-16"),
    "an encoded surrogate": with_payload('{"a":"X"}').encode().replace(b"X", b"\xed\xa0\x80"),
    "a raw line end in a string": with_payload('{"a":"\n"}').encode(),
    "NaN": with_payload('{"a":NaN}').encode(),
    "Infinity": with_payload('{"a":Infinity}').encode(),
    "-Infinity": with_payload('{"a":-Infinity}').encode(),
    "a number with a leading zero": with_payload('{"a":01}').encode(),
    "a number without digits": with_payload('{"a":-}').encode(),
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
@pytest.mark.parametrize("path", ["/agent-events", "/events", "/events/batch", "/events/query"])
def test_what_is_not_one_json_document_is_malformed(door: Door, path: str, body: bytes) -> None:
    assert_problem(send(door, path, body), 400, "malformed-document")


UNFIT = {
    "NUL in a string": ('{"a":"x\\u0000y"}', "/payload/a"),
    "NUL in a key": ('{"a\\u0000b":1}', None),
    "NUL deep down": ('{"a":[1,{"b":"\\u0000"}]}', "/payload/a/1/b"),
    "half of a surrogate pair": ('{"a":"\\ud800"}', "/payload/a"),
    "the other half": ('{"a":"\\udc00x"}', "/payload/a"),
    "a half in a key": ('{"\\ud800":1}', None),
    "400 digits": ('{"a":' + "9" * 400 + "}", "/payload/a"),
    "400 digits behind the point": ('{"a":0.' + "9" * 400 + "}", "/payload/a"),
    "many digits written out": ('{"a":1e131071}', "/payload/a"),
    "many digits behind the point": ('{"a":1e-400}', "/payload/a"),
    "an exponent beyond all": ('{"a":1e999999999999999999999}', "/payload/a"),
    "a key twice": ('{"a":1,"a":1}', "/payload/a"),
    "a key twice, escaped": ('{"a":1,"\\u0061":2}', "/payload/a"),
    "a key twice, deep down": ('{"x":[{"a":1,"b":2,"a":3}]}', "/payload/x/0/a"),
    "nested 65 deep": ('{"a":' * 65 + "1" + "}" * 65, None),
    "nested 10,000 deep": ('{"a":' + "[" * 10_000 + "]" * 10_000 + "}", None),
}


@pytest.mark.parametrize(("payload", "pointer"), UNFIT.values(), ids=UNFIT.keys())
def test_what_cannot_be_kept_exactly_is_refused(
    door: Door, payload: str, pointer: str | None
) -> None:
    document = assert_problem(
        send(door, "/events", with_payload(payload)), 422, "invalid-input", pointer
    )
    assert document["errors"]


def test_that_postgresql_cannot_store_nul_is_said(door: Door) -> None:
    answer = send(door, "/events", with_payload('{"a":"\\u0000"}'))

    assert "PostgreSQL" in answer.json()["errors"][0]["message"]


def test_10_000_unclosed_brackets_are_refused(door: Door) -> None:
    answer = send(door, "/events", "[" * 10_000)

    assert answer.status_code in {400, 422}
    assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("body", ["[]", "null", "1", '"text"', "true", "[{}]"])
@pytest.mark.parametrize("path", ["/agent-events", "/events", "/events/batch", "/events/query"])
def test_what_is_not_an_object_is_refused(door: Door, path: str, body: str) -> None:
    assert_problem(send(door, path, body), 422, "invalid-input", "")


INVALID: dict[str, tuple[object, str]] = {
    "no agent name": (without("agent_name"), "/agent_name"),
    "no type": (without("event_type"), "/event_type"),
    "no payload": (without("payload"), "/payload"),
    "an unknown field": (event(colour="red"), "/colour"),
    "an unknown field with odd characters": (event(**{"a/b~c": 1}), "/a~1b~0c"),
    "an empty agent name": (event(agent_name=""), "/agent_name"),
    "an agent name of 129": (event(agent_name="a" * 129), "/agent_name"),
    "an agent name that is a number": (event(agent_name=7), "/agent_name"),
    "an agent named .": (event(agent_name="."), "/agent_name"),
    "an agent named ..": (event(agent_name=".."), "/agent_name"),
    "an agent name with a line end": (event(agent_name="a\nb"), "/agent_name"),
    "an empty type": (event(event_type=""), "/event_type"),
    "a type of 129": (event(event_type="t" * 129), "/event_type"),
    "a type that is null": (event(event_type=None), "/event_type"),
    "a payload that is a list": (event(payload=[]), "/payload"),
    "a payload that is a string": (event(payload="{}"), "/payload"),
    "a payload that is null": (event(payload=None), "/payload"),
    "a payload beyond its limit": (
        event(payload={"a": "x" * limits.PAYLOAD_BYTES_MAX}),
        "/payload",
    ),
    "a payload that PostgreSQL writes out beyond its limit": (
        # Seven bytes as sent, 100 digits written out.
        with_payload('{"a":[' + ",".join(["1e99"] * 3_000) + "]}"),
        "/payload",
    ),
    "tags that are no list": (event(tags="card:1"), "/tags"),
    "a tag without a colon": (event(tags=["card"]), "/tags/0"),
    "a tag without a kind": (event(tags=["card:1", ":1"]), "/tags/1"),
    "a tag without a value": (event(tags=["card:"]), "/tags/0"),
    "a tag of 257": (event(tags=["card:" + "1" * 252]), "/tags/0"),
    "a tag whose kind has 65": (event(tags=["k" * 65 + ":1"]), "/tags/0"),
    "33 tags": (event(tags=[f"card:{n}" for n in range(33)]), "/tags"),
    "33 tags, given and derived": (
        event(tags=[f"card:{n}" for n in range(32)], payload={"customer_id": "c"}),
        "/tags",
    ),
    "a derived tag beyond its limit": (
        event(payload={"customer_id": "x" * 300}),
        "/payload/customer_id",
    ),
    "a derived tag without a value": (event(payload={"customer_id": ""}), "/payload/customer_id"),
    "a time without an offset": (event(occurred_at="2026-03-01T12:00:00"), "/occurred_at"),
    "a time that is none": (event(occurred_at="yesterday"), "/occurred_at"),
    "a day that there is not": (event(occurred_at="2026-02-30T12:00:00Z"), "/occurred_at"),
    "a time that is a number": (event(occurred_at=1_772_366_400), "/occurred_at"),
    "a cause that is text": (event(caused_by=["1"]), "/caused_by/0"),
    "a negative cause": (event(caused_by=[-1]), "/caused_by/0"),
    "cause 0": (event(caused_by=[0]), "/caused_by/0"),
    "a huge cause": (event(caused_by=[POSITION_MAX + 1]), "/caused_by/0"),
    "a cause that is a fraction": (event(caused_by=[1.5]), "/caused_by/0"),
    "101 causes": (event(caused_by=list(range(1, 102))), "/caused_by"),
    "a context that is text": (event(context="gpt"), "/context"),
    "a context beyond its limit": (
        event(context={"prompt": "x" * limits.CONTEXT_BYTES_MAX}),
        "/context",
    ),
    "a condition that is a list": (event(condition=[]), "/condition"),
    "a condition without a query": (event(condition={"after": 0}), "/condition/fail_if"),
    "a condition with an empty query": (event(condition={"fail_if": []}), "/condition/fail_if"),
    "a condition that asks nothing": (event(condition={"fail_if": [{}]}), "/condition/fail_if/0"),
    "a condition with empty lists": (
        event(condition={"fail_if": [{"types": [], "tags": []}]}),
        "/condition/fail_if/0",
    ),
    "a condition with 101 items": (
        event(condition={"fail_if": [{"types": ["t"]}] * 101}),
        "/condition/fail_if",
    ),
    "a condition with an unknown field": (
        event(condition={"fail_if": [{"types": ["t"]}], "before": 1}),
        "/condition/before",
    ),
    "a condition whose item has an unknown field": (
        event(condition={"fail_if": [{"type": ["t"]}]}),
        "/condition/fail_if/0/type",
    ),
    "a negative after": (
        event(condition={"fail_if": [{"types": ["t"]}], "after": -1}),
        "/condition/after",
    ),
    "a huge after": (
        event(condition={"fail_if": [{"types": ["t"]}], "after": POSITION_MAX + 1}),
        "/condition/after",
    ),
    "an after that is text": (
        event(condition={"fail_if": [{"types": ["t"]}], "after": "1"}),
        "/condition/after",
    ),
    "an after that is true": (
        event(condition={"fail_if": [{"types": ["t"]}], "after": True}),
        "/condition/after",
    ),
    "an incarnation that is none": (
        event(condition={"fail_if": [{"types": ["t"]}], "incarnation": "1"}),
        "/condition/incarnation",
    ),
}


@pytest.mark.parametrize(("body", "pointer"), INVALID.values(), ids=INVALID.keys())
@pytest.mark.parametrize("path", ["/agent-events", "/events"])
def test_an_event_that_breaks_a_rule_is_refused(
    door: Door, path: str, body: object, pointer: str
) -> None:
    assert_problem(send(door, path, body), 422, "invalid-input", pointer)


def test_every_fault_of_an_event_is_named_at_once(door: Door) -> None:
    answer = send(door, "/events", {"agent_name": "", "payload": [], "colour": "red"})

    document = assert_problem(answer, 422, "invalid-input")
    pointers = {error["pointer"] for error in document["errors"]}
    assert pointers == {"/agent_name", "/event_type", "/payload", "/colour"}


def test_an_after_above_the_head_is_refused(door: Door) -> None:
    head = door.head()
    for after in (head + 1, POSITION_MAX):
        body = event(condition={"fail_if": [{"types": ["never"]}], "after": after})

        answer = send(door, "/events", body)

        assert_problem(answer, 422, "after-above-head", "/condition/after")


def test_a_cause_that_is_unknown_or_lies_ahead_is_refused(door: Door) -> None:
    position = door.append()

    for cause in (position + 1, POSITION_MAX):
        answer = send(door, "/events", event(caused_by=[position, cause]))

        assert_problem(answer, 422, "unknown-cause", "/caused_by/1")


def test_of_a_hundred_thousand_unknown_causes_the_first_are_named(door: Door) -> None:
    unknown = event(caused_by=[POSITION_MAX] * limits.CAUSES_MAX)

    answer = send(door, "/events/batch", {"events": [unknown] * limits.BATCH_EVENTS_MAX})

    problem = assert_problem(answer, 422, "unknown-cause", "/events/0/caused_by/0")
    assert len(problem["errors"]) == limits.FIELD_ERRORS_MAX


def test_an_event_cannot_be_caused_by_one_of_its_own_batch(door: Door) -> None:
    head = door.head()
    body = {"events": [event(), event(caused_by=[head + 1])]}

    answer = send(door, "/events/batch", body)

    assert_problem(answer, 422, "unknown-cause", "/events/1/caused_by/0")


def test_a_condition_from_before_a_restore_is_refused(door: Door) -> None:
    body = event(
        condition={
            "fail_if": [{"types": ["never"]}],
            "after": 0,
            "incarnation": "00000000-0000-4000-8000-000000000000",
        }
    )
    assert_problem(send(door, "/events", body), 409, "book-restored")


BAD_BATCHES: dict[str, tuple[object, str]] = {
    "no events": ({}, "/events"),
    "an empty list": ({"events": []}, "/events"),
    "no list": ({"events": event()}, "/events"),
    "one bad event": (
        {"events": [event(), event(), event(agent_name=".."), event()]},
        "/events/2/agent_name",
    ),
    "an event that is text": ({"events": [event(), "x"]}, "/events/1"),
    "a condition of one event": (
        {"events": [event(condition={"fail_if": [{"types": ["t"]}]})]},
        "/events/0/condition",
    ),
    "a bad tag in one": ({"events": [event(), event(tags=["x"])]}, "/events/1/tags/0"),
    "1,001 events": ({"events": [event()] * 1_001}, "/events"),
    "an unknown field": ({"events": [event()], "atomic": True}, "/atomic"),
    "a bad condition": ({"events": [event()], "condition": {}}, "/condition/fail_if"),
    "a payload that PostgreSQL writes out beyond its limit": (
        '{"events":['
        + with_payload("{}")
        + ","
        + with_payload('{"a":[' + ",".join(["1e99"] * 3_000) + "]}")
        + "]}",
        "/events/1/payload",
    ),
}


@pytest.mark.parametrize(("body", "pointer"), BAD_BATCHES.values(), ids=BAD_BATCHES.keys())
def test_a_batch_with_one_fault_is_refused_as_a_whole(
    door: Door, body: object, pointer: str
) -> None:
    assert_problem(send(door, "/events/batch", body), 422, "invalid-input", pointer)


BAD_QUERIES: dict[str, tuple[object, str]] = {
    "no query": ({}, "/query"),
    "an empty query": ({"query": []}, "/query"),
    "an item that asks nothing": ({"query": [{"types": ["t"]}, {}]}, "/query/1"),
    "101 items": ({"query": [{"types": ["t"]}] * 101}, "/query"),
    "101 types": ({"query": [{"types": [f"t{n}" for n in range(101)]}]}, "/query/0/types"),
    "an unknown field": ({"query": [{"types": ["t"]}], "tag": "x"}, "/tag"),
    "a limit of 0": ({"query": [{"types": ["t"]}], "limit": 0}, "/limit"),
    "a limit of 1,001": ({"query": [{"types": ["t"]}], "limit": 1_001}, "/limit"),
    "a negative after": ({"query": [{"types": ["t"]}], "after": -1}, "/after"),
    "a huge before": ({"query": [{"types": ["t"]}], "before": POSITION_MAX + 1}, "/before"),
    "an unknown order": ({"query": [{"types": ["t"]}], "order": "random"}, "/order"),
    "a payload that is a list": ({"query": [{"types": ["t"]}], "payload": []}, "/payload"),
    "a malformed cursor": ({"query": [{"types": ["t"]}], "cursor": "x"}, "/cursor"),
}


@pytest.mark.parametrize(("body", "pointer"), BAD_QUERIES.values(), ids=BAD_QUERIES.keys())
def test_a_query_that_breaks_a_rule_is_refused(door: Door, body: object, pointer: str) -> None:
    assert_problem(send(door, "/events/query", body), 422, "invalid-input", pointer)


BAD_PARAMETERS = {
    "an unknown parameter": ("/events?colour=red", "/colour"),
    "a scalar twice": ("/events?limit=1&limit=1", "/limit"),
    "a limit of 0": ("/events?limit=0", "/limit"),
    "a limit of 1,001": ("/events?limit=1001", "/limit"),
    "a limit that is text": ("/events?limit=many", "/limit"),
    "a limit with a sign": ("/events?limit=%2B5", "/limit"),
    "an empty limit": ("/events?limit=", "/limit"),
    "a negative after": ("/events?after=-1", "/after"),
    "a huge after": (f"/events?after={POSITION_MAX + 1}", "/after"),
    "digits of another script": ("/events?after=%D9%A1", "/after"),
    "a huge up_to": ("/events?up_to=" + "9" * 400, "/up_to"),
    "before 0": ("/events?before=0", "/before"),
    "an unknown order": ("/events?order=up", "/order"),
    "a tag without a value": ("/events?tag=card%3A", "/tag/0"),
    "a type with NUL": ("/events?type=a%00b", "/type/0"),
    "an empty agent": ("/events?agent=", "/agent/0"),
    "a payload that is not JSON": ("/events?payload=x", "/payload"),
    "a payload that is a list": ("/events?payload=[]", "/payload"),
    "a payload with a key twice": ("/events?payload=%7B%22a%22:1,%22a%22:2%7D", "/payload/a"),
    "a malformed cursor": ("/events?cursor=abc", "/cursor"),
    "a cursor that is not ASCII": ("/events?cursor=%C3%A9", "/cursor"),
    "what is not UTF-8": ("/events?tag=%ff", ""),
    "301 parameters": ("/events?" + "tag=a:b&" * 301, ""),
    "a limit of an agent's list": ("/agent-events/a?limit=1001", "/limit"),
    "a before of an agent's list": ("/agent-events/a?before=-3", "/before"),
    "an unknown parameter of an agent's list": ("/agent-events/a?after=3", "/after"),
    "an unknown parameter of one event": ("/events/1?limit=1", "/limit"),
    "a cursor of a stream": ("/events/stream?cursor=abc", "/cursor"),
    "a limit of a stream": ("/events/stream?limit=1", "/limit"),
    "an after of a stream": ("/events/stream?after=x", "/after"),
}


@pytest.mark.parametrize(("path", "pointer"), BAD_PARAMETERS.values(), ids=BAD_PARAMETERS.keys())
def test_a_parameter_that_breaks_a_rule_is_refused(door: Door, path: str, pointer: str) -> None:
    assert_problem(door.client.get(path), 422, "invalid-input", pointer, "query")


@pytest.mark.parametrize(
    "text",
    ["0", "-1", "1.0", "1e3", "x", "%2B1", "01x", str(POSITION_MAX + 1), "9" * 500, "%D9%A1"],
)
def test_an_id_that_cannot_be_one_is_refused(door: Door, text: str) -> None:
    assert_problem(door.client.get(f"/events/{text}"), 422, "invalid-input", "/id", "path")


@pytest.mark.parametrize(
    "path",
    ["%ff", "a%00b", "a" * 129, "", "a%0Ab", "%20a"],
    ids=["not UTF-8", "NUL", "129 characters", "empty", "a line end", "white space"],
)
def test_what_cannot_be_an_agents_name_has_no_list(door: Door, path: str) -> None:
    answer = door.client.get(f"/agent-events/{path}")

    assert_problem(answer, 422, "invalid-input", "/agent_name", "path")


@pytest.mark.parametrize("parameter", ["after", "up_to"])
def test_a_read_beyond_the_head_is_refused(door: Door, parameter: str) -> None:
    answer = door.client.get("/events", params={parameter: door.head() + 1})

    assert_problem(answer, 422, "after-above-head", f"/{parameter}", "query")


def test_a_stream_from_beyond_the_head_is_refused(door: Door) -> None:
    answer = door.client.get("/events/stream", params={"after": door.head() + 1})

    assert_problem(answer, 422, "after-above-head")


def test_an_id_above_the_head_is_not_found(door: Door) -> None:
    for position in (door.head() + 1, POSITION_MAX):
        assert_problem(door.client.get(f"/events/{position}"), 404, "event-not-found")


@pytest.mark.parametrize(
    "value", ["", "x", "1", "abc.1", "00000000-0000-4000-8000-000000000000.-1"]
)
def test_a_malformed_last_event_id_is_refused(door: Door, value: str) -> None:
    answer = door.client.get("/events/stream", headers={"Last-Event-ID": value})

    assert_problem(answer, 422, "invalid-input", "/Last-Event-ID", "header")


def test_a_last_event_id_from_before_a_restore_is_refused(door: Door) -> None:
    last = "00000000-0000-4000-8000-000000000000.1"

    answer = door.client.get("/events/stream", headers={"Last-Event-ID": last})

    assert_problem(answer, 409, "book-restored")


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=latin-1",
        "application/json; charset=utf-16",
        "application/json; version=1",
        "application/problem+json",
        "json",
        "",
    ],
)
@pytest.mark.parametrize("path", ["/agent-events", "/events/batch", "/events/query"])
def test_a_body_that_is_not_declared_as_json_is_refused(
    door: Door, path: str, content_type: str
) -> None:
    answer = send(door, path, event(), **{"Content-Type": content_type})

    assert_problem(answer, 415, "unsupported-media-type", "/Content-Type", "header")


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=UTF-8",
        'application/json;charset="utf-8"',
    ],
)
def test_json_may_be_declared_in_any_spelling(door: Door, content_type: str) -> None:
    answer = door.client.post(
        "/events", content=json.dumps(event()), headers={"Content-Type": content_type}
    )
    assert answer.status_code == 201, answer.text


def test_a_body_without_a_declaration_is_refused(door: Door) -> None:
    with door.stores_nothing():
        answer = door.client.post("/events", content=json.dumps(event()))

    assert_problem(answer, 415, "unsupported-media-type", "/Content-Type", "header")


def test_without_any_body_it_is_the_body_that_is_missing(door: Door) -> None:
    with door.stores_nothing():
        answer = door.client.post("/events")

    assert_problem(answer, 400, "malformed-document")


def test_a_compressed_body_is_refused(door: Door) -> None:
    answer = send(door, "/events", event(), **{"Content-Encoding": "gzip"})

    assert_problem(answer, 415, "unsupported-media-type", "/Content-Encoding", "header")


@pytest.mark.parametrize("key", [b"", b"a b", b"x" * 256, "schlüssel".encode()])
def test_a_malformed_idempotency_key_is_refused(door: Door, key: bytes) -> None:
    with door.stores_nothing():
        answer = door.client.post("/events", json=event(), headers=[(b"Idempotency-Key", key)])

    assert_problem(answer, 422, "invalid-input", "/Idempotency-Key", "header")


def test_an_idempotency_key_that_is_sent_twice_is_refused(door: Door) -> None:
    with door.stores_nothing():
        answer = door.client.post(
            "/events",
            json=event(),
            headers=[("Idempotency-Key", "one"), ("Idempotency-Key", "two")],
        )
    assert_problem(answer, 422, "invalid-input", "/Idempotency-Key", "header")


ReadsBody = Callable[[Door, bytes], httpx2.Response]


def test_a_refusal_shows_nothing_of_the_body(door: Door) -> None:
    answer = send(door, "/events", event(payload={"card": "4111"}, caused_by=["4111-secret"]))

    assert "4111" not in answer.text
