"""Strict JSON (skeleton: signatures only)."""

from decimal import Decimal
from typing import TypeAlias

JsonValue: TypeAlias = "None | bool | int | Decimal | str | list[JsonValue] | dict[str, JsonValue]"


def parse(body: bytes) -> JsonValue:
    """Read one JSON document. Raises MalformedDocument (400) or InvalidInput (422)."""
    raise NotImplementedError


def encode(value: object) -> bytes:
    """Write a parsed tree back, numbers digit for digit."""
    raise NotImplementedError
