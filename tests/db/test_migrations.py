"""Migrations: they make what the schema describes, once, in order, or say why not."""

import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path

import psycopg
import pytest

from counterfoil.server.db import embedded, migrations
from counterfoil.server.db.migrations import MigrationError, migrate, pending
from tests.db.book import append_one
from tests.db.scratch import empty_database, login
from tests.support.cluster import Cluster, Database
from tests.support.waiting import WAIT_SECONDS_MAX, wait_for

SCHEMA = Path(str(resources.files("counterfoil.server.db"))) / "schema"
NAMES = [str(migration) for migration in migrations.all_migrations()]


@pytest.fixture
def empty(cluster: Cluster) -> Iterator[Database]:
    with empty_database(cluster) as database:
        yield database


def structure(database: Database) -> str:
    """Everything in the database but its rows: tables, functions, triggers, owners, rights."""
    dumped = subprocess.run(
        [embedded._pginstall() / "bin" / "pg_dump", "--schema-only", database.url],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    # pg_dump brackets its output with a random word, and comments on what it does.
    return re.sub(r"^(\\(un)?restrict .*|--.*|)\n", "", dumped, flags=re.MULTILINE)


def has_schema(database: Database) -> bool:
    with psycopg.connect(database.url) as connection:
        row = connection.execute("select to_regnamespace('counterfoil') is not null").fetchone()
    return row == (True,)


def test_migrations_make_what_the_schema_describes(cluster: Cluster, empty: Database) -> None:
    assert migrate(empty.url) == NAMES
    with empty_database(cluster) as described:
        with psycopg.connect(described.url, autocommit=True) as connection:
            for file in sorted(SCHEMA.glob("*.sql")):
                connection.execute(file.read_bytes())
        assert structure(empty) == structure(described)
        assert "CREATE FUNCTION counterfoil.append_v4" in structure(described)


def test_new_database_has_one_book_that_is_empty(database: Database) -> None:
    with psycopg.connect(database.url) as connection:
        books = connection.execute("select tenant_id, name from counterfoil.books").fetchall()
        events = connection.execute("select count(*) from counterfoil.events").fetchone()
    assert (books, events) == ([(1, "default")], (0,))


def test_every_file_among_the_migrations_is_one() -> None:
    """One whose name does not fit would be passed over in silence."""
    files = sorted(path.name for path in (SCHEMA / "migrations").iterdir())
    assert files == [f"{name}.sql" for name in NAMES]
    assert migrations.schema_version() == len(NAMES)


def test_what_is_done_is_not_done_again(empty: Database) -> None:
    assert pending(empty.url) == NAMES
    assert not has_schema(empty)
    assert migrate(empty.url) == NAMES
    assert pending(empty.url) == []
    assert migrate(empty.url) == []


def test_migrations_at_the_same_time_run_once(empty: Database) -> None:
    """All of them are seen to wait for their turn before the first one gets it."""
    runners = 3
    with ThreadPoolExecutor(runners) as pool:
        with psycopg.connect(empty.url, autocommit=True) as gate:
            gate.execute(migrations._SQL["one_at_a_time"])
            results = [pool.submit(migrate, empty.url) for _ in range(runners)]

            def waiting() -> bool:
                row = gate.execute(
                    "select count(*) from pg_stat_activity where datname = %s and wait_event = "
                    "'advisory'",
                    [empty.name],
                ).fetchone()
                return row == (runners,)

            wait_for(waiting, "all migrations to wait for their turn")
        done = [result.result(WAIT_SECONDS_MAX) for result in results]
    assert sorted(done) == [[], [], NAMES]


@pytest.mark.parametrize(
    ("tampering", "complaint"),
    [
        ("update counterfoil.schema_migrations set checksum = 'x'", "changed afterwards"),
        ("update counterfoil.schema_migrations set version = version + 10", "changed afterwards"),
        (
            (
                "insert into counterfoil.schema_migrations (version, name, checksum) "
                "select max(version) + 1, 'of_tomorrow', 'y' from counterfoil.schema_migrations"
            ),
            "or a newer one",
        ),
    ],
    ids=["changed migration", "other numbers", "newer database"],
)
def test_database_of_another_history_is_refused(
    database: Database, tampering: str, complaint: str
) -> None:
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute(tampering)
    for look in (migrate, pending):
        with pytest.raises(MigrationError, match=complaint):
            look(database.url)


def test_database_that_is_not_utf8_is_refused(cluster: Cluster) -> None:
    """In SQL_ASCII any bytes are text; the first broken name would be for ever."""
    how = "ENCODING 'SQL_ASCII' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0"
    with empty_database(cluster, how) as ascii_database:
        with pytest.raises(MigrationError, match=r"not UTF8.*encoding 'UTF8'"):
            migrate(ascii_database.url)
        assert not has_schema(ascii_database)


def test_older_postgresql_is_refused(empty: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "POSTGRESQL_VERSION_MIN", 99)
    with pytest.raises(MigrationError, match="needs 99 or newer"):
        migrate(empty.url)
    assert not has_schema(empty)


def test_login_without_the_rights_is_told_what_to_do(empty: Database) -> None:
    with login(empty) as outsider, pytest.raises(MigrationError, match=r"may not migrate.*grant"):
        migrate(outsider.url)
    assert not has_schema(empty)


def test_login_with_what_that_message_asks_for_can_migrate(
    cluster: Cluster, empty: Database
) -> None:
    """And what it made works: the service appends, with the login as the schema's owner."""
    cluster.ensure_template()  # the roles are the cluster's, so they are there
    with login(empty, "create on database {}", "counterfoil_service") as migrator:
        assert migrate(migrator.url) == NAMES
        with psycopg.connect(migrator.url, autocommit=True) as connection:
            connection.execute("set role counterfoil_service")
            assert append_one(connection).status == "stored"


def test_migration_that_waits_for_too_long_changes_nothing(
    empty: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "MIGRATION_LOCK_MILLISECONDS_MAX", 20)
    with psycopg.connect(empty.url) as other:
        other.execute("create schema counterfoil")
        with pytest.raises(MigrationError, match="again when it is quiet"):
            migrate(empty.url)
    # `with` has committed the other's schema, which is empty: theirs, and no half of ours.
    with psycopg.connect(empty.url) as connection:
        row = connection.execute("select to_regclass('counterfoil.events')").fetchone()
    assert row == (None,)
