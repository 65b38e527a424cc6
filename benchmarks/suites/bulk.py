"""Bulk loads: a file of events through ``counterfoil import``, beside COPY into the same tables."""

import itertools
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.harness import work
from benchmarks.harness.model import BenchmarkError, Cell, Effort, Stage, counted
from benchmarks.harness.service import API_KEY
from benchmarks.subjects import copying, counterfoil
from benchmarks.subjects.counterfoil import CounterfoilSubject
from counterfoil.server.core import limits

IMPORT_SECONDS_MAX: Final = 900.0
"""How long one import may take."""

IMPORTED_PER_SECOND: Final = 20_000
"""About how fast it goes, for the plan."""

ROWS: Final = limits.BATCH_EVENTS_MAX
"""Events in one batch, of the import as of COPY."""


@dataclass(frozen=True, slots=True)
class Load:
    """One cell."""

    subject: str
    events: int
    connections: int

    @property
    def cell_id(self) -> str:
        """``bulk/import/1000000-events/4-connections``, ``bulk/copy/4-connections``."""
        events = f"{self.events}-events/" if self.events else ""
        return f"bulk/{self.subject}/{events}{counted(self.connections, 'connection')}"


def loads(*, quick: bool) -> list[Load]:
    """The import with as many connections as the goal for batches, and with the default of one.

    None in the short run: no goal needs them.
    COPY goes on for as long as any other cell: its rate does not hang on how much is copied.
    """
    if quick:
        return []
    return [
        Load("import", 1_000_000, 4),
        Load("import", 200_000, 1),
        Load("copy", 0, 4),
        Load("copy", 0, 1),
    ]


class Bulk:
    """How long a file takes, from the start of the command to its end, once and whole.

    The command judges every line, cuts batches of a thousand, and sends each under a key of
    its own; the service judges again, and keeps keys, tags and digests. COPY does none of this:
    the server reads ready-made rows from its own disk.
    """

    name: Final = "bulk"
    title: Final = "Bulk loads"
    doors: Final[Mapping[str, str]] = {}

    def cell_ids(self, *, quick: bool) -> Sequence[str]:
        """The import and COPY, with one connection and with four."""
        return [load.cell_id for load in loads(quick=quick)]

    def effort(self, cell_id: str, *, quick: bool) -> Effort:  # noqa: ARG002 - none in the short run
        """Few rounds: a million events are an average by themselves."""
        _, subject, size, *_ = cell_id.split("/")
        if subject == "copy":
            return Effort(rounds=2, seconds=4.0, around_seconds=3.0)
        events = int(size.partition("-")[0])
        return Effort(rounds=2, seconds=0.0, around_seconds=events / IMPORTED_PER_SECOND)

    def opening_seconds(self, *, quick: bool) -> float:  # noqa: ARG002 - the same
        """Writing the files, and checking a book of millions."""
        return 45

    @contextmanager
    def open(self, stage: Stage) -> Iterator[Sequence[Cell]]:
        """A service of two workers on an empty book, and a second book for COPY."""
        wanted = [load for load in loads(quick=stage.quick) if stage.wants(load.cell_id)]
        cells: list[Cell] = []
        with ExitStack() as opened:
            imports = [load for load in wanted if load.subject == "import"]
            if imports:
                subject = opened.enter_context(counterfoil.opened(stage, "bulk", workers=2))
                numbers = itertools.count()
                for load in imports:
                    stage.say(f"writing a file of {load.events:,} events")
                    file = _write(stage.folder / f"bulk-{load.events}.ndjson", load.events)
                    run = partial(_import, subject, file, load, numbers)
                    cells.append(Cell(load.cell_id, run, subject.roles))
            copies = [load for load in wanted if load.subject == "copy"]
            if copies:
                tables = opened.enter_context(copying.opened(stage, "bulk_copy"))
                for load in copies:
                    copy = partial(tables.copy_batches, clients=load.connections, rows=ROWS)
                    cells.append(Cell(load.cell_id, copy, tables.roles))
            yield cells


def _write(path: Path, events: int) -> Path:
    """A file of the work, one event a line."""
    with path.open("w") as file:
        for event in work.events(count=events, series=path.stem):
            file.write(json.dumps(event.body(), separators=(",", ":")) + "\n")
    return path


def _import(
    subject: CounterfoilSubject,
    file: Path,
    load: Load,
    numbers: Iterator[int],
    _seconds: float,
) -> Mapping[str, float]:
    """Run the command on the file, under a name that no import had before.

    Raises:
        BenchmarkError: it failed, or the book did not grow by just as many events.
    """
    name = f"import-{next(numbers)}"
    command = [sys.executable, "-m", "counterfoil.cli", "import", str(file), "--as", name]
    command += ["--connections", str(load.connections), "--base-url", subject.service.url]
    command += ["--state", str(file.with_name(f"{name}.state"))]
    before = subject.head()
    begun = time.monotonic()
    done = subprocess.run(
        command,
        env={**os.environ, "COUNTERFOIL_API_KEY": API_KEY},
        capture_output=True,
        text=True,
        check=False,
        timeout=IMPORT_SECONDS_MAX,
    )
    seconds = time.monotonic() - begun
    grown = subject.head() - before
    if done.returncode or grown != load.events:
        raise BenchmarkError(
            f"The import ended with {done.returncode} and wrote {grown:,} of {load.events:,} "
            f"events. It says: {done.stderr.strip()[-1000:]}"
        )
    subject.book.add(acknowledged=grown, keys=math.ceil(grown / ROWS))
    return {
        "events_per_second": grown / seconds,
        "seconds": seconds,
        "events": float(grown),
        "errors": 0.0,
    }
