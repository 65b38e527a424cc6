"""Who used the processors: CPU seconds of process trees, from ``/proc``. Linux only.

A process's line in ``/proc/<pid>/stat`` has its own time and that of its children that
ended and were waited for. So the sum over a tree that lives grows by all that the tree used,
whoever of it came and went in between. What a process used that nobody waited for is lost;
no subject has such processes.
"""

import os
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.harness.model import BenchmarkError, Roles

CLIENT: Final = "client"
"""The benchmark's own process, and its children that are no role's."""

KERNEL: Final = "kernel"
"""Threads of the kernel: writing back, journal, interrupts. Mostly on the subjects' behalf."""

OTHERS: Final = "others"
"""Everything else on the machine."""

_KERNEL_THREADS_ROOT: Final = 2


@dataclass(frozen=True, slots=True)
class Process:
    """One process at one moment. ``cpu_seconds`` includes children that ended."""

    parent: int
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All processes at one moment, and what the hypervisor withheld until then.

    ``cpu_seconds`` by role; ``steal_seconds`` is the time in which a processor of this
    machine had work and was not given to it.
    """

    monotonic: float
    cpu_seconds: Mapping[str, float]
    steal_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used between two snapshots."""

    seconds: float
    cpu_seconds: Mapping[str, float] = field(default_factory=dict)
    steal_seconds: float = 0.0


def check_platform() -> None:
    """Raise BenchmarkError where there is no ``/proc`` to read."""
    if not sys.platform.startswith("linux"):
        raise BenchmarkError(
            "The benchmark reads CPU times from /proc, which only Linux has. Run it on Linux."
        )


def snapshot(roles: Roles) -> Snapshot:
    """Look at all processes now. The roots in ``roles`` stand for the trees below them."""
    return Snapshot(
        monotonic=time.monotonic(),
        cpu_seconds=by_role(_processes(), roles, own=os.getpid()),
        steal_seconds=_steal_seconds(),
    )


def usage(before: Snapshot, after: Snapshot) -> Usage:
    """What was used from one snapshot to the next; a role that ended counts as 0."""
    return Usage(
        seconds=after.monotonic - before.monotonic,
        cpu_seconds={
            role: max(0.0, total - before.cpu_seconds.get(role, 0.0))
            for role, total in after.cpu_seconds.items()
        },
        steal_seconds=max(0.0, after.steal_seconds - before.steal_seconds),
    )


def by_role(processes: Mapping[int, Process], roles: Roles, *, own: int) -> dict[str, float]:
    """Sum the CPU seconds of each role; the nearest root above a process decides.

    Args:
        processes: all processes by id.
        roles: root ids by role.
        own: the benchmark's own process, root of the role ``client``.
    """
    role_of = {_KERNEL_THREADS_ROOT: KERNEL, own: CLIENT}
    role_of |= {root: role for role, roots in roles.items() for root in roots}
    totals = dict.fromkeys((*roles, CLIENT, KERNEL, OTHERS), 0.0)
    for pid, process in processes.items():
        totals[_role(pid, processes, role_of)] += process.cpu_seconds
    return totals


def processes_below(roots: Iterable[int]) -> dict[int, float]:
    """The roots and all processes below them: CPU seconds by id."""
    processes = _processes()
    tree = dict.fromkeys(roots, "tree")
    return {
        pid: process.cpu_seconds
        for pid, process in processes.items()
        if _role(pid, processes, tree) == "tree"
    }


def _role(pid: int, processes: Mapping[int, Process], role_of: Mapping[int, str]) -> str:
    seen: set[int] = set()
    while pid not in seen:
        if pid in role_of:
            return role_of[pid]
        seen.add(pid)
        process = processes.get(pid)
        if process is None:
            break
        pid = process.parent
    return OTHERS


def _processes() -> dict[int, Process]:
    found: dict[int, Process] = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            line = Path(entry.path, "stat").read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        found[int(entry.name)] = parse_stat(line)
    return found


def parse_stat(line: str) -> Process:
    """Read a line of ``/proc/<pid>/stat``; the name in it may hold blanks and parentheses."""
    fields = line.rpartition(")")[2].split()
    # Behind the name: state, ppid, ... and, from the 12th on, utime stime cutime cstime.
    return Process(parent=int(fields[1]), cpu_seconds=_seconds(fields[11:15]))


def _steal_seconds() -> float:
    first = Path("/proc/stat").read_text().partition("\n")[0].split()
    return _seconds(first[8:9])


def _seconds(ticks: Iterable[str]) -> float:
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
