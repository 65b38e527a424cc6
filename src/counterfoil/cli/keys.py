"""``keys``: who may call the service, and as whom."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Final

import typer
from rich.text import Text

from counterfoil import CreatedKey, Key
from counterfoil.cli import arguments
from counterfoil.cli.connection import confirm, connected
from counterfoil.cli.exits import ExitCode, Failure
from counterfoil.cli.output import Format, print_json, print_line, remark
from counterfoil.cli.tables import as_document, minute, show_fields, show_table, span
from counterfoil.client.control_model import KeyKind

_PAGE_KEYS: Final = 1_000
_END_OPTIONS: Final = ("--expires-at", "--expires-in")

app = typer.Typer(
    help="Make keys, look at them, and take them away. This needs a key with `manage:keys`.",
    no_args_is_help=True,
)

KeyId = Annotated[
    str,
    typer.Argument(
        metavar="KEY_ID",
        help="The key's id, as `keys list` shows it; never the text of a key.",
    ),
]
ExpiresAt = Annotated[
    str | None,
    typer.Option("--expires-at", metavar="TIME", help="When it ends, with its offset."),
]
ExpiresIn = Annotated[
    str | None,
    typer.Option("--expires-in", metavar="SPAN", help="How long it lasts, such as 90d or 12h."),
]


@app.command()
def create(
    kind: Annotated[
        KeyKind,
        typer.Argument(
            metavar="KIND",
            help="agent, person or service (they write under their own name), auditor (reads) "
            "or admin (manages, and writes nothing).",
        ),
    ],
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="Whose it is: the name under which it writes events."),
    ],
    *,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SCOPE",
            help="What it may do, such as `append:flag_*`, `read:*`, `read:*@customer`, "
            "`consume:scorer` or `manage:consumers`; repeatable. [default: all that its kind is "
            "for]",
        ),
    ] = None,
    expires_at: ExpiresAt = None,
    expires_in: ExpiresIn = None,
    test: Annotated[
        bool, typer.Option("--test", help="Its text says that it is for tests: `cf_test_…`")
    ] = False,
    rate: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Calls a second that it may make.")
    ] = None,
    burst: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Calls that it may make at once; with --rate."),
    ] = None,
    idempotency_key: arguments.IdempotencyKey = None,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    r"""Make a key, and print it.

    The key alone goes to standard output, so that it can be taken into a variable or a vault.
    It is shown this once: the service keeps only a digest of it.

    For example:

        KEY=$(counterfoil keys create agent fraud_agent \
            --scope "append:flag_*" --scope "read:*" --expires-in 90d)

        counterfoil keys create agent scorer \
            --scope "consume:scorer" --scope "read:payment" --scope "append:scored"

        counterfoil keys create auditor m.ito --scope "read:*" | vault write …

        counterfoil keys create person j.doe --scope "manage:brake" --scope "read:*"
    """
    end = arguments.read_end(
        expires_at, expires_in, options=_END_OPTIONS, idempotency_key=idempotency_key
    )
    with connected(base_url, api_key) as cf, end.repeatable():
        created = cf.keys.create(
            kind=kind,
            name=name,
            scopes=scope,
            mode="test" if test else "live",
            expires_at=end.at,
            rate_per_second=rate,
            rate_burst=burst,
            idempotency_key=idempotency_key,
        )
    show_new_key(created, f"Key {created.key_id} was made for {_holder(created)}.", output)


@app.command("list")
def list_(
    *,
    active: Annotated[
        bool, typer.Option("--active", help="Only those that open something now.")
    ] = False,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """List the keys, in the order in which they were made.

    Nothing that opens anything is shown: the service does not know the texts of keys.

    For example:

        counterfoil keys list --active

        counterfoil keys list -o json | jq -r 'select(.last_used_at == null).key_id'
    """
    with connected(base_url, api_key) as cf:
        found = (key for key in cf.keys.list(limit=_PAGE_KEYS) if key.is_active() or not active)
        if output is Format.JSON:
            for key in found:
                print_json(as_document(key))
            return
        shown = list(found)
    show_table(
        ("ID", "KIND", "NAME", "STATE", "LAST USED", "SCOPES"),
        [
            (
                Text(key.key_id, style="bold" if key.is_active() else "dim"),
                key.kind,
                key.name,
                _state(key),
                "never" if key.last_used_at is None else minute(key.last_used_at),
                " ".join(key.scopes),
            )
            for key in shown
        ],
    )
    remark(f"{len(shown)} key{'' if len(shown) == 1 else 's'}. Times are UTC.")


@app.command()
def show(
    key_id: KeyId,
    *,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """Show what is known of one key. Its text is not.

    For example:

        counterfoil keys show k7x2mq4awp5yjn3d
    """
    with connected(base_url, api_key) as cf:
        key = cf.keys.get(key_id)
    if output is Format.JSON:
        print_json(as_document(key))
    else:
        show_fields(_fields(key))


@app.command()
def rotate(
    key_id: KeyId,
    *,
    overlap: Annotated[
        str,
        typer.Option(
            metavar="SPAN", help="How long the old key goes on to work, up to 30d; 0s: not at all."
        ),
    ] = "1h",
    expires_at: ExpiresAt = None,
    expires_in: ExpiresIn = None,
    idempotency_key: arguments.IdempotencyKey = None,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """Make a key that takes the place of another, and print it.

    Holder, scopes and rate are those of the old key, which goes on to work for a while: time to
    hand the new one out. As with `keys create`, the new key alone goes to standard output, and
    is shown this once.

    For example:

        KEY=$(counterfoil keys rotate k7x2mq4awp5yjn3d --overlap 24h)
    """
    lasting = arguments.read_duration(overlap)
    end = arguments.read_end(
        expires_at, expires_in, options=_END_OPTIONS, idempotency_key=idempotency_key
    )
    with connected(base_url, api_key) as cf, end.repeatable():
        created = cf.keys.rotate(
            key_id,
            overlap_seconds=int(lasting.total_seconds()),
            expires_at=end.at,
            idempotency_key=idempotency_key,
        )
    old = f"works for up to {span(lasting)} more" if lasting else "opens nothing any more"
    show_new_key(
        created,
        f"Key {created.key_id} of {_holder(created)} takes the place of {created.replaces}, "
        f"which {old}.",
        output,
    )


@app.command()
def revoke(
    key_id: KeyId,
    *,
    reason: arguments.Reason,
    yes: arguments.Yes = False,
    idempotency_key: arguments.IdempotencyKey = None,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """Make a key worth nothing, at once and for good.

    Whose key it is and when it was last used is shown before, and asked about.

    For example:

        counterfoil keys revoke k7x2mq4awp5yjn3d --reason "The laptop that held it was lost."
    """
    with connected(base_url, api_key) as cf:
        confirm(lambda: _question(cf.keys.get(key_id)), yes=yes)
        revoked = cf.keys.revoke(key_id, reason=reason, idempotency_key=idempotency_key)
    if output is Format.JSON:
        print_json(as_document(revoked))
    else:
        print_line(f"Key {revoked.key_id} of {_holder(revoked)} opens nothing any more.")


def show_new_key(created: CreatedKey, what: str, output: Format) -> None:
    """Print a key that was just made: alone, for a pipe. What is said about it goes beside.

    Raises:
        Failure: its text was in an earlier answer, and cannot be had again.
    """
    if output is Format.JSON:
        print_json(key_document(created))
    require_text(created)
    # Said first: whoever reads standard output may close it before the key is through, and
    # should know then which key to revoke.
    remark(f"{what} This is its text, shown this once: keep it where only its holder reads it.")
    if output is Format.TEXT:
        print_line(created.reveal())


def require_text(created: CreatedKey) -> None:
    """See that a key has come with its text.

    Raises:
        Failure: it has not. A script that goes on with an empty key would find out elsewhere.
    """
    if created.text is None:
        raise Failure(
            f"Key {created.key_id} was made by an earlier call (with this idempotency key), and "
            "its text was shown then. If nobody has kept it, take another: counterfoil keys rotate "
            f"{created.key_id} --overlap 0s",
            ExitCode.REFUSED,
        )


def key_document(created: CreatedKey) -> dict[str, object]:
    """A key that was just made, as JSON, with its text."""
    return {**as_document(created), "key": created.text}


def _question(key: Key) -> str:
    used = "never used" if key.last_used_at is None else f"last used {minute(key.last_used_at)} UTC"
    return f"Revoke key {key.key_id} of {_holder(key)}, {used}?"


def _holder(key: Key) -> str:
    return f"{key.kind} {key.name}"


def _state(key: Key) -> Text:
    now = datetime.now(UTC)
    if key.revoked_at is not None and key.revoked_at <= now:
        return Text(f"revoked {minute(key.revoked_at)}", style="dim")
    if key.expires_at is None:
        return Text("active", style="green")
    if key.expires_at <= now:
        return Text(f"expired {minute(key.expires_at)}", style="dim")
    return Text(f"until {minute(key.expires_at)}", style="green")


def _fields(key: Key) -> Iterator[tuple[str, str | Text]]:
    yield "id", Text(key.key_id, style="bold")
    yield "holder", _holder(key)
    yield "state", _state(key)
    yield "scopes", " ".join(key.scopes)
    yield "mode", key.mode
    yield "created", f"{minute(key.created_at)} by {key.created_by}, event {key.event_id}"
    yield "last used", "never" if key.last_used_at is None else minute(key.last_used_at)
    if key.rate_per_second is not None:
        burst = "" if key.rate_burst is None else f", {key.rate_burst} at once"
        yield "rate", f"{key.rate_per_second} calls a second{burst}"
    if key.replaces is not None:
        yield "replaces", key.replaces
