"""The command: measure everything, a part of it, or write the report of what was measured.

python3 tasks.py bench                 everything; an hour and three quarters
python3 tasks.py bench --quick         what the goals need; less than five minutes
python3 tasks.py bench --only PATTERN  the cells whose id matches, or begins so
python3 tasks.py bench --profile CELL  where one cell's time goes, below benchmarks/profiles
python3 tasks.py bench --list          the ids of all cells
python3 tasks.py bench --report        RESULTS.md and the charts, from the newest whole run
"""

import argparse
import contextlib
import fnmatch
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Final

from benchmarks.harness import cpu, profiling, records, wrk
from benchmarks.harness.cluster import SETTINGS, BenchmarkCluster, file_system, running_cluster
from benchmarks.harness.model import BenchmarkError, Effort, Suite
from benchmarks.harness.records import CellRecord, Results, RunFile, RunRecord, SuiteRecord
from benchmarks.harness.rounds import Progress, Turn, planned_seconds, run_rounds
from benchmarks.report import profiles, write
from benchmarks.report.goals import goals_table
from benchmarks.report.series import Measured
from benchmarks.suites import all_suites

PROFILE_SECONDS: Final = 10.0
"""How long a cell is looked into."""


@dataclass(frozen=True, slots=True)
class RunStage:
    """What a suite is given; satisfies ``model.Stage``."""

    cluster: BenchmarkCluster
    folder: Path
    quick: bool
    patterns: Sequence[str]

    def wants(self, cell_id: str) -> bool:
        """Whether this cell was asked for; without patterns, each was."""
        return wanted(cell_id, self.patterns)

    def say(self, text: str) -> None:
        """Show progress."""
        say(f"  {text}")


def wanted(cell_id: str, patterns: Sequence[str]) -> bool:
    """Whether an id is asked for: by a shell's pattern, or by the beginning of its path."""
    return not patterns or any(
        fnmatch.fnmatchcase(cell_id, pattern) or cell_id.startswith(f"{pattern.rstrip('/')}/")
        for pattern in patterns
    )


def say(text: str) -> None:
    """One line for a person."""
    print(f"[bench] {text}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    suites = all_suites()
    try:
        if options.list:
            return _list(suites, options)
        if options.report is not None:
            for path in write.write(options.report or write.newest_whole(), suites):
                say(f"written: {path}")
            return 0
        with _interrupted_in_order():
            return _profile(suites, options) if options.profile else _measure(suites, options)
    except BenchmarkError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("Stopped. What was measured until now stays in the results, without a verdict.")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tasks.py bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="less of everything, in 5 minutes")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="PATTERN", help="cells to run: shell patterns"
    )
    parser.add_argument(
        "--rounds", type=_at_least_one, help="how many, instead of what each suite takes"
    )
    parser.add_argument("--seconds", type=_at_least_one, help="of one run, instead of the usual")
    parser.add_argument(
        "--profile", metavar="CELL", help="look into one cell: stacks, statements, waits"
    )
    parser.add_argument("--list", action="store_true", help="show the ids of the cells")
    parser.add_argument(
        "--report",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="write RESULTS.md and the charts from these lines, or those of the newest whole run",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("/var/tmp"),  # noqa: S108 - mkdtemp makes a folder of our own there
        help="where to work: on the disk to measure",
    )
    parser.add_argument(
        "--results", type=Path, default=records.RESULTS, help="where the raw lines go"
    )
    return parser


def _at_least_one(text: str) -> int:
    """A count, or whole seconds."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a whole number, 1 or more")
    return int(text)


def _list(suites: Sequence[Suite], options: argparse.Namespace) -> int:
    for suite in suites:
        for cell in suite.cell_ids(quick=options.quick):
            if wanted(cell, options.only):
                print(cell)
    return 0


def _measure(suites: Sequence[Suite], options: argparse.Namespace) -> int:
    cpu.check_platform()
    wrk.program()
    chosen = [
        suite
        for suite in suites
        if any(wanted(cell, options.only) for cell in suite.cell_ids(quick=options.quick))
    ]
    if not chosen:
        raise BenchmarkError(f"No cell matches {' '.join(options.only)}; --list shows all.")
    mode = "only" if options.only else "quick" if options.quick else "whole"
    started = datetime.now(UTC)
    run = started.strftime("%Y%m%dT%H%M%SZ")
    options.results.mkdir(parents=True, exist_ok=True)
    file = RunFile(options.results / f"{run}-{mode}.jsonl")
    begun = time.monotonic()
    if mode != "only":
        say(f"This takes about {planned_seconds(chosen, quick=options.quick) / 60:.0f} minutes.")
    with _scratch(options.folder) as folder, running_cluster(folder) as cluster:
        file.write(
            RunRecord(
                run=run,
                mode=mode,
                started_at=started.isoformat(timespec="seconds"),
                command=_command(options),
                commit=records.commit(),
                machine=records.machine(folder, file_system(folder)),
                versions=records.versions(cluster.setting("server_version"), _wrk_version()),
                settings={name: cluster.setting(name) for name in SETTINGS},
            )
        )
        refused = [
            suite.name
            for suite in chosen
            if not _run_suite(
                suite, RunStage(cluster, folder, options.quick, options.only), options, run, file
            )
        ]
    say(f"Done after {(time.monotonic() - begun) / 60:.1f} min: {file.path}")
    if mode == "whole":
        write.write([file.path], suites)
    elif mode == "quick":
        results = Results.read([file.path])
        print(goals_table(Measured.of(results.cells), results))
    if refused:
        raise BenchmarkError(f"Refused: {', '.join(refused)}. Their figures count for nothing.")
    return 0


def _profile(suites: Sequence[Suite], options: argparse.Namespace) -> int:
    """Run one cell under the samplers, and write what they saw."""
    cpu.check_platform()
    wrk.program()
    name = options.profile
    suite = next((suite for suite in suites if name in suite.cell_ids(quick=False)), None)
    if suite is None:
        raise BenchmarkError(f"There is no cell called {name}; --list shows all.")
    seconds = options.seconds or PROFILE_SECONDS
    with (
        _scratch(options.folder) as folder,
        running_cluster(folder, profiling.SETTINGS) as cluster,
        suite.open(RunStage(cluster, folder, quick=False, patterns=[name])) as cells,
    ):
        if not cells:
            raise BenchmarkError(f"{name} has nothing to run on here.")
        say(f"{name}: {seconds:.0f} s under the samplers")
        profile = profiling.record(cells[0], cluster, folder, seconds)
    # Only now, when what was written has been checked.
    for path in profiles.write(profile, commit=records.commit()):
        say(f"written: {path}")
    return 0


def _run_suite(
    suite: Suite, stage: RunStage, options: argparse.Namespace, run: str, file: RunFile
) -> bool:
    """Run one suite and write its verdict; returns whether its figures count."""
    begun = time.monotonic()
    count = sum(stage.wants(cell) for cell in suite.cell_ids(quick=stage.quick))
    say(f"{suite.title}: {count} cells")

    def effort(cell: str) -> Effort:
        usual = suite.effort(cell, quick=stage.quick)
        return Effort(
            rounds=options.rounds or usual.rounds,
            seconds=options.seconds or usual.seconds,
            around_seconds=usual.around_seconds,
        )

    reason: str | None = None
    try:
        with suite.open(stage) as cells:
            progress = Progress(sum(effort(cell.id).rounds for cell in cells))

            def show(turn: Turn, record: CellRecord) -> None:
                say(f"{progress.step(repeated=turn.repeated)}  {_one_line(turn, record)}")

            run_rounds(
                run=run,
                suite=suite.name,
                cells=cells,
                effort=effort,
                cores=len(os.sched_getaffinity(0)),
                before_each=stage.cluster.checkpoint,
                keep=file.write,
                show=show,
            )
    except BenchmarkError as error:
        reason = str(error)
        say(f"{suite.title}: REFUSED. {reason}")
    file.write(
        SuiteRecord(
            run=run,
            suite=suite.name,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - begun, 1),
            refused=reason,
        )
    )
    return reason is None


def _one_line(turn: Turn, record: CellRecord) -> str:
    figures = "  ".join(
        f"{name} {value:,.2f}" if value < 100 else f"{name} {value:,.0f}"
        for name, value in record.figures.items()
        if name not in {"errors", "events", "p999_milliseconds", "max_milliseconds"}
    )
    used = " ".join(f"{role} {value:.1f}" for role, value in record.cpu_seconds.items() if value)
    marks = "".join(f"  DISTURBED: {reason}" for reason in record.disturbed)
    again = " (again)" if turn.repeated else ""
    return f"{record.cell}{again}  {figures}  [CPU s: {used}]{marks}"


def _command(options: argparse.Namespace) -> str:
    parts = ["python3", "tasks.py", "bench"]
    parts += ["--quick"] if options.quick else []
    parts += ["--only", *options.only] if options.only else []
    parts += ["--rounds", str(options.rounds)] if options.rounds else []
    parts += ["--seconds", str(options.seconds)] if options.seconds else []
    return shlex.join(parts)


def _wrk_version() -> str:
    # It ends with 1 when asked for its version.
    done = subprocess.run([wrk.program(), "-v"], capture_output=True, text=True, check=False)
    words = (done.stdout or done.stderr).split()
    return words[1] if len(words) > 1 else "unknown"


@contextlib.contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """An empty folder that PostgreSQL's user may pass through; removed afterwards.

    Raises BenchmarkError where none can be made.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="counterfoil-bench-", dir=parent))
    except OSError as error:
        raise BenchmarkError(
            f"There is no folder to be made in {parent}: {error.strerror}."
        ) from error
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _interrupted_in_order() -> Iterator[None]:
    """Make SIGTERM unwind the stack as Ctrl-C does, so that servers and files are put away."""

    def on_terminate(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, on_terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
