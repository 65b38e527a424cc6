"""What is seen of a run: the progress while it runs, and the tables at its end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from counterfoil.cli.demo.credit import words
from counterfoil.cli.demo.credit.outcome import ENDINGS, KINDS, Outcome
from counterfoil.cli.demo.credit.performance import Tally
from counterfoil.cli.output import remarks, results, visible

CONTRADICTIONS_SHOWN_MAX: Final = 10
"""Contradictions that are shown one by one; ``-o json`` has all of them."""


@contextmanager
def _bars() -> Iterator[Progress]:
    console = remarks()
    columns = (
        TextColumn("  {task.description:<12}"),
        BarColumn(bar_width=40),
        MofNCompleteColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bars:
        yield bars


@contextmanager
def progress(applications: int, corrections: int) -> Iterator[Callable[[Tally], None]]:
    """Bars on standard error; yields what is to be called with the tally of the moment."""
    with _bars() as bars:
        rows = [
            (bars.add_task("written", total=applications), (words.POSTED,)),
            (bars.add_task("decided", total=applications), (words.DECIDED,)),
            (bars.add_task("corrected", total=corrections), (words.CORRECTED,)),
            (bars.add_task("dealt with", total=corrections), (words.SEEN, words.ANEW)),
        ]

        def show(tally: Tally) -> None:
            for task, kinds in rows:
                bars.update(task, completed=sum(len(tally[kind]) for kind in kinds))

        yield show


@contextmanager
def progress_of_replays(decisions: int) -> Iterator[Callable[[], None]]:
    """A bar on standard error; yields what is to be called after each replay."""
    with _bars() as bars:
        task = bars.add_task("replayed", total=decisions)
        yield lambda: bars.advance(task)


def show_outcome(outcome: Outcome) -> None:
    """The tables, one decision on a page, what was refused, and the verdict of the check."""
    console = results()
    console.print(_work(outcome))
    console.print(_standing(outcome))
    if any(counts.total() for counts in outcome.confusion.values()):
        console.print(_confusion(outcome))
    if outcome.explained is not None:
        console.print(Text(f"\nOne declined application, explained ({outcome.policy}):\n"))
        console.print(Text(visible(outcome.explained.text, keep="\n").rstrip()))
    console.print(_refused(outcome))
    for line in _verdict(outcome):
        console.print(line)


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, min_width=60)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    return table


def _work(outcome: Outcome) -> Table:
    tally, checked = outcome.tally, outcome.checked
    table = _table(f"Run {outcome.run_id}: {outcome.portfolio.title}")
    table.add_row("applications", str(len(outcome.applicants)), "by the risk agent")
    table.add_row("decisions", str(len(checked.decisions)), "by the policy agent")
    for version, number in checked.by_version.items():
        table.add_row(f"  by version {version}", str(number), "")
    table.add_section()
    corrected = len(tally[words.CORRECTED])
    table.add_row("signals corrected", str(corrected), "by the underwriter, meanwhile")
    table.add_row("  in time", str(len(tally[words.SEEN])), "the decision rests on the correction")
    table.add_row("  decided anew", str(len(tally[words.ANEW])), "it came after the decision")
    table.add_section()
    table.add_row("decisions per second", f"{tally.decisions_per_second:.0f}", _speed(tally))
    return table


def _speed(tally: Tally) -> str:
    return f"in {tally.seconds:.1f} s, with their signals; four processes, HTTP"


def _standing(outcome: Outcome) -> Table:
    table = _table("What stands")
    number = len(outcome.applicants)
    for kind in KINDS:
        count = outcome.kinds[kind]
        table.add_row(kind, str(count), f"{count / number:.1%}")
    table.add_section()
    for (result, code, text), count in outcome.reasons.most_common():
        table.add_row(f"{result}: {code}", str(count), visible(text))
    return table


def _confusion(outcome: Outcome) -> RenderableType:
    table = Table(title="What became of them", title_justify="left", min_width=60)
    table.add_column()
    for kind in KINDS:
        table.add_column(kind, justify="right")
    for known in ENDINGS:
        counts = outcome.confusion[known]
        table.add_row(known, *(str(counts[kind]) for kind in KINDS))
    table.add_section()
    table.add_row("bad of these", *(_share_of_bad(outcome, kind) for kind in KINDS))
    cost, costs = outcome.cost, outcome.portfolio.costs
    if cost is None or costs is None:
        return table
    return Group(
        table,
        Text(
            f"Cost per applicant: {cost.decided:.3f}. Approving all: {cost.approving_all:.3f}; "
            f"declining all: {cost.declining_all:.3f}."
        ),
        Text(
            f"  (A bad one approved costs {costs.bad_approved}, a good one not approved "
            f"{costs.good_declined}; a review counts as not approved.)",
            style="dim",
        ),
    )


def _share_of_bad(outcome: Outcome, kind: str) -> str:
    good, bad = (outcome.confusion[known][kind] for known in ENDINGS)
    return f"{bad / (good + bad):.1%}" if good + bad else ""


def _refused(outcome: Outcome) -> Group:
    refusals = outcome.refusals
    return Group(
        Text("\nRefused, as it must be:"),
        Text.assemble(("  to activate one's own draft  ", "dim"), visible(refusals.own_draft)),
        Text.assemble(
            (f"  to read {outcome.portfolio.forbidden}  ", "dim"), visible(refusals.forbidden)
        ),
        Text(""),
    )


def _verdict(outcome: Outcome) -> Iterator[RenderableType]:
    contradictions = list(outcome.contradictions())
    if contradictions:
        yield Text("✗ The check found what must not be:", style="bold red")
        for contradiction in contradictions[:CONTRADICTIONS_SHOWN_MAX]:
            yield Text(f"  {visible(contradiction)}", style="red")
        if len(contradictions) > CONTRADICTIONS_SHOWN_MAX:
            yield Text(f"  and {len(contradictions) - CONTRADICTIONS_SHOWN_MAX} more", style="red")
        return
    yield Text(
        f"✓ All {outcome.replayed} decisions replay identically, their inputs taken anew from the "
        "book.",
        style="bold green",
    )
    yield Text("  For each application exactly one decision stands.")
    yield Text("  No decision stands on a signal that changed before it, or has changed since.")
