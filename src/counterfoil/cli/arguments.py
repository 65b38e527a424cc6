"""Arguments that need reading: payloads, queries, and the options that commands share."""

import contextlib
import json
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer

from counterfoil import OutcomeUnknown, QueryItem, UnsendableValue
from counterfoil.cli.exits import Failure, Misused, failure_of
from counterfoil.cli.output import Format

PAYLOAD_FILE_BYTES_MAX: Final = 1024 * 1024
"""A payload has at most 256 KiB. What is much longer is another file by mistake, and is
not read into memory to find that out."""

BASE_URL_VARIABLE: Final = "COUNTERFOIL_BASE_URL"
API_KEY_VARIABLE: Final = "COUNTERFOIL_API_KEY"

BaseUrl = Annotated[
    str | None,
    typer.Option(
        "--base-url",
        envvar=BASE_URL_VARIABLE,
        metavar="URL",
        help="Where the service is. [default: http://127.0.0.1:8000]",
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar=API_KEY_VARIABLE,
        metavar="KEY",
        help="The service's key. Better set by the variable: other users of this machine can "
        "read arguments.",
    ),
]
Output = Annotated[
    Format, typer.Option("-o", "--output", help="Text for people, JSON for programs.")
]
Tags = Annotated[
    list[str] | None,
    typer.Option(
        "--tag", metavar="KIND:VALUE", help="Events with this tag; repeated: all of them."
    ),
]
Types = Annotated[
    list[str] | None,
    typer.Option("--type", metavar="TYPE", help="Events of this type; repeated: any of them."),
]
Agents = Annotated[
    list[str] | None,
    typer.Option("--agent", metavar="NAME", help="Events of this agent; repeated: any of them."),
]
PayloadFilter = Annotated[
    str | None,
    typer.Option(
        "--payload", metavar="JSON", help="Events whose payload contains this JSON object."
    ),
]
Reason = Annotated[
    str,
    typer.Option("--reason", metavar="TEXT", help="Why, in a sentence. It stands in the book."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
IdempotencyKey = Annotated[
    str | None,
    typer.Option(
        "--idempotency-key",
        metavar="KEY",
        help="Stands for this one call: the same call again is carried out once.",
    ),
]

_DURATION: Final = re.compile(
    r"(?:(?P<weeks>\d+)w)?(?:(?P<days>\d+)d)?(?:(?P<hours>\d+)h)?"
    r"(?:(?P<minutes>\d+)m)?(?:(?P<seconds>\d+)s)?"
)


@dataclass(frozen=True)
class End:
    """When something ends by itself, as two options say it: a time, or a time from now.

    A time from now is another one in each call. What was asked for under an idempotency key
    can be asked for again with the time itself only, so that is told where it is needed.
    """

    at: datetime | None
    option: str
    counted: bool

    @contextlib.contextmanager
    def repeatable(self) -> Iterator[None]:
        """Say how the call is repeated, if it ends without anybody knowing its outcome."""
        try:
            yield
        except OutcomeUnknown as unknown:
            failure = failure_of(unknown)
            if not self.counted or self.at is None:
                raise
            raise Failure(
                f"{failure.message} The same it is with {self.option} {self.at.isoformat()}.",
                failure.code,
            ) from None


def read_end(
    at: str | None,
    within: str | None,
    *,
    options: tuple[str, str],
    idempotency_key: str | None,
    now: datetime | None = None,
) -> End:
    """The end that ``at`` or ``within``, the values of ``options``, stand for.

    Raises:
        Misused: both are given, or one is not to be understood; or a time from now would
            repeat a call that asked for another time.
    """
    option, counting = options
    if within is None:
        return End(None if at is None else read_moment(at), option, counted=False)
    if at is not None:
        raise Misused(f"{option} and {counting} both say when it ends: give one of them.")
    if idempotency_key is not None:
        raise Misused(
            f"{counting} is another time in each call, and a call under an idempotency key must "
            f"always ask for the same. Give {option}."
        )
    try:
        end = (now or datetime.now(UTC)) + read_duration(within)
    except OverflowError:
        raise Misused(f"{counting} {within} is beyond the end of the calendar.") from None
    return End(end.replace(microsecond=0), option, counted=True)


def read_duration(text: str) -> timedelta:
    """A stretch of time: ``90d``, ``2h``, ``1h30m``.

    Raises:
        Misused: it is none.
    """
    found = _DURATION.fullmatch(text)
    parts = {} if found is None else found.groupdict()
    given = {unit: int(count) for unit, count in parts.items() if count is not None}
    if given:
        with contextlib.suppress(OverflowError):
            return timedelta(**given)
    raise Misused(
        f"{text!r} is no stretch of time. Write for example 90d, 2h, 1h30m or 45s (w, d, h, m, s)."
    )


def read_source(argument: str) -> str:
    """The text that an argument stands for: itself, ``@file``, or ``-`` for standard input.

    Raises:
        Misused: the file cannot be read, is no text, or is far too long.
    """
    if argument == "-":
        name, data = "Standard input", sys.stdin.buffer.read(PAYLOAD_FILE_BYTES_MAX + 1)
    elif argument.startswith("@"):
        name = argument[1:]
        try:
            with Path(name).open("rb") as file:
                data = file.read(PAYLOAD_FILE_BYTES_MAX + 1)
        except OSError as error:
            raise Misused(f"{name} cannot be read: {error.strerror}.") from None
    else:
        return argument
    if len(data) > PAYLOAD_FILE_BYTES_MAX:
        raise Misused(f"{name} is longer than {PAYLOAD_FILE_BYTES_MAX // 1024} KiB.")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Misused(f"{name} is not UTF-8 text.") from None


def read_object(
    text: str, what: str, *, example: str = '{"transaction_id": "tx_987"}'
) -> dict[str, Any]:
    """The JSON object that ``text`` is, numbers digit for digit.

    Raises:
        Misused: it is not JSON, no object, or names a member twice. Of two members of one
            name a reader would keep one in silence, and the wrong one could be money.
    """
    try:
        value = json.loads(
            text,
            parse_float=Decimal,
            parse_constant=_refuse_constant,
            object_pairs_hook=_distinct,
        )
    except json.JSONDecodeError as error:
        hint = " (In a shell, put it in single quotes.)" if error.pos <= 1 else ""
        raise Misused(
            f"The {what} is not JSON: {error.msg} at line {error.lineno}, "
            f"column {error.colno}.{hint}"
        ) from None
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise Misused(f"The {what} cannot be taken: {reason}.") from None
    if not isinstance(value, dict):
        raise Misused(f"The {what} must be a JSON object, such as {example}.")
    return value


def read_query_item(text: str, option: str = "--fail-if") -> QueryItem:
    """One item of a query: ``"type=flag_transaction tag=transaction:tx_987"``.

    The words are split as a shell splits them, so a name with a space goes in quotes.

    Raises:
        Misused: it is not of that form, or asks nothing.
    """
    asked: dict[str, list[str]] = {"type": [], "agent": [], "tag": []}
    try:
        words = shlex.split(text)
    except ValueError:
        raise Misused(f"{option} {text!r}: a quotation mark is not closed.") from None
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not value or name not in asked:
            raise Misused(
                f"{option} {text!r}: {word!r} is not type=…, agent=… or tag=…. "
                f'Write for example {option} "type=flag_transaction tag=transaction:tx_987".'
            )
        asked[name].append(value)
    try:
        return QueryItem(types=asked["type"], agents=asked["agent"], tags=asked["tag"])
    except UnsendableValue:
        raise Misused(f"{option} asks nothing. Name a type=…, an agent=… or a tag=….") from None


def query_item_text(item: QueryItem) -> str:
    """An item as ``read_query_item`` takes it."""
    asked = (("type", item.types), ("agent", item.agents), ("tag", item.tags))
    return " ".join(shlex.quote(f"{name}={each}") for name, values in asked for each in values)


def read_moment(text: str) -> datetime:
    """A time with its offset.

    Raises:
        Misused: it is not ISO 8601, or has no offset.
    """
    with contextlib.suppress(ValueError):
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            return moment
    raise Misused(f"{text!r} is no time with an offset, such as 2026-01-05T08:00:00Z.")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it names {twice!r} twice")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
