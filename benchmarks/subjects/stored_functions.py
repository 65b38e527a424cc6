"""Products that are functions in PostgreSQL, called by pgbench.

pgbench is a C program with a socket for each client and prepared statements: no library could
call the functions with less between. Every call sends the same event, as for the plain table
(``plain_postgresql.py``); what must be unique is made by the script.
"""

from collections.abc import Iterable, Sequence
from typing import Final, LiteralString

import psycopg

from benchmarks.harness.model import BenchmarkError, Roles, Stage
from benchmarks.subjects.plain_postgresql import PlainPostgresql

DOORS: Final = "pgbench, prepared statements, Unix socket"


class StoredFunctions:
    """A product in a database of its own, with what was acknowledged of it.

    Made by ``opened`` of ``message_db`` and ``pgmq``.
    """

    def __init__(self, stage: Stage, database: str, *, count: LiteralString) -> None:
        """``count`` is the statement that counts its events."""
        self._stage = stage
        self._count = count
        self._pgbench = PlainPostgresql(stage, database)
        self._acknowledged = 0

    def roles(self) -> Roles:
        """Whose CPU time is whose."""
        return self._pgbench.roles()

    def append(
        self, script: str, seconds: float, *, clients: int, events: int, variables: Iterable[str]
    ) -> dict[str, float]:
        """Run a script of pgbench that appends so many events; returns the cell's figures."""
        path = self._stage.folder / f"{self._pgbench.database}.sql"
        path.write_text(script)
        figures = self._pgbench.pgbench(
            path, seconds, clients=clients, rows=events, variables=list(variables)
        )
        self._acknowledged += round(figures["events"])
        return figures

    def check(self) -> None:
        """Raise BenchmarkError unless the tables hold what was acknowledged.

        pgbench waits for the answers of all transactions, so it is this and not more.
        """
        with psycopg.connect(self._pgbench.database_url) as connection:
            row = connection.execute(self._count).fetchone()
        count = row[0] if row else 0
        if count != self._acknowledged:
            raise BenchmarkError(
                f"{self._pgbench.database} has {count:,} events; {self._acknowledged:,} were "
                "acknowledged."
            )


def one_or_array(texts: Sequence[str]) -> str:
    """The value of a parameter: a text alone as it is, several as PostgreSQL's array."""
    if len(texts) == 1:
        return texts[0]
    quoted = (text.replace("\\", "\\\\").replace('"', '\\"') for text in texts)
    return "{" + ",".join(f'"{text}"' for text in quoted) + "}"
