"""Counterfoil itself: the real service, over HTTP, on a database of its own.

The service is started as in production (``counterfoil serve``, its default settings, a key
that every call brings). Requests are rendered beforehand and sent by wrk over connections that
are kept alive. When it is closed, its book is checked against what was acknowledged.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg

from benchmarks.harness import book_check, openloop, requests, wrk
from benchmarks.harness.model import BenchmarkError, Roles, Stage
from benchmarks.harness.service import RunningService, running_service

DOORS: Final = "HTTP, kept-alive connections, wrk"

WARM_UP_SECONDS: Final = 1

NUMBERS_PER_SECOND: Final = 200_000
"""More than any generator sends: the numbers of two runs must not meet."""

CONFLICT_LAG: Final = 4
"""How many times as many requests lie between an event and the condition that it is to fail
as can be under way at once; by then it has certainly been answered."""

TEMPLATES: Final = 5_000
"""Different events in a file of requests; their transactions are all different anyway."""


Condition = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Makes the condition of a request from its event's body."""


class CounterfoilSubject:
    """One running service and its book. Made by ``opened``.

    ``book`` counts what was acknowledged; load generators of other suites add to it too.
    """

    def __init__(self, stage: Stage, database: str, url: str, service: RunningService) -> None:
        self._stage = stage
        self._names = itertools.count()
        self._next_number = 0
        self.database = database
        self.database_url = url
        self.service = service
        self.book = book_check.Tally()

    def roles(self) -> Roles:
        """Whose CPU time is whose."""
        return {
            "postgresql": [self._stage.cluster.postmaster_pid],
            "service": [self.service.pid],
        }

    def head(self) -> int:
        """The last position of the book; 0 when it is empty."""
        with psycopg.connect(self.database_url) as connection:
            return book_check.head(connection)

    def take_numbers(self, count: int) -> int:
        """Reserve unique numbers for requests; the first of them is one above the result."""
        first = self._next_number
        self._next_number += count
        return first

    def write_requests(
        self,
        *,
        path: str = "/agent-events",
        events: int = 1,
        condition: Condition | None = None,
        transaction: str = requests.NUMBER,
        keyed: bool = False,
        templates: int = TEMPLATES,
    ) -> Path:
        """Render a file of requests for wrk.

        Args:
            path: ``/agent-events`` or ``/events/batch``.
            events: in one request, each with a transaction of its own.
            condition: makes a request's condition, with its places, from its first event.
            transaction: the place that stands in the event's transaction tag.
            keyed: whether each request brings an ``Idempotency-Key`` of its own.
            templates: different requests in the file.
        """
        headers = dict(self.service.headers)
        if keyed:
            headers["Idempotency-Key"] = f"key-{self.database}-{requests.NUMBER}"
        host = f"{self.service.host}:{self.service.port}"
        bodies = requests.numbered_events(templates * events, batch=events, transaction=transaction)

        def rendered() -> Iterator[str]:
            while batch := list(itertools.islice(bodies, events)):
                body = {"events": batch} if path.endswith("/batch") else batch[0]
                if condition is not None:
                    body = {**body, "condition": condition(batch[0])}
                yield requests.render(path, body, host=host, headers=headers)

        name = f"{self.database}-{next(self._names)}.requests"
        return requests.write(self._stage.folder / name, rendered())

    def closed_loop(
        self, file: Path, seconds: float, *, connections: int, events: int = 1, keyed: bool = False
    ) -> dict[str, float]:
        """Append as fast as so many connections go; returns the cell's figures.

        ``events`` among them counts the warm-up too, as the CPU seconds of the run do.
        """

        def drive(duration: int) -> wrk.WrkResult:
            result = wrk.run(
                self.service.url,
                "requests.lua",
                [str(file), self.take_numbers((duration + 1) * NUMBERS_PER_SECOND)],
                connections=connections,
                seconds=duration,
            )
            self.book.add(
                acknowledged=result.requests * events,
                unanswered=connections * events,
                keys=result.requests if keyed else 0,
                unanswered_keys=connections if keyed else 0,
            )
            return result

        warm_up, before = drive(WARM_UP_SECONDS), self.service.groups()
        result = drive(round(seconds))
        return {
            "events_per_second": result.per_second * events,
            **({"requests_per_second": result.per_second} if events > 1 else {}),
            **result.latencies(),
            **self.service.groups().since(before),
            "errors": 0.0,
            "events": float((warm_up.requests + result.requests) * events),
        }

    def conditional_loop(
        self, file: Path, seconds: float, *, connections: int, conflicts: float
    ) -> dict[str, float]:
        """Append under conditions, so large a share of which is to be refused.

        The share counts refused ones too: of ``requests_per_second``, ``events_per_second``
        were written.

        Raises:
            BenchmarkError: refused were others, or more or fewer, than were meant to be.
        """

        def drive(duration: int) -> wrk.WrkResult:
            result = wrk.run(
                self.service.url,
                "conditions.lua",
                [
                    str(file),
                    self.take_numbers((duration + 1) * NUMBERS_PER_SECOND),
                    self.head(),
                    # A request that was refused cannot stand in another's way: see the script.
                    f"{conflicts / (1 - conflicts):.6f}",
                    CONFLICT_LAG * connections,
                ],
                connections=connections,
                seconds=duration,
                refusals_allowed=True,
            )
            check_conflicts(result, connections=connections, conflicts=conflicts)
            self.book.add(acknowledged=result.counts["stored"], unanswered=connections)
            return result

        warm_up, before = drive(WARM_UP_SECONDS), self.service.groups()
        result = drive(round(seconds))
        return {
            "events_per_second": result.counts["stored"] / result.seconds,
            "requests_per_second": result.per_second,
            "conflicts_percent": 100 * result.counts["failed"] / result.requests,
            **result.latencies(),
            **self.service.groups().since(before),
            "errors": 0.0,
            "events": float(warm_up.counts["stored"] + result.counts["stored"]),
        }

    def open_loop(
        self, file: Path, seconds: float, *, connections: int, rate: float
    ) -> dict[str, float]:
        """Append at a constant rate; returns the cell's figures."""
        rendered = file.read_bytes().decode().split(requests.BETWEEN)
        first = self.take_numbers(round((seconds + 2) * rate) + 1)
        before = self.service.groups()
        result = openloop.run(
            self.service.host,
            self.service.port,
            lambda number: requests.fill(
                rendered[number % len(rendered)], number=first + number + 1
            ),
            connections=connections,
            rate=rate,
            seconds=seconds,
            warm_up_seconds=WARM_UP_SECONDS,
        )
        self.book.add(acknowledged=result.answered)
        return {
            **result.figures(),
            **self.service.groups().since(before),
            "scheduled_per_second": rate,
        }


def check_conflicts(result: wrk.WrkResult, *, connections: int, conflicts: float) -> None:
    """Raise BenchmarkError unless exactly those were refused that were sent to be.

    One a connection may still be under way at the end; and chance decides who is sent to be
    refused, so of few requests the share may be off.
    """
    counts = result.counts
    if counts["strange"]:
        raise BenchmarkError(f"{counts['strange']} answers were neither stored nor conflicts")
    if counts["stored"] + counts["failed"] != result.requests:
        raise BenchmarkError("the answers do not add up to the requests")
    if not counts["sent_to_fail"] - connections <= counts["failed"] <= counts["sent_to_fail"]:
        raise BenchmarkError(
            f"{counts['failed']} conditions failed; {counts['sent_to_fail']} were meant to"
        )
    # The first requests have nothing yet to conflict with.
    meant = conflicts * max(0, result.requests - CONFLICT_LAG * connections)
    if abs(counts["sent_to_fail"] - meant) > 5 * math.sqrt(meant + 1) + 0.05 * meant:
        raise BenchmarkError(
            f"{counts['sent_to_fail']} conflicts of {result.requests} requests are not {conflicts:.0%}"
        )


@contextmanager
def opened(
    stage: Stage,
    database: str,
    *,
    workers: int,
    environment: Mapping[str, str] | None = None,
) -> Iterator[CounterfoilSubject]:
    """Run a service on a new book while the block does; then check the book and drop it.

    Raises:
        BenchmarkError: it does not start, or the book is not what was acknowledged.
    """
    url = stage.cluster.create_database(database, migrated=True)
    with running_service(url, stage.folder, workers=workers, environment=environment) as service:
        subject = CounterfoilSubject(stage, database, url, service)
        yield subject
    # After the service has ended, nothing is under way any more.
    stage.say(f"checking the book of {database} ({subject.book.acknowledged:,} events)")
    stage.say(book_check.check(url, subject.book))
    stage.cluster.drop_database(database)
