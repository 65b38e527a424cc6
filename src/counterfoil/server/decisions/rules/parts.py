"""The nodes and edges of a decision graph, and what may be said of them.

The engine passes over members that it does not know, and changes what a node does for some that it
knows: a table that is asked once for each element of a list, a schema that is fetched. So what is
not judged is refused, but for what only says where the editor draws it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from counterfoil.server.core import limits
from counterfoil.server.decisions.rules.kinds import Names
from counterfoil.server.decisions.rules.vocabulary import Fault, Pointer

_REFUSED_NODES: Final[Mapping[str, str]] = {
    "functionNode": "Function nodes run JavaScript, which can do anything; use a table or an expression.",
    "decisionNode": "Decision nodes load another decision by its path, which may be another tomorrow; "
    "put its nodes here.",
    "customNode": "Custom nodes are code of somebody's own.",
}
_DRAWN: Final = frozenset(
    {
        *("position", "positionAbsolute", "width", "height", "measured", "description"),
        *("selected", "dragging", "resizing", "style", "markerEnd", "animated", "label", "zIndex"),
    }
)
"""Of nodes and edges: what only looks."""

_GRAPH_KEYS: Final = frozenset({"nodes", "edges", "contentType", "viewport"})
_NODE_KEYS: Final = frozenset({"id", "name", "type", "content"}) | _DRAWN
_EDGE_KEYS: Final = (
    frozenset({"id", "name", "type", "sourceId", "targetId", "sourceHandle", "targetHandle"})
    | _DRAWN
)
_MUST_BE_EMPTY: Final[Mapping[str, frozenset[Any]]] = {
    "inputField": frozenset({None, ""}),
    "outputPath": frozenset({None, ""}),
    "executionMode": frozenset({None, "single"}),
    "schema": frozenset({None, ""}),
}
_TRANSFORMS: Final = frozenset({"passThrough", "inputField", "outputPath", "executionMode"})
_CONTENT_KEYS: Final[Mapping[str, frozenset[str]]] = {
    "inputNode": frozenset({"schema"}),
    "outputNode": frozenset({"schema"}),
    "decisionTableNode": frozenset({"rules", "inputs", "outputs", "hitPolicy"}) | _TRANSFORMS,
    "expressionNode": frozenset({"expressions"}) | _TRANSFORMS,
    "switchNode": frozenset({"statements", "hitPolicy"}),
}


@dataclass(slots=True)
class Node:
    """A node, taken apart.

    Attributes:
        before, after: the nodes that lead to it and that it leads to, each with the branch of the
            switch that the edge comes from; empty where it comes from no switch.
        hands_on: what it hands on.
        ways: the branches of switches under which it runs (``joining.py``).
    """

    nth: int
    kind: str
    name: str
    content: Mapping[str, Any]
    before: list[tuple[str, str]] = field(default_factory=list)
    after: list[tuple[str, str]] = field(default_factory=list)
    hands_on: Names = field(default_factory=dict)
    ways: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def pointer(self) -> Pointer:
        """Where it stands."""
        return ("rules", "nodes", self.nth)

    @property
    def statements(self) -> Sequence[Mapping[str, Any]]:
        """Of a switch: its branches."""
        found: Sequence[Mapping[str, Any]] = self.content.get("statements", ())
        return found


def read_parts(graph: Mapping[str, Any]) -> tuple[dict[str, Node], list[Fault]]:
    """The nodes of a graph by their ids, and what is wrong with what it is made of."""
    nodes = graph.get("nodes")
    edges = graph.get("edges")
    if not isinstance(nodes, list) or not isinstance(edges, list):
        fault = Fault(("rules",), "A decision graph has a list of `nodes` and a list of `edges`.")
        return {}, [fault]
    if len(nodes) > limits.POLICY_NODES_MAX:
        most = f"A graph has at most {limits.POLICY_NODES_MAX} nodes."
        return {}, [Fault(("rules", "nodes"), most)]
    by_id: dict[str, Node] = {}
    faults = [*_strange(("rules",), graph, _GRAPH_KEYS)]
    for nth, node in enumerate(nodes):
        faults += _read_node(nth, node, by_id)
    for nth, edge in enumerate(edges):
        faults += _read_edge(nth, edge, by_id)
    return by_id, faults


def _strange(pointer: Pointer, part: Mapping[str, Any], known: frozenset[str]) -> Iterator[Fault]:
    for name in sorted(set(part) - known):
        yield Fault((*pointer, name), "Nobody judges what this would do; leave it out.")


def _read_node(nth: int, node: Any, by_id: dict[str, Node]) -> Iterator[Fault]:
    pointer: Pointer = ("rules", "nodes", nth)
    if not isinstance(node, dict) or not isinstance(node.get("id"), str):
        yield Fault(pointer, "A node is an object with an `id`.")
        return
    kind = str(node.get("type"))
    if kind in _REFUSED_NODES:
        yield Fault((*pointer, "type"), _REFUSED_NODES[kind])
    elif kind not in _CONTENT_KEYS:
        yield Fault((*pointer, "type"), f"A node's type is one of {', '.join(_CONTENT_KEYS)}.")
    elif node["id"] in by_id:
        yield Fault((*pointer, "id"), "Another node has this id.")
    else:
        content = node.get("content")
        found = Node(
            nth,
            kind,
            str(node.get("name", node["id"])),
            content if isinstance(content, dict) else {},
        )
        by_id[node["id"]] = found
        yield from _strange(pointer, node, _NODE_KEYS)
        yield from _faults_of_content(found)


def _faults_of_content(node: Node) -> Iterator[Fault]:
    pointer = (*node.pointer, "content")
    yield from _strange(pointer, node.content, _CONTENT_KEYS[node.kind])
    for name, allowed in _MUST_BE_EMPTY.items():
        value = node.content.get(name)
        if not (value is None or isinstance(value, str)) or value not in allowed:
            yield Fault((*pointer, name), "Nobody judges what this would do; leave it empty.")
    if not isinstance(node.content.get("passThrough", False), bool):
        yield Fault(
            (*pointer, "passThrough"), "Whether it passes on what it is handed: true or false."
        )
    if node.kind == "switchNode":
        yield from _faults_of_switch(node)


def _faults_of_switch(node: Node) -> Iterator[Fault]:
    pointer = (*node.pointer, "content")
    if node.content.get("hitPolicy", "first") != "first":
        yield Fault((*pointer, "hitPolicy"), "A switch takes the first branch that fits: `first`.")
    statements = node.content.get("statements")
    if not isinstance(statements, list) or not statements:
        yield Fault((*pointer, "statements"), "A switch has statements.")
        node.content = {}
        return
    seen: set[str] = set()
    for nth, one in enumerate(statements):
        if not isinstance(one, dict) or not isinstance(one.get("id"), str) or one["id"] in seen:
            yield Fault((*pointer, "statements", nth), "A statement has an `id` of its own.")
        else:
            seen.add(one["id"])


def _read_edge(nth: int, edge: Any, by_id: Mapping[str, Node]) -> Iterator[Fault]:
    pointer: Pointer = ("rules", "edges", nth)
    ends = [
        str(edge.get(end)) if isinstance(edge, dict) else "" for end in ("sourceId", "targetId")
    ]
    if not all(end in by_id for end in ends):
        yield Fault(pointer, "An edge leads from a node of this graph to one.")
        return
    yield from _strange(pointer, edge, _EDGE_KEYS)
    source, target = ends
    handle = ""
    if by_id[source].kind == "switchNode":
        handle = str(edge.get("sourceHandle"))
        branches = [one.get("id") for one in by_id[source].statements if isinstance(one, dict)]
        if handle not in branches:
            yield Fault(
                (*pointer, "sourceHandle"),
                "An edge from a switch names the statement that it belongs to.",
            )
    by_id[source].after.append((target, handle))
    by_id[target].before.append((source, handle))
