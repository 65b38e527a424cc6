"""``tenants``: the operator's commands, for whom there is a book."""

from typing import Annotated, Final

import typer

from counterfoil.cli import arguments
from counterfoil.cli.connection import connected
from counterfoil.cli.keys import key_document, require_text
from counterfoil.cli.output import Format, print_json, print_line, remark
from counterfoil.cli.tables import as_document, minute, show_table

_PAGE_TENANTS: Final = 1_000

app = typer.Typer(
    help="Open books for tenants. This needs a key of the operator with `operate:tenants`.",
    no_args_is_help=True,
)


@app.command()
def create(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="By which the operator knows the tenant.")
    ],
    *,
    idempotency_key: arguments.IdempotencyKey = None,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """Open a book of its own for a tenant, and print the key of its first admin.

    The key alone goes to standard output. It is shown this once. With it, the tenant makes the
    keys of its agents by itself.

    For example:

        ADMIN_KEY=$(counterfoil tenants create acme)
    """
    with connected(base_url, api_key) as cf:
        tenant = cf.tenants.create(name, idempotency_key=idempotency_key)
    if output is Format.JSON:
        print_json(as_document(tenant) | {"key": key_document(tenant.key)})
    require_text(tenant.key)
    remark(
        f"Tenant {tenant.tenant_id}, {tenant.name}, has a book of its own. This is the text of its "
        f"admin's key {tenant.key.key_id}, shown this once: keep it where only the tenant reads it."
    )
    if output is Format.TEXT:
        print_line(tenant.key.reveal())


@app.command("list")
def list_(
    *,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """List the tenants, in the order in which they were made.

    For example:

        counterfoil tenants list
    """
    with connected(base_url, api_key) as cf:
        found = cf.tenants.list(limit=_PAGE_TENANTS)
        if output is Format.JSON:
            for tenant in found:
                print_json(as_document(tenant))
            return
        shown = list(found)
    show_table(
        ("ID", "NAME", "CREATED (UTC)"),
        [(str(tenant.tenant_id), tenant.name, minute(tenant.created_at)) for tenant in shown],
    )
