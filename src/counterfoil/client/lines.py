"""Events that are JSON already, one a line: sent byte for byte.

A batch of lines is made by putting them side by side, so that a number in them is never
read and written anew. For that, each line has to be exactly one JSON object: a line such as
``{"a": 1}], "condition": {…`` would otherwise end the list and begin something else, and
``{…}, {…}`` would be two events at one place. So every line is read once, by the standard
library's decoder, and what was read is thrown away.

The decoder is asked for the value at the first character and says where it ended; the whole
of ``json.loads`` takes four times as long. Everything else about an event (names, limits,
duplicate keys) is the service's to judge, by its own release's rules.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from json import JSONDecodeError
from typing import Any, Final, NoReturn

WHITE_SPACE: Final = b" \t\r\n"
"""What may stand around an object on its line: JSON's white space, and nothing else."""

_OPENING: Final = b'{"events":['
_CLOSING: Final = b"]"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it is not JSON: {name} is no number that JSON has")


_decoder: Final = json.JSONDecoder(
    # Numbers stay unread: `len` of their digits is the cheapest thing that can stand for them.
    parse_float=len,
    parse_int=len,
    parse_constant=_refuse_constant,
)


def read_object(line: bytes) -> dict[str, Any]:
    """Make sure that ``line``, stripped, is exactly one JSON object.

    Returns what was read, its numbers replaced by something else: for looking at its shape.

    Raises:
        ValueError: it is not; the message says what it is instead.
    """
    try:
        text = line.decode()
        value, end = _decoder.raw_decode(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8: byte {error.start + 1} cannot be read") from None
    except JSONDecodeError as error:
        what = (error.msg[:1].lower() + error.msg[1:]).removesuffix(" at")
        raise ValueError(f"it is not JSON: {what} at column {error.pos + 1}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if type(value) is not dict:
        raise ValueError(f"it is JSON, but no object: it begins with {text[:1]}")
    if end != len(text):
        raise ValueError(f"more follows after its object, at column {end + 1}")
    return value


def joined(lines: Iterable[bytes]) -> bytes:
    """The body of a batch, but for its last bracket: a condition may follow."""
    return _OPENING + b",".join(lines) + _CLOSING


def size_in_body(line: bytes) -> int:
    """How many bytes a line adds to the body, the comma behind it included."""
    return len(line) + 1


BODY_BYTES_AROUND: Final = len(_OPENING) + len(_CLOSING) + len(b"}") - len(b",")
"""What comes to the lines of a body without condition; behind the last one is no comma."""


# --- The shape of an event ------------------------------------------------------------------

_FIELDS: Final[dict[str, tuple[type, str]]] = {
    "agent_name": (str, "a string"),
    "event_type": (str, "a string"),
    "payload": (dict, "an object"),
    "tags": (list, "a list of strings"),
    "occurred_at": (str, "a time as a string"),
    "caused_by": (list, "a list of ids"),
    "context": (dict, "an object"),
}
_REQUIRED: Final = ("agent_name", "event_type", "payload")


def shape_faults(event: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What is wrong with an event's fields as far as the client can tell: pointer, message."""
    for name in _REQUIRED:
        if name not in event:
            yield f"/{name}", "It is missing."
    for name, value in event.items():
        known = _FIELDS.get(name)
        if known is None:
            pointer = name.replace("~", "~0").replace("/", "~1")
            yield f"/{pointer}", "An event has no such field."
        elif not isinstance(value, known[0]):
            yield f"/{name}", f"It must be {known[1]}."
