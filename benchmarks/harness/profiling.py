"""Profiles of one cell: where a worker, and where PostgreSQL, spend the time.

Three samplers look on from outside while the cell runs once:

* ``py-spy`` reads the stacks of one worker, the busiest process of the service;
* ``pg_stat_statements`` sums up each statement, those inside of functions too;
* ``pg_stat_activity`` is asked many times a second what each session waits for.

They use processors that the cell could use, so its figures are lower than those of a
measurement, and are never reported as one.
"""

import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

from benchmarks.harness import cpu
from benchmarks.harness.model import BenchmarkError, Cell, Cluster
from counterfoil.server.db import sqlfile

SETTINGS: Final[Mapping[str, str]] = {
    "shared_preload_libraries": "pg_stat_statements",
    "pg_stat_statements.track": "all",
}
"""What the server has to be started with."""

HERTZ: Final = 100
"""How often stacks and sessions are looked at."""

WARM_UP_SECONDS: Final = 2.0
"""A run before the one that counts, which shows who is the busiest."""

STATEMENTS: Final = 15
QUERY_CHARACTERS_MAX: Final = 400

_STOP_SECONDS_MAX: Final = 30

_SQL = sqlfile.load("benchmarks.harness", "profiling.sql")


@dataclass(frozen=True, slots=True)
class Profile:
    """What was seen of one run.

    Attributes:
        cell: whose run it was.
        at: when, in UTC.
        seconds: how long it took with its warm-up; what the CPU seconds belong to.
        figures: the cell's own, with the samplers at work beside it.
        cpu_seconds: by role; the samplers are part of ``client``.
        waits: sessions at work on average, by what they waited for.
        statements: the costliest, as ``profiling.sql`` names their values.
        stacks: samples by stack, its frames joined by semicolons; empty: no service ran.
    """

    cell: str
    at: str
    seconds: float
    figures: Mapping[str, float]
    cpu_seconds: Mapping[str, float]
    waits: Mapping[str, float]
    statements: Sequence[Mapping[str, Any]]
    stacks: Mapping[str, int]


def record(cell: Cell, cluster: Cluster, folder: Path, seconds: float) -> Profile:
    """Run the cell once under the samplers, after a short run without.

    Raises:
        BenchmarkError: as the cell does, or a sampler does not work.
    """
    roles = cell.roles()
    before = cpu.processes_below(roles.get("service", ()))
    cell.prepare(WARM_UP_SECONDS)
    cell.run(WARM_UP_SECONDS)
    worker = busiest(before, cpu.processes_below(roles.get("service", ())))
    cell.prepare(seconds)
    stacks = folder / "stacks.folded"
    waits: Counter[str] = Counter()
    at = datetime.now(UTC)
    with psycopg.connect(
        cluster.url("postgres"), autocommit=True, row_factory=dict_row
    ) as connection:
        connection.execute(_SQL["extension"])
        connection.execute(_SQL["reset"])
        used_before = cpu.snapshot(roles)
        with ExitStack() as samplers:
            samplers.enter_context(_waits(cluster.url("postgres"), waits))
            if worker is not None:
                samplers.enter_context(_stacks(worker, stacks))
            figures = cell.run(seconds)
        used = cpu.usage(used_before, cpu.snapshot(roles))
        statements = connection.execute(_SQL["statements"], {"count": STATEMENTS}).fetchall()
    looks = waits.pop("", 0) or 1
    return Profile(
        cell=cell.id,
        at=at.isoformat(timespec="seconds"),
        seconds=round(used.seconds, 3),
        figures={name: round(value, 6) for name, value in figures.items()},
        cpu_seconds={role: round(value, 2) for role, value in used.cpu_seconds.items()},
        waits={event: round(count / looks, 3) for event, count in waits.most_common()},
        statements=[{**each, "query": each["query"][:QUERY_CHARACTERS_MAX]} for each in statements],
        stacks=parse_folded(stacks.read_text()) if worker is not None else {},
    )


def busiest(before: Mapping[int, float], after: Mapping[int, float]) -> int | None:
    """The process that used most CPU time from one look to the next; None: there is none."""
    used = {pid: seconds - before.get(pid, 0.0) for pid, seconds in after.items()}
    return max(used, key=lambda pid: used[pid]) if used else None


def parse_folded(text: str) -> dict[str, int]:
    """Samples by stack, of lines that end with their number.

    Looks that came while the stack was changing have none, and are left out.
    """
    found: Counter[str] = Counter()
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        if stack:
            found[stack] += int(count)
    return dict(found)


@contextmanager
def _stacks(pid: int, path: Path) -> Iterator[None]:
    """Sample a process while the block runs; its stacks are in the file afterwards."""
    command: list[str | Path] = [Path(sys.executable).with_name("py-spy"), "record"]
    command += ["--pid", str(pid), "--rate", str(HERTZ), "--duration", "unlimited"]
    # By functions, not lines; and without stopping the process for each look.
    command += ["--format", "raw", "--function", "--nonblocking", "--output", path]
    try:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # Ctrl-C is ours to answer
        )
    except FileNotFoundError as error:
        raise BenchmarkError(
            "py-spy is not there; `python3 tasks.py bench` installs it."
        ) from error
    try:
        yield
    finally:
        # An interrupt is how it is told to write what it has.
        process.send_signal(signal.SIGINT)
        try:
            said, _ = process.communicate(timeout=_STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
    if process.returncode or not path.is_file():
        raise BenchmarkError(
            "py-spy could not look into the worker. It may need the right to trace processes "
            f"(root, or kernel.yama.ptrace_scope = 0). It says: {said.strip()[-500:]}"
        )


@contextmanager
def _waits(url: str, waits: Counter[str]) -> Iterator[None]:
    """Count what sessions wait for while the block runs; under the empty name, the looks."""
    ended = threading.Event()
    failures: list[psycopg.Error] = []

    def look() -> None:
        try:
            with psycopg.connect(url, autocommit=True) as connection:
                while not ended.wait(1 / HERTZ):
                    waits[""] += 1
                    for event, sessions in connection.execute(_SQL["waits"], prepare=True):
                        waits[event] += sessions
        except psycopg.Error as error:
            failures.append(error)

    thread = threading.Thread(target=look, name="wait events")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if failures:
        raise BenchmarkError(f"PostgreSQL's sessions could not be looked at: {failures[0]}")
