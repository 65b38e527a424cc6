"""``consumers dead``: what was set aside, and what becomes of it."""

from collections.abc import Sequence
from itertools import islice
from typing import Annotated, Final

import typer
from rich.text import Text

from counterfoil import Attempt, Consumer, Counterfoil, DeadLetter, Event, PermissionDenied
from counterfoil.cli import arguments
from counterfoil.cli import consumer_arguments as given
from counterfoil.cli.connection import confirm, connected
from counterfoil.cli.consumer_table import age, letter_fields
from counterfoil.cli.output import Format, moment, print_json, print_line, remark
from counterfoil.cli.tables import as_document, minute, pretty, show_fields, show_table
from counterfoil.client.document import decode

_PAGE_LETTERS: Final = 1_000
_IDS_SHOWN_MAX: Final = 20

app = typer.Typer(
    help="Dead letters: events that kept failing, or that a holder set aside.",
    no_args_is_help=True,
)

Ids = Annotated[
    list[int] | None,
    typer.Argument(metavar="ID", min=1, help="The event's id, as `dead list` shows it."),
]
Everything = Annotated[bool, typer.Option("--all", help="All that the consumer has.")]


@app.command("list")
def list_(
    name: given.Name,
    *,
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="N", min=1, help="So many at most.")
    ] = 100,
    everything: Annotated[bool, typer.Option("--all", help="All that there are.")] = False,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """List a consumer's dead letters, in the order of their events.

    For example:

        counterfoil consumers dead list scorer

        counterfoil consumers dead list scorer --all -o json | jq -r .reason | sort | uniq -c
    """
    with connected(base_url, api_key) as cf:
        page = _PAGE_LETTERS if everything else min(limit + 1, _PAGE_LETTERS)
        found = cf.consumers.dead_letters(name, limit=page)
        if output is Format.JSON:
            for letter in found if everything else islice(found, limit):
                print_json(as_document(letter))
            return
        # One more than is shown says whether there are more.
        read = list(found if everything else islice(found, limit + 1))
    shown = read if everything else read[:limit]
    if not shown:
        remark(f"Consumer {name} has no dead letters.")
        return
    show_table(
        ("EVENT", "SET ASIDE (UTC)", "ATTEMPTS", "KEY", "REASON"),
        [
            (
                Text(str(letter.event_id), style="bold"),
                minute(letter.set_aside_at),
                str(len(letter.attempts)),
                Text("held up", style="yellow") if letter.holds_key else "free",
                _reason(letter),
            )
            for letter in shown
        ],
    )
    more = "" if len(shown) == len(read) else " There are more: --all, or a larger -n."
    remark(f"{_counted(len(shown))}.{more}")


@app.command()
def show(
    name: given.Name,
    event_id: Annotated[
        int, typer.Argument(metavar="ID", min=1, help="The event's id, as `dead list` shows it.")
    ],
    *,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """Show one dead letter: its attempts, why it was set aside, and the event itself.

    The event is shown if the key may read it.

    For example:

        counterfoil consumers dead show scorer 1204
    """
    with connected(base_url, api_key) as cf:
        letter = cf.consumers.dead_letter(name, event_id)
        event = _event(cf, event_id)
    if output is Format.JSON:
        shown = None if event is None else decode(event.to_json())
        print_json(as_document(letter) | {"event": shown})
        return
    show_fields(letter_fields(letter))
    if letter.attempts:
        print_line("")
        _show_attempts(letter)
    print_line("")
    if event is None:
        remark("This key may not read the event.")
    else:
        print_line(pretty(decode(event.to_json())))


def _event(cf: Counterfoil, event_id: int) -> Event | None:
    """The event, if the key may read it.

    A key that may read nothing does not ask: that would stand in the book as an attempt.
    """
    if not any(scope.startswith("read:") for scope in cf.me().scopes):
        return None
    try:
        return cf.events.get(event_id)
    except PermissionDenied:
        return None


def _show_attempts(letter: DeadLetter) -> None:
    show_table(
        ("ATTEMPT", "HOLDER", "CLAIMED (UTC)", "LASTED", "REASON"),
        [
            (
                Text(str(attempt.attempt), style="bold"),
                attempt.holder,
                moment(attempt.claimed_at),
                _lasted(attempt),
                attempt.reason or "-",
            )
            for attempt in letter.attempts
        ],
    )


def _lasted(attempt: Attempt) -> str:
    if attempt.ended_at is None:
        return "-"
    return age((attempt.ended_at - attempt.claimed_at).total_seconds())


def _reason(letter: DeadLetter) -> str:
    """Why it was set aside; and where its attempts were used up, what the last one failed of."""
    last = letter.attempts[-1].reason if letter.attempts else None
    return letter.reason if last in {None, letter.reason} else f"{letter.reason} Last: {last}"


@app.command()
def replay(
    name: given.Name,
    event_ids: Ids = None,
    *,
    everything: Everything = False,
    reason: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Why, in a sentence. It stands in the book."),
    ] = None,
    idempotency_key: arguments.IdempotencyKey = None,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """Hand dead letters out again, as if for the first time.

    This needs a key with `manage:consumers`.

    For example:

        counterfoil consumers dead replay scorer 1204 1311

        counterfoil consumers dead replay scorer --all --reason "The model is back."
    """
    letters = given.read_letters(event_ids, everything=everything)
    with connected(base_url, api_key) as cf:
        replayed = cf.consumers.replay(
            name, letters, all=everything, reason=reason, idempotency_key=idempotency_key
        )
    _show_settled("replayed", "to be handed out again", replayed, output)


@app.command()
def drop(
    name: given.Name,
    event_ids: Ids = None,
    *,
    everything: Everything = False,
    reason: arguments.Reason,
    yes: arguments.Yes = False,
    idempotency_key: arguments.IdempotencyKey = None,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """Give dead letters up: nobody is to work on them. Their events stay in the book.

    With `--all`, how many they are is shown before, and asked about. This needs a key with
    `manage:consumers`.

    For example:

        counterfoil consumers dead drop scorer 1204 --reason "The payment was a test."
    """
    letters = given.read_letters(event_ids, everything=everything)
    with connected(base_url, api_key) as cf:
        if everything:
            confirm(lambda: _question(cf.consumers.get(name)), yes=yes)
        dropped = cf.consumers.drop(
            name, letters, all=everything, reason=reason, idempotency_key=idempotency_key
        )
    _show_settled("dropped", "dropped", dropped, output)


def _question(consumer: Consumer) -> str:
    return f"Give up all dead letters of consumer {consumer.name}, {consumer.set_aside} in all?"


def _show_settled(status: str, how: str, event_ids: Sequence[int], output: Format) -> None:
    if output is Format.JSON:
        print_json({"status": status, "event_ids": list(event_ids)})
    elif not event_ids:
        print_line("There were no dead letters; nothing was changed.")
    else:
        named = ", ".join(str(event_id) for event_id in event_ids[:_IDS_SHOWN_MAX])
        more = ", …" if len(event_ids) > _IDS_SHOWN_MAX else ""
        print_line(f"{_counted(len(event_ids))} {how}: {named}{more}.")


def _counted(letters: int) -> str:
    return f"{letters} dead letter{'' if letters == 1 else 's'}"
