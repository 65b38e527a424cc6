"""What a query matches: PostgreSQL's form of the rule against the one in Python.

Conditions and pages are judged by ``matching_v1``, live streams by ``log.query.matches``.
A guard that reads by one and is checked by the other must mean the same.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterfoil.server.log.query import Item, matches, query_document
from tests.db.book import append, event, request
from tests.support.cluster import Cluster
from tests.support.examples import examples

AGENTS = ("a", "B", "ä")
TYPES = ("a", "t.1", "t.2")
# Prefixes of each other, and what a careless comparison would fold or trim.
TAGS = ("a:1", "a:1 2", "a:10", "A:1", "ä:1", "b:1")

tag_sets = st.sets(st.sampled_from(TAGS), max_size=4)
events = st.builds(
    event,
    agent_name=st.sampled_from(AGENTS),
    event_type=st.sampled_from(TYPES),
    tags=tag_sets,
    payload=st.fixed_dictionaries({"n": st.integers(0, 2)}),
)
names = st.frozensets
items = st.builds(
    Item,
    types=names(st.sampled_from((*TYPES, "unknown")), max_size=3),
    agents=names(st.sampled_from((*AGENTS, "unknown")), max_size=3),
    tags=names(st.sampled_from((*TAGS, "unknown:1")), max_size=3),
).filter(lambda item: bool(item.types or item.agents or item.tags))


@dataclass(frozen=True)
class Asked:
    """The arguments of one call of ``matching_v1``, but for the tenant."""

    query: tuple[Item, ...] | None
    payload: dict[str, int] | None
    after: int
    up_to: int
    limit: int
    newest_first: bool


asked = st.builds(
    Asked,
    query=st.none() | st.lists(items, min_size=1, max_size=4).map(tuple),
    payload=st.none() | st.fixed_dictionaries({"n": st.integers(0, 2)}),
    after=st.integers(0, 12),
    # Of a wide range it is looked which way has the fewest events to walk.
    up_to=st.integers(0, 13) | st.just(5_000),
    limit=st.integers(1, 13),
    newest_first=st.booleans(),
)


@pytest.fixture(scope="module")
def connection(cluster: Cluster) -> Iterator[psycopg.Connection]:
    """One database; each example has a book of its own in it."""
    with cluster.database() as fresh, psycopg.connect(fresh.url, autocommit=True) as owner:
        yield owner


tenants = count(2)


@pytest.mark.promise("P4")
@examples(80)
@given(
    book=st.lists(events, max_size=12),
    times=st.sampled_from((1, 1, 10)),
    questions=st.lists(asked, min_size=8, max_size=8),
)
def test_sql_and_python_agree_on_what_matches(
    connection: psycopg.Connection,
    book: list[dict[str, object]],
    times: int,
    questions: list[Asked],
) -> None:
    """Many times over, what a book holds is not rare any more."""
    tenant_id, book = next(tenants), book * times
    connection.execute("insert into counterfoil.books values (%s, %s)", [tenant_id, str(tenant_id)])
    if book:
        append(connection, *[request(one) for one in book], tenant_id=tenant_id)
    for question in questions:
        found = connection.execute(
            "select * from counterfoil.matching_v1(%s, %s, %s, %s, %s, %s, %s)",
            [
                tenant_id,
                None if question.query is None else json.dumps(query_document(question.query)),
                None if question.payload is None else json.dumps(question.payload),
                question.after,
                question.up_to,
                question.limit,
                question.newest_first,
            ],
        ).fetchall()
        assert [position for (position,) in found] == expected(book, question), question
        if question.query is None:
            continue
        held = connection.execute(
            "select e.position from counterfoil.events e where e.tenant_id = %s "
            "and counterfoil.event_matches(e, %s) order by e.position",
            [tenant_id, json.dumps(query_document(question.query))],
        ).fetchall()
        everything = replace(
            question, payload=None, after=0, up_to=5_000, limit=5_000, newest_first=False
        )
        assert [position for (position,) in held] == expected(book, everything), question


def expected(book: list[dict[str, object]], question: Asked) -> list[int]:
    """What the plain rule says, position by position."""
    found = [
        position
        for position, one in enumerate(book, 1)
        if question.after < position <= question.up_to
        and matches(question.query, one["agent_name"], one["event_type"], set(one["tags"]))  # type: ignore[arg-type, call-overload]  # of the events above
        and question.payload in (None, one["payload"])
    ]
    if question.newest_first:
        found.reverse()
    return found[: question.limit]


@pytest.mark.promise("P4")
def test_a_rare_tag_of_a_wide_book_is_held_against_the_rest_of_the_item(
    connection: psycopg.Connection,
) -> None:
    tenant_id = next(tenants)
    connection.execute("insert into counterfoil.books values (%s, %s)", [tenant_id, str(tenant_id)])
    book = [
        request(event("a", "t.1", {"n": 1}, ["a:1", "b:1"])),
        request(event("a", "t.2", {"n": 1}, ["a:1", "b:1"])),
        request(event("B", "t.1", {"n": 2}, ["a:1"])),
        request(event("a", "t.1", {"n": 1}, ["a:1"])),
    ]
    append(connection, *book, tenant_id=tenant_id)
    for item, payload, found in (
        ({"tags": ["a:1"], "types": ["t.1"]}, None, [1, 3, 4]),
        ({"tags": ["a:1"], "agents": ["B"]}, None, [3]),
        ({"tags": ["a:1", "b:1"]}, None, [1, 2]),
        ({"tags": ["a:1"], "types": ["t.1"]}, {"n": 2}, [3]),
        ({"tags": ["a:1", "unknown:1"]}, None, []),
    ):
        for newest_first in (False, True):
            rows = connection.execute(
                "select * from counterfoil.matching_v1(%s, %s, %s, 0, 5000, 9, %s)",
                [tenant_id, json.dumps([item]), payload and json.dumps(payload), newest_first],
            ).fetchall()
            assert [one for (one,) in rows] == (found[::-1] if newest_first else found), item
        held = connection.execute(
            "select e.position from counterfoil.events e where e.tenant_id = %s "
            "and counterfoil.event_matches(e, %s) and e.payload @> %s order by e.position",
            [tenant_id, json.dumps([item]), json.dumps(payload or {})],
        ).fetchall()
        assert [one for (one,) in held] == found, item


def test_books_are_apart(connection: psycopg.Connection) -> None:
    here, there = next(tenants), next(tenants)
    for tenant_id in (here, there):
        connection.execute(
            "insert into counterfoil.books values (%s, %s)", [tenant_id, str(tenant_id)]
        )
    append(connection, request(event(tags=["a:1"])), tenant_id=there)
    for query in ('[{"tags": ["a:1"]}]', '[{"types": ["flag_transaction"]}]', None):
        found = connection.execute(
            "select * from counterfoil.matching_v1(%s, %s, null, 0, 9, 9, false)", [here, query]
        ).fetchall()
        assert found == []


def test_item_that_asks_nothing_is_an_error(connection: psycopg.Connection) -> None:
    """The service refuses it before; it must never come to mean everything."""
    for query in ("[{}]", '[{"types": [], "tags": []}]', '[{"tags": ["a:1"]}, {}]'):
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            connection.execute(
                "select * from counterfoil.matching_v1(1, %s, null, 0, 9, 9, false)", [query]
            )
