"""Schemas, and payloads for them, out of few names, values and bounds, so that they meet."""

from typing import Any

from hypothesis import HealthCheck
from hypothesis import strategies as st

from counterfoil.server.core.errors import InvalidInput
from counterfoil.server.event_types.schemas import judge_schema

# Schemas that are allowed are not many among those that are made up.
SLOW = [HealthCheck.filter_too_much, HealthCheck.too_slow]

NAMES = st.sampled_from(["a", "b"])
SMALL = st.integers(0, 3)
VALUES = st.recursive(
    st.none() | st.booleans() | SMALL | st.sampled_from(["", "x", "xy"]),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(NAMES, children, max_size=2),
    max_leaves=5,
)
TYPES = st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"])


def keywords(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {},
        optional={
            "type": TYPES | st.lists(TYPES, min_size=1, max_size=3, unique=True),
            "enum": st.lists(VALUES, min_size=1, max_size=3),
            "const": VALUES,
            "maximum": SMALL,
            "minimum": SMALL,
            "exclusiveMaximum": SMALL,
            "multipleOf": st.integers(1, 3),
            "maxLength": SMALL,
            "minLength": SMALL,
            "pattern": st.sampled_from(["^x", "y$"]),
            "maxItems": SMALL,
            "minItems": SMALL,
            "uniqueItems": st.booleans(),
            "items": parts,
            "prefixItems": st.lists(parts, min_size=1, max_size=2),
            "contains": parts,
            "minContains": SMALL,
            "properties": st.dictionaries(NAMES, parts, max_size=2),
            "additionalProperties": parts,
            "patternProperties": st.dictionaries(st.just("^a"), parts, max_size=1),
            "propertyNames": parts,
            "required": st.lists(NAMES, max_size=2, unique=True),
            "maxProperties": SMALL,
            "minProperties": SMALL,
            "dependentRequired": st.dictionaries(NAMES, st.lists(NAMES, unique=True), max_size=1),
            "anyOf": st.lists(parts, min_size=1, max_size=2),
            "oneOf": st.lists(parts, min_size=1, max_size=2),
            "allOf": st.lists(parts, min_size=1, max_size=2),
            "not": parts,
            "if": parts,
            "then": parts,
            "else": parts,
            "unevaluatedProperties": parts,
        },
    ).map(few)


def few(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema that asks everything accepts nothing."""
    return dict(list(schema.items())[:4])


SCHEMAS = st.recursive(st.booleans() | keywords(st.booleans()), keywords, max_leaves=4).filter(
    lambda schema: isinstance(schema, dict)
)


PAYLOADS = st.dictionaries(NAMES, VALUES, max_size=2)


def usable(schema: dict[str, Any]) -> bool:
    try:
        judge_schema(schema)
    except InvalidInput:
        return False
    return True
