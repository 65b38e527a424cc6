"""The tests' own databases: fresh for each, and all alike."""

import psycopg
import pytest

from counterfoil.server.db import migrations
from tests.support.cluster import Database


@pytest.mark.parametrize("time", [1, 2])
def test_every_test_gets_a_migrated_database_of_its_own(database: Database, time: int) -> None:
    with psycopg.connect(database.url) as connection:
        assert connection.execute("SELECT current_database()").fetchone() == (database.name,)
        connection.execute("CREATE TABLE only_once (time int)")
    assert migrations.pending(database.url) == []
