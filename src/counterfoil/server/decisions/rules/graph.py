"""A decision graph, as the engine's own editor saves it, and whether it may decide.

The engine by itself fails open: a name that nobody handed on is null, a condition over null is
false, and whatever no row before has caught falls through to the last one. So a graph is judged
before it is published, and everything in it that could decide on a guess is refused:

* Only what is understood: each member of the graph, of a node and of its content is one that is
  judged here, or only looks (``parts.py``). A graph with `blocks`, for one, would not be read as a
  graph at all.
* Only nodes that compute: tables, expressions, switches. No JavaScript, nothing that is loaded by
  its name, nothing of one's own.
* One way in, one way out, no cycle; what leads nowhere is a mistake.
* Every name that an expression reads is handed on to it by the nodes before, whichever way a switch
  went; and it was made once, so that no order of edges decides which is meant.
* What is decided stands in a table, as a constant (``tables.py``).
* A row that catches everything is the last, and does not approve. Two rows with the same conditions
  are a contradiction, or one of them is dead.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

from counterfoil.server.decisions.rules.expressions import Place
from counterfoil.server.decisions.rules.found import listed
from counterfoil.server.decisions.rules.joining import handed_on, ways_of
from counterfoil.server.decisions.rules.kinds import ANYTHING, Kind, Named, Names
from counterfoil.server.decisions.rules.parts import Node, read_parts
from counterfoil.server.decisions.rules.tables import judge_table
from counterfoil.server.decisions.rules.vocabulary import (
    OUTCOME,
    REASONS,
    Fault,
    Judge,
    Vocabulary,
    is_name,
)


def judge_graph(graph: Mapping[str, Any], words: Vocabulary) -> Sequence[Fault]:
    """Everything for which a graph may not be published; nothing if it may."""
    by_id, faults = read_parts(graph)
    faults = faults or [*_shape(by_id)]
    if faults:
        return faults
    judge = Judge(words)
    for node_id in _in_order(by_id):
        _judge_node(judge, by_id[node_id], by_id)
    if not any(node.kind == "decisionTableNode" for node in by_id.values()):
        judge.refuse(("rules", "nodes"), "No table says what is decided.")
    if not judge.faults:
        (out,) = (node for node in by_id.values() if node.kind == "outputNode")
        if not {OUTCOME, REASONS} <= set(out.hands_on):
            judge.refuse(
                out.pointer,
                f"What comes out here must have `{OUTCOME}` and `{REASONS}`; it has "
                f"{listed(out.hands_on)}.",
            )
    return judge.faults


def _shape(by_id: Mapping[str, Node]) -> Iterator[Fault]:
    """Whether there is one way in, and one way out of everything, without going in circles."""
    for kind, shown in (("inputNode", "input"), ("outputNode", "output")):
        count = sum(node.kind == kind for node in by_id.values())
        if count != 1:
            yield Fault(("rules", "nodes"), f"A graph has one {shown} node; this has {count}.")
            return
    try:
        _in_order(by_id)
    except CycleError as error:
        names = " → ".join(by_id[one].name for one in error.args[1])
        yield Fault(("rules", "edges"), f"The graph goes in circles: {names}.")
        return
    yield from _loose_ends(by_id.values())


def _loose_ends(nodes: Iterable[Node]) -> Iterator[Fault]:
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


def _in_order(by_id: Mapping[str, Node]) -> list[str]:
    return list(
        TopologicalSorter(
            {one: [before for before, _ in node.before] for one, node in by_id.items()}
        ).static_order()
    )


def _judge_node(judge: Judge, node: Node, by_id: Mapping[str, Node]) -> None:
    if node.kind == "inputNode":
        node.hands_on = judge.words.inputs
        return
    known = handed_on(judge, node, by_id)
    node.ways = ways_of(node, by_id)
    made: Names = {}
    if node.kind == "expressionNode":
        made = _judge_expressions(judge, node, known)
    elif node.kind == "decisionTableNode":
        made = judge_table(judge, (*node.pointer, "content"), node.content, known)
    elif node.kind == "switchNode":
        _judge_switch(judge, node, known)
    passes_on = node.kind in {"switchNode", "outputNode"} or node.content.get("passThrough") is True
    for name in sorted(set(made) & set(known)) if passes_on else ():
        judge.refuse(
            node.pointer, f"`{name}` is handed on already; what this node makes needs another name."
        )
    node.hands_on = {**(known if passes_on else {}), **made}


def _judge_switch(judge: Judge, node: Node, known: Names) -> None:
    pointer = (*node.pointer, "content", "statements")
    taken = {handle for _, handle in node.after}
    for nth, statement in enumerate(node.statements):
        condition = statement.get("condition")
        if condition:
            at = (*pointer, nth, "condition")
            judge.expression(at, condition, Place.BRANCH, known)
        elif nth < len(node.statements) - 1:
            judge.refuse((*pointer, nth), "Without a condition this is always met; put it last.")
        if statement["id"] not in taken:
            judge.refuse((*pointer, nth), "No edge leads on from here.")


def _judge_expressions(judge: Judge, node: Node, known: Names) -> dict[str, Named]:
    lines = node.content.get("expressions")
    pointer = (*node.pointer, "content", "expressions")
    if not isinstance(lines, list):
        judge.refuse(pointer, "An expression node has a list of `expressions`.")
        return {}
    made: dict[str, Kind] = {}
    for nth, one in enumerate(lines):
        at = (*pointer, nth)
        key, value = (one.get(name) if isinstance(one, dict) else None for name in ("key", "value"))
        if not key or not isinstance(value, str) or not value.strip():
            judge.refuse(at, "An expression has a `key` and a `value`.")
            continue
        if not is_name(key):
            message = "What an expression makes has a name: letters, digits and underscores."
            judge.refuse((*at, "key"), message)
            continue
        if key in {OUTCOME, REASONS}:
            judge.refuse((*at, "key"), f"Let a table say the `{key}`, as a constant.")
        elif key in made:
            judge.refuse((*at, "key"), f"A line before makes `{key}`.")
        elif judge.words.forbids(key):
            judge.refuse((*at, "key"), "This is among `forbidden_inputs`.")
        dollar = Kind("object", members=tuple(made.items()))
        kind = judge.expression((*at, "value"), value, Place.FIGURE, known, dollar=dollar)
        if kind is not None and kind.name == "object":
            judge.refuse((*at, "value"), "Name the member of the object itself.")
        made[key] = kind or ANYTHING
    return {name: Named(kind, str(node.pointer)) for name, kind in made.items()}
