"""An expression taken apart, by the engine's own lexical rules.

What is read here in another way than the engine reads it would be judged as something that it is
not. So these follow the engine's lexer sign by sign: a ``$`` or ``#`` is a letter like any other
(``income$`` is a name of its own), a text knows no escapes, ``1e5`` is one number. What rules do
not need (assignments, semicolons, texts in backticks) begins nothing.
"""

import json
import re
from typing import Final, NamedTuple

import zen

from counterfoil.server.core import limits

_TOKEN: Final = re.compile(
    r"""
      (?P<space>[ \n\t]+)
    | (?P<text>"[^"]*"|'[^']*')
    | (?P<number>[0-9][0-9_]*(?:\.(?!\.)[0-9_]*)?(?:e[+-]?[0-9]+)?)
    | (?P<name>[A-Za-z_$\#][A-Za-z0-9_$\#]*)
    | (?P<sign>\.\.|==|!=|<=|>=|\?\?|[-+*/%^<>!?:.,()\[\]{}])
    """,
    re.VERBOSE,
)

# Elements of deeper lists overflowed the engine's stack, and ended the process.
_DEPTH_MAX: Final = 20
# The engine tries each bracket as an interval first, and anew as what it is: three times the work
# with each level, wherever in the expression an interval stands.
_DEPTH_BESIDE_INTERVALS_MAX: Final = 5


class Token(NamedTuple):
    """A piece of an expression: its kind (text, number, name or sign) and how it is written."""

    kind: str
    text: str


END: Final = Token("end", "")


class ExpressionRefused(Exception):
    """An expression that no rule may have. ``str()`` says why, as a sentence."""


def tokens(expression: str) -> list[Token]:
    """Take an expression apart. Raises ``ExpressionRefused``."""
    if len(expression) > limits.POLICY_EXPRESSION_CHARACTERS_MAX:
        raise ExpressionRefused(
            f"An expression has at most {limits.POLICY_EXPRESSION_CHARACTERS_MAX:,} characters; "
            f"this has {len(expression):,}."
        )
    found: list[Token] = []
    at = 0
    while at < len(expression):
        match = _TOKEN.match(expression, at)
        if match is None:
            raise ExpressionRefused(_nothing_begins_with(expression[at]))
        at = match.end()
        kind = str(match.lastgroup)
        if kind != "space":
            found.append(Token(kind, match.group()))
    _must_be_shallow(found)
    return found


def _nothing_begins_with(sign: str) -> str:
    if sign == "`":
        return "Texts in backticks hold programs; write plain ones."
    if sign in "\"'":
        return "A text is opened and not closed."
    return f"Nothing begins with {sign!r}."


def _must_be_shallow(pieces: list[Token]) -> None:
    most = _DEPTH_BESIDE_INTERVALS_MAX if Token("sign", "..") in pieces else _DEPTH_MAX
    deep = 0
    for piece in pieces:
        if piece.kind == "sign":
            deep += (piece.text in "([{") - (piece.text in ")]}")
        if deep > most:
            raise ExpressionRefused(
                f"Brackets may nest {most} deep here; make a part an expression of its own."
            )


def must_parse(expression: str, *, cell: bool) -> None:
    """The engine's own word: a condition that it cannot read, it takes for one that is never met.

    Raises ``ExpressionRefused``.
    """
    try:
        (zen.compile_unary_expression if cell else zen.compile_expression)(expression)
    except (RuntimeError, ValueError) as error:
        raise ExpressionRefused(f"The engine cannot read this: {first_line(error)}.") from None


def first_line(error: BaseException) -> str:
    """What the engine says of an error, without its stack."""
    text = str(error).split("\n", 1)[0]
    try:
        told = json.loads(text)
    except ValueError:
        return text.rstrip(".")
    return str(told.get("source", text)).rstrip(".") if isinstance(told, dict) else text


def constant(expression: str) -> str | list[str] | None:
    """The text, or the list of texts, that an expression is; None if it is anything else."""
    pieces = tokens(expression)
    if len(pieces) == 1 and pieces[0].kind == "text":
        return pieces[0].text[1:-1]
    if len(pieces) >= 2 and (pieces[0].text, pieces[-1].text) == ("[", "]"):
        inside = pieces[1:-1]
        if all(piece.kind == "text" for piece in inside[::2]) and all(
            piece == Token("sign", ",") for piece in inside[1::2]
        ):
            return [piece.text[1:-1] for piece in inside[::2]]
    return None
