"""Expressions, parsed as the engine parses them: the same precedence, the same two flavours.

In a cell, `and`, `or` and commas join whole conditions, and each condition may begin with the
operator that compares its column. Anywhere else they are operators like any other.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from counterfoil.server.decisions.rules.tokens import END, ExpressionRefused, Token, tokens

_BINDS: Final = {
    "or": 10,
    "and": 15,
    **dict.fromkeys(("==", "!=", "<", ">", "<=", ">=", "in", "not in"), 20),
    "+": 30,
    "-": 30,
    **dict.fromkeys(("*", "/", "%"), 60),
    "??": 80,
}
"""How strongly an operator binds, in the engine."""

_NOT_BINDS: Final = 50
_SIGN_BINDS: Final = 200
COMPARISONS: Final = frozenset({"==", "!=", "<", ">", "<=", ">=", "in", "not in"})
_WORDS: Final = frozenset({"and", "or", "not", "in"})


class Part(NamedTuple):
    """A part of an expression.

    ``kind`` says what ``text`` and ``parts`` are: ``number``, ``text``, ``truth``, ``name``;
    ``list`` (its elements), ``interval`` (its ends), ``member`` (its name, of what), ``element``
    (its number, of what), ``sign``, ``not``, ``binary`` (the operator, both sides), ``choice``
    (condition, either), ``call`` (the function, what it is given), ``column`` (of a cell: the
    operator that compares it, with what).
    """

    kind: str
    text: str = ""
    parts: "tuple[Part, ...]" = ()


def parsed(expression: str) -> Part:
    """Parse an expression. Raises ``ExpressionRefused``."""
    parser = _Parser(tokens(expression), is_cell=False)
    found = parser.expression()
    parser.must_end()
    return found


def parsed_cell(expression: str) -> Sequence[Part]:
    """Parse the conditions in a cell. Raises ``ExpressionRefused``."""
    parser = _Parser(tokens(expression), is_cell=True)
    found = [parser.condition()]
    while parser.joins():
        found.append(parser.condition())
    parser.must_end()
    return found


def path_of(part: Part) -> str:
    """How a part is told of: ``applicant.income``."""
    if part.kind in {"member", "element"}:
        inside = f".{part.text}" if part.kind == "member" else f"[{part.text}]"
        return f"{path_of(part.parts[0])}{inside}"
    return f"{part.text}(…)" if part.kind == "call" else part.text or f"the {part.kind}"


class _Parser:
    def __init__(self, pieces: Sequence[Token], *, is_cell: bool) -> None:
        self._pieces = pieces
        self._at = 0
        self._is_cell = is_cell
        self._has_interval = Token("sign", "..") in pieces

    @property
    def _now(self) -> Token:
        return self._pieces[self._at] if self._at < len(self._pieces) else END

    def _next(self) -> Token:
        piece = self._now
        self._at += 1
        return piece

    def _takes(self, sign: str) -> bool:
        """Whether a sign stands here; if so, it is passed."""
        found = self._now == Token("sign", sign)
        self._at += found
        return found

    def _must_take(self, sign: str) -> None:
        if not self._takes(sign):
            raise self._unreadable(f"`{sign}` was expected, and not ")

    def _unreadable(self, expected: str = "") -> ExpressionRefused:
        shown = f"`{self._now.text}`" if self._now != END else "the end"
        return ExpressionRefused(f"The engine cannot read this: {expected}{shown}.")

    def must_end(self) -> None:
        if self._now != END:
            raise self._unreadable("the end was expected, and not ")

    # --- Cells --------------------------------------------------------------------

    def joins(self) -> bool:
        if self._now in {Token("name", "and"), Token("name", "or"), Token("sign", ",")}:
            self._next()
            return True
        return False

    def condition(self) -> Part:
        sign = self._operator()
        if sign not in COMPARISONS:
            return self.expression()
        self._pass(sign)
        return Part("column", sign, (self.expression(),))

    # --- Operators ----------------------------------------------------------------

    def _operator(self) -> str:
        """The operator that stands here; empty where there is none."""
        kind, text = self._now
        if self._now == Token("name", "not"):
            following = self._pieces[self._at + 1 : self._at + 2]
            return "not in" if list(following) == [Token("name", "in")] else ""
        if kind == "sign" or (kind == "name" and text in _WORDS):
            return text if text in _BINDS else ""
        return ""

    def _pass(self, sign: str) -> None:
        self._at += 2 if sign == "not in" else 1

    def expression(self, least: int = 0, *, is_asked: bool = False) -> Part:
        """``is_asked``: of each element of a list, where `and` and `or` are read in a cell too."""
        left = self._unary()
        while sign := self._operator():
            if sign in {"and", "or"} and self._is_cell and not is_asked:
                break
            if _BINDS[sign] < least:
                break
            self._pass(sign)
            left = Part("binary", sign, (left, self.expression(_BINDS[sign] + 1)))
        if self._now == Token("sign", "^"):
            raise ExpressionRefused(
                "`^` counts in floats, which differ between machines; multiply."
            )
        if least == 0 and self._takes("?"):
            one = self.expression()
            self._must_take(":")
            left = Part("choice", "?", (left, one, self.expression()))
        return left

    def _unary(self) -> Part:
        if self._now in {Token("name", "not"), Token("sign", "!")}:
            self._next()
            return Part("not", "not", (self.expression(_NOT_BINDS),))
        if self._now in {Token("sign", "-"), Token("sign", "+")}:
            sign = self._next().text
            return Part("sign", sign, (self.expression(_SIGN_BINDS),))
        opens = self._now.kind == "sign" and self._now.text in {"(", "[", "]"}
        interval = self._interval() if opens and self._has_interval else None
        return interval or self._postfixed(self._primary())

    def _interval(self) -> Part | None:
        """`[1..5]`, `(0..1]`; None, with nothing passed, where it is something else."""
        begun = self._at
        self._next()
        try:
            left = self.expression()
            self._must_take("..")
        except ExpressionRefused:
            self._at = begun
            return None
        right = self.expression()
        if not (self._takes("]") or self._takes(")") or self._takes("[")):
            raise self._unreadable("`]` was expected, and not ")
        return Part("interval", "", (left, right))

    # --- Values -------------------------------------------------------------------

    def _primary(self) -> Part:
        kind, text = self._now
        if kind in {"number", "text"}:
            self._next()
            return Part(kind, text if kind == "number" else text[1:-1])
        if self._takes("("):
            found = self.expression()
            self._must_take(")")
            return found
        if self._takes("["):
            return Part("list", "", self._parts("]"))
        if self._now == Token("sign", "{"):
            raise ExpressionRefused("Rules make no objects; make an expression of each member.")
        if kind != "name" or text in _WORDS:
            raise self._unreadable()
        self._next()
        if text == "null":
            raise ExpressionRefused("`null` is no value: say what it counts as.")
        if text in {"true", "false"}:
            return Part("truth", text)
        return Part("call", text, self._parts(")")) if self._takes("(") else Part("name", text)

    def _parts(self, closing: str) -> tuple[Part, ...]:
        """What stands between commas, up to what closes it."""
        found: list[Part] = []
        while not self._takes(closing):
            if found:
                self._must_take(",")
                if self._takes(closing):
                    break
            # What is asked of an element is the second part of a call, and `and` joins it.
            found.append(self.expression(is_asked=closing == ")" and len(found) == 1))
        return tuple(found)

    def _postfixed(self, found: Part) -> Part:
        while True:
            if self._takes("."):
                name = self._next()
                if name.kind != "name":
                    raise ExpressionRefused("Behind a dot stands a name.")
                if self._now == Token("sign", "("):
                    raise ExpressionRefused(
                        f"`.{name.text}(…)`: methods are of dates, which read the clock."
                    )
                found = Part("member", name.text, (found,))
            elif self._takes("["):
                inside = self._next()
                if not self._takes("]") or not (
                    inside.kind == "text" or (inside.kind == "number" and inside.text.isdigit())
                ):
                    raise ExpressionRefused(
                        f"What stands in the bracket behind `{path_of(found)}` must be a whole number "
                        "or a plain text, so that one can tell what is read."
                    )
                is_member = inside.kind == "text"
                text = inside.text[1:-1] if is_member else inside.text
                found = Part("member" if is_member else "element", text, (found,))
            else:
                return found
