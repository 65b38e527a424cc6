"""Whatever is sent as a policy: it is judged, and never a fault of ours.

A policy is a document of many parts, most of them named by whoever writes it. Here any part of a
good one is something else, or has a member more.
"""

import contextlib
from collections.abc import Iterator
from copy import deepcopy
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterfoil.server.api.openapi_decisions import POLICY_EXAMPLE
from counterfoil.server.core.errors import InvalidInput
from counterfoil.server.decisions.judging import judge_policy

pytestmark = [pytest.mark.timeout(180), pytest.mark.promise("P9", "P13")]

Path = tuple[str | int, ...]


def paths(part: Any, above: Path = ()) -> Iterator[Path]:
    """The places of a document, the whole left out."""
    members = part.items() if isinstance(part, dict) else enumerate(part)
    for name, member in members:
        yield (*above, name)
        if isinstance(member, dict | list):
            yield from paths(member, (*above, name))


PLACES: Final = tuple(paths(POLICY_EXAMPLE))
NAMES: Final = ("", "0", "age", "[key]", "a b", "type", "$ref", "content", "kind")
VALUES: Final[tuple[Any, ...]] = (
    *(None, True, 0, -1, "", "x", "age", "decline", "> 5", '"approve"', [], {}, [1], {"a": 1}),
    *([[]], {"0": {}}, {"kind": "decline"}, {"type": "object"}, {"take": "latest"}),
)


def changed(changes: list[tuple[Path, Any, str | None]]) -> dict[str, Any]:
    """The example with other values at some places, or (with a name) with members more."""
    document = deepcopy(POLICY_EXAMPLE)
    for (*around, last), value, name in changes:
        part: Any = document
        # An earlier change may have put something else there.
        with contextlib.suppress(KeyError, IndexError, TypeError):
            for step in around:
                part = part[step]
            if isinstance(part, dict) != isinstance(last, str):
                continue
            if name is not None and isinstance(part[last], dict):
                part[last][name] = deepcopy(value)
            else:
                part[last] = deepcopy(value)
    return document


@settings(max_examples=400, deadline=None)
@given(
    changes=st.lists(
        st.tuples(
            st.sampled_from(PLACES), st.sampled_from(VALUES), st.none() | st.sampled_from(NAMES)
        ),
        min_size=1,
        max_size=3,
    )
)
def test_any_document_is_judged_with_a_sentence_for_each_fault(
    changes: list[tuple[Path, Any, str | None]],
) -> None:
    try:
        judged = judge_policy(changed(changes))
    except InvalidInput as refused:
        faults = refused.errors
    else:
        faults = ()
        for example in judged.policy.examples:
            again = judged.rules.evaluate(example.inputs)
            assert (again.outcome, list(again.reasons)) == (example.outcome, example.reasons)
    for fault in faults:
        assert fault.message.endswith("."), fault
        assert fault.pointer == "" or fault.pointer.startswith("/"), fault
