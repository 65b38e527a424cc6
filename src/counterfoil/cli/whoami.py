"""``whoami``: whose key this is, and what it may do."""

from collections.abc import Iterator

from rich.text import Text

from counterfoil import Me
from counterfoil.cli import arguments
from counterfoil.cli.connection import connected
from counterfoil.cli.output import Format, print_json
from counterfoil.cli.tables import as_document, minute, show_fields


def whoami(
    *,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """Show whose key this is, for which tenant, and what it may do.

    For example:

        COUNTERFOIL_API_KEY="$KEY" counterfoil whoami
    """
    with connected(base_url, api_key) as cf:
        me = cf.me()
    if output is Format.JSON:
        print_json(as_document(me))
    else:
        show_fields(_fields(me))


def _fields(me: Me) -> Iterator[tuple[str, str | Text]]:
    yield "principal", Text(me.principal, style="bold")
    yield "tenant", me.tenant
    yield "writes as", "any name" if me.name is None else me.name
    yield "key", me.key_id or "that of the service's start"
    yield "scopes", " ".join(me.scopes)
    yield "ends", "never by itself" if me.expires_at is None else f"{minute(me.expires_at)} UTC"
    if me.rate_per_second is not None:
        burst = "" if me.rate_burst is None else f", {me.rate_burst} at once"
        yield "rate", f"{me.rate_per_second} calls a second{burst}"
