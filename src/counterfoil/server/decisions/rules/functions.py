"""The functions that rules may call, and of what kind their values are.

All of them give the same for the same, and take time that grows with what they are given. Left out,
and why: `rand`, dates and `d` (the clock); `matches`, `extract`, `fuzzyMatch` (their cost);
`flatMap`, `merge` and joining texts (they make things grow, and a chain of them doubles each time);
`keys` and `values` (nobody can tell what is read); `bool` (any text is false); `string` (1 and 1.0
are two texts); `type` and `mode` (nothing that a rule needs).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from counterfoil.server.decisions.rules.kinds import ANYTHING, NUMBER, TEXT, TRUTH, Kind, list_of


@dataclass(frozen=True, slots=True)
class Function:
    """A function: what it takes, in words, and the kind of its value.

    Attributes:
        result: the kind of its value by the kinds of what it is given; None where it takes no such.
        counts: it is of numbers; of nothing it makes an error, which is seen, and no value.
        may_be_nothing: it may have no value although it is given one.
    """

    takes: str
    result: Callable[[Sequence[Kind]], Kind | None]
    counts: bool = False
    may_be_nothing: bool = False


def _given(
    result: Kind, *parameters: Kind, or_none_of_last: bool = False
) -> Callable[[Sequence[Kind]], Kind | None]:
    def kind(given: Sequence[Kind]) -> Kind | None:
        least = len(parameters) - or_none_of_last
        if not least <= len(given) <= len(parameters):
            return None
        pairs = zip(given, parameters, strict=False)
        return result if all(one.fits(other) for one, other in pairs) else None

    return kind


def _contains(given: Sequence[Kind]) -> Kind | None:
    if len(given) != 2:
        return None
    of, what = given
    if of.name == "list":
        return TRUTH if what.is_plain and (of.element or ANYTHING).fits(what) else None
    return TRUTH if of.fits(TEXT) and what.fits(TEXT) else None


def _length(given: Sequence[Kind]) -> Kind | None:
    return NUMBER if len(given) == 1 and given[0].name in {"list", "text"} else None


def _by_name() -> Mapping[str, Function]:
    found = {
        "len": Function("a text (whose bytes it counts) or a list", _length),
        "contains": Function("a text and a text, or a list and an element", _contains),
        "split": Function("two texts", _given(list_of(TEXT), TEXT, TEXT)),
        "isNumeric": Function("a text", _given(TRUTH, TEXT)),
        "number": Function("a text", _given(NUMBER, TEXT), may_be_nothing=True),
    }
    for name in ("lower", "trim", "upper"):
        found[name] = Function("a text", _given(TEXT, TEXT))
    for name in ("endsWith", "startsWith"):
        found[name] = Function("two texts", _given(TRUTH, TEXT, TEXT))
    for name in ("abs", "ceil", "floor"):
        found[name] = Function("a number", _given(NUMBER, NUMBER), counts=True)
    for name in ("round", "trunc"):
        either = _given(NUMBER, NUMBER, NUMBER, or_none_of_last=True)
        found[name] = Function("a number, and how many decimals", either, counts=True)
    numbers = _given(NUMBER, list_of(NUMBER))
    found["sum"] = Function("a list of numbers", numbers, counts=True)
    for name in ("avg", "max", "median", "min"):
        found[name] = Function("a list of numbers", numbers, counts=True, may_be_nothing=True)
    return found


FUNCTIONS: Final = _by_name()
"""What a rule may call."""

CLOSURES: Final[Mapping[str, Kind | None]] = {
    **dict.fromkeys(("all", "none", "one", "some"), TRUTH),
    "count": NUMBER,
    "filter": None,
    "map": None,
}
"""Those whose second part is asked of each element, which is ``#`` in it; the kind of their value,
where that is always the same."""

_CLOCK: Final = "may read the clock; let who writes the signal say the age, as a number."

UNKNOWN: Final[Mapping[str, str]] = {
    "rand": "gives something else each time.",
    **dict.fromkeys(
        ("d", "date", "time", "duration", "dateString", "year", "month", "monthString"), _CLOCK
    ),
    **dict.fromkeys(
        ("flatMap", "flatten", "merge", "mergeDeep"), "makes lists grow; ask the list itself."
    ),
    **dict.fromkeys(("keys", "values"), "hides what is read; name the member."),
    "bool": "takes any text for false; compare it.",
    "string": "makes two texts of 1 and 1.0; compare the number.",
}
"""Why rules may not call the others that are asked for most."""
