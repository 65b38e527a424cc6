"""What a read costs: it walks one index and stops, whatever the statistics say.

A new or restored book has no statistics, and one that was analysed early has wrong ones.
Each statement is run under ``auto_explain``, which shows the plans of the statements
inside the stored functions too, with the rows that each step really saw.

They are run with the rights of the service, to whom row-level security applies: what a policy
asks stands in every plan, and a condition that PostgreSQL does not trust to keep a row to itself
(it is not *leakproof*) may not be looked up in an index before that. So there are two owners. An
ordinary one is bound by the policies too, and with it all that append_v4 looks at; a superuser,
as in ``counterfoil dev``, is not.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg
import pytest
from psycopg import sql
from psycopg.errors import Diagnostic

from counterfoil.server.core import limits
from counterfoil.server.db import sqlfile
from counterfoil.server.db.pool import SERVICE_ROLE
from tests.db.book import ACT_FOR, append_one, event, fail_if, request
from tests.support.cluster import Cluster
from tests.support.owner import login_of, ordinarily_owned

STATEMENTS: Final = sqlfile.load("counterfoil.server.log", "queries.sql")
EVENTS: Final = 50_000
PAGE: Final = 101

# Two types and two agents are in none of the statistics: they came after the ANALYZE.
FILL: Final = """
    insert into counterfoil.events (tenant_id, position, agent_name, event_type, payload, tags,
                                    created_at, caused_by, salt, digest, principal)
    select 1, n,
           case when n > 49990 then 'new_agent' else 'poster' end,
           case when n %% 1000 = 0 then 'flagged' when n > 49990 then 'new_type' else 'posted' end,
           jsonb_build_object('n', n),
           array['channel:card', 'customer:' || n %% 5000, 'transaction:' || n],
           now(), '{}', '\\x00', '\\x00', 'anonymous'
    from generate_series(%s::integer, %s::integer) as n
"""
FILL_TAGS: Final = """
    insert into counterfoil.event_tags
    select tenant_id, unnest(tags), position from counterfoil.events where position between %s and %s
"""


@dataclass
class Work:
    """What one statement did, with everything inside its functions."""

    rows_seen: int = 0
    """Rows that scans of the book's tables read, those that filters threw away included."""
    rows_sorted: int = 0
    rows_compared: int = 0
    """What arrays were read for, each time that they were, and pairs that were no match."""
    scans: list[str] = field(default_factory=list)

    def add(self, plan: dict[str, Any]) -> None:
        loops = plan["Actual Loops"]
        rows = plan["Actual Rows"] * loops
        if "Scan" in plan["Node Type"] and "Function" not in plan["Node Type"]:
            removed = plan.get("Rows Removed by Filter", 0) * loops
            removed += plan.get("Rows Removed by Index Recheck", 0) * loops
            self.rows_seen += round(rows + removed)
            place = plan.get("Index Name") or plan.get("Relation Name")
            self.scans.append(f"{plan['Node Type']} {place}")
        if plan["Node Type"] == "Function Scan":
            self.rows_compared += round(rows + plan.get("Rows Removed by Filter", 0) * loops)
        self.rows_compared += round(plan.get("Rows Removed by Join Filter", 0) * loops)
        for below in plan.get("Plans", []):
            if plan["Node Type"] == "Sort":
                self.rows_sorted += round(below["Actual Rows"] * below["Actual Loops"])
            self.add(below)


class Explained:
    """A session whose statements are explained."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection = connection
        self._work = Work()
        connection.add_notice_handler(self._notice)
        connection.execute("load 'auto_explain'")
        for name, value in {
            "log_min_duration": "0",
            "log_nested_statements": "on",
            "log_analyze": "on",
            "log_timing": "off",
            "log_format": "json",
            "log_level": "notice",
        }.items():
            connection.execute(f"set auto_explain.{name} = {value}")

    def _notice(self, diagnostic: Diagnostic) -> None:
        _, found, plan = (diagnostic.message_primary or "").partition("plan:\n")
        if found:
            self._work.add(json.loads(plan)["Plan"])

    def work_of(self, name: str, **parameters: object) -> Work:
        """Run a statement of the log, as a prepared one, and tell what it did."""
        self._work = Work()
        self.connection.execute(STATEMENTS[name], {"tenant_id": 1, **parameters}, prepare=True)
        assert self._work.scans, "the plans were not shown"
        return self._work

    def work_of_append(self, asked: dict[str, Any]) -> Work:
        """Append one request, and tell what that did."""
        self._work = Work()
        with self.connection.transaction(force_rollback=True):
            assert append_one(self.connection, asked).status == "stored"
        return self._work


@dataclass(frozen=True, slots=True)
class Filled:
    """A filled book: how a superuser comes in, and what to become for the service's rights."""

    url: str
    become_the_service: sql.Composed


@contextmanager
def superusers_book(cluster: Cluster) -> Iterator[Filled]:
    """As of ``counterfoil dev``: the service is the owner, with the owner's rights laid down."""
    with cluster.database() as database:
        yield Filled(database.url, sql.SQL("set role {}").format(sql.Identifier(SERVICE_ROLE)))


@contextmanager
def ordinary_owners_book(cluster: Cluster) -> Iterator[Filled]:
    """As in production: the service has a login of its own, and the owner is nobody special."""
    with ordinarily_owned(cluster) as owned:
        login = sql.Identifier(login_of(owned.service))
        yield Filled(owned.administrator.url, sql.SQL("set session authorization {}").format(login))


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((book, statistics), id=f"{owner}-{statistics}")
        for owner, book in (("superuser", superusers_book), ("ordinary", ordinary_owners_book))
        for statistics in ("none", "outdated", "current")
    ],
)
def filled(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Filled]:
    """A book of fifty thousand events, whose it is, and what PostgreSQL knows about it."""
    book, statistics = request.param
    with book(cluster) as opened:
        with psycopg.connect(opened.url, autocommit=True) as connection:
            for table in ("events", "event_tags"):
                connection.execute(
                    f"alter table counterfoil.{table} set (autovacuum_enabled = off)"
                )
            for first, last in ((1, 500), (501, EVENTS)):
                connection.execute(FILL, [first, last])
                connection.execute(FILL_TAGS, [first, last])
                if statistics == "outdated" and last < EVENTS:
                    connection.execute("analyze")
            if statistics == "current":
                connection.execute("vacuum analyze")
        yield opened


@pytest.fixture(params=["force_generic_plan", "force_custom_plan"])
def explained(request: pytest.FixtureRequest, filled: Filled) -> Iterator[Explained]:
    """A session that plans as a prepared statement's later runs do, or as its first ones."""
    with psycopg.connect(filled.url, autocommit=True) as connection:
        connection.execute(f"set plan_cache_mode = {request.param}")
        session = Explained(connection)  # the last thing that only a superuser may
        connection.execute(filled.become_the_service)
        connection.execute(ACT_FOR, ["1"])
        yield session


def page(**asked: Any) -> dict[str, Any]:
    """The parameters of a page; ``asked`` is its one query item, if any."""
    newest_first = asked.pop("newest_first", False)
    payload = asked.pop("payload", None)
    after = asked.pop("after", 0)
    return {
        "query": json.dumps([asked]) if asked else None,
        "payload": payload,
        "after": after,
        "up_to": limits.POSITION_MAX,
        "limit": PAGE,
        "bytes_max": limits.PAGE_BYTES_MAX,
        "newest_first": newest_first,
    }


PAGES = {
    "everything": page(),
    "everything, newest first": page(newest_first=True),
    "a rare tag": page(tags=["transaction:777"]),
    "a common tag": page(tags=["channel:card"]),
    "a common tag, newest first": page(tags=["channel:card"], newest_first=True),
    "a tag and a type": page(tags=["customer:7"], types=["posted"]),
    "a common type": page(types=["posted"]),
    "a rare type": page(types=["flagged"]),
    "a rare type, newest first": page(types=["flagged"], newest_first=True),
    "a new type": page(types=["new_type"]),
    "a type that never was": page(types=["unknown"]),
    "a common agent": page(agents=["poster"], newest_first=True),
    "a new agent": page(agents=["new_agent"]),
    "an agent that never was": page(agents=["unknown"], newest_first=True),
    "two agents and a type": page(agents=["poster", "new_agent"], types=["posted"]),
    "near the head": page(types=["posted"], after=EVENTS - 5),
}

PAGE_ROWS_MAX = 6 * PAGE
"""For each event shown: the index, its probe and its row; the tag or agent beside it; slack."""


PROBE_ROWS_MAX = 1_000
"""Rows that tell how common one way to look an item up is, where it offers several."""


def probed(asked: dict[str, Any]) -> int:
    """How many rows may be read to choose the way to an item."""
    (item,) = json.loads(asked["query"] or "[{}]")
    ways = len(item.get("tags", ())) + ("types" in item) + ("agents" in item)
    return ways * PROBE_ROWS_MAX if ways > 1 and asked["after"] + PROBE_ROWS_MAX < EVENTS else 0


@pytest.mark.xdist_group("plans")
@pytest.mark.parametrize("asked", PAGES.values(), ids=PAGES)
def test_page_walks_an_index_and_stops(explained: Explained, asked: dict[str, Any]) -> None:
    for _ in range(2):
        work = explained.work_of("page", **asked)
        assert work.rows_seen <= PAGE_ROWS_MAX + probed(asked), work
        assert work.rows_sorted <= PAGE_ROWS_MAX, work


@pytest.mark.xdist_group("plans")
@pytest.mark.parametrize(
    "item",
    [
        {"tags": ["channel:card", "transaction:40000"]},
        {"tags": ["channel:card"], "types": ["flagged"]},
        {"tags": ["channel:card"], "agents": ["new_agent"]},
        {"agents": ["poster"], "types": ["flagged"]},
        {"agents": ["new_agent"], "types": ["posted", "new_type"]},
    ],
    ids=str,
)
@pytest.mark.parametrize("newest_first", [False, True])
def test_item_is_looked_up_by_the_rarest_thing_it_asks(
    explained: Explained, item: dict[str, list[str]], newest_first: bool
) -> None:
    """Whoever asks for a common tag and a rare type pays for the rare type."""
    asked = page(**item, newest_first=newest_first)
    work = explained.work_of("page", **asked)
    assert work.rows_seen <= PAGE_ROWS_MAX + probed(asked), work


@pytest.mark.xdist_group("plans")
@pytest.mark.parametrize("agent_name", ["poster", "new_agent", "unknown"])
def test_latest_walks_the_agents_index(explained: Explained, agent_name: str) -> None:
    work = explained.work_of(
        "latest",
        agent_name=agent_name,
        up_to=limits.POSITION_MAX,
        limit=limits.LATEST_EVENTS_DEFAULT,
        bytes_max=limits.PAGE_BYTES_MAX,
    )
    assert work.rows_seen <= 6 * limits.LATEST_EVENTS_DEFAULT, work


@pytest.mark.xdist_group("plans")
@pytest.mark.parametrize(
    ("name", "parameters", "rows_max"),
    [
        ("head", {}, 2),
        ("one", {"position": 40_000}, 3),
        ("one", {"position": EVENTS + 1}, 2),
        ("at_positions", {"positions": [1, 2, 20_000, EVENTS]}, 4),
        (
            "feed",
            {
                "after": 40_000,
                "limit": limits.STREAM_PAGE_EVENTS,
                "bytes_max": limits.STREAM_PAGE_BYTES_MAX,
                "with_text": True,
            },
            3 * limits.STREAM_PAGE_EVENTS + 2,
        ),
    ],
    ids=["head", "one", "one that is not there", "at_positions", "feed"],
)
def test_other_reads_look_up_what_they_show(
    explained: Explained, name: str, parameters: dict[str, Any], rows_max: int
) -> None:
    work = explained.work_of(name, **parameters)
    assert work.rows_seen <= rows_max, work


@pytest.mark.xdist_group("plans")
@pytest.mark.parametrize(
    "item",
    [
        {"tags": ["channel:card"]},
        {"tags": ["channel:card", "customer:7"]},
        {"types": ["posted"]},
        {"types": ["unknown"]},
        {"agents": ["poster"]},
    ],
    ids=str,
)
def test_condition_near_the_head_costs_what_came_since(
    explained: Explained, item: dict[str, list[str]]
) -> None:
    """However common what it asks for, and whoever waits for the lock meanwhile."""
    condition = fail_if(item, after=EVENTS)
    work = explained.work_of_append(request(event(tags=["channel:card"]), condition=condition))
    assert work.rows_seen <= 50, work
    assert not [scan for scan in work.scans if scan.startswith("Seq Scan event")], work


@pytest.mark.xdist_group("plans")
def test_condition_that_looks_far_back_is_no_dearer_than_what_it_asks_for(
    explained: Explained,
) -> None:
    condition = fail_if(
        {"types": ["unknown"]},
        {"tags": ["transaction:none"]},
        {"tags": ["channel:card"], "types": ["unknown"]},
    )
    work = explained.work_of_append(request(event(), condition=condition))
    assert work.rows_seen <= PROBE_ROWS_MAX + 100, work
