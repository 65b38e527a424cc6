"""Servers of others that a subject starts: waiting until they listen, and stopping them."""

import socket
import subprocess
import time
from pathlib import Path
from typing import Final

from benchmarks.harness.model import BenchmarkError

START_SECONDS_MAX: Final = 60.0
"""How long a server may take until it listens."""

STOP_SECONDS_MAX: Final = 30.0
"""How long a server may take to stop before it is killed."""

POLL_SECONDS: Final = 0.05


def wait_until_it_listens(
    process: subprocess.Popen[bytes], port: int, *, name: str, log: Path
) -> None:
    """Wait until a server takes connections on a port of this machine.

    Raises ``BenchmarkError`` with the end of its log where it does not start.
    """
    deadline = time.monotonic() + START_SECONDS_MAX
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(POLL_SECONDS)
        else:
            return
    raise BenchmarkError(f"{name} does not start:\n{log.read_text()[-1000:]}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a server to stop, and kill it where it does not."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
