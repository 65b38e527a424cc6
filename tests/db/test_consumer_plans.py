"""What handing out costs: what it hands out, whatever is unfinished and whatever is in the book.

As ``test_plans``: under ``auto_explain``, for a superuser's book and for an ordinary owner's,
whom row-level security binds, and without statistics or with wrong ones.
"""

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from tests.db.book import ACT_FOR, append_one, request
from tests.db.handing_out import (
    ack,
    change,
    claim,
    consume,
    drop,
    extend,
    hands_in,
    make_consumer,
    release,
    replay,
    set_aside,
)
from tests.db.test_plans import (
    EVENTS,
    FILL,
    FILL_TAGS,
    Explained,
    Filled,
    Work,
    ordinary_owners_book,
    superusers_book,
)
from tests.support.cluster import Cluster

# Of 20,000, the first of each key is ready, held or delayed, and three wait behind it.
FILL_DELIVERIES = """
    insert into counterfoil.deliveries (
        tenant_id, generation, position, state, due_at, attempts, holder, principal, claimed_at,
        keys, place)
    select 1, %(generation)s, n,
           case when n > 5000 then 'waiting' when n %% 3 = 0 then 'ready'
                when n %% 3 = 1 then 'held' else 'delayed' end,
           case when n <= 5000 and n %% 3 > 0 then now() + n * interval '1 s' + interval '1 h' end,
           1, 'h', 'agent:a', now(), array['customer:' || n %% 5000], n
    from generate_series(1, 20000) as n
"""
FILL_LINES = """
    insert into counterfoil.delivery_keys (tenant_id, generation, key, place, position)
    select tenant_id, generation, keys[1], place, position from counterfoil.deliveries
"""
FILL_LETTERS = """
    insert into counterfoil.dead_letters
    select 1, 'scorer', n, %(generation)s, 1, '[]', 'No.', n, now(), 'p', false
    from generate_series(20001, 29000) as n
"""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((book, statistics), id=f"{owner}-{statistics}")
        for owner, book in (("superuser", superusers_book), ("ordinary", ordinary_owners_book))
        for statistics in ("none", "outdated", "current")
    ],
)
def filled(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Filled]:
    """A book of fifty thousand events, and a consumer with all that it may leave unfinished."""
    book, statistics = request.param
    with book(cluster) as opened, psycopg.connect(opened.url, autocommit=True) as connection:
        tables = ("events", "event_tags", "deliveries", "delivery_keys", "dead_letters")
        for table in (*tables, "consumer_calls", "consumer_progress"):
            connection.execute(f"alter table counterfoil.{table} set (autovacuum_enabled = off)")
        connection.execute(FILL, [1, EVENTS])
        connection.execute(FILL_TAGS, [1, EVENTS])
        connection.execute(opened.become_the_service)
        connection.execute(ACT_FOR, ["1"])
        query = [{"types": ["posted"], "agents": [], "tags": []}]
        made = make_consumer(connection, query=query, order_by="customer", attempts_max=100)
        connection.execute("reset session authorization")
        connection.execute("reset role")
        if statistics == "outdated":
            connection.execute("analyze")
        generation = {"generation": made.first_position}
        connection.execute(FILL_DELIVERIES, generation)
        connection.execute(FILL_LINES)
        connection.execute(FILL_LETTERS, generation)
        connection.execute(
            "update counterfoil.consumer_progress set reached = 30000, low = 1, put_out = 30000"
        )
        connection.execute(
            "insert into counterfoil.consumer_calls select 1, 'p', n::text, sha256('x'), '{}',"
            " now() - interval '5 minutes' from generate_series(1, 5000) as n"
        )
        if statistics == "current":
            connection.execute("vacuum analyze")
        yield opened


@pytest.fixture(params=["force_generic_plan", "force_custom_plan"])
def explained(request: pytest.FixtureRequest, filled: Filled) -> Iterator[Explained]:
    """A session that plans as a prepared statement's later runs do, or as its first ones."""
    with psycopg.connect(filled.url, autocommit=True) as connection:
        connection.execute(f"set plan_cache_mode = {request.param}")
        session = Explained(connection)
        connection.execute(filled.become_the_service)
        connection.execute(ACT_FOR, ["1"])
        yield session


def held(connection: psycopg.Connection, count: int) -> list[tuple[int, int, int]]:
    """Tokens of what the fill has handed out."""
    rows = connection.execute(
        "select generation, position, attempts from counterfoil.deliveries"
        " where state = 'held' and position <= 5000 order by position limit %s",
        [count],
    ).fetchall()
    return [(int(str(g)), int(str(p)), int(str(a))) for g, p, a in rows]


MANY = 400
"""Of what is held: what walks all of that for each of them shows."""

CALLS: dict[str, tuple[int, Callable[[psycopg.Connection], Callable[[], Any]]]] = {
    "claim": (120, lambda c: lambda: consume(c, claim(10))),
    "claim nothing": (20, lambda c: lambda: consume(c, claim(0))),
    "ack": (250, lambda c: _with(held(c, 10), lambda t: consume(c, ack(*t)))),
    "extend": (80, lambda c: _with(held(c, 10), lambda t: consume(c, extend(*t)))),
    "release": (80, lambda c: _with(held(c, 10), lambda t: consume(c, release(*t, reason="No.")))),
    "keyed": (
        250,
        lambda c: _with(held(c, 10), lambda t: consume(c, ack(*t, key="k", digest="00" * 32))),
    ),
    "hand in": (
        400,
        lambda c: _with(
            held(c, 10), lambda t: append_one(c, request(principal="agent:a", **hands_in(*t)))
        ),
    ),
    "many": (6_000, lambda c: _with(held(c, MANY), lambda t: consume(c, ack(*t)))),
    "many, and one of them lost": (
        6_000,
        lambda c: _with(held(c, MANY), lambda t: consume(c, ack(*t[:-1], (t[-1][0], 1, 99)))),
    ),
    "hand in many": (
        16_000,
        lambda c: _with(
            held(c, MANY), lambda t: append_one(c, request(principal="agent:a", **hands_in(*t)))
        ),
    ),
    "hand in many, and one of them lost": (
        16_000,
        lambda c: _with(
            held(c, MANY),
            lambda t: append_one(
                c, request(principal="agent:a", **hands_in(*t[:-1], (t[-1][0], 1, 99)))
            ),
        ),
    ),
    "set aside": (400, lambda c: _with(held(c, 10), lambda t: set_aside(c, *t))),
    "replay": (200, lambda c: lambda: replay(c, *range(20_001, 20_011))),
    "drop": (100, lambda c: lambda: drop(c, *range(20_001, 20_011))),
    "put": (30, lambda c: lambda: make_consumer(c, query=[{"types": ["x"]}])),
    "pause": (30, lambda c: lambda: change(c, "pause")),
    "in_need": (30, lambda c: lambda: c.execute("select counterfoil.consumers_in_need_v1()")),
    "clear": (20, lambda c: lambda: c.execute("select counterfoil.clear_consumers_v1(100)")),
}


def _with(tokens: list[Any], call: Callable[[list[Any]], Any]) -> Callable[[], Any]:
    assert len(tokens) in {10, MANY}
    return lambda: call(tokens)


@pytest.mark.xdist_group("consumer plans")
@pytest.mark.parametrize("name", CALLS)
def test_a_call_walks_what_it_is_about(explained: Explained, name: str) -> None:
    rows_max, prepare = CALLS[name]
    call = prepare(explained.connection)
    explained._work = work = Work()
    with explained.connection.transaction(force_rollback=True):
        call()
    assert work.scans, "the plans were not shown"
    assert work.rows_seen <= rows_max, work
    assert work.rows_compared <= 4 * rows_max, work
    big = ("Seq Scan deliveries", "Seq Scan delivery_keys", "Seq Scan events", "Seq Scan dead_l")
    assert not [scan for scan in work.scans if scan.startswith(big)], work


def test_what_writes_a_delivery_out_is_no_call(owner: psycopg.Connection) -> None:
    """Declared to be less volatile than it is, it would be one for each row, of 25 us."""
    rows = owner.execute(
        "explain (verbose) select counterfoil.delivery_text("
        " counterfoil.event_text(e), 1, e.position, 1, counterfoil.time_text(e.created_at))"
        " from counterfoil.events e"
    ).fetchall()
    plan = "\n".join(str(line) for (line,) in rows)
    assert '"lease_ends":"' in plan
    assert "_text(" not in plan
