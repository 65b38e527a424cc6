"""The Python library ``eventsourcing`` on PostgreSQL: its aggregates, and its DCB recorder.

It is called in-process: no service stands between its caller and PostgreSQL, and nothing is
judged or authenticated. That is its advantage over everything that is called over HTTP.

- *Aggregates.* One call stores the first events of a new aggregate: what saving an aggregate
  comes down to, without the mapping to and from domain objects, which we spare it. There are
  no tags; they go into the event's state.
- *DCB.* Events with tags in one order and appends with a condition: it carries all of the
  work; the agent's name goes into the data.

Both as its documentation runs them where it measures speed: database functions for the
aggregates (POSTGRES_ENABLE_DB_FUNCTIONS), the recorder with two tables for DCB
(``eventsourcing.dcb.postgres_tt``), and pooled connections. Each append notifies (NOTIFY),
which PostgreSQL does one transaction at a time; that is part of both designs and cannot be
switched off.

What was tried on two cores, with 64 callers: two processes are faster than one (batches of
aggregates by half) and not slower than four. The fewer connections, the less its appends wait
for each other's locks: with two in each process's pool, DCB is twice as fast as with one for
each caller. Without the database functions, aggregates are half as fast.

Sources, read for version 9.5: the speed run in its documentation
(https://github.com/pyeventsourcing/eventsourcing, docs/topics/examples/dcb-enrolment-speedrun.rst),
which runs with these settings, and the PostgreSQL module in
https://eventsourcing.readthedocs.io/en/v9.5.2/topics/persistence.html.
"""

import importlib.util
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final, Literal
from uuid import uuid4

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from benchmarks.harness.crew import Client, Crew, open_crew
from benchmarks.harness.model import BenchmarkError, Roles, Stage
from benchmarks.subjects import rendered

DOORS: Final = "in-process, psycopg, 2 processes of threads"

PROCESSES: Final = 2

CONNECTIONS: Final = 2
"""In each process's pool; the library's own default is 5."""

Design = Literal["aggregates", "dcb"]

_TABLES: Final[Mapping[Design, str]] = {
    "aggregates": "stored_events",
    "dcb": "dcb_events_tt_main",
}


def missing() -> str | None:
    """Why it cannot be measured here; None: it can."""
    if importlib.util.find_spec("eventsourcing") is None:
        return "the package eventsourcing is not installed"
    return None


class EventSourcing:
    """A database with the library's tables, and its callers. Made by ``opened``."""

    def __init__(self, stage: Stage, database: str, design: Design, crew: Crew) -> None:
        self._stage = stage
        self._url = stage.cluster.url(database)
        self._table = _TABLES[design]
        self._crew = crew
        self._acknowledged = 0

    def roles(self) -> Roles:
        """Whose CPU time is whose; the library runs in the processes of its callers."""
        return {
            "postgresql": [self._stage.cluster.postmaster_pid],
            "peer": self._crew.pids,
        }

    def append(self, seconds: float, *, events: int) -> dict[str, float]:
        """Append as fast as the callers go; returns the cell's figures.

        With DCB, unless an event of the transaction is there.
        """
        outcome = self._crew.run(seconds, events=events)
        self._acknowledged += outcome.acknowledged
        return outcome.figures()

    def check(self) -> None:
        """Raise BenchmarkError unless the table holds what was acknowledged."""
        with psycopg.connect(self._url) as connection:
            query = sql.SQL("select count(*) from {}").format(sql.Identifier(self._table))
            row = connection.execute(query).fetchone()
        if row is None or row[0] != self._acknowledged:
            raise BenchmarkError(
                f"{self._table} has {row and row[0]:,} rows; {self._acknowledged:,} events were "
                "acknowledged."
            )


@contextmanager
def opened(stage: Stage, database: str, design: Design, *, clients: int) -> Iterator[EventSourcing]:
    """A new database and callers while the block does; then check what it holds.

    Raises:
        BenchmarkError: the callers cannot be opened, or the table is not what was acknowledged.
    """
    url = stage.cluster.create_database(database, migrated=False)
    environment = _environment(url)
    open_clients = {"aggregates": _open_aggregates, "dcb": _open_dcb}[design]
    # The first process makes the tables; several at once would meet in the catalogue.
    with open_crew(partial(open_clients, environment), clients=1, processes=1):
        environment["CREATE_TABLE"] = "n"
    opener = partial(open_clients, environment)
    with open_crew(opener, clients=clients, processes=PROCESSES) as crew:
        subject = EventSourcing(stage, database, design, crew)
        yield subject
    subject.check()
    stage.cluster.drop_database(database)


def _environment(url: str) -> dict[str, str]:
    """The library's settings, by the names that it reads from a process's environment."""
    address = conninfo_to_dict(url)
    return {
        "POSTGRES_DBNAME": str(address["dbname"]),
        "POSTGRES_HOST": str(address["host"]),
        "POSTGRES_PORT": str(address["port"]),
        "POSTGRES_USER": str(address["user"]),
        "POSTGRES_PASSWORD": str(address["password"]),
        "POSTGRES_ENABLE_DB_FUNCTIONS": "y",
        "POSTGRES_POOL_SIZE": str(CONNECTIONS),
        "POSTGRES_MAX_OVERFLOW": "0",
    }


def _open_aggregates(environment: dict[str, str], numbers: Sequence[int]) -> list[Client]:
    """Callers that store new aggregates; those of a process share a recorder and its pool."""
    from eventsourcing.persistence import StoredEvent
    from eventsourcing.postgres import PostgresFactory

    recorder = PostgresFactory(environment).application_recorder()

    def client(number: int) -> Client:
        events = rendered.events(number)

        def append(count: int) -> None:
            aggregate = uuid4()
            recorder.insert_events(
                [
                    StoredEvent(
                        originator_id=aggregate,
                        originator_version=version,
                        topic=event.event_type,
                        state=_state(event),
                    )
                    for version, event in enumerate(itertools.islice(events, count), 1)
                ]
            )

        return append

    return [client(number) for number in numbers]


def _state(event: rendered.Rendered) -> bytes:
    """The event's data with its tags: a further member before the closing brace."""
    tags = '","'.join(event.tags)
    return event.data[:-1] + f',"tags":["{tags}"]}}'.encode()


def _open_dcb(environment: dict[str, str], numbers: Sequence[int]) -> list[Client]:
    """Callers that append conditionally; those of a process share a recorder and its pool."""
    from eventsourcing.dcb.api import DCBAppendCondition, DCBEvent, DCBQuery, DCBQueryItem
    from eventsourcing.dcb.postgres_tt import PostgresTTDCBFactory

    recorder = PostgresTTDCBFactory(environment).dcb_recorder()

    def client(number: int) -> Client:
        events = rendered.events(number)

        def append(count: int) -> None:
            batch = list(itertools.islice(events, count))
            query = DCBQuery([DCBQueryItem(tags=[batch[0].tags[1]])])
            recorder.append(
                [DCBEvent(event.event_type, event.data, event.tags) for event in batch],
                DCBAppendCondition(query),
            )

        return append

    return [client(number) for number in numbers]
