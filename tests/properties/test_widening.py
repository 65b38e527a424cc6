"""A schema that counts as wider accepts everything that the one before it accepted.

What ``narrowing`` says nothing against is held against the validator itself. That it does speak
where it must is held by changes that narrow for certain (``tests/unit/event_types``).
"""

from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from counterfoil.server.event_types.compiled import CompiledSchema
from counterfoil.server.event_types.widening import narrowing
from tests.properties.made_up_schemas import PAYLOADS, SCHEMAS, SLOW, usable

pytestmark = pytest.mark.timeout(180)


def changed(schema: dict[str, Any], other: dict[str, Any], drop: list[str]) -> dict[str, Any]:
    """The same schema with some keywords gone and some of another's: near enough to be wider."""
    kept = {name: value for name, value in schema.items() if name not in drop}
    return kept | {name: value for name, value in list(other.items())[:1] if name in schema}


@settings(max_examples=50, deadline=None, suppress_health_check=SLOW)
@given(
    old=SCHEMAS,
    other=SCHEMAS,
    drop=st.lists(st.sampled_from(["type", "required", "maximum", "properties", "anyOf"])),
    near=st.booleans(),
    payloads=st.lists(PAYLOADS, min_size=5, max_size=15),
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
