"""The check of a book that was written: a figure counts only if the work behind it was done.

Asked of PostgreSQL itself, after the service has ended. A load generator that stops leaves
requests without an answer, at most one a connection; those may have been written or not, so
the number of events has an upper and a lower bound.
"""

from dataclasses import dataclass
from typing import Final

import psycopg

from benchmarks.harness.model import BenchmarkError
from counterfoil.server.db import sqlfile

EVENTS_CHECKED_MAX: Final = 1_000_000
"""Of a larger book, every n-th event's digest and tags are looked at: so many at least half."""

_SQL = sqlfile.load("benchmarks.harness", "book_check.sql")


@dataclass(slots=True)
class Tally:
    """What a book must hold.

    Attributes:
        acknowledged: events whose writer had its answer.
        unanswered: events, at most, whose writer was stopped before its answer came.
        keys: idempotency keys whose request was acknowledged.
        unanswered_keys: the same for keys.
    """

    acknowledged: int = 0
    unanswered: int = 0
    keys: int = 0
    unanswered_keys: int = 0

    def add(
        self,
        *,
        acknowledged: int,
        unanswered: int = 0,
        keys: int = 0,
        unanswered_keys: int = 0,
    ) -> None:
        """Count what a run wrote."""
        self.acknowledged += acknowledged
        self.unanswered += unanswered
        self.keys += keys
        self.unanswered_keys += unanswered_keys


def head(connection: psycopg.Connection) -> int:
    """The last position of a book; 0 when it is empty."""
    return _number(connection, "head")


def check(url: str, tally: Tally) -> str:
    """Check the book of a database; returns a sentence that says what was looked at.

    Takes about eight seconds for a million events.

    Raises:
        BenchmarkError: something is wrong; all of it is named.
    """
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_SQL["room"])
        row = connection.execute(_SQL["counts"]).fetchone()
        assert row is not None
        events, last, keys, keyed_events = row
        stride = max(1, events // EVENTS_CHECKED_MAX)
        faults: list[str] = []
        if last != events:
            faults.append(f"{events:,} events, but the last position is {last:,}")
        if not tally.acknowledged <= events <= tally.acknowledged + tally.unanswered:
            faults.append(
                f"{events:,} events, but {tally.acknowledged:,} were acknowledged, and at most "
                f"{tally.unanswered:,} more were sent"
            )
        if not tally.keys <= keys <= tally.keys + tally.unanswered_keys:
            faults.append(
                f"{keys:,} idempotency keys, but {tally.keys:,} were acknowledged, and at most "
                f"{tally.unanswered_keys:,} more were sent"
            )
        if keyed_events > events:
            faults.append(f"keys stand for {keyed_events:,} events, of {events:,}")
        for name, what in (
            ("times_that_fall", "events are older than the one before them"),
            ("wrong_digests", "events do not match their digest"),
            ("tags_that_differ", "tags differ between events and the table of tags"),
            ("keys_astray", "idempotency keys point at events that do not exist"),
            ("shared_events", "idempotency keys share their events with another"),
        ):
            if count := _number(connection, name, stride=stride, head=last):
                faults.append(f"{count:,} {what}")
    if faults:
        raise BenchmarkError(f"The book is not what it must be: {'; '.join(faults)}.")
    looked = "all digests and tags" if stride == 1 else f"every {stride}th event's digest and tags"
    return f"the book is whole: {events:,} events, {keys:,} keys; {looked} looked at"


def _number(connection: psycopg.Connection, name: str, **parameters: int) -> int:
    row = connection.execute(_SQL[name], parameters).fetchone()
    assert row is not None
    return int(row[0])
