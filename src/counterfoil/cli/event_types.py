"""``event-types``: which payloads a type of event may have."""

from collections.abc import Iterator
from typing import Annotated, Final

import typer
from rich.text import Text

from counterfoil import EventTypeVersion
from counterfoil.cli import arguments
from counterfoil.cli.connection import connected
from counterfoil.cli.exits import Misused
from counterfoil.cli.output import Format, print_json, print_line
from counterfoil.cli.tables import as_document, minute, pretty, show_fields, show_table

_PAGE_TYPES: Final = 1_000

app = typer.Typer(
    help="Give event types a schema, so that every agent means the same by a field.",
    no_args_is_help=True,
)

EventType = Annotated[str, typer.Argument(metavar="TYPE", help="The type of the events.")]


@app.command()
def register(
    event_type: EventType,
    schema: Annotated[
        str,
        typer.Argument(
            metavar="SCHEMA",
            help="A JSON Schema (2020-12) of the payload; @FILE reads it from a file, - from "
            "standard input.",
        ),
    ],
    *,
    narrowing: Annotated[
        bool,
        typer.Option(
            "--narrowing",
            help="Register it even if it may refuse payloads that the version before accepted.",
        ),
    ] = False,
    reason: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Why it is narrowed. It stands in the book."),
    ] = None,
    idempotency_key: arguments.IdempotencyKey = None,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    r"""Put a schema in force for the payloads of a type, as its next version.

    From then on an event of this type is stored only if its payload fits. A schema that is in
    force already is left as it is. One that may refuse what was accepted has to be asked for,
    with `--narrowing` and a `--reason`; otherwise the places where it does are shown. This needs
    a key with `manage:event-types`.

    For example:

        counterfoil event-types register payment @payment.schema.json

        counterfoil event-types register payment @payment.schema.json \
            --narrowing --reason "Amounts are in minor units everywhere now."
    """
    if narrowing and reason is None:
        raise Misused("--narrowing needs a --reason, which stands in the book.")
    read = arguments.read_object(
        arguments.read_source(schema), "schema", example='{"type": "object"}'
    )
    with connected(base_url, api_key) as cf:
        registered = cf.event_types.register(
            event_type,
            read,
            narrowing=narrowing,
            reason=reason,
            idempotency_key=idempotency_key,
        )
    if output is Format.JSON:
        print_json(as_document(registered))
        return
    how = "is in force" if registered.changed else "was in force already"
    print_line(
        f"Version {registered.version} of {event_type} {how}, since event {registered.event_id}."
    )


@app.command("list")
def list_(
    *,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """List the types that have a schema, each with the version in force.

    For example:

        counterfoil event-types list
    """
    with connected(base_url, api_key) as cf:
        found = cf.event_types.list(limit=_PAGE_TYPES)
        if output is Format.JSON:
            for registered in found:
                print_json(as_document(registered))
            return
        shown = list(found)
    show_table(
        ("TYPE", "VERSION", "REGISTERED (UTC)", "BY"),
        [
            (each.event_type, str(each.version), minute(each.registered_at), each.registered_by)
            for each in shown
        ],
    )


@app.command()
def show(
    event_type: EventType,
    *,
    version: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="This version. [default: the one in force]"),
    ] = None,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """Show the schema of a type.

    For example:

        counterfoil event-types show payment

        counterfoil event-types show payment --version 1 -o json | jq .schema
    """
    with connected(base_url, api_key) as cf:
        shown = cf.event_types.get(event_type, version=version)
    if output is Format.JSON:
        print_json(as_document(shown))
        return
    show_fields(_fields(shown))
    print_line(pretty(shown.schema))


def _fields(shown: EventTypeVersion) -> Iterator[tuple[str, str | Text]]:
    yield "type", Text(shown.event_type, style="bold")
    state = "in force" if shown.active else "replaced"
    others = ", ".join(str(each) for each in shown.versions if each != shown.version)
    yield "version", f"{shown.version}, {state}" + (f"; there is {others}" if others else "")
    yield (
        "registered",
        f"{minute(shown.registered_at)} by {shown.registered_by}, event {shown.event_id}",
    )
    if shown.narrowing:
        yield "narrowed", shown.reason or ""
