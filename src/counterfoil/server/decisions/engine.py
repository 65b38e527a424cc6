"""A published policy, compiled: inputs in, a decision out, or a refusal. Never a guess.

The engine is zen-engine (``docs/decisions/0023``), which fails open. So before it is asked, the
inputs are held against the policy's schema; and what it answers is held against the policy:

* the outcome is one that the policy has, and its reasons are that outcome's;
* no expression on the way came to nothing (a division by zero is null, and a condition over null
  is false, so the next row would have caught it);
* a table in which no row fits has decided nothing.

Numbers go to the engine and come back as JSON texts: it counts in decimals, not in floats. What it
answers to the same policy and inputs is the same bytes, whichever process asks.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

import zen

from counterfoil.server.core.document import encode
from counterfoil.server.decisions.expressions import first_line
from counterfoil.server.decisions.policy import Policy
from counterfoil.server.decisions.vocabulary import OUTCOME, REASONS

ENGINE_VERSION: Final = f"zen-engine {version('zen-engine')}"
"""What decides. It stands in every decision's record."""

_KEY: Final = "policy"


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What came of an evaluation.

    Attributes:
        outcome: one of the policy's.
        reasons: codes of that outcome's reasons, in the order in which the rules give them.
        matched: which row of which table has fitted: ``{"table", "row", "rule"}``, rows from 1.
    """

    outcome: str
    reasons: Sequence[str]
    matched: Sequence[Mapping[str, Any]]


class NotDecided(Exception):
    """The rules came to nothing that may stand. ``str()`` is a sentence."""


class CompiledPolicy:
    """A policy that was judged, ready to decide. Not safe for threads.

    Raises ``NotDecided`` where the engine cannot read the graph: its judge let pass what it must not.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._nodes = {node["id"]: node for node in policy.rules["nodes"]}
        self._columns = {
            node_id: [
                (column["field"], zen.compile_expression(column["field"]))
                for column in node["content"]["inputs"]
                if column.get("field")
            ]
            for node_id, node in self._nodes.items()
            if node["type"] == "decisionTableNode"
        }
        # Through a decision of its own (`create_decision`) an evaluation takes thirty times as long:
        # it would be compiled anew each time.
        content = json.loads(encode(policy.rules))
        try:
            zen.ZenEngine().create_decision(json.dumps(content)).validate()
            self._engine = zen.ZenEngine({"loader": {"type": "static", "content": {_KEY: content}}})
        except (RuntimeError, ValueError) as error:
            raise NotDecided(f"The engine cannot read these rules: {first_line(error)}") from None

    @property
    def rows(self) -> Sequence[tuple[str, int]]:
        """The rows of all its tables, each as table and number from 1."""
        return [
            (self._name(node_id), nth)
            for node_id, node in self._nodes.items()
            if node["type"] == "decisionTableNode"
            for nth in range(1, len(node["content"]["rules"]) + 1)
        ]

    def evaluate(self, inputs: Mapping[str, Any]) -> Evaluated:
        """Decide. The inputs were judged by the policy's schema.

        Raises ``NotDecided``.
        """
        try:
            answer = self._engine.evaluate(_KEY, encode(dict(inputs)).decode(), {"trace": True})
        except (RuntimeError, ValueError) as error:
            raise NotDecided(f"The rules cannot be applied: {first_line(error)}") from None
        trace: Mapping[str, Mapping[str, Any]] = answer["trace"]
        for node_id, name in self._came_to_nothing(trace):
            raise NotDecided(
                f"`{name}` in `{self._name(node_id)}` comes to nothing for these inputs, and a "
                "condition over nothing is not met: the next row would decide on a guess. Give what "
                f"may be missing a value of its own (`{name} ?? 0`), or require it."
            )
        result: Any = answer["result"]
        if not isinstance(result, dict) or result.get(OUTCOME) is None:
            raise NotDecided("No row fits these inputs, so nothing is decided.")
        outcome, reasons = result[OUTCOME], result.get(REASONS)
        codes = [reasons] if isinstance(reasons, str) else list(reasons or ())
        known = self._policy.outcomes.get(outcome) if isinstance(outcome, str) else None
        if known is None or not set(codes) <= set(known.reasons):
            raise NotDecided(
                f"The rules came to {json.dumps(result)}, which this policy does not have."
            )
        if known.kind == "decline" and not codes:
            raise NotDecided("The rules decline without a reason.")
        return Evaluated(outcome, codes, tuple(self._matched(trace)))

    def _came_to_nothing(self, trace: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """The expressions, and the columns of tables, that were null."""
        for node_id, step in trace.items():
            if self._nodes[node_id]["type"] == "expressionNode":
                for name, made in (step.get("traceData") or {}).items():
                    if made.get("result") is None:
                        yield node_id, name
            # A table's own trace names what its row has looked at, and not what those before have.
            for name, column in self._columns.get(node_id, ()):
                if column.evaluate(step["input"]) is None:
                    yield node_id, name

    def _matched(self, trace: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        for node_id, step in sorted(trace.items(), key=lambda item: item[1].get("order", 0)):
            if self._nodes[node_id]["type"] != "decisionTableNode":
                continue
            data = step.get("traceData") or {}
            for row in data if isinstance(data, list) else [data]:
                if "index" in row:
                    yield {
                        "table": self._name(node_id),
                        "row": row["index"] + 1,
                        "rule": (row.get("rule") or {}).get("_id"),
                    }

    def _name(self, node_id: str) -> str:
        return str(self._nodes[node_id].get("name", node_id))
