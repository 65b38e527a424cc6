"""``consumers``: who is handed which events, and how far they are."""

from collections.abc import Callable
from typing import Annotated, Final, Literal

import typer
from typer.core import TyperGroup

from counterfoil import APIStatusError, Consumer, ConsumerStarted
from counterfoil.cli import arguments, dead_letters
from counterfoil.cli import consumer_arguments as given
from counterfoil.cli.connection import confirm, connected
from counterfoil.cli.consumer_table import (
    consumer_fields,
    consumers_screen,
    show_block,
    show_consumers,
    summary,
)
from counterfoil.cli.exits import Failure
from counterfoil.cli.output import Format, print_json, print_line, remark, results
from counterfoil.cli.tables import as_document, show_fields
from counterfoil.cli.watching import Watch, Watchable, watch_blocks, watch_on

_PAGE_CONSUMERS: Final = 1_000


class _ListsByItself(TyperGroup):
    """The group without a command, or with options alone, is its command ``list``."""

    # The context's own type is private to typer; this is the public one, which is below it.
    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]  # above
        """Put the command in where there is none."""
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_ListsByItself,
    help="Hand work out: each event that matches goes to one holder at a time, until it is done or "
    "set aside. Without a command, this lists the consumers and how each stands.\n\n"
    "To make and change them needs a key with `manage:consumers`; to work for them, one with "
    "`consume:NAME`; to look at them, any key.",
)
app.add_typer(dead_letters.app, name="dead")


@app.command("list", cls=Watchable)
def list_(
    *,
    watch: Watch = None,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """List the consumers, and how each stands.

    LAG counts the events that match and are not done, and OLDEST is the age of the oldest of
    them; 10000+ are not counted further. WAITING are those that nobody holds, SET ASIDE the dead
    letters, RATE the events done lately. `consumers` alone is the same as this.

    For example:

        counterfoil consumers

        counterfoil consumers --watch

        counterfoil consumers --watch 10 >> consumers.log

        counterfoil consumers -o json | jq -r 'select(.set_aside > 0).name'
    """
    with connected(base_url, api_key) as cf:

        def look() -> list[Consumer]:
            return list(cf.consumers.list(limit=_PAGE_CONSUMERS))

        if watch is None:
            _show(look(), output)
        elif output is Format.JSON:
            watch_blocks(look, lambda seen: _show(seen, output), watch)
        elif results().is_terminal:
            watch_on(results(), look, said=summary, draw=consumers_screen, every=watch)
        else:
            watch_blocks(look, show_block, watch)


def _show(consumers: list[Consumer], output: Format) -> None:
    if output is Format.TEXT:
        show_consumers(consumers)
        return
    for each in consumers:
        print_json(as_document(each))


@app.command()
def show(
    name: given.Name,
    *,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """Show one consumer: what it hands out, by which rules, and how it stands.

    For example:

        counterfoil consumers show scorer
    """
    with connected(base_url, api_key) as cf:
        consumer = cf.consumers.get(name)
    if output is Format.JSON:
        print_json(as_document(consumer))
    else:
        show_fields(consumer_fields(consumer))


@app.command()
def put(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="Lower-case letters, digits, dots, dashes and underscores; up to 64.",
        ),
    ],
    *,
    tag: arguments.Tags = None,
    event_type: arguments.Types = None,
    agent: arguments.Agents = None,
    query: Annotated[
        list[str] | None,
        typer.Option(
            metavar="QUERY",
            help='Instead of these three: "type=payment tag=region:eu"; repeated: events that '
            "match any of them.",
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE",
            help="Where it begins: beginning, now, or the position after which; settled when it "
            "is made. [default: beginning]",
        ),
    ] = None,
    lease: Annotated[
        str | None,
        typer.Option(
            metavar="SPAN", help="How long a delivery is held, such as 60s or 5m. [default: 60s]"
        ),
    ] = None,
    attempts: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Failed attempts after which an event is set aside. [default: 10]",
        ),
    ] = None,
    backoff: Annotated[
        str | None,
        typer.Option(
            metavar="FIRST,FACTOR,LONGEST",
            help="How long an event waits after a failure, such as 5s or 0.5s,1.5,10m. "
            "[default: 1s,2,5m]",
        ),
    ] = None,
    order_by: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="Hand events that share a tag of this kind out one after another; settled when "
            "it is made. [default: all are free]",
        ),
    ] = None,
    in_flight: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Deliveries that all its holders together may hold. [default: no such limit]",
        ),
    ] = None,
    letters: Annotated[
        Literal["pass", "hold"] | None,
        typer.Option(
            "--dead-letters",
            help="With --order-by: whether a dead letter lets the next of its key pass, or holds "
            "them up. [default: pass]",
        ),
    ] = None,
    change_query: Annotated[
        bool,
        typer.Option("--change-query", help="Let it hand out other events than it did so far."),
    ] = False,
    idempotency_key: arguments.IdempotencyKey = None,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    r"""Make a consumer, or change one to what is said here.

    What is left out takes its default, also where it had another value before. A consumer that
    is so already is left as it is. This needs a key with `manage:consumers`.

    For example:

        counterfoil consumers put scorer --type payment --order-by customer

        counterfoil consumers put notifier --start now --lease 5m --attempts 3 \
            --query "type=payment tag=region:eu" --query type=refund
    """
    asked = given.read_query(event_type, agent, tag, query)
    begins = None if start is None else given.read_start(start)
    held_seconds = None if lease is None else given.read_seconds("--lease", lease)
    waits = None if backoff is None else given.read_backoff(backoff)
    with connected(base_url, api_key) as cf:
        try:
            made = cf.consumers.put(
                name,
                query=asked,
                start=begins,
                lease_seconds=held_seconds,
                attempts_max=attempts,
                backoff=waits,
                order_by=order_by,
                in_flight_max=in_flight,
                dead_letters=letters,
                change_query=change_query,
                idempotency_key=idempotency_key,
            )
        except ConsumerStarted as refusal:
            raise _refused(refusal, change_query=change_query) from None
    _show_changed(made, output, lambda: f"stands so since event {made.event_id}")


@app.command()
def pause(
    name: given.Name,
    *,
    reason: arguments.Reason,
    idempotency_key: arguments.IdempotencyKey = None,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """Hand nothing out any more, until it is resumed.

    What is held stays held, and can be acknowledged. This needs a key with `manage:consumers`.

    For example:

        counterfoil consumers pause scorer --reason "The model is being replaced."
    """
    with connected(base_url, api_key) as cf:
        paused = cf.consumers.pause(name, reason=reason, idempotency_key=idempotency_key)
    _show_changed(paused, output, lambda: f"is paused; {paused.in_flight} still held")


@app.command()
def resume(
    name: given.Name,
    *,
    reason: arguments.Reason,
    idempotency_key: arguments.IdempotencyKey = None,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """Hand events out again.

    This needs a key with `manage:consumers`.

    For example:

        counterfoil consumers resume scorer --reason "The new model is there."
    """
    with connected(base_url, api_key) as cf:
        resumed = cf.consumers.resume(name, reason=reason, idempotency_key=idempotency_key)
    _show_changed(resumed, output, lambda: f"is {resumed.status}")


@app.command()
def seek(
    name: given.Name,
    *,
    to: Annotated[
        str,
        typer.Option(
            metavar="PLACE",
            help="Where it goes on: beginning, now, the position after which, or a time with its "
            "offset.",
        ),
    ],
    reason: arguments.Reason,
    idempotency_key: arguments.IdempotencyKey = None,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """Go on at another place of the book: earlier, to do it again, or later, to leave out.

    Whatever is held is lost by its holders, and their acknowledgements are refused. Dead letters
    of events after that place are handed out again with all others; those before it stay. This
    needs a key with `manage:consumers`.

    For example:

        counterfoil consumers seek scorer --to beginning --reason "The old scores were wrong."

        counterfoil consumers seek scorer --to 2026-03-01T00:00:00Z --reason "Since the release."
    """
    place = given.read_target(to)
    with connected(base_url, api_key) as cf:
        sought = cf.consumers.seek(name, place, reason=reason, idempotency_key=idempotency_key)
    _show_changed(sought, output, lambda: f"goes on after {sought.position}")


@app.command()
def delete(
    name: given.Name,
    *,
    drop_dead_letters: Annotated[
        bool,
        typer.Option("--drop-dead-letters", help="Give its dead letters up too."),
    ] = False,
    yes: arguments.Yes = False,
    idempotency_key: arguments.IdempotencyKey = None,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """Delete a consumer: where it stood is forgotten, and the events stay in the book.

    What it has not done is shown before, and asked about. This needs a key with
    `manage:consumers`.

    For example:

        counterfoil consumers delete scorer
    """
    with connected(base_url, api_key) as cf:
        confirm(lambda: _question(cf.consumers.get(name), drop=drop_dead_letters), yes=yes)
        try:
            gone = cf.consumers.delete(
                name,
                dead_letters="drop" if drop_dead_letters else None,
                idempotency_key=idempotency_key,
            )
        except APIStatusError as refusal:
            if refusal.problem != "consumer-has-dead-letters":
                raise
            raise _has_dead_letters(name) from None
    if output is Format.JSON:
        print_json(as_document(gone))
        return
    letters = f" and {gone.dead_letters} dead letters" if gone.dead_letters else ""
    print_line(
        f"Consumer {gone.name} was deleted, with {gone.unfinished} events not done{letters}."
    )


def _question(consumer: Consumer, *, drop: bool) -> str:
    if consumer.set_aside and not drop:
        raise _has_dead_letters(consumer.name)
    more = "+" if consumer.lag.at_least else ""
    letters = f" and its {consumer.set_aside} dead letters" if consumer.set_aside else ""
    return (
        f"Delete consumer {consumer.name}{letters}? {consumer.lag.events}{more} events are not "
        f"done, {consumer.in_flight} of them held."
    )


def _has_dead_letters(name: str) -> Failure:
    return Failure(
        f"Consumer {name} has dead letters, which would be lost with it. Look at them with "
        f"`counterfoil consumers dead list {name}`; give --drop-dead-letters if they are not "
        "needed."
    )


def _refused(refusal: ConsumerStarted, *, change_query: bool) -> Failure:
    """What is settled, said with the option where there is one."""
    about = {each.pointer for each in refusal.errors}
    if "/query" in about and not change_query:
        return Failure(
            "This consumer hands other events out already. Give --change-query if it is to hand "
            "these out from here on."
        )
    return Failure(str(refusal))


def _show_changed(consumer: Consumer, output: Format, how: Callable[[], str]) -> None:
    """Say how a consumer stands now, and what to look at where it does not run."""
    if output is Format.JSON:
        print_json(as_document(consumer))
        return
    more = "+" if consumer.lag.at_least else ""
    print_line(f"Consumer {consumer.name} {how()}: {consumer.lag.events}{more} events to do.")
    if consumer.status == "stalled":
        remark(
            f"It is stalled: {consumer.set_aside} dead letters are too many to go on. "
            f"To look at them: counterfoil consumers dead list {consumer.name}"
        )
