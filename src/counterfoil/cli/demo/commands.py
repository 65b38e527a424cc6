"""``demo fraud`` and ``demo check``: the doors to the fraud demo, and the list of both demos."""

import asyncio
import contextlib
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.text import Text

from counterfoil.cli import arguments
from counterfoil.cli.connection import connected
from counterfoil.cli.demo import vocabulary
from counterfoil.cli.demo.cards import BadFile, read_cards
from counterfoil.cli.demo.check import Checker, Report
from counterfoil.cli.demo.conductor import perform
from counterfoil.cli.demo.credit.command import credit
from counterfoil.cli.demo.generator import generate
from counterfoil.cli.demo.pipeline import consumers, left_over
from counterfoil.cli.demo.report import progress, show_outcome
from counterfoil.cli.demo.schedule import Schedule, TooFewToGate, plan
from counterfoil.cli.demo.stage import a_service
from counterfoil.cli.demo.tally import Outcome
from counterfoil.cli.demo.transactions import Transaction
from counterfoil.cli.demo.wire import Brief
from counterfoil.cli.exits import ExitCode, Failure, Misused
from counterfoil.cli.output import Format, print_json, print_line, remark, results, visible

TRANSACTIONS_DEFAULT: Final = 600
"""About twenty seconds on two cores, the start of PostgreSQL included."""

TRANSACTIONS_MAX: Final = 20_000

FINDINGS_SHOWN_MAX: Final = 50
"""Findings that the check shows people one by one; ``-o json`` has all of them."""

CHECK_SECONDS_MAX: Final = 300.0

app = typer.Typer(
    help="Agents at work on one book, and a judge of what they did.",
    no_args_is_help=True,
)


@app.command()
def fraud(
    *,
    transactions: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=TRANSACTIONS_MAX,
            help=f"How many transactions to make. [default: {TRANSACTIONS_DEFAULT}]",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", help="The same seed makes the same transactions and races.")
    ] = 1,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Take the transactions from a card CSV instead (the form of the AWS fraud "
            "samples). People in it become pseudonyms.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="With --data: the first N in the order of time."),
    ] = None,
    guard: Annotated[
        bool,
        typer.Option(
            "--guard/--no-guard", help="Whether the approver writes under a condition, or hopes."
        ),
    ] = True,
    kill: Annotated[
        bool,
        typer.Option("--kill", help="Kill (-9) one of the two scorers half-way through its work."),
    ] = False,
    data_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep the book here. [default: a temporary folder]"),
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option(
            envvar=arguments.BASE_URL_VARIABLE,
            metavar="URL",
            help="Use this service and its book. [default: one of its own]",
        ),
    ] = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """Let four agents work through card transactions, and judge the book they wrote.

    One posts, one scores, one investigates and flags, one approves: each is handed by a
    consumer what the one before it wrote. Each is a process of its own, the scorer two.

    At least twenty times a flag lands exactly between the approver's read and its write. With
    the guard, these approvals are refused; with `--no-guard` they slip through. With `--kill`,
    one scorer is killed with payments in its hands, and the other takes them over: nothing is
    lost, and nothing is scored twice. Then `demo check` looks at the book.

    Starts what it needs, unless `--base-url` names a service. Ends with 0 if everything
    came as foreseen: nothing past a flag with the guard, the races and nothing else without
    it; else with 1.

    For example:

        counterfoil demo fraud

        counterfoil demo fraud --no-guard

        counterfoil demo fraud --kill

        counterfoil demo fraud --data cards.csv --limit 500 --data-dir ./book
    """
    if data is not None and transactions is not None:
        raise Misused("--transactions makes transactions and --data reads them: give one of them.")
    if limit is not None and data is None:
        raise Misused("--limit belongs to --data; use --transactions.")
    if base_url is not None and data_dir is not None:
        raise Misused(
            "--base-url names a service, which has its own book: leave out --data-dir. "
            "(The address may come from COUNTERFOIL_BASE_URL.)"
        )
    run_id = secrets.token_hex(4)
    if data is not None:
        chosen = _read_file(data, run_id, limit)
    else:
        chosen = generate(transactions or TRANSACTIONS_DEFAULT, seed=seed, run_id=run_id)
    try:
        schedule = plan(chosen, seed=seed)
    except TooFewToGate as error:
        raise Misused(str(error)) from None
    with a_service(base_url, api_key, data_dir) as environment:
        brief = Brief(
            run_id,
            guarded=guard,
            gated=tuple(sorted(schedule.gated)),
            killed_at=schedule.middle if kill else "",
        )
        outcome = _run(chosen, schedule, brief, environment)
    if output is Format.JSON:
        print_json(outcome.document())
    else:
        show_outcome(outcome)
        if data_dir is not None:
            remark(
                f"The book is in {data_dir}: counterfoil dev --data-dir {data_dir}, then "
                f"counterfoil read --tag {vocabulary.run_tag(run_id)}"
            )
    if any(outcome.contradictions()):
        raise typer.Exit(ExitCode.REFUSED)


app.command()(credit)


@app.command()
def check(
    *,
    file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Judge an export (`counterfoil read -o json --all > FILE`) instead of a service; "
            "- is standard input.",
        ),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Judge the transactions of this run only. [default: all]"),
    ] = None,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """Judge a book that the demo has written, from its events alone.

    Positions 1, 2, 3 … without gaps; times that never decrease; every transaction posted,
    scored, judged and decided exactly once, those of one customer in their order; no approval
    above a flag of its transaction; whatever is said rests on earlier events of the same
    transaction. Ends with 1 if anything is wrong, and names it with its position.

    For example:

        counterfoil demo check

        counterfoil read -o json --all > export.jsonl

        counterfoil demo check --file export.jsonl
    """
    report = _check_service(base_url, api_key, run) if file is None else _check_file(file, run)
    if output is Format.JSON:
        print_json(report.document())
    else:
        _show_report(report)
    if not report.ok:
        raise typer.Exit(ExitCode.REFUSED)


# --- The run --------------------------------------------------------------------------


def _read_file(path: Path, run_id: str, limit: int | None) -> list[Transaction]:
    try:
        return read_cards(path, run_id=run_id, limit=limit)
    except BadFile as error:
        raise Misused(str(error)) from None
    except OSError as error:
        raise Misused(f"{path} cannot be read: {error.strerror}.") from None


def _run(
    transactions: list[Transaction],
    schedule: Schedule,
    brief: Brief,
    environment: Mapping[str, str],
) -> Outcome:
    base_url = environment[arguments.BASE_URL_VARIABLE]
    with (
        connected(base_url, environment[arguments.API_KEY_VARIABLE]) as cf,
        consumers(cf, brief.run_id),
    ):
        remark(
            f"Run {brief.run_id} at {base_url}: {len(transactions)} transactions, "
            f"{len(schedule.gated)} of them raced."
        )
        if not brief.guarded:
            remark("The approver writes without the guard.")
        if brief.killed_at:
            remark("One of the two scorers will be killed half-way.")
        with progress(len(transactions), schedule) as show:
            tally = asyncio.run(
                perform(transactions, brief=brief, environment=environment, on_report=show)
            )
        left = left_over(cf, brief.run_id)
    checked = _check_in_another_process(brief.run_id, environment)
    return Outcome(brief.run_id, brief.guarded, brief.killed_at, schedule, tally, left, checked)


def _check_in_another_process(run_id: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """What ``demo check`` says of the run: a program that has seen nothing but the book."""
    program = subprocess.run(
        [sys.executable, "-m", "counterfoil.cli", "demo", "check", "--run", run_id, "-o", "json"],
        stdout=subprocess.PIPE,
        env={**os.environ, **environment},
        timeout=CHECK_SECONDS_MAX,
        check=False,
    )
    if program.returncode not in (ExitCode.OK, ExitCode.REFUSED) or not program.stdout:
        raise Failure(f"The check could not be made (exit code {program.returncode}).")
    checked: dict[str, Any] = json.loads(program.stdout)
    return checked


# --- The check ------------------------------------------------------------------------


def _check_service(base_url: str | None, api_key: str | None, run_id: str | None) -> Report:
    checker = Checker()
    with connected(base_url, api_key) as cf:
        events = cf.events.list(limit=1_000)
        for event in events:
            checker.add(json.loads(event.to_json()))
        return checker.finish(run_id=run_id, head=events.head)


def _check_file(path: Path, run_id: str | None) -> Report:
    checker = Checker()
    try:
        with contextlib.ExitStack() as opened:
            lines = sys.stdin.buffer if path == Path("-") else opened.enter_context(path.open("rb"))
            for number, line in enumerate(lines, start=1):
                checker.add(_parsed(line), where=f"Line {number}")
    except OSError as error:
        raise Misused(f"{path} cannot be read: {error.strerror}.") from None
    return checker.finish(run_id=run_id)


def _parsed(line: bytes) -> Any:
    """The JSON value of a line; None, which is no event, if it is not JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _show_report(report: Report) -> None:
    of_run = f" of run {report.run_id}" if report.run_id else ""
    counts = ", ".join(f"{count} {name}" for name, count in report.counts.items())
    print_line(f"{report.events} events; {report.transactions} transactions{of_run}: {counts}.")
    console = results()
    for finding in report.findings[:FINDINGS_SHOWN_MAX]:
        console.print(
            Text.assemble((f"✗ {finding.rule:<10}", "bold red"), visible(finding.message))
        )
    if len(report.findings) > FINDINGS_SHOWN_MAX:
        print_line(f"… and {len(report.findings) - FINDINGS_SHOWN_MAX} more; -o json has them all.")
    if report.ok:
        console.print(Text("✓ Nothing is wrong.", style="bold green"))
    else:
        number = len(report.findings)
        console.print(Text(f"{number} finding{'' if number == 1 else 's'}.", style="bold red"))
