"""What a check can cost is told before it is done, and is never less than what is done.

What is done is counted by the checker itself: a keyword of the test's own stands in every part
of a schema, and is called for every value that the part is held against.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import jsonschema_rs
import pytest

from counterfoil.server.core import limits
from counterfoil.server.event_types.compiled import compiled
from counterfoil.server.event_types.cost import Ceiling

KEYWORD = "x-visited"


def visits(schema: Any, payload: Any) -> int:
    """How often a part of the schema is held against a value in one check."""
    count = 0

    class Visited:
        def __init__(self, _beside: object, _value: object, _path: object) -> None:
            pass

        def validate(self, _instance: object) -> None:
            nonlocal count
            count += 1

    checker = jsonschema_rs.Draft202012Validator(marked(schema), keywords={KEYWORD: Visited})
    checker.is_valid(payload)
    return count


def marked(schema: Any) -> Any:
    """The same schema, each part of it marked to be counted, before its other keywords."""
    if not isinstance(schema, bool):
        schema = {name: marked_value(name, value) for name, value in schema.items()}
        return {"$defs": schema.pop("$defs", {}), "allOf": [{KEYWORD: 1}, schema]}
    return {"allOf": [{KEYWORD: 1}, schema]}


def marked_value(keyword: str, value: Any) -> Any:
    if keyword in ("anyOf", "oneOf", "allOf", "prefixItems"):
        return [marked(part) for part in value]
    if keyword in ("properties", "patternProperties", "dependentSchemas", "$defs"):
        return {name: marked(part) for name, part in value.items()}
    one = ("items", "not", "if", "then", "else", "contains", "propertyNames")
    if keyword in (*one, "additionalProperties", "unevaluatedProperties", "unevaluatedItems"):
        return marked(value)
    return value


def steps(schema: Any, payload: Any) -> int:
    return Ceiling(schema).steps(payload)


def of(part: Any) -> dict[str, Any]:
    return {"properties": {"v": part}}


def in_one_another(depth: int, around: Callable[[Any], Any], leaf: Any) -> Any:
    for _ in range(depth):
        leaf = around(leaf)
    return leaf


NUMBERS = {"v": list(range(200))}
NO = {"type": "null"}
LAST_OF_500: list[Any] = [*[NO] * 499, {}]

# Of each way in which a schema can ask much, one whose every part is visited as often as can be.
HOSTILE: dict[str, tuple[Any, Any]] = {
    "branches": (of({"items": {"anyOf": LAST_OF_500}}), NUMBERS),
    "one of": (of({"items": {"oneOf": LAST_OF_500}}), NUMBERS),
    "all": (of({"items": {"allOf": [{}] * 500}}), NUMBERS),
    "not": (of({"items": {"allOf": [{"not": NO}] * 300}}), NUMBERS),
    "conditions": (of({"items": {"allOf": [{"if": NO, "then": {}, "else": {}}] * 300}}), NUMBERS),
    "contains": (
        of({"allOf": [{"contains": NO, "minContains": 0, "maxContains": 1}] * 500}),
        NUMBERS,
    ),
    "contains, within one another": (
        of(in_one_another(6, lambda part: {"contains": part, "items": part}, {})),
        {"v": in_one_another(7, lambda value: [value, value], 1)},
    ),
    "names": ({"propertyNames": {"anyOf": LAST_OF_500}}, {f"k{n}": n for n in range(200)}),
    "patterns": (
        {"patternProperties": {f"k|{n}": {} for n in range(50)}},
        {f"k{n}": n for n in range(200)},
    ),
    "others": ({"additionalProperties": {"anyOf": LAST_OF_500}}, {f"k{n}": n for n in range(200)}),
    "dependent": (
        {"dependentSchemas": {f"k{n}": {} for n in range(200)}},
        {f"k{n}": n for n in range(200)},
    ),
    "first items": (of({"prefixItems": [{"anyOf": LAST_OF_500}] * 200}), NUMBERS),
    "what is left": (
        {"allOf": [{"anyOf": [NO] * 50 + [{}]}] * 10, "unevaluatedProperties": {}},
        {f"k{n}": n for n in range(50)},
    ),
    "what is left, within one another": (
        in_one_another(6, lambda part: {"allOf": [part], "unevaluatedProperties": {}}, {}),
        {f"k{n}": n for n in range(50)},
    ),
    "items left, within one another": (
        of(in_one_another(6, lambda part: {"allOf": [part], "unevaluatedItems": {}}, {})),
        NUMBERS,
    ),
    "references": (
        {
            "$defs": {
                "l0": {"allOf": [{}] * 2},
                **{f"l{n}": {"allOf": [{"$ref": f"#/$defs/l{n - 1}"}] * 2} for n in range(1, 9)},
            },
            **of({"items": {"$ref": "#/$defs/l8"}}),
        },
        NUMBERS,
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_check_does_more_than_was_told(name: str) -> None:
    schema, payload = HOSTILE[name]
    done = visits(schema, payload)
    assert done > 200, "too little to be seen"
    assert done <= steps(schema, payload)


@pytest.mark.parametrize(
    ("schema", "payload"),
    [
        (of({"items": {"enum": [n + Decimal("0.5") for n in range(400)]}}), NUMBERS),
        (of({"items": {"enum": [{"n": n} for n in range(200)]}}), {"v": [{"n": -1}] * 200}),
        (of({"items": {"multipleOf": Decimal("1e-90")}}), {"v": [Decimal("1.1")] * 20_000}),
        (of({"items": {"allOf": [{"uniqueItems": True}] * 100}}), {"v": [[]] * 1_000}),
        (of({"items": {"not": {"pattern": "|".join(map(str, range(400)))}}}), {"v": [""] * 30_000}),
        (of({"pattern": "[ab]*a[ab]{440}c"}), {"v": "abb" * 8_000}),
        ({"patternProperties": {"[ab]*a[ab]{440}c": {}}}, {"abb" * 8_000: 1}),
        (of({"propertyNames": {"pattern": "[ab]*a[ab]{440}c"}}), {"v": {"abb" * 8_000: 1}}),
        (of({"uniqueItems": True}), {"v": list(range(50_000))}),
    ],
)
def test_what_is_dear_without_many_parts_is_charged_too(schema: Any, payload: Any) -> None:
    assert steps(schema, payload) > limits.CHECK_STEPS_MAX


def test_an_ordinary_check_is_far_below_the_bound() -> None:
    line = {
        "type": "object",
        "properties": {
            "sku": {"type": "string", "pattern": "^[A-Z]{2}[0-9]{6}$"},
            "amount": {"type": "integer", "minimum": 0, "maximum": 10**9},
            "price": {"type": "number", "multipleOf": Decimal("0.01")},
            "currency": {"enum": ["EUR", "USD", "GBP", "CHF"]},
            "booked_at": {"type": "string", "format": "date-time"},
        },
        "required": ["sku", "amount"],
        "additionalProperties": False,
    }
    item = {
        "sku": "AB123456",
        "amount": 1999,
        "price": Decimal("19.99"),
        "currency": "EUR",
        "booked_at": "2026-03-01T12:30:00Z",
    }
    schema = {"type": "object", "properties": {"lines": {"type": "array", "items": line}}}
    assert steps(schema, {"lines": [item]}) < limits.CHECK_STEPS_MAX / 1_000
    assert steps(schema, {"lines": [item] * 500}) < limits.CHECK_STEPS_MAX


@pytest.mark.parametrize("name", HOSTILE)
def test_the_size_of_a_payload_tells_no_less(name: str) -> None:
    schema, payload = HOSTILE[name]
    ceiling = Ceiling(schema)
    told = ceiling.at_most(payload)
    assert told is not None
    assert told >= ceiling.steps(payload)


def test_where_numbers_have_more_digits_than_characters_size_tells_nothing() -> None:
    schema = of({"items": {"type": "integer"}})
    assert Ceiling(schema).at_most({"v": [Decimal("1E-98")]}) is None
    assert steps(schema, {"v": [Decimal("1E-98")] * 10_000}) > limits.CHECK_STEPS_MAX
    assert Ceiling(schema).at_most({"v": [Decimal("1.5")], "a9E": "9E"}) is not None


def test_compiling_needs_no_network() -> None:
    with pytest.raises(ValueError, match="example"):
        compiled({"$ref": "https://example.com/a"})
