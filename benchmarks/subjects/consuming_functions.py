"""Counterfoil's handing out as the queues are called: its stored functions, by pgbench.

The queues that it is compared with are functions in PostgreSQL, and pgbench calls them from a
process next to the server. Counterfoil is a service: between its holders and the same functions lie
HTTP, a key, and a body that is judged. This subject leaves all that out, so that what is compared
is one way of handing out with another, and the difference to the service's own figures is what the
service costs. It also leaves out what the service adds: here, each call is a group of its own.

The database is the one that the service works on, whose workers are idle meanwhile.
"""

import json
from collections.abc import Mapping
from typing import Final

import psycopg

from benchmarks.harness import work
from benchmarks.harness.model import BenchmarkError, Roles, Stage
from benchmarks.subjects import stored_functions
from benchmarks.subjects.consuming import OUTCOME_TYPE, Holding
from benchmarks.subjects.plain_postgresql import PlainPostgresql
from benchmarks.subjects.queues import Turn
from counterfoil.server.db import sqlfile

DOORS: Final = (
    f"{stored_functions.DOORS}: the service's functions, without the service; what is done goes "
    "with the next claim, an outcome in a call of its own"
)

DUE_CALLS: Final = 500
"""One claim of so many also looks for leases that have run out. A worker does once a second."""

_SQL: Final = sqlfile.load("benchmarks.subjects", "consuming_functions.sql")


class HoldingByFunctions:
    """The holders of a consumer of ``Holding``, without the service between.

    Args:
        holding: makes the consumer of each run.
        database: the name of its database.
    """

    def __init__(self, stage: Stage, holding: Holding, database: str) -> None:
        self._stage = stage
        self._holding = holding
        self._pgbench = PlainPostgresql(stage, database)

    def roles(self) -> Roles:
        """Whose CPU time is whose."""
        return self._pgbench.roles()

    def take(self, turn: Turn, seconds: float) -> dict[str, float]:
        """Let all holders claim and acknowledge; returns the cell's figures.

        A claim may find less than it asks for, where another is just putting more out. So what
        counts is what the tables say is done, and not how often pgbench ran the script.

        Raises:
            BenchmarkError: a statement failed, the book was too small, or the tables do not add up.
        """
        path = self._stage.folder / f"{self._pgbench.database}.sql"
        path.write_text(script(outcomes=turn.outcomes))
        before = self._head()
        figures = self._pgbench.pgbench(
            path,
            seconds,
            clients=turn.holders,
            variables=[f"{name}={value}" for name, value in self._variables(turn).items()],
        )
        progress = self._holding.progress()
        written = self._head() - before
        check(progress, turn, written=written)
        self._holding.written(written)
        turns = figures.pop("events")
        each = progress["done"] / turns
        return {
            **figures,
            "events_per_second": figures["events_per_second"] * each,
            **({"events_per_claim": each} if each < turn.batch else {}),
            "events": float(progress["done"]),
        }

    def _variables(self, turn: Turn) -> Mapping[str, str]:
        name = self._holding.name
        with psycopg.connect(self._pgbench.database_url) as connection:
            row = connection.execute(_SQL["generation"], {"name": name}).fetchone()
        if row is None:
            raise BenchmarkError(f"There is no consumer {name}.")
        found = {"name": name, "generation": str(row[0]), "batch": str(turn.batch)}
        if not turn.outcomes:
            return {**found, "positions": "{}", "attempts": "{}"}
        events = [
            {**event.body(), "event_type": OUTCOME_TYPE, "tags": sorted(event.tags)}
            for event in work.events(count=turn.batch, series="o")
        ]
        return {**found, "events": json.dumps(events, separators=(",", ":"))}

    def _head(self) -> int:
        with psycopg.connect(self._pgbench.database_url) as connection:
            row = connection.execute(_SQL["head"]).fetchone()
        assert row is not None
        return int(row[0])


def script(*, outcomes: bool) -> str:
    """A turn as pgbench's script: one transaction, or with outcomes two."""
    due = f"\\set due random(1, {DUE_CALLS})"
    if not outcomes:
        return f"{due}\n{_SQL['done_with_the_next']}\n\\gset\n"
    written = f"\\if :held > 0\n{_SQL['acknowledge_with_outcomes']};\n\\endif\n"
    return f"{due}\n{_SQL['claim']}\n\\gset\n{written}"


def check(progress: Mapping[str, int], turn: Turn, *, written: int) -> None:
    """Raise BenchmarkError unless nothing is held but what pgbench stopped with, and all is written.

    Args:
        progress: what the tables say.
        written: how many events were appended meanwhile.
    """
    held_max = 0 if turn.outcomes else turn.holders * turn.batch
    if progress["held"] > held_max:
        raise BenchmarkError(
            f"{progress['held']:,} deliveries are still held, and {held_max:,} may be."
        )
    wanted = progress["done"] if turn.outcomes else 0
    if written != wanted:
        raise BenchmarkError(f"{written:,} outcomes were written, and {wanted:,} should have been.")
    if not progress["done"]:
        raise BenchmarkError("Nothing was acknowledged.")
