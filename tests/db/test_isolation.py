"""Each tenant by itself, in the database: what the service's own conditions may forget (P7).

The statements here are the service's, with every condition on the tenant taken out. What is
left is row-level security, which is forced: the schema belongs to an ordinary login here, to
whom it applies, as it does to the service and to functions that run as their owner.
"""

import re
from collections.abc import Iterator
from typing import Any, Final, LiteralString

import psycopg
import pytest

from counterfoil.server.db import sqlfile
from tests.db.book import ACT_FOR, append_one, event, request
from tests.support.cluster import Cluster, Database
from tests.support.owner import ordinarily_owned

pytestmark = pytest.mark.promise("P7")

OWNED: Final = (
    *("books", "events", "event_tags", "idempotency_keys"),
    *("keys", "key_uses", "rules", "event_types", "freezes"),
    *("consumers", "consumer_progress", "deliveries", "delivery_keys"),
    *("dead_letters", "consumer_calls", "policies"),
)
PACKAGES: Final = (
    *("counterfoil.server.log", "counterfoil.server.access", "counterfoil.server.brake"),
    *("counterfoil.server.event_types", "counterfoil.server.decisions"),
)
NOT_ONE_TENANTS: Final = frozenset(
    # What tells of the database or of all tenants, by its purpose; and what only writes.
    {
        *("append", "ring", "listen", "tell_of_listening", "readiness"),
        *("see_all_books", "recover", "presented", "tenants", "note_uses"),
        *("consume", "in_need", "states", "clear"),
    }
)
CONSUMERS_ROWS: Final[tuple[LiteralString, ...]] = (
    """insert into counterfoil.consumers values (%(tenant)s, 'c' || %(tenant)s::text, 1, 1,
    '[{"types": ["noted"]}]', '"beginning"', 'customer', 60, 3, 1, 2, 300, null, 'pass', false,
    now(), 'p')""",
    """insert into counterfoil.consumer_progress (tenant_id, generation, consumer, reached, low)
    values (%(tenant)s, 1, 'c' || %(tenant)s::text, 1, 1)""",
    """insert into counterfoil.deliveries (tenant_id, generation, position, state, due_at, keys,
    place, holder, principal, claimed_at) values (%(tenant)s, 1, 1, 'held',
    now() + interval '1 day', array['customer:c'], 1, 'h', 'p', now())""",
    "insert into counterfoil.delivery_keys values (%(tenant)s, 1, 'customer:c', 1, 1)",
    """insert into counterfoil.dead_letters values (%(tenant)s, 'c' || %(tenant)s::text, 1, 1, 1,
    '[]', 'why', 1, now(), 'p', false)""",
    "insert into counterfoil.consumer_calls values (%(tenant)s, 'p', 'k', sha256('x'), '{}', now())",
)
POLICIES_ROW: Final[LiteralString] = """insert into counterfoil.policies (tenant_id, name, version,
    position, document, digest, state, drafted_at, drafted_by, activated_at, activated_by) values (
    %(tenant)s, 'c' || %(tenant)s::text, 1, 1, '{"by":"agent_' || %(tenant)s::text || '"}',
    sha256(convert_to('{"by":"agent_' || %(tenant)s::text || '"}', 'UTF8')), 'active', now(),
    'agent:agent_' || %(tenant)s::text, now(), 'person:p')"""
ON_THE_TENANT: Final = re.compile(
    r"\b[a-z]+\.tenant_id\s*=\s*(?:%\(tenant_id\)s::integer|p_tenant_id|[a-z]+\.tenant_id)"
)


@pytest.fixture(scope="module")
def owned(cluster: Cluster) -> Iterator[Database]:
    """A database that belongs to an ordinary login, with an event and more of two tenants."""
    with ordinarily_owned(cluster) as database:
        owner = database.owner
        with psycopg.connect(owner.url, autocommit=True) as connection:
            connection.execute(ACT_FOR, ["2"])
            connection.execute(
                "insert into counterfoil.books (tenant_id, name) values (2, 'rival')"
            )
            for tenant_id in (1, 2):
                connection.execute(ACT_FOR, [str(tenant_id)])
                connection.execute(
                    "insert into counterfoil.rules (tenant_id, position) values (%s, 1)",
                    [tenant_id],
                )
                named = event(f"agent_{tenant_id}", "noted", {"n": tenant_id}, ["customer:c"])
                append_one(
                    connection,
                    request(named, key="k", principal="p", rules=1),
                    tenant_id=tenant_id,
                )
                connection.execute(
                    "insert into counterfoil.keys (tenant_id, key_id, position, kind, name, mode, "
                    "scopes, digest, created_at, created_by) values (%(tenant)s, %(id)s, 1, 'agent', "
                    "%(id)s, 'live', '{}', sha256('x'), now(), 'p')",
                    {"tenant": tenant_id, "id": f"key_{tenant_id}"},
                )
                connection.execute(
                    "insert into counterfoil.key_uses values (%s, %s, now())",
                    [tenant_id, f"key_{tenant_id}"],
                )
                connection.execute(
                    "insert into counterfoil.event_types values "
                    "(%s, %s, 1, 1, '{}', false, null, now(), 'p')",
                    [tenant_id, f"type_{tenant_id}"],
                )
                connection.execute(
                    "insert into counterfoil.freezes values "
                    "(%s, 1, 'agent', %s, 'why', null, now(), 'p')",
                    [tenant_id, f"agent_{tenant_id}"],
                )
                for rows in (*CONSUMERS_ROWS, POLICIES_ROW):
                    connection.execute(rows, {"tenant": tenant_id})
        yield owner


@pytest.fixture
def owner(owned: Database) -> Iterator[psycopg.Connection]:
    """The ordinary login that owns the schema."""
    with psycopg.connect(owned.url) as connection:
        yield connection
        connection.rollback()


def without_conditions(sql: str) -> LiteralString:
    """The same statement, as if every condition on the tenant had been forgotten."""
    return ON_THE_TENANT.sub("true", sql)


def forget_in_functions(owner: psycopg.Connection) -> None:
    """Take every condition on the tenant out of the functions, in this transaction."""
    rows = owner.execute(
        "select pg_get_functiondef(oid) from pg_proc "
        "where pronamespace = 'counterfoil'::regnamespace and prosqlbody is null"
    ).fetchall()
    forgotten = [(old, without_conditions(old)) for (old,) in rows]
    assert sum(old != new for old, new in forgotten) >= 6
    for _, new in forgotten:
        owner.execute(new)


def statements() -> Iterator[Any]:
    for package in PACKAGES:
        for name, sql in sqlfile.load(package, "queries.sql").items():
            if name not in NOT_ONE_TENANTS:
                yield pytest.param(sql, id=f"{package.rpartition('.')[2]}:{name}")


def act_for(connection: psycopg.Connection, tenant_id: int | None) -> None:
    connection.execute(
        "select set_config('counterfoil.tenant_id', %s, true)",
        ["" if tenant_id is None else str(tenant_id)],
    )


@pytest.mark.parametrize("sql", list(statements()))
def test_a_statement_without_its_conditions_shows_no_other_tenant(
    owner: psycopg.Connection, sql: str
) -> None:
    """As the service runs it for tenant 1, with parameters that ask for everything."""
    forgotten = without_conditions(sql)
    assert forgotten != sql, "the statement names its tenant"
    forget_in_functions(owner)
    owner.execute("set local role counterfoil_service")
    act_for(owner, 1)
    parameters = {
        "tenant_id": 2,
        "query": None,
        "payload": None,
        "after": 0,
        "up_to": 10,
        "limit": 10,
        "bytes_max": 1_000_000,
        "newest_first": False,
        "agent_name": "agent_2",
        "position": 1,
        "positions": [1],
        "key_id": "key_2",
        "event_type": "type_2",
        "version": 1,
        "with_text": True,
        "name": "c2",
        "names": "c1,c2",
        "principal": "p",
        "few": 50,
        "asked": '[{"policy": "c2", "subject": "customer:c", "decisions": [{"types": ["noted"]}], '
        '"query": [{"agents": ["agent_2"]}]}]',
    }
    if "%(after)s::text" in sql:
        parameters["after"] = ""

    rows = owner.execute(forgotten, parameters).fetchall()

    told = str(rows)
    for secret in ("agent_2", "key_2", "type_2", "rival"):
        assert secret not in told
    act_for(owner, None)
    assert "agent_" not in str(owner.execute(forgotten, parameters).fetchall())


@pytest.mark.parametrize("table", OWNED)
def test_a_table_shows_a_tenant_its_own_rows_and_none_to_who_never_said(
    owner: psycopg.Connection, table: str
) -> None:
    counts = {}
    for tenant_id in (1, 2, None):
        act_for(owner, tenant_id)
        rows = owner.execute(f"select distinct tenant_id from counterfoil.{table}").fetchall()
        counts[tenant_id] = rows
    assert counts == {1: [(1,)], 2: [(2,)], None: []}


def test_the_setting_of_one_transaction_is_gone_in_the_next(owner: psycopg.Connection) -> None:
    """It then reads as an empty string, which is no tenant either."""
    act_for(owner, 1)
    owner.commit()
    found = owner.execute(
        "select current_setting('counterfoil.tenant_id', true), counterfoil.current_tenant(), "
        "(select count(*) from counterfoil.events)"
    ).fetchone()
    assert found == ("", None, 0)


def test_no_table_of_a_tenant_is_without_forced_row_security(owner: psycopg.Connection) -> None:
    """A table that is added later has to be given a policy too."""
    rows = owner.execute(
        "select c.relname, c.relrowsecurity and c.relforcerowsecurity from pg_class c "
        "join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id' "
        "where c.relnamespace = 'counterfoil'::regnamespace and c.relkind in ('r', 'p')"
    ).fetchall()
    assert dict(rows) == dict.fromkeys(OWNED, True)


def test_the_append_refuses_a_tenant_that_is_not_its_transactions(
    owner: psycopg.Connection,
) -> None:
    owner.execute("set local role counterfoil_service")
    act_for(owner, 1)
    with pytest.raises(psycopg.Error) as refused:
        owner.execute("select counterfoil.append_v4(2, '[]', 1000)")
    assert "not that tenant's" in str(refused.value)


def test_an_append_that_forgot_to_look_writes_into_no_other_book(
    owner: psycopg.Connection,
) -> None:
    """The guard in the function is taken out too: the policy refuses what it would write."""
    (source,) = owner.execute(
        "select pg_get_functiondef('counterfoil.append_v4'::regproc)"
    ).fetchone() or ("",)
    guard = re.compile(r"if counterfoil\.current_tenant\(\) is distinct.*?end if;", re.DOTALL)
    unguarded = without_conditions(guard.sub("", source))
    assert unguarded != without_conditions(source)
    owner.execute(unguarded)
    owner.execute("set local role counterfoil_service")
    act_for(owner, 1)
    asked = '[{"operation": "append", "principal": "p", "rules": 1, "events": [{"agent_name": "a", '
    asked += '"event_type": "t", "payload": {}, "tags": []}]}]'
    with pytest.raises(psycopg.Error) as refused:
        owner.execute("select counterfoil.append_v4(2, %s, 1000)", [asked])
    assert "row-level security" in str(refused.value)
