"""Keywords that are checked by code of our own, in the place of jsonschema-rs's.

* ``uniqueItems``: there every two entries are compared; here each is looked up once.
* The bounds of numbers and ``multipleOf``: there 1.00000000000000000000000000001 is not above a
  ``maximum`` of 1.0, and 9007199254740993.0 not among those from 9007199254740993 on. Here numbers
  are compared digit for digit: whole ones are ``int``, all others ``Decimal``.

A schema's keyword is rewritten to one of these before it is compiled, with its value as a text of
JSON: the checker would hand on a number as a float. It calls ``validate`` with whatever stands at the
place; a value of another kind fits.
"""

import abc
import decimal
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, ClassVar, Final, TypeAlias

from typing_extensions import override

from counterfoil.server.core import limits
from counterfoil.server.core.document import encode, parse

Number: TypeAlias = "int | Decimal"

_EXACT: Final = decimal.Context(
    # A quotient of two numbers has at most the digits of both.
    prec=4 * limits.NUMBER_DIGITS_MAX,
    Emin=decimal.MIN_EMIN,
    Emax=decimal.MAX_EMAX,
)


def is_number(value: object) -> bool:
    """Whether a value is a number of JSON: to Python, true and false are."""
    return isinstance(value, int | Decimal) and not isinstance(value, bool)


def is_multiple(value: Number, of: Number) -> bool:
    """Whether a number is so many times another one, exactly."""
    if isinstance(value, int) and isinstance(of, int):
        return value % of == 0
    return _EXACT.remainder(Decimal(value), Decimal(of)) == 0


class _UniqueItems:
    def __init__(self, _beside: object, asked: str, _path: object) -> None:
        self._asked = asked == "true"

    def validate(self, instance: object) -> None:
        if not self._asked or not isinstance(instance, list):
            return
        # Texts, and not the values: Python takes true for 1, and whole numbers can be chosen so
        # that all of them fall into one place of a set.
        texts = {encode(_plain(entry)) for entry in instance}
        if len(texts) != len(instance):
            raise ValueError("Two entries of this list are the same.")


def _plain(value: Any) -> Any:
    """The same value, written in the only way that there is for it."""
    if isinstance(value, Decimal):
        whole, _, fraction = f"{value:f}".partition(".")
        fraction = fraction.rstrip("0")
        return Decimal(f"{whole}.{fraction}") if fraction else int(whole)
    if isinstance(value, dict):
        return {name: _plain(value[name]) for name in sorted(value)}
    return [_plain(entry) for entry in value] if isinstance(value, list) else value


class _OfNumbers(abc.ABC):
    """A keyword that asks something of numbers."""

    wording: ClassVar[str]

    def __init__(self, _beside: object, asked: str, _path: object) -> None:
        number: Any = parse(asked.encode())
        self._asked: Number = number

    @abc.abstractmethod
    def fits(self, number: Number, asked: Number) -> bool:
        """Whether a number is what is asked for."""

    def validate(self, instance: object) -> None:
        if (
            isinstance(instance, int | Decimal)
            and not isinstance(instance, bool)
            and not self.fits(instance, self._asked)
        ):
            raise ValueError(f"It has to be {self.wording} {self._asked}.")


class _Minimum(_OfNumbers):
    wording = "at least"

    @override
    def fits(self, number: Number, asked: Number) -> bool:
        return number >= asked


class _Maximum(_OfNumbers):
    wording = "at most"

    @override
    def fits(self, number: Number, asked: Number) -> bool:
        return number <= asked


class _ExclusiveMinimum(_OfNumbers):
    wording = "more than"

    @override
    def fits(self, number: Number, asked: Number) -> bool:
        return number > asked


class _ExclusiveMaximum(_OfNumbers):
    wording = "less than"

    @override
    def fits(self, number: Number, asked: Number) -> bool:
        return number < asked


class _MultipleOf(_OfNumbers):
    wording = "a multiple of"

    @override
    def fits(self, number: Number, asked: Number) -> bool:
        return is_multiple(number, asked)


_CLASSES: Final[Mapping[str, type]] = {
    "uniqueItems": _UniqueItems,
    "minimum": _Minimum,
    "maximum": _Maximum,
    "exclusiveMinimum": _ExclusiveMinimum,
    "exclusiveMaximum": _ExclusiveMaximum,
    "multipleOf": _MultipleOf,
}
_PREFIX: Final = "counterfoil:"

OWN_KEYWORDS: Final = {f"{_PREFIX}{keyword}": checks for keyword, checks in _CLASSES.items()}
"""What jsonschema-rs is given as ``keywords``."""


def own(keyword: str, value: Any) -> tuple[str, Any]:
    """The keyword and value that are compiled in the place of these."""
    if keyword in _CLASSES:
        return f"{_PREFIX}{keyword}", encode(value).decode()
    return keyword, value
