"""Conditions in the cells of a table: what fits them, as far as trying them tells."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

import zen

from counterfoil.server.core.document import encode
from counterfoil.server.decisions.rules.kinds import Kind, samples
from counterfoil.server.decisions.rules.tokens import ExpressionRefused, Token, tokens

_TRIED_MAX: Final = 8
_ALONE: Final = 2
"""Pieces of a condition that is one comparison with one value, which something always fits."""


def is_empty(cell: Any) -> bool:
    """Whether a cell asks nothing. What else is blank is not so to the engine."""
    return cell is None or (isinstance(cell, str) and not cell.strip(" \n\t"))


def conditions(row: Mapping[str, Any], columns: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """A row's conditions, however they are spaced and quoted; empty where there is none."""
    return tuple(
        "" if is_empty(row.get(column["id"])) else _spelt(str(row[column["id"]]))
        for column in columns
    )


def _spelt(cell: str) -> str:
    try:
        pieces = tokens(cell)
    except ExpressionRefused:
        return cell
    if pieces[:1] == [Token("sign", "==")]:
        pieces = pieces[1:]
    return " ".join(repr(one.text[1:-1]) if one.kind == "text" else one.text for one in pieces)


def catches_all(cell: str, kind: Kind) -> bool:
    """Whether everything fits a condition that could tell values apart, as `> 5, <= 5`."""
    tried = _tried(cell, kind)
    return bool(tried) and all(tried)


def never_fits(cell: str, kind: Kind) -> bool:
    """Whether nothing fits a condition, as `> 5 and < 3`.

    Only where it compares the column itself: what a function would need to be true is not known.
    """
    pieces = tokens(cell)
    if len(pieces) <= _ALONE or Token("name", "$") in pieces:
        return False
    tried = _tried(cell, kind)
    return bool(tried) and not any(tried)


@lru_cache(maxsize=4_096)
def _tried(cell: str, kind: Kind) -> Sequence[bool]:
    """Which of some values fit: those that the condition names, and those around and between."""
    pieces = tokens(cell)
    numbers = {_number(piece.text) for piece in pieces if piece.kind == "number"}
    texts = sorted({piece.text[1:-1] for piece in pieces if piece.kind == "text"})
    signed = sorted(numbers | {-one for one in numbers})
    some = {*signed[:_TRIED_MAX], *signed[-_TRIED_MAX:]}
    condition = zen.compile_unary_expression(cell)
    return [_fits(condition, value) for value in samples(kind, some, texts[:_TRIED_MAX])]


def _fits(condition: "zen.Expression", value: Any) -> bool:
    try:
        return condition.evaluate(encode({"$": value}).decode()) is True
    except (RuntimeError, ValueError):
        return False


def _number(text: str) -> Decimal:
    return Decimal(text.replace("_", "").rstrip("."))
