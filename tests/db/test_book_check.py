"""The benchmark's check of a book notices each kind of damage."""

from typing import LiteralString

import psycopg
import pytest

from benchmarks.harness import book_check
from benchmarks.harness.book_check import Tally
from benchmarks.harness.model import BenchmarkError
from tests.support.cluster import Database

WRITE: LiteralString = """
    with event as (
        select position, '{"amount": 1.50}'::jsonb as payload, '\\x5a5a'::bytea as salt
        from generate_series(1, 3) as position
    )
    insert into counterfoil.events (
        tenant_id, position, agent_name, event_type, payload, tags, created_at, caused_by, salt,
        digest, principal)
    select 1, position, 'fraud_agent', 'flag_transaction', payload,
           '{customer:a,transaction:b}', '2026-01-01'::timestamptz + position * interval '1 s',
           '{}', salt, sha256(salt || convert_to(payload::text, 'UTF8')), 'api-key'
    from event;

    insert into counterfoil.event_tags (tenant_id, tag, position)
    select 1, unnest(tags), position from counterfoil.events;

    insert into counterfoil.idempotency_keys
    values (1, 'api-key', 'k1', '\\x00', 1, 2, '2026-01-01');

    set session_replication_role = replica;
"""
"""Three events, two of them written under a key; then nothing guards them any more."""


@pytest.fixture
def written(owner: psycopg.Connection) -> psycopg.Connection:
    """A whole book, which its owner can damage."""
    owner.execute(WRITE)
    return owner


WHOLE = Tally(acknowledged=3, keys=1)


def test_whole_book_passes(database: Database, written: psycopg.Connection) -> None:
    assert book_check.head(written) == 3
    assert "3 events, 1 keys; all digests" in book_check.check(database.url, WHOLE)


@pytest.mark.usefixtures("written")
def test_requests_without_an_answer_may_have_been_written(database: Database) -> None:
    book_check.check(database.url, Tally(acknowledged=2, unanswered=1, keys=0, unanswered_keys=1))


@pytest.mark.usefixtures("written")
@pytest.mark.parametrize(
    ("tally", "what"),
    [
        (Tally(acknowledged=4, keys=1), "4 were acknowledged"),
        (Tally(acknowledged=1, unanswered=1, keys=1), "1 were acknowledged"),
        (Tally(acknowledged=3, keys=2), "2 were acknowledged"),
        (Tally(acknowledged=3, keys=0), "0 were acknowledged"),
    ],
)
def test_more_or_fewer_than_were_acknowledged_fail(
    database: Database, tally: Tally, what: str
) -> None:
    with pytest.raises(BenchmarkError, match=what):
        book_check.check(database.url, tally)


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        ("update counterfoil.events set position = 9 where position = 3", "last position is 9"),
        (
            "update counterfoil.events set created_at = created_at - interval '1 day' where position = 2",
            "older",
        ),
        ("update counterfoil.events set payload = '{\"amount\": 2}' where position = 1", "digest"),
        ("update counterfoil.events set payload = null, salt = null where position = 1", "digest"),
        ("update counterfoil.events set salt = '\\x00' where position = 2", "digest"),
        (
            "delete from counterfoil.event_tags where position = 2 and tag = 'customer:a'",
            "1 tags differ",
        ),
        ("insert into counterfoil.event_tags values (1, 'customer:z', 3)", "1 tags differ"),
        (
            "update counterfoil.event_tags set tag = 'customer:c' where position = 1 and tag = 'customer:a'",
            "2 tags differ",
        ),
        ("update counterfoil.events set tags = '{}' where position = 3", "2 tags differ"),
        ("update counterfoil.idempotency_keys set first_position = 3", "do not exist"),
        ("update counterfoil.idempotency_keys set event_count = 0", "do not exist"),
    ],
)
def test_each_damage_is_noticed(
    database: Database, written: psycopg.Connection, damage: LiteralString, what: str
) -> None:
    written.execute(damage)
    with pytest.raises(BenchmarkError, match=what):
        book_check.check(database.url, WHOLE)


def test_keys_that_share_events_are_noticed(
    database: Database, written: psycopg.Connection
) -> None:
    written.execute(
        "insert into counterfoil.idempotency_keys "
        "select tenant_id, principal, 'k2', content_digest, 2, 1, created_at "
        "from counterfoil.idempotency_keys"
    )
    with pytest.raises(BenchmarkError, match="share their events"):
        book_check.check(database.url, Tally(acknowledged=3, keys=2))


def test_larger_book_is_sampled_and_says_so(
    database: Database, written: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book_check, "EVENTS_CHECKED_MAX", 1)
    assert "every 3th event" in book_check.check(database.url, WHOLE)
    written.execute("update counterfoil.events set salt = '\\x00' where position = 3")
    with pytest.raises(BenchmarkError, match="1 events do not match"):
        book_check.check(database.url, WHOLE)
