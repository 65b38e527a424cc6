"""Blanking a payload: the one change to an event that there is, and what it leaves (P6)."""

from typing import Final

import psycopg
import pytest

from tests.db.book import append_one, event, fail_if, request

pytestmark = pytest.mark.promise("P6")

BLANK: Final = "update counterfoil.events set payload = null, salt = null where position = 1"


@pytest.fixture(autouse=True)
def book(service: psycopg.Connection) -> None:
    """Two events; the first is the one to blank."""
    append_one(service, request(event(payload={"name": "Ada"}, tags=["customer:c"])))
    append_one(service, request(event(payload={"amount": 1})))


def test_eraser_blanks_a_payload_and_its_salt_and_the_rest_stays(
    eraser: psycopg.Connection, owner: psycopg.Connection
) -> None:
    rest = "select to_jsonb(e) - 'payload' - 'salt' from counterfoil.events e order by position"
    before = owner.execute(rest).fetchall()
    assert eraser.execute(BLANK).rowcount == 1
    assert owner.execute(rest).fetchall() == before
    blanked = owner.execute(
        "select position, payload is null, salt is null from counterfoil.events order by position"
    ).fetchall()
    assert blanked == [(1, True, True), (2, False, False)]


def test_blanked_event_is_still_shown_in_its_place(
    eraser: psycopg.Connection, service: psycopg.Connection
) -> None:
    eraser.execute(BLANK)
    rows = service.execute(
        "select (counterfoil.event_text(e)::jsonb) from counterfoil.events e order by position"
    ).fetchall()
    assert [(shown["id"], shown["payload"]) for (shown,) in rows] == [
        (1, None),
        (2, {"amount": 1}),
    ]
    assert append_one(
        service, request(condition=fail_if({"types": ["flag_transaction"]}))
    ).detail == [1, 2]


def test_blanking_twice_changes_nothing_more(eraser: psycopg.Connection) -> None:
    assert [eraser.execute(BLANK).rowcount for _ in range(2)] == [1, 1]


def test_what_was_blanked_cannot_be_filled_again(
    eraser: psycopg.Connection, owner: psycopg.Connection
) -> None:
    eraser.execute(BLANK)
    with pytest.raises(psycopg.errors.RestrictViolation):
        eraser.execute("update counterfoil.events set payload = '{}', salt = '\\x00'")
    with pytest.raises(psycopg.errors.RestrictViolation):
        owner.execute("update counterfoil.events set payload = '{}', salt = '\\x00'")
