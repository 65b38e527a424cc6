"""A decision graph, as the engine's own editor saves it, and whether it may decide.

The engine by itself fails open: a name that nobody handed on is null, a condition over null is
false, and whatever no row before has caught falls through to the last one. So a graph is judged
before it is published, and everything in it that could decide on a guess is refused:

* Only nodes that compute: tables, expressions, switches. No JavaScript, nothing that is loaded by
  its name, nothing of one's own.
* One way in, a way out of everything, no cycle; what leads nowhere is a mistake.
* Every name that an expression reads is handed on to it by the nodes before.
* What is decided stands in a table, as a constant (``tables.py``).
* A row that catches everything is the last, and does not approve. Two rows with the same conditions
  are a contradiction, or one of them is dead.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final

from counterfoil.server.core import limits
from counterfoil.server.decisions.tables import judge_table, makes
from counterfoil.server.decisions.vocabulary import (
    OUTCOME,
    REASONS,
    Fault,
    Pointer,
    Vocabulary,
    judge_expression,
    listed,
)

_REFUSED_NODES: Final[Mapping[str, str]] = {
    "functionNode": "Function nodes run JavaScript, which can do anything; use a table or an expression.",
    "decisionNode": "Decision nodes load another decision by its path, which may be another tomorrow; "
    "put its nodes here.",
    "customNode": "Custom nodes are code of somebody's own.",
}
_NODES: Final = ("inputNode", "outputNode", "decisionTableNode", "expressionNode", "switchNode")


@dataclass(slots=True)
class _Node:
    nth: int
    kind: str
    name: str
    content: Mapping[str, Any]
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    hands_on: frozenset[str] = frozenset()

    @property
    def pointer(self) -> Pointer:
        return ("rules", "nodes", self.nth)


def judge(graph: Mapping[str, Any], words: Vocabulary) -> Iterator[Fault]:
    """Everything for which a graph may not be published; nothing if it may."""
    nodes = graph.get("nodes")
    edges = graph.get("edges")
    if not isinstance(nodes, list) or not isinstance(edges, list):
        yield Fault(("rules",), "A decision graph has a list of `nodes` and a list of `edges`.")
        return
    if len(nodes) > limits.POLICY_NODES_MAX:
        yield Fault(("rules", "nodes"), f"A graph has at most {limits.POLICY_NODES_MAX} nodes.")
        return
    by_id: dict[str, _Node] = {}
    faults = [*_read_nodes(nodes, by_id)]
    faults += _read_edges(edges, by_id)
    if faults:
        yield from faults
        return
    faults = [*_shape(by_id)]
    if faults:
        yield from faults
        return
    for node_id in _in_order(by_id):
        yield from _judge_node(by_id[node_id], by_id, words)
    if not any(node.kind == "decisionTableNode" for node in by_id.values()):
        yield Fault(("rules", "nodes"), "No table says what is decided.")
    for node in by_id.values():
        if node.kind == "outputNode" and not {OUTCOME, REASONS} <= node.hands_on:
            yield Fault(
                node.pointer,
                f"What comes out here must have `{OUTCOME}` and `{REASONS}`; it has "
                f"{listed(node.hands_on)}.",
            )


def _read_nodes(nodes: Sequence[Any], by_id: dict[str, _Node]) -> Iterator[Fault]:
    for nth, node in enumerate(nodes):
        pointer: Pointer = ("rules", "nodes", nth)
        if not isinstance(node, dict) or not isinstance(node.get("id"), str):
            yield Fault(pointer, "A node is an object with an `id`.")
            continue
        kind = str(node.get("type"))
        if kind in _REFUSED_NODES:
            yield Fault((*pointer, "type"), _REFUSED_NODES[kind])
        elif kind not in _NODES:
            yield Fault((*pointer, "type"), f"A node's type is one of {', '.join(_NODES)}.")
        elif node["id"] in by_id:
            yield Fault((*pointer, "id"), "Another node has this id.")
        else:
            content = node.get("content")
            by_id[node["id"]] = _Node(
                nth,
                kind,
                str(node.get("name", node["id"])),
                content if isinstance(content, dict) else {},
            )


def _read_edges(edges: Sequence[Any], by_id: Mapping[str, _Node]) -> Iterator[Fault]:
    for nth, edge in enumerate(edges):
        ends = [
            str(edge.get(end)) if isinstance(edge, dict) else "" for end in ("sourceId", "targetId")
        ]
        if not all(end in by_id for end in ends):
            yield Fault(("rules", "edges", nth), "An edge leads from a node of this graph to one.")
            continue
        source, target = ends
        by_id[source].after.append(target)
        by_id[target].before.append(source)


def _shape(by_id: Mapping[str, _Node]) -> Iterator[Fault]:
    """Whether there is one way in, and a way out of everything, without going in circles."""
    ways_in = [one for one, node in by_id.items() if node.kind == "inputNode"]
    if len(ways_in) != 1:
        yield Fault(("rules", "nodes"), f"A graph has one input node; this has {len(ways_in)}.")
        return
    if not any(node.kind == "outputNode" for node in by_id.values()):
        yield Fault(("rules", "nodes"), "A graph has an output node.")
        return
    try:
        _in_order(by_id)
    except CycleError as error:
        names = " → ".join(by_id[one].name for one in error.args[1])
        yield Fault(("rules", "edges"), f"The graph goes in circles: {names}.")
        return
    yield from _loose_ends(by_id.values())


def _loose_ends(nodes: Iterable[_Node]) -> Iterator[Fault]:
    for node in nodes:
        if node.kind == "inputNode":
            if node.before:
                yield Fault(node.pointer, "Nothing leads into the input node.")
        elif not node.before:
            yield Fault(node.pointer, f"Nothing leads to `{node.name}`.")
        if node.kind == "outputNode":
            if node.after:
                yield Fault(node.pointer, "Nothing leads on from an output node.")
        elif not node.after:
            yield Fault(node.pointer, f"`{node.name}` leads nowhere.")


def _in_order(by_id: Mapping[str, _Node]) -> list[str]:
    return list(TopologicalSorter({one: node.before for one, node in by_id.items()}).static_order())


def _judge_node(node: _Node, by_id: Mapping[str, _Node], words: Vocabulary) -> Iterator[Fault]:
    known = frozenset[str]().union(*(by_id[one].hands_on for one in node.before))
    if node.kind == "inputNode":
        node.hands_on = words.inputs
    elif node.kind == "expressionNode":
        yield from _judge_expressions(node, known, words)
    elif node.kind == "decisionTableNode":
        node.hands_on = makes(node.content) | (known if _passes_on(node) else frozenset())
        yield from judge_table((*node.pointer, "content"), node.content, known, words)
    else:
        if node.kind == "switchNode":
            yield from _judge_switch(node, known, words)
        node.hands_on = known


def _judge_switch(node: _Node, known: frozenset[str], words: Vocabulary) -> Iterator[Fault]:
    statements = node.content.get("statements")
    pointer = (*node.pointer, "content", "statements")
    if not isinstance(statements, list) or not statements:
        yield Fault(pointer, "A switch has statements.")
        return
    for nth, statement in enumerate(statements):
        condition = statement.get("condition") if isinstance(statement, dict) else None
        if condition:
            yield from judge_expression((*pointer, nth, "condition"), condition, known, words)


def _judge_expressions(node: _Node, known: frozenset[str], words: Vocabulary) -> Iterator[Fault]:
    lines = node.content.get("expressions")
    pointer = (*node.pointer, "content", "expressions")
    if not isinstance(lines, list):
        yield Fault(pointer, "An expression node has a list of `expressions`.")
        return
    made: set[str] = set()
    for nth, one in enumerate(lines):
        key, value = (one.get(name) if isinstance(one, dict) else None for name in ("key", "value"))
        if not isinstance(key, str) or not key or not isinstance(value, str) or not value.strip():
            yield Fault((*pointer, nth), "An expression has a `key` and a `value`.")
            continue
        root = key.partition(".")[0]
        if root in {OUTCOME, REASONS}:
            yield Fault((*pointer, nth, "key"), f"Let a table say the `{root}`, as a constant.")
        yield from judge_expression((*pointer, nth, "value"), value, known, words, made=made)
        made.add(root)
    node.hands_on = frozenset(made) | (known if _passes_on(node) else frozenset())


def _passes_on(node: _Node) -> bool:
    return node.content.get("passThrough") is True
