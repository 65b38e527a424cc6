"""The watcher: ends a PostgreSQL server whose owner died without stopping it.

Theory of operation. A process that is killed with SIGKILL can do nothing any more, and
Linux and macOS share no way to make a child die with its parent. But the kernel closes
every file of a dead process. So the owner keeps the write end of a pipe open, and this
program, started beside the server, blocks in a read on the other end:

- a byte arrives: the owner has stopped the server itself. Nothing is left to do.
- end of file: the owner is gone. The server is told to stop and its socket folder is
  removed.

The server is found through ``postmaster.pid`` in its data folder, and taken for ours only
if it listens in the socket folder that was made for this one owner. So there is no moment
in which a server runs that the watcher could not find, however early the owner dies.

Run by path, ``python -I -S watcher.py PGDATA SOCKET_DIR``, with the pipe as standard
input: it imports nothing but the standard library, and so starts in a moment.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FAST_STOP_SECONDS_MAX: Final = 20.0
"""How long a fast shutdown (its checkpoint) may take before it is cut short."""

IMMEDIATE_STOP_SECONDS_MAX: Final = 5.0
"""How long an immediate shutdown may take before the server is killed."""

APPEAR_SECONDS_MAX: Final = 5.0
"""How long a server that was just started may take to write where it listens."""

POLL_SECONDS: Final = 0.02
"""The server of a dead owner is no child of ours, so its end can only be polled for."""


@dataclass(frozen=True, slots=True)
class Postmaster:
    """What ``postmaster.pid`` says about a server. ``status`` is ``ready`` in the end."""

    pid: int
    socket_dir: str
    status: str


def read_postmaster(pgdata: Path) -> Postmaster | None:
    """The server that ``postmaster.pid`` names, alive or not; None without such a file.

    Fields that the server has not written yet are empty.
    """
    try:
        lines = (pgdata / "postmaster.pid").read_text(encoding="utf-8", errors="replace")
        # pid, data folder, start time, port, socket folder, address, shared memory, status
        fields = [line.strip() for line in lines.splitlines()]
        pid = int(fields[0])
    except (FileNotFoundError, IndexError, ValueError):
        return None
    fields += [""] * 8
    return Postmaster(pid, fields[4], fields[7])


def serves(pid: int, pgdata: Path) -> bool:
    """Whether this process is a live PostgreSQL on ``pgdata``, and not one that got its id.

    A server works in its data folder (Linux), and carries it in its arguments (macOS).
    """
    if Path("/proc/self").exists():
        try:
            return Path(f"/proc/{pid}/cwd").readlink() == pgdata.resolve()
        except OSError:  # no such process, a dead one not yet waited for, or another user's
            return False
    listing = subprocess.run(
        ["/bin/ps", "-ww", "-o", "stat=,command=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return bool(listing) and not listing.startswith("Z") and str(pgdata) in listing


def stop_postmaster(pid: int, pgdata: Path) -> bool:
    """Stop a server that is no child of ours: fast, then immediately, then by force.

    True when it is gone. Each step is bounded; a crash is what the last two look like to
    the data, and PostgreSQL recovers from it at the next start.
    """
    for number, seconds in (
        (signal.SIGINT, FAST_STOP_SECONDS_MAX),
        (signal.SIGQUIT, IMMEDIATE_STOP_SECONDS_MAX),
        (signal.SIGKILL, IMMEDIATE_STOP_SECONDS_MAX),
    ):
        if not serves(pid, pgdata):
            return True
        os.kill(pid, number)
        if wait_until(lambda: not serves(pid, pgdata), seconds):
            return True
    return False


def wait_until(holds: Callable[[], bool], seconds: float) -> bool:
    """Poll until ``holds()`` is true; False when it was not within ``seconds``."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def main(pgdata: Path, socket_dir: Path) -> None:
    """Wait for the owner to say good-bye or to die, and in the second case clean up."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # whoever stops everything stops the owner too
    if os.read(0, 1):
        return

    def ours() -> Postmaster | None:
        found = read_postmaster(pgdata)
        return found if found is not None and found.socket_dir == str(socket_dir) else None

    if wait_until(lambda: ours() is not None, APPEAR_SECONDS_MAX):
        found = ours()
        if found is not None:
            stop_postmaster(found.pid, pgdata)
    shutil.rmtree(socket_dir, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
