"""The parts of the service's answers: each read as what it must be, or refused.

A value of another kind raises ``TypeError`` or ``ValueError``, and a missing one
``KeyError``; ``answers`` turns all three into ``UnexpectedAnswer``.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

T = TypeVar("T")


def integer(value: object) -> int:
    """Read an integer, which a boolean is not."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise TypeError(f"an integer was expected, not {type(value).__name__}")


def number(value: object) -> float:
    """Read a number of which the digits do not matter; an integer stays one."""
    if isinstance(value, Decimal):
        return float(value)
    return integer(value)


def exact(value: object) -> int | Decimal:
    """Read a number, digit for digit."""
    return value if isinstance(value, Decimal) else integer(value)


def boolean(value: object) -> bool:
    """Read ``true`` or ``false``."""
    if isinstance(value, bool):
        return value
    raise TypeError(f"true or false was expected, not {type(value).__name__}")


def text(value: object) -> str:
    """Read a string."""
    if isinstance(value, str):
        return value
    raise TypeError(f"a string was expected, not {type(value).__name__}")


def texts(value: object) -> tuple[str, ...]:
    """Read a list of strings."""
    return tuple(map(text, array(value)))


def array(value: object) -> list[Any]:
    """Read a list of anything."""
    if isinstance(value, list):
        return value
    raise TypeError(f"a list was expected, not {type(value).__name__}")


def mapping(value: object) -> dict[str, Any]:
    """Read an object."""
    if isinstance(value, dict):
        return value
    raise TypeError(f"an object was expected, not {type(value).__name__}")


def moment(value: object) -> datetime:
    """Read a time with its offset."""
    found = datetime.fromisoformat(text(value))
    if found.tzinfo is None:
        raise ValueError("a time without an offset")
    return found


def optional(read: Callable[[object], T], value: object) -> T | None:
    """Read ``value`` by ``read``, unless it is null."""
    return None if value is None else read(value)
