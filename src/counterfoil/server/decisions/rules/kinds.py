"""What kind of value a name stands for: known before anything is evaluated.

The engine compares values of two kinds without a word: ``"5" == 5`` is false, and so is a cell
``> 5`` where the column is a text. So every name has a kind, from the schema of the inputs or from
what makes it, and what compares two kinds is refused (``expressions.py``).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value.

    Attributes:
        name: ``number``, ``text``, ``truth``, ``list``, ``object``, ``interval`` or ``anything``
            (the element of an empty list).
        element: of a list: the kind of its elements.
        members: of an object: its members.
        values: of a text: all that it may be, where that is known.
    """

    name: str
    element: "Kind | None" = None
    members: tuple[tuple[str, "Kind"], ...] = ()
    values: frozenset[str] | None = None

    def member(self, name: str) -> "Kind | None":
        """The kind of a member; None where there is no such member."""
        return dict(self.members).get(name)

    def fits(self, other: "Kind") -> bool:
        """Whether values of both can be compared, or stand in each other's place."""
        if "anything" in {self.name, other.name}:
            return True
        if self.name != other.name:
            return False
        if self.element is not None and other.element is not None:
            return self.element.fits(other.element)
        return self.members == other.members

    @property
    def is_plain(self) -> bool:
        """Whether it is a number, a text or a truth: what can be compared."""
        return self.name in {"number", "text", "truth", "anything"}

    def __str__(self) -> str:
        if self.name == "list" and self.element is not None and self.element.is_plain:
            return (
                f"a list of {self.element.name}s" if self.element.name != "anything" else "a list"
            )
        return {"object": "an object", "interval": "an interval", "anything": "anything"}.get(
            self.name, f"a {self.name}"
        )


NUMBER: Final = Kind("number")
TEXT: Final = Kind("text")
TRUTH: Final = Kind("truth")
INTERVAL: Final = Kind("interval")
ANYTHING: Final = Kind("anything")


@dataclass(frozen=True, slots=True)
class Named:
    """What a name stands for: its kind, where it comes from, and whether it may be missing."""

    kind: Kind
    origin: str
    may_be_missing: bool = False


Names = Mapping[str, Named]


def list_of(element: Kind) -> Kind:
    """The kind of a list of these."""
    return Kind("list", element=element)


def joined(one: Kind, other: Kind) -> Kind:
    """What may be either of two that fit."""
    if one.name == "anything":
        return other
    if one.values is not None and other.values is not None:
        return Kind("text", values=one.values | other.values)
    return TEXT if one.name == "text" else one


_BY_TYPE: Final[Mapping[str, Kind]] = {
    "integer": NUMBER,
    "number": NUMBER,
    "string": TEXT,
    "boolean": TRUTH,
}


def kind_of_schema(schema: Any) -> Kind | None:
    """The one kind of what a schema lets in; None where it may let in several, or nobody can tell."""
    if not isinstance(schema, dict):
        return None
    listed = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(listed, list):
        return _kind_of_values(listed)
    types = schema.get("type")
    if isinstance(types, list) and types:
        kinds = {_BY_TYPE.get(str(one)) for one in types}
        return kinds.pop() if len(kinds) == 1 else None
    if types == "array":
        element = kind_of_schema(schema.get("items"))
        return None if element is None else list_of(element)
    if types == "object":
        parts = schema.get("properties")
        members = {
            name: kind_of_schema(part)
            for name, part in (parts.items() if isinstance(parts, dict) else ())
        }
        known = tuple((name, kind) for name, kind in sorted(members.items()) if kind is not None)
        return Kind("object", members=known) if len(known) == len(members) else None
    return _BY_TYPE.get(str(types))


def _kind_of_values(values: Sequence[Any]) -> Kind | None:
    if values and all(isinstance(one, str) for one in values):
        return Kind("text", values=frozenset(values))
    if values and all(isinstance(one, bool) for one in values):
        return TRUTH
    if values and all(
        isinstance(one, int | Decimal) and not isinstance(one, bool) for one in values
    ):
        return NUMBER
    return None


def samples(kind: Kind, numbers: Iterable[Decimal], texts: Iterable[str]) -> list[Any]:
    """Values of a kind that tell conditions apart which compare with these numbers and texts."""
    known, words = sorted({Decimal(0), *numbers}), sorted({*texts})
    between = [(one + other) / 2 for one, other in pairwise(known)]
    plain: dict[str, list[Any]] = {
        "number": [known[0] - 1, *known, *between, known[-1] + 1],
        "text": sorted(kind.values)
        if kind.values is not None
        else ["", *words, "".join(words) + "·"],
        "truth": [True, False],
    }
    if kind.name == "list" and kind.element is not None:
        return [[], *([one] for one in samples(kind.element, known, words))]
    if kind.name == "object":
        columns = {name: samples(part, known, words) for name, part in kind.members}
        most = max(map(len, columns.values()), default=1)
        return [
            {name: values[nth % len(values)] for name, values in columns.items()}
            for nth in range(most)
        ]
    return plain.get(kind.name, [])
