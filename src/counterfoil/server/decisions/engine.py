"""A published policy, compiled: inputs in, a decision out, or a refusal. Never a guess.

The engine is zen-engine (``docs/decisions/0023``), which fails open. So before it is asked, the
inputs are held against the policy's schema; and what it answers is held against the policy:

* the outcome is one that the policy has, and its reasons are that outcome's;
* no expression on the way came to nothing (a division by zero is null, and a condition over null
  is false, so the next row would have caught it);
* in each table that was asked, a row fits: else what the table makes is missing behind it.

How long that takes is bounded by how much there is to look at, times how often the rules may look.

Numbers go to the engine and come back as JSON texts: it counts in decimals, not in floats. What it
answers to the same policy and inputs is the same bytes, whichever process asks.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

import zen

from counterfoil.server.core import limits
from counterfoil.server.core.document import canonical, encode
from counterfoil.server.core.errors import NotDecided
from counterfoil.server.decisions.inputs import unsafe
from counterfoil.server.decisions.policy import Policy
from counterfoil.server.decisions.rules.tokens import first_line
from counterfoil.server.decisions.rules.vocabulary import OUTCOME, REASONS

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


class CompiledPolicy:
    """A policy that was judged, ready to decide. Several threads may ask it at once.

    Raises ``NotDecided`` where the engine cannot read the graph: its judge let pass what it must not.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._nodes = {node["id"]: node for node in policy.rules["nodes"]}
        # Through a decision of its own (`create_decision`) an evaluation takes some thirty times as
        # long: it would be compiled anew each time.
        text = encode(policy.rules).decode()
        self._passes = len(self._nodes) + text.count("(")
        try:
            zen.ZenEngine().create_decision(text).validate()
            content = {_KEY: json.loads(text)}
            self._engine = zen.ZenEngine({"loader": {"type": "static", "content": content}})
        except (RuntimeError, ValueError, TypeError) as error:
            raise NotDecided(f"The engine cannot read these rules: {first_line(error)}.") from None

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
        return self.decide(self.asked(inputs))

    def asked(self, inputs: Mapping[str, Any]) -> bytes:
        """What the rules are asked of these inputs. Raises ``NotDecided`` where they may not be."""
        if fault := unsafe(inputs):
            raise NotDecided(f"Among these inputs is {fault}.")
        asked = canonical(dict(inputs))
        if self.steps(asked) > limits.DECISION_STEPS_MAX:
            raise NotDecided(
                f"These inputs take {len(asked):,} bytes, and the rules may look at all of them "
                f"{self._passes:,} times: that would take too long."
            )
        return asked

    def steps(self, asked: bytes) -> int:
        """How long the rules may look at what they are asked: its bytes, times how often."""
        return len(asked) * self._passes

    def decide(self, asked: bytes) -> Evaluated:
        """Decide on what ``asked`` has made of the inputs. Raises ``NotDecided``."""
        trace, result = self._asked(asked.decode())
        for node_id, name in self._came_to_nothing(trace):
            raise NotDecided(
                f"`{name}` in `{self._name(node_id)}` comes to nothing for these inputs, and a "
                "condition over nothing is not met: the next row would decide on a guess. Give what "
                f"may be missing a value of its own (`{name} ?? 0`), or require it."
            )
        for node_id in self._without_a_hit(trace):
            raise NotDecided(
                f"No row of `{self._name(node_id)}` fits these inputs, so nothing is decided."
            )
        if not isinstance(result, dict) or result.get(OUTCOME) is None:
            raise NotDecided("No row fits these inputs, so nothing is decided.")
        outcome, reasons = result[OUTCOME], result.get(REASONS)
        codes = _codes(reasons)
        known = self._policy.outcomes.get(outcome) if isinstance(outcome, str) else None
        if known is None or codes is None or not set(codes) <= set(known.reasons):
            told = json.dumps({OUTCOME: outcome, REASONS: reasons})
            raise NotDecided(f"The rules came to {told:.200}, which this policy does not have.")
        if known.kind == "decline" and not codes:
            raise NotDecided("The rules decline without a reason.")
        return Evaluated(outcome, codes, tuple(self._matched(trace)))

    def _asked(self, inputs: str) -> tuple[Mapping[str, Any], Any]:
        """What the engine tells of each node, and what comes of it all."""
        try:
            answer = self._engine.evaluate(_KEY, inputs, {"trace": True})
        except (RuntimeError, ValueError) as error:
            raise NotDecided(f"The rules cannot be applied: {first_line(error)}.") from None
        except BaseException as error:
            # What the engine panics with is no Exception, so that nobody catches it by accident.
            if type(error).__name__ != "PanicException":
                raise
            raise NotDecided("The engine gave up on these inputs.") from error
        return answer["trace"], answer["result"]

    def _came_to_nothing(self, trace: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """The expressions that were null, or have null in them."""
        for node_id, step in trace.items():
            if self._nodes[node_id]["type"] == "expressionNode":
                for name, made in (step.get("traceData") or {}).items():
                    if _has_nothing(made.get("result")):
                        yield node_id, name

    def _without_a_hit(self, trace: Mapping[str, Any]) -> Iterator[str]:
        """The tables that were asked, and of which no row fits."""
        for node_id, step in trace.items():
            if self._nodes[node_id]["type"] == "decisionTableNode" and not step.get("traceData"):
                yield node_id

    def _matched(self, trace: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        for node_id, step in sorted(trace.items(), key=lambda item: item[1].get("order", 0)):
            if self._nodes[node_id]["type"] != "decisionTableNode":
                continue
            row = step["traceData"]
            yield {
                "table": self._name(node_id),
                "row": row["index"] + 1,
                "rule": (row.get("rule") or {}).get("_id"),
            }

    def _name(self, node_id: str) -> str:
        return str(self._nodes[node_id].get("name", node_id))


def _has_nothing(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_has_nothing, value))
    return value is None


def _codes(reasons: Any) -> Sequence[str] | None:
    if reasons is None or isinstance(reasons, str):
        return [reasons] if reasons else []
    is_list = isinstance(reasons, list) and all(isinstance(one, str) for one in reasons)
    return reasons if is_list else None
