"""pgmq as a queue that is taken from; ``pgmq.py`` has what is sent to it.

``pgmq.read`` makes messages invisible for a time (the lease) and counts how often each was
read (the attempts); ``pgmq.delete`` acknowledges, a message or many. There is no token: who
deletes late deletes all the same. Order is by position, across all holders; there are no keys
that keep an order of their own, and no dead letters: a caller compares ``read_ct`` itself.

With outcomes, deleting and sending to a second queue are one statement, and so one transaction
in one round trip: the least that its functions allow.

Sources: those of ``pgmq.py``, read for version 1.13.
"""

from collections.abc import Sequence
from typing import Final

import psycopg

from benchmarks.harness import work
from benchmarks.harness.model import BenchmarkError
from benchmarks.subjects import pgmq, queues, stored_functions
from benchmarks.subjects.queues import Product, Script, Turn
from counterfoil.server.db import sqlfile

_SQL = sqlfile.load("benchmarks.subjects", "pgmq_queue.sql")


def _install(connection: psycopg.Connection) -> None:
    file = pgmq.sql_file()
    if file is None:
        raise BenchmarkError(f"pgmq cannot be measured: {pgmq.missing()}.")
    connection.execute(file.read_bytes())
    connection.execute(_SQL["create_queues"])


def _fill(connection: psycopg.Connection, payloads: Sequence[str], headers: Sequence[str]) -> None:
    connection.execute(_SQL["fill"], {"payloads": list(payloads), "headers": list(headers)})


def _script(_connection: psycopg.Connection, turn: Turn) -> Script:
    several = turn.batch > 1
    acknowledge = "acknowledge_batch" if several else "acknowledge"
    variables = {"lease": str(queues.LEASE_SECONDS), "batch": str(turn.batch)}
    if turn.outcomes:
        acknowledge += "_with_outcomes" if several else "_with_outcome"
        outcomes = list(work.events(count=turn.batch, series="o"))
        written = stored_functions.one_or_array
        variables["payload"] = written([event.payload_text for event in outcomes])
        variables["outcome_headers"] = written([queues.headers(event) for event in outcomes])
    return Script(_SQL["claim_batch" if several else "claim"], _SQL[acknowledge], variables)


PRODUCT: Final = Product(
    name="pgmq",
    install=_install,
    empty=_SQL["empty"],
    fill=_fill,
    script=_script,
    state=_SQL["state"],
    settle=_SQL["settle"],
)
