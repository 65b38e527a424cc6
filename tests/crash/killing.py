"""kill -9 of a whole PostgreSQL."""

import contextlib
import os
import signal

import psycopg

from counterfoil.server.db.embedded import EmbeddedPostgres
from tests.support.waiting import wait_for


def kill_all(server: EmbeddedPostgres) -> None:
    """End the server and every process of it without warning, at one moment."""
    with psycopg.connect(server.url) as connection:
        processes = [pid for (pid,) in connection.execute("select pid from pg_stat_activity")]
    assert server.pid is not None
    # The postmaster first: it would otherwise see a child die, and clean up.
    for pid in (server.pid, *processes):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: server.pid is None, "the killed server to be gone")
