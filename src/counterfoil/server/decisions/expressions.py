"""What an expression of a rule reads, and whether it may.

Theory of operation
-------------------
The engine (``docs/decisions/0023``) says whether an expression parses, and nothing of what is in
it. So it is taken apart here, by the engine's own lexical rules, as far as three questions need:
which names does it read, which functions does it call, and is it a constant? Where the answer
would take more than that, the expression is refused:

* Names that are looked up by a computed text (``$root["Per" + "sonal"]``) could be any.
  A bracket behind a name holds a whole number or a plain text.
* ``$root`` and ``$nodes`` reach past what the graph hands on.
* Only functions that give the same for the same: no clock, no randomness, and no dates, whose
  functions read the clock where they are given nothing. Dates as ISO texts compare as they are.
* Texts in backticks are programs of their own.
"""

import json
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

import zen

FUNCTIONS: Final = frozenset(
    {
        *("abs", "avg", "ceil", "floor", "max", "median", "min", "mode", "round", "sum", "trunc"),
        *("contains", "endsWith", "len", "lower", "split", "startsWith", "trim", "upper"),
        *("all", "count", "filter", "flatMap", "flatten", "map", "none", "one", "some"),
        *("bool", "isNumeric", "keys", "number", "string", "type", "values"),
    }
)
"""What a rule may call: all of these give the same for the same."""

CLOSURES: Final = frozenset({"all", "count", "filter", "flatMap", "map", "none", "one", "some"})
"""Those whose second part is read for each element, which is ``#`` in it."""

_WORDS: Final = frozenset({"and", "or", "not", "in", "true", "false", "null"})

_DECIDING: Final = frozenset({"<", ">", "<=", ">=", "==", "!=", "?", "and", "or", "not", "in"})
_MAY_BE_NOTHING: Final = frozenset({"avg", "max", "median", "min", "mode", "number", "string"})
"""Functions that may give nothing for something: of an empty list, of a text that is no number."""

_TOKEN: Final = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<text>"[^"]*"|'[^']*')
    | (?P<number>\d[\d_]*(?:\.(?!\.)\d[\d_]*)?)
    | (?P<name>[$\#]?[A-Za-z_][A-Za-z0-9_]*|\$|\#)
    | (?P<sign>\.\.|==|!=|<=|>=|\?\?|[-+*/%^<>!?:.,()\[\]{}])
    """,
    re.VERBOSE,
)
_PLAIN_INDEX: Final = re.compile(r"\d+")


class Token(NamedTuple):
    """A piece of an expression: its kind (text, number, name or sign) and how it is written."""

    kind: str
    text: str


_OR_ELSE: Final = Token("sign", "??")


class ExpressionRefused(Exception):
    """An expression that no rule may have. ``str()`` says why, as a sentence."""


class Reads(NamedTuple):
    """What an expression reads.

    Attributes:
        names: the roots of what it reads, without ``$`` (what its own node has made so far, or the
            value of its cell) and ``#`` (an element).
        paths: each as a whole, with dots between: ``applicant.income``, ``#.amount``.
        bare: the names that are read at least once without saying, by ``??``, what they count as
            where they are nothing.
    """

    names: frozenset[str]
    paths: frozenset[str]
    bare: frozenset[str]


def tokens(expression: str) -> list[Token]:
    """Take an expression apart. Raises ``ExpressionRefused``."""
    found: list[Token] = []
    at = 0
    while at < len(expression):
        match = _TOKEN.match(expression, at)
        if match is None:
            sign = expression[at]
            if sign == "`":
                raise ExpressionRefused("Texts in backticks hold programs; write plain ones.")
            if sign in "\"'":
                raise ExpressionRefused("A text is opened and not closed.")
            raise ExpressionRefused(f"Nothing begins with {sign!r}.")
        at = match.end()
        kind = str(match.lastgroup)
        if kind != "space":
            found.append(Token(kind, match.group()))
    return found


def reads(expression: str, *, cell: bool = False) -> Reads:
    """What an expression reads. Raises ``ExpressionRefused`` for what no rule may have.

    ``cell``: it is a condition in a table, which may begin with an operator: ``> 5``.
    """
    pieces = tokens(expression)
    _must_parse(expression, cell=cell)
    _must_not_decide_on_nothing(pieces, cell=cell)
    paths: set[str] = set()
    bare: set[str] = set()
    at = 0
    while at < len(pieces):
        kind, text = pieces[at]
        following = pieces[at + 1] if at + 1 < len(pieces) else Token("end", "")
        if text == "[" and at and pieces[at - 1].text in {")", "]"}:
            _, at = _index(pieces, at, pieces[at - 1].text)
        elif kind != "name" or text in _WORDS:
            at += 1
        elif following.text == "(":
            _must_be_callable(text)
            at += 1
        else:
            path, at = _path(pieces, at)
            paths.add(path)
            if pieces[at : at + 1] != [_OR_ELSE]:
                bare.add(text)
    roots = {path.partition(".")[0] for path in paths}
    return Reads(frozenset(roots - {"$", "#"}), frozenset(paths), frozenset(bare))


def _must_not_decide_on_nothing(pieces: list[Token], *, cell: bool) -> None:
    """Refuse a condition over what may come to nothing: it would not be met, and nobody would see.

    What comes to nothing by itself is seen when it is evaluated (``engine.py``), so it has to stand
    by itself.
    """
    if not (cell or any(piece.text in _DECIDING for piece in pieces if piece.kind != "text")):
        return
    for at, (kind, text) in enumerate(pieces):
        following = pieces[at + 1] if at + 1 < len(pieces) else Token("end", "")
        before = pieces[at - 1] if at else Token("end", "")
        if kind == "sign" and text in {"/", "%"}:
            if following.kind != "number" or not following.text.strip("0_."):
                what = f"What `{text}` gives may be nothing, where the divisor is 0"
            else:
                continue
        elif kind == "name" and text in _MAY_BE_NOTHING and following.text == "(":
            what = f"What `{text}(…)` gives may be nothing"
        elif text == "[" and following.kind == "number" and _is_value(before):
            what = "There may be no element of this number"
        else:
            continue
        raise ExpressionRefused(
            f"{what}, and a condition over nothing is not met. Make it an expression of its own, "
            "and compare its name."
        )


def _is_value(piece: Token) -> bool:
    """Whether a bracket behind this takes something out of it."""
    return piece.text in {")", "]"} or (piece.kind == "name" and piece.text not in _WORDS)


def _must_parse(expression: str, *, cell: bool) -> None:
    """The engine's own word: a condition that it cannot read, it takes for one that is never met."""
    try:
        (zen.compile_unary_expression if cell else zen.compile_expression)(expression)
    except (RuntimeError, ValueError) as error:
        raise ExpressionRefused(f"The engine cannot read this: {first_line(error)}.") from None


def first_line(error: Exception) -> str:
    """What the engine says of an error, without its stack."""
    text = str(error).split("\n", 1)[0]
    try:
        told = json.loads(text)
    except ValueError:
        return text
    return str(told.get("source", text)).rstrip(".") if isinstance(told, dict) else text


def _path(pieces: list[Token], at: int) -> tuple[str, int]:
    """The path that begins here, and where it ends."""
    root = pieces[at].text
    parts = [root]
    at += 1
    while at < len(pieces):
        if pieces[at].text == "." and at + 1 < len(pieces) and pieces[at + 1].kind == "name":
            if at + 2 < len(pieces) and pieces[at + 2].text == "(":
                raise ExpressionRefused(
                    f"`.{pieces[at + 1].text}(…)`: methods are of dates, which read the clock."
                )
            parts.append(pieces[at + 1].text)
            at += 2
        elif pieces[at].text == "[":
            step, at = _index(pieces, at, root)
            if step is not None:
                parts.append(step)
        else:
            break
    if root in {"$root", "$nodes"}:
        raise ExpressionRefused(f"`{root}` reaches past what is handed on; name the input itself.")
    if root.startswith(("$", "#")) and len(root) > 1:
        raise ExpressionRefused(f"`{root}` is no name of an input.")
    return ".".join(parts), at


def _index(pieces: list[Token], at: int, root: str) -> tuple[str | None, int]:
    """What stands in a bracket behind a name, and where that ends."""
    inside = pieces[at + 1] if at + 1 < len(pieces) else Token("end", "")
    closed = pieces[at + 2] if at + 2 < len(pieces) else Token("end", "")
    if closed.text != "]" or not (
        inside.kind == "text" or (inside.kind == "number" and _PLAIN_INDEX.fullmatch(inside.text))
    ):
        raise ExpressionRefused(
            f"What stands in the bracket behind `{root}` must be a whole number or a plain text, "
            "so that one can tell what is read."
        )
    return (inside.text[1:-1] if inside.kind == "text" else None), at + 3


def _must_be_callable(name: str) -> None:
    if name in FUNCTIONS:
        return
    if name in {"date", "d", "time", "duration", "dateString", "year", "month", "monthString"}:
        raise ExpressionRefused(
            f"`{name}(…)` may read the clock; compare dates as ISO texts, or read an age as a number."
        )
    if name == "rand":
        raise ExpressionRefused("`rand(…)` gives something else each time.")
    raise ExpressionRefused(f"There is no function `{name}` for rules.")


def constant(expression: str) -> str | list[str] | None:
    """The text, or the list of texts, that an expression is; None if it is anything else."""
    pieces = tokens(expression)
    if len(pieces) == 1 and pieces[0].kind == "text":
        return pieces[0].text[1:-1]
    if len(pieces) >= 2 and (pieces[0].text, pieces[-1].text) == ("[", "]"):
        inside = pieces[1:-1]
        if all(piece.kind == "text" for piece in inside[::2]) and all(
            piece.text == "," for piece in inside[1::2]
        ):
            return [piece.text[1:-1] for piece in inside[::2]]
    return None


def texts(expression: str) -> Iterator[str]:
    """The texts that stand in an expression."""
    for kind, text in tokens(expression):
        if kind == "text":
            yield text[1:-1]
