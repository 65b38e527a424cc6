"""Strict JSON, so that what was judged is what is stored.

PostgreSQL is not sent the caller's bytes but our own writing of the tree that was
judged here. So no second reader can see another document in the same bytes: no
duplicate key of which one reader takes the first value and another the last, no number
that one of them rounds.

Two kinds of refusal:

* ``MalformedDocument``: not JSON by RFC 8259 (grammar, encoding, byte order mark, NaN).
  The message says where, in line and column, and shows nothing of the body.
* ``InvalidInput``: JSON, but with something that PostgreSQL cannot hold exactly or that
  readers disagree about. Each such place has its pointer: duplicate keys, U+0000, lone
  surrogates, numbers that are too long, nesting that is too deep.

Reading is one pass of the C decoder of the standard library with small hooks. Only when
something is refused is the document read again, by hooks that leave a mark where the
first ones raised; walking the marked tree finds every place. Nothing is worse than
linear, and nothing recurses further than ``DOCUMENT_DEPTH_MAX``: depth is judged on the
brackets before the decoder, which recurses, sees them.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import accumulate, islice
from typing import Any, Final, TypeAlias

import msgspec

from counterfoil.server.core.errors import (
    FieldError,
    InvalidInput,
    MalformedDocument,
    invariant,
)
from counterfoil.server.core.limits import (
    DOCUMENT_DEPTH_MAX,
    FIELD_ERRORS_MAX,
    NUMBER_DIGITS_MAX,
    POINTER_CHARACTERS_MAX,
)

JsonValue: TypeAlias = "bool | int | Decimal | str | list[JsonValue] | dict[str, JsonValue] | None"
"""A JSON document. Whole numbers are ``int``, all others ``Decimal``; never a float."""

_QUOTED_CHARACTERS_MAX: Final = 40
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"

_NUMBER_TOO_LONG: Final = (
    f"A number may have at most {NUMBER_DIGITS_MAX} digits when it is written out, exponent "
    "counted. Round it, or send it as a string."
)
_TOO_DEEP: Final = (
    f"Arrays and objects may nest at most {DOCUMENT_DEPTH_MAX} deep, the outermost counted. "
    "Flatten what is below, or send it as a string."
)


def parse(body: bytes) -> JsonValue:
    """Read one JSON document, exactly.

    Raises ``MalformedDocument`` when the bytes are not JSON, and ``InvalidInput`` with a
    pointer to each offending place (``FIELD_ERRORS_MAX`` at most) when they are, but
    hold what is not accepted anywhere.
    """
    text = _read_text(body)
    if body.count(b"[") + body.count(b"{") > DOCUMENT_DEPTH_MAX and _is_too_deep(body):
        raise _too_deep(text)
    try:
        value: JsonValue = _decoder.decode(text)
    except ValueError as error:
        raise _malformed(text, error) from None
    except _RefusedWhileReadingError:
        raise _refusal(text) from None
    # The decoder refuses control characters, and UTF-8 has no surrogates: either can
    # only come from an escape.
    if "\\u" in text and _has_refused_escape(text, value):
        raise _refusal(text)
    return value


def encode(value: object) -> bytes:
    """Write a tree that ``parse`` returned, as compact UTF-8; numbers digit for digit.

    ``msgspec.Raw`` parts are taken as they are. ``parse(encode(value)) == value``.
    """
    return _encoder.encode(value)


def canonical(value: JsonValue) -> bytes:
    """Write a tree so that two with the same members are the same bytes, in whatever order."""
    return encode(_in_order(value))


def _in_order(value: JsonValue) -> JsonValue:
    if isinstance(value, dict):
        return {name: _in_order(value[name]) for name in sorted(value)}
    return [_in_order(each) for each in value] if isinstance(value, list) else value


def pointer_to(path: Sequence[str | int]) -> str:
    """The JSON pointer (RFC 6901) of a path.

    Where it would be longer than ``POINTER_CHARACTERS_MAX``, as the names in it are the
    caller's, it points to the nearest part around it instead.
    """
    pointer = ""
    for step in path:
        name = str(step) if isinstance(step, int) else step.replace("~", "~0").replace("/", "~1")
        if len(pointer) + 1 + len(name) > POINTER_CHARACTERS_MAX:
            break
        pointer = f"{pointer}/{name}"
    return pointer


def quote(text: str) -> str:
    """A caller's text for a message: shortened, and nothing in it but what can be printed."""
    shown = text[:_QUOTED_CHARACTERS_MAX]
    printable = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in shown)
    return f"`{printable}…`" if len(text) > _QUOTED_CHARACTERS_MAX else f"`{printable}`"


# --- Reading ----------------------------------------------------------------------


class _RefusedWhileReadingError(Exception):
    """Raised by the hooks: the document is refused, wherever and however often."""


def _read_text(body: bytes) -> str:
    if body.startswith(_BYTE_ORDER_MARK):
        raise MalformedDocument(
            "The document begins with a byte order mark, which JSON does not have. Send UTF-8 without."
        )
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedDocument(
            f"The document is not UTF-8: the byte at offset {error.start} cannot be read. "
            "JSON is always sent as UTF-8."
        ) from None
    if not text or text.isspace():
        raise MalformedDocument("The document is empty. Send one JSON object.")
    return text


def _unique_members(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _RefusedWhileReadingError
    return members


def _exact_int(token: str) -> int:
    # Bounded before int(): longer ones take quadratic time, or a ValueError from 4,300 on.
    if len(token) > NUMBER_DIGITS_MAX and len(token.lstrip("-")) > NUMBER_DIGITS_MAX:
        raise _RefusedWhileReadingError
    return int(token)


def _exact_decimal(token: str) -> Decimal:
    # Without an exponent, the token is the number written out, a point or sign too many.
    if (len(token) > NUMBER_DIGITS_MAX or "e" in token or "E" in token) and (
        _digits_written_out(token) > NUMBER_DIGITS_MAX
    ):
        raise _RefusedWhileReadingError
    return Decimal(token)


def _digits_written_out(token: str) -> int:
    """How many digits a number has without exponent; at least as many as PostgreSQL writes."""
    mantissa, _, exponent = token.lower().partition("e")
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    digits_sent = len(whole) + len(fraction) + len(exponent.lstrip("+-"))
    if digits_sent > NUMBER_DIGITS_MAX:
        return digits_sent
    shift = int(exponent or "0")
    return max(len(whole) + shift, 1) + max(len(fraction) - shift, 0)


def _refuse_constant(token: str) -> JsonValue:
    """Called for ``NaN`` and the infinities, which the decoder knows and JSON does not."""
    raise ValueError(token)


_decoder: Final = json.JSONDecoder(
    object_pairs_hook=_unique_members,
    parse_float=_exact_decimal,
    parse_int=_exact_int,
    parse_constant=_refuse_constant,
)
_encoder: Final = msgspec.json.Encoder(decimal_format="number")


def _is_too_deep(body: bytes) -> bool:
    """Whether more than ``DOCUMENT_DEPTH_MAX`` brackets are ever open at once.

    Exact for JSON. For other bytes, it is exact up to where they cease to be JSON, which
    is as far as the decoder gets.
    """
    # An even run of backslashes escapes only itself; after that, \" is an escaped quote.
    unescaped = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside_strings = b"".join(unescaped.split(b'"')[::2])
    brackets = outside_strings.translate(_SQUARE, delete=_NOT_BRACKETS)
    if b"[" * (DOCUMENT_DEPTH_MAX + 1) in brackets:
        return True
    open_at_once = accumulate(map(_BRACKET_STEP.__getitem__, brackets))
    return max(open_at_once, default=0) > DOCUMENT_DEPTH_MAX


_SQUARE: Final = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_BRACKET_STEP: Final = {ord("["): 1, ord("]"): -1}


def _has_refused_escape(text: str, value: JsonValue) -> bool:
    if "\\u0000" in text and "\\u0000" in text.replace("\\\\", ""):
        return True
    if "\\ud" in text or "\\uD" in text:
        try:
            _encoder.encode(value)
        except UnicodeEncodeError:
            return True
    return False


# --- Saying what is wrong ---------------------------------------------------------

# What the decoder says, and what we say. It may learn new words in a later Python.
_GRAMMAR: Final = {
    "Expecting value": "a value was expected",
    "Expecting property name": "a key in double quotes was expected",
    "Expecting ':' delimiter": "a colon was expected",
    "Expecting ',' delimiter": "a comma or a closing bracket was expected",
    "Illegal trailing comma": "there is a comma with nothing after it",
    "Extra data": "something follows the end of the document",
    "Invalid control character": "a control character in a string must be written as an escape",
    "Invalid \\escape": "JSON has no such escape",
    "Invalid \\uXXXX escape": "\\u must be followed by four hexadecimal digits",
    "Unterminated string": "a string begins that does not end",
}

# Strings, brackets and what is not JSON; a string that never ends is taken to the end, and
# nothing is given back on failure, so that no text is looked through twice.
_LANDMARK: Final = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]|NaN|-?Infinity', re.DOTALL)


def _malformed(text: str, error: ValueError) -> MalformedDocument:
    if not isinstance(error, json.JSONDecodeError):
        return _not_a_number(text)
    said = (ours for theirs, ours in _GRAMMAR.items() if error.msg.startswith(theirs))
    ending = ", where it ends" if error.pos >= len(text) else ""
    return MalformedDocument(
        f"The document is not JSON: {next(said, 'it cannot be read')} at line {error.lineno}, "
        f"column {error.colno}{ending}."
    )


def _not_a_number(text: str) -> MalformedDocument:
    found = next(mark for mark in _LANDMARK.finditer(text) if mark[0][0] in "N-I")
    line = text.count("\n", 0, found.start()) + 1
    column = found.start() - text.rfind("\n", 0, found.start())
    return MalformedDocument(
        f"The document is not JSON: `{found[0]}` at line {line}, column {column}. JSON has no such "
        "number; send null, or leave the field out."
    )


def _too_deep(text: str) -> InvalidInput | MalformedDocument:
    """Cut the text before the first bracket that is too deep, close it, and look where it ends."""
    closing: list[str] = []
    start = 0
    for landmark in _LANDMARK.finditer(text):
        start, sign = landmark.start(), landmark[0]
        if sign in "[{":
            if len(closing) == DOCUMENT_DEPTH_MAX:
                break
            closing.append("]" if sign == "[" else "}")
        elif sign in "]}" and closing:
            closing.pop()
    try:
        value = _marking_decoder.decode(f"{text[:start]}null{''.join(reversed(closing))}")
    except ValueError as error:
        return _malformed(text, error)
    path: list[str | int] = []
    while value is not None:
        *_, (step, value) = _members(value)
        path.append(step)
    return _invalid([FieldError(pointer_to(path), _TOO_DEEP)])


def _refusal(text: str) -> InvalidInput | MalformedDocument:
    """Read a refused text again, for all that is wrong with it."""
    try:
        value = _marking_decoder.decode(text)
    except ValueError as error:
        return _malformed(text, error)
    fault = _fault_of_scalar(value)
    faults = (
        [FieldError("", fault)] if fault else islice(_faults_below(value, ()), FIELD_ERRORS_MAX)
    )
    return _invalid(list(faults))


def _invalid(errors: list[FieldError]) -> InvalidInput:
    invariant(bool(errors), "a refused document has a fault that can be found again")
    return InvalidInput(errors[0].message, errors)


class _RepeatedMembers(list[tuple[str, Any]]):
    """Stands in a marked tree for an object that names a key twice."""


_LONG_NUMBER: Final = object()
"""Stands in a marked tree for a number that is too long."""


def _mark_members(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _RepeatedMembers:
    members = dict(pairs)
    return members if len(members) == len(pairs) else _RepeatedMembers(pairs)


def _mark_int(token: str) -> object:
    try:
        return _exact_int(token)
    except _RefusedWhileReadingError:
        return _LONG_NUMBER


def _mark_decimal(token: str) -> object:
    try:
        return _exact_decimal(token)
    except _RefusedWhileReadingError:
        return _LONG_NUMBER


_marking_decoder: Final = json.JSONDecoder(
    object_pairs_hook=_mark_members,
    parse_float=_mark_decimal,
    parse_int=_mark_int,
    parse_constant=_refuse_constant,
)


def _members(value: Any) -> Iterable[tuple[str | int, Any]]:
    """What is directly in a marked object or list, each with its key or index."""
    match value:
        case dict():
            return value.items()
        case _RepeatedMembers():
            return value
        case list():
            return enumerate(value)
        case _:
            return ()


def _faults_below(value: Any, path: tuple[str | int, ...]) -> Iterator[FieldError]:
    repeated: set[str | int] = set()
    if isinstance(value, _RepeatedMembers):
        repeated.update(key for key, count in Counter(key for key, _ in value).items() if count > 1)
    for step, member in _members(value):
        if isinstance(step, str) and (fault := _fault_of_text(step)):
            # A pointer to the member would hold what cannot be sent: this one is the object's.
            yield FieldError(pointer_to(path), f"The key {quote(step)} is refused. {fault}")
            continue
        if step in repeated:
            repeated.remove(step)
            yield FieldError(
                pointer_to((*path, step)),
                f"The key {quote(str(step))} occurs more than once in one object. Readers differ "
                "in which one they take; send it once.",
            )
        if fault := _fault_of_scalar(member):
            yield FieldError(pointer_to((*path, step)), fault)
        elif isinstance(member, dict | list):
            yield from _faults_below(member, (*path, step))


def _fault_of_scalar(value: object) -> str | None:
    if isinstance(value, str):
        return _fault_of_text(value)
    return _NUMBER_TOO_LONG if value is _LONG_NUMBER else None


def _fault_of_text(text: str) -> str | None:
    if "\0" in text:
        return "PostgreSQL cannot store the character U+0000. Leave it out, or encode the text."
    if not text.isascii() and _SURROGATE.search(text):
        return (
            "A surrogate (\\ud800 to \\udfff) stands alone, which is no character. Send both "
            "halves of the pair, or leave it out."
        )
    return None


_SURROGATE: Final = re.compile("[\ud800-\udfff]")
