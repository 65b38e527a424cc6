"""The usual tutorial's design, over HTTP: ``tutorial_app.py`` under uvicorn, two workers.

Of the work it carries the agent, the type and the payload. It has no tags, so it is spared
them. It gets uvicorn's fast parts (uvloop, httptools), no access log, and the database over
the Unix socket. What bounds it is the processor: a connection costs about 7 ms of it, of which
4 are PostgreSQL's new process and 3 the check of the password (SCRAM, with the 4,096 rounds
that are PostgreSQL's default).
"""

import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg

from benchmarks.harness import processes, requests, work, wrk
from benchmarks.harness.model import BenchmarkError, Roles, Stage
from counterfoil.server.db import sqlfile

DOORS: Final = "HTTP, kept-alive connections, wrk"

API_KEY: Final = "benchmark"
WORKERS: Final = 2
TEMPLATES: Final = 5_000
WARM_UP_SECONDS: Final = 1


_SQL = sqlfile.load("benchmarks.subjects", "tutorial.sql")


class Tutorial:
    """The running program and its table. Made by ``opened``."""

    def __init__(self, stage: Stage, database: str, port: int) -> None:
        self._stage = stage
        self._requests: Path | None = None
        self._acknowledged = 0
        self._unanswered = 0
        self.database_url = stage.cluster.url(database)
        self.host = "127.0.0.1"
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        return f"http://{self.host}:{self.port}"

    @property
    def headers(self) -> Mapping[str, str]:
        """What every call has to bring."""
        return {"X-API-Key": API_KEY}

    def roles(self) -> Roles:
        """Whose CPU time is whose. Raises BenchmarkError when the program has ended."""
        if self.process is None or self.process.poll() is not None:
            raise BenchmarkError("The tutorial's program ended during the run.")
        return {
            "postgresql": [self._stage.cluster.postmaster_pid],
            "service": [self.process.pid],
        }

    def closed_loop(self, seconds: float, *, connections: int) -> dict[str, float]:
        """Append as fast as so many connections go; returns the cell's figures."""
        if self._requests is None:
            self._requests = self._write_requests()
        warm_up = self._drive(WARM_UP_SECONDS, connections)
        result = self._drive(round(seconds), connections)
        return {
            "events_per_second": result.per_second,
            **result.latencies(),
            "errors": 0.0,
            "events": float(warm_up.requests + result.requests),
        }

    def check(self) -> None:
        """Raise BenchmarkError unless the table holds what was acknowledged."""
        with psycopg.connect(self.database_url) as connection:
            row = connection.execute(_SQL["count"]).fetchone()
        count = row[0] if row else 0
        # wrk stops without waiting for the last answers, at most one a connection.
        if not self._acknowledged <= count <= self._acknowledged + self._unanswered:
            raise BenchmarkError(
                f"The tutorial's table has {count:,} rows; {self._acknowledged:,} were "
                f"acknowledged, and at most {self._unanswered:,} more were sent."
            )

    def _write_requests(self) -> Path:
        bodies = (event.body() for event in work.events(count=TEMPLATES))
        rendered = (
            requests.render(
                "/agent-events",
                {name: value for name, value in body.items() if name != "tags"},
                host=f"{self.host}:{self.port}",
                headers=self.headers,
            )
            for body in bodies
        )
        return requests.write(self._stage.folder / "tutorial.requests", rendered)

    def _drive(self, seconds: int, connections: int) -> wrk.WrkResult:
        assert self._requests is not None
        result = wrk.run(
            self.url,
            "requests.lua",
            [str(self._requests), 0],
            connections=connections,
            seconds=seconds,
        )
        self._acknowledged += result.requests
        self._unanswered += connections
        return result


@contextmanager
def opened(stage: Stage, database: str) -> Iterator[Tutorial]:
    """Run the program on a new database while the block does; then check its table.

    Raises:
        BenchmarkError: it does not start, or the table is not what was acknowledged.
    """
    url = stage.cluster.create_database(database, migrated=False)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_SQL["table"])
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    subject = Tutorial(stage, database, port)
    command = [sys.executable, "-m", "uvicorn", "benchmarks.subjects.tutorial_app:app"]
    command += ["--port", str(port), "--workers", str(WORKERS), "--no-access-log"]
    command += ["--loop", "uvloop", "--http", "httptools"]
    log = stage.folder / "tutorial.log"
    with log.open("wb") as output:
        subject.process = subprocess.Popen(
            command,
            env={"DATABASE_URL": url, "API_KEY": API_KEY},
            cwd=Path(__file__).parents[2],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is ours to answer
        )
    try:
        processes.wait_until_it_listens(
            subject.process, port, name="The tutorial's program", log=log
        )
        yield subject
    finally:
        processes.stop(subject.process)
    subject.check()
    stage.cluster.drop_database(database)
