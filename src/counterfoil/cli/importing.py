"""``import``: a file of events into the book, every line of it once.

What makes it so is in ``counterfoil.client.importing``; here are the file, the progress that
is kept beside it and shown, and what is said when it ends.
"""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import Annotated, BinaryIO, Final

import typer

from counterfoil import AsyncCounterfoil, CounterfoilError, IdempotencyMismatch, OutcomeUnknown
from counterfoil.cli import arguments
from counterfoil.cli.exits import ExitCode, Failure, Misused, failure_of
from counterfoil.cli.import_progress import Meter, StateFile, shown_progress
from counterfoil.cli.output import Format, print_json, print_line, remark, visible
from counterfoil.client.async_importing import IMPORT_RETRIES_MAX, book_of, send
from counterfoil.client.calls import MAX_RETRIES_DEFAULT
from counterfoil.client.importing import (
    Book,
    Cutter,
    FileChanged,
    Import,
    LineFault,
    LineRefused,
    check_ahead,
)
from counterfoil.client.standing import Standing

STATE_SUFFIX: Final = ".import.json"

CONNECTIONS_MAX: Final = 64

_READ_BYTES: Final = 1024 * 1024
_FAULTS_SHOWN_MAX: Final = 20

_AGAIN: Final = "Run the same command again: it goes on where it was, and writes nothing twice."


def import_(
    file: Annotated[
        str, typer.Argument(help="Events as JSON, one a line; - is standard input.", metavar="FILE")
    ],
    *,
    connections: Annotated[
        int,
        typer.Option(
            "--connections",
            "-c",
            metavar="N",
            min=1,
            max=CONNECTIONS_MAX,
            help="Batches on their way at a time. With more than 1 it is faster, and batches "
            "may change places in the book.",
        ),
    ] = 1,
    name: Annotated[
        str,
        typer.Option(
            "--as",
            metavar="NAME",
            help="Under a name, a file that was imported before is another import.",
        ),
    ] = "",
    state: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help=f"Where progress is kept. [default: FILE{STATE_SUFFIX}]"),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only look the file over; nothing is sent.")
    ] = False,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """Write a file of events into the book, every line of it once.

    Each line is an event as `POST /events` takes it. They go in batches of up to 1,000 lines,
    each written whole or not at all, in the order of the file. Interrupted in whatever way,
    the same command goes on where it was. A line that is refused is named, and nothing behind
    it is begun; mend it, and run the command again.

    For example:

        counterfoil import events.ndjson

        counterfoil import events.ndjson --connections 4

        zcat events.ndjson.gz | counterfoil import - --state events.state
    """
    with _opened(file) as source:
        if check:
            _look_over(source, output)
            return
        place = StateFile(state if state or file == "-" else Path(file + STATE_SUFFIX))
        run = _Run(file, source, place, name=name, connections=connections, output=output)
        try:
            asyncio.run(run.run(base_url, api_key))
        except KeyboardInterrupt:
            remark(f"Interrupted. {run.where()} {_AGAIN}")
            raise
        except _Terminated:
            remark(f"Stopped. {run.where()} {_AGAIN}")
            raise typer.Exit(ExitCode.TERMINATED) from None
        except LineRefused as refusal:
            raise run.refused(refusal) from None
        except FileChanged as changed:
            raise run.changed(changed) from None
        except CounterfoilError as error:
            if not run.begun:
                raise
            raise run.broken_off(error) from None
        run.done()


class _Terminated(Exception):
    """SIGTERM has come."""


class _Run:
    """One run of the command."""

    def __init__(
        self,
        file: str,
        source: BinaryIO,
        place: StateFile,
        *,
        name: str,
        connections: int,
        output: Format,
    ) -> None:
        self._file = "standard input" if file == "-" else file
        self._source = source
        self._place = place
        self._name = name
        self._connections = connections
        self._output = output
        self._work: Import | None = None
        self._standing = Standing(incarnation="", name=name)
        self._started = monotonic()
        self._progress: Meter | None = None

    @property
    def begun(self) -> bool:
        """Whether it has come as far as to send something."""
        return self._work is not None

    async def run(self, base_url: str | None, api_key: str | None) -> None:
        """Do it.

        Raises:
            CounterfoilError: it could not be done to its end.
        """
        kept = self._place.load()
        # Whether anybody is there is found out at once, not after minutes of patience.
        async with _connected(base_url, api_key, MAX_RETRIES_DEFAULT) as cf:
            book = await book_of(cf)
        self._standing = self._begun_with(kept, book)
        if self._standing.ahead and self._source.seekable():
            check_ahead(self._source, self._standing)
            self._source.seek(0)
        work = self._work = Import(self._source, self._standing, self._acknowledged)
        with shown_progress(self._source, work) as self._progress:
            try:
                async with (
                    _connected(base_url, api_key, IMPORT_RETRIES_MAX, self._progress) as cf,
                    _cancelled_by_sigterm(),
                ):
                    await send(cf, work, connections=self._connections)
                    if not (await book_of(cf)).holds(work.standing):
                        raise Failure(
                            "The book was restored from a backup in the meantime, and may have "
                            f"lost a part of this. {_AGAIN}"
                        )
            finally:
                self._place.save(work.standing)

    def where(self) -> str:
        """Which lines are in the book by now."""
        parts = self._now.written_lines
        if not parts:
            return "Nothing is known to be in the book yet."
        return f"In the book: lines {_listed(parts)}."

    def broken_off(self, error: CounterfoilError) -> Failure:
        """Say why it came to an end that has nothing to do with the file."""
        failure = failure_of(error)
        message = failure.message
        if isinstance(error, OutcomeUnknown):
            # Its own way out is the key, which the same command sends by itself.
            message = f"It is not known whether the last lines were written: {error.__cause__}"
        return Failure(f"{message}\n{self.where()} {_AGAIN}", failure.code)

    def refused(self, refusal: LineRefused) -> Failure:
        """Say which lines cannot be written, and how to go on."""
        faults = refusal.faults[:_FAULTS_SHOWN_MAX]
        batch = (refusal.first_line, refusal.last_line)
        if self._output is Format.JSON:
            print_json(
                {
                    "status": "refused",
                    "errors": _as_json(faults),
                    "batch": batch,
                    "written_lines": self._now.written_lines,
                }
            )
        told = _told(faults)
        if batch[0] != batch[1]:
            told += f"\nLines {_listed([batch])} are one batch: none of them was written."
        keep = ""
        if self._now.ahead:
            keep = (
                ", keeping those lines as they are, and every line at its number (empty a line to "
                "leave it out)"
            )
        elif self._now.lines:
            keep = ", keeping those lines as they are"
        return Failure(
            f"{told}\n{self.where()} Mend the file{keep}; then run the same command again."
        )

    def changed(self, changed: FileChanged) -> Failure:
        """Say that what is written and what stands in the file are two things."""
        lines = f"Lines {_listed([(changed.first_line, changed.last_line)])} of {self._file}"
        if isinstance(changed.__cause__, IdempotencyMismatch):
            found = (
                f"{lines} were imported before with other content: from a file that begins alike, "
                "or from this one before it was changed, or before it grew."
            )
            other, back = "--as NAME", ", or the progress file if that is lost"
        else:
            found = f"{lines} are in the book, and are no longer what they were."
            other, back = "--as NAME and --state FILE", ""
        return Failure(
            f"{found} None of them was sent. {self.where()}\nIf this is another file, import it "
            f"under a name of its own: {other}. If not, put these lines back{back}: what is "
            "written stays as it is."
        )

    def done(self) -> None:
        """Print what it came to."""
        assert self._work is not None
        standing, written, known = self._now, self._work.written, self._work.already_there
        seconds = monotonic() - self._started
        rate = round(written / seconds)
        first_id, last_id = standing.ids or (None, None)
        if self._output is Format.JSON:
            print_json(
                {
                    "status": "imported",
                    "events": written + known,
                    "written": written,
                    "already_there": known,
                    "lines": self._work.lines_read,
                    "first_id": first_id,
                    "last_id": last_id,
                    "seconds": round(seconds, 3),
                    "events_per_second": rate,
                }
            )
            return
        ids = f"ids {first_id:,} to {last_id:,}" if first_id and last_id else ""
        took = f"{seconds:,.1f} s, {rate:,} events/s"
        if not written + known:
            print_line(f"There is no event in {visible(self._file)}.")
        elif not written:
            print_line(f"Nothing to do: all {known:,} events were there already, {ids}.")
        else:
            before = f", {known:,} were there already" if known else ""
            print_line(f"Imported {written:,} events{before}: {ids}; {took}.")

    @property
    def _now(self) -> Standing:
        return self._standing if self._work is None else self._work.standing

    def _acknowledged(self) -> None:
        assert self._progress is not None
        self._progress.update()
        self._place.save(self._now, now=False)

    def _begun_with(self, kept: Standing | None, book: Book) -> Standing:
        fresh = Standing(incarnation=book.incarnation, name=self._name)
        if kept is None:
            return fresh
        if not book.holds(kept):
            remark(
                f"The progress in {self._place.path} is another book's, or from before this one "
                "was restored. Everything is sent; what the book has, it takes once."
            )
            return fresh
        if kept.name != self._name:
            raise Misused(
                f"{self._place.path} is the progress of the import "
                f"{'named ' + repr(kept.name) if kept.name else 'without a name'}. Give --as the "
                "same, or keep this one's progress in another place with --state."
            )
        return kept


# --- The file -------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    if file == "-":
        yield sys.stdin.buffer
        return
    try:
        source = Path(file).open("rb", buffering=_READ_BYTES)  # noqa: SIM115 - closed below
    except OSError as error:
        raise Misused(f"{file} cannot be read: {error.strerror}.") from None
    with source:
        yield source


def _look_over(source: BinaryIO, output: Format) -> None:
    """``--check``: read the file as it would be sent.

    Raises:
        Failure: there is something wrong with it.
    """
    cutter = Cutter(source, Standing(incarnation="", name=""))
    events, faults = 0, list[LineFault]()
    try:
        while len(faults) < _FAULTS_SHOWN_MAX and (batch := cutter.next()) is not None:
            events += len(batch.lines)
            faults += batch.looked_over()
    except LineRefused as refusal:
        faults += refusal.faults
    faults = faults[:_FAULTS_SHOWN_MAX]
    if output is Format.JSON:
        print_json({"status": "checked", "events": events, "errors": _as_json(faults)})
    if faults:
        more = " There may be more." if len(faults) == _FAULTS_SHOWN_MAX else ""
        raise Failure(f"{_told(faults)}\nNothing was sent.{more}")
    if output is Format.TEXT:
        print_line(
            f"{events:,} events in {cutter.lines_read:,} lines; nothing wrong that can be seen "
            "without the service."
        )


def _as_json(faults: Sequence[LineFault]) -> list[dict[str, object]]:
    return [fault._asdict() for fault in faults]


def _told(faults: Sequence[LineFault]) -> str:
    return "\n".join(
        f"Line {line:,}: {pointer + ': ' if pointer else ''}{message}"
        for line, pointer, message in faults
    )


def _listed(parts: Sequence[tuple[int, int]]) -> str:
    return ", ".join(
        f"{first:,} to {last:,}" if first != last else f"{first:,}" for first, last in parts
    )


# --- The service -----------------------------------------------


def _connected(
    base_url: str | None,
    api_key: str | None,
    max_retries: int,
    progress: Meter | None = None,
) -> AsyncCounterfoil:
    try:
        return AsyncCounterfoil(
            base_url=base_url,
            api_key=api_key,
            max_retries=max_retries,
            sleep=progress.wait if progress else None,
        )
    except ValueError as error:
        raise Misused(str(error)) from None


@contextlib.asynccontextmanager
async def _cancelled_by_sigterm() -> AsyncIterator[None]:
    """Let SIGTERM end the block in order, so that the progress is kept."""
    loop, task, came = asyncio.get_running_loop(), asyncio.current_task(), False

    def terminate() -> None:
        nonlocal came
        came = True
        assert task is not None
        task.cancel()

    loop.add_signal_handler(signal.SIGTERM, terminate)
    try:
        yield
    except asyncio.CancelledError:
        if came:
            raise _Terminated from None
        raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
