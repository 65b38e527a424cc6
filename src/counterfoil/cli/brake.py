"""``brake``: stop what is written about something, at once and everywhere."""

from collections.abc import Iterator
from typing import Annotated, Final

import typer
from rich.text import Text

from counterfoil import Freeze
from counterfoil.cli import arguments
from counterfoil.cli.connection import confirm, connected
from counterfoil.cli.exits import Misused
from counterfoil.cli.output import Format, print_json, print_line, remark
from counterfoil.cli.tables import as_document, minute, show_table

_END_OPTIONS: Final = ("--until", "--for")

app = typer.Typer(
    help="Freeze an agent, a tag or the whole book: nothing is written about it until it is thawed.",
    no_args_is_help=True,
)


@app.command()
def freeze(
    *,
    agent: Annotated[
        str | None, typer.Option(metavar="NAME", help="Nothing is written under this name.")
    ] = None,
    tag: Annotated[
        str | None,
        typer.Option(metavar="KIND:VALUE", help="Nothing is written that bears this tag."),
    ] = None,
    book: Annotated[bool, typer.Option("--book", help="Nothing is written at all.")] = False,
    reason: Annotated[
        str,
        typer.Option(
            metavar="TEXT", help="Why, in a sentence. It stands in the book and in each refusal."
        ),
    ],
    until: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="When it ends by itself, with its offset."),
    ] = None,
    for_: Annotated[
        str | None,
        typer.Option("--for", metavar="SPAN", help="How long it lasts, such as 2h or 1d12h."),
    ] = None,
    yes: arguments.Yes = False,
    idempotency_key: arguments.IdempotencyKey = None,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """Let nothing be written about an agent, a tag, or at all.

    When the command ends, it is in force in every process of the service, and nothing slips in
    behind it. Writers are refused with the reason; reading goes on. Without `--until` and
    `--for` it lasts until somebody thaws it. This needs a key with `manage:brake`.

    For example:

        counterfoil brake freeze --tag customer:cust_123 --reason "Account takeover is suspected."

        counterfoil brake freeze --agent fraud_agent --for 2h --reason "It flags everything."

        counterfoil brake freeze --book --until 2027-03-01T06:00:00Z --reason "Cut-over."
    """
    if [agent is not None, tag is not None, book].count(True) != 1:
        raise Misused("Name one thing to freeze: --agent NAME, --tag KIND:VALUE, or --book.")
    end = arguments.read_end(until, for_, options=_END_OPTIONS, idempotency_key=idempotency_key)
    if book:
        confirm(lambda: "Freeze the whole book? Nobody can write until it is thawed.", yes=yes)
    with connected(base_url, api_key) as cf, end.repeatable():
        frozen = cf.brake.freeze(
            agent=agent,
            tag=tag,
            book=book,
            reason=reason,
            until=end.at,
            idempotency_key=idempotency_key,
        )
    if output is Format.JSON:
        print_json(as_document(frozen))
        return
    lasts = "until it is thawed" if frozen.until is None else f"until {minute(frozen.until)} UTC"
    print_line(f"Frozen as {frozen.id}: {what_of(frozen)}, {lasts}.")
    remark(f'To end it: counterfoil brake thaw {frozen.id} --reason "…"')


@app.command()
def thaw(
    freeze_id: Annotated[
        int, typer.Argument(metavar="ID", min=1, help="The freeze's id, as `brake list` shows it.")
    ],
    *,
    reason: arguments.Reason,
    idempotency_key: arguments.IdempotencyKey = None,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """End a freeze.

    For example:

        counterfoil brake thaw 57 --reason "The customer was reached; all is well."
    """
    with connected(base_url, api_key) as cf:
        thawed = cf.brake.thaw(freeze_id, reason=reason, idempotency_key=idempotency_key)
    if output is Format.JSON:
        print_json(as_document(thawed))
    else:
        print_line(
            f"Thawed {thawed.id}: {what_of(thawed)}. It had been frozen since "
            f"{minute(thawed.frozen_at)} UTC."
        )


@app.command("list")
def list_(
    *,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """List what is frozen now, the oldest first.

    The book tells of what was frozen before: `counterfoil read --type counterfoil.frozen`.

    For example:

        counterfoil brake list
    """
    with connected(base_url, api_key) as cf:
        freezes = cf.brake.list()
    if output is Format.JSON:
        for each in freezes:
            print_json(as_document(each))
    elif freezes:
        show_table(("ID", "FROZEN", "UNTIL (UTC)", "SINCE (UTC)", "BY", "REASON"), _rows(freezes))
    else:
        remark("Nothing is frozen.")


def what_of(freeze: Freeze) -> str:
    """What is frozen, in two words: ``agent fraud_agent``."""
    return "the whole book" if freeze.subject is None else f"{freeze.kind} {freeze.subject}"


def _rows(freezes: tuple[Freeze, ...]) -> Iterator[tuple[str | Text, ...]]:
    for each in freezes:
        yield (
            Text(str(each.id), style="bold"),
            what_of(each),
            "thawed" if each.until is None else minute(each.until),
            minute(each.frozen_at),
            each.frozen_by,
            each.reason,
        )
