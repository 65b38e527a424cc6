"""What rules may speak of, and whether one expression keeps to it."""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeGuard

from counterfoil.server.decisions.rules import expressions
from counterfoil.server.decisions.rules.expressions import Place
from counterfoil.server.decisions.rules.kinds import Kind, Names
from counterfoil.server.decisions.rules.tokens import ExpressionRefused

OUTCOME: Final = "outcome"
REASONS: Final = "reasons"
"""What a graph has to hand out: the outcome, and its reasons."""

Pointer = tuple[str | int, ...]

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WORD_ENDS: Final = re.compile(
    r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[a-z])|[\W_]+"
)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a graph, and where."""

    pointer: Pointer
    message: str


@dataclass(frozen=True)
class Vocabulary:
    """What a graph may speak of.

    Attributes:
        inputs: the policy's inputs, each with its kind, and whether it may be missing.
        outcomes: by outcome: the codes of its reasons.
        approving: the outcomes that grant what was asked for.
        reasoned: those that need a reason.
        forbidden: names that no rule may read.
    """

    inputs: Names
    outcomes: Mapping[str, frozenset[str]]
    approving: frozenset[str]
    reasoned: frozenset[str]
    forbidden: frozenset[str]

    @cached_property
    def _forbidden_words(self) -> frozenset[str]:
        return frozenset(f" {' '.join(words(one))} " for one in self.forbidden)

    @cached_property
    def _forbidden_plain(self) -> frozenset[str]:
        return frozenset(map(plain, self.forbidden))

    def forbids(self, name: str) -> bool:
        """Whether a name is one that is forbidden, however it is spelt, or has it among its words."""
        if plain(name) in self._forbidden_plain:
            return True
        spelt = f" {' '.join(words(name))} "
        return any(one in spelt for one in self._forbidden_words if one.strip())


def plain(name: str) -> str:
    """A name without what spellings differ in: case, width, blanks, hyphens, underscores."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return "".join(sign for sign in folded if sign.isalnum())


def words(name: str) -> list[str]:
    """The words of a name: of ``applicantAge`` and ``applicant_age``, `applicant` and `age`.

    A word ends before a capital, before the last capital of several (``IDAge``), between letters and
    digits (``age2``), and at whatever is neither.
    """
    parts = _WORD_ENDS.split(unicodedata.normalize("NFKC", name))
    return [part.casefold() for part in parts if part]


def is_name(text: Any) -> TypeGuard[str]:
    """Whether a node may make something of this name: one that expressions can read as a whole."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


class Judge:
    """Goes through a graph, and keeps what is wrong with it.

    Attributes:
        words: what the graph may speak of.
        faults: what was found.
    """

    def __init__(self, words: Vocabulary) -> None:
        self.words = words
        self.faults: list[Fault] = []

    def refuse(self, pointer: Pointer, message: str) -> None:
        """Keep a fault."""
        self.faults.append(Fault(pointer, message))

    def expression(
        self,
        pointer: Pointer,
        expression: Any,
        place: Place,
        known: Names,
        *,
        dollar: Kind | None = None,
    ) -> Kind | None:
        """The kind of an expression; None, with a fault more, where no rule may have it.

        ``known`` is what its node is handed, ``dollar`` what it reads as ``$`` (``expressions.py``).
        """
        if not isinstance(expression, str):
            self.refuse(pointer, "An expression is a text.")
            return None
        try:
            return expressions.read(
                expression, place, known, forbids=self.words.forbids, dollar=dollar
            )
        except ExpressionRefused as refused:
            self.refuse(pointer, str(refused))
            return None
