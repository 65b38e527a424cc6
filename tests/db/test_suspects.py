"""Which requests of a group are looked at one by one: too many perhaps, too few never.

``append_v4`` accepts as it comes what nothing can speak against, and judges by itself only
what a few probes of the indexes suspect. So an answer is right only if whatever is to be
refused is suspected. The probes are held against the one definition of what matches here,
and the answers of whole groups against those of the same requests one by one.
"""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import Any, Final, NamedTuple

import psycopg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.db.book import Answer, Request, append, event, request
from tests.support.cluster import Cluster
from tests.support.examples import examples
from tests.support.waiting import WAIT_SECONDS_MAX, wait_for

INCARNATION: Final = "11111111-1111-4111-8111-111111111111"
"""Of every book here: a condition that names it must mean the same in two of them."""

AGENTS: Final = ("a", "b", "ä")
TYPES: Final = ("a", "t", "u")
TAGS: Final = ("x:1", "x:2", "y:1", "y:10")

TOO_LARGE: Final = {"numbers": [1e99] * 2_700}
"""Short as sent, and more than 256 KiB as PostgreSQL writes it out."""

Item = dict[str, list[str]]


@st.composite
def items(draw: st.DrawFn) -> Item:
    """An item of a condition; values may come twice, and a member may be there and empty."""
    item = {
        "types": draw(st.lists(st.sampled_from(TYPES), max_size=2)),
        "agents": draw(st.lists(st.sampled_from(AGENTS), max_size=2)),
        "tags": draw(st.lists(st.sampled_from(TAGS), max_size=3)),
    }
    if not any(item.values()):
        item["tags"] = [draw(st.sampled_from(TAGS))]
    left_out = draw(st.booleans())
    return {name: values for name, values in item.items() if values or not left_out}


events = st.builds(
    event,
    agent_name=st.sampled_from(AGENTS),
    event_type=st.sampled_from(TYPES),
    tags=st.sets(st.sampled_from(TAGS), max_size=3),
)


class Tenants:
    """A database in which every example has books of its own."""

    def __init__(self, url: str) -> None:
        self.service = psycopg.connect(url, autocommit=True)
        self.service.execute("set role counterfoil_service")
        self.owner = psycopg.connect(url, autocommit=True)
        self.holder = psycopg.connect(url)
        self.pool = ThreadPoolExecutor(1)
        self._ids = count(2)

    def close(self) -> None:
        """End the sessions."""
        self.pool.shutdown()
        for session in (self.service, self.owner, self.holder):
            session.close()

    def new_book(self) -> int:
        """An empty book; all are of one incarnation."""
        tenant_id = next(self._ids)
        self.owner.execute(
            "insert into counterfoil.books (tenant_id, name, incarnation) values (%s, %s, %s)",
            [tenant_id, str(tenant_id), INCARNATION],
        )
        return tenant_id

    def append_after(
        self, group: Sequence[Request], meanwhile: Sequence[Request], *, tenant_id: int
    ) -> list[Answer]:
        """Append a group that finds the book locked; ``meanwhile`` is committed as it waits."""
        self.holder.execute(
            "select from counterfoil.books where tenant_id = %s for no key update", [tenant_id]
        )
        answers = self.pool.submit(append, self.service, *group, tenant_id=tenant_id)

        def waits() -> bool:
            row = self.owner.execute(
                "select wait_event_type = 'Lock' from pg_stat_activity where pid = %s",
                [self.service.info.backend_pid],
            ).fetchone()
            return answers.done() or row == (True,)

        try:
            wait_for(waits, "the group to wait for the lock")
            for one in meanwhile:
                append(self.holder, one, tenant_id=tenant_id)
        finally:
            self.holder.commit()
        return answers.result(WAIT_SECONDS_MAX)


@pytest.fixture(scope="module")
def tenants(cluster: Cluster) -> Iterator[Tenants]:
    with cluster.database() as fresh:
        opened = Tenants(fresh.url)
        yield opened
        opened.close()


# --- The probes -------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """One request's condition."""

    fail_if: list[Item]
    after: int


conditions = st.builds(Asked, st.lists(items(), min_size=1, max_size=3), st.integers(0, 10))


def values_of(asked: Sequence[Asked]) -> str:
    """The conditions as ``append_v4`` takes them apart; the n-th is the n-th request's."""
    values: list[dict[str, Any]] = []
    for request_nth, one in enumerate(asked, 1):
        for item_nth, item in enumerate(one.fail_if, 1):
            way = next(way for way in ("tags", "agents", "types") if item.get(way))
            wanted = len(item[way]) if way == "tags" else 1
            values += [
                {
                    "request": request_nth,
                    "item": item_nth,
                    "way": way.removesuffix("s"),
                    "value": value,
                    "wanted": wanted,
                    "after": one.after,
                }
                for value in item[way]
            ]
    return json.dumps(values)


ASKED: Final = """
    array(select row(a.*)::counterfoil.asked_value from jsonb_to_recordset(%s) as a (
        request integer, item integer, way text, value text, wanted integer, after bigint))
"""


def suspects(
    tenants: Tenants, tenant_id: int, asked: Sequence[Asked], *, after: int, up_to: int
) -> set[int]:
    """Which of the conditions an event in ``after < position <= up_to`` may violate."""
    (found,) = tenants.owner.execute(
        f"select counterfoil.may_match(%s, {ASKED}, %s, %s)",
        [tenant_id, values_of(asked), after, up_to],
    ).fetchone() or ((),)
    return set(found or ())


def suspects_in_group(
    tenants: Tenants, asked: Sequence[Asked], given: Sequence[dict[str, Any]]
) -> set[int]:
    """The same of a group whose n-th request brings the n-th event."""
    (found,) = tenants.owner.execute(
        f"""
        select counterfoil.may_match_in_group({ASKED}, array(
            select row(e.agent_name, e.event_type, null, 0, e.tags, null, null, null, null,
                       null, null, e.nth)::counterfoil.new_event
            from rows from (jsonb_to_recordset(%s) as (
                agent_name text, event_type text, tags text[])) with ordinality
                as e (agent_name, event_type, tags, nth)))
        """,
        [values_of(asked), json.dumps(given)],
    ).fetchone() or ((),)
    return set(found or ())


def violated(tenants: Tenants, tenant_id: int, one: Asked, *, after: int, up_to: int) -> bool:
    """What the one definition of what matches says."""
    row = tenants.owner.execute(
        "select from counterfoil.matching_v1(%s, %s, null, %s, %s, 1, false)",
        [tenant_id, json.dumps(one.fail_if), max(one.after, after), up_to],
    ).fetchone()
    return row is not None


def is_judged_whole(one: Asked) -> bool:
    """Whether the probes see all that each item asks, and so can tell exactly."""
    return all(
        sum(bool(values) for values in item.values()) == 1 and len(item.get("tags", ())) <= 1
        for item in one.fail_if
    )


@pytest.mark.promise("P4")
@examples(100)
@given(
    book=st.lists(events, min_size=1, max_size=10),
    asked=st.lists(conditions, min_size=4, max_size=8),
    window=st.tuples(st.integers(0, 6), st.integers(0, 10)),
)
def test_whatever_is_violated_is_suspected(
    tenants: Tenants, book: list[Request], asked: list[Asked], window: tuple[int, int]
) -> None:
    """And what the probes see whole is suspected only if it is violated."""
    tenant_id = tenants.new_book()
    append(tenants.service, request(*book), tenant_id=tenant_id)
    after, up_to = window
    found = suspects(tenants, tenant_id, asked, after=after, up_to=up_to)
    for nth, one in enumerate(asked, 1):
        truly = violated(tenants, tenant_id, one, after=after, up_to=up_to)
        assert nth in found or not truly, one
        assert nth not in found or truly or not is_judged_whole(one), one


@pytest.mark.promise("P4")
@examples(100)
@given(
    pairs=st.lists(st.tuples(conditions, events), min_size=2, max_size=8),
)
def test_whatever_an_earlier_request_of_the_group_violates_is_suspected(
    tenants: Tenants, pairs: list[tuple[Asked, dict[str, Any]]]
) -> None:
    """And of what the probes see whole nothing else is: a request is not in its own way."""
    asked = [one for one, _ in pairs]
    given_events = [given_event for _, given_event in pairs]
    tenant_id = tenants.new_book()
    append(tenants.service, request(*given_events), tenant_id=tenant_id)
    found = suspects_in_group(tenants, asked, given_events)
    for nth, one in enumerate(asked, 1):
        # The n-th event stands at position n: before it are those of earlier requests.
        truly = violated(tenants, tenant_id, Asked(one.fail_if, 0), after=0, up_to=nth - 1)
        assert nth in found or not truly, one
        assert nth not in found or truly or not is_judged_whole(one), one


@pytest.mark.promise("P4")
@pytest.mark.parametrize(
    ("item", "last"),
    [
        ({"tags": ["x:1"]}, 4),
        ({"agents": ["a"]}, 3),
        ({"agents": ["a", "b"]}, 4),
        ({"types": ["t"]}, 4),
        ({"tags": ["x:1", "y:1"]}, 4),
        ({"types": ["u"]}, 0),
    ],
)
def test_probes_begin_behind_what_was_read(tenants: Tenants, item: Item, last: int) -> None:
    """One event too late, and a flag is not seen. One too early, and whoever decides on the
    newest state, as most do, is looked at by himself, under the lock of all writers."""
    tenant_id = tenants.new_book()
    two = [event("a", "t", tags=["x:1"]), event("b", "t", tags=["x:1", "y:1"])]
    append(tenants.service, request(*two, *two), tenant_id=tenant_id)
    asked = [Asked([item], after) for after in range(6)]
    for seen in range(5):
        behind = set(range(1, last + 1)) if last > seen else set()
        assert suspects(tenants, tenant_id, asked, after=seen, up_to=4) == behind
    assert suspects(tenants, tenant_id, asked, after=0, up_to=0) == set()


@pytest.mark.promise("P4")
def test_own_events_do_not_make_a_request_suspect(tenants: Tenants) -> None:
    """Two that ask for what they bring: the first is stored, and the second is not."""
    for item in ({"tags": ["x:1"]}, {"agents": ["a"]}, {"types": ["t"]}):
        own = event("a", "t", tags=["x:1"])
        assert suspects_in_group(tenants, [Asked([item], 0)] * 3, [own] * 3) == {2, 3}


# --- The answers ------------------------------------------------------------------


class Case(NamedTuple):
    """What is in the book, what comes while the group waits for the lock, and the group."""

    opening: list[Request]
    meanwhile: list[Request]
    group: list[Request]


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Any request; positions are those of a book of some ten events."""
    brought = draw(st.lists(events, min_size=1, max_size=3))
    more: dict[str, Any] = {}
    if draw(st.integers(0, 5)) == 0:
        causes = draw(st.lists(st.integers(1, 14), min_size=1, max_size=2))
        brought[-1] = {**brought[-1], "caused_by": causes}
        more["cause_max"] = max(causes)
    if draw(st.integers(0, 19)) == 0:
        brought[-1] = {**brought[-1], "payload": TOO_LARGE}
    condition: dict[str, Any] | None = None
    if draw(st.integers(0, 2)):
        condition = {"fail_if": draw(st.lists(items(), min_size=1, max_size=3))}
        if draw(st.integers(0, 5)):
            condition["after"] = draw(st.integers(0, 6))
        if draw(st.integers(0, 5)) == 0:
            condition["incarnation"] = draw(st.sampled_from((INCARNATION, INCARNATION[::-1])))
    return request(
        *brought,
        key=draw(st.sampled_from((None, None, "k", "l"))),
        principal=draw(st.sampled_from(("p", "p", "q"))),
        condition=condition,
        **more,
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Requests in each other's way; some are sent again, here or there."""
    opening = draw(st.lists(requests(), max_size=6))
    meanwhile = draw(st.lists(requests(), max_size=2))
    group = draw(st.lists(requests(), min_size=1, max_size=6))
    sent = [*opening, *meanwhile, *group]
    for which in draw(st.lists(st.integers(0, 13), max_size=3)):
        group.insert(which % (len(group) + 1), sent[which % len(sent)])
    return Case(opening, meanwhile, group)


def told(answers: Sequence[Answer]) -> list[tuple[object, ...]]:
    """All of the answers but their times."""
    return [
        (one.status, one.first_position, one.event_count, one.head, one.detail) for one in answers
    ]


CONTENTS: Final = (
    """
    select position, agent_name, event_type, payload::text, tags, caused_by, context, principal
    from counterfoil.events where tenant_id = %s order by position
    """,
    "select tag, position from counterfoil.event_tags where tenant_id = %s order by tag, position",
    """
    select principal, key, content_digest, first_position, event_count
    from counterfoil.idempotency_keys where tenant_id = %s order by principal, key
    """,
)
"""All that a book holds but its times and its salts."""


def contents(tenants: Tenants, tenant_id: int) -> list[list[tuple[Any, ...]]]:
    """What a book holds."""
    return [tenants.owner.execute(query, [tenant_id]).fetchall() for query in CONTENTS]


FLAG: Final = event("a", "t", tags=["x:1", "y:1"])
APPROVAL: Final = request(
    event("b", "u"), condition={"fail_if": [{"types": ["t"], "tags": ["x:1", "y:1"]}], "after": 1}
)


@pytest.mark.promise("P2", "P4", "P5")
@examples(150)
@example(Case([request(FLAG)], [request(FLAG)], [APPROVAL]))
@example(Case([request(FLAG)], [], [request(FLAG), APPROVAL, APPROVAL]))
@example(
    Case(
        [],
        [],
        [
            request(event(payload=TOO_LARGE)),
            request(FLAG, FLAG, key="k"),
            request(FLAG, FLAG, key="k"),
            request(event(), key="l"),
        ],
    )
)
@given(case=cases())
def test_a_group_answers_as_its_requests_would_one_by_one(tenants: Tenants, case: Case) -> None:
    """On two equal books: together behind whoever held the lock, and each by itself."""
    together, apart = tenants.new_book(), tenants.new_book()
    for one in case.opening:
        append(tenants.service, one, tenant_id=together)
    answers = tenants.append_after(case.group, case.meanwhile, tenant_id=together)
    for one in (*case.opening, *case.meanwhile):
        append(tenants.service, one, tenant_id=apart)
    one_by_one = [append(tenants.service, one, tenant_id=apart)[0] for one in case.group]
    assert told(answers) == told(one_by_one)
    assert contents(tenants, together) == contents(tenants, apart)
    for answer in answers:
        row = tenants.owner.execute(
            "select counterfoil.time_text(created_at) from counterfoil.events"
            " where tenant_id = %s and position = %s",
            [together, answer.first_position],
        ).fetchone()
        assert answer.created_at == (row and row[0])
