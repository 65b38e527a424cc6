"""What several nodes hand on to one, whichever way the switches before it went.

Each node runs under some branches of some switches: its *ways*. Where nodes come together, either
all of them have run (they have the same ways), or one of them has (each two differ in the branches
of one switch). In the first case their names are put together, and a name that two of them made
would depend on the order of the edges. In the second there is for sure only what all of them hand
on. Anything else could be there or not, and is refused.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

from counterfoil.server.decisions.rules.kinds import Named, Names, joined
from counterfoil.server.decisions.rules.parts import Node
from counterfoil.server.decisions.rules.vocabulary import Judge

Ways = Mapping[str, frozenset[str]]


def ways_of(node: Node, by_id: Mapping[str, Node]) -> Ways:
    """The ways under which a node runs: by switch, the branches that lead to it."""
    found = [_ways_along(one, handle, by_id) for one, handle in node.before]
    if not _exclude_each_other(found):
        return found[0]
    differing = {
        switch
        for one in found
        for switch in one
        if any(one[switch] != w.get(switch) for w in found)
    }
    ways = {switch: taken for switch, taken in found[0].items() if switch not in differing}
    if len(differing) != 1 or not all(differing <= one.keys() for one in found):
        # They differ in more than one switch: nobody can tell what is certain then.
        return {**ways, f"{node.nth}": frozenset()}
    (switch,) = differing
    statements = by_id[switch].statements
    taken = frozenset[str]().union(*(one[switch] for one in found))
    is_any = taken >= {one["id"] for one in statements} and not statements[-1].get("condition")
    return ways if is_any else {**ways, switch: taken}


def handed_on(judge: Judge, node: Node, by_id: Mapping[str, Node]) -> Names:
    """What a node is handed by those before it."""
    handed = [by_id[one].hands_on for one, _ in node.before]
    ways = [_ways_along(one, handle, by_id) for one, handle in node.before]
    if len(handed) > 1 and _exclude_each_other(ways):
        return _of_either(judge, node, handed)
    if any(one != ways[0] for one in ways):
        judge.refuse(
            node.pointer,
            "Of what comes together here, some may not come: a switch before it has other "
            "branches. Bring the branches of a switch together first.",
        )
    return _of_all(judge, node, handed)


def _ways_along(before: str, handle: str, by_id: Mapping[str, Node]) -> Ways:
    ways = by_id[before].ways
    return {**ways, before: frozenset({handle})} if handle else ways


def _exclude_each_other(ways: Sequence[Ways]) -> bool:
    return len(ways) > 1 and all(
        any(not (one[switch] & other[switch]) for switch in one.keys() & other.keys())
        for one, other in combinations(ways, 2)
    )


def _of_either(judge: Judge, node: Node, handed: Sequence[Names]) -> Names:
    found: dict[str, Named] = {}
    for name in sorted(frozenset(handed[0]).intersection(*handed[1:])):
        several = [names[name] for names in handed]
        kind = several[0].kind
        if not all(one.kind.fits(kind) for one in several):
            judge.refuse(node.pointer, f"`{name}` is of another kind on each way to here.")
            continue
        for one in several[1:]:
            kind = joined(kind, one.kind)
        origins = {one.origin for one in several}
        origin = origins.pop() if len(origins) == 1 else f"{node.nth}"
        found[name] = Named(kind, origin, any(one.may_be_missing for one in several))
    return found


def _of_all(judge: Judge, node: Node, handed: Sequence[Names]) -> Names:
    found: dict[str, Named] = {}
    for names in handed:
        for name, one in names.items():
            if found.setdefault(name, one).origin != one.origin:
                judge.refuse(
                    node.pointer,
                    f"`{name}` comes here from two nodes that make it, and the order of edges "
                    "would decide which is meant. Give each a name of its own.",
                )
    return found
