"""Connections of the service: who it is to the database, and what it says when it cannot work."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

from counterfoil.server.core import limits
from counterfoil.server.core.errors import DatabaseUnavailable
from counterfoil.server.core.settings import Settings
from counterfoil.server.db.embedded import EmbeddedPostgres
from counterfoil.server.db.migrations import migrate, schema_version
from counterfoil.server.db.pool import Pool, login_refused
from counterfoil.server.log.operations import Log, Readiness
from tests.db.scratch import empty_database, login
from tests.support.appends import append_request, note
from tests.support.cluster import Cluster, Database

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def pool_of(url: str, *, prepare: bool = True) -> AsyncIterator[Pool]:
    pool = Pool(
        url,
        name="tests",
        statement_milliseconds_max=1_234,
        size_min=1,
        size_max=2,
        prepare=prepare,
    )
    await pool.open()
    try:
        yield pool
    finally:
        await pool.close()


async def value(pool: Pool, expression: str) -> object:
    async with pool.connection() as connection:
        row = await (await connection.execute(f"select {expression}")).fetchone()
        assert row is not None
        return row[0]


async def refusal(url: str, monkeypatch: pytest.MonkeyPatch, *, prepare: bool = True) -> str:
    """What a pool says that cannot have a single fit connection."""
    monkeypatch.setattr(limits, "CONNECTION_WAIT_SECONDS_MAX", 1.0)
    async with pool_of(url, prepare=prepare) as pool:
        with pytest.raises(DatabaseUnavailable) as refused:
            async with pool.connection():
                pass
    return str(refused.value)


# --- Who it is --------------------------------------------------------------------


@pytest.mark.promise("P6")
async def test_owner_lays_down_the_rights_to_change(database: Database) -> None:
    async with pool_of(database.url) as pool:
        assert await value(pool, "current_user") == "counterfoil_service"
        assert await value(pool, "session_user") != "counterfoil_service"
        assert not await value(
            pool, "has_table_privilege('counterfoil.events', 'insert, update, delete, truncate')"
        )
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await value(pool, "counterfoil.write_run(1, '{}', '{}', 0, 0, now(), false)")


@pytest.mark.promise("P6")
async def test_login_that_is_the_service_stays_itself(database: Database) -> None:
    with login(database, "counterfoil_service") as service:
        async with pool_of(service.url) as pool:
            assert str(await value(pool, "current_user")).startswith("counterfoil_test_")
        async with pool_of(service.url, prepare=False) as pool:
            assert await value(pool, "count(*) from counterfoil.events") == 0


async def test_statements_are_bounded_and_connections_have_a_name(database: Database) -> None:
    async with pool_of(database.url) as pool:
        assert await value(pool, "current_setting('statement_timeout')") == "1234ms"
        assert await value(pool, "current_setting('application_name')") == "counterfoil tests"


async def test_each_statement_is_a_transaction(database: Database) -> None:
    async with pool_of(database.url) as pool, pool.connection() as connection:
        assert connection.autocommit
        await connection.execute("select set_config('counterfoil.seen', 'x', true)")
        row = await (
            await connection.execute("select nullif(current_setting('counterfoil.seen', true), '')")
        ).fetchone()
        assert row == (None,)


# --- What it refuses --------------------------------------------------------------


@pytest.mark.parametrize(
    "grants",
    [
        (),
        ("usage on schema counterfoil", "select on all tables in schema counterfoil"),
        ("usage on schema counterfoil", "insert on counterfoil.events"),
    ],
    ids=["nothing", "may read", "may write"],
)
async def test_login_that_cannot_be_the_service_is_told_what_it_lacks(
    database: Database, monkeypatch: pytest.MonkeyPatch, grants: tuple[str, ...]
) -> None:
    with login(database, *grants) as stranger:
        assert "grant counterfoil_service to" in await refusal(stranger.url, monkeypatch)


async def test_login_that_does_not_inherit_becomes_the_service(database: Database) -> None:
    with login(database, "counterfoil_service") as member:
        with psycopg.connect(database.url, autocommit=True) as owner:
            name = urlsplit(member.url).username
            owner.execute(f"revoke counterfoil_service from {name}")
            owner.execute(f"alter role {name} noinherit")
            owner.execute(f"grant counterfoil_service to {name}")
        async with pool_of(member.url) as pool:
            assert await value(pool, "current_user") == "counterfoil_service"


@pytest.mark.promise("P6")
async def test_behind_a_pooler_a_login_that_may_write_is_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SET ROLE would stay with a connection that the pooler then gives to somebody else."""
    said = await refusal(database.url, monkeypatch, prepare=False)
    assert "a login of its own" in said


async def test_database_without_a_book_says_how_to_make_one(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with empty_database(cluster) as empty:
        assert "counterfoil migrate" in await refusal(empty.url, monkeypatch)


async def test_password_is_in_no_refusal(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = database.url.replace(f"/{database.name}", "/no_such_database")
    assert await refusal(wrong, monkeypatch) == "The database cannot be reached at the moment."


# --- Readiness --------------------------------------------------------------------


async def readiness(url: str) -> Readiness:
    log = await Log.open(Settings.from_environment(database_url=url))
    try:
        return await log.ready()
    finally:
        await log.close()


async def test_fit_database_is_ready(database: Database) -> None:
    assert await readiness(database.url) == Readiness(
        ready=True,
        checks={"database": "ok", "fsync": "ok", "full_page_writes": "ok", "schema": "ok"},
    )


@pytest.mark.parametrize("version", [schema_version() - 1, schema_version() + 1])
async def test_schema_of_another_version_is_not_ready(database: Database, version: int) -> None:
    with psycopg.connect(database.url, autocommit=True) as owner:
        owner.execute("delete from counterfoil.schema_migrations")
        owner.execute(
            "insert into counterfoil.schema_migrations (version, name, checksum) "
            "select n, 'some', '' from generate_series(1, %s) n",
            [version],
        )
    found = await readiness(database.url)
    assert not found.ready
    assert found.checks["schema"].startswith(f"version {version}, needs {schema_version()}")
    assert "counterfoil migrate" in found.checks["schema"]


async def test_database_without_a_book_is_not_ready(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CONNECTION_WAIT_SECONDS_MAX", 1.0)
    with empty_database(cluster) as empty:
        found = await readiness(empty.url)
    assert not found.ready
    assert "counterfoil migrate" in found.checks["database"]


async def test_database_that_takes_no_writes_is_not_ready(database: Database) -> None:
    """As a host's own safeguard leaves it, where the disk is full."""
    with psycopg.connect(database.url, autocommit=True) as owner:
        owner.execute(f"alter database {database.name} set default_transaction_read_only = on")
    found = await readiness(database.url)
    assert not found.ready
    assert found.checks["database"].startswith("read only")


@pytest.mark.promise("P1")
async def test_server_that_does_not_flush_is_not_ready(data_dir: Path) -> None:
    settings = {"fsync": "off", "full_page_writes": "off"}
    with EmbeddedPostgres(data_dir, settings=settings) as server:
        migrate(server.url)
        found = await readiness(server.url)
    assert not found.ready
    assert found.checks["fsync"].startswith("off")
    assert found.checks["full_page_writes"].startswith("off")
    assert (found.checks["database"], found.checks["schema"]) == ("ok", "ok")


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        ('FATAL:  password authentication failed for user "u"', True),
        ("fe_sendauth: no password supplied", True),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "u", database "d"', True),
        ('FATAL:  role "u" does not exist', True),
        ('FATAL:  role "u" is not permitted to log in', True),
        ('FATAL:  database "d" does not exist', True),
        ('FATAL:  permission denied for database "d"', True),
        ("FATAL:  no such database: d", True),
        ("Connection refused", False),
        ("connection timeout expired", False),
        ("FATAL:  the database system is starting up", False),
        ("FATAL:  sorry, too many clients already", False),
        ('socket "/tmp/.s.PGSQL.5432" failed: No such file or directory', False),
    ],
)
def test_a_refused_login_is_told_from_a_database_that_is_away(said: str, *, refused: bool) -> None:
    error = psycopg.OperationalError(f"connection failed: connection to server failed: {said}")
    assert login_refused(error) is refused


async def test_log_works_without_prepared_statements(database: Database) -> None:
    """As behind a pooler of transactions, where the next statement finds another session."""
    with login(database, "counterfoil_service") as service:
        settings = Settings(database_url=SecretStr(service.url), prepare_statements=False)
        log = await Log.open(settings)
        try:
            for nth in range(1, 4):
                stored = await log.append(1, append_request(note(nth=nth)))
                assert (await log.get(1, stored.first_position)).head == nth
            assert len((await log.latest(1, "writer", limit=9, before=None)).events) == 3
            assert (await log.ready()).ready
        finally:
            await log.close()


@pytest.mark.promise("P3")
@pytest.mark.parametrize("encoding", ["latin1", "sql_ascii", "euc_jp"])
@pytest.mark.parametrize("said_by", ["address", "environment"])
async def test_text_is_utf8_whatever_else_is_said(
    database: Database, monkeypatch: pytest.MonkeyPatch, encoding: str, said_by: str
) -> None:
    """Statements are sent in it, and PostgreSQL would take their bytes for other letters."""
    url = database.url
    if said_by == "address":
        url = make_conninfo(url, client_encoding=encoding)
    else:
        monkeypatch.setenv("PGCLIENTENCODING", encoding)
    log = await Log.open(Settings.from_environment(database_url=url))
    try:
        await log.append(1, append_request(note(text="Zürich 東京 €")))
        (text,) = (await log.get(1, 1)).events
        assert "Zürich 東京 €" in text
    finally:
        await log.close()
    with psycopg.connect(database.url, client_encoding="utf8") as connection:
        row = connection.execute("select payload ->> 'text' from counterfoil.events").fetchone()
    assert row == ("Zürich 東京 €",)
