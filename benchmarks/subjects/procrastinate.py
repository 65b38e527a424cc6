"""procrastinate: a queue of jobs on PostgreSQL, by the stored functions that its worker calls.

One job at a time: its fetching function takes no number, and its worker finishes each job with
a call of its own; so it has no cells of batches. The lease is the worker's heartbeat, one for
all of its jobs, which we leave out, to its advantage: all holders share one registered worker.
A retry is the worker's business too. Each job leaves two rows of history, written by triggers.

A job's arguments hold the payload and what else an event has. Finished jobs stay in the table,
which is the default; deleting them was tried, and is slower by a third, since their history
goes with them.

Its SQL is read out of the package, which is not imported: what its Python does around the
statements is spared it.

Sources, read for version 3.10: procrastinate/worker.py, manager.py, sql/queries.sql and
sql/schema.sql of https://pypi.org/project/procrastinate/.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import psycopg

from benchmarks.harness.model import BenchmarkError
from benchmarks.subjects.queues import Product, Script, Turn
from counterfoil.server.db import sqlfile

_SQL = sqlfile.load("benchmarks.subjects", "procrastinate.sql")


def missing() -> str | None:
    """Why it cannot be measured here; None: it can."""
    return None if _schema_file() else "the package procrastinate is not installed"


def _schema_file() -> Path | None:
    spec = importlib.util.find_spec("procrastinate")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).with_name("sql") / "schema.sql"
    return path if path.is_file() else None


def _install(connection: psycopg.Connection) -> None:
    file = _schema_file()
    if file is None:
        raise BenchmarkError(f"procrastinate cannot be measured: {missing()}.")
    connection.execute(file.read_bytes())


def _fill(connection: psycopg.Connection, payloads: Sequence[str], headers: Sequence[str]) -> None:
    connection.execute(_SQL["fill"], {"payloads": list(payloads), "headers": list(headers)})


def _script(connection: psycopg.Connection, turn: Turn) -> Script:
    if turn.batch > 1 or turn.outcomes:
        raise BenchmarkError("procrastinate takes one job at a time, and writes nothing with it.")
    row = connection.execute(_SQL["register"]).fetchone()
    assert row is not None
    return Script(_SQL["claim"], _SQL["acknowledge"], {"worker": str(row[0])})


PRODUCT: Final = Product(
    name="procrastinate",
    install=_install,
    empty=_SQL["empty"],
    fill=_fill,
    script=_script,
    state=_SQL["state"],
    settle=_SQL["settle"],
)
