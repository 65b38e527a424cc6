"""One statement on one connection, without a cursor.

psycopg's cursors adapt types, build rows and prepare by a history of their own; for the few
statements that every call of the service runs, that was more work than PostgreSQL's answer.
Here a statement is prepared once on each connection, its parameters are sent as text that
PostgreSQL reads by the casts in the statement, and the answer is that text again. Only
libpq is used for it, through ``psycopg.pq``, which psycopg documents as its low level; the
connection stays psycopg's own and can be used with cursors before and after.

What belongs to a tenant runs as that tenant's: the setting that row-level security goes by is
made for one transaction, and sent in one go with the statement (libpq's pipeline mode). Both
are one implicit transaction, which ends with the answer, and the setting with it; so it works
behind a pooler that lends one session to many, and costs no way to the server and back.

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
from counterfoil.server.db import sqlfile
from counterfoil.server.db.pool import Connection

Parameter: TypeAlias = "str | int | bool | Sequence[int | str | None] | None"
"""What a statement can be given. A sequence becomes an array."""

Row: TypeAlias = "tuple[str | None, ...]"
"""A row as PostgreSQL wrote it."""

_PLACEHOLDER: Final = re.compile(r"%\((?P<name>[a-z_]+)\)s")
_TENANT: Final = (
    sqlfile.load("counterfoil.server.db", "pool.sql")["act_for_tenant"]
    .replace("%(tenant_id)s", "$1")
    .encode()
)
_TENANT_NAME: Final = b"counterfoil_tenant"
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
        self,
        connection: Connection,
        parameters: Mapping[str, Parameter],
        *,
        prepare: bool,
        tenant_id: int | None = None,
    ) -> list[Row]:
        """Run it as a transaction of its own, and return its rows.

        Args:
            connection: in autocommit, idle, and used by nobody else meanwhile.
            parameters: a value for each placeholder.
            prepare: keep it prepared on the connection.
            tenant_id: whose rows it may see; None for what belongs to no tenant.

        Raises:
            psycopg.Error: as psycopg's own cursors raise it.
        """
        invariant(parameters.keys() == set(self._parameters), "each placeholder has its value")
        values = [_text(parameters[name]) for name in self._parameters]
        pgconn = connection.pgconn
        if prepare:
            await _prepare(connection, self._name, self._sql)
            if tenant_id is not None:
                await _prepare(connection, _TENANT_NAME, _TENANT)
        if tenant_id is not None:
            pgconn.enter_pipeline_mode()
            _send(pgconn, _TENANT_NAME if prepare else None, _TENANT, [b"%d" % tenant_id])
        _send(pgconn, self._name if prepare else None, self._sql, values)
        if tenant_id is not None:
            pgconn.pipeline_sync()
            _, result = await _answers(connection, 2)
            pgconn.exit_pipeline_mode()
        else:
            (result,) = await _answers(connection, 1)
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


def statements_of(package: str) -> dict[str, Statement]:
    """The statements of a package's ``queries.sql``, by name.

    On a connection they are prepared under the package's name and their own: two packages
    may each have one called ``list``.
    """
    part = package.rpartition(".")[2]
    return {
        name: Statement(f"{part}_{name}", sql)
        for name, sql in sqlfile.load(package, "queries.sql").items()
    }


async def _prepare(connection: Connection, name: bytes, sql: bytes) -> None:
    prepared = _prepared.setdefault(connection, set())
    if name not in prepared:
        connection.pgconn.send_prepare(name, sql)
        await _answers(connection, 1)
        prepared.add(name)


def _send(
    pgconn: pq.abc.PGconn, name: bytes | None, sql: bytes, values: Sequence[bytes | None]
) -> None:
    if name is None:
        pgconn.send_query_params(sql, values)
    else:
        pgconn.send_query_prepared(name, values)


async def _answers(connection: Connection, count: int) -> list[pq.abc.PGresult]:
    """Send what is to be sent, and wait for the results that it has, ``count`` of them."""
    pgconn = connection.pgconn
    while pgconn.flush():
        # What the server says meanwhile is read, or both sides could wait for the other.
        if await _ready(pgconn.socket, to_write=True):
            pgconn.consume_input()
    results: list[pq.abc.PGresult] = []
    try:
        await _gather(pgconn, results)
    except psycopg.OperationalError:
        # A server that closes the connection has said why just before.
        if all(result.status in _ANSWERED for result in results):
            raise
    for result in results:
        if result.status not in _ANSWERED:
            if pgconn.pipeline_status != pq.PipelineStatus.OFF and not _is_lost(pgconn):
                pgconn.exit_pipeline_mode()
            raise errors.error_from_result(result, encoding="utf-8")
    if len(results) != count:
        raise psycopg.OperationalError("the server ended the connection without an answer")
    return results


async def _gather(pgconn: pq.abc.PGconn, results: list[pq.abc.PGresult]) -> None:
    """Collect the results of what was sent, up to the end of the pipeline where there is one."""
    if pgconn.pipeline_status == pq.PipelineStatus.OFF:
        while (result := await _next_result(pgconn)) is not None:
            results.append(result)
        return
    while not _is_lost(pgconn):
        result = await _next_result(pgconn)
        # None is the end of one of its statements.
        if result is not None:
            if result.status == pq.ExecStatus.PIPELINE_SYNC:
                return
            results.append(result)


def _is_lost(pgconn: pq.abc.PGconn) -> bool:
    return pgconn.status == pq.ConnStatus.BAD


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
    return _text(
        f"{{{','.join([str(one) if type(one) is int else _element(one) for one in value])}}}"
    )


def _element(value: int | str | None) -> str:
    """A text, or nothing, as it stands in the text of an array."""
    if value is None:
        return "NULL"
    quoted = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}"'
