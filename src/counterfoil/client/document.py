"""JSON, exactly: no number is ever turned into a binary float on its way.

Money is why. ``0.1`` that has been a float is 0.1000000000000000055, and a payload whose
digest is kept for ever must come back as it was written. So:

* reading: integers become ``int``, all other numbers ``decimal.Decimal``;
* writing: ``int`` and ``Decimal`` keep every digit, ``float`` is written in its shortest
  exact form (``repr``); NaN and the infinities, which JSON does not have, are refused;
* what the standard library would bend silently is refused: keys that are not strings
  (it writes ``{1: …}`` as ``{"1": …}``), strings with lone surrogates, objects of other
  types.

The standard library cannot write a Decimal as a number at all; hence a writer of our own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from json.encoder import encode_basestring
from typing import Any, Final, NoReturn

from counterfoil.client.errors import UnsendableValue

DEPTH_MAX: Final = 64
"""Nested objects and arrays. The service's own limit; it also ends circular references."""

_Path = tuple["_Path", str | int] | None
_Put = Callable[[str], object]


def encode(value: object) -> bytes:
    """Write ``value`` as UTF-8 JSON.

    >>> encode({"amount": Decimal("12.30")})
    b'{"amount":12.30}'

    Raises:
        UnsendableValue: JSON cannot carry something in it; ``pointer`` says where.
    """
    parts: list[str] = []
    _write(value, parts.append, None, 0)
    return "".join(parts).encode()


def decode(text: str | bytes) -> Any:
    """Read JSON; numbers that are not integers become ``Decimal``.

    >>> decode(b'{"amount": 12.30}')
    {'amount': Decimal('12.30')}

    Raises:
        ValueError: it is not JSON.
    """
    if isinstance(text, bytes):
        text = text.decode()
    try:
        return json.loads(text, parse_float=Decimal, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("The document is nested too deeply.") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON.")


def _write(value: object, put: _Put, path: _Path, depth: int) -> None:
    if isinstance(value, Mapping):
        _write_object(value, put, path, depth + 1)
    elif isinstance(value, list | tuple):
        _write_array(value, put, path, depth + 1)
    else:
        put(_scalar(value, path))


def _scalar(value: object, path: _Path) -> str:
    if isinstance(value, str):
        return _quoted(value, path)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return _integer(value, path)
    if isinstance(value, Decimal | float):
        return _fraction(value, path)
    raise _refused(
        f"JSON has no {type(value).__name__}. Send a string, number, boolean, None, dict or list "
        "(a datetime as its `isoformat()`).",
        path,
    )


def _fraction(value: Decimal | float, path: _Path) -> str:
    finite = value.is_finite() if isinstance(value, Decimal) else math.isfinite(value)
    if not finite:
        raise _refused(f"{value} is a number that JSON does not have.", path)
    return str(value) if isinstance(value, Decimal) else float.__repr__(value)


def _write_object(value: Mapping[Any, object], put: _Put, path: _Path, depth: int) -> None:
    _check_depth(path, depth)
    separator = "{"
    for key, member in value.items():
        if not isinstance(key, str):
            raise _refused(f"The key {key!r} is not a string. JSON's keys are strings.", path)
        place = (path, key)
        put(f"{separator}{_quoted(key, place)}:")
        _write(member, put, place, depth)
        separator = ","
    put("{}" if separator == "{" else "}")


def _write_array(value: list[Any] | tuple[Any, ...], put: _Put, path: _Path, depth: int) -> None:
    _check_depth(path, depth)
    separator = "["
    for index, item in enumerate(value):
        put(separator)
        _write(item, put, (path, index), depth)
        separator = ","
    put("[]" if separator == "[" else "]")


def _quoted(value: str, path: _Path) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _refused("A lone surrogate cannot be written as UTF-8.", path) from None
    return encode_basestring(value)


def _integer(value: int, path: _Path) -> str:
    try:
        return int.__repr__(value)
    except ValueError:  # More digits than the interpreter converts.
        raise _refused("The number has too many digits.", path) from None


def _check_depth(path: _Path, depth: int) -> None:
    if depth > DEPTH_MAX:
        raise _refused(f"Nested more than {DEPTH_MAX} deep (or within itself).", path)


def _refused(message: str, path: _Path) -> UnsendableValue:
    steps: list[str] = []
    while path is not None:
        path, step = path
        steps.append("/" + str(step).replace("~", "~0").replace("/", "~1"))
    return UnsendableValue(message, "".join(reversed(steps)))
