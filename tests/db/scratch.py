"""Databases and logins made for one test, and dropped again."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from tests.support.cluster import Cluster, Database


@contextmanager
def login(database: Database, *grants: str) -> Iterator[Database]:
    """The same database, entered by a new login with nothing but these grants.

    A role belongs to the whole cluster, so it must not stay.

    Args:
        grants: what stands between ``grant`` and ``to``; ``{}`` is the database's name.
    """
    name = f"counterfoil_test_{uuid.uuid4().hex[:12]}"
    password = uuid.uuid4().hex
    role = sql.Identifier(name)
    with psycopg.connect(database.url, autocommit=True) as owner:
        owner.execute(
            sql.SQL("create role {} login password {}").format(role, sql.Literal(password))
        )
        try:
            for grant in grants:
                what = sql.SQL(grant).format(sql.Identifier(database.name))
                owner.execute(sql.SQL("grant {} to {}").format(what, role))
            place = urlsplit(database.url)
            netloc = f"{name}:{password}@{place.netloc.rpartition('@')[2]}"
            yield Database(database.name, place._replace(netloc=netloc).geturl())
        finally:
            owner.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where usename = %s", [name]
            )
            owner.execute(sql.SQL("drop owned by {} cascade").format(role))
            owner.execute(sql.SQL("drop role {}").format(role))


@contextmanager
def empty_database(
    cluster: Cluster, how: str = "ENCODING 'UTF8' TEMPLATE template0"
) -> Iterator[Database]:
    """A database that nobody has migrated."""
    name = f"counterfoil_test_{uuid.uuid4().hex}"
    with psycopg.connect(cluster.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} {how}")
    try:
        yield Database(name, cluster.url_of(name))
    finally:
        cluster.execute("DROP DATABASE {} WITH (FORCE)", name)
