"""A schema that counts as wider accepts everything that the one before it accepted.

Pairs of schemas are made up out of few names, values and bounds, so that they meet; payloads
out of the same, so that many fit. What ``narrowing`` says nothing against is held against the
validator itself. That it does speak where it must is held by changes that narrow for certain.
"""

from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from counterfoil.server.core.errors import InvalidInput
from counterfoil.server.event_types.schemas import CompiledSchema, judge_schema
from counterfoil.server.event_types.widening import narrowing

pytestmark = pytest.mark.timeout(180)

# Pairs of schemas that are both allowed are few among those that are made up.
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


def changed(schema: dict[str, Any], other: dict[str, Any], drop: list[str]) -> dict[str, Any]:
    """The same schema with some keywords gone and some of another's: near enough to be wider."""
    kept = {name: value for name, value in schema.items() if name not in drop}
    return kept | {name: value for name, value in list(other.items())[:1] if name in schema}


def usable(schema: dict[str, Any]) -> bool:
    try:
        judge_schema(schema)
    except InvalidInput:
        return False
    return True


@settings(max_examples=50, deadline=None, suppress_health_check=SLOW)
@given(
    old=SCHEMAS,
    other=SCHEMAS,
    drop=st.lists(st.sampled_from(["type", "required", "maximum", "properties", "anyOf"])),
    near=st.booleans(),
    payloads=st.lists(st.dictionaries(NAMES, VALUES, max_size=2), min_size=5, max_size=15),
)
def test_what_counts_as_wider_accepts_what_was_accepted(
    old: dict[str, Any],
    other: dict[str, Any],
    drop: list[str],
    near: bool,
    payloads: list[dict[str, Any]],
) -> None:
    new = changed(old, other, drop) if near else other
    assume(usable(old) and usable(new))
    if narrowing(old, new):
        return
    before, after = CompiledSchema(old), CompiledSchema(new)
    for payload in payloads:
        assert not before.accepts(payload) or after.accepts(payload), (old, new, payload)


@settings(max_examples=50, deadline=None, suppress_health_check=SLOW)
@given(schema=SCHEMAS, other=SCHEMAS)
def test_the_same_schema_and_one_that_asks_nothing_are_no_narrowing(
    schema: dict[str, Any], other: dict[str, Any]
) -> None:
    assume(usable(schema) and usable(other))
    assert narrowing(schema, schema) == []
    assert narrowing(schema, {}) == []
    # What "unevaluated" means depends on all around it: then nothing can be proved.
    assume("unevaluatedProperties" not in str(schema))
    assert narrowing(schema, {"anyOf": [schema, other]}) == []
    assert narrowing({"allOf": [schema, other]}, schema) == []
