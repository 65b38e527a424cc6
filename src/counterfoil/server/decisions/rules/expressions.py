"""What an expression of a rule reads, of what kind it is, and whether it may be.

Theory of operation
-------------------
The engine (``docs/decisions/0023``) says whether an expression parses, and nothing of what is in
it. What it cannot compute in a condition, it takes for a condition that is not met, and the next
row decides. So an expression is read here as the engine's own parser reads it (``syntax.py``), and
each part of it has a kind (``kinds.py``) before there are any values:

* A name, and each member behind it, is there; and no forbidden one.
* Only what is of one kind is compared: ``"5" == 5`` is false, and ``"b" > "a"`` an error.
* What may be nothing (an input that may be missing, a division, the least of a list) is not
  compared, but stands in an expression of its own, where ``engine.py`` sees that it is nothing.
  So does what may be too large, wherever the engine hides its errors: in tables and switches.
* Only functions that give the same for the same, in time that grows with what they are given
  (``functions.py``). What is asked of each element of a list looks at no other list.

Where an answer would take more than that, the expression is refused.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import Enum

from counterfoil.server.decisions.rules.found import (
    SHOWN,
    Found,
    divides,
    is_true_or_false,
    listed,
    must_be_of,
    must_be_possible,
    must_be_something,
    must_fit,
    together,
)
from counterfoil.server.decisions.rules.functions import CLOSURES, FUNCTIONS, UNKNOWN
from counterfoil.server.decisions.rules.kinds import (
    ANYTHING,
    INTERVAL,
    NUMBER,
    TRUTH,
    Kind,
    Names,
    joined,
    list_of,
)
from counterfoil.server.decisions.rules.syntax import (
    COMPARISONS,
    Part,
    parsed,
    parsed_cell,
    path_of,
)
from counterfoil.server.decisions.rules.tokens import ExpressionRefused, must_parse


class Place(Enum):
    """Where an expression stands."""

    FIGURE = "a line of an expression node"
    FIELD = "what a column of a table compares"
    CELL = "a condition in a table"
    RESULT = "what a row makes"
    BRANCH = "a condition of a switch"

    @property
    def hides_errors(self) -> bool:
        """Whether the engine goes on to the next row or branch where this cannot be computed."""
        return self is not Place.FIGURE


def read(
    expression: str,
    place: Place,
    names: Names,
    *,
    forbids: Callable[[str], bool],
    dollar: Kind | None = None,
) -> Kind:
    """Read an expression as a whole, and give its kind.

    Args:
        names: what it may read.
        forbids: whether a name is one that no rule may read.
        dollar: the kind of ``$``: what its node has made so far, or the value of its column.

    Raises:
        ExpressionRefused: no rule may have it.
    """
    reader = _Reader(place, names, forbids, dollar)
    if place is Place.CELL:
        for part in parsed_cell(expression):
            reader.condition(part)
        kind = TRUTH
    else:
        kind = reader.whole(parsed(expression))
    must_parse(expression, cell=place is Place.CELL)
    return kind


class _Reader:
    def __init__(
        self, place: Place, names: Names, forbids: Callable[[str], bool], dollar: Kind | None
    ) -> None:
        self._place = place
        self._names = names
        self._forbids = forbids
        self._dollar = dollar
        self._element: Kind | None = None

    def whole(self, part: Part) -> Kind:
        found = self._read(part)
        if found.kind == INTERVAL:
            raise ExpressionRefused("An interval is no value; ask whether something is `in` it.")
        if self._place is Place.BRANCH and found.kind != TRUTH:
            raise ExpressionRefused(f"A condition is true or false, and this is {found.kind}.")
        if self._place.hides_errors:
            must_be_something(found)
        return found.kind

    def condition(self, part: Part) -> None:
        """One condition of a cell: it compares the column, once, with what is written out."""
        column = Found(self._dollar or ANYTHING, dollars=1)
        if part.kind == "column":
            found = self._read(part.parts[0])
            self._compare(part.text, column, found)
            is_fine = found.is_written
        else:
            found = self._read(part)
            must_be_something(found)
            if found.is_written:
                has_many = found.kind.name in {"interval", "list"}
                self._compare("in" if has_many else "==", column, found)
            is_fine = found.is_written or (is_true_or_false(part) and found.dollars == 1)
        if not is_fine:
            raise ExpressionRefused(
                "A condition compares its column, once, with what is written out: `> 5`, "
                '`"a", "b"`, `[1..5]`, `contains($, "a")`.'
            )

    # --- Parts --------------------------------------------------------------------

    def _read(self, part: Part) -> Found:
        """Read a part, which must not be missing."""
        found = self._read_any(part)
        if found.missing:
            shown = SHOWN.get(found.kind.name, "…")
            raise ExpressionRefused(
                f"`{found.missing}` may be missing, and a condition over nothing is not met: the "
                "next row would decide on a guess. Say what it counts as then: "
                f"`({found.missing} ?? {shown})`."
            )
        return found

    def _read_any(self, part: Part) -> Found:
        if part.kind in {"number", "text", "truth"}:
            return _written(part)
        readers: Mapping[str, Callable[[Part], Found]] = {
            "name": lambda one: self._name(one.text),
            "member": self._member,
            "element": self._nth,
            "list": self._list,
            "interval": self._interval,
            "sign": self._signed,
            "not": lambda one: replace(self._true_or_false(one.parts[0], "not"), is_written=False),
            "choice": self._choice,
            "call": self._closure if part.text in CLOSURES else self._call,
            "binary": self._binary,
        }
        return readers[part.kind](part)

    def _signed(self, part: Part) -> Found:
        found = self._read(part.parts[0])
        must_be_of(found, NUMBER, part.text)
        return found

    def _true_or_false(self, part: Part, where: str) -> Found:
        found = self._read(part)
        must_be_of(found, TRUTH, where)
        must_be_something(found)
        return found

    def _name(self, name: str) -> Found:
        if name == "#":
            if self._element is None:
                raise ExpressionRefused(
                    "`#` is an element of a list, within `some(…)` and its like."
                )
            return Found(self._element)
        if name == "$":
            if self._dollar is None:
                raise ExpressionRefused("`$` is nothing here; name the input itself.")
            return Found(self._dollar, dollars=1)
        if name in {"$root", "$nodes"}:
            raise ExpressionRefused(
                f"`{name}` reaches past what is handed on; name the input itself."
            )
        if "$" in name or "#" in name:
            raise ExpressionRefused(f"`{name}` is no name of an input.")
        self._must_be_allowed(name, name)
        if self._place is Place.CELL:
            raise ExpressionRefused(
                f"A condition compares its column with constants; make a column of `{name}`."
            )
        if (named := self._names.get(name)) is None:
            raise ExpressionRefused(
                f"Nothing hands on `{name}`. Known here: {listed(self._names)}."
            )
        if self._element is not None and not named.kind.is_plain:
            raise ExpressionRefused(
                f"What is asked of each element of a list may not look at `{name}`, which is "
                f"{named.kind}: that would take its length for each."
            )
        return Found(named.kind, missing=name if named.may_be_missing else "")

    def _must_be_allowed(self, name: str, path: str) -> None:
        if self._forbids(name):
            raise ExpressionRefused(
                f"`{path}` may not be read by a rule: it is among `forbidden_inputs`."
            )

    def _member(self, part: Part) -> Found:
        self._must_be_allowed(part.text, path_of(part))
        of = self._read(part.parts[0])
        kind = of.kind.member(part.text)
        if kind is None:
            if part.parts[0] == Part("name", "$"):
                raise ExpressionRefused(f"`$.{part.text}`: nothing before in this node makes that.")
            raise ExpressionRefused(
                f"`{path_of(part.parts[0])}` is {of.kind}, and has no member `{part.text}`."
            )
        return replace(of, kind=kind, is_written=False)

    def _nth(self, part: Part) -> Found:
        of = self._read(part.parts[0])
        if of.kind.name != "list":
            raise ExpressionRefused(
                f"`{path_of(part.parts[0])}` is {of.kind}, and has no elements."
            )
        nothing = of.nothing or "There may be no element of this number"
        return Found(of.kind.element or ANYTHING, nothing=nothing, dollars=of.dollars)

    def _list(self, part: Part) -> Found:
        element = ANYTHING
        found = [self._read(one) for one in part.parts]
        for one in found:
            if not one.kind.is_plain:
                raise ExpressionRefused(
                    f"A list is one of numbers, texts or truths, and not of {one.kind}."
                )
            must_fit(element, one.kind, "A list")
            element = joined(element, one.kind)
        return together(list_of(element), found, is_written=all(one.is_written for one in found))

    def _interval(self, part: Part) -> Found:
        for end in (self._read(one) for one in part.parts):
            if not (end.is_written and end.kind == NUMBER):
                raise ExpressionRefused("The ends of an interval are numbers, written out.")
        return Found(INTERVAL, is_written=True)

    def _choice(self, part: Part) -> Found:
        condition = self._true_or_false(part.parts[0], "?")
        one, other = (self._read(each) for each in part.parts[1:])
        must_fit(one.kind, other.kind, "`?`")
        return together(joined(one.kind, other.kind), (condition, one, other))

    # --- Operators ----------------------------------------------------------------

    def _binary(self, part: Part) -> Found:
        sign = part.text
        if sign in {"and", "or"}:
            return together(TRUTH, [self._true_or_false(one, sign) for one in part.parts])
        if sign == "??":
            left, right = self._read_any(part.parts[0]), self._read(part.parts[1])
            must_fit(left.kind, right.kind, "`??`")
            return Found(
                joined(left.kind, right.kind), right.nothing, dollars=left.dollars + right.dollars
            )
        left, right = (self._read(one) for one in part.parts)
        if sign in COMPARISONS:
            self._compare(sign, left, right)
            return together(TRUTH, (left, right))
        for side in (left, right):
            must_be_of(side, NUMBER, sign)
        found = together(NUMBER, (left, right))
        if sign in {"/", "%"} and not divides(part.parts[1]):
            nothing = f"What `{sign}` gives may be nothing, where the divisor is 0"
            return replace(found, nothing=found.nothing or nothing)
        return self._bounded(found, f"`{sign}`")

    def _bounded(self, found: Found, what: str) -> Found:
        """What is counted may be too large, which is an error."""
        if not self._place.hides_errors or found.nothing:
            return found
        return replace(found, nothing=f"What {what} gives may be too large")

    def _compare(self, sign: str, left: Found, right: Found) -> None:
        for side in (left, right):
            must_be_something(side)
        other = right.kind
        if sign in {"in", "not in"}:
            if other == INTERVAL:
                must_be_of(left, NUMBER, sign)
                return
            if other.name != "list":
                raise ExpressionRefused(f"Behind `{sign}` stands a list or an interval.")
            other = other.element or ANYTHING
        elif sign not in {"==", "!="}:
            for side in (left, right):
                must_be_of(side, NUMBER, sign)
            return
        for kind in (left.kind, other):
            if not kind.is_plain:
                raise ExpressionRefused(f"`{sign}` compares numbers, texts and truths, not {kind}.")
        must_fit(left.kind, other, f"`{sign}`")
        must_be_possible(left, right, other)

    # --- Functions ----------------------------------------------------------------

    def _call(self, part: Part) -> Found:
        where = f"`{part.text}(…)`"
        function = FUNCTIONS.get(part.text)
        if function is None:
            why = UNKNOWN.get(part.text)
            raise ExpressionRefused(
                f"{where} {why}" if why else f"There is no function `{part.text}` for rules."
            )
        given = [self._read(one) for one in part.parts]
        kind = function.result([one.kind for one in given])
        if kind is None:
            told = ", ".join(str(one.kind) for one in given) or "nothing"
            raise ExpressionRefused(f"{where} takes {function.takes}, and is given {told}.")
        found = together(kind, given)
        if function.may_be_nothing:
            return replace(found, nothing=found.nothing or f"What {where} gives may be nothing")
        if function.counts:
            return self._bounded(found, where)
        must_be_something(found)
        return found

    def _closure(self, part: Part) -> Found:
        """`some(list, what is asked of each element)` and its like."""
        where = f"`{part.text}(…)`"
        if self._element is not None:
            raise ExpressionRefused(
                f"{where} stands within another: what is asked of each element of a list asks "
                "nothing of the elements of another."
            )
        if len(part.parts) != 2:
            raise ExpressionRefused(f"{where} takes a list, and what is asked of each element.")
        of = self._read(part.parts[0])
        must_be_something(of)
        if of.kind.name != "list":
            raise ExpressionRefused(f"{where} takes a list, and is given {of.kind}.")
        self._element = of.kind.element or ANYTHING
        if part.text == "map":
            asked = self._read(part.parts[1])
            if asked.kind not in {NUMBER, TRUTH}:
                raise ExpressionRefused(f"{where} makes numbers or truths of the elements.")
        else:
            asked = self._true_or_false(part.parts[1], f"{part.text}(…)")
        self._element = None
        kind = list_of(asked.kind) if part.text == "map" else CLOSURES[part.text] or of.kind
        return together(kind, (of, asked))


def _written(part: Part) -> Found:
    """What is written out."""
    if part.kind == "text":
        return Found(Kind("text", values=frozenset({part.text})), is_written=True)
    return Found(NUMBER if part.kind == "number" else TRUTH, is_written=True)
