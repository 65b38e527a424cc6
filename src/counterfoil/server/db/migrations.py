"""Migrations: how a database becomes what ``schema/`` describes.

Plain SQL files, ``NNNN_what_happens.sql``, run in the order of their numbers, each in a
transaction of its own, forward only. What ran is written into
``counterfoil.schema_migrations`` with the checksum of the file, so that an edited
migration is noticed and not skipped. An advisory lock keeps two runs apart.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Final, LiteralString

import psycopg

from counterfoil.server.core.errors import CounterfoilError, invariant
from counterfoil.server.db import sqlfile

POSTGRESQL_VERSION_MIN: Final = 15
"""The oldest major version of PostgreSQL that every statement is tested on."""

MIGRATION_LOCK_MILLISECONDS_MAX: Final = 5_000
"""How long a migration may wait for a lock. A migration that queues for a table's lock
queues everybody behind it; better to give up and be run again."""

_FILE_NAME = re.compile(r"^(?P<version>\d{4})_(?P<name>[a-z0-9_]+)\.sql$")
_SQL = sqlfile.load("counterfoil.server.db", "migrations.sql")


class MigrationError(CounterfoilError):
    """A database that cannot be migrated, with the way out in the message."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema: its number, its name, and its SQL."""

    version: int
    name: str
    sql: LiteralString

    @property
    def checksum(self) -> str:
        """SHA-256 of the file's text, in hexadecimal."""
        return hashlib.sha256(self.sql.encode()).hexdigest()

    def __str__(self) -> str:
        return f"{self.version:04d}_{self.name}"


def all_migrations() -> tuple[Migration, ...]:
    """Every migration of this release, in order; their numbers are 1, 2, 3 … without gaps."""
    folder = resources.files("counterfoil.server.db").joinpath("schema", "migrations")
    found: list[Migration] = []
    for file in folder.iterdir():
        if (match := _FILE_NAME.match(file.name)) is not None:
            sql: LiteralString = file.read_text(encoding="utf-8")
            found.append(Migration(int(match["version"]), match["name"], sql))
    found.sort(key=lambda migration: migration.version)
    invariant(
        [migration.version for migration in found] == list(range(1, len(found) + 1)),
        "migrations are numbered 1, 2, 3 … without gaps",
    )
    return tuple(found)


def schema_version() -> int:
    """The version of the schema that this release works with."""
    return len(all_migrations())


def migrate(url: str) -> list[str]:
    """Bring the database at ``url`` to this release's schema.

    Args:
        url: a direct connection string (no pooler in between: a lock of the session keeps
            two runs apart) whose login owns the schema, or may create it, and may create
            roles (or finds ``counterfoil_service`` and ``counterfoil_eraser`` made).

    Returns:
        The names of the migrations that were run now; empty when there was nothing to do.

    Raises:
        MigrationError: PostgreSQL is too old, the encoding is not UTF-8, a migration was
            changed after it had run, the database is newer than this release, or the
            login may not do what a migration does.
        psycopg.OperationalError: the database cannot be reached.
    """
    with _connected(url) as connection:
        done: list[str] = []
        # A session's lock: it goes with the connection, whatever becomes of us.
        connection.execute(_SQL["one_at_a_time"])
        try:
            for migration in _to_run(connection):
                # One migration, one transaction: what it did and that it ran, or neither.
                with connection.transaction():
                    connection.execute(
                        _SQL["bound_lock_wait"],
                        {"milliseconds": str(MIGRATION_LOCK_MILLISECONDS_MAX)},
                    )
                    connection.execute(migration.sql)
                    connection.execute(
                        _SQL["record"],
                        {
                            "version": migration.version,
                            "name": migration.name,
                            "checksum": migration.checksum,
                        },
                    )
                done.append(str(migration))
        except psycopg.errors.InsufficientPrivilege as error:
            raise MigrationError(
                f"The login of DATABASE_URL may not migrate this database: {error.diag.message_primary}. "
                "Use one that may create schemas and roles, or have an administrator run `create "
                "role counterfoil_service nologin; create role counterfoil_eraser nologin`, and "
                "`grant create on database …` and `grant counterfoil_service` to this login."
            ) from error
        except psycopg.errors.LockNotAvailable as error:
            raise MigrationError(
                "Another session holds a lock that this migration needs. Nothing was changed "
                "by the step that waited; run `counterfoil migrate` again when it is quiet."
            ) from error
        return done


def pending(url: str) -> list[str]:
    """The migrations that ``migrate`` would run, without running any; raises as it does."""
    with _connected(url) as connection:
        return [str(migration) for migration in _to_run(connection)]


@contextmanager
def _connected(url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(
        url, autocommit=True, application_name="counterfoil migrate"
    ) as connection:
        version = connection.info.server_version // 10_000
        if version < POSTGRESQL_VERSION_MIN:
            raise MigrationError(
                f"This is PostgreSQL {version}; Counterfoil needs {POSTGRESQL_VERSION_MIN} or newer."
            )
        if connection.execute(_SQL["server_encoding"]).fetchone() != ("UTF8",):
            raise MigrationError(
                "The database's encoding is not UTF8. Make one with "
                "`create database … encoding 'UTF8' template template0`."
            )
        yield connection


def _to_run(connection: psycopg.Connection) -> list[Migration]:
    """Compare what ran with what this release holds."""
    known = all_migrations()
    (exists,) = connection.execute(_SQL["has_history"]).fetchone() or (False,)
    ran = connection.execute(_SQL["history"]).fetchall() if exists else []
    if len(ran) > len(known):
        raise MigrationError(
            f"The database is at version {len(ran)} of the schema and this release knows "
            f"{len(known)}. Use the release that migrated it, or a newer one."
        )
    for migration, (version, checksum) in zip(known, ran, strict=False):
        if (migration.version, migration.checksum) != (version, checksum):
            raise MigrationError(
                f"Migration {migration} is not the one that ran on this database: it was "
                "changed afterwards. Released migrations never change; use an unmodified release. "
                "Before the first release they do change: a book of `counterfoil dev` from an "
                "older checkout opens with that one only. Begin another with --data-dir."
            )
    return list(known[len(ran) :])
