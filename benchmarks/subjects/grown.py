"""Counterfoil with a book that has grown: filled before the service starts, checked at the end."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import psycopg

from benchmarks.harness import book_check, filling
from benchmarks.harness.model import BenchmarkError, Stage
from benchmarks.harness.service import running_service
from benchmarks.subjects.counterfoil import CounterfoilSubject
from counterfoil.server.db import sqlfile

WORKERS: Final = 2
"""As the goals for appends name it."""

_SQL: Final = sqlfile.load("benchmarks.harness", "filling.sql")


@dataclass(frozen=True, slots=True)
class GrownBook:
    """A running service and what its book held before it started."""

    subject: CounterfoilSubject
    filled: filling.Filled

    def empty(self) -> None:
        """Take everything out of the book again, so that the next run finds it empty.

        The owner does it, with the triggers off that stand against it. What the book held is
        checked first, as far as that is cheap: as many events as were acknowledged.

        Raises:
            BenchmarkError: the book holds fewer or more.
        """
        tally = self.subject.book
        with psycopg.connect(self.subject.database_url, autocommit=True) as connection:
            head = book_check.head(connection)
            if not tally.acknowledged <= head <= tally.acknowledged + tally.unanswered:
                raise BenchmarkError(
                    f"The book ends at {head:,}; {tally.acknowledged:,} events were acknowledged "
                    f"and at most {tally.unanswered:,} more were sent."
                )
            connection.execute(_SQL["without_triggers"])
            connection.execute(_SQL["empty"])
        self.subject.book = book_check.Tally()


@contextmanager
def opened(
    stage: Stage, database: str, *, events: int, workers: int = WORKERS
) -> Iterator[GrownBook]:
    """Fill a book with so many events (0: none) and run a service on it while the block does.

    Raises:
        BenchmarkError: the service does not start, or the book is at last not what was
            filled in and acknowledged.
    """
    url = stage.cluster.create_database(database, migrated=True)
    filled = (
        filling.fill(url, events, say=lambda text: stage.say(f"{database}: {text}"))
        if events
        else filling.Filled(0, dossiers=0, seconds=0.0)
    )
    with running_service(url, stage.folder, workers=workers) as service:
        subject = CounterfoilSubject(stage, database, url, service)
        subject.book.add(acknowledged=events)
        yield GrownBook(subject, filled)
    stage.say(f"checking the book of {database} ({subject.book.acknowledged:,} events)")
    stage.say(book_check.check(url, subject.book))
    stage.cluster.drop_database(database)
