"""PgQueuer: a queue of jobs on PostgreSQL, by the statements that its worker sends.

Its Python makes two statements and sends them whole: *dequeue* takes many jobs, whose leases
are heartbeats, and *log jobs* takes done ones out of the queue and writes them to a log. They
are taken from the package and given to pgbench as they are, but for two things: their
parameters get names, and dequeue's last line gathers the columns that its worker reads into
arrays, since a script takes one row. What its Python does around them is spared it: a model of
each job, heartbeats, and waiting up to a tenth of a second for more jobs to log together; the
cells' batches stand for that.

All its tables are durable, which is its default. Its triggers notify of each statement that
changed the queue (NOTIFY), so its transactions commit one at a time; that is part of it.

Sources, read for version 1.6: adapters/persistence/qb.py and queries.py, core/qm.py and
core/buffers.py of https://pypi.org/project/pgqueuer/.
"""

import importlib.util
from collections.abc import Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

import psycopg
from psycopg import RawCursor

from benchmarks.harness.model import BenchmarkError
from benchmarks.subjects import queues
from benchmarks.subjects.queues import Product, Script, Turn
from counterfoil.server.db import sqlfile

ENTRYPOINT: Final = "events"

_SQL = sqlfile.load("benchmarks.subjects", "pgqueuer.sql")

_LAST_LINE: Final = "SELECT * FROM claimed ORDER BY priority DESC, id ASC;"

_GATHERED: Final = (
    "SELECT array_agg(id) AS ids, array_agg(payload) AS payloads, array_agg(headers) AS headers,"
    " array_agg(attempts) AS attempts FROM claimed"
)


def missing() -> str | None:
    """Why it cannot be measured here; None: it can."""
    if importlib.util.find_spec("pgqueuer") is None:
        return "the package pgqueuer is not installed"
    return None


def _install(connection: psycopg.Connection) -> None:
    from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment

    connection.execute(QueryBuilderEnvironment().build_install_query().encode())


def _fill(connection: psycopg.Connection, payloads: Sequence[str], headers: Sequence[str]) -> None:
    from pgqueuer.adapters.persistence.qb import QueryQueueBuilder

    count = len(payloads)
    RawCursor(connection).execute(
        QueryQueueBuilder().build_enqueue_query().encode(),
        [
            [0] * count,
            [ENTRYPOINT] * count,
            [payload.encode() for payload in payloads],
            [timedelta()] * count,
            [None] * count,
            list(headers),
        ],
    )


def _script(_connection: psycopg.Connection, turn: Turn) -> Script:
    from pgqueuer.adapters.persistence.qb import QueryQueueBuilder

    if turn.outcomes:
        raise BenchmarkError("PgQueuer writes nothing with an acknowledgement.")
    builder = QueryQueueBuilder()
    dequeue = builder.build_dequeue_query(
        batch_size=turn.batch,
        entrypoints=[ENTRYPOINT],
        concurrency_limits=[0],
        queue_manager_id=UUID(int=0),
        global_concurrency_limit=None,
        heartbeat_timeout=timedelta(seconds=queues.LEASE_SECONDS),
    )
    if not dequeue.sql.rstrip().endswith(_LAST_LINE):
        raise BenchmarkError("PgQueuer's dequeue does not end as that of version 1.6.")
    claim = dequeue.sql.rstrip().removesuffix(_LAST_LINE) + _GATHERED
    return Script(
        queues.placed(claim, ["batch", "entrypoints", "manager", "heartbeat"]),
        queues.placed(builder.build_log_job_query(), ["ids", "statuses", "tracebacks"]),
        {
            "batch": str(turn.batch),
            "entrypoints": f"{{{ENTRYPOINT}}}",
            "manager": str(UUID(int=0)),
            "heartbeat": f"{queues.LEASE_SECONDS} s",
            "statuses": f"{{{','.join(['successful'] * turn.batch)}}}",
            "tracebacks": f"{{{','.join(['NULL'] * turn.batch)}}}",
        },
    )


PRODUCT: Final = Product(
    name="pgqueuer",
    install=_install,
    empty=_SQL["empty"],
    fill=_fill,
    script=_script,
    state=_SQL["state"],
    settle=_SQL["settle"],
)
