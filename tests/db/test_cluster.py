"""The tests' own databases: fresh for each, and all alike."""

import psycopg
import pytest

from counterfoil.server.db import migrations
from tests.support.cluster import Database


@pytest.mark.parametrize("name", ["first", "second"])
def test_every_test_gets_a_migrated_database_of_its_own(database: Database, name: str) -> None:
    with psycopg.connect(database.url) as connection:
        assert connection.execute("SELECT current_database()").fetchone() == (database.name,)
        # Were the second test's database the first one's, this would fail in it.
        connection.execute("CREATE TABLE only_once AS SELECT %s AS test", [name])
    assert migrations.pending(database.url) == []
