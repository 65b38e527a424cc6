"""Plain PostgreSQL, driven by its own pgbench: what the same server does without us.

The rows have the columns of ``counterfoil.events`` and the same number of bytes, in a table
without any index but its key. All is made as cheap for it as can be: prepared statements,
over the Unix socket, every row the same, salt and digest sent ready-made, no tag table.
"""

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg

from benchmarks.harness import work
from benchmarks.harness.figures import latency_figures
from benchmarks.harness.model import BenchmarkError, Roles, Stage
from counterfoil.server.db import sqlfile

DOORS: Final = "pgbench, prepared statements, Unix socket"

WARM_UP_SECONDS: Final = 1
WARM_UP_CLIENTS_PER_SECOND: Final = 128
"""With more clients, the warm-up is so much longer: each has a new server process, whose first
transactions fill its caches."""

_SQL = sqlfile.load("benchmarks.subjects", "plain_postgresql.sql")


class PlainPostgresql:
    """A table in a database of its own. Made by ``opened``."""

    def __init__(self, stage: Stage, database: str) -> None:
        self._stage = stage
        self.database = database
        self.database_url = stage.cluster.url(database)

    def roles(self) -> Roles:
        """Whose CPU time is whose."""
        return {"postgresql": [self._stage.cluster.postmaster_pid]}

    def insert_rows(self, seconds: float, *, clients: int) -> dict[str, float]:
        """Insert one row a transaction with so many clients; returns the cell's figures."""
        script = self._stage.folder / "insert_row.sql"
        script.write_text(_SQL["insert_row"] + ";\n")
        return self.pgbench(script, seconds, clients=clients, variables=row_variables())

    def pgbench(
        self,
        script: Path,
        seconds: float,
        *,
        clients: int,
        rows: int = 1,
        mode: str = "prepared",
        variables: Sequence[str] = (),
    ) -> dict[str, float]:
        """Run a script of pgbench; figures are of what ended after the warm-up.

        The log of transactions is read instead of pgbench's own summary, which has neither
        percentiles nor a warm-up: with 256 clients, the first transaction of each fills the
        caches of a new server process, and that is not what is asked.

        Raises:
            BenchmarkError: pgbench failed, or a transaction did.
        """
        threads = min(clients, 2)
        warm_up = WARM_UP_SECONDS + clients // WARM_UP_CLIENTS_PER_SECOND
        with tempfile.TemporaryDirectory(dir=self._stage.folder) as logs:
            command: list[str | Path] = [self._stage.cluster.binaries / "pgbench", "--no-vacuum"]
            command += ["--file", script, "--protocol", mode, "--log", "--log-prefix", "log"]
            command += ["--client", str(clients), "--jobs", str(threads)]
            command += ["--time", str(warm_up + round(seconds))]
            for variable in variables:
                command += ["--define", variable]
            done = subprocess.run(
                command,
                cwd=logs,
                env=dict(self._stage.cluster.environment(self.database)),
                capture_output=True,
                text=True,
                check=False,
                timeout=seconds + 120,
            )
            if done.returncode:
                raise BenchmarkError(f"pgbench failed: {done.stderr.strip()[-1000:]}")
            transactions = sorted(
                transaction
                for path in Path(logs).iterdir()
                for transaction in read_log(path.read_text())
            )
        return figures(transactions, rows=rows, warm_up=warm_up)


def row_variables() -> list[str]:
    """One event of the work, as pgbench's variables."""
    event = next(work.events(count=1))
    tags = ",".join(event.tags)
    return [
        f"agent={event.agent_name}",
        f"type={event.event_type}",
        f"payload={event.payload_text}",
        f"tags={{{tags}}}",
        rf"salt=\x{'5a' * 16}",
        rf"digest=\x{'a5' * 32}",
    ]


def read_log(text: str) -> Iterator[tuple[float, float]]:
    """When each transaction ended, in seconds, and how long it took, in milliseconds.

    Raises BenchmarkError for a transaction that failed.
    """
    for line in text.splitlines():
        # client, number, microseconds, script, end in seconds and microseconds
        _, _, latency, _, end_seconds, end_microseconds, *_ = line.split()
        if not latency.isdigit():
            raise BenchmarkError(f"a transaction of pgbench ended as {latency!r}")
        yield int(end_seconds) + int(end_microseconds) / 1e6, int(latency) / 1e3


def figures(
    transactions: Sequence[tuple[float, float]], *, rows: int, warm_up: float
) -> dict[str, float]:
    """A cell's figures, of transactions in the order of their end.

    Those of the first ``warm_up`` seconds count only for ``events``.
    """
    if not transactions:
        raise BenchmarkError("pgbench did not finish a single transaction")
    start = transactions[0][0] + warm_up
    measured = [latency for end, latency in transactions if end >= start]
    seconds = transactions[-1][0] - start
    if not measured or seconds <= 0:
        raise BenchmarkError("pgbench finished no transaction after its warm-up")
    return {
        "events_per_second": len(measured) * rows / seconds,
        **latency_figures(measured),
        "errors": 0.0,
        "events": float(len(transactions) * rows),
    }


@contextmanager
def opened(stage: Stage, database: str) -> Iterator[PlainPostgresql]:
    """A new database with the table while the block does."""
    url = stage.cluster.create_database(database, migrated=False)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_SQL["table"])
    yield PlainPostgresql(stage, database)
    stage.cluster.drop_database(database)
