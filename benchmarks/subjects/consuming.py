"""Counterfoil's consumers: holders that claim over HTTP and acknowledge what they were handed.

The book is filled once. A consumer reads it from its beginning, and each run has one of its own,
as each run of a queue has messages of its own. What a queue does when a message is sent, a
consumer does when it is handed out: its events are *put out*, hundreds at a time, by the claims
that need them. So that work lies within what is measured, and for the queues it lies before.

Consumers have the default settings but for their lease, which no run is to outlast: no order,
no key, so that every event may be handed out at once. After each run its tables must add up.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import psycopg
from psycopg.rows import dict_row

from benchmarks.harness import filling, requests, work, wrk
from benchmarks.harness.model import BenchmarkError, Roles, Stage
from benchmarks.subjects import grown, queues
from benchmarks.subjects.counterfoil import CounterfoilSubject
from benchmarks.subjects.queues import Turn
from counterfoil.server.db import sqlfile

DOORS: Final = "HTTP, kept-alive connections, wrk; a call to claim, a call to acknowledge"
DOORS_AT_ONCE: Final = "the same; what is done goes with the next claim"
DOORS_AND_NEXT: Final = "the same; the next claim goes with the acknowledgement"

WARM_UP_SECONDS: Final = 2
"""The first calls of many holders make one large group; its answer must be there in time."""

OUTCOME_TYPE: Final = "outcome_recorded"
OUTCOMES: Final = 1_000
"""Different events that say what came of one."""

SETTLE_SECONDS: Final = 0.3
SETTLE_SECONDS_MAX: Final = 30.0

Mode = Literal["ack", "done", "next"]

_SQL: Final = sqlfile.load("benchmarks.subjects", "consuming.sql")


class Holding:
    """A service on a filled book, and the consumer of the run. Made by ``opened``."""

    def __init__(self, stage: Stage, subject: CounterfoilSubject, events: int) -> None:
        self._stage = stage
        self._subject = subject
        self._events = events
        self._made = 0
        self._name = ""
        self._file = _write_outcomes(stage.folder / "outcomes.events")

    def roles(self) -> Roles:
        """Whose CPU time is whose."""
        return self._subject.roles()

    @property
    def database_url(self) -> str:
        """The owner's connection string of its database."""
        return self._subject.database_url

    def prepare(self, _seconds: float = 0.0) -> None:
        """Put the consumer of the last run away, and make one that begins at the beginning."""
        if self._name:
            self._call("DELETE", f"/consumers/{self._name}?dead_letters=drop")
        self.begin()
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute(_SQL["settle"])

    @property
    def name(self) -> str:
        """The consumer of the run."""
        return self._name

    def written(self, events: int) -> None:
        """So many events were appended to its book by others than its holders."""
        self._subject.book.add(acknowledged=events)

    def begin(self) -> None:
        """Make a consumer that begins at the beginning; the others stay as they are."""
        self._made += 1
        self._name = f"bench-{self._made}"
        query = [{"tags": [filling.COMMON_TAG]}]
        self._call(
            "PUT",
            f"/consumers/{self._name}",
            {"query": query, "lease_seconds": queues.LEASE_SECONDS},
        )

    def take(self, turn: Turn, mode: Mode, seconds: float) -> dict[str, float]:
        """Let all holders claim and acknowledge; returns the cell's figures.

        Raises:
            BenchmarkError: a call failed, something was handed out twice, the book was too
                small, or the tables do not add up.
        """
        warm_up = self._drive(turn, mode, WARM_UP_SECONDS)
        result = self._drive(turn, mode, round(seconds))
        self._check(turn, [warm_up, result])
        if not result.counts["claims_answered"]:
            raise BenchmarkError(f"No claim was answered within {seconds} seconds.")
        done = acknowledged(result.counts, mode)
        return {
            "events_per_second": done / result.seconds,
            "requests_per_second": result.per_second,
            **result.latencies(),
            **fullness(result.counts, turn.batch),
            "errors": 0.0,
            "events": acknowledged(warm_up.counts, mode) + done,
        }

    def slice(self, turn: Turn, mode: Mode, seconds: float) -> float:
        """Let all holders work for so long on a consumer of their own; returns how much was done.

        Raises BenchmarkError as ``take`` does.
        """
        self.begin()
        result = self._drive(turn, mode, round(seconds))
        self._check(turn, [result])
        return acknowledged(result.counts, mode)

    def progress(self) -> Mapping[str, int]:
        """How far the run's consumer is, as its tables say."""
        with (
            psycopg.connect(self.database_url) as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            row = cursor.execute(_SQL["progress"], {"name": self._name}).fetchone()
        if row is None:
            raise BenchmarkError(f"There is no consumer {self._name}.")
        return row

    def _drive(self, turn: Turn, mode: Mode, seconds: int) -> wrk.WrkResult:
        service = self._subject.service
        headers = {
            "Host": f"{service.host}:{service.port}",
            "Content-Type": "application/json",
            **service.headers,
        }
        result = wrk.run(
            service.url,
            "consumers.lua",
            [
                mode,
                f"/consumers/{self._name}",
                "|".join(f"{name}: {value}" for name, value in headers.items()),
                turn.holders,
                turn.batch,
                self._file,
            ],
            connections=turn.holders,
            seconds=seconds,
        )
        for fault in ("handed_out_twice", "strange"):
            if count := result.counts[fault]:
                raise BenchmarkError(
                    f"{count} deliveries or answers were {fault.replace('_', ' ')}."
                )
        if mode == "next":
            written = acknowledged(result.counts, mode)
            self._subject.book.add(
                acknowledged=round(written), unanswered=result.counts["sent"] - round(written)
            )
        return result

    def _check(self, turn: Turn, results: Sequence[wrk.WrkResult]) -> None:
        """Hold what was sent and answered against the tables."""
        progress = self._settled()
        check_progress(
            progress,
            sent=sum(result.counts["sent"] for result in results),
            # wrk stops without waiting: of each run, so many calls may have been under way.
            unanswered=len(results) * turn.holders * turn.batch,
            later_attempts=sum(result.counts["later_attempts"] for result in results),
        )
        if progress["reached"] >= self._events and not progress["waiting"]:
            raise BenchmarkError(f"A book of {self._events:,} events was too small for this run.")

    def _settled(self) -> Mapping[str, int]:
        """The progress, once calls that were under way when wrk stopped have ended."""
        deadline = time.monotonic() + SETTLE_SECONDS_MAX
        before = self.progress()
        while time.monotonic() < deadline:
            time.sleep(SETTLE_SECONDS)
            after = self.progress()
            if after == before:
                return after
            before = after
        raise BenchmarkError("The consumer is still changing long after the last call.")

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> None:
        """A call that manages consumers, and is an event of the book."""
        self._subject.service.call(method, path, body)
        self._subject.book.add(acknowledged=1)


def acknowledged(counts: Mapping[str, int], mode: Mode) -> float:
    """Events whose acknowledgement was answered, of what the script counted.

    wrk stops without waiting for its last answers. Those that were still to come had as many
    events to acknowledge as all others, on average.
    """
    calls = "claims" if mode == "done" else "acks"
    return counts["sent"] * counts[f"{calls}_answered"] / counts[calls] if counts[calls] else 0.0


def fullness(counts: Mapping[str, int], batch: int) -> dict[str, float]:
    """How much claims came back with, where that was less than they asked for."""
    each = counts["claimed"] / counts["claims_answered"]
    empty = 100 * counts["empty_claims"] / counts["claims_answered"]
    found = {"events_per_claim": each} if each < batch else {}
    return {**found, **({"empty_claims_percent": empty} if empty else {})}


def check_progress(
    progress: Mapping[str, int], *, sent: int, unanswered: int, later_attempts: int
) -> None:
    """Raise BenchmarkError unless what was acknowledged is gone, and nothing came twice.

    Args:
        progress: what the tables say.
        sent: events whose acknowledgement was sent.
        unanswered: how many of them, at most, had no answer.
        later_attempts: deliveries that came, but not in their first attempt. The service takes
            back what a caller that has gone was just handed: wrk's, when it stops.
    """
    faults = []
    if not sent - unanswered <= progress["done"] <= sent:
        faults.append(
            f"{progress['done']:,} events are done, but of {sent:,} the acknowledgement was sent, "
            f"and at most {unanswered:,} had no answer"
        )
    if later_attempts > unanswered:
        faults.append(
            f"{later_attempts:,} deliveries came in a later attempt, and at most {unanswered:,} were "
            "on their way to a caller that had gone"
        )
    # Whoever was stopped holds what it was handed, or what it was about to acknowledge.
    if progress["held"] > 2 * unanswered:
        faults.append(f"{progress['held']:,} deliveries are still held")
    if faults:
        raise BenchmarkError(f"The deliveries do not add up: {'; '.join(faults)}.")


def _write_outcomes(path: Path) -> Path:
    """Events that say what came of one, as they stand in a list of a request."""
    return requests.write(path, _outcomes())


def _outcomes() -> Iterator[str]:
    for event in work.events(count=OUTCOMES, series="o"):
        yield requests.compact({**event.body(), "event_type": OUTCOME_TYPE})


@contextmanager
def opened(stage: Stage, database: str, *, events: int) -> Iterator[Holding]:
    """Fill a book and run a service on it while the block does; then check the book."""
    with grown.opened(stage, database, events=events) as book:
        yield Holding(stage, book.subject, events)
