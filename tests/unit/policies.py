"""A small good policy, and ways to make it a bad one.

An application is declined where its debts are more than half of the income, approved where they are
not and nothing was flagged, and reviewed otherwise.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, Final

import pytest

from counterfoil.server.core.errors import InvalidInput
from counterfoil.server.decisions.judging import judge_policy

Document = dict[str, Any]

_READS: Final = {
    "debt": {"types": ["debt_checked"], "take": "latest", "path": "/monthly_minor"},
    "income": {
        "types": ["income_verified"],
        "take": "latest",
        "path": "/monthly_minor",
        "max_age_seconds": 7_776_000,
    },
    "flags": {"types": ["flagged"], "take": "count"},
}
_FIGURES: Final = {
    "id": "figures",
    "type": "expressionNode",
    "name": "figures",
    "content": {
        "passThrough": True,
        "expressions": [{"id": "1", "key": "ratio", "value": "debt / income"}],
    },
}
_DECIDE: Final = {
    "id": "decide",
    "type": "decisionTableNode",
    "name": "decide",
    "content": {
        "hitPolicy": "first",
        "inputs": [
            {"id": "ratio", "name": "Debts to income", "field": "ratio"},
            {"id": "flags", "name": "Flags", "field": "flags"},
        ],
        "outputs": [
            {"id": "outcome", "name": "Outcome", "field": "outcome"},
            {"id": "reasons", "name": "Reasons", "field": "reasons"},
        ],
        "rules": [
            {"_id": "r1", "ratio": "> 0.5", "outcome": '"decline"', "reasons": '"D01"'},
            {"_id": "r2", "ratio": "<= 0.5", "flags": "0", "outcome": '"approve"'},
            {"_id": "r3", "outcome": '"review"'},
        ],
    },
}


def edge(source: str, target: str, handle: str | None = None) -> Document:
    """An edge of a graph."""
    found = {"id": f"{source}-{target}-{handle}", "sourceId": source, "targetId": target}
    return found if handle is None else {**found, "sourceHandle": handle}


_POLICY: Final = {
    "subject": "application",
    "reads": _READS,
    "inputs_schema": {
        "type": "object",
        "additionalProperties": False,
        "required": ["debt", "income", "flags"],
        "properties": {
            "debt": {"type": "integer", "minimum": 0},
            "income": {"type": "integer", "minimum": 0},
            "flags": {"type": "integer", "minimum": 0},
        },
    },
    "rules": {
        "nodes": [
            {"id": "in", "type": "inputNode", "name": "in"},
            _FIGURES,
            _DECIDE,
            {"id": "out", "type": "outputNode", "name": "out"},
        ],
        "edges": [edge("in", "figures"), edge("figures", "decide"), edge("decide", "out")],
    },
    "outcomes": {
        "approve": {"kind": "approve"},
        "review": {"kind": "review"},
        "decline": {
            "kind": "decline",
            "reasons": {
                "D01": {
                    "text": "Debts of more than half of the income",
                    "customer": "Your monthly debts are high for your income.",
                }
            },
        },
    },
    "forbidden_inputs": ["Personal_status", "Age", "Foreign"],
    "examples": [
        {
            "name": "low debts",
            "inputs": {"debt": 10, "income": 100, "flags": 0},
            "outcome": "approve",
        },
        {
            "name": "high debts",
            "inputs": {"debt": 90, "income": 100, "flags": 0},
            "outcome": "decline",
            "reasons": ["D01"],
        },
        {
            "name": "flagged",
            "inputs": {"debt": 10, "income": 100, "flags": 1},
            "outcome": "review",
        },
    ],
}


def policy(**changes: Any) -> Document:
    """The small good policy, with some of its members changed."""
    return {**deepcopy(_POLICY), **changes}


def changed(change: Callable[[Document], object]) -> Document:
    """The small good policy, after a change of it."""
    document = policy()
    change(document)
    return document


def node(document: Document, node_id: str) -> Document:
    """A node of a policy's graph."""
    found: Document = next(one for one in document["rules"]["nodes"] if one["id"] == node_id)
    return found


def content(document: Document, node_id: str) -> Document:
    """The content of a node."""
    found: Document = node(document, node_id)["content"]
    return found


def rows(document: Document) -> list[dict[str, Any]]:
    """The rows of the table that decides."""
    found: list[dict[str, Any]] = content(document, "decide")["rules"]
    return found


def with_input(document: Document, name: str, schema: Mapping[str, Any], value: Any) -> Document:
    """A policy with one input more, which comes with the request, and a value of it."""
    document.setdefault("extra", []).append(name)
    document["inputs_schema"]["properties"][name] = dict(schema)
    document["inputs_schema"]["required"].append(name)
    for example in document["examples"]:
        example["inputs"][name] = value
    return document


def with_figure(document: Document, key: str, value: str) -> Document:
    """A policy with one line more in its expression node."""
    content(document, "figures")["expressions"].append({"id": key, "key": key, "value": value})
    return document


def refused(document: Document) -> Sequence[tuple[str, str]]:
    """What is wrong with a policy: each fault as its pointer and its sentence. There must be one."""
    with pytest.raises(InvalidInput) as caught:
        judge_policy(document)
    return [(fault.pointer, fault.message) for fault in caught.value.errors]


def must_be_refused(document: Document, pointer: str, sentence: str) -> None:
    """A policy has this fault, told in a sentence with these words, and no other."""
    faults = refused(document)
    assert [one for one, _ in faults] == [pointer], faults
    assert sentence in faults[0][1], faults
