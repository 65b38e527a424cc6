"""The progress of an import: where it is kept between runs, and how it is shown in between."""

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import BinaryIO, Final

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from counterfoil.cli.exits import Misused
from counterfoil.cli.output import remark, remarks
from counterfoil.client.importing import Import
from counterfoil.client.standing import Standing

_SAVE_SECONDS: Final = 1.0
_REPORT_SECONDS: Final = 5.0
_STATE_BYTES_MAX: Final = 16 * 1024 * 1024
"""Far more than a standing ever takes; what is longer is another file by mistake."""


class StateFile:
    """Where the standing of an import is kept between runs; nowhere, if ``path`` is ``None``."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._failed = False
        self._saved_at = 0.0

    def load(self) -> Standing | None:
        """What was kept, if anything.

        Raises:
            Misused: the file is something else, and must not be written over.
        """
        if self.path is None:
            return None
        try:
            with self.path.open("rb") as file:
                return Standing.from_json(file.read(_STATE_BYTES_MAX))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Misused(f"{self.path} cannot be read: {error.strerror}.") from None
        except ValueError:
            raise Misused(
                f"{self.path} is not the progress of an import, and is left alone. Move it away, "
                "or name another place with --state."
            ) from None

    def save(self, standing: Standing, *, now: bool = True) -> None:
        """Keep it: at once, or if the last time is a second ago.

        A place that cannot be written to is told once. The import goes on: without its
        progress it can be repeated all the same, only not as fast.
        """
        if self.path is None or self._failed or not standing.events_written:
            return
        if not now and monotonic() - self._saved_at < _SAVE_SECONDS:
            return
        growing = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
        try:
            with growing.open("wb") as file:
                file.write(standing.to_json())
                file.flush()
                os.fsync(file.fileno())
            growing.replace(self.path)
        except OSError as error:
            self._failed = True
            with contextlib.suppress(OSError):
                growing.unlink(missing_ok=True)
            remark(
                f"Progress cannot be kept in {self.path}: {error.strerror}. Another run of this "
                "import will send everything again; it is still written once."
            )
        self._saved_at = monotonic()


class Meter:
    """How far it is, on standard error: a bar on a terminal, else a line now and then."""

    def __init__(self, bar: Progress, size_bytes: int | None, work: Import) -> None:
        self._bar = bar
        self._size_bytes = size_bytes
        self._work = work
        self._started = self._told_at = monotonic()
        self._waiting = 0
        self._task = bar.add_task("", total=size_bytes, events="", note="")
        self.update()

    def update(self) -> None:
        """Show what has come of it by now."""
        events = self._work.written + self._work.already_there
        rate = self._work.written / max(monotonic() - self._started, 0.001)
        said = f"{events:,} events, {rate:,.0f}/s"
        note = "waiting for the service" if self._waiting else ""
        done = self._work.standing.size_bytes
        self._bar.update(self._task, completed=done, events=said, note=note)
        if self._bar.disable and monotonic() - self._told_at >= _REPORT_SECONDS:
            self._told_at = monotonic()
            part = f"{100 * done // self._size_bytes} %, " if self._size_bytes else ""
            remark(f"{part}{said}{', ' + note if note else ''}")

    async def wait(self, seconds: float) -> None:
        """Wait before a batch is sent once more."""
        self._waiting += 1
        self.update()
        try:
            await asyncio.sleep(seconds)
        finally:
            self._waiting -= 1
            self.update()


@contextlib.contextmanager
def shown_progress(source: BinaryIO, work: Import) -> Iterator[Meter]:
    """Show how far ``work`` is while the block runs; of a pipe the whole is not known."""
    console = remarks()
    size_bytes = None
    with contextlib.suppress(OSError):
        size_bytes = os.fstat(source.fileno()).st_size or None
    bar = Progress(
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TextColumn("{task.fields[events]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", style="yellow"),
        console=console,
        disable=not console.is_terminal,
        transient=True,
        expand=True,
    )
    with bar:
        yield Meter(bar, size_bytes, work)
