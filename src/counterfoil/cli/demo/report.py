"""What is seen of a run: the progress while it runs, and the table at its end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from counterfoil.cli.demo import wire
from counterfoil.cli.demo.schedule import Schedule
from counterfoil.cli.demo.tally import Outcome, Tally
from counterfoil.cli.output import remarks, results

CONTRADICTIONS_SHOWN_MAX: Final = 10
"""Contradictions that are shown one by one; one fault often has a thousand witnesses."""


@contextmanager
def progress(transactions: int, schedule: Schedule) -> Iterator[Callable[[Tally], None]]:
    """Bars on standard error; yields what is to be called with the tally of the moment."""
    columns = (
        TextColumn("  {task.description:<12}"),
        BarColumn(bar_width=40),
        MofNCompleteColumn(),
    )
    console = remarks()
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bars:
        rows: list[tuple[TaskID, tuple[str, ...]]] = [
            (bars.add_task("posted", total=transactions), (wire.POSTED,)),
            (bars.add_task("scored", total=transactions), (wire.SCORED,)),
            (bars.add_task("judged", total=transactions), (wire.FLAGGED, wire.CLEARED)),
            (bars.add_task("decided", total=transactions), (wire.APPROVED, wire.DECLINED)),
            (bars.add_task("raced", total=len(schedule.gated)), (wire.FLAGGED_LATE,)),
        ]

        def show(tally: Tally) -> None:
            for task, kinds in rows:
                bars.update(task, completed=sum(len(tally[kind]) for kind in kinds))

        yield show


def show_outcome(outcome: Outcome) -> None:
    """The table, the verdict of the check, and whether all three accounts agree."""
    console = results()
    console.print(_table(outcome))
    for line in _verdict(outcome):
        console.print(line)


def _table(outcome: Outcome) -> Table:
    tally = outcome.tally
    title = f"Run {outcome.run_id}, {'with' if outcome.guarded else 'without'} the guard"
    table = Table(title=title, title_justify="left", show_header=False, min_width=60)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    rows: list[tuple[str, int, str]] = [
        ("posted", len(tally[wire.POSTED]), "by the poster"),
        ("scored", len(tally[wire.SCORED]), f"by two copies of the scorer: {_shares(tally)}"),
        ("flagged", len(tally[wire.FLAGGED]), "by the investigator: policy"),
        ("flagged late", len(tally[wire.FLAGGED_LATE]), "between the approver's read and write"),
        ("approved", len(tally[wire.APPROVED]), "by the approver"),
        ("declined", len(tally[wire.DECLINED]), "by the approver"),
    ]
    for name, count, remark in rows:
        table.add_row(name, str(count), remark)
    table.add_section()
    table.add_row(
        Text("refused by a late flag", style="bold green" if outcome.stopped else ""),
        Text(str(len(tally[wire.REFUSED])), style="bold green" if outcome.stopped else ""),
        _races(outcome, outcome.stopped) if outcome.guarded else "there was no guard",
    )
    table.add_row(
        Text("approved past a flag", style="bold red" if outcome.slipped else ""),
        Text(str(len(outcome.slipped)), style="bold red" if outcome.slipped else ""),
        _races(outcome, outcome.slipped) if outcome.slipped else "",
    )
    table.add_section()
    if outcome.killed_at:
        table.add_row("scorers killed", str(len(tally[wire.KILLED])), _loss(tally))
        table.add_row("handed out again", str(len(tally.again)), _takeover(tally))
    table.add_row("not done", str(outcome.undone), "of what the consumers handed out")
    table.add_section()
    table.add_row("events", str(tally.events), f"in {outcome.tally.seconds:.1f} s")
    table.add_row("events per second", f"{outcome.events_per_second:.0f}", "five processes, HTTP")
    return table


def _races(outcome: Outcome, overtaken: set[str]) -> str:
    """What the number beside it is made of: the races, and what nobody had scheduled."""
    elsewhere = len(overtaken - outcome.schedule.gated)
    more = f", {elsewhere} by a flag from elsewhere" if elsewhere else ""
    return f"{len(overtaken & outcome.schedule.gated)} of {len(outcome.schedule.gated)} races{more}"


def _shares(tally: Tally) -> str:
    return " and ".join(str(len(scored)) for scored in tally.scored_by.values())


def _loss(tally: Tally) -> str:
    return f"{tally.killed}, half-way, with payments in hand"


def _takeover(tally: Tally) -> str:
    """To whom, and how long it took: the rest of a lease."""
    others = " and ".join(copy for copy in tally.scored_by if copy != tally.killed)
    return f"to {others}, within {tally.taken_over_after - tally.killed_after:.1f} s"


def _verdict(outcome: Outcome) -> Iterator[RenderableType]:
    """Lines that fit into 80 columns."""
    contradictions = list(outcome.contradictions())
    found = len(outcome.checked["findings"])
    if contradictions:
        yield Text("The accounts of this run do not agree:", style="bold red")
        for contradiction in contradictions[:CONTRADICTIONS_SHOWN_MAX]:
            yield Text(f"  {contradiction}", style="red")
        if len(contradictions) > CONTRADICTIONS_SHOWN_MAX:
            yield Text(f"  and {len(contradictions) - CONTRADICTIONS_SHOWN_MAX} more", style="red")
        return
    if outcome.guarded:
        yield Text("✓ The check of the book found nothing wrong.", style="bold green")
        yield Text(
            f"  All {len(outcome.stopped)} approvals that a late flag overtook were refused, and "
            "nothing else."
        )
    else:
        yield Text(
            f"✗ The check of the book found {found} approvals above a flag.", style="bold red"
        )
        yield Text(
            f"  As expected: all {len(outcome.slipped)} that a late flag overtook slipped through, "
            "nothing else."
        )
    yield Text("  Each payment was scored, judged and decided once; each customer's in order.")
    if outcome.killed_at:
        yield Text(f"  What {outcome.tally.killed} had in hand is not lost, and not scored twice.")
    others = [
        *(["--no-guard (no condition)"] if outcome.guarded else []),
        *([] if outcome.killed_at else ["--kill (a scorer dies half-way)"]),
    ]
    if others:
        yield Text(f"  Try also {' and '.join(others)}.", style="dim")
