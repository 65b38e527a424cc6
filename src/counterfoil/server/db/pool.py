"""Connections: who the service is to the database, and what it never waits for too long.

Each pooled connection is autocommit: one statement is one transaction, and nothing is
left open between two requests. Each is made to act as ``counterfoil_service``, whoever
logged in, so that no code path of the service holds a right to change an event:

* A login of production is a member of that role and of nothing else; nothing to do.
* A login that could write (the owner, in ``counterfoil dev``) lays its rights down with
  ``SET ROLE``. Behind a pooler of transactions a session's role would leak to whoever is
  served next, so there such a login is refused.
* Any other login is refused, with what an administrator has to do.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection, errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from counterfoil.server.core import limits
from counterfoil.server.core.errors import DatabaseUnavailable
from counterfoil.server.db import sqlfile

SERVICE_ROLE: Final = "counterfoil_service"

RECONNECT_SECONDS_MAX: Final = 2.0
"""How long the pool itself tries to reconnect. Short, since each waiting request starts a
new attempt: the service is back within a second or two of the database, whereas a long
back-off would let it stay away for minutes."""

IDLE_SECONDS_MAX: Final = 300.0
"""How long a connection above the minimum stays open unused."""

UNLESS_SAID_OTHERWISE: Final[Mapping[str, str]] = {
    # A server that is gone without a word (power, network) is given up on in seconds, where
    # the system's own patience is a quarter of an hour. Milliseconds; the others are seconds.
    "connect_timeout": "3",
    "tcp_user_timeout": "15000",
    "keepalives_idle": "5",
    "keepalives_interval": "3",
    "keepalives_count": "3",
}
"""libpq's parameters for a connection whose address does not set them itself."""

_LOGIN_REFUSED: Final = re.compile(
    r"authentication failed|no password supplied|no pg_hba\.conf entry|no such (user|database)"
    r'|role ".*" (does not exist|is not permitted to log in)|database ".*" does not exist'
    r"|permission denied for database"
)
"""What PostgreSQL, libpq and pgbouncer say of a login that will not work by waiting. libpq
gives no SQLSTATE of a connection that was not made, so the text is all there is."""

_SQL = sqlfile.load("counterfoil.server.db", "pool.sql")

Connection = AsyncConnection[tuple[object, ...]]


def patient_only_for_seconds(url: str) -> str:
    """The connection string with ``UNLESS_SAID_OTHERWISE`` filled in."""
    said = conninfo_to_dict(url)
    unsaid = {name: value for name, value in UNLESS_SAID_OTHERWISE.items() if name not in said}
    return make_conninfo(url, **unsaid)


def login_refused(error: psycopg.OperationalError) -> bool:
    """Whether a connection was not made because of its login, and not because of the way there.

    Known in English only: a server that speaks another language counts as away.
    """
    return _LOGIN_REFUSED.search(str(error)) is not None


class UnfitDatabase(psycopg.OperationalError):
    """The database answers, but the service must not work on it. ``str()`` says why."""


class Pool:
    """Connections to one database for one purpose, each acting as the service's role.

    Args:
        url: the connection string; never logged, never part of a message.
        name: what the connections are for; seen in ``pg_stat_activity`` as
            ``counterfoil <name>``.
        statement_milliseconds_max: how long one statement may run.
        size_min: how many connections are kept open; at least one.
        size_max: how many are opened at the most.
        prepare: keep prepared statements on the connections. Off behind a pooler that
            hands one session's connection to another (pgbouncer in transaction mode).
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        statement_milliseconds_max: int,
        size_min: int,
        size_max: int,
        prepare: bool = True,
    ) -> None:
        self.size_max = size_max
        self.prepare = prepare
        self._statement_milliseconds_max = statement_milliseconds_max
        self._url = patient_only_for_seconds(url)
        self._parameters: dict[str, Any] = {
            "autocommit": True,
            "application_name": f"counterfoil {name}",
            # Statements are sent in it, whatever the address or the environment says.
            "client_encoding": "utf8",
        }
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            self._url,
            min_size=size_min,
            max_size=size_max,
            open=False,
            name=name,
            configure=self._configure,
            timeout=limits.CONNECTION_WAIT_SECONDS_MAX,
            max_idle=IDLE_SECONDS_MAX,
            reconnect_timeout=RECONNECT_SECONDS_MAX,
            kwargs=self._parameters,
        )
        self.last_refusal: str | None = None
        """Why the last new connection was not fit for use; None since one was."""

    async def open(self) -> None:
        """Start connecting, without waiting for it: the database may come later."""
        await self._pool.open(wait=False)

    async def try_once(self) -> bool:
        """Make one connection as all are made, and close it again. Works before ``open``.

        Returns whether the operator's tenant has a key in force.

        Raises:
            UnfitDatabase: the service must not work there.
            psycopg.OperationalError: there is no connection; ``login_refused`` says whether
                there will be one when the database is back.
        """
        async with await AsyncConnection.connect(self._url, **self._parameters) as connection:
            await self._configure(connection)
            async with connection.transaction():
                await connection.execute(_SQL["act_for_operator"])
                row = await (await connection.execute(_SQL["has_keys"])).fetchone()
            return row == (True,)

    async def close(self) -> None:
        """Close all connections; those in use, when they are given back."""
        await self._pool.close()

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Borrow a connection.

        Raises:
            DatabaseUnavailable: none was to be had within ``CONNECTION_WAIT_SECONDS_MAX``.
        """
        try:
            connection = await self._pool.getconn()
        except (PoolTimeout, PoolClosed) as error:
            raise DatabaseUnavailable(
                self.last_refusal or "The database cannot be reached at the moment."
            ) from error
        try:
            yield connection
        finally:
            # Back to the pool even when the borrower is being cancelled; a broken or
            # busy connection is thrown away there.
            await self._pool.putconn(connection)

    async def _configure(self, connection: Connection) -> None:
        try:
            if not self.prepare:
                connection.prepare_threshold = None
            async with asyncio.timeout(limits.CONNECTION_WAIT_SECONDS_MAX):
                await self._become_the_service(connection)
                if self.prepare:
                    await connection.execute(
                        _SQL["bound_statements"],
                        {"milliseconds": str(self._statement_milliseconds_max)},
                    )
        except TimeoutError as error:
            raise psycopg.OperationalError(
                "the server takes connections and no statements"
            ) from error
        except psycopg.Error as error:
            self.last_refusal = str(error) if isinstance(error, UnfitDatabase) else None
            raise
        self.last_refusal = None

    async def _become_the_service(self, connection: Connection) -> None:
        """See that the connection has the service's rights and no others.

        Raises:
            UnfitDatabase: it has not, and cannot.
        """
        try:
            row = await (await connection.execute(_SQL["own_rights"])).fetchone()
            migrated, may_write, is_service = row if row is not None else (False, False, False)
            if not migrated:
                raise UnfitDatabase(
                    "The database holds no book yet: run `counterfoil migrate` first."
                )
            if is_service and not may_write:
                return
            if not self.prepare:
                raise UnfitDatabase(
                    "Behind a pooler the service needs a login of its own that may not write to "
                    f"the tables: one that is granted {SERVICE_ROLE} and nothing else."
                )
            await connection.execute(_SQL["act_as_service"])
        # The second: a dump was restored on a server that never had the role.
        except (errors.InsufficientPrivilege, errors.InvalidParameterValue) as error:
            raise UnfitDatabase(
                "The login of DATABASE_URL may not act as the service. Have an administrator run "
                f"`grant {SERVICE_ROLE} to` it; `counterfoil migrate` makes that role."
            ) from error
