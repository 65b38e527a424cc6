"""A small policy for the tests of commands, and ways to change it."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Policy = dict[str, Any]


def policy() -> Policy:
    """Debt against income: declined above a half, approved without flags, else reviewed."""
    return {
        "subject": "application",
        "reads": {
            "debt": {"types": ["debt_checked"], "take": "latest", "path": "/monthly_minor"},
            "income": {
                "types": ["income_verified"],
                "take": "latest",
                "path": "/monthly_minor",
                "max_age_seconds": 7_776_000,
            },
            "flags": {"types": ["flagged"], "take": "count"},
        },
        "inputs_schema": {
            "type": "object",
            "additionalProperties": False,
            "required": ["debt", "income", "flags"],
            "properties": {
                "debt": {"type": "integer", "minimum": 0},
                "income": {"type": "integer", "minimum": 1},
                "flags": {"type": "integer", "minimum": 0},
            },
        },
        "rules": {
            "nodes": [
                {"id": "in", "type": "inputNode", "name": "in"},
                {
                    "id": "x",
                    "type": "expressionNode",
                    "name": "figures",
                    "content": {
                        "expressions": [{"id": "1", "key": "ratio", "value": "debt / income"}],
                        "passThrough": True,
                    },
                },
                {
                    "id": "t",
                    "type": "decisionTableNode",
                    "name": "decide",
                    "content": {
                        "hitPolicy": "first",
                        "inputs": [
                            {"id": "c1", "name": "ratio", "field": "ratio"},
                            {"id": "c2", "name": "flags", "field": "flags"},
                        ],
                        "outputs": [
                            {"id": "o1", "name": "outcome", "field": "outcome"},
                            {"id": "o2", "name": "reasons", "field": "reasons"},
                        ],
                        "rules": [
                            {"_id": "r1", "c1": "> 0.5", "o1": '"decline"', "o2": '"D01"'},
                            {"_id": "r2", "c1": "<= 0.5", "c2": "0", "o1": '"approve"'},
                            {"_id": "r3", "o1": '"review"'},
                        ],
                    },
                },
                {"id": "out", "type": "outputNode", "name": "out"},
            ],
            "edges": [
                {"id": "a", "sourceId": "in", "targetId": "x"},
                {"id": "b", "sourceId": "x", "targetId": "t"},
                {"id": "c", "sourceId": "t", "targetId": "out"},
            ],
        },
        "outcomes": {
            "approve": {"kind": "approve"},
            "review": {"kind": "review"},
            "decline": {
                "kind": "decline",
                "reasons": {
                    "D01": {
                        "text": "Debt is above half of the income.",
                        "customer": "Your monthly debts are high for your income.",
                    }
                },
            },
        },
        "forbidden_inputs": ["Personal_status", "Age"],
        "examples": [
            {
                "name": "little debt",
                "inputs": {"debt": 10, "income": 100, "flags": 0},
                "outcome": "approve",
            },
            {
                "name": "much debt",
                "inputs": {"debt": 90, "income": 100, "flags": 0},
                "outcome": "decline",
                "reasons": ["D01"],
            },
        ],
    }


def rows_of(changed: Policy) -> list[dict[str, Any]]:
    """The rows of its table."""
    rows: list[dict[str, Any]] = changed["rules"]["nodes"][2]["content"]["rules"]
    return rows


def with_change(change: Callable[[Policy], object]) -> Policy:
    """The policy with something that is another."""
    changed = copy.deepcopy(policy())
    change(changed)
    return changed


def kept(folder: Path, document: Policy, name: str = "credit.json") -> str:
    """Write a policy to a file, as an editor would."""
    path = folder / name
    path.write_text(json.dumps(document, indent=2), encoding="utf-8")
    return str(path)
