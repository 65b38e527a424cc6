"""The append runs with its owner's rights, so nothing of its caller's may steer it (P6)."""

import psycopg
import pytest

from tests.db.book import append_one, event, request
from tests.db.scratch import login
from tests.support.cluster import Database

pytestmark = pytest.mark.promise("P6")

TABLES = (
    "books",
    "events",
    "event_tags",
    "idempotency_keys",
    "rules",
    "freezes",
    "keys",
    "consumers",
    "consumer_progress",
    "deliveries",
)


def test_few_functions_run_with_their_owners_rights(owner: psycopg.Connection) -> None:
    rows = owner.execute(
        "select proname from pg_proc where pronamespace = 'counterfoil'::regnamespace and prosecdef"
    ).fetchall()
    assert sorted(name for (name,) in rows) == [
        "append_v4",
        "clear_consumers_v1",
        "consume_v2",
        "consumer_states_v1",
        "consumers_in_need_v1",
        "note_key_uses_v1",
        "presented_keys_v1",
        "tenants_v1",
    ]


def test_every_function_with_a_body_of_text_has_a_search_path_of_its_own(
    owner: psycopg.Connection,
) -> None:
    """A standard SQL body is bound when it is made; text is bound where it is called."""
    rows = owner.execute(
        "select proname, array_to_string(proconfig, ';') from pg_proc "
        "where pronamespace = 'counterfoil'::regnamespace and prosqlbody is null"
    ).fetchall()
    assert {name for name, _ in rows} >= {"append_v4", "matching_v1", "write_run"}
    for name, settings in rows:
        assert "search_path=pg_catalog, pg_temp" in (settings or ""), name


def test_callers_own_objects_are_not_used_by_the_append(
    database: Database, owner: psycopg.Connection
) -> None:
    """Temporary tables and functions named like ours, or like PostgreSQL's, in front of all."""
    with (
        login(database, "counterfoil_service", "create, temporary on database {}") as crafty,
        psycopg.connect(crafty.url, autocommit=True) as connection,
    ):
        for table in TABLES:
            connection.execute(f"create temporary table {table} (tenant_id integer)")
        connection.execute("create schema craft")
        for function in (
            "craft.clock_timestamp() returns timestamptz language sql return 'epoch'::timestamptz",
            "craft.gen_random_uuid() returns uuid language sql return md5('known')::uuid",
            "craft.sha256(bytea) returns bytea language sql return '\\x00'::bytea",
            "craft.time_text(timestamptz) returns text language sql return 'never'",
        ):
            connection.execute(f"create function {function}")
        connection.execute("set search_path = pg_temp, craft, counterfoil, pg_catalog")
        answer = append_one(connection, request(event(tags=["customer:c"])))
    assert (answer.status, answer.first_position) == ("stored", 1)
    stored = owner.execute(
        "select counterfoil.time_text(created_at), created_at > '2020-01-01', octet_length(salt), "
        "octet_length(digest), tags from counterfoil.events"
    ).fetchall()
    assert stored == [(answer.created_at, True, 16, 32, ["customer:c"])]
    indexed = owner.execute("select tag, position from counterfoil.event_tags").fetchall()
    assert indexed == [("customer:c", 1)]
