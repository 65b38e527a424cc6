"""Trying a mutant: a copy of the tree, the mistake in it, and the tests that must notice."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.mutants import verdict
from tests.mutants.patches import ROOT, Patch
from tests.support.cluster import EXTERNAL

TRIAL_SECONDS_MAX: Final = 120.0
"""What a trial may take. Every wait of a test is bounded far below, so this is a hang."""

STOP_SECONDS_MAX: Final = 30.0
"""What it may take to give back what it holds, when it has to be stopped."""

UNCHANGED_SECONDS_MAX: Final = 900.0
"""What the named tests may take together where nothing is wrong."""

TEST_SECONDS_MAX: Final = 40
"""What one test of it may take."""

WAIT_SECONDS_MAX: Final = 10.0
"""How long a test waits for what does not come. The unchanged source is run with it too."""

_COPIED: Final = ("src", "tests", "pyproject.toml")

# Only what the tests use: the others cost a second at each start.
_PYTEST: Final = (
    *(sys.executable, "-m", "pytest"),
    *("-p", "anyio", "-p", "timeout", "-p", "xdist", "-p", "no:cacheprovider"),
    *("-p", verdict.__name__, "-q", "--no-header", "--tb=line"),
    f"--timeout={TEST_SECONDS_MAX}",
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a mutant.

    ``fate`` is a sentence: the test that killed it, or why it lives on.
    """

    patch: Patch
    killed: bool
    fate: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Run:
    """A run of pytest: its exit code, or None where it had to be stopped, and what it said."""

    code: int | None
    output: str


@contextmanager
def copied_tree() -> Iterator[Path]:
    """A copy of what the tests need, compiled files included: they are checked by time."""
    with tempfile.TemporaryDirectory(prefix="counterfoil-mutant-") as folder:
        tree = Path(folder) / "tree"
        for name in _COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, tree / name)
            else:
                shutil.copy2(source, tree / name)
        yield tree


def run_tests(
    tree: Path, database_url: str, tests: Sequence[str], *options: str, seconds_max: float
) -> Run:
    """Run these tests in a tree, against a server that is there already."""
    with subprocess.Popen(
        [*_PYTEST, *options, *tests],
        cwd=tree,
        env=_environment(tree, database_url),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=seconds_max)
        except subprocess.TimeoutExpired:
            # As Ctrl-C does: pytest then ends the services that its fixtures have started.
            process.send_signal(signal.SIGINT)
            try:
                output, _ = process.communicate(timeout=STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                output, _ = process.communicate()
            return Run(None, output)
    return Run(process.returncode, output)


def failures(tree: Path) -> list[Mapping[str, object]]:
    """How the tests of the last run in a tree failed; see ``verdict``."""
    file = tree / _VERDICT
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def try_mutant(patch: Patch, database_url: str) -> Outcome:
    """Make the mistake, and run the tests that must notice.

    Raises UnusablePatchError where the mistake cannot be made any more.
    """
    started = time.monotonic()
    with copied_tree() as tree:
        patch.apply(tree)
        run = run_tests(
            tree, database_url, patch.killed_by, "--exitfirst", seconds_max=TRIAL_SECONDS_MAX
        )
        killed, fate = _judge(run, failures(tree))
    return Outcome(patch, killed, fate, time.monotonic() - started)


_VERDICT: Final = "verdict.jsonl"


def _judge(run: Run, failed: list[Mapping[str, object]]) -> tuple[bool, str]:
    """Whether the mutant was killed, and how."""
    for failure in failed:
        if failure["asserted"]:
            return True, str(failure["test"]).rpartition("::")[2]
    if failed:
        return False, f"fails, but not by an assertion: {failed[0]['error']}"
    if run.code is None:
        return False, "hangs, and so no assertion noticed it"
    if run.code == 0:
        return False, "SURVIVES: its tests pass"
    return False, f"its tests could not be run:\n{run.output[-2_000:]}"


def _environment(tree: Path, database_url: str) -> dict[str, str]:
    return {
        **os.environ,
        EXTERNAL: database_url,
        verdict.FILE: str(tree / _VERDICT),
        "PYTHONPATH": str(tree / "src"),  # before the project that is installed
        "COUNTERFOIL_TEST_WAIT_SECONDS": str(WAIT_SECONDS_MAX),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
