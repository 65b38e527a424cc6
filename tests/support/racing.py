"""Races between sessions of the database alone: held still, looked at, and let go.

As in ``gates``, but by direct SQL, with nothing of the service between the interleaving and
what is proved. Each session keeps its transaction open until it is told to commit::

    one, other = race.session(), race.session()
    held = consume(one.connection, claim())            # uncommitted: its locks are the gate
    waiting = race.begin(consume, other.connection, …)
    race.waits_for(other, one)                         # seen, not guessed
    one.commit()
    assert waiting.result(…)

Whoever waits does so for LOCK_WAIT_MILLISECONDS_MAX (2 s) and no longer.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Final, TypeVar

import psycopg
import pytest

from tests.db.book import ACT_FOR
from tests.support.cluster import Database
from tests.support.waiting import ARRIVAL_SECONDS_MAX, WAIT_SECONDS_MAX, wait_for

T = TypeVar("T")

_SESSIONS_MAX: Final = 8


class RacingSession:
    """An independent session of the service, whose transaction stays open."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection = connection

    @property
    def pid(self) -> int:
        """The server process of this session."""
        return self.connection.info.backend_pid

    def commit(self) -> None:
        """End the transaction; what was done in it is done."""
        self.connection.commit()

    def rollback(self) -> None:
        """End the transaction; nothing was done in it."""
        self.connection.rollback()


class Race:
    """Sessions, who waits for whom among them, and an owner who sees it all."""

    def __init__(self, database: Database, stack: ExitStack) -> None:
        self._database = database
        self._stack = stack
        self._pool = stack.enter_context(ThreadPoolExecutor(_SESSIONS_MAX))
        self.owner = stack.enter_context(psycopg.connect(database.url, autocommit=True))
        """A superuser's session, each of whose statements is committed at once."""
        self.service = stack.enter_context(psycopg.connect(database.url, autocommit=True))
        """The service's, likewise."""
        self._become_the_service(self.service)

    def session(self) -> RacingSession:
        """One more session."""
        connection = psycopg.connect(self._database.url, application_name="racing")
        self._stack.callback(connection.close)
        self._become_the_service(connection)
        connection.commit()
        return RacingSession(connection)

    def begin(self, call: Callable[..., T], *args: Any, **more: Any) -> Future[T]:
        """Start something that will have to wait."""
        return self._pool.submit(call, *args, **more)

    def waits_for(self, waiting: RacingSession, *blocking: RacingSession) -> None:
        """See a session wait for these others, and for nobody else."""
        wanted = sorted(session.pid for session in blocking)

        def look() -> bool:
            row = self.owner.execute(
                "select a.wait_event_type = 'Lock', pg_blocking_pids(a.pid)"
                " from pg_stat_activity as a where a.pid = %s",
                [waiting.pid],
            ).fetchone()
            return row is not None and row[0] is True and sorted(row[1]) == wanted

        wait_for(look, f"{waiting.pid} to wait for {wanted}", ARRIVAL_SECONDS_MAX)

    def locks(self, statement: str, *values: object) -> RacingSession:
        """A superuser's session that has run a statement, and holds what it has locked."""
        connection = psycopg.connect(self._database.url, application_name="gate")
        self._stack.callback(connection.close)
        connection.execute(statement, values or None)
        return RacingSession(connection)

    @staticmethod
    def _become_the_service(connection: psycopg.Connection) -> None:
        connection.execute("set role counterfoil_service")
        connection.execute(ACT_FOR, ["1"])


def result(begun: Future[T]) -> T:
    """What something that was begun answers, now that nothing stands in its way."""
    return begun.result(WAIT_SECONDS_MAX)


@pytest.fixture
def race(database: Database) -> Iterator[Race]:
    """Sessions at a database of the test's own."""
    with ExitStack() as stack:
        yield Race(database, stack)
