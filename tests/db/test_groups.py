"""A group behaves as if its requests were run one after another; they share a commit."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest

from counterfoil.server.core import limits
from tests.db.book import (
    Answer,
    Request,
    append,
    append_one,
    event,
    fail_if,
    request,
    statuses,
    stored_types,
)
from tests.support.cluster import Database
from tests.support.waiting import WAIT_SECONDS_MAX, wait_for

FLAG = event(event_type="flag", tags=["transaction:tx_1"])
APPROVAL = event("approver", "approved", tags=["transaction:tx_1"])
UNLESS_FLAGGED = {"types": ["flag"], "tags": ["transaction:tx_1"]}


# --- Conditions -------------------------------------------------------------------


@pytest.mark.promise("P4")
def test_flag_before_the_approval_in_one_group_refuses_it(service: psycopg.Connection) -> None:
    flag, approval = append(
        service, request(FLAG), request(APPROVAL, condition=fail_if(UNLESS_FLAGGED, after=0))
    )
    assert (flag.status, flag.first_position) == ("stored", 1)
    assert (approval.status, approval.detail, approval.head) == ("condition_failed", [1], 1)
    assert stored_types(service) == ["flag"]


@pytest.mark.promise("P4")
def test_flag_after_the_approval_in_one_group_does_not(service: psycopg.Connection) -> None:
    answers = append(
        service, request(APPROVAL, condition=fail_if(UNLESS_FLAGGED, after=0)), request(FLAG)
    )
    assert [(a.status, a.first_position) for a in answers] == [("stored", 1), ("stored", 2)]
    assert stored_types(service) == ["approved", "flag"]


@pytest.mark.promise("P4")
def test_of_many_openings_in_one_group_the_first_is_stored(service: psycopg.Connection) -> None:
    opening = request(event(event_type="opened"), condition=fail_if({"types": ["opened"]}))
    answers = append(service, *[opening] * 5)
    assert statuses(answers) == ["stored", *["condition_failed"] * 4]
    assert [answer.detail for answer in answers[1:]] == [[1]] * 4


@pytest.mark.promise("P4")
def test_refused_requests_of_a_group_stand_in_nobodys_way(service: psycopg.Connection) -> None:
    """What the refused flag would have written was never there."""
    answers = append(
        service,
        request(event(event_type="opened")),
        request(FLAG, condition=fail_if({"types": ["opened"]})),
        request(APPROVAL, condition=fail_if(UNLESS_FLAGGED, after=0)),
        request(FLAG, FLAG),
        request(APPROVAL, condition=fail_if(UNLESS_FLAGGED, after=1)),
        request(APPROVAL, condition=fail_if(UNLESS_FLAGGED, after=4)),
    )
    assert [(a.status, a.first_position, a.detail) for a in answers] == [
        ("stored", 1, None),
        ("condition_failed", None, [1]),
        ("stored", 2, None),
        ("stored", 3, None),
        ("condition_failed", None, [3, 4]),
        ("stored", 5, None),
    ]
    assert stored_types(service) == ["opened", "approved", "flag", "flag", "approved"]


@pytest.mark.promise("P4")
def test_conflicts_come_from_the_book_and_from_the_group(service: psycopg.Connection) -> None:
    append_one(service, request(*[FLAG] * 3))
    answers = append(
        service,
        request(FLAG, FLAG),
        request(APPROVAL, condition=fail_if(UNLESS_FLAGGED, after=1)),
        request(*[FLAG] * limits.CONFLICTS_MAX),
        request(APPROVAL, condition=fail_if(UNLESS_FLAGGED, after=1)),
    )
    assert answers[1].detail == [2, 3, 4, 5]
    assert answers[3].detail == list(range(2, limits.CONFLICTS_MAX + 2))


@pytest.mark.promise("P4")
def test_item_of_several_tags_is_violated_by_an_event_that_bears_them_all(
    service: psycopg.Connection,
) -> None:
    """In the book and in the group; an event that bears one of them is in nobody's way."""
    one, other = event(tags=["a:1"]), event(tags=["b:1", "c:1"])
    both = event(tags=["a:1", "b:1", "c:1"])
    asked = {"tags": ["a:1", "b:1"]}
    append_one(service, request(one, both))
    answers = append(
        service,
        request(event(), condition=fail_if(asked, after=1)),
        request(event(), condition=fail_if(asked, after=2)),
        request(one),
        request(other),
        request(event(), condition=fail_if(asked, after=2)),
        request(both),
        request(event(), condition=fail_if(asked, after=2)),
    )
    assert [(a.first_position, a.detail) for a in answers] == [
        (None, [2]),
        (3, None),
        (4, None),
        (5, None),
        (6, None),
        (7, None),
        (None, [7]),
    ]


def test_causes_may_lie_in_the_same_group(service: psycopg.Connection) -> None:
    answers = append(
        service,
        request(event(caused_by=[1]), cause_max=1),
        request(event()),
        request(event(caused_by=[1]), cause_max=1),
    )
    assert statuses(answers) == ["unknown_cause", "stored", "stored"]


# --- Keys -------------------------------------------------------------------------


@pytest.mark.promise("P5")
def test_one_key_twice_in_one_group(service: psycopg.Connection) -> None:
    same, other = request(FLAG, key="k"), request(APPROVAL, key="k")
    answers = append(service, same, request(), same, other)
    assert [(a.status, a.first_position) for a in answers] == [
        ("stored", 1),
        ("stored", 2),
        ("replayed", 1),
        ("key_reused", None),
    ]
    assert answers[2].created_at == answers[0].created_at
    assert len(stored_types(service)) == 2


@pytest.mark.promise("P5")
def test_key_of_a_refused_request_serves_the_next_of_its_group(
    service: psycopg.Connection,
) -> None:
    answers = append(
        service,
        request(FLAG),
        request(APPROVAL, key="k", condition=fail_if(UNLESS_FLAGGED)),
        request(APPROVAL, key="k", condition=fail_if(UNLESS_FLAGGED, after=1)),
        request(APPROVAL, key="k", condition=fail_if(UNLESS_FLAGGED, after=1)),
    )
    assert statuses(answers) == ["stored", "condition_failed", "stored", "replayed"]


@pytest.mark.promise("P5")
def test_key_behind_refused_requests_keeps_its_own_positions(service: psycopg.Connection) -> None:
    """What the refused would have taken is not counted, neither before it nor in its run."""
    opening = request(*[event(event_type="opened")] * 2, condition=fail_if({"types": ["opened"]}))
    keyed = [request(FLAG, FLAG, key="k"), request(APPROVAL, key="l"), request(FLAG, key="m")]
    first = append(service, opening, opening, request(), keyed[0], opening, keyed[1], keyed[2])
    again = append(service, *keyed, request())
    assert [a.first_position for a in first] == [1, None, 3, 4, None, 6, 7]
    assert [(a.status, a.first_position) for a in again] == [
        ("replayed", 4),
        ("replayed", 6),
        ("replayed", 7),
        ("stored", 8),
    ]


# --- What was committed while the group waited ------------------------------------


@contextmanager
def held_book(database: Database) -> Iterator[psycopg.Connection]:
    """Another writer inside its transaction: it has the book's lock until it commits."""
    with psycopg.connect(database.url) as holder:
        holder.execute("select from counterfoil.books where tenant_id = 1 for no key update")
        yield holder


def append_meanwhile(
    database: Database, service: psycopg.Connection, asked: Request, *, meanwhile: Request
) -> Answer:
    """Append ``asked``, which finds the book locked; ``meanwhile`` is committed as it waits."""
    with ThreadPoolExecutor() as pool, held_book(database) as holder:
        answer = pool.submit(append_one, service, asked)

        def waits() -> bool:
            row = holder.execute(
                "select wait_event_type = 'Lock' from pg_stat_activity where pid = %s",
                [service.info.backend_pid],
            ).fetchone()
            return row == (True,)

        wait_for(lambda: answer.done() or waits(), "the append to wait for the lock")
        assert not answer.done(), "the append did not wait for its turn"
        append_one(holder, meanwhile)
        holder.commit()
        assert answer.exception(WAIT_SECONDS_MAX) is None
        return answer.result()


@pytest.mark.promise("P4")
def test_condition_counts_what_was_committed_while_it_waited(
    database: Database, service: psycopg.Connection
) -> None:
    """Both what lay above `after` before the wait, and what came during it."""
    append_one(service, request(FLAG, FLAG))
    decision = request(APPROVAL, condition=fail_if(UNLESS_FLAGGED, after=1))
    answer = append_meanwhile(database, service, decision, meanwhile=request(FLAG))
    assert (answer.status, answer.detail, answer.head) == ("condition_failed", [2, 3], 3)


@pytest.mark.promise("P4")
@pytest.mark.parametrize(
    "asked",
    [{"types": ["flag"]}, {"agents": ["fraud_agent"]}, {"tags": ["transaction:tx_1"]}],
    ids=lambda asked: next(iter(asked)),
)
def test_condition_that_nothing_spoke_against_is_asked_again_after_the_wait(
    database: Database, service: psycopg.Connection, asked: dict[str, list[str]]
) -> None:
    """There was no reason to look at it twice, until a flag came during the wait."""
    append_one(service, request(FLAG))
    decision = request(APPROVAL, condition=fail_if(asked, after=1))
    answer = append_meanwhile(database, service, decision, meanwhile=request(FLAG))
    assert (answer.status, answer.detail, answer.head) == ("condition_failed", [2], 2)


@pytest.mark.promise("P4")
def test_condition_above_the_head_of_before_the_wait_is_judged_after_it(
    database: Database, service: psycopg.Connection
) -> None:
    decision = request(APPROVAL, condition=fail_if(UNLESS_FLAGGED, after=1))
    answer = append_meanwhile(database, service, decision, meanwhile=request(FLAG))
    assert (answer.status, answer.first_position) == ("stored", 2)


@pytest.mark.promise("P5")
def test_key_that_was_used_while_it_waited_is_replayed(
    database: Database, service: psycopg.Connection
) -> None:
    asked = request(FLAG, key="k")
    answer = append_meanwhile(database, service, asked, meanwhile=asked)
    assert (answer.status, answer.first_position) == ("replayed", 1)


@pytest.mark.promise("P2")
def test_unconditional_append_waits_for_its_turn_too(
    database: Database, service: psycopg.Connection
) -> None:
    answer = append_meanwhile(database, service, request(), meanwhile=request(FLAG, FLAG))
    assert (answer.status, answer.first_position) == ("stored", 3)


@pytest.mark.promise("P2")
def test_time_is_taken_after_the_wait(database: Database, service: psycopg.Connection) -> None:
    """Otherwise the later position would bear the earlier time."""
    answer = append_meanwhile(database, service, request(), meanwhile=request(FLAG))
    rows = service.execute(
        "select counterfoil.time_text(created_at) from counterfoil.events order by position"
    ).fetchall()
    assert [time for (time,) in rows] == sorted(time for (time,) in rows)
    assert answer.clock_ahead_seconds == 0


def test_wait_for_the_lock_is_bounded(database: Database, service: psycopg.Connection) -> None:
    with (
        held_book(database),
        pytest.raises(psycopg.errors.LockNotAvailable),
    ):
        service.execute("select counterfoil.append_v4(1, %s::jsonb, 10)", [json.dumps([request()])])


def test_books_do_not_wait_for_each_other(
    database: Database, owner: psycopg.Connection, service: psycopg.Connection
) -> None:
    owner.execute("insert into counterfoil.books (tenant_id, name) values (2, 'second')")
    with held_book(database):
        assert append_one(service, tenant_id=2).status == "stored"
    assert append_one(service).first_position == 1
