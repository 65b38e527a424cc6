"""A file of events cut into batches that are stored once, however often it is run: no I/O.

Theory of operation
-------------------
*What makes it exactly once* is the key of each batch, and nothing else: it is made of the
import's identity (a name, and the file's first event) and of the number of the batch's first
line. The same file run again therefore sends the same keys with the same content, and the
service answers from the book what it has. Where the file has been changed in lines that are
written, the same key meets other content and is refused: never is a part of it written twice
under another key. Because refusals leave their keys free, a line that was refused can be
mended, and its batch sent under the same key.

So that a batch keeps its place, cuts do not depend on what lines hold. A batch never
reaches over a multiple of ``BATCH_LINES`` lines, empty ones counted: emptying a line moves
no cut behind it. Only ``BODY_BYTES_MAX`` can cut earlier.

*What makes going on fast* is ``Standing``: which part of the file is acknowledged, with the
digest of its bytes. That part is read and compared, not sent. Losing it costs time and
nothing more, with one exception, where it is refused rather than guessed: a file that was
imported to its end and has grown since ends in a batch that was shorter before. Only the
standing knows where it ended.

Where several batches are in flight, some may be written behind one that is refused. They are
the standing's ``ahead``; the next run cuts before and after them where they were cut.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, Protocol

from counterfoil.client.errors import CounterfoilError, InvalidRequestError, UnsendableValue
from counterfoil.client.lines import (
    BODY_BYTES_AROUND,
    WHITE_SPACE,
    read_object,
    shape_faults,
    size_in_body,
)
from counterfoil.client.model import StoredBatch
from counterfoil.client.standing import Span, Standing

BATCH_LINES: Final = 1_000
"""Lines of a batch: as many events as the service takes in one. Part of what a key means, so
that it cannot be chosen: with other cuts, the keys of an import that was begun would not fit."""

BODY_BYTES_MAX: Final = 4 * 1024 * 1024
"""The service's limit of one batch's body."""

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_PIECE_BYTES: Final = 1024 * 1024


class Readable(Protocol):
    """What an import is read from: a binary file, or anything that reads like one."""

    def readline(self, size: int, /) -> bytes:
        """Read to the end of the line, or ``size`` bytes of it."""
        ...

    def read(self, size: int, /) -> bytes:
        """Read up to ``size`` bytes."""
        ...


class Book(NamedTuple):
    """Which book is written into: its life, and its last position."""

    incarnation: str
    head: int

    def holds(self, standing: Standing) -> bool:
        """Whether what ``standing`` says is written can be written in here.

        A copy of a book, or one that was restored and not given its new incarnation, is known
        by its lack of what was written last.
        """
        ids = standing.ids or (0, 0)
        return standing.incarnation == self.incarnation and ids[1] <= self.head


class LineFault(NamedTuple):
    """What is wrong with one line. ``pointer`` leads into its event; empty: the line itself."""

    line: int
    pointer: str
    message: str


class LineRefused(CounterfoilError):
    """Lines of the file cannot be written; ``faults`` says which and why."""

    def __init__(self, faults: Sequence[LineFault], first_line: int, last_line: int) -> None:
        super().__init__("; ".join(f"line {line:,}: {why}" for line, _, why in faults))
        self.faults = tuple(faults)
        self.first_line = first_line
        self.last_line = last_line


class FileChanged(CounterfoilError):
    """Lines that are written already are not what they were. Nothing of them was sent."""

    def __init__(self, first_line: int, last_line: int) -> None:
        super().__init__(f"Lines {first_line:,} to {last_line:,} have changed.")
        self.first_line = first_line
        self.last_line = last_line


# --- Cutting --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Lines that go into the book together.

    Attributes:
        key: their idempotency key.
        lines: the events, stripped of white space around them.
        numbers: the line of each.
        first_line, last_line: all lines that it covers, empty ones included.
        sha256: of the bytes of these lines.
        end_bytes, prefix_sha256: of the file from its beginning to the batch's end.
    """

    key: str
    lines: Sequence[bytes]
    numbers: Sequence[int]
    first_line: int
    last_line: int
    sha256: str
    end_bytes: int
    prefix_sha256: str

    def faults_of(self, error: InvalidRequestError | UnsendableValue) -> list[LineFault]:
        """What a refusal of this batch says about lines of the file."""
        if isinstance(error, UnsendableValue):
            return [self._fault(error.pointer, error.reason)]
        found = [self._fault(each.pointer, each.message) for each in error.errors]
        return found or [LineFault(self.first_line, "", error.detail or error.title)]

    def looked_over(self) -> list[LineFault]:
        """What is wrong with its lines as far as the client can tell."""
        found: list[LineFault] = []
        for number, line in zip(self.numbers, self.lines, strict=True):
            try:
                event = read_object(line)
            except ValueError as fault:
                found.append(LineFault(number, "", f"A line must be one JSON object, and {fault}."))
            else:
                found.extend(LineFault(number, *fault) for fault in shape_faults(event))
        return found

    def _fault(self, pointer: str, message: str) -> LineFault:
        _, _, rest = pointer.partition("/events/")
        index, slash, inside = rest.partition("/")
        if index.isdecimal() and int(index) < len(self.numbers):
            return LineFault(self.numbers[int(index)], slash + inside, message)
        return LineFault(self.first_line, pointer, message)


class Cutter:
    """Cuts a file into batches, from where an earlier run has come to.

    Memory: the lines of one batch.

    Args:
        source: the file, at its beginning.
        standing: how far it has been written.
    """

    def __init__(self, source: Readable, standing: Standing) -> None:
        self._source = source
        self._name = standing.name
        self._identity = standing.identity
        self._digest = hashlib.sha256()
        self._line = standing.lines
        self._bytes = standing.size_bytes
        self._kept = b""
        self._stops = {span.first_line - 1 for span in standing.ahead}
        self._stops |= {span.last_line for span in standing.ahead}
        self._skip(standing)

    @property
    def lines_read(self) -> int:
        """Lines of the file that have been read."""
        return self._line

    @property
    def bytes_read(self) -> int:
        """Bytes of the file that have been read."""
        return self._bytes

    @property
    def identity(self) -> str:
        """What the keys begin with; empty before the first event was seen."""
        return self._identity

    def next(self) -> Batch | None:
        """Cut the next batch; ``None`` at the end of the file.

        Raises:
            LineRefused: a line alone is longer than a batch may be.
        """
        lines: list[bytes] = []
        numbers: list[int] = []
        raw: list[bytes] = []
        room = BODY_BYTES_MAX - BODY_BYTES_AROUND
        first_line = self._line + 1
        while taken := self._take(room, first=not lines):
            line, stripped = taken
            raw.append(line)
            if stripped:
                lines.append(stripped)
                numbers.append(self._line)
                room -= size_in_body(stripped)
            if self._line % BATCH_LINES == 0 or self._line in self._stops:
                if lines:
                    break
                # A stretch of empty lines: nothing to send, and nothing to keep of it.
                self._digest.update(b"".join(raw))
                raw.clear()
                first_line = self._line + 1
        if not lines:
            return None
        if not self._identity:
            self._identity = _identity(self._name, lines[0])
        covered = b"".join(raw)
        self._digest.update(covered)
        return Batch(
            key=f"import:{self._identity}:{numbers[0]}",
            lines=lines,
            numbers=numbers,
            first_line=first_line,
            last_line=self._line,
            sha256=hashlib.sha256(covered).hexdigest(),
            end_bytes=self._bytes,
            prefix_sha256=self._digest.hexdigest(),
        )

    def _take(self, room: int, *, first: bool) -> tuple[bytes, bytes] | None:
        """The next line, as it is and stripped; ``None`` if none is left or it has no room."""
        # No more of a line than a body holds: a file that has no lines is not read whole.
        line = self._kept or self._source.readline(BODY_BYTES_MAX)
        self._kept = b""
        if not line:
            return None
        stripped = line
        if not self._line:
            stripped = stripped.removeprefix(_BYTE_ORDER_MARK)
        stripped = stripped.strip(WHITE_SPACE)
        is_whole = len(line) < BODY_BYTES_MAX or line.endswith(b"\n")
        if size_in_body(stripped) > room or not is_whole:
            if first:
                message = f"It is longer than the {BODY_BYTES_MAX:,} bytes that a batch may have."
                number = self._line + 1
                raise LineRefused([LineFault(number, "", message)], number, number)
            self._kept = line
            return None
        self._line += 1
        self._bytes += len(line)
        return line, stripped

    def _skip(self, standing: Standing) -> None:
        """Read what is written, and make sure that it is that."""
        left = standing.size_bytes
        while left and (piece := self._source.read(min(left, _PIECE_BYTES))):
            self._digest.update(piece)
            left -= len(piece)
        if left or self._digest.hexdigest() != standing.sha256:
            raise FileChanged(1, standing.lines)


def _identity(name: str, first_event: bytes) -> str:
    digest = hashlib.sha256(b"counterfoil import 1\n")
    digest.update(name.encode() + b"\n" + first_event)
    return digest.hexdigest()[:32]


def check_ahead(source: Readable, standing: Standing) -> None:
    """Make sure that what is written ahead stands in the file where it stood.

    Before anything is sent, because a line that was put in or taken out moves all behind it.

    Raises:
        FileChanged: it does not.
        LineRefused: a line is too long.
    """
    cutter = Cutter(source, standing)
    expected = {span.first_line: span for span in standing.ahead}
    while expected and (batch := cutter.next()) is not None:
        _compare(batch, expected.pop(batch.first_line, None))
    for span in expected.values():
        raise FileChanged(span.first_line, span.last_line)


def _compare(batch: Batch, span: Span | None) -> None:
    if span and (batch.last_line, batch.sha256) != (span.last_line, span.sha256):
        raise FileChanged(span.first_line, span.last_line)


# --- The work of one run --------------------------------------------------------------------


class Import:
    """One run: which batch is next, and what has come of those before.

    Attributes:
        standing: how far the import has come by now.
        written: events that this run has written.
        already_there: events that had been written before, by the standing or by the book.
    """

    def __init__(
        self, source: Readable, standing: Standing, on_acknowledged: Callable[[], None]
    ) -> None:
        self.standing = standing
        self.written = 0
        self.already_there = standing.events_written
        self._cutter = Cutter(source, standing)
        self._expected = {span.first_line: span for span in standing.ahead}
        self._given: deque[Batch] = deque()
        self._on_acknowledged = on_acknowledged

    @property
    def lines_read(self) -> int:
        """Lines of the file that have been read."""
        return self._cutter.lines_read

    @property
    def bytes_read(self) -> int:
        """Bytes of the file that have been read."""
        return self._cutter.bytes_read

    def next(self) -> Batch | None:
        """The next batch that has to be sent; ``None`` when all have been given out.

        Raises:
            LineRefused: a line is too long.
            FileChanged: lines that are written are not what they were.
        """
        while (batch := self._cutter.next()) is not None:
            self.standing = replace(self.standing, identity=self._cutter.identity)
            # Its lines are needed until it is sent; its place, until all before it are written.
            self._given.append(replace(batch, lines=(), numbers=()))
            span = self._expected.pop(batch.first_line, None)
            if span is None:
                return batch
            _compare(batch, span)
            self._join()
        for span in self._expected.values():
            raise FileChanged(span.first_line, span.last_line)
        return None

    def acknowledge(self, batch: Batch, stored: StoredBatch) -> None:
        """Take in that a batch is written."""
        count = len(batch.lines)
        if stored.replayed:
            self.already_there += count
        else:
            self.written += count
        span = Span(
            first_line=batch.first_line,
            last_line=batch.last_line,
            sha256=batch.sha256,
            events=count,
            first_id=stored.ids[0],
            last_id=stored.ids[-1],
        )
        self.standing = replace(self.standing, ahead=(*self.standing.ahead, span))
        self._join()
        self._on_acknowledged()

    def _join(self) -> None:
        """Let the written part of the file reach as far as nothing is missing in it."""
        spans = {span.first_line: span for span in self.standing.ahead}
        while self._given and (span := spans.get(self._given[0].first_line)) is not None:
            batch = self._given.popleft()
            del spans[span.first_line]
            self.standing = _joined(self.standing, batch, span, spans.values())


def _joined(standing: Standing, batch: Batch, span: Span, ahead: Iterable[Span]) -> Standing:
    first_id, last_id = span.first_id, span.last_id
    if standing.events:
        first_id, last_id = min(standing.first_id, first_id), max(standing.last_id, last_id)
    return replace(
        standing,
        lines=batch.last_line,
        size_bytes=batch.end_bytes,
        sha256=batch.prefix_sha256,
        events=standing.events + span.events,
        first_id=first_id,
        last_id=last_id,
        ahead=tuple(ahead),
    )
