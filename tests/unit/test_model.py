"""Appends: what is judged, what the database is given, and what is refused at which place."""

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from counterfoil.server.core import limits
from counterfoil.server.core.document import pointer_to
from counterfoil.server.core.errors import FieldError, InvalidInput, MalformedDocument
from counterfoil.server.log import refusals
from counterfoil.server.log.model import (
    AppendBody,
    AppendRequest,
    BatchBody,
    NewEvent,
    judge_idempotency_key,
    judge_traceparent,
)
from counterfoil.server.log.query import (
    Condition,
    LatestParameters,
    QueryBody,
    QueryItem,
    ReadParameters,
    StreamParameters,
)
from tests.unit.appends import (
    append,
    batch,
    document_of,
    errors_of,
    event,
    only_error_of,
    stored,
)

POSITION_MAX = limits.POSITION_MAX
INCARNATION = "6b1f6b3e-0a52-4c7e-9d5e-0d1c2b3a4f5e"


# --- What the database is given ---------------------------------------------------


def test_an_event_of_three_fields_is_given_as_it_is() -> None:
    request = append(event())

    assert document_of(request) == {
        "operation": "append",
        "principal": "api-key",
        "events": [{"agent_name": "a", "event_type": "t", "payload": {}, "tags": []}],
    }
    assert request == AppendRequest(
        operation="append",
        document=request.document,
        event_count=1,
        size_bytes=len(request.document),
        keyed=False,
        causes=(),
        condition_after=None,
        condition_values=0,
    )


def test_all_that_an_append_can_hold_is_given() -> None:
    body = event(
        payload={"transaction_id": "tx_1"},
        tags=["customer:c", "card:7", "card:7"],
        occurred_at="2026-03-01T12:30:00+01:00",
        caused_by=[7, 3],
        context={"model": "m"},
        condition={
            "fail_if": [{"types": ["b", "a"]}, {"agents": ["x"], "tags": ["k:v"]}],
            "after": 0,
            "incarnation": INCARNATION.upper(),
        },
    )
    request = append(body, "key-1", "00-aa-bb-01")

    assert document_of(request) == {
        "operation": "append",
        "principal": "api-key",
        "key": "key-1",
        "traceparent": "00-aa-bb-01",
        "events": [
            {
                "agent_name": "a",
                "event_type": "t",
                "payload": {"transaction_id": "tx_1"},
                "tags": ["card:7", "customer:c", "transaction:tx_1"],
                "occurred_at": "2026-03-01T11:30:00.000000+00:00",
                "caused_by": [7, 3],
                "context": {"model": "m"},
            }
        ],
        "condition": {
            "fail_if": [{"types": ["a", "b"]}, {"agents": ["x"], "tags": ["k:v"]}],
            "after": 0,
            "incarnation": INCARNATION,
        },
        "cause_max": 7,
    }
    assert request.keyed
    assert request.causes == (("/caused_by", [7, 3]),)


def test_what_is_optional_may_be_null_or_empty_and_is_left_out() -> None:
    nothing = event(tags=None, occurred_at=None, caused_by=None, context=None)

    assert append(nothing).document == append(event()).document
    assert append(event(tags=[], caused_by=[])).document == append(event()).document
    assert stored(context={})["context"] == {}


def test_a_batch_is_given_whole_and_in_its_order() -> None:
    body = {
        "events": [event(event_type=f"t{n}", caused_by=[n + 1]) for n in range(3)],
        "condition": {"fail_if": [{"types": ["x"], "agents": ["a", "b"]}, {"tags": ["k:v"]}]},
    }
    request = batch(body, key="key-1")
    document = document_of(request)

    assert document["operation"] == request.operation == "batch"
    assert [given["event_type"] for given in document["events"]] == ["t0", "t1", "t2"]
    assert document["condition"] == body["condition"]
    assert document["cause_max"] == 3
    assert (request.event_count, request.condition_values, request.keyed) == (3, 4, True)
    assert request.causes == tuple((f"/events/{n}/caused_by", [n + 1]) for n in range(3))


def test_a_batch_may_hold_1000_events() -> None:
    assert batch({"events": [event()] * 1_000}).event_count == 1_000


def test_payload_and_context_keep_their_digits() -> None:
    request = append(
        b'{"agent_name": "a", "event_type": "t", "payload": {"amount": 12.50, "n": 1e2, '
        b'"big": 12345678901234567890123}, "context": {"temperature": 0.10}}'
    )

    assert b'{"amount":12.50,"n":1E+2,"big":12345678901234567890123}' in request.document
    assert b'{"temperature":0.10}' in request.document


# --- Every field, at its place ----------------------------------------------------

WHOLE: dict[str, Any] = event(
    tags=["k:v", "k:w"],
    occurred_at="2026-03-01T12:30:00Z",
    caused_by=[1, 2],
    context={"model": "m"},
)
CONDITION: dict[str, Any] = {
    "fail_if": [{"types": ["t"], "agents": ["a"], "tags": ["k:v"]}, {"types": ["s"]}],
    "after": 5,
    "incarnation": INCARNATION,
}
WRONG: dict[tuple[str | int, ...], list[object]] = {
    ("agent_name",): [None, 1, "", ".."],
    ("event_type",): [None, 1, ""],
    ("payload",): [None, [], "{}", 1, True],
    ("payload", "customer_id"): ["", "x" * 300],
    ("tags",): ["k:v", {}, 1, ["k:v"] * 33],
    ("tags", 1): [None, 1, "", "x"],
    ("occurred_at",): [1, "now", []],
    ("caused_by",): [1, "1", {}, [1] * 101],
    ("caused_by", 1): [None, 0, -1, 1.0, 1.5, "1", True, POSITION_MAX + 1, 10**99],
    ("context",): [[], "m", 1, {"a": "x" * 5_000}],
    ("colour",): [None, 1, {}],
    ("a/b~c",): [1],
}
WRONG_CONDITION: dict[tuple[str | int, ...], list[object]] = {
    ("condition",): [None, [], "x", True],
    ("condition", "fail_if"): [None, [], {}, [{"types": ["t"]}] * 101],
    ("condition", "fail_if", 1): [None, {}, [], "t", {"types": []}, {"tags": None}],
    ("condition", "fail_if", 0, "types"): ["t", {}, ["t"] * 101],
    ("condition", "fail_if", 0, "types", 0): [None, 1, "", "x" * 129],
    ("condition", "fail_if", 0, "agents", 0): [None, 1, ""],
    ("condition", "fail_if", 0, "tags"): ["k:v", ["k:v"] * 33],
    ("condition", "fail_if", 0, "tags", 0): [None, 1, "k"],
    ("condition", "fail_if", 1, "type"): ["t"],
    ("condition", "after"): [-1, 1.0, 1.5, "5", True, POSITION_MAX + 1],
    ("condition", "incarnation"): [1, "", "x", INCARNATION[:-1], INCARNATION.replace("-", "")],
    ("condition", "before"): [1],
}


def changed(whole: dict[str, Any], path: tuple[str | int, ...], value: object) -> dict[str, Any]:
    """A copy of ``whole`` with one place changed."""
    copy: dict[str, Any] = deepcopy(whole)
    place: Any = copy
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return copy


def cases(table: dict[tuple[str | int, ...], list[object]]) -> list[Any]:
    return [
        pytest.param(path, value, id=f"{pointer_to(path)}-{index}")
        for path, values in table.items()
        for index, value in enumerate(values)
    ]


def test_the_whole_of_it_is_right() -> None:
    append({**WHOLE, "condition": CONDITION})
    batch({"events": [WHOLE, WHOLE], "condition": CONDITION})


@pytest.mark.parametrize(("path", "value"), cases({**WRONG, **WRONG_CONDITION}))
def test_one_wrong_value_is_refused_at_its_place(
    path: tuple[str | int, ...], value: object
) -> None:
    error = only_error_of(append, changed({**WHOLE, "condition": CONDITION}, path, value))

    assert (error.pointer, error.location) == (pointer_to(path), "body")
    assert error.message.endswith((".", "`."))
    assert len(error.message) < 300


@pytest.mark.parametrize(("path", "value"), cases(WRONG))
def test_one_wrong_value_in_a_batch_is_refused_with_its_index(
    path: tuple[str | int, ...], value: object
) -> None:
    body = {"events": [WHOLE, WHOLE, changed(WHOLE, path, value), WHOLE]}

    assert only_error_of(batch, body).pointer == f"/events/2{pointer_to(path)}"


@pytest.mark.parametrize(("path", "value"), cases(WRONG_CONDITION))
def test_one_wrong_value_in_the_condition_of_a_batch_is_refused(
    path: tuple[str | int, ...], value: object
) -> None:
    body = changed({"events": [WHOLE], "condition": CONDITION}, path, value)

    assert only_error_of(batch, body).pointer == pointer_to(path)


@pytest.mark.parametrize("field", ["agent_name", "event_type", "payload"])
def test_what_is_missing_is_named(field: str) -> None:
    body = {name: value for name, value in event().items() if name != field}

    error = only_error_of(append, body)
    assert error.pointer == f"/{field}"
    assert error.message.startswith(f"`{field}` is missing. It must be ")
    assert only_error_of(batch, {"events": [event(), body]}).pointer == f"/events/1/{field}"


@pytest.mark.parametrize(
    ("body", "pointer", "said"),
    [
        ({}, "/events", "`events` is missing. It must be a list of 1 to 1000 events."),
        ({"events": None}, "/events", "this is null"),
        ({"events": []}, "/events", "this one is empty"),
        ({"events": event()}, "/events", "this is an object"),
        ({"events": [event()] * 1_001}, "/events", "this one has 1001"),
        ({"events": [event(), 7]}, "/events/1", "Each of `events` must be an object; this is a"),
        ({"events": [event()], "key": "x"}, "/key", "known fields: `events`, `condition`."),
        (
            {"events": [event(condition=CONDITION)]},
            "/events/0/condition",
            "known fields: `agent_name`, `event_type`, `payload`, `tags`, `occurred_at`, `caused_by`",
        ),
    ],
    ids=range(8),
)
def test_a_batch_that_breaks_a_rule_is_refused(body: object, pointer: str, said: str) -> None:
    error = only_error_of(batch, body)

    assert error.pointer == pointer
    assert said in error.message


def test_a_condition_without_a_query_says_what_it_must_be() -> None:
    error = only_error_of(append, event(condition={"after": 1}))

    assert error == FieldError(
        "/condition/fail_if", "`fail_if` is missing. It must be a list of 1 to 100 query items."
    )


def test_a_null_condition_does_not_take_off_the_guard() -> None:
    for judge, body in ((append, event()), (batch, {"events": [event()]})):
        error = only_error_of(judge, {**body, "condition": None})
        assert error.pointer == "/condition"
        assert "Leave it out to append without one" in error.message


@pytest.mark.parametrize("judge", [append, batch])
@pytest.mark.parametrize("sent", [b"[]", b"null", b"1", b'"text"', b"true"])
def test_a_body_that_is_no_object_is_refused(
    judge: Callable[[object], object], sent: bytes
) -> None:
    error = only_error_of(judge, sent)

    assert error.pointer == ""
    assert error.message.startswith("The body must be a JSON object; this is ")


@pytest.mark.parametrize("judge", [append, batch])
def test_a_body_that_is_no_json_is_malformed(judge: Callable[[object], object]) -> None:
    with pytest.raises(MalformedDocument):
        judge(b"")


# --- Many faults ------------------------------------------------------------------


def test_all_faults_of_an_event_are_named_together() -> None:
    body = event(agent_name="", tags=["x"], payload={"a_id": "", "b_id": " "}, colour=1, context=1)
    with pytest.raises(InvalidInput) as caught:
        append(body)

    assert {error.pointer for error in caught.value.errors} == {
        *("/agent_name", "/tags/0", "/payload/a_id", "/payload/b_id", "/colour", "/context")
    }
    assert str(caught.value).startswith("6 things are wrong. The first: `agent_name` must be ")


def test_all_faults_of_a_batch_are_named_together() -> None:
    body = {
        "events": [event(agent_name=""), event(), event(payload={"a_id": ""}), event(tags=["x"])],
        "condition": {},
    }

    assert {error.pointer for error in errors_of(batch, body)} == {
        *("/events/0/agent_name", "/events/2/payload/a_id", "/events/3/tags/0"),
        "/condition/fail_if",
    }


@pytest.mark.parametrize(
    "body",
    [
        {"events": [{"agent_name": 1}] * 1_000},
        {"events": [event(payload={f"k{n}_id": "" for n in range(99)})] * 999},
        {"events": [event(tags=["x"] * 32, caused_by=[0] * 100)] * 1_000},
        {"events": [{f"k{n}": 1 for n in range(16)}] * 1_000},
        {"events": [event(agent_name="", payload={"a_id": ""})] * 30},
    ],
    ids=range(5),
)
def test_no_more_faults_are_named_than_the_limit(body: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        batch(body)

    assert len(caught.value.errors) == limits.FIELD_ERRORS_MAX
    assert str(caught.value).startswith("At least 20 things are wrong. The first: ")


@pytest.mark.parametrize(
    ("path", "count"),
    [((), 20_003), (("condition",), 20_000), (("condition", "fail_if", 0), 20_000)],
)
def test_very_many_unknown_fields_are_one_fault(path: tuple[str | int, ...], count: int) -> None:
    many = {f"k{n}": 1 for n in range(20_000)}
    body = changed({**WHOLE, "condition": CONDITION}, path, many) if path else {**event(), **many}

    error = only_error_of(append, body)

    assert error.pointer == pointer_to(path)
    assert f"There are {count} fields here" in error.message


# --- Headers ----------------------------------------------------------------------


@pytest.mark.parametrize("value", ["a", "!~", "x" * 255, '"quoted"', "9f1c-4e"])
def test_an_idempotency_key_is_kept_as_it_is(value: str) -> None:
    assert judge_idempotency_key(value) == value


def test_no_idempotency_key_is_none() -> None:
    assert judge_idempotency_key(None) is None


@pytest.mark.parametrize(
    "value", ["", " ", "a b", "a\n", "a\t", "é", "x" * 256, "\x7f", "x" * 60_000], ids=range(9)
)
def test_an_idempotency_key_of_other_characters_is_refused(value: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        judge_idempotency_key(value)

    (error,) = caught.value.errors
    assert (error.pointer, error.location) == ("/Idempotency-Key", "header")
    assert "1 to 255 visible ASCII characters" in error.message


TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (None, None),
        (TRACE, TRACE),
        ("cc" + TRACE[2:], "cc" + TRACE[2:]),
        ("cc" + TRACE[2:] + "-what-comes", "cc" + TRACE[2:]),
        ("", None),
        (TRACE + "-more", None),
        (TRACE + "0", None),
        (TRACE.upper(), None),
        ("ff" + TRACE[2:], None),
        ("00-" + "0" * 32 + "-00f067aa0ba902b7-01", None),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01", None),
        (" " + TRACE, None),
        (TRACE + "\n", None),
        (TRACE.replace("-", "_"), None),
    ],
    ids=range(14),
)
def test_a_traceparent_is_kept_when_it_is_understood(value: str | None, kept: str | None) -> None:
    assert judge_traceparent(value) == kept


# --- What the models say of themselves --------------------------------------------

MODELS: list[type[BaseModel]] = [
    *(NewEvent, AppendBody, BatchBody, Condition, QueryItem),
    *(QueryBody, ReadParameters, StreamParameters, LatestParameters),
]


def lists_in(annotation: Any) -> bool:
    return getattr(annotation, "__origin__", None) is list or any(
        map(lists_in, get_args(annotation))
    )


@pytest.mark.parametrize("model", MODELS, ids=lambda model: str(model.__name__))
def test_every_field_has_its_sentence(model: type[BaseModel]) -> None:
    for name, field in model.model_fields.items():
        assert name in refusals._REQUIRED
        assert lists_in(field.annotation) == (name in refusals._REQUIRED_IN)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: str(model.__name__))
def test_every_field_is_described_for_openapi(model: type[BaseModel]) -> None:
    schema = model.model_json_schema()

    assert schema["additionalProperties"] is False
    for name, described in schema["properties"].items():
        assert described["description"], name


def test_the_schema_of_an_append_says_its_limits() -> None:
    schema = AppendBody.model_json_schema()
    name = schema["properties"]["agent_name"]

    assert schema["required"] == ["agent_name", "event_type", "payload"]
    assert (name["minLength"], name["maxLength"]) == (1, limits.NAME_CHARACTERS_MAX)
    assert name["not"] == {"enum": [".", "..", "counterfoil"]}
    assert schema["properties"]["tags"]["anyOf"][0]["maxItems"] == limits.TAGS_MAX
    assert schema["properties"]["condition"]["$ref"] == "#/$defs/Condition"
    assert "null" not in json.dumps(schema["properties"]["condition"])


def test_the_examples_of_the_schema_are_accepted() -> None:
    described = AppendBody.model_json_schema()["properties"]
    examples = {
        name: field["examples"][0] for name, field in described.items() if "examples" in field
    }

    assert set(examples) == set(NewEvent.model_fields)
    append(examples)
