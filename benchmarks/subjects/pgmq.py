"""pgmq: a queue in PostgreSQL, of functions in SQL.

It is no log: a message is taken out, and nothing says in which order messages became visible;
so it needs no lock between writers, which is its advantage. It has no agents, types or tags;
they go into the message's headers, where they are stored and not indexed.

Its SQL comes with the Python package ``pgmq``, and is installed as that package documents for
servers without the extension. The queue is a logged one (``pgmq.create``), since what is
acknowledged must be durable.

Sources, read for version 1.13: https://pypi.org/project/pgmq/ (SQL-only installation) and
https://pgxn.org/dist/pgmq/docs/api/sql/functions.html (``send``, ``send_batch``, ``create``).
"""

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from benchmarks.harness import work
from benchmarks.harness.model import BenchmarkError, Stage
from benchmarks.subjects import stored_functions
from benchmarks.subjects.stored_functions import StoredFunctions
from counterfoil.server.db import sqlfile

DOORS = stored_functions.DOORS

_SQL = sqlfile.load("benchmarks.subjects", "pgmq.sql")


def missing() -> str | None:
    """Why it cannot be measured here; None: it can."""
    return None if sql_file() else "the package pgmq, which brings its SQL, is not installed"


class Pgmq(StoredFunctions):
    """A queue. Made by ``opened``."""

    def send(self, seconds: float, *, clients: int, events: int) -> dict[str, float]:
        """Send so many messages a call; returns the cell's figures."""
        script = f"{_SQL['send' if events == 1 else 'send_batch']};\n"
        messages = list(work.events(count=events))
        payloads = [event.payload_text for event in messages]
        headers = [
            json.dumps(
                {"agent_name": event.agent_name, "type": event.event_type, "tags": event.tags}
            )
            for event in messages
        ]
        written = stored_functions.one_or_array
        return self.append(
            script,
            seconds,
            clients=clients,
            events=events,
            variables=[f"payload={written(payloads)}", f"headers={written(headers)}"],
        )


@contextmanager
def opened(stage: Stage, database: str) -> Iterator[Pgmq]:
    """An empty queue in a new database while the block does; then check what it holds.

    Raises:
        BenchmarkError: it cannot be installed, or the queue is not what was acknowledged.
    """
    file = sql_file()
    if file is None:
        raise BenchmarkError(f"pgmq cannot be measured: {missing()}.")
    url = stage.cluster.create_database(database, migrated=False)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(file.read_bytes())
        connection.execute(_SQL["create_queue"])
    subject = Pgmq(stage, database, count=_SQL["count"])
    yield subject
    subject.check()
    stage.cluster.drop_database(database)


def sql_file() -> Path | None:
    """The script in the installed package, which is not imported."""
    spec = importlib.util.find_spec("pgmq")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).with_name("sql") / "pgmq.sql"
    return path if path.is_file() else None
