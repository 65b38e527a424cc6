"""Who may do what (P6): tried by every role, and read from the catalogue.

The service appends and reads. The eraser blanks. Nobody changes an event: not the owner
either, whom the triggers refuse.
"""

from collections.abc import Iterator
from typing import Final, LiteralString

import psycopg
import pytest

from tests.db.book import ACT_FOR, append_one, event, request
from tests.db.scratch import login
from tests.support.cluster import Cluster, Database

pytestmark = pytest.mark.promise("P6")

TABLES: Final = (
    *("schema_migrations", "books", "events", "event_tags", "idempotency_keys"),
    *("keys", "key_uses", "rules", "event_types", "freezes"),
)
LOG_TABLES: Final = ("books", "events", "event_tags", "idempotency_keys")
BLANK: Final = "update counterfoil.events set payload = null, salt = null where position = 1"

CHANGES: Final = (
    "tenant_id = 2",
    "position = position + 10",
    "agent_name = 'other'",
    "event_type = 'other'",
    "payload = '{}'",
    "tags = '{}'",
    "created_at = now()",
    "occurred_at = now()",
    "caused_by = '{2}'",
    "context = '{}'",
    # To `=` this is the same value as 1.0, and it is not the same text.
    "payload = null, salt = null, context = '{\"temperature\": 1.00}'",
    "salt = '\\x01'",
    "digest = '\\x01'",
    "principal = 'other'",
)
"""One for each column of an event; a test sees that none is missing."""

Refused = psycopg.errors.InsufficientPrivilege


@pytest.fixture(scope="module")
def database(cluster: Cluster) -> Iterator[Database]:
    """One book for all attempts of this file, since none of them may change it.

    It has an event with all that an event can have, so that each would hit something.
    """
    full = event(
        payload={"name": "Ada", "amount": 1},
        tags=["customer:c"],
        context={"temperature": 1.0},
        caused_by=[1],
    )
    with cluster.database() as fresh:
        with psycopg.connect(fresh.url, autocommit=True) as connection:
            append_one(connection, request(event()))
            append_one(connection, request(full, key="k", cause_max=1))
        yield fresh


def everything(owner: psycopg.Connection) -> list[object]:
    """The whole content of the book, to see that nothing has changed."""
    return [
        owner.execute(f"select t::text from counterfoil.{table} t order by 1").fetchall()
        for table in LOG_TABLES
    ]


# --- The service ------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("right", ["insert", "update", "delete", "truncate"])
def test_service_has_no_right_to_change_a_table(
    service: psycopg.Connection, table: str, right: str
) -> None:
    row = service.execute(
        "select has_table_privilege(%(table)s, %(right)s) or (%(right)s in ('insert', 'update') "
        "and has_any_column_privilege(%(table)s, %(right)s))",
        {"table": f"counterfoil.{table}", "right": right},
    ).fetchone()
    assert row == (False,)


@pytest.mark.parametrize(
    "attempt",
    [
        "insert into counterfoil.event_tags values (1, 'customer:d', 1)",
        "update counterfoil.events set payload = '{}'",
        BLANK,
        "delete from counterfoil.events",
        "truncate counterfoil.events",
        "update counterfoil.books set incarnation = gen_random_uuid()",
        "select counterfoil.write_run(1, '{}', '{}', 0, 2, now(), false)",
        "select counterfoil.may_match(1, '{}', 0, 2)",
        "select counterfoil.may_match_in_group('{}', '{}')",
        'select counterfoil.apply_effect(1, \'{"effect": "none"}\', 3, now())',
        "select counterfoil.add_key(1, '{}', 3, now())",
        "select digest from counterfoil.keys",
        "select * from counterfoil.idempotency_keys",
        "create table counterfoil.mine (n integer)",
        "create function counterfoil.mine() returns integer language sql return 1",
        "drop trigger events_stay on counterfoil.events",
        "alter table counterfoil.events disable trigger all",
        "set session_replication_role = replica",
    ],
)
def test_service_can_only_append_and_read(
    service: psycopg.Connection, owner: psycopg.Connection, attempt: LiteralString
) -> None:
    before = everything(owner)
    with pytest.raises(Refused):
        service.execute(attempt)
    assert everything(owner) == before


def test_service_reads_the_book(service: psycopg.Connection) -> None:
    readable = [
        table
        for table in TABLES
        if service.execute(
            "select has_table_privilege(%s, 'select')", [f"counterfoil.{table}"]
        ).fetchone()
        == (True,)
    ]
    assert readable == [
        *("schema_migrations", "books", "events", "event_tags"),
        *("key_uses", "rules", "event_types", "freezes"),
    ]


def test_service_cannot_lock_the_book_itself(service: psycopg.Connection) -> None:
    """Only the function takes the lock, and gives it back with its transaction."""
    with pytest.raises(Refused):
        service.execute("select from counterfoil.books for no key update")
    with pytest.raises(Refused), service.transaction():
        service.execute("lock table counterfoil.events in exclusive mode")


# --- The eraser -------------------------------------------------------------------


@pytest.mark.parametrize(
    "attempt",
    [
        "update counterfoil.events set payload = '{\"forged\": true}'",
        "update counterfoil.events set payload = 'null'",
        "update counterfoil.events set payload = null",
        "update counterfoil.events set salt = null",
        "update counterfoil.events set salt = '\\x00', payload = null",
        "update counterfoil.events set payload = '{}', salt = null",
    ],
)
def test_eraser_sets_no_other_value_and_blanks_both_or_none(
    eraser: psycopg.Connection, owner: psycopg.Connection, attempt: LiteralString
) -> None:
    before = everything(owner)
    with pytest.raises(psycopg.errors.RestrictViolation, match="blanked"):
        eraser.execute(attempt)
    assert everything(owner) == before


@pytest.mark.parametrize(
    "attempt",
    [
        "select payload from counterfoil.events",
        "select salt from counterfoil.events",
        "select digest from counterfoil.events",
        "select tags from counterfoil.events",
        "select agent_name from counterfoil.events",
        "select position from counterfoil.events where payload ->> 'name' = 'Ada'",
        f"{BLANK} returning digest",
        "update counterfoil.events set payload = null, salt = null where payload ? 'name'",
        "update counterfoil.events set tags = '{}'",
        "update counterfoil.events set digest = '\\x00'",
        "update counterfoil.events set position = 9",
        "update counterfoil.events set payload = null, salt = null, context = null",
        "insert into counterfoil.events select * from counterfoil.events",
        "delete from counterfoil.events",
        "truncate counterfoil.events",
        "select * from counterfoil.event_tags",
        "select * from counterfoil.books",
        "select * from counterfoil.idempotency_keys",
        "select * from counterfoil.schema_migrations",
        "select counterfoil.append_v4(1, '[]', 1000)",
        "select counterfoil.matching_v1(1, null, null, 0, 9, 9, false)",
        "select counterfoil.write_run(1, '{}', '{}', 0, 2, now(), false)",
        "select counterfoil.may_match(1, '{}', 0, 2)",
        "select counterfoil.may_match_in_group('{}', '{}')",
        "alter table counterfoil.events disable trigger all",
        "set session_replication_role = replica",
    ],
)
def test_eraser_can_do_nothing_else(
    eraser: psycopg.Connection, owner: psycopg.Connection, attempt: LiteralString
) -> None:
    before = everything(owner)
    with pytest.raises(Refused):
        eraser.execute(attempt)
    assert everything(owner) == before


def test_eraser_cannot_forge_with_an_operator_of_its_own(
    database: Database, owner: psycopg.Connection
) -> None:
    """The trigger compares rows. It must not do so with what the eraser calls equal."""
    before = everything(owner)
    with (
        login(database, "counterfoil_eraser", "create on database {}") as crafty,
        psycopg.connect(crafty.url, autocommit=True) as connection,
    ):
        connection.execute("create schema craft")
        rows = "counterfoil.events, counterfoil.events"
        for name, function, sign in (("same", "true", "="), ("other", "false", "<>")):
            connection.execute(
                f"create function craft.{name}({rows}) returns boolean language sql return {function}"
            )
            connection.execute(
                f"create operator craft.{sign} (leftarg = counterfoil.events, "
                f"rightarg = counterfoil.events, function = craft.{name})"
            )
        connection.execute("set search_path = craft, pg_catalog")
        connection.execute(ACT_FOR, ["1"])
        with pytest.raises(psycopg.errors.RestrictViolation):
            connection.execute("update counterfoil.events set payload = '{\"forged\": true}'")
    assert everything(owner) == before


# --- The owner --------------------------------------------------------------------


@pytest.mark.parametrize("table", LOG_TABLES)
@pytest.mark.parametrize(
    "attempt", ["delete from counterfoil.{}", "truncate counterfoil.{} cascade"]
)
def test_owner_removes_nothing(owner: psycopg.Connection, attempt: str, table: str) -> None:
    before = everything(owner)
    with pytest.raises(psycopg.errors.RestrictViolation, match=f"counterfoil.{table} only grows"):
        owner.execute(attempt.format(table))
    assert everything(owner) == before


@pytest.mark.parametrize("change", CHANGES)
def test_owner_changes_no_event(owner: psycopg.Connection, change: LiteralString) -> None:
    before = everything(owner)
    with pytest.raises(psycopg.errors.RestrictViolation):
        owner.execute(f"update counterfoil.events set {change} where position = 2")
    assert everything(owner) == before


@pytest.mark.parametrize(
    "attempt",
    [
        "update counterfoil.event_tags set tag = 'customer:other'",
        "update counterfoil.idempotency_keys set first_position = 9",
    ],
)
def test_owner_changes_no_tag_and_no_key(owner: psycopg.Connection, attempt: LiteralString) -> None:
    before = everything(owner)
    with pytest.raises(psycopg.errors.RestrictViolation):
        owner.execute(attempt)
    assert everything(owner) == before


def test_every_column_of_an_event_was_tried(owner: psycopg.Connection) -> None:
    tried = {change.split(" = ")[0] for change in CHANGES}
    columns = owner.execute(
        "select attname from pg_attribute where attrelid = 'counterfoil.events'::regclass "
        "and attnum > 0 and not attisdropped"
    ).fetchall()
    assert {name for (name,) in columns} == tried


# --- Everybody else ---------------------------------------------------------------


def test_nothing_is_open_to_the_public(owner: psycopg.Connection) -> None:
    open_to_all = owner.execute(
        """
        with given as (
            select 'schema' as kind, nspname::text as name, nspacl as acl, 'n' as type, nspowner as owner
            from pg_namespace where nspname = 'counterfoil'
            union all
            select 'relation', relname, relacl, 'r', relowner from pg_class
            where relnamespace = 'counterfoil'::regnamespace and relkind in ('r', 'v', 'm', 'S', 'p')
            union all
            select 'column', attname, attacl, 'c', 10 from pg_attribute
            where attrelid in (select oid from pg_class where relnamespace = 'counterfoil'::regnamespace)
              and attacl is not null
            union all
            select 'function', proname, proacl, 'f', proowner from pg_proc
            where pronamespace = 'counterfoil'::regnamespace
        )
        select kind, name, privilege_type
        from given, aclexplode(coalesce(acl, acldefault(type::"char", owner)))
        where grantee = 0
        """
    ).fetchall()
    assert open_to_all == []


@pytest.mark.parametrize(
    "attempt",
    [
        "select count(*) from counterfoil.events",
        "select counterfoil.append_v4(1, '[]', 1000)",
        "select counterfoil.time_text(now())",
    ],
)
def test_another_login_of_the_database_sees_nothing(
    database: Database, attempt: LiteralString
) -> None:
    with (
        login(database) as stranger,
        psycopg.connect(stranger.url) as connection,
        pytest.raises(Refused, match="schema counterfoil"),
    ):
        connection.execute(attempt)
