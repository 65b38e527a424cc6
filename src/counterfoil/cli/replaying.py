"""``decisions replay``: one decision, or all of them for an auditor, and what is said of it."""

import contextlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from counterfoil import Counterfoil, CounterfoilError, Replay
from counterfoil.cli.exits import ExitCode
from counterfoil.cli.output import Format, print_json, print_line, remark, remarks, visible
from counterfoil.cli.tables import as_document, show_table
from counterfoil.client.document import encode

_PAGE_DECISIONS: Final = 1_000
AT_ONCE: Final = 8
"""Decisions that are replayed at the same time: a replay reads the book, and waits for it mostly."""
_REPORT_SECONDS: Final = 5.0
_DIFFERING_SHOWN_MAX: Final = 100


# --- One ----------------------------------------------------------------------------------


def show_one(replay: Replay, output: Format) -> None:
    """Say what one decision came to.

    Raises:
        typer.Exit: something differs.
    """
    if output is Format.JSON:
        print_json(as_document(replay))
    else:
        if replay.identical:
            print_line(
                f"Decision {replay.decision} comes out the same by version {replay.version}."
            )
        else:
            print_line(f"Decision {replay.decision} differs by version {replay.version}.")
            if replay.refused is not None:
                print_line(visible(f"Nothing is decided now: {replay.refused}"))
            show_table(("WHAT", "RECORDED", "RECOMPUTED"), map(_difference, _differences(replay)))
        if replay.signals == "erased":
            remark(
                "A signal of it was erased since: whether its inputs are the book's is not known."
            )
        if replay.engine.changed:
            remark(f"The rules' engine is another: {_engine(replay)}.")
    if not replay.identical:
        raise typer.Exit(ExitCode.REFUSED)


def _differences(replay: Replay) -> Iterator[tuple[str, Any, Any]]:
    for each in replay.differences:
        yield each.what, each.recorded, each.recomputed


def _difference(difference: tuple[str, Any, Any]) -> tuple[str, str, str]:
    what, recorded, recomputed = difference
    return what, _shown(recorded), _shown(recomputed)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else encode(value).decode()


def _engine(replay: Replay) -> str:
    return f"{replay.engine.recorded} then, {replay.engine.now} now"


# --- All ----------------------------------------------------------------------------------


@dataclass
class Tally:
    """What came of the decisions that were replayed so far."""

    decisions: int = 0
    differing: list[Replay] = field(default_factory=list)
    erased: int = 0
    engines: Counter[str] = field(default_factory=Counter)

    def take(self, replay: Replay) -> None:
        """Count one."""
        self.decisions += 1
        if not replay.identical:
            self.differing.append(replay)
        self.erased += replay.signals == "erased"
        if replay.engine.changed:
            self.engines[_engine(replay)] += 1

    @property
    def identical(self) -> int:
        """How many came out as they were recorded."""
        return self.decisions - len(self.differing)


def replay_all(cf: Counterfoil, policy: str | None, version: int | None, output: Format) -> None:
    """Replay all decisions, by one policy or by any, and say what differs.

    Raises:
        typer.Exit: something differs.
    """
    found = cf.decisions.list(policy=policy, limit=_PAGE_DECISIONS)
    ids = [decision.id for decision in found]
    tally, started = Tally(), monotonic()
    try:
        with shown_progress(len(ids)) as show:
            for replay in replays(cf, ids, version):
                tally.take(replay)
                show(tally)
    except (CounterfoilError, KeyboardInterrupt):
        remark(f"Broken off. {_so_far(tally, len(ids))}")
        raise
    seconds = monotonic() - started
    if output is Format.JSON:
        print_json(_as_document(tally, seconds))
    else:
        _show(tally, seconds)
    if tally.differing:
        raise typer.Exit(ExitCode.REFUSED)


def replays(cf: Counterfoil, ids: Sequence[int], version: int | None) -> Iterator[Replay]:
    """Replay decisions, some at the same time, and give what came of them in their order."""
    begun: deque[Future[Replay]] = deque()
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="replay") as threads:
        try:
            for decision_id in ids:
                begun.append(threads.submit(cf.decisions.replay, decision_id, version=version))
                if len(begun) > AT_ONCE:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            # What was not begun is not begun any more where somebody breaks it off.
            threads.shutdown(cancel_futures=True)


def _so_far(tally: Tally, total: int) -> str:
    return (
        f"{tally.decisions:,} of {total:,} decisions were replayed: {tally.identical:,} came out "
        f"the same, {len(tally.differing):,} differ."
    )


def _as_document(tally: Tally, seconds: float) -> dict[str, Any]:
    return {
        "status": "differ" if tally.differing else "identical",
        "decisions": tally.decisions,
        "identical": tally.identical,
        "differ": [as_document(replay) for replay in tally.differing],
        "signals_erased": tally.erased,
        "engine_changed": tally.engines.total(),
        "engines": dict(tally.engines),
        "seconds": round(seconds, 3),
        "decisions_per_second": round(tally.decisions / max(seconds, 0.001)),
    }


def _show(tally: Tally, seconds: float) -> None:
    if not tally.decisions:
        print_line("There is no decision to replay.")
        return
    if tally.differing:
        show_table(
            ("DECISION", "WHAT", "RECORDED", "RECOMPUTED"),
            [
                (str(replay.decision), *_difference(difference))
                for replay in tally.differing[:_DIFFERING_SHOWN_MAX]
                for difference in _differences(replay)
            ],
        )
        left = len(tally.differing) - _DIFFERING_SHOWN_MAX
        if left > 0:
            remark(f"{left:,} more differ; -o json has them all.")
        print_line("")
    rate = tally.decisions / max(seconds, 0.001)
    print_line(
        f"{tally.decisions:,} decisions: {tally.identical:,} come out the same, "
        f"{len(tally.differing):,} differ; {seconds:,.1f} s, {rate:,.0f}/s."
    )
    if tally.erased:
        remark(f"Of {tally.erased:,} a signal was erased since; their records stand.")
    for engines, count in tally.engines.items():
        remark(f"The rules' engine is another than for {count:,} of them: {engines}.")


@contextlib.contextmanager
def shown_progress(total: int) -> Iterator[Callable[[Tally], None]]:
    """Show on standard error how far it is: a bar on a terminal, else a line now and then."""
    console = remarks()
    bar = Progress(
        BarColumn(bar_width=None),
        TextColumn("{task.fields[said]}"),
        TimeRemainingColumn(compact=True),
        console=console,
        disable=not console.is_terminal,
        transient=True,
        expand=True,
    )
    started = told_at = monotonic()
    with bar:
        task = bar.add_task("", total=total, said="")

        def show(tally: Tally) -> None:
            nonlocal told_at
            now = monotonic()
            rate = tally.decisions / max(now - started, 0.001)
            differ = f", {len(tally.differing):,} differ" if tally.differing else ""
            said = f"{tally.decisions:,} of {total:,} decisions, {rate:,.0f}/s{differ}"
            bar.update(task, completed=tally.decisions, said=said)
            if bar.disable and now - told_at >= _REPORT_SECONDS:
                told_at = now
                remark(said)

        yield show
