"""``policies``: by what rules it is decided, in versions that never change."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.text import Text

from counterfoil import PolicyRefused, PolicySummary, PolicyVersion
from counterfoil.cli import arguments, policy_checks, policy_judging
from counterfoil.cli.connection import connected
from counterfoil.cli.exits import Failure, Misused
from counterfoil.cli.output import Format, print_json, print_line, remark
from counterfoil.cli.policy_checks import File, fault_lines
from counterfoil.cli.policy_judging import PolicyFault
from counterfoil.cli.tables import Cell, as_document, minute, pretty, show_fields, show_table

_PAGE_POLICIES: Final = 1_000
_DIGEST_SHOWN: Final = 12

app = typer.Typer(
    help="Rules that decide: what they read, what may come of it, and why. A policy has versions, "
    "which never change, and one of them at most is active.\n\n"
    "To publish, activate and retire needs a key with `manage:policies`; to look at them, any key.",
    no_args_is_help=True,
)

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="The policy's name, as `policies list` shows it.")
]

app.command()(policy_checks.lint)
app.command("test")(policy_checks.run_examples)


@app.command()
def publish(
    file: File,
    *,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The policy's name: lower-case letters, digits, dots, dashes and underscores. "
            "[default: the file's name without its ending]",
        ),
    ] = None,
    idempotency_key: arguments.IdempotencyKey = None,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """Publish a policy as its next version: a draft, which decides nothing yet.

    The service judges it and runs its examples; what is wrong is shown as `policies lint` shows
    it. Where the newest version has this very document, nothing is made. Somebody else activates
    it. This needs a key with `manage:policies`.

    For example:

        counterfoil policies publish credit.json

        counterfoil policies publish rules/2026-03.json --name credit
    """
    text = policy_judging.read_file(file)
    document = arguments.read_object(text, "policy", example='{"subject": "application", …}')
    named = name or _name_of(file)
    with connected(base_url, api_key) as cf:
        try:
            drafted = cf.policies.draft(named, document, idempotency_key=idempotency_key)
        except PolicyRefused as refusal:
            faults = [PolicyFault(each.pointer, each.message) for each in refusal.errors]
            if not faults:
                raise
            raise Failure("\n".join(fault_lines(file, faults))) from None
    if output is Format.JSON:
        print_json(as_document(drafted))
        return
    if not drafted.changed:
        print_line(f"Version {drafted.version} of {named} is this very policy: {drafted.state}.")
    else:
        print_line(
            f"Version {drafted.version} of {named} is a draft, event {drafted.event_id}; digest "
            f"{drafted.digest}"
        )
    if drafted.state == "draft":
        remark(
            "Somebody else than its author activates it: counterfoil policies activate "
            f'{named} {drafted.version} --reason "…"'
        )


def _name_of(file: str) -> str:
    if file == "-":
        raise Misused("Standard input has no name. Give the policy's with --name.")
    return Path(file).stem


@app.command()
def activate(
    name: Name,
    version: Annotated[int, typer.Argument(metavar="VERSION", min=1, help="The version's number.")],
    *,
    reason: arguments.Reason,
    idempotency_key: arguments.IdempotencyKey = None,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """Let a version decide from now on; the one that did so is retired.

    Whoever drafted it cannot activate it. One that is active already is left as it is. This
    needs a key with `manage:policies`.

    For example:

        counterfoil policies activate credit 3 --reason "The risk board agreed on 3 March."
    """
    with connected(base_url, api_key) as cf:
        active = cf.policies.activate(name, version, reason=reason, idempotency_key=idempotency_key)
    if output is Format.JSON:
        print_json(as_document(active))
        return
    since = "" if active.activated_at is None else f" since {minute(active.activated_at)} UTC"
    by = f", activated by {active.activated_by}" if active.activated_by else ""
    print_line(f"Version {active.version} of {name} decides{since}{by}.")


@app.command()
def retire(
    name: Name,
    *,
    reason: arguments.Reason,
    idempotency_key: arguments.IdempotencyKey = None,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """Let a policy decide no more. Its versions and its decisions stay in the book.

    This needs a key with `manage:policies`.

    For example:

        counterfoil policies retire credit --reason "The product is not offered any more."
    """
    with connected(base_url, api_key) as cf:
        retired = cf.policies.retire(name, reason=reason, idempotency_key=idempotency_key)
    if output is Format.JSON:
        print_json(as_document(retired))
    else:
        print_line(f"Version {retired.version} of {name} was retired; the policy decides no more.")


@app.command("list")
def list_(
    *,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """List the policies, each with its active version.

    For example:

        counterfoil policies list
    """
    with connected(base_url, api_key) as cf:
        found = cf.policies.list(limit=_PAGE_POLICIES)
        if output is Format.JSON:
            for policy in found:
                print_json(as_document(policy))
            return
        shown = list(found)
    if not shown:
        remark("There is no policy yet. To publish one: counterfoil policies publish FILE")
        return
    show_table(("NAME", "ACTIVE", "VERSIONS", "CHANGED (UTC)", "DIGEST"), map(_row, shown))


def _row(policy: PolicySummary) -> tuple[Cell, ...]:
    active = policy.active_version
    return (
        Text(policy.name, style="bold"),
        Text("none", style="yellow") if active is None else str(active),
        str(policy.versions),
        minute(policy.changed_at),
        (policy.digest or "-")[:_DIGEST_SHOWN],
    )


@app.command()
def show(
    name: Name,
    *,
    version: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="This version. [default: the active one]"),
    ] = None,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """Show a policy: who drafted and activated it, and its document.

    For example:

        counterfoil policies show credit

        counterfoil policies show credit --version 2 -o json | jq .policy > credit.json
    """
    with connected(base_url, api_key) as cf:
        shown = cf.policies.get(name, version=version)
    if output is Format.JSON:
        print_json(as_document(shown))
        return
    show_fields(_fields(shown))
    print_line(pretty(shown.policy))


def _fields(shown: PolicyVersion) -> Iterator[tuple[str, Cell]]:
    yield "policy", Text(shown.name, style="bold")
    others = ", ".join(str(each) for each in shown.versions if each != shown.version)
    yield "version", f"{shown.version}, {shown.state}" + (f"; there is {others}" if others else "")
    yield "digest", shown.digest
    yield "drafted", f"{minute(shown.drafted_at)} by {shown.drafted_by}, event {shown.event_id}"
    if shown.activated_at is not None:
        yield "activated", f"{minute(shown.activated_at)} by {shown.activated_by}"
    if shown.retired_at is not None:
        yield "retired", f"{minute(shown.retired_at)} by {shown.retired_by}"


app.command()(policy_checks.diff)
