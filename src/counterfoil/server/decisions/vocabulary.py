"""What rules may speak of, and whether one expression keeps to it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from counterfoil.server.decisions import expressions
from counterfoil.server.decisions.expressions import ExpressionRefused

OUTCOME: Final = "outcome"
REASONS: Final = "reasons"
"""What a graph has to hand out: the outcome, and its reasons."""

Pointer = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a graph, and where."""

    pointer: Pointer
    message: str


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a graph may speak of.

    Attributes:
        inputs: the names of the policy's inputs.
        outcomes: by outcome: the codes of its reasons.
        approving: the outcomes that grant what was asked for.
        reasoned: those that need a reason.
        forbidden: names that no rule may read.
        optional: the inputs that may be missing.
    """

    inputs: frozenset[str]
    outcomes: Mapping[str, frozenset[str]]
    approving: frozenset[str]
    reasoned: frozenset[str]
    forbidden: frozenset[str]
    optional: frozenset[str]

    def forbids(self, name: str) -> bool:
        """Whether a name is, or is spelt nearly like, one that is forbidden."""
        return plain(name) in {plain(one) for one in self.forbidden}


def plain(name: str) -> str:
    """A name without what spellings differ in: case, blanks, hyphens, underscores."""
    return "".join(sign for sign in name.casefold() if sign.isalnum())


def judge_expression(
    pointer: Pointer,
    expression: Any,
    known: frozenset[str],
    words: Vocabulary,
    *,
    made: set[str] | None = None,
    cell: bool = False,
) -> Iterator[Fault]:
    """One expression: what it reads must be there, and allowed.

    ``made`` is what its own node has made so far, which it reads as ``$.name``. ``cell``: it is a
    condition of a column.
    """
    if not isinstance(expression, str):
        yield Fault(pointer, "An expression is a text.")
        return
    try:
        read = expressions.reads(expression, cell=cell)
    except ExpressionRefused as refused:
        yield Fault(pointer, str(refused))
        return
    for path in sorted(read.paths):
        if any(words.forbids(part) for part in path.split(".")):
            yield Fault(
                pointer, f"`{path}` may not be read by a rule: it is among `forbidden_inputs`."
            )
    for name in sorted(read.bare & words.optional & known):
        yield Fault(
            pointer,
            f"`{name}` may be missing, and a condition over nothing is not met: the next row would "
            f"decide on a guess. Say what it counts as then: `({name} ?? 0)`.",
        )
    for name in sorted(read.names - known):
        yield Fault(
            pointer,
            f"A condition compares its column with constants; make a column of `{name}`."
            if cell
            else f"Nothing hands on `{name}`. Known here: {listed(known)}.",
        )
    for path in sorted(read.paths):
        root, _, rest = path.partition(".")
        if root == "$" and made is not None and rest.partition(".")[0] not in made:
            yield Fault(pointer, f"`{path}`: nothing before in this node makes that.")


def listed(names: frozenset[str]) -> str:
    """Names for a sentence."""
    return ", ".join(f"`{name}`" for name in sorted(names)) or "nothing"
