"""What was found of a part of an expression, and what it may not be."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from counterfoil.server.decisions.rules.kinds import Kind
from counterfoil.server.decisions.rules.syntax import COMPARISONS, Part
from counterfoil.server.decisions.rules.tokens import ExpressionRefused


@dataclass(frozen=True, slots=True)
class Found:
    """What a part is, before there are any values.

    Attributes:
        nothing: why it may come to nothing; empty where it cannot.
        missing: the name that it is, where that may be missing.
        is_written: it is a number, a text, a truth or several of these, written out.
        dollars: how often it reads ``$``.
    """

    kind: Kind
    nothing: str = ""
    missing: str = ""
    is_written: bool = False
    dollars: int = 0


SHOWN: Final[Mapping[str, str]] = {
    "number": "0",
    "text": '""',
    "truth": "false",
    "list": "[]",
}
"""What a value of a kind may count as where there is none."""


def listed(names: Iterable[str]) -> str:
    """Names for a sentence."""
    return ", ".join(f"`{name}`" for name in sorted(names)) or "nothing"


def together(kind: Kind, parts: Iterable[Found], *, is_written: bool = False) -> Found:
    """What is made of several."""
    found = list(parts)
    nothing = next((one.nothing for one in found if one.nothing), "")
    dollars = sum(one.dollars for one in found)
    return Found(kind, nothing, is_written=is_written, dollars=dollars)


def is_true_or_false(part: Part) -> bool:
    """Whether the engine takes a condition of a cell as it is, and does not compare the column."""
    if part.kind == "not":
        return is_true_or_false(part.parts[0])
    if part.kind == "call":
        return part.text in {
            *("all", "none", "one", "some"),
            *("contains", "endsWith", "isNumeric", "startsWith"),
        }
    return part.kind == "binary" and (part.text in COMPARISONS or part.text in {"and", "or"})


def divides(divisor: Part) -> bool:
    """Whether a divisor is a whole number of 1 or more, written out."""
    return divisor.kind == "number" and divisor.text.strip("0_").replace("_", "").isdigit()


def must_be_something(found: Found) -> None:
    """Refuse to decide on what may come to nothing: the condition would not be met, unseen."""
    if found.nothing:
        raise ExpressionRefused(
            f"{found.nothing}, and a condition over nothing is not met. Make it an expression of "
            "its own, and compare its name."
        )


def must_be_of(found: Found, kind: Kind, where: str) -> None:
    """Refuse what is of another kind than an operator takes."""
    if not found.kind.fits(kind):
        raise ExpressionRefused(f"`{where}` takes {kind}, and is given {found.kind}.")


def must_fit(one: Kind, other: Kind, where: str) -> None:
    """Refuse two kinds whose values never are the same."""
    if not one.fits(other):
        raise ExpressionRefused(f"{where} is given {one} and {other}, which never are the same.")


def must_be_possible(left: Found, right: Found, other: Kind) -> None:
    """Refuse a text that the other side, whose schema lists what it may be, never is."""
    written, known = (other, left.kind) if right.is_written else (left.kind, other)
    if not (left.is_written or right.is_written) or written.values is None or known.values is None:
        return
    if strange := sorted(written.values - known.values):
        raise ExpressionRefused(
            f'It is never "{strange[0]}": its schema lets in {listed(known.values)}.'
        )
