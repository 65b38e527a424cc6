"""A compiled schema says what JSON Schema says, and names what does not fit without a flood."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest

from counterfoil.server.core import limits
from counterfoil.server.core.errors import FieldError
from counterfoil.server.event_types.compiled import CompiledSchema

PATH = ("events", 0)


def faults(schema: Any, payload: Mapping[str, Any]) -> list[FieldError]:
    return CompiledSchema(schema).faults(payload, PATH)


def of(part: Any) -> dict[str, Any]:
    return {"properties": {"v": part}}


@pytest.mark.parametrize(
    ("entries", "unique"),
    [
        ([1, 2, 3], True),
        ([1, 2, 1], False),
        ([1, Decimal("1.0")], False),
        ([0, Decimal("-0.0")], False),
        ([Decimal("1.50"), Decimal("1.5")], False),
        ([Decimal("1E+2"), 100], False),
        ([Decimal("1.5"), Decimal("1.51")], True),
        ([True, 1], True),
        ([False, 0, None, "", [], {}], True),
        (["1", 1], True),
        ([{"a": 1, "b": [2]}, {"b": [Decimal("2.0")], "a": 1}], False),
        ([{"a": 1}, {"a": True}], True),
        ([[1, 2], [2, 1]], True),
        ([10**99, 10**99 + 1, Decimal(10**99)], False),
        ([], True),
    ],
)
def test_unique_items_are_told_apart_as_json_tells_values_apart(
    entries: list[Any], unique: bool
) -> None:
    schema = CompiledSchema(of({"uniqueItems": True}))
    assert schema.accepts({"v": entries}) is unique
    assert schema.accepts({"v": "no list"})
    assert CompiledSchema(of({"uniqueItems": False})).accepts({"v": [1, 1]})
    assert CompiledSchema(of({"not": {"uniqueItems": True}})).accepts({"v": entries}) is not unique


def test_two_entries_that_are_the_same_are_a_fault_of_their_list() -> None:
    assert faults(of({"uniqueItems": True}), {"v": [1, 1]}) == [
        FieldError("/events/0/payload/v", "Two entries of this list are the same.")
    ]


def test_every_fault_is_named_at_its_place() -> None:
    schema = {**of({"items": {"type": "string"}}), "required": ["w"]}
    found = faults(schema, {"v": ["a", 1, "b", 2]})
    assert {error.pointer for error in found} == {
        "/events/0/payload/v/1",
        "/events/0/payload/v/3",
        "/events/0/payload/w",
    }


def test_no_more_faults_are_named_than_one_can_read() -> None:
    found = faults(of({"items": {"type": "string"}}), {"v": [1] * 100})
    assert len(found) == limits.FIELD_ERRORS_MAX


def test_of_a_large_payload_the_first_fault_is_named() -> None:
    payload = {"v": ["a"] * 20_000 + [1] * 20_000}
    (found,) = faults(of({"items": {"type": "string"}}), payload)
    assert found.pointer == "/events/0/payload/v/20000"
    assert "only its first fault" in found.message


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "It fits none of the 2 schemas"),
        ({"oneOf": [{"type": "string"}]}, "Of 1 schemas it has to fit exactly one"),
        (
            {"oneOf": [{"type": "integer"}, {"minimum": 0}]},
            "Of 2 schemas it has to fit exactly one",
        ),
    ],
)
def test_where_no_branch_fits_the_place_is_named_and_not_every_branchs_faults(
    schema: Any, message: str
) -> None:
    (found,) = faults(of(schema), {"v": 1})
    assert found.pointer == "/events/0/payload/v"
    assert found.message.startswith(message)


def test_a_large_payload_whose_members_are_all_looked_at_is_refused_without_its_faults() -> None:
    """Then branches cannot be compiled so that they name nothing."""
    schema = {
        **of({"anyOf": [{"items": {"type": "string"}}] * 20}),
        "unevaluatedProperties": False,
    }
    (found,) = faults(schema, {"v": [1] * 20_000})
    assert found.pointer == "/events/0/payload"
    assert "too large for its faults to be named" in found.message
    (small,) = faults(schema, {"v": [1]})
    assert small.pointer == "/events/0/payload/v"


def test_what_no_keyword_looked_at_is_seen_behind_branches() -> None:
    schema = CompiledSchema(
        {"anyOf": [{"properties": {"a": {}}, "required": ["a"]}], "unevaluatedProperties": False}
    )
    assert schema.accepts({"a": 1})
    assert not schema.accepts({"a": 1, "b": 2})


def test_what_a_schema_takes_grows_with_its_patterns() -> None:
    """They are what a tenant could fill the process's memory with."""
    plain, dear = CompiledSchema(of({"type": "string"})), CompiledSchema(of({"pattern": "a{3000}"}))
    assert plain.bytes < 10_000
    assert dear.bytes > limits.SCHEMA_PATTERN_STATES_BYTES_MAX + 3_000


def test_names_that_are_empty_lead_nowhere_else() -> None:
    """The checker leaves them out of its paths: then the payload as a whole is named."""
    schema = {"properties": {"": of({"type": "string"}), "v": {}}}
    (found,) = faults(schema, {"": {"v": 1}, "v": 2})
    assert found.pointer == "/events/0/payload"
    (missing,) = faults({"properties": {"": {"required": ["a"]}}}, {"": {}})
    assert missing.pointer == "/events/0/payload"


@pytest.mark.parametrize(
    ("keyword", "asked", "message"),
    [
        ("minimum", 2, "at least 2"),
        ("maximum", Decimal("0.5"), "at most 0.5"),
        ("exclusiveMinimum", 1, "more than 1"),
        ("exclusiveMaximum", 1, "less than 1"),
        ("multipleOf", Decimal("0.3"), "a multiple of 0.3"),
    ],
)
def test_a_number_that_does_not_fit_is_told_what_would(
    keyword: str, asked: Any, message: str
) -> None:
    (found,) = faults(of({keyword: asked}), {"v": 1})
    assert (found.pointer, found.message) == ("/events/0/payload/v", f"It has to be {message}.")
    for other in (True, "1", None, [1], {"n": 1}):
        assert CompiledSchema(of({keyword: asked})).accepts({"v": other})


def test_many_faults_with_one_long_text_are_not_all_named() -> None:
    """Each would copy the text: 3,000 of them took two seconds, and 1.4 GB."""
    schema = {"allOf": [{"required": [f"a{n}"]} for n in range(1_000)]}
    assert len(faults(schema, {"v": "x"})) == limits.FIELD_ERRORS_MAX
    assert len(faults(schema, {"v": "x" * 100_000})) == 1


def test_no_message_is_longer_than_one_can_read() -> None:
    (found,) = faults(of({"const": "y" * 1_000}), {"v": "x"})
    assert len(found.message) == 300
