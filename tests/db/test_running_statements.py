"""Statements without cursors: what they are given, what they answer, how they fail.

They replace psycopg's cursors where every call of the service passes, so they are held
against psycopg's cursors: the same errors, and connections in the same state afterwards.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from contextlib import asynccontextmanager

import psycopg
import pytest
from psycopg import pq

from counterfoil.server.core.errors import InvariantBroken
from counterfoil.server.db.pool import Connection, Pool
from counterfoil.server.db.statement import Parameter, Statement
from tests.support.cluster import Cluster, Database
from tests.support.gates import Book, Gate, opened_book
from tests.support.starting import Start, start
from tests.support.waiting import WAIT_SECONDS_MAX, eventually

pytestmark = pytest.mark.anyio

__all__ = ["start"]

Rows = list[tuple[str | None, ...]]

GATE = 20_261_122
"""The advisory lock that a statement waits for. Any number that nothing else uses."""

BEHIND_THE_GATE = Statement(
    "behind_the_gate",
    "select %(secret)s::text from pg_advisory_xact_lock_shared(%(gate)s::bigint)",
)

both_ways = pytest.mark.parametrize("prepare", [True, False])


@pytest.fixture(scope="module")
def database(cluster: Cluster) -> Iterator[Database]:
    """One for all: nothing here is stored."""
    with cluster.database() as fresh:
        yield fresh


@pytest.fixture
async def connection(database: Database) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as opened:
        yield opened


@pytest.fixture
async def observer(database: Database) -> AsyncIterator[Book]:
    async with opened_book(database.url) as book:
        yield book


@asynccontextmanager
async def pool_of_one(url: str) -> AsyncIterator[Pool]:
    """A pool that has to give its one connection to everybody in turn."""
    pool = Pool(url, name="tests", statement_milliseconds_max=60_000, size_min=1, size_max=1)
    await pool.open()
    try:
        yield pool
    finally:
        await pool.close()


@asynccontextmanager
async def closed_gate(observer: Book) -> AsyncIterator[Gate]:
    """Whoever goes through the gate waits, until it is opened."""
    async with observer.session(role=None) as session:
        await session.execute("select pg_advisory_xact_lock(%s)", GATE)
        yield session


async def at_the_gate(observer: Book, pid: int) -> None:
    """Wait until this server process waits for a lock."""

    async def look() -> bool:
        return bool(
            await observer.rows(
                "select from pg_stat_activity where pid = %s and wait_event_type = 'Lock'", pid
            )
        )

    await eventually(look, "the statement to wait")


async def rows_of(
    connection: Connection,
    statement: Statement,
    parameters: Mapping[str, Parameter],
    *,
    prepare: bool,
) -> Rows:
    """Run a statement; its rows, which must not depend on how the product holds them."""
    return [tuple(row) for row in await statement.run(connection, parameters, prepare=prepare)]


async def run(
    connection: Connection, sql: str, parameters: Mapping[str, Parameter] | None = None
) -> Rows:
    """Run a statement once; without keeping it prepared, since its name is any statement's."""
    return await rows_of(connection, Statement("once", sql), parameters or {}, prepare=False)


# --- Parameters and rows ----------------------------------------------------------


@both_ways
@pytest.mark.parametrize(
    ("value", "type_name", "written"),
    [
        (None, "text", None),
        ("", "text", ""),
        ('it\'s {"a", \\n} %s %(x)s $1 ü 😀', "text", 'it\'s {"a", \\n} %s %(x)s $1 ü 😀'),
        ('{"n": 1.50, "é": "\\u0001"}', "jsonb", '{"n": 1.50, "é": "\\u0001"}'),
        (0, "bigint", "0"),
        (-(2**63), "bigint", str(-(2**63))),
        (2**63 - 1, "bigint", str(2**63 - 1)),
        (True, "boolean", "t"),
        (False, "boolean", "f"),
        ([], "bigint[]", "{}"),
        ([3, -1, 2**63 - 1], "bigint[]", "{3,-1,9223372036854775807}"),
        ((7,), "bigint[]", "{7}"),
    ],
)
async def test_values_arrive_as_they_are(
    connection: Connection, value: Parameter, type_name: str, written: str | None, prepare: bool
) -> None:
    statement = Statement(f"value_{type_name.rstrip('[]')}", f"select %(value)s::{type_name}")
    for _ in range(2):
        assert await rows_of(connection, statement, {"value": value}, prepare=prepare) == [
            (written,)
        ]


@both_ways
async def test_each_placeholder_has_its_own_value_wherever_it_stands(
    connection: Connection, prepare: bool
) -> None:
    statement = Statement(
        "placeholders", "select %(b)s::text, %(a)s::text, %(b)s::text, 'it''s 100%'"
    )
    for b in "xy":
        answered = await rows_of(connection, statement, {"a": "1", "b": b}, prepare=prepare)
        assert answered == [(b, "1", b, "it's 100%")]


@both_ways
async def test_rows_are_all_there_in_their_order(connection: Connection, prepare: bool) -> None:
    rows = Statement("rows", "select n, nullif(n, 2) from generate_series(1, %(to)s::integer) n")
    assert await rows_of(connection, rows, {"to": 3}, prepare=prepare) == [
        ("1", "1"),
        ("2", None),
        ("3", "3"),
    ]
    assert await rows_of(connection, rows, {"to": 0}, prepare=prepare) == []
    assert len(await rows_of(connection, rows, {"to": 20_000}, prepare=prepare)) == 20_000
    nothing = Statement("nothing", "select from generate_series(1, 2)")
    assert await rows_of(connection, nothing, {}, prepare=prepare) == [(), ()]
    silent = Statement("silent", "set application_name = 'silent'")
    assert await rows_of(connection, silent, {}, prepare=prepare) == []


@pytest.mark.parametrize("parameters", [{}, {"a": 1, "b": 2}, {"b": 1}])
async def test_values_must_be_those_of_the_placeholders(
    connection: Connection, parameters: dict[str, Parameter]
) -> None:
    with pytest.raises(InvariantBroken):
        await run(connection, "select %(a)s::integer", parameters)
    assert await run(connection, "select 1") == [("1",)]


@pytest.mark.promise("P3")
async def test_text_with_a_nul_is_refused_and_not_cut_short(connection: Connection) -> None:
    """libpq's text ends at a NUL: what came behind it would be somebody else's name."""
    with pytest.raises(psycopg.DataError):
        await run(connection, "select %(a)s::text", {"a": "agent\0 of another name"})
    assert await run(connection, "select 1") == [("1",)]


@pytest.mark.promise("P3")
@pytest.mark.parametrize(
    "texts",
    [
        ['a","b'],
        [],
        [None],
        ["", "NULL", "null"],
        ['a "quoted" one', "back\\slash", "{a,b}", " a ", "é\n"],
    ],
)
async def test_a_text_in_an_array_is_the_same_there(
    connection: Connection, texts: list[str | None]
) -> None:
    """Whatever it holds, it ends neither its element nor the array."""
    ((found,),) = await run(connection, "select to_json(%(a)s::text[])", {"a": texts})
    assert found is not None
    assert json.loads(found) == texts


async def test_a_statement_is_prepared_once_on_each_connection_where_that_is_asked(
    database: Database, connection: Connection
) -> None:
    statement = Statement("prepared", "select %(a)s::integer")
    prepared = "select array_agg(name) from pg_prepared_statements"
    for _ in range(3):
        await rows_of(connection, statement, {"a": 1}, prepare=False)
    assert await run(connection, prepared) == [(None,)]
    for _ in range(3):
        await rows_of(connection, statement, {"a": 1}, prepare=True)
    assert await run(connection, prepared) == [("{counterfoil_prepared}",)]
    async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as other:
        assert await rows_of(other, statement, {"a": 2}, prepare=True) == [("2",)]


async def test_cursors_can_be_used_before_and_after(connection: Connection) -> None:
    statement = Statement("between", "select %(a)s::text")
    for nth in range(8):  # psycopg prepares by itself what comes again and again
        cursor = await connection.execute("select %s::text", [str(nth)])
        assert await cursor.fetchone() == (str(nth),)
        assert await rows_of(connection, statement, {"a": str(nth)}, prepare=True) == [(str(nth),)]


@pytest.mark.promise("P1")
async def test_a_statement_in_somebodys_transaction_does_not_pass_for_committed(
    database: Database,
) -> None:
    async with await psycopg.AsyncConnection.connect(database.url) as connection:
        await connection.execute("select 1")
        with pytest.raises(psycopg.OperationalError, match="come to rest"):
            await run(connection, "select 1")


# --- Failures ---------------------------------------------------------------------


FAILURES = {
    "select 1 / %(zero)s::integer": "22012",
    "select * from nowhere where %(zero)s::integer = 0": "42P01",
    "selekt %(zero)s::integer": "42601",
    "select (%(zero)s::text || 'x')::integer": "22P02",
    "insert into counterfoil.books (tenant_id, name) values (1 + %(zero)s::integer, 'x')": "23505",
    "select counterfoil.append_v4(%(zero)s::integer, '[]', 1000)": "22023",
    "select from pg_sleep(60 + %(zero)s::integer)": "57014",
    "select from pg_terminate_backend(pg_backend_pid() + %(zero)s::integer)": "57P01",
}


@both_ways
@pytest.mark.parametrize("sql", FAILURES, ids=FAILURES.get)
async def test_errors_are_those_of_psycopgs_cursors(
    database: Database, sql: str, prepare: bool
) -> None:
    """By class, SQLSTATE and message: what was certain of an append is told from them."""
    caught: list[psycopg.Error] = []
    for way in ("statement", "as a tenant", "cursor"):
        async with await psycopg.AsyncConnection.connect(
            database.url, autocommit=True
        ) as connection:
            await connection.execute("select set_config('counterfoil.tenant_id', '0', false)")
            if FAILURES[sql] == "57014":
                await connection.execute("set statement_timeout = 50")
            failing: Awaitable[object] = (
                connection.execute(sql.encode(), {"zero": 0}, prepare=prepare)
                if way == "cursor"
                else Statement("failing", sql).run(
                    *(connection, {"zero": 0}),
                    prepare=prepare,
                    tenant_id=0 if way == "as a tenant" else None,
                )
            )
            with pytest.raises(psycopg.Error) as raised:
                await failing
            caught.append(raised.value)
            if raised.value.sqlstate == "57P01":
                assert connection.closed
            else:
                assert connection.pgconn.transaction_status == pq.TransactionStatus.IDLE
                assert await run(connection, "select 1") == [("1",)]
    *both, theirs = caught
    for ours in both:
        assert ours.sqlstate == FAILURES[sql]
        assert type(ours) is type(theirs)
        assert ours.sqlstate == theirs.sqlstate
        assert ours.diag.message_primary == theirs.diag.message_primary


@pytest.mark.promise("P7")
@both_ways
async def test_the_tenant_is_that_of_one_statement_alone(
    connection: Connection, prepare: bool
) -> None:
    """The next one on the connection may be another tenant's, or nobody's."""
    whose = Statement("whose", "select counterfoil.current_tenant()")
    for tenant_id in (7, 8, None):
        rows = await whose.run(connection, {}, prepare=prepare, tenant_id=tenant_id)
        assert rows == [(None if tenant_id is None else str(tenant_id),)]


async def test_a_statement_that_could_not_be_prepared_is_prepared_when_it_can_be(
    connection: Connection,
) -> None:
    statement = Statement("later", "select n from pg_temp.later where n = %(n)s::integer")
    for _ in range(2):
        with pytest.raises(psycopg.errors.UndefinedTable):
            await rows_of(connection, statement, {"n": 1}, prepare=True)
    await connection.execute("create temporary table later as select 1 as n")
    assert await rows_of(connection, statement, {"n": 1}, prepare=True) == [("1",)]


@pytest.mark.promise("P13")
@both_ways
async def test_a_server_process_that_dies_during_the_wait_is_an_error(
    observer: Book, connection: Connection, start: Start[Rows], prepare: bool
) -> None:
    async with closed_gate(observer):
        pid = connection.info.backend_pid
        waiting = start(
            rows_of(connection, BEHIND_THE_GATE, {"secret": "s", "gate": GATE}, prepare=prepare)
        )
        await at_the_gate(observer, pid)
        await observer.rows("select pg_terminate_backend(%s)", pid)
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            with pytest.raises(psycopg.OperationalError):
                await waiting
    assert connection.closed
    with pytest.raises(psycopg.OperationalError):
        await rows_of(connection, BEHIND_THE_GATE, {"secret": "s", "gate": GATE}, prepare=prepare)


# --- Waits that are cancelled -----------------------------------------------------


@pytest.mark.promise("P3")
@both_ways
async def test_nobody_gets_the_answer_of_a_wait_that_was_cancelled(
    database: Database, observer: Book, start: Start[Rows], prepare: bool
) -> None:
    """The connection is still at work, so it is closed and not lent to the next."""
    pids: list[int] = []
    async with pool_of_one(database.url) as pool:

        async def ask(statement: Statement, parameters: Mapping[str, Parameter]) -> Rows:
            async with pool.connection() as connection:
                assert connection.info.backend_pid not in pids[:1], "it is still at work"
                pids.append(connection.info.backend_pid)
                return await rows_of(connection, statement, parameters, prepare=prepare)

        async with closed_gate(observer) as gate:
            leaving = start(ask(BEHIND_THE_GATE, {"secret": "somebody else's", "gate": GATE}))

            async def borrowed() -> bool:
                return bool(pids)

            await eventually(borrowed, "a connection to be lent")
            await at_the_gate(observer, pids[0])
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
            before = await ask(Statement("mine", "select %(a)s::text"), {"a": "mine"})
            await gate.open()
            after = await ask(Statement("mine", "select %(a)s::text"), {"a": "mine"})
        assert before == after == [("mine",)]


@pytest.mark.promise("P3")
async def test_nobody_gets_the_answer_of_a_statement_cancelled_while_it_was_prepared(
    database: Database, observer: Book, start: Start[Rows]
) -> None:
    """To prepare a statement PostgreSQL looks at its tables, for which it may have to wait."""
    statement = Statement("unprepared", "select count(*) from counterfoil.events")
    async with pool_of_one(database.url) as pool:
        async with observer.session(role=None) as session, pool.connection() as connection:
            await session.execute("lock table counterfoil.events in access exclusive mode")
            first = connection.info.backend_pid
            waiting = start(rows_of(connection, statement, {}, prepare=True))
            await at_the_gate(observer, first)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await session.commit()
        async with pool.connection() as connection:
            assert connection.info.backend_pid != first
            assert await rows_of(connection, statement, {}, prepare=True) == [("0",)]


# --- What the server says in between ----------------------------------------------


@both_ways
async def test_large_values_go_out_while_the_server_talks_back(
    connection: Connection, prepare: bool
) -> None:
    """It says more than a socket holds before it reads on, and waits for us to listen."""
    heard: list[int] = []
    connection.add_notice_handler(lambda notice: heard.append(len(notice.message_primary or "")))
    await connection.execute("set debug_print_parse = on")
    await connection.execute("set client_min_messages = log")
    columns = ", ".join(f"{number} as c{number}" for number in range(1_500))
    statement = Statement("talkative", f"select length(%(large)s::text), {columns}")
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        (row,) = await rows_of(connection, statement, {"large": "ü" * 2**21}, prepare=prepare)
    assert row[0] == str(2**21)
    assert len(row) == 1_501
    assert heard


async def test_large_values_are_sent_and_answered_whole(connection: Connection) -> None:
    large = "".join(chr(0x4E00 + number % 20_000) for number in range(1_500_000))
    assert len(large.encode()) > 4 * 2**20
    assert await run(connection, "select %(large)s::text", {"large": large}) == [(large,)]


async def test_notifications_and_notices_in_between_do_no_harm(
    observer: Book, connection: Connection
) -> None:
    noticed: list[str] = []
    connection.add_notice_handler(lambda notice: noticed.append(notice.message_primary or ""))
    await connection.execute("listen something")
    statement = Statement("between_notices", "select %(a)s::text")
    for nth in range(3):
        await observer.rows("select pg_notify('something', %s)", str(nth))
        assert await rows_of(connection, statement, {"a": str(nth)}, prepare=True) == [(str(nth),)]
        assert await run(connection, "drop table if exists pg_temp.nothing") == []
    assert len(noticed) == 3
    await observer.rows("select pg_notify('something', 'last')")
    heard = connection.notifies(timeout=WAIT_SECONDS_MAX, stop_after=4)
    assert [one.payload async for one in heard] == ["0", "1", "2", "last"]
