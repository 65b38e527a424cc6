"""Grown books: millions of events, written as fast as PostgreSQL can.

The owner writes chunks of events straight into the tables, in two sessions at once, since
over HTTP ten million events would take a quarter of an hour. What lies there afterwards is
what appends would have left:

* Events of the shape of ``work.py``, with digests that are right, at positions 1, 2, 3 …
* The indexes are there all the time and fill up by insertion, so their pages are as loose
  as those of a book in use. (Built afterwards they would be a fifth smaller, and flatter.)
* At the end the tables are vacuumed and analyzed, as autovacuum does to a table that has
  grown by a fifth, and a checkpoint is taken, so that the filling is over when it is over.

Tags are skewed as in life. Each event has its customer (a few have many events), its
transaction (its own), and ``COMMON_TAG``; one in a hundred has ``REVIEW_TAG``; and a
*dossier* is a tag of exactly ``DOSSIER_EVENTS`` events, spread evenly over the whole book.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import psycopg

from benchmarks.harness import work
from benchmarks.harness.model import BenchmarkError
from counterfoil.server.access.keyring import BOOTSTRAP
from counterfoil.server.access.scopes import OPERATOR_TENANT_ID
from counterfoil.server.db import sqlfile

COMMON_TAG: Final = "desk:fraud"
"""Borne by every event that was filled in, and by none that is appended later."""

REVIEW_TAG: Final = "review:manual"
"""Borne by one event in a hundred."""

REVIEW_SHARE: Final = 0.01

DOSSIER_STEP: Final = 100
"""One event in so many bears a dossier's tag."""

DOSSIER_EVENTS: Final = 100
"""Events of one dossier, whatever the size of the book: a page of a rare tag."""

FILLED_ONLY_TYPE: Final = "settled"
"""A type of a sixth of the filled events, and of none that is appended later."""

EVENTS_MIN: Final = DOSSIER_STEP * DOSSIER_EVENTS
"""The smallest book that holds a whole dossier."""

CHUNK_EVENTS: Final = 10_000
SESSIONS: Final = 2
HISTORY: Final = timedelta(days=90)
"""Over how long the filled events lie back."""

REPORT_SECONDS: Final = 10.0

_FILLER: Final = "velocity threshold of the last hour compared with the customer's own history "

_SQL: Final = sqlfile.load("benchmarks.harness", "filling.sql")


@dataclass(frozen=True, slots=True)
class Filled:
    """A book as it was left by the filling.

    ``dossiers``: how many rare tags it has; ``dossier(0)`` is the first.
    """

    events: int
    dossiers: int
    seconds: float

    def dossier(self, number: int) -> str:
        """A tag of exactly ``DOSSIER_EVENTS`` events; any number will do."""
        return f"dossier:{number % self.dossiers}"


def fill(url: str, events: int, *, say: Callable[[str], None]) -> Filled:
    """Fill the empty book of the database at ``url``; returns when it has settled.

    Args:
        url: the owner's connection string.
        events: how many, a multiple of ``EVENTS_MIN``.
        say: takes a line of progress every ``REPORT_SECONDS``.

    Raises:
        BenchmarkError: the book is not empty, or ``events`` is no such multiple.
    """
    if events < EVENTS_MIN or events % EVENTS_MIN:
        raise BenchmarkError(f"A book is filled with a multiple of {EVENTS_MIN:,} events.")
    started = time.monotonic()
    with _connected(url) as connection:
        if head_of(connection) != 0:
            raise BenchmarkError("Only an empty book can be filled.")
    progress = _Progress(events, say)
    chunks = iter(range(1, events + 1, CHUNK_EVENTS))
    parameters = _parameters(events)
    lock = threading.Lock()

    def session() -> None:
        with _connected(url) as connection:
            while True:
                with lock:
                    first = next(chunks, None)
                if first is None:
                    return
                last = min(first + CHUNK_EVENTS - 1, events)
                connection.execute(_SQL["seed"], {"seed": first / events})
                connection.execute(_SQL["chunk"], {**parameters, "first": first, "last": last})
                progress.add(last - first + 1)

    with ThreadPoolExecutor(SESSIONS, thread_name_prefix="filling") as executor:
        for each in [executor.submit(session) for _ in range(SESSIONS)]:
            each.result()
    settle(url)
    seconds = time.monotonic() - started
    say(f"filled {events:,} events in {seconds:.0f} s ({events / seconds:,.0f} a second)")
    return Filled(events, dossiers=events // EVENTS_MIN, seconds=seconds)


def fill_tutorial(url: str, events: int) -> None:
    """Put so many events of the same work into the tutorial's empty table, in one statement."""
    with _connected(url) as connection:
        connection.execute(_SQL["tutorial"], _parameters(events))
        connection.execute(_SQL["vacuum_tutorial"])


def settle(url: str) -> None:
    """Vacuum, analyze and checkpoint, so that none of it falls into a measurement."""
    with _connected(url) as connection:
        connection.execute(_SQL["vacuum"])
        connection.execute("checkpoint")


def head_of(connection: psycopg.Connection) -> int:
    """The last position of the first tenant's book."""
    row = connection.execute(_SQL["head"], {"tenant_id": OPERATOR_TENANT_ID}).fetchone()
    return int(row[0]) if row else 0


def sizes(url: str) -> Mapping[str, int]:
    """Bytes on disk of each table of the book, its TOAST, and each index.

    Names are ``events``, ``events/toast``, ``events/events_pkey`` and so on.
    """
    with _connected(url) as connection:
        return {
            table if part == "table" else f"{table}/{part}": int(size)
            for table, part, size in connection.execute(_SQL["sizes"]).fetchall()
        }


def bytes_per_event(size_by_part: Mapping[str, int], events: int) -> dict[str, float]:
    """The same per event, as figures: ``events_pkey_bytes_per_event``, and the total.

    Empty relations (a page of metadata) are left out where they are below a byte an event.
    """
    figures = {"total_bytes_per_event": sum(size_by_part.values()) / events}
    for part, size in size_by_part.items():
        table, _, name = part.partition("/")
        label = table if not name else f"{table}_toast" if name == "toast" else name
        if size >= events:
            figures[f"{label}_bytes_per_event"] = size / events
    return figures


def _connected(url: str) -> psycopg.Connection:
    connection = psycopg.connect(url, autocommit=True, application_name="benchmark filling")
    # A filled book that a crash loses is filled again; and compiling a chunk's plan takes
    # longer than running it.
    connection.execute("set synchronous_commit = off")
    connection.execute("set jit = off")
    return connection


def _parameters(events: int) -> dict[str, object]:
    """What is the same in all chunks."""
    shape = {"amount_minor": 0, "currency": "EUR", "score": 0, "merchant": "m_0000", "note": ""}
    ended = datetime.now(UTC)
    return {
        "tenant_id": OPERATOR_TENANT_ID,
        "principal": BOOTSTRAP.principal.id,
        "types": [*work.TYPES, FILLED_ONLY_TYPE],
        "customers": work.CUSTOMERS,
        "common_tag": COMMON_TAG,
        "review_tag": REVIEW_TAG,
        "review_share": REVIEW_SHARE,
        "dossier_step": DOSSIER_STEP,
        "dossiers": events // EVENTS_MIN,
        # Two digits of the shape are the numbers' own, and are counted again in SQL.
        "note_characters": work.PAYLOAD_BYTES - len(json.dumps(shape, separators=(",", ":"))) + 2,
        "filler": _FILLER * 3,
        "events": events,
        "begun": ended - HISTORY,
        "ended": ended,
    }


class _Progress:
    """Says how far the filling is, not more often than is wanted. Called by all sessions."""

    def __init__(self, events: int, say: Callable[[str], None]) -> None:
        self._events = events
        self._say = say
        self._lock = threading.Lock()
        self._done = 0
        self._started = self._said = time.monotonic()

    def add(self, events: int) -> None:
        with self._lock:
            self._done += events
            now = time.monotonic()
            if now - self._said < REPORT_SECONDS or self._done == self._events:
                return
            self._said = now
            left = (self._events - self._done) * (now - self._started) / self._done
            self._say(f"filling: {self._done:,} of {self._events:,} events, {left:.0f} s to go")
