"""``decisions``: what was decided by a policy, why, and whether it comes out the same again."""

import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import islice
from typing import Annotated, Any, Final

import typer
from rich.text import Text

from counterfoil import Decision, DecisionStands
from counterfoil.cli import arguments, replaying
from counterfoil.cli.connection import connected
from counterfoil.cli.exits import Failure, Misused
from counterfoil.cli.output import Format, moment, print_json, print_line, remark, visible
from counterfoil.cli.tables import Cell, as_document, minute, show_fields, show_table
from counterfoil.client.document import encode
from counterfoil.client.requests import Order

_PAGE_DECISIONS: Final = 1_000
_DIGEST_SHOWN: Final = 12

_STYLES: Final = {"approve": "green", "decline": "red", "review": "yellow"}

app = typer.Typer(
    help="Decide about a subject by a policy, and look at what was decided: each decision stands in "
    "the book with all that it rests on, so that it can be explained, and decided again.\n\n"
    "To decide needs a key with `decide:POLICY` that may read what the policy reads; to look at "
    "decisions, one that may read them.",
    no_args_is_help=True,
)

Id = Annotated[
    int,
    typer.Argument(metavar="ID", min=1, help="The decision's id, as `decisions list` shows it."),
]
PolicyFilter = Annotated[
    str | None, typer.Option("--policy", metavar="NAME", help="Only by this policy.")
]


@app.command()
def make(
    policy: Annotated[str, typer.Argument(metavar="POLICY", help="By which policy.")],
    subject: Annotated[
        str, typer.Argument(metavar="SUBJECT", help="About what: a tag, as application:42.")
    ],
    *,
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME=JSON",
            help="An input that does not come from the book; repeated for each.",
        ),
    ] = None,
    on_behalf_of: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="For whom it is asked; it stands in the record."),
    ] = None,
    agent: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Under which name it is decided, for a key that may write under any. "
            "[default: the key's own]",
        ),
    ] = None,
    supersedes: Annotated[
        int | None,
        typer.Option(metavar="ID", min=1, help="The standing decision whose place this one takes."),
    ] = None,
    reason: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="With --supersedes: why. It stands in the book."),
    ] = None,
    idempotency_key: arguments.IdempotencyKey = None,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    r"""Decide about a subject by the active version of a policy, and record it.

    It is recorded only if nothing that it rests on has changed meanwhile. What cannot be decided
    for certain is refused: an input that is missing or too old, rules that come to nothing. At
    most one decision of a policy stands about a subject; another takes its place by naming it,
    with `--supersedes` and a `--reason`.

    For example:

        counterfoil decisions make credit application:42

        counterfoil decisions make credit application:42 --input amount=250000 \
            --input 'channel="branch"' --on-behalf-of j.doe

        counterfoil decisions make credit application:42 \
            --supersedes 58 --reason "New pay slips have come in."
    """
    if (supersedes is None) != (reason is None):
        raise Misused("--supersedes and --reason belong together: which decision, and why.")
    inputs = _inputs(given or ())
    with connected(base_url, api_key) as cf:
        try:
            made = cf.decide(
                policy,
                subject,
                inputs=inputs or None,
                on_behalf_of=on_behalf_of,
                agent_name=agent,
                supersedes=supersedes,
                reason=reason,
                idempotency_key=idempotency_key,
            )
        except DecisionStands as standing:
            raise _stands(standing) from None
    if output is Format.JSON:
        print_json(as_document(made))
        return
    print_line(visible(f"{_sentence(made)}"))
    if made.replayed:
        remark("It had been decided before, under the same idempotency key.")


def _inputs(given: Sequence[str]) -> dict[str, Any]:
    """The inputs that the options give, numbers digit for digit."""
    inputs: dict[str, Any] = {}
    for text in given:
        name, equals, written = text.partition("=")
        if not equals or not name:
            raise Misused(f"--input {text!r} is not NAME=JSON, such as amount=250000.")
        if name in inputs:
            raise Misused(f"--input gives {name} twice.")
        try:
            inputs[name] = json.loads(written, parse_float=Decimal, parse_constant=_no_number)
        except (ValueError, RecursionError):
            quoted = json.dumps(written, ensure_ascii=False)
            raise Misused(
                f"--input {text!r}: {written!r} is not JSON. A text stands in quotes: "
                f"--input '{name}={quoted}'."
            ) from None
    return inputs


def _no_number(name: str) -> None:
    raise ValueError(name)


def _stands(refusal: DecisionStands) -> Failure:
    standing = refusal.decision_id
    if standing is None:
        return Failure(str(refusal))
    found = "" if refusal.decision is None else f"\n{_sentence(refusal.decision)}"
    return Failure(
        f"One stands already, and nothing was decided.{found}\nIf another is to take its place, "
        f'give --supersedes {standing} --reason "…".'
    )


@app.command("list")
def list_(
    *,
    policy: PolicyFilter = None,
    subject: Annotated[
        str | None, typer.Option(metavar="KIND:VALUE", help="Only about this subject.")
    ] = None,
    newest_first: Annotated[
        bool, typer.Option("--newest-first", "-r", help="The last decisions first.")
    ] = False,
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="N", min=1, help="So many at most.")
    ] = 100,
    everything: Annotated[bool, typer.Option("--all", help="All that there are.")] = False,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """List decisions, in the order in which they were made.

    For example:

        counterfoil decisions list --policy credit --newest-first -n 20

        counterfoil decisions list --all -o json | jq -r .outcome | sort | uniq -c
    """
    order: Order = "desc" if newest_first else "asc"
    page = _PAGE_DECISIONS if everything else min(limit + 1, _PAGE_DECISIONS)
    with connected(base_url, api_key) as cf:
        found = cf.decisions.list(policy=policy, subject=subject, order=order, limit=page)
        if output is Format.JSON:
            for decision in found if everything else islice(found, limit):
                print_json(as_document(decision))
            return
        # One more than is shown says whether there are more.
        read = list(found if everything else islice(found, limit + 1))
    shown = read if everything else read[:limit]
    if not shown:
        remark("There is no such decision.")
        return
    show_table(("ID", "DECIDED (UTC)", "POLICY", "SUBJECT", "OUTCOME", "REASONS"), map(_row, shown))
    more = "" if len(shown) == len(read) else " There are more: --all, or a larger -n."
    remark(f"{len(shown)} decision{'' if len(shown) == 1 else 's'}.{more}")


def _row(decision: Decision) -> tuple[Cell, ...]:
    return (
        Text(str(decision.id), style="bold"),
        minute(decision.created_at),
        f"{decision.policy}@{decision.version}",
        decision.subject,
        _outcome(decision),
        ", ".join(reason.code for reason in decision.reasons) or "-",
    )


@app.command()
def show(
    decision_id: Id,
    *,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """Show a decision: its outcome and reasons, and what it rests on.

    For example:

        counterfoil decisions show 58

        counterfoil decisions show 58 -o json | jq .inputs
    """
    with connected(base_url, api_key) as cf:
        decision = cf.decisions.get(decision_id)
    if output is Format.JSON:
        print_json(as_document(decision))
        return
    show_fields(_fields(decision))
    print_line("")
    show_table(("INPUT", "VALUE", "FROM"), _input_rows(decision))


def _fields(decision: Decision) -> Iterator[tuple[str, Cell]]:
    yield "decision", Text(str(decision.id), style="bold")
    yield "subject", decision.subject
    yield "outcome", _outcome(decision)
    for reason in decision.reasons:
        yield "reason", f"{reason.code}: {reason.text}"
    if decision.state is not None:
        by = f" by decision {decision.superseded_by}" if decision.superseded_by else ""
        yield "state", f"{decision.state}{by}"
    if decision.supersedes is not None:
        yield "supersedes", f"{decision.supersedes.decision}: {decision.supersedes.reason}"
    yield (
        "policy",
        f"{decision.policy}, version {decision.version}, digest {decision.digest[:_DIGEST_SHOWN]}…",
    )
    yield "engine", decision.engine
    for row in decision.matched:
        rule = "" if row.rule is None else f" ({row.rule})"
        yield "matched", f"row {row.row} of {row.table}{rule}"
    yield "decided", f"{moment(decision.created_at)} UTC by {decision.agent_name}"
    yield "asked by", decision.asked_by
    if decision.on_behalf_of is not None:
        yield "on behalf of", decision.on_behalf_of
    yield "as of", f"{moment(decision.as_of)} UTC, at head {decision.head}"


def _input_rows(decision: Decision) -> Iterator[tuple[Cell, ...]]:
    for name, value in decision.inputs.items():
        ids = ", ".join(map(str, decision.signals.get(name, ())))
        book = f"event {ids}" if ids else "no event"
        origin = "the request" if name in decision.extra else book
        yield name, encode(value).decode(), origin


@app.command()
def explain(
    decision_id: Id,
    *,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """Explain a decision on one page.

    What was known and when, what the rules were given, which row fitted, why, and what the
    customer is told.

    For example:

        counterfoil decisions explain 58
    """
    with connected(base_url, api_key) as cf:
        explanation = cf.decisions.explain(decision_id)
    if output is Format.JSON:
        print_json(as_document(explanation))
    else:
        print_line(visible(explanation.text.rstrip("\n"), keep="\n"))


@app.command()
def replay(
    decision_id: Annotated[
        int | None,
        typer.Argument(
            metavar="[ID]", min=1, help="The decision's id; or --all.", show_default=False
        ),
    ] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Every decision there is.")] = False,
    policy: PolicyFilter = None,
    version: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="What if: by this version of the policy; with --all, give --policy too. "
            "[default: the one that it was decided by]",
        ),
    ] = None,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """Decide again what was decided, from its record alone, and say what differs.

    The recorded inputs go through the rules once more, and are taken anew from the book as it
    stood then. Nothing is written. With `--all`, progress is shown on standard error. Ends with
    1 if anything differs; that the rules' engine is another than it was is told in any case.

    For example:

        counterfoil decisions replay 58

        counterfoil decisions replay --all

        counterfoil decisions replay --all --policy credit --version 4
    """
    if everything == (decision_id is not None):
        raise Misused("Name one decision by its ID, or all of them with --all.")
    if policy is not None and not everything:
        raise Misused("--policy belongs to --all: one decision has its own.")
    if everything and version is not None and policy is None:
        raise Misused("--version is one policy's: with --all, give --policy too.")
    with connected(base_url, api_key) as cf:
        if decision_id is None:
            replaying.replay_all(cf, policy, version, output)
        else:
            replaying.show_one(cf.decisions.replay(decision_id, version=version), output)


# --- Words --------------------------------------------------------------------------------


def _outcome(decision: Decision) -> Text:
    return Text(visible(decision.outcome), style=_STYLES.get(decision.kind, ""))


def _sentence(decision: Decision) -> str:
    """A decision in one sentence, with its reasons."""
    why = "; ".join(f"{reason.code} {reason.text}" for reason in decision.reasons)
    return (
        f"Decision {decision.id} about {decision.subject}: {decision.outcome}"
        f"{f' ({why})' if why else ''}, by {decision.policy}@{decision.version}."
    )
