"""Counterfoil's decisions: each about an application of its own, of which two signals are known.

A decision is asked for as an agent does: over HTTP, by a policy of two inputs, one derived figure
and a table of three rows. The service reads the signals, applies the rules and appends. So that
none stands in another's way, every request is about another application; they are written before
a run, outside of what is measured, and checked with the rest of the book after the last.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg

from benchmarks.harness import requests, wrk
from benchmarks.harness.model import BenchmarkError, Roles, Stage
from benchmarks.subjects import counterfoil
from benchmarks.subjects.counterfoil import CounterfoilSubject
from counterfoil.server.api.openapi_decisions import POLICY_EXAMPLE

POLICY: Final = "consumer_credit"
AGENT: Final = "policy_agent"

PER_SECOND_MAX: Final = 1_500
"""More decisions than any run makes in a second: so many applications are written for it."""

WARM_UP_SECONDS: Final = 1
BATCH_APPLICATIONS: Final = 500
"""Of one batch, two events each."""


class Deciding:
    """A service with a policy in force, and applications to decide about. Made by ``opened``."""

    def __init__(self, stage: Stage, subject: CounterfoilSubject) -> None:
        self._subject = subject
        self._known = 0
        self._asked = 0
        self._file = self._write_requests(stage.folder / "decisions.requests")
        self._put_in_force()

    def roles(self) -> Roles:
        """Whose CPU time is whose."""
        return self._subject.roles()

    def prepare(self, seconds: float) -> None:
        """Write the signals of as many applications as the next run can decide about."""
        wanted = self._asked + round((seconds + WARM_UP_SECONDS + 1) * PER_SECOND_MAX)
        while self._known < wanted:
            first = self._known + 1
            self._known += BATCH_APPLICATIONS
            events = [
                event for number in range(first, self._known + 1) for event in _signals(number)
            ]
            self._subject.service.call("POST", "/events/batch", {"events": events})
            self._subject.book.add(acknowledged=len(events))

    def take(self, clients: int, seconds: float) -> dict[str, float]:
        """Let so many clients ask for decisions as fast as they are answered."""
        warm_up = self._drive(clients, WARM_UP_SECONDS)
        before = self._subject.service.groups()
        result = self._drive(clients, round(seconds))
        return {
            "events_per_second": result.per_second,
            **result.latencies(),
            **self._subject.service.groups().since(before),
            "errors": 0.0,
            "events": float(warm_up.requests + result.requests),
        }

    def _drive(self, clients: int, seconds: int) -> wrk.WrkResult:
        result = wrk.run(
            self._subject.service.url,
            "requests.lua",
            [str(self._file), self._asked],
            connections=clients,
            seconds=seconds,
        )
        # One more was made to look at, and one a connection may have been sent and not answered.
        self._asked += result.requests + clients + 1
        if self._asked > self._known:
            raise BenchmarkError("There were fewer applications than decisions.")
        self._subject.book.add(acknowledged=result.requests, unanswered=clients)
        return result

    def _write_requests(self, path: Path) -> Path:
        service = self._subject.service
        body = {
            "policy": POLICY,
            "subject": f"application:{requests.NUMBER}",
            "agent_name": AGENT,
        }
        host = f"{service.host}:{service.port}"
        rendered = requests.render("/decisions", body, host=host, headers=service.headers)
        return requests.write(path, [rendered])

    def _put_in_force(self) -> None:
        """As two people do: one drafts it, the other activates it."""
        service = self._subject.service
        author = service.call(
            "POST", "/keys", {"kind": "person", "name": "author", "scopes": ["manage:policies"]}
        )
        headers = {"Authorization": f"Bearer {author['key']}"}
        path = f"/policies/{POLICY}"
        service.call("POST", f"{path}/drafts", POLICY_EXAMPLE, headers)
        service.call("POST", f"{path}/versions/1/activate", {"reason": "The benchmark's."})
        with psycopg.connect(self._subject.database_url) as connection:
            row = connection.execute("select count(*) from counterfoil.events").fetchone()
        self._subject.book.add(acknowledged=0 if row is None else int(row[0]))


def _signals(number: int) -> Iterator[Mapping[str, Any]]:
    tags = [f"application:{number:09d}", f"customer:cust_{number % 50_000}"]
    for event_type, amount in (
        ("debts_checked", number * 7 % 120_000),
        ("income_verified", 100_000 + number * 13 % 300_000),
    ):
        yield {
            "agent_name": "risk_agent",
            "event_type": event_type,
            "payload": {"monthly_minor": amount, "currency": "EUR"},
            "tags": tags,
        }


@contextmanager
def opened(stage: Stage, *, workers: int) -> Iterator[tuple[CounterfoilSubject, Deciding]]:
    """Run a service on a new book, with a policy in force; then check the book and drop it."""
    with counterfoil.opened(stage, "decisions", workers=workers) as subject:
        yield subject, Deciding(stage, subject)
