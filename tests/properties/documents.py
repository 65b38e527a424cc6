"""JSON documents for examples: how they are made, written by a caller, and read back exactly."""

import json
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

Json = Any


class Digits(str):
    """A number as PostgreSQL must write it: compared digit for digit, and with no string."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Digits) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(("digits", str(self)))


def write(value: Json) -> str:
    """The document as a caller might send it: numbers with their exponents, text unescaped."""
    match value:
        case Decimal():
            return str(value)
        case dict():
            return f"{{{','.join(f'{write(k)}:{write(v)}' for k, v in value.items())}}}"
        case list():
            return f"[{','.join(map(write, value))}]"
        case _:
            return json.dumps(value, ensure_ascii=False)


def read(text: str) -> Json:
    """A document that came back, with each number in its digits."""
    return json.loads(text, parse_float=Digits, parse_int=Digits)


def expected(value: Json) -> Json:
    """What ``read`` must give for a document that was written from ``value``."""
    match value:
        case bool() | None | str():
            return value
        case int() | Decimal():
            return Digits(written_out(Decimal(value)))
        case dict():
            return {key: expected(member) for key, member in value.items()}
        case _:
            return [expected(member) for member in value]


def written_out(number: Decimal) -> str:
    """All digits and no exponent, trailing zeros kept; zero has no sign (it is ``numeric``)."""
    if number.is_zero():
        exponent = number.as_tuple().exponent
        return f"{Decimal(0):.{max(0, -int(exponent))}f}"
    return f"{number:f}"


def contains(document: Json, part: Json) -> bool:
    """PostgreSQL's ``document @> part`` for objects, without their special cases for roots."""
    match part:
        case dict():
            return isinstance(document, dict) and all(
                key in document and contains(document[key], member) for key, member in part.items()
            )
        case list():
            return isinstance(document, list) and all(
                any(contains(mine, theirs) for mine in document) for theirs in part
            )
        case bool() | None | str():
            return type(document) is type(part) and bool(document == part)
        case _:  # to containment 1 and 1.0 are the same number
            return type(document) in (int, Decimal) and bool(document == part)


# Any character that can be stored: not NUL, and no half of a surrogate pair.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)

numbers = st.integers(-(10**99), 10**99) | st.builds(
    lambda sign, digits, exponent: Decimal((sign, digits, exponent)),
    sign=st.integers(0, 1),
    digits=st.lists(st.integers(0, 9), min_size=1, max_size=30).map(tuple),
    exponent=st.integers(-40, 40),
)

values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: (
        st.lists(inner, max_size=4)
        # Top-level fields whose names end so give tags, which have limits of their own.
        | st.dictionaries(texts.filter(lambda key: not key.endswith("_id")), inner, max_size=4)
    ),
    max_leaves=20,
)

payloads = st.dictionaries(texts.filter(lambda key: not key.endswith("_id")), values, max_size=5)
