"""What the commands of consumers are given: places in a book, queries, waits."""

import re
from datetime import datetime
from typing import Annotated, Final

import typer

from counterfoil import Backoff, QueryItem
from counterfoil.cli import arguments
from counterfoil.cli.exits import Misused
from counterfoil.client.consumer_model import ConsumerStart

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="The consumer's name, as `consumers` lists it.")
]

_POSITION: Final = re.compile(r"[0-9]{1,19}")
_FRACTION: Final = re.compile(r"[0-9]+\.[0-9]+s")
_FACTOR: Final = re.compile(r"[0-9]+(\.[0-9]+)?")
_BACKOFF_PARTS_MAX: Final = 3


def read_query(
    types: list[str] | None,
    agents: list[str] | None,
    tags: list[str] | None,
    items: list[str] | None,
) -> list[QueryItem]:
    """The query that the options ask for: one item by the first three, or several.

    Raises:
        Misused: it is asked for in both ways, or in none.
    """
    filters = bool(types or agents or tags)
    if items and filters:
        raise Misused("--query says all of an item. Give it alone, without --type, --agent, --tag.")
    if items:
        return [arguments.read_query_item(text, "--query") for text in items]
    if not filters:
        raise Misused("Say which events it hands out: --type TYPE, --agent NAME, --tag KIND:VALUE.")
    return [QueryItem(types=types or (), agents=agents or (), tags=tags or ())]


def read_start(text: str) -> ConsumerStart:
    """Where a consumer begins: ``beginning``, ``now``, or after a position.

    Raises:
        Misused: it is none of them.
    """
    place = _place(text)
    if place is None:
        raise Misused(
            f"--start {text!r} is no place to begin at. Write beginning, now, or the position "
            "after which it begins, such as 1204."
        )
    return place


def read_target(text: str) -> ConsumerStart | datetime:
    """Where a consumer goes on: as ``read_start``, or at a time.

    Raises:
        Misused: it is none of them.
    """
    place = _place(text)
    if place is not None:
        return place
    try:
        return arguments.read_moment(text)
    except Misused:
        raise Misused(
            f"--to {text!r} is no place to go on at. Write beginning, now, the position after which "
            "it goes on, such as 1204, or a time with its offset, such as 2026-01-05T08:00:00Z."
        ) from None


def _place(text: str) -> ConsumerStart | None:
    match text:
        case "beginning":
            return "beginning"
        case "now":
            return "now"
        case _ if _POSITION.fullmatch(text):
            return int(text)
        case _:
            return None


def read_seconds(option: str, text: str) -> int:
    """A stretch of time in seconds.

    Raises:
        Misused: it is none.
    """
    try:
        return int(arguments.read_duration(text).total_seconds())
    except Misused as misused:
        raise Misused(f"{option}: {misused.message}") from None


def read_backoff(text: str) -> Backoff:
    """How long an event waits after a failure: ``5s``, ``5s,2`` or ``0.5s,1.5,10m``.

    Raises:
        Misused: it is not of that form, or the first wait is longer than the longest.
    """
    initial, *more = text.split(",")
    if len(more) >= _BACKOFF_PARTS_MAX or (more and not _FACTOR.fullmatch(more[0])):
        raise Misused(
            f"--backoff {text!r} is no backoff. Write the first wait, what each further failure "
            "multiplies it by, and the longest wait: 5s, 5s,2 or 0.5s,1.5,10m."
        )
    asked = Backoff(initial_seconds=_wait(initial))
    asked = Backoff(
        initial_seconds=asked.initial_seconds,
        factor=float(more[0]) if more else asked.factor,
        max_seconds=_wait(more[1]) if more[1:] else asked.max_seconds,
    )
    if asked.initial_seconds > asked.max_seconds:
        raise Misused(
            f"--backoff {text!r}: the first wait is longer than the longest, which is "
            f"{asked.max_seconds:g}s. Say the longest too, such as {initial},2,{initial}."
        )
    return asked


def _wait(text: str) -> float:
    if _FRACTION.fullmatch(text):
        return float(text[:-1])
    return read_seconds("--backoff", text)


def read_letters(event_ids: list[int] | None, *, everything: bool) -> list[int] | None:
    """The dead letters that are meant; ``None``: all of them.

    Raises:
        Misused: neither is said, or both are.
    """
    if bool(event_ids) == everything:
        raise Misused("Name the dead letters by the ids of their events, or all of them by --all.")
    return None if everything else list(dict.fromkeys(event_ids or ()))
