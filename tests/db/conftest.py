"""Sessions of the roles that touch a book, each on the test's own database."""

from collections.abc import Iterator

import psycopg
import pytest

from tests.db.book import ACT_FOR
from tests.support.cluster import Database


@pytest.fixture
def owner(database: Database) -> Iterator[psycopg.Connection]:
    """A superuser who owns the database: nothing but the triggers can refuse them."""
    with psycopg.connect(database.url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def service(database: Database) -> Iterator[psycopg.Connection]:
    """A session with the rights of the service, and no others."""
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute("set role counterfoil_service")
        connection.execute(ACT_FOR, ["1"])
        yield connection


@pytest.fixture
def eraser(database: Database) -> Iterator[psycopg.Connection]:
    """A session with the rights of whoever blanks payloads, and no others."""
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute("set role counterfoil_eraser")
        connection.execute(ACT_FOR, ["1"])
        yield connection
