"""What holding a payload against a schema can cost at most, told before it is done.

Theory of operation
-------------------
A schema and a payload that are each small can take minutes together: branches times places,
options times numbers, patterns times characters. While the checker runs, its process answers
nobody. So each check is charged for beforehand, in steps, and one that could take more than
``CHECK_STEPS_MAX`` is refused unseen.

A keyword costs something for each value, character, number and digit that it is held against.
What stands in one schema is held against the values of one place, and what stands below it
against the values below. So a schema has a row of charges for each depth below it: schemas for
the same value are added up, and of schemas for different members the dearest counts. A payload
has a row of amounts for each depth. The products of both, summed up, are never less than what is
done: every keyword that can meet a value of that depth is charged for it.

That is a ceiling. A common check costs less than a tenth of it. It is the same wherever and
whenever it is computed, so a payload that was refused for it is refused everywhere.

A step stands for about 50 ns of jsonschema-rs 0.60 on a machine of 2025; the charges below were
measured with the dearest values that could be found. ``tests/unit/event_types/test_cost.py`` lets
the checker count what it does, and holds that against the ceiling.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import zip_longest
from typing import Any, Final, NamedTuple, TypeAlias

from counterfoil.server.core import limits
from counterfoil.server.core.document import encode
from counterfoil.server.event_types.dialect import Schema, definitions, referred
from counterfoil.server.event_types.own_keywords import is_number
from counterfoil.server.event_types.patterns import pattern_bytes


class Amounts(NamedTuple):
    """So much of each kind: in a payload how many, in a schema the steps for each."""

    values: int = 0
    """Values of any kind."""
    characters: int = 0
    """Bytes of texts, and of members' names, in UTF-8."""
    integers: int = 0
    """Whole numbers that a processor holds."""
    decimals: int = 0
    """All other numbers: read digit by digit."""
    digits: int = 0
    """The digits of these, written out without an exponent."""
    faults: int = 0
    """In a schema: how many faults there can be with one value. No steps."""


Rows: TypeAlias = list[Amounts]
"""Amounts by depth: those of the value itself, of what is right below it, and so on."""

_NOTHING: Final = Amounts()
_ONE: Final = [Amounts(values=1, faults=1)]
_UNEVALUATED: Final = ("unevaluatedItems", "unevaluatedProperties")
_FOR_MEMBERS: Final = ("properties", "patternProperties", "additionalProperties", "propertyNames")
_FOR_ITEMS: Final = ("prefixItems", "items", "contains")
_WORD: Final = 2**63
_EXPONENT: Final = re.compile(rb"[0-9]E[+-]")
_BYTES_A_STEP: Final = 256
"""Of a compiled pattern: in the worst case all of it is looked at for each character."""

_UNIQUE: Final = Amounts(values=50, characters=1, digits=1)
"""For all that lies below a list whose entries may not be the same."""


class Ceiling:
    """What checks against one schema cost at most."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        """``root`` was judged: its references lead somewhere, and in no circle."""
        self._rows = _Charges(root).of(dict(root))
        self._half_steps_a_byte = max(map(_half_steps_a_byte, self._rows[1:]), default=0)

    def at_most(self, payload: Mapping[str, Any]) -> int | None:
        """What a check of a payload cannot exceed, as far as its size tells, and in no time.

        Whether a payload is ordinary can be told by that. None: it cannot, as there may be numbers
        in it that have more digits than characters.
        """
        text = encode(payload)
        if _EXPONENT.search(text):
            return None
        return self._rows[0].values + len(text) * self._half_steps_a_byte // 2 + 1

    def steps(self, value: object) -> int:
        """The most steps that a check of this value can take."""
        return sum(
            sum(map(int.__mul__, amounts, charges))
            for amounts, charges in zip(_amounts(value), self._rows, strict=False)
        )

    def faults(self, value: object) -> int:
        """How many faults can be found with this value."""
        return sum(
            amounts.values * charges.faults
            for amounts, charges in zip(_amounts(value), self._rows, strict=False)
        )


def _half_steps_a_byte(charges: Amounts) -> int:
    """What a byte of JSON can cost at one depth at most, in halves of a step.

    With the comma behind it, a value takes two bytes or more. Each byte is part of one value, or
    of its name.
    """
    return max(
        charges.values + 2 * charges.characters,
        charges.values + charges.integers,
        charges.values + charges.decimals + 2 * charges.digits,
    )


def _amounts(payload: object) -> Iterator[Amounts]:
    """What a payload has, depth by depth."""
    level: list[Any] = [payload]
    names = 0
    while level:
        characters, integers, decimals, digits = names, 0, 0, 0
        names = 0
        below: list[Any] = []
        for value in level:
            kind = type(value)
            if kind is str:
                characters += _bytes(value)
            elif kind is int:
                if -_WORD < value < _WORD:
                    integers += 1
                else:
                    decimals += 1
                    digits += value.bit_length() // 3
            elif kind is Decimal:
                decimals += 1
                digits += len(f"{value:f}")
            elif kind is dict:
                names += _bytes("".join(value))
                below.extend(value.values())
            elif kind is list:
                below.extend(value)
        yield Amounts(len(level), characters, integers, decimals, digits)
        level = below


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


# --- What a schema charges --------------------------------------------------------


class _Charges:
    """The charges of a schema's parts, each computed once."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._definitions = definitions(root)
        # By where a part stands in memory: all of them stay there, as parts of one root.
        self._checks: dict[int, Rows] = {}
        self._markings: dict[int, Rows] = {}

    def of(self, schema: Schema) -> Rows:
        """What a check against this schema costs for each value, by depth below it."""
        if isinstance(schema, bool):
            return _ONE
        known = self._checks.get(id(schema))
        if known is None:
            known = self._checks[id(schema)] = self._of_check(schema)
        return known

    def _of_check(self, schema: dict[str, Any]) -> Rows:
        parts = [[_own(schema)], *map(self.of, self._beside(schema))]
        below = [self._of_members(schema), self._of_items(schema)]
        if any(below):
            parts.append([_NOTHING, *_highest(below)])
        if schema.get("uniqueItems") is True:
            parts.append([_NOTHING, *[_UNIQUE] * limits.DOCUMENT_DEPTH_MAX])
        if not schema.keys().isdisjoint(_UNEVALUATED):
            parts += [self._of_marking(schema)] * 2  # It is done anew to name what is wrong.
        return _total(parts) if len(parts) > 1 else parts[0]

    def _of_marking(self, schema: Schema) -> Rows:
        """What it costs to tell which members and entries a schema has looked at.

        ``unevaluatedItems`` and ``unevaluatedProperties`` ask that of all schemas for the same
        value. It means to check all of them once more, and for each to ask it of theirs.
        """
        if isinstance(schema, bool):
            return []
        known = self._markings.get(id(schema))
        if known is None:
            names = Amounts(values=2, characters=_of_names(schema).characters)
            looked_at = [
                self.of(schema[keyword])
                for keyword in (*_UNEVALUATED, "contains")
                if keyword in schema
            ]
            parts = [[_NOTHING, names], *([_NOTHING, *rows] for rows in looked_at)]
            for part in self._beside(schema):
                parts += [self.of(part), self._of_marking(part)]
            known = self._markings[id(schema)] = _total(parts)
        return known

    def _beside(self, schema: Mapping[str, Any]) -> Iterator[Schema]:
        """The schemas that are held against the same value."""
        for keyword in ("allOf", "anyOf", "oneOf"):
            yield from schema.get(keyword, ())
        for keyword in ("not", "if", "then", "else"):
            if keyword in schema:
                yield schema[keyword]
        yield from schema.get("dependentSchemas", {}).values()
        name = referred(schema.get("$ref"))
        if name is not None:
            yield self._definitions[name]

    def _of_members(self, schema: Mapping[str, Any]) -> Rows:
        """What each member of an object costs, its name included."""
        if schema.keys().isdisjoint(_FOR_MEMBERS):
            return []
        named = _highest(map(self.of, schema.get("properties", {}).values()))
        fitting = _total(map(self.of, schema.get("patternProperties", {}).values()))
        all_others = self.of(schema.get("additionalProperties", True))
        parts = [_highest([_total([named, fitting]), all_others]), [_of_names(schema)]]
        if "propertyNames" in schema:
            parts.append(self.of(schema["propertyNames"])[:1])
        return _total(parts)

    def _of_items(self, schema: Mapping[str, Any]) -> Rows:
        """What each entry of a list costs."""
        if schema.keys().isdisjoint(_FOR_ITEMS):
            return []
        first = _highest(map(self.of, schema.get("prefixItems", ())))
        all_others = self.of(schema.get("items", True))
        contained = self.of(schema.get("contains", True))
        return _total([_highest([first, all_others]), contained])


def _of_names(schema: Mapping[str, Any]) -> Amounts:
    """What the name of each member costs: patterns look at it, for themselves and for others."""
    patterns = schema.get("patternProperties", {})
    return Amounts(
        values=1 + sum(2 * _of_pattern(pattern).values for pattern in patterns),
        characters=sum(2 * _of_pattern(pattern).characters for pattern in patterns),
    )


def _of_pattern(pattern: str) -> Amounts:
    """What it costs to look for a pattern. One of literals only is tried literal by literal."""
    return Amounts(
        values=2 + len(pattern) // 16,
        characters=1 + pattern_bytes(pattern) // _BYTES_A_STEP,
    )


def _own(schema: Mapping[str, Any]) -> Amounts:
    """What the keywords of a schema cost that are no schemas, for the value itself."""
    faults = sum(len(asked) if keyword == "required" else 1 for keyword, asked in schema.items())
    faults += sum(map(len, schema.get("dependentRequired", {}).values()))
    return _sum(
        [Amounts(values=1, faults=faults), *(_of_keyword(*member) for member in schema.items())]
    )


def _of_keyword(keyword: str, asked: Any) -> Amounts:
    match keyword:
        case "const":
            charge = _of_option(asked)
        case "enum":
            charge = _sum(map(_of_option, asked))
        case "pattern":
            charge = _of_pattern(asked)
        case "properties" | "required":
            charge = Amounts(values=4 * len(asked))
        case "dependentRequired":
            charge = Amounts(values=4 * sum(1 + len(names) for names in asked.values()))
        case _:
            charge = _FIXED.get(keyword, Amounts(values=1))
    return charge


_BOUND: Final = Amounts(values=20, integers=50, decimals=70)
_FIXED: Final[Mapping[str, Amounts]] = {
    "type": Amounts(values=1, decimals=10, digits=2),
    "minimum": _BOUND,
    "maximum": _BOUND,
    "exclusiveMinimum": _BOUND,
    "exclusiveMaximum": _BOUND,
    "multipleOf": Amounts(values=20, integers=100, decimals=120),
    "uniqueItems": Amounts(values=30),
    "format": Amounts(values=4, characters=1),
}
"""Keywords that cost the same whatever they ask."""


def _of_option(option: Any) -> Amounts:
    """What it costs to compare a value with one of ``enum`` or with ``const``."""
    if isinstance(option, dict | list):
        return Amounts(values=_of_nested(option))
    if is_number(option):
        return Amounts(1, integers=8 if _is_word(option) else 30, decimals=40, digits=3)
    return Amounts(values=2)


def _of_nested(option: Any) -> int:
    if isinstance(option, dict):
        return 4 + sum(6 + _of_nested(value) for value in option.values())
    if isinstance(option, list):
        return 4 + sum(map(_of_nested, option))
    return 400 if is_number(option) else 3


def _is_word(value: Any) -> bool:
    return isinstance(value, int) and -_WORD < value < _WORD


def _sum(amounts: Iterable[Amounts]) -> Amounts:
    return Amounts(*map(sum, zip(*amounts, strict=True)))


def _total(parts: Iterable[Sequence[Amounts]]) -> Rows:
    """What schemas cost together that are all held against a value."""
    by_depth = zip_longest(*parts, fillvalue=_NOTHING)
    return [_sum(at_depth) for at_depth in by_depth][: limits.DOCUMENT_DEPTH_MAX + 1]


def _highest(parts: Iterable[Sequence[Amounts]]) -> Rows:
    """What schemas cost of which one is held against a value."""
    by_depth = zip_longest(*parts, fillvalue=_NOTHING)
    return [Amounts(*map(max, zip(*at_depth, strict=True))) for at_depth in by_depth]
