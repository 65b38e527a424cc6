"""``settings``: what a tenant has settled for its book."""

from typing import Annotated

import typer

from counterfoil import TenantSettings
from counterfoil.cli import arguments
from counterfoil.cli.connection import connected
from counterfoil.cli.output import Format, print_json
from counterfoil.cli.tables import as_document, show_fields
from counterfoil.client.control_model import UnregisteredTypes

app = typer.Typer(
    help="What the tenant has settled for its book.",
    no_args_is_help=True,
)


@app.command()
def show(
    *,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """Show the settings.

    For example:

        counterfoil settings show
    """
    with connected(base_url, api_key) as cf:
        settings = cf.settings.get()
    _show(settings, output)


@app.command("set")
def set_(
    *,
    unregistered_types: Annotated[
        UnregisteredTypes,
        typer.Option(help="Whether events are taken whose type has no schema."),
    ],
    idempotency_key: arguments.IdempotencyKey = None,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """Change the settings. This needs a key with `manage:settings`.

    For example:

        counterfoil settings set --unregistered-types refused
    """
    with connected(base_url, api_key) as cf:
        settings = cf.settings.update(
            unregistered_types=unregistered_types, idempotency_key=idempotency_key
        )
    _show(settings, output)


def _show(settings: TenantSettings, output: Format) -> None:
    if output is Format.JSON:
        print_json(as_document(settings))
        return
    changed = "never" if settings.event_id is None else f"by event {settings.event_id}"
    show_fields((("unregistered types", settings.unregistered_types), ("changed", changed)))
