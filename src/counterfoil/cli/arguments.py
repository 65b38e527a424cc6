"""Arguments that need reading: payloads, queries, and the options that commands share."""

import contextlib
import json
import shlex
import sys
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer

from counterfoil import QueryItem, UnsendableValue
from counterfoil.cli.exits import Misused
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


def read_object(text: str, what: str) -> dict[str, Any]:
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
        raise Misused(f'The {what} must be a JSON object, such as {{"transaction_id": "tx_987"}}.')
    return value


def read_query_item(text: str) -> QueryItem:
    """One item of a condition: ``"type=flag_transaction tag=transaction:tx_987"``.

    The words are split as a shell splits them, so a name with a space goes in quotes.

    Raises:
        Misused: it is not of that form, or asks nothing.
    """
    asked: dict[str, list[str]] = {"type": [], "agent": [], "tag": []}
    try:
        words = shlex.split(text)
    except ValueError:
        raise Misused(f"--fail-if {text!r}: a quotation mark is not closed.") from None
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not value or name not in asked:
            raise Misused(
                f"--fail-if {text!r}: {word!r} is not type=…, agent=… or tag=…. "
                'Write for example --fail-if "type=flag_transaction tag=transaction:tx_987".'
            )
        asked[name].append(value)
    try:
        return QueryItem(types=asked["type"], agents=asked["agent"], tags=asked["tag"])
    except UnsendableValue:
        raise Misused("--fail-if asks nothing. Name a type=…, an agent=… or a tag=….") from None


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
