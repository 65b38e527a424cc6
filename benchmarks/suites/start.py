"""Start: from the command to ready, an idle worker's memory, the import of the client."""

import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.harness import memory
from benchmarks.harness.model import BenchmarkError, Cell, Effort, Stage
from benchmarks.subjects import counterfoil

DEV_FIRST: Final = "start/dev/first"
DEV_LATER: Final = "start/dev/later"
IDLE_WORKER: Final = "start/idle-worker"
IMPORT: Final = "start/import-client"

START_SECONDS_MAX: Final = 60.0
STOP_SECONDS_MAX: Final = 60.0

IMPORTS: Final = 7
"""Fresh processes of each kind; their median counts."""

QUIET_SECONDS: Final = 2.0
"""How long a worker is left alone before its memory is looked at."""


class Start:
    """How long it takes to begin, and what it takes to wait.

    ``first`` starts on a folder that does not exist, and makes a database cluster there;
    ``later`` starts on that cluster again. Both run the command itself, the start of its Python
    included, until it says that it is ready; the files of both have been read before (by the
    run's own server), as on any machine where something was installed just now.
    """

    name: Final = "start"
    title: Final = "Start"
    doors: Final[Mapping[str, str]] = {}

    def cell_ids(self, *, quick: bool) -> Sequence[str]:  # noqa: ARG002 - the same in both
        """All of them take seconds."""
        return [DEV_FIRST, DEV_LATER, IDLE_WORKER, IMPORT]

    def effort(self, cell_id: str, *, quick: bool) -> Effort:  # noqa: ARG002 - all alike
        """Enough for a median; each run takes as long as it takes."""
        return Effort(rounds=1 if quick else 5, seconds=0.0, around_seconds=4.0)

    def opening_seconds(self, *, quick: bool) -> float:  # noqa: ARG002 - the same
        """Nothing to speak of."""
        return 1

    @contextmanager
    def open(self, stage: Stage) -> Iterator[Sequence[Cell]]:
        """A folder for ``dev``; what is needed is started in the runs."""
        folder = stage.folder / "dev"
        runs: dict[str, Callable[[float], Mapping[str, float]]] = {
            DEV_FIRST: partial(_first, folder),
            DEV_LATER: partial(_later, folder),
            IDLE_WORKER: partial(_idle_worker, stage),
            IMPORT: _import_client,
        }
        try:
            yield [Cell(cell, run) for cell, run in runs.items() if stage.wants(cell)]
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _first(folder: Path, _seconds: float) -> Mapping[str, float]:
    shutil.rmtree(folder, ignore_errors=True)
    return {"seconds": _dev(folder)}


def _later(folder: Path, _seconds: float) -> Mapping[str, float]:
    if not folder.exists():
        _dev(folder)
    return {"seconds": _dev(folder)}


def _dev(folder: Path) -> float:
    """Start ``counterfoil dev``, wait until it is ready, stop it; returns seconds to ready."""
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "counterfoil.cli", "dev", "--port", "0", "--data-dir", folder],
        env=_plain_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is ours to answer
    )
    assert process.stdout is not None
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            heard = selector.select(START_SECONDS_MAX)
        ready = time.monotonic()
        line = process.stdout.readline() if heard else b""
        if b"ready at http://" not in line:
            raise BenchmarkError(f"`counterfoil dev` does not get ready; it says {line!r}.")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(STOP_SECONDS_MAX)
        process.stdout.close()
    if process.returncode:
        raise BenchmarkError(f"`counterfoil dev` ended with {process.returncode}.")
    return ready - begun


def _idle_worker(stage: Stage, _seconds: float) -> Mapping[str, float]:
    """A service of one worker that was asked nothing but whether it is ready."""
    with counterfoil.opened(stage, "start_idle", workers=1) as subject:
        time.sleep(QUIET_SECONDS)
        found = memory.of_tree(subject.service.pid)
    return {"rss_bytes": float(found.rss), "pss_bytes": float(found.pss)}


def _import_client(_seconds: float) -> Mapping[str, float]:
    """``import counterfoil`` in a fresh process, beside one that imports nothing."""
    bare, with_client = [], []
    for _ in range(IMPORTS):
        bare.append(_python("pass"))
        with_client.append(_python("import counterfoil"))
    return {
        "python_seconds": median(bare),
        "with_client_seconds": median(with_client),
        "import_seconds": median(with_client) - median(bare),
    }


def _python(statement: str) -> float:
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", statement], check=True, env=_plain_environment())
    return time.monotonic() - begun


def _plain_environment() -> dict[str, str]:
    """The environment without what would change the service."""
    ours = ("API_KEY", "DATABASE_URL", "COUNTERFOIL_", "PROMETHEUS_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}
