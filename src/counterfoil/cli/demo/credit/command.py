"""``demo credit``: the door to the demo."""

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from counterfoil import AsyncCounterfoil, Counterfoil, Event, QueryItem, Replay
from counterfoil.cli import arguments
from counterfoil.cli.connection import connected
from counterfoil.cli.demo.credit import staff, words
from counterfoil.cli.demo.credit.applicants import Applicant, with_slips
from counterfoil.cli.demo.credit.check import Finding, Report, check
from counterfoil.cli.demo.credit.files import BadFile, read_applicants
from counterfoil.cli.demo.credit.generator import generate
from counterfoil.cli.demo.credit.outcome import Explained, Outcome
from counterfoil.cli.demo.credit.performance import Tally, perform
from counterfoil.cli.demo.credit.portfolios import APPLICANTS, Portfolio, policy_name, subject
from counterfoil.cli.demo.credit.report import progress, progress_of_replays, show_outcome
from counterfoil.cli.demo.credit.words import Brief
from counterfoil.cli.demo.stage import a_service
from counterfoil.cli.exits import ExitCode, Misused
from counterfoil.cli.output import Format, print_json, remark

APPLICANTS_DEFAULT: Final = 300
"""About twenty seconds on two cores, the start of PostgreSQL included."""

APPLICANTS_MAX: Final = 20_000

REPLAYED_AT_ONCE: Final = 16
"""Decisions that are made again at the same time."""

Environment = Mapping[str, str]


def credit(
    *,
    applicants: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=APPLICANTS_MAX,
            help=f"How many applicants to make. [default: {APPLICANTS_DEFAULT}]",
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(metavar="N", help="The same seed makes the same applicants and mistakes."),
    ] = 1,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Take the applicants from a CSV instead: the German credit data (Statlog), or "
            "those of Lending Club. Which it is, is seen by the header.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="With --data: the first N of them."),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep the book here. [default: a temporary folder]"),
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option(
            envvar=arguments.BASE_URL_VARIABLE,
            metavar="URL",
            help="Use this service and its book; the key must be one that may make keys. "
            "[default: one of its own]",
        ),
    ] = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """Let agents decide on credit by a policy, and make every decision again.

    A risk agent writes what is known of each applicant. A policy agent has each decided: the
    service reads the signals, applies the policy, and writes the decision only if none of them
    has changed meanwhile. An underwriter corrects some signals at the same time: what comes too
    late is decided anew. Half-way, a second version of the policy comes into force, drafted by
    one person and activated by another. All have keys of their own, and each agent is a process.

    In the end every decision is made again from its record, and the book is checked: exactly one
    decision stands for each application, none on a signal that changed before it. Of three
    portfolios, the policies are shipped: applicants that are made, German credit, Lending Club.

    Starts what it needs, unless `--base-url` names a service. Ends with 0 if everything holds;
    else with 1.

    For example:

        counterfoil demo credit

        counterfoil demo credit --applicants 1000 --seed 7

        counterfoil demo credit --data german_credit_1000.csv --data-dir ./book
    """
    if data is not None and applicants is not None:
        raise Misused("--applicants makes applicants and --data reads them: give one of them.")
    if limit is not None and data is None:
        raise Misused("--limit belongs to --data; use --applicants.")
    if base_url is not None and data_dir is not None:
        raise Misused(
            "--base-url names a service, which has its own book: leave out --data-dir. "
            "(The address may come from COUNTERFOIL_BASE_URL.)"
        )
    run_id = secrets.token_hex(4)
    if data is not None:
        portfolio, chosen = _read_file(data, run_id, limit)
    else:
        portfolio = APPLICANTS
        chosen = generate(applicants or APPLICANTS_DEFAULT, seed=seed, run_id=run_id)
    chosen = with_slips(chosen, portfolio.slip, seed=seed)
    brief = Brief(run_id, policy_name(portfolio, run_id))
    with a_service(base_url, api_key, data_dir) as environment:
        outcome = _run(portfolio, chosen, brief, environment)
    if output is Format.JSON:
        print_json(outcome.document())
    else:
        show_outcome(outcome)
        if data_dir is not None:
            remark(
                f"The book is in {data_dir}: counterfoil dev --data-dir {data_dir}, then "
                f"counterfoil decisions list --policy {brief.policy}"
            )
    if any(outcome.contradictions()):
        raise typer.Exit(ExitCode.REFUSED)


def _read_file(path: Path, run_id: str, limit: int | None) -> tuple[Portfolio, list[Applicant]]:
    try:
        return read_applicants(path, run_id=run_id, limit=limit)
    except BadFile as error:
        raise Misused(str(error)) from None
    except OSError as error:
        raise Misused(f"{path} cannot be read: {error.strerror}.") from None


# --- The run --------------------------------------------------------------------------


def _run(
    portfolio: Portfolio, applicants: Sequence[Applicant], brief: Brief, environment: Environment
) -> Outcome:
    with _client(environment) as cf:
        began = _head(cf)
        with staff.keys(cf, brief) as keys, _publisher(portfolio, brief, keys, environment) as both:
            both.first()
            corrections = sum(one.corrected is not None for one in applicants)
            remark(
                f"Run {brief.run_id} at {cf.base_url}: {len(applicants)} applicants "
                f"({portfolio.title}), policy {brief.policy}; {corrections} signals will be "
                "corrected."
            )
            with (
                staff.consumer(cf, brief),
                progress(len(applicants), corrections) as show,
            ):
                tally = asyncio.run(_performed(applicants, both, keys, environment, show))
            checked = _checked(cf, portfolio, brief, applicants, after=began)
            differing = asyncio.run(_replayed(checked.decisions, environment))
            return Outcome(
                run_id=brief.run_id,
                portfolio=portfolio,
                policy=brief.policy,
                applicants=applicants,
                tally=tally,
                checked=checked,
                replayed=len(checked.decisions),
                differing=differing,
                refusals=both.trespass(),
                explained=_explained(cf, checked),
            )


def _client(environment: Environment, key: str | None = None) -> Counterfoil:
    return connected(
        environment[arguments.BASE_URL_VARIABLE], key or environment[arguments.API_KEY_VARIABLE]
    )


@contextlib.contextmanager
def _publisher(
    portfolio: Portfolio, brief: Brief, keys: Mapping[str, str], environment: Environment
) -> Iterator[staff.Publisher]:
    with (
        _client(environment, keys[words.AUTHOR]) as author,
        _client(environment, keys[words.APPROVER]) as approver,
    ):
        yield staff.Publisher(portfolio, brief, author, approver)


async def _performed(
    applicants: Sequence[Applicant],
    publisher: staff.Publisher,
    keys: Mapping[str, str],
    environment: Environment,
    show: Callable[[Tally], None],
) -> Tally:
    async def at_half() -> None:
        await asyncio.to_thread(publisher.second)

    return await perform(
        applicants,
        brief=publisher.brief,
        keys={name: keys[name] for name in words.PROCESSES},
        environment=environment,
        at_half=at_half,
        on_report=show,
    )


# --- What it came to ------------------------------------------------------------------


def _head(cf: Counterfoil) -> int:
    for page in cf.events.list(limit=1, order="desc").pages():
        return page.head
    return 0


def _checked(
    cf: Counterfoil,
    portfolio: Portfolio,
    brief: Brief,
    applicants: Sequence[Applicant],
    *,
    after: int,
) -> Report:
    """Check what the run has decided, from all that anybody has written of what it reads."""
    reads = staff.rules(portfolio)
    types = sorted({event_type for read in reads.values() for event_type in read["types"]})
    events: Iterator[Event] = cf.events.query(
        [
            QueryItem(types=types),
            QueryItem(types=words.DECISION_MADE, tags=f"decision:{brief.policy}"),
            QueryItem(types=words.POLICY_ACTIVATED, tags=f"policy:{brief.policy}"),
        ],
        after=after,
        limit=1_000,
    )
    return check(events, reads=reads, subjects=[subject(one.application_id) for one in applicants])


async def _replayed(decisions: Sequence[int], environment: Environment) -> tuple[Finding, ...]:
    """Make decisions again from their records; what does not come out the same."""
    findings: list[Finding] = []
    waiting = iter(decisions)
    async with AsyncCounterfoil(
        base_url=environment[arguments.BASE_URL_VARIABLE],
        api_key=environment[arguments.API_KEY_VARIABLE],
    ) as cf:
        with progress_of_replays(len(decisions)) as advance:

            async def replay_some() -> None:
                for decision in waiting:
                    replay = await cf.decisions.replay(decision)
                    if fault := fault_of(replay):
                        findings.append(Finding("replay", decision, fault))
                    advance()

            async with asyncio.TaskGroup() as group:
                for _ in range(REPLAYED_AT_ONCE):
                    group.create_task(replay_some())
    return tuple(findings)


def fault_of(replay: Replay) -> str:
    """In what a replay is not what was recorded; empty if it is, to the last digit."""
    if replay.refused is not None:
        return f"The decision at {replay.decision} cannot be made again: {replay.refused}"
    faults = [
        f"{one.what} was {one.recorded}, and is {one.recomputed}" for one in replay.differences
    ]
    if replay.engine.changed:
        faults.append(f"the engine was {replay.engine.recorded}, and is {replay.engine.now}")
    if replay.digest.recorded != replay.digest.now:
        faults.append("its version says something else")
    if replay.signals != "identical":
        faults.append(f"its inputs, taken anew from the book, are not identical: {replay.signals}")
    if not faults and not replay.identical:
        faults.append("it comes out differently")
    if not faults:
        return ""
    return f"The decision at {replay.decision}: {'; '.join(faults)}."


def _explained(cf: Counterfoil, checked: Report) -> Explained | None:
    """The first declined application that was decided anew; else the first declined one."""
    declined = [about for about, told in checked.standing.items() if told["kind"] == "decline"]
    if not declined:
        return None
    about = next((one for one in declined if checked.standing[one]["supersedes"]), declined[0])
    decision = checked.positions[about]
    return Explained(decision, cf.decisions.explain(decision).text)
