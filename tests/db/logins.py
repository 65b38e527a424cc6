"""Logins made for one test. Roles belong to the whole cluster, so they are dropped again."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from tests.support.cluster import Database


@contextmanager
def login(database: Database, *grants: str) -> Iterator[Database]:
    """The same database, entered by a new login with nothing but these grants.

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
