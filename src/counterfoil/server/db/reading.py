"""Reads: one statement through a pool, again while its connection turns out to be dead.

Shared by every part that reads. What is answered is PostgreSQL's text, column by column;
the parts make of it what they show.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, TypeVar, cast

import psycopg

from counterfoil.server.core import limits
from counterfoil.server.core.errors import (
    DatabaseUnavailable,
    InvariantBroken,
    ReadTooSlow,
    invariant,
)
from counterfoil.server.db.pool import Pool
from counterfoil.server.db.statement import Parameter, Row, Statement

_UNREACHABLE: Final = "The database cannot be reached at the moment."

_Value = TypeVar("_Value")


class Reader:
    """Runs reading statements through a pool.

    Args:
        pool: where each read borrows a connection for as long as it takes.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def read(
        self, statement: Statement, parameters: Mapping[str, Parameter], *, tenant_id: int | None
    ) -> list[Row]:
        """Run one statement; again while its connection turns out to be dead.

        A restart of the database leaves up to a whole pool of dead connections behind, and
        a read can be repeated. What the server refuses itself is not.

        Args:
            statement: one that may run twice.
            parameters: a value for each of its placeholders.
            tenant_id: whose rows it may see; None for what belongs to no tenant.

        Raises:
            DatabaseUnavailable: the database cannot be reached, or does not answer.
            ReadTooSlow: the statement ran into its time limit.
        """
        for _ in range(self._pool.size_max + 1):
            async with self._pool.connection() as connection:
                try:
                    async with asyncio.timeout(limits.READ_SECONDS_MAX):
                        return await statement.run(
                            connection, parameters, prepare=self._pool.prepare, tenant_id=tenant_id
                        )
                except psycopg.errors.QueryCanceled as error:
                    raise ReadTooSlow(
                        "This read took too long in the database. Ask for fewer events, or by a tag."
                    ) from error
                except (psycopg.OperationalError, TimeoutError) as error:
                    if isinstance(error, TimeoutError) or not connection.closed:
                        raise DatabaseUnavailable(_UNREACHABLE) from error
        raise DatabaseUnavailable(_UNREACHABLE)


def there(value: _Value | None) -> _Value:
    """A value that the statement always answers."""
    invariant(value is not None, "the statement answers this column")
    return cast("_Value", value)


def first(rows: Sequence[Row]) -> Row:
    """The first row of a statement that always answers one: there is a book to each tenant."""
    if not rows:
        raise InvariantBroken("there is no book for this tenant")
    return rows[0]


def only(rows: Sequence[Row]) -> Row:
    """The one row of a statement that always answers one."""
    invariant(len(rows) <= 1, "the statement answers one row")
    return first(rows)
