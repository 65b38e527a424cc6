"""One statement on one connection, without a cursor.

psycopg's cursors adapt types, build rows and prepare by a history of their own; for the few
statements that every call of the service runs, that was more work than PostgreSQL's answer.
Here a statement is prepared once on each connection, its parameters are sent as text that
PostgreSQL reads by the casts in the statement, and the answer is that text again. Only
libpq is used for it, through ``psycopg.pq``, which psycopg documents as its low level; the
connection stays psycopg's own and can be used with cursors before and after.

A wait can be cancelled. The connection is then still at work, and must be closed: the pool
does that with whatever is given back to it in that state.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias
from weakref import WeakKeyDictionary

import psycopg
from psycopg import errors, pq

from counterfoil.server.core.errors import invariant
from counterfoil.server.db.pool import Connection

Parameter: TypeAlias = "str | int | bool | Sequence[int] | None"
"""What a statement can be given. A sequence becomes an array."""

Row: TypeAlias = "tuple[str | None, ...]"
"""A row as PostgreSQL wrote it."""

_PLACEHOLDER: Final = re.compile(r"%\((?P<name>[a-z_]+)\)s")
_ANSWERED: Final = frozenset({pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK})

_prepared: Final[WeakKeyDictionary[Connection, set[bytes]]] = WeakKeyDictionary()
"""The names of the statements that are prepared on each connection."""


class Statement:
    """A statement of a ``.sql`` file, to be run as often as one likes.

    Args:
        name: its name in the file; unique among all that share a connection.
        sql: its text, with psycopg's placeholders ``%(name)s``, each with a cast: PostgreSQL
            is told no types.
    """

    def __init__(self, name: str, sql: str) -> None:
        self._name = f"counterfoil_{name}".encode("ascii")
        names = list(dict.fromkeys(match["name"] for match in _PLACEHOLDER.finditer(sql)))
        self._parameters = tuple(names)
        numbered = _PLACEHOLDER.sub(lambda match: f"${names.index(match['name']) + 1}", sql)
        self._sql = numbered.encode()

    async def run(
        self, connection: Connection, parameters: Mapping[str, Parameter], *, prepare: bool
    ) -> list[Row]:
        """Run it as a transaction of its own, and return its rows.

        Args:
            connection: in autocommit, idle, and used by nobody else meanwhile.
            parameters: a value for each placeholder.
            prepare: keep it prepared on the connection.

        Raises:
            psycopg.Error: as psycopg's own cursors raise it.
        """
        invariant(parameters.keys() == set(self._parameters), "each placeholder has its value")
        values = [_text(parameters[name]) for name in self._parameters]
        pgconn = connection.pgconn
        if not prepare:
            pgconn.send_query_params(self._sql, values)
        else:
            prepared = _prepared.setdefault(connection, set())
            if self._name not in prepared:
                pgconn.send_prepare(self._name, self._sql)
                await _answer(connection)
                prepared.add(self._name)
            pgconn.send_query_prepared(self._name, values)
        result = await _answer(connection)
        # The statement is its own transaction: an idle connection has committed it.
        if pgconn.transaction_status != pq.TransactionStatus.IDLE:
            raise psycopg.OperationalError("the connection did not come to rest after the commit")
        get, columns = result.get_value, range(result.nfields)
        return [
            tuple(
                [
                    value if (value := get(row, column)) is None else value.decode()
                    for column in columns
                ]
            )
            for row in range(result.ntuples)
        ]


async def _answer(connection: Connection) -> pq.abc.PGresult:
    """Send what is to be sent, and wait for the one result that it has."""
    pgconn = connection.pgconn
    while pgconn.flush():
        # What the server says meanwhile is read, or both sides could wait for the other.
        if await _ready(pgconn.socket, to_write=True):
            pgconn.consume_input()
    results: list[pq.abc.PGresult] = []
    try:
        while (result := await _next_result(pgconn)) is not None:
            results.append(result)
    except psycopg.OperationalError:
        # A server that closes the connection has said why just before.
        if all(result.status in _ANSWERED for result in results):
            raise
    for result in results:
        if result.status not in _ANSWERED:
            raise errors.error_from_result(result, encoding="utf-8")
    if len(results) != 1:
        raise psycopg.OperationalError("the server ended the connection without an answer")
    return results[0]


async def _next_result(pgconn: pq.abc.PGconn) -> pq.abc.PGresult | None:
    """Wait for the next result of what was sent; None after the last."""
    while pgconn.is_busy():
        await _ready(pgconn.socket)
        pgconn.consume_input()
    return pgconn.get_result()


async def _ready(socket: int, *, to_write: bool = False) -> bool:
    """Wait until a socket can be read, or written too where that is asked; True if read."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[bool] = loop.create_future()

    def wake(*, readable: bool) -> None:
        if not future.done():
            future.set_result(readable)

    loop.add_reader(socket, lambda: wake(readable=True))
    if to_write:
        loop.add_writer(socket, lambda: wake(readable=False))
    try:
        return await future
    finally:
        loop.remove_reader(socket)
        if to_write:
            loop.remove_writer(socket)


def _text(value: Parameter) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, str):
        if "\0" in value:
            # To libpq the text would end there.
            raise psycopg.DataError("PostgreSQL text cannot contain a NUL")
        return value.encode()
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, int):
        return b"%d" % value
    return b"{%b}" % b",".join(b"%d" % number for number in value)
