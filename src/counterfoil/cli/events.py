"""``append``, ``read`` and ``tail``: the book from a shell, through the public client."""

from itertools import islice
from typing import Annotated, Any

import typer

from counterfoil import APIError, Condition, ConditionFailed
from counterfoil.cli import arguments
from counterfoil.cli.connection import connected
from counterfoil.cli.exits import ExitCode, Misused
from counterfoil.cli.output import (
    EventPrinter,
    Format,
    complain,
    moment,
    print_json,
    print_line,
    remark,
)
from counterfoil.client.document import decode
from counterfoil.client.requests import Order

_PAGE_EVENTS = 1_000


def append(
    agent: Annotated[str, typer.Argument(help="Who writes.", metavar="AGENT")],
    event_type: Annotated[str, typer.Argument(help="What kind of fact it is.", metavar="TYPE")],
    payload: Annotated[
        str,
        typer.Argument(
            help="The fact, a JSON object; @FILE reads it from a file, - from standard input.",
            metavar="PAYLOAD",
        ),
    ],
    *,
    tag: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND:VALUE",
            help="What it is about; repeatable. A payload field transaction_id gives "
            "transaction:… by itself.",
        ),
    ] = None,
    occurred_at: Annotated[
        str | None, typer.Option(metavar="TIME", help="When it happened, with its offset.")
    ] = None,
    caused_by: Annotated[
        list[int] | None,
        typer.Option(metavar="ID", help="An earlier event that it rests on; repeatable."),
    ] = None,
    context: Annotated[
        str | None, typer.Option(metavar="JSON", help="What produced it: model, prompt, run …")
    ] = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            metavar="QUERY",
            help='Write only if nothing matches, such as "type=flag_transaction '
            'tag=transaction:tx_987"; repeated: none of them.',
        ),
    ] = None,
    after: Annotated[
        int | None,
        typer.Option(
            metavar="HEAD", min=0, help="Ask --fail-if only above this head, that of your read."
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", help="An idempotency key: the same append again is stored once."
        ),
    ] = None,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    r"""Write one event into the book.

    It is written for good when the command ends with 0. With `--fail-if` it is written only
    if nothing that matches was written after what you read; if something was, the command
    shows it and ends with 4.

    For example:

        counterfoil append fraud_agent flag_transaction \
            '{"transaction_id": "tx_987"}'

        counterfoil append approver approved '{"transaction_id": "tx_987"}' \
            --fail-if "type=flag_transaction tag=transaction:tx_987" --after 17

        echo '{"customer_id": "cust_1"}' \
            | counterfoil append risk_agent risk_score -
    """
    if after is not None and not fail_if:
        raise Misused("--after says above which head --fail-if is asked. Give --fail-if too.")
    condition = None
    if fail_if:
        condition = Condition([arguments.read_query_item(text) for text in fail_if], after=after)
    fact = arguments.read_object(arguments.read_source(payload), "payload")
    produced_by = None if context is None else arguments.read_object(context, "context")
    happened = None if occurred_at is None else arguments.read_moment(occurred_at)
    with connected(base_url, api_key) as cf:
        try:
            stored = cf.events.append(
                agent_name=agent,
                event_type=event_type,
                payload=fact,
                tags=tag or (),
                occurred_at=happened,
                caused_by=caused_by or (),
                context=produced_by,
                condition=condition,
                idempotency_key=key,
            )
        except ConditionFailed as refusal:
            _show_refusal(refusal, output)
            raise typer.Exit(ExitCode.CONDITION_FAILED) from None
    if output is Format.JSON:
        print_json(
            {
                "id": stored.id,
                "created_at": stored.created_at.isoformat(timespec="microseconds"),
                "status": "stored",
                "replayed": stored.replayed,
            }
        )
    else:
        again = ", as it had been before under this key" if stored.replayed else ""
        print_line(f"Stored as {stored.id} at {moment(stored.created_at)} UTC{again}.")


def read(
    *,
    tag: arguments.Tags = None,
    event_type: arguments.Types = None,
    agent: arguments.Agents = None,
    payload: arguments.PayloadFilter = None,
    after: Annotated[
        int | None, typer.Option(metavar="ID", min=0, help="Only events above this position.")
    ] = None,
    before: Annotated[
        int | None, typer.Option(metavar="ID", min=1, help="Only events below this position.")
    ] = None,
    up_to: Annotated[
        int | None,
        typer.Option(metavar="ID", min=0, help="The book as it stood at this position."),
    ] = None,
    newest_first: Annotated[
        bool, typer.Option("--newest-first", "-r", help="The last events first.")
    ] = False,
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="N", min=1, help="So many events at most.")
    ] = 100,
    everything: Annotated[bool, typer.Option("--all", help="All that match.")] = False,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """Read events out of the book, one a line.

    All of them are from one snapshot of the book; its head, which a condition's `--after`
    takes, is told on standard error.

    For example:

        counterfoil read --tag transaction:tx_987

        counterfoil read --type flag_transaction --newest-first -n 5

        counterfoil read -o json --all > export.jsonl
    """
    order: Order = "desc" if newest_first else "asc"
    contained = None if payload is None else arguments.read_object(payload, "--payload")
    with connected(base_url, api_key) as cf:
        found = cf.events.list(
            tags=tag or (),
            types=event_type or (),
            agents=agent or (),
            payload=contained,
            after=after,
            before=before,
            up_to=up_to,
            order=order,
            limit=_PAGE_EVENTS if everything else min(limit, _PAGE_EVENTS),
        )
        shown = 0
        printer = EventPrinter(output)
        for event in found if everything else islice(found, limit):
            printer.show(event)
            shown += 1
        more = "" if everything or shown < limit else " There may be more: --all, or a larger -n."
        remark(f"{shown} event{'' if shown == 1 else 's'}, read at head {found.head}.{more}")


def tail(
    *,
    tag: arguments.Tags = None,
    event_type: arguments.Types = None,
    agent: arguments.Agents = None,
    payload: arguments.PayloadFilter = None,
    after: Annotated[
        int | None,
        typer.Option(metavar="ID", min=0, help="Begin above this position. [default: from now]"),
    ] = None,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """Show events as they are written, until Ctrl-C.

    A connection that breaks is opened again where it was: nothing is missed, nothing comes
    twice. Standard error says when it is lost, and when it is back.

    For example:

        counterfoil tail

        counterfoil tail --type flag_transaction --after 0 -o json
    """
    contained = None if payload is None else arguments.read_object(payload, "--payload")
    with connected(base_url, api_key) as cf:
        printer = EventPrinter(output)
        printer.begin()
        for event in cf.events.follow(
            tags=tag or (),
            types=event_type or (),
            agents=agent or (),
            payload=contained,
            after=after,
            on_reconnect=_tell_of_connection,
        ):
            printer.show(event)


def _tell_of_connection(reason: APIError | None) -> None:
    if reason is None:
        remark("The connection is back; going on where it was.")
    else:
        remark(f"The connection was lost: {reason} Trying until it is back …")


def _show_refusal(refusal: ConditionFailed, output: Format) -> None:
    if output is Format.JSON:
        conflicts: list[Any] = [decode(event.to_json()) for event in refusal.conflicts]
        print_json({"status": "condition-failed", "head": refusal.head, "conflicts": conflicts})
    complain(
        f"Nothing was written: the condition no longer held at head {refusal.head}. "
        "Read what stands in its way, decide again, and use that head as --after."
    )
    if output is Format.TEXT:
        printer = EventPrinter(output)
        for event in refusal.conflicts:
            printer.show(event)
