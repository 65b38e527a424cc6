"""Looking after consumers: who needs it, what is cleared away, and for whom."""

from collections.abc import Iterator

import psycopg
import pytest

from tests.db.book import ACT_FOR, append_one, event, request
from tests.db.handing_out import (
    change,
    claim,
    consume,
    end,
    fail,
    make_consumer,
    pay,
    release,
    states,
)
from tests.support.cluster import Cluster
from tests.support.owner import Owned, ordinarily_owned

pytestmark = pytest.mark.promise("P8")

IN_NEED = "select tenant_id, name from counterfoil.consumers_in_need_v1() order by 1, 2"


def in_need(connection: psycopg.Connection) -> list[tuple[object, ...]]:
    """Who needs somebody."""
    return connection.execute(IN_NEED).fetchall()


def clear(connection: psycopg.Connection, rows_max: int = 1_000) -> int:
    """Clear away what this tenant has left over."""
    row = connection.execute("select counterfoil.clear_consumers_v1(%s)", [rows_max]).fetchone()
    assert row is not None
    return int(str(row[0]))


def test_who_is_at_work_needs_nobody(service: psycopg.Connection) -> None:
    make_consumer(service)
    pay(service, "a:1", "a:2")
    held = consume(service, claim(2))
    consume(service, release(held.tokens[0], seconds=60))
    assert in_need(service) == []
    assert clear(service) == 0


def test_a_lease_that_is_over_needs_somebody(
    service: psycopg.Connection, owner: psycopg.Connection
) -> None:
    """Though nobody claims: a dead letter, or a gauge, may depend on it."""
    make_consumer(service)
    (position,) = pay(service, "a:1")
    consume(service, claim())
    end(owner, position)
    assert in_need(service) == [(1, "scorer")]
    assert consume(service).deliveries == []
    assert states(owner) == {position: "ready"}
    assert in_need(service) == []


def test_a_lease_that_ended_before_the_mark_is_found_all_the_same(
    service: psycopg.Connection, owner: psycopg.Connection
) -> None:
    """A commit may take longer than any statement, where a standby does not answer."""
    make_consumer(service)
    (position,) = pay(service, "a:1")
    consume(service, claim())
    owner.execute("update counterfoil.consumer_progress set due_low = now() - interval '30 s'")
    owner.execute("update counterfoil.deliveries set due_at = now() - interval '40 s'")
    assert in_need(service) == [(1, "scorer")]
    # As time goes by, without waiting for it.
    for _ in range(3):
        owner.execute(
            "update counterfoil.consumer_progress set due_low = due_low - interval '31 s'"
        )
        owner.execute("update counterfoil.deliveries set due_at = due_at - interval '31 s'")
        consume(service, claim())
    assert consume(service, claim()).positions or states(owner) == {position: "held"}
    assert consume(service, claim(), look_for_due=False).positions == []
    row = owner.execute("select attempts from counterfoil.deliveries").fetchone()
    assert row == (2,)


def test_what_is_exhausted_needs_somebody(
    service: psycopg.Connection, owner: psycopg.Connection
) -> None:
    make_consumer(service)
    (position,) = pay(service, "a:1")
    fail(service, owner, position)
    assert in_need(service) == [(1, "scorer")]


def test_what_a_seek_has_left_over_is_cleared_away_in_steps(
    service: psycopg.Connection, owner: psycopg.Connection
) -> None:
    make_consumer(service, order_by="customer")
    pay(service, "customer:1", "customer:1", "customer:1", "customer:2", "customer:2")
    consume(service, claim(2))
    change(service, "seek", to="beginning")
    assert in_need(service) == [(1, None)]
    held = consume(service, claim(9))
    assert [clear(service, 2) for _ in range(4)] == [2, 2, 1, 0]
    assert in_need(service) == []
    assert len(states(owner)) == 5
    keys = "select count(*), count(distinct generation) from counterfoil.delivery_keys"
    assert owner.execute(keys).fetchone() == (5, 1)
    progress = "select generation from counterfoil.consumer_progress"
    assert owner.execute(progress).fetchall() == [(held.told["generation"],)]


def test_what_a_deletion_has_left_over_is_cleared_away(
    service: psycopg.Connection, owner: psycopg.Connection
) -> None:
    make_consumer(service, order_by="customer")
    pay(service, "customer:1", "customer:1")
    consume(service, claim(key="k", digest="00" * 32))
    change(service, "delete", drop_dead_letters=False)
    assert in_need(service) == [(1, None)]
    assert clear(service) == 2
    clear(service)
    assert states(owner) == {}
    for table in ("consumer_progress", "delivery_keys"):
        row = owner.execute(f"select count(*) from counterfoil.{table}").fetchone()
        assert row == (0,)
    # The answers of its calls are kept for their time, though no consumer is left.
    assert in_need(service) == []
    owner.execute(
        "update counterfoil.consumer_calls set created_at = created_at - interval '12 minutes'"
    )
    assert in_need(service) == [(1, None)]
    assert clear(service) == 1
    assert in_need(service) == []


@pytest.fixture
def owned(cluster: Cluster) -> Iterator[Owned]:
    """A database of an ordinary login, to whom row-level security applies."""
    with ordinarily_owned(cluster) as database:
        yield database


@pytest.mark.promise("P7")
def test_upkeep_sees_all_tenants_and_the_service_its_own(owned: Owned) -> None:
    with (
        psycopg.connect(owned.administrator.url, autocommit=True) as owner,
        psycopg.connect(owned.service.url, autocommit=True) as service,
    ):
        owner.execute("insert into counterfoil.books (tenant_id, name) values (2, 'rival')")
        for tenant_id in (1, 2):
            service.execute(ACT_FOR, [str(tenant_id)])
            made = {
                "effect": "put_consumer",
                "name": f"c{tenant_id}",
                "by": "p",
                "change_query": False,
                "query": [{"types": ["payment"]}],
                "start": "beginning",
                "order_by": "customer",
                "lease_seconds": 60,
                "attempts_max": 3,
                "backoff_initial_seconds": 0,
                "backoff_factor": 2,
                "backoff_max_seconds": 300,
                "in_flight_max": 5,
                "dead_letters": "hold",
            }
            append_one(
                service,
                request(event("counterfoil", "c"), own=True, effect=made),
                tenant_id=tenant_id,
            )
            paid = request(event(event_type="payment", tags=["customer:1"]))
            append_one(service, paid, tenant_id=tenant_id)
            held = consume(service, claim(), name=f"c{tenant_id}", tenant_id=tenant_id)
            assert len(held.positions) == 1
        owner.execute("update counterfoil.deliveries set due_at = now()")
        for tenant in ("1", "2", "3", ""):
            service.execute(ACT_FOR, [tenant])
            assert in_need(service) == [(1, "c1"), (2, "c2")]
            for table in ("consumers", "consumer_progress", "deliveries"):
                found = service.execute(f"select tenant_id from counterfoil.{table}").fetchall()
                assert found == ([(int(tenant),)] if tenant in ("1", "2") else [])
        service.execute(ACT_FOR, ["1"])
        change(service, "delete", name="c1", drop_dead_letters=True)
        assert in_need(service) == [(1, None), (2, "c2")]
        service.execute(ACT_FOR, ["2"])
        assert clear(service) == 0, "only its own"
        service.execute(ACT_FOR, ["1"])
        assert clear(service) == 1
        clear(service)
        assert in_need(service) == [(2, "c2")]
