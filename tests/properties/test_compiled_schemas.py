"""What a schema is compiled to accepts what the schema accepts.

Parts of it are checked by code of our own, or are rewritten first. Both are held against the
checker as it is, for schemas and payloads that are made up.
"""

from typing import Any

import jsonschema_rs
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from counterfoil.server.event_types.compiled import CompiledSchema
from counterfoil.server.event_types.cost import Ceiling
from tests.properties.made_up_schemas import PAYLOADS, SCHEMAS, SLOW, usable

pytestmark = pytest.mark.timeout(180)


@settings(max_examples=100, deadline=None, suppress_health_check=SLOW)
@given(schema=SCHEMAS, payloads=st.lists(PAYLOADS, min_size=5, max_size=15))
def test_a_compiled_schema_accepts_what_the_schema_accepts(
    schema: dict[str, Any], payloads: list[dict[str, Any]]
) -> None:
    assume(usable(schema))
    compiled = CompiledSchema(schema)
    checker = jsonschema_rs.Draft202012Validator(schema)
    for payload in payloads:
        accepted = checker.is_valid(payload)
        assert compiled.accepts(payload) is accepted
        found = compiled.faults(payload, ())
        assert (found == []) is accepted


@settings(max_examples=100, deadline=None, suppress_health_check=SLOW)
@given(schema=SCHEMAS, payloads=st.lists(PAYLOADS, min_size=5, max_size=15))
def test_what_is_told_by_the_size_of_a_payload_is_never_less_than_what_is_counted(
    schema: dict[str, Any], payloads: list[dict[str, Any]]
) -> None:
    assume(usable(schema))
    ceiling = Ceiling(schema)
    for payload in payloads:
        told = ceiling.at_most(payload)
        assert told is not None
        assert told >= ceiling.steps(payload)
