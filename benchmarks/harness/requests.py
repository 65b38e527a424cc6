"""Requests rendered before a run, so that no load generator builds JSON while it measures.

``wrk/templates.lua`` says what the file looks like. The unique numbers in a request have a
fixed width, so the rest of it never changes.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.harness import work

NUMBER: Final = "\x01"
"""Stands for the request's own number."""

HEAD: Final = "\x02"
"""Stands for the head that the request's condition names."""

ASKED: Final = "\x03"
"""Stands for the number that the request's condition asks about."""

WIDTHS: Final = {NUMBER: 9, HEAD: 12, ASKED: 9}
"""How many bytes each of them becomes."""

BETWEEN: Final = "\x1e"

_HEAD_IN_JSON: Final = 987_654_321_012
"""Stands for the head while the body is made: a JSON number cannot be a control character."""


def render(
    path: str,
    body: Mapping[str, Any],
    *,
    host: str,
    headers: Mapping[str, str],
) -> str:
    """One POST as it goes over the wire, with places for its numbers.

    Args:
        path: what is called.
        body: becomes compact JSON; ``NUMBER`` and ``ASKED`` may stand in any text of it, and
            ``head_place()`` for a number.
        host: the Host header.
        headers: further headers; ``NUMBER`` may stand in their values.
    """
    text = compact(body)
    for place in (NUMBER, ASKED):
        text = text.replace(json.dumps(place)[1:-1], place)
    text = text.replace(str(_HEAD_IN_JSON), HEAD)
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {host}",
        "Content-Type: application/json",
        f"Content-Length: {length(text)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines) + "\r\n\r\n" + text


def compact(value: Mapping[str, Any]) -> str:
    """A JSON object without blanks."""
    return json.dumps(value, separators=(",", ":"))


def head_place() -> int:
    """What stands for the head in a body that is given to ``render``."""
    return _HEAD_IN_JSON


def length(text: str) -> int:
    """How many bytes a text has once its places are filled."""
    places = sum(text.count(place) * (width - 1) for place, width in WIDTHS.items())
    return len(text.encode()) + places


def fill(request: str, *, number: int, head: int = 0, asked: int = 0) -> bytes:
    """The bytes of one request; what ``templates.lua`` does, for our own load generators."""
    filled = request.replace(NUMBER, f"{number:09d}").replace(ASKED, f"{asked:09d}")
    return filled.replace(HEAD, f"{head:12d}").encode()


def write(path: Path, rendered: Iterable[str]) -> Path:
    """Write requests where wrk finds them; returns the path."""
    path.write_bytes(BETWEEN.join(rendered).encode())
    return path


def numbered_events(
    count: int, *, batch: int = 1, transaction: str = NUMBER
) -> Iterable[dict[str, Any]]:
    """Bodies of so many different events, whose transactions get their number when sent.

    Args:
        count: how many.
        batch: how many of them go into one request. Each has a transaction of its own: the
            request's number, and behind it the event's place in the batch.
        transaction: the place that becomes the number.
    """
    digits = len(str(batch - 1))
    for number, event in enumerate(work.events(count=count)):
        place = f"{number % batch:0{digits}d}" if batch > 1 else ""
        body = event.body()
        body["tags"] = [f"customer:{event.customer}", f"transaction:w_{transaction}{place}"]
        yield body
