"""The command line as its users have it: a process of its own, its output, its exit code."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from tests.support.waiting import WAIT_SECONDS_MAX

_OURS: Final = ("API_KEY", "DATABASE_URL", "COUNTERFOIL_", "PROMETHEUS_")

PROGRAM: Final = (sys.executable, "-m", "counterfoil.cli")


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without what configures Counterfoil, and what is given."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    # Wide, so that no sentence that is looked for is broken in two; and without colours.
    return {**inherited, "COLUMNS": "200", "TERM": "dumb", **given}


def counterfoil(
    *arguments: str, stdin: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end; no stack trace may be seen, whatever it was called with."""
    return to_its_end(PROGRAM, *arguments, stdin=stdin, **variables)


def to_its_end(
    program: tuple[str, ...], *arguments: str, stdin: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """The same with another way to start it."""
    ended = subprocess.run(
        [*program, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        env=environment(variables),
        timeout=WAIT_SECONDS_MAX,
        check=False,
    )
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended


@contextmanager
def started(*arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Start a command that runs until it is stopped; killed with all it started, if need be."""
    with subprocess.Popen(
        [*PROGRAM, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(variables),
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def ending(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait until the command has ended; its exit code, and what it said on standard error."""
    _, errors = process.communicate(timeout=WAIT_SECONDS_MAX)
    assert "Traceback" not in errors, errors
    return process.returncode, errors
