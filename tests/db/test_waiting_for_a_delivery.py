"""Two calls name one delivery: the second waits, and then does what it was asked to the row of then."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from tests.db.handing_out import (
    Token,
    ack,
    claim,
    consume,
    extend,
    make_consumer,
    pay,
    release,
    states,
)
from tests.support.cluster import Database
from tests.support.waiting import WAIT_SECONDS_MAX, wait_for

pytestmark = pytest.mark.promise("P8")


@pytest.fixture
def first(database: Database) -> Iterator[psycopg.Connection]:
    """A session whose transaction stays open."""
    with psycopg.connect(database.url) as connection:
        yield connection


@pytest.fixture
def second(database: Database) -> Iterator[psycopg.Connection]:
    """A session that comes behind it."""
    with psycopg.connect(database.url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def held(owner: psycopg.Connection) -> Token:
    """What both name."""
    make_consumer(owner)
    pay(owner, "customer:a")
    (token,) = consume(owner, claim()).tokens
    return token


@pytest.mark.parametrize(
    ("then", "state"),
    [
        (lambda token: extend(token, seconds=5_000), "held for long"),
        (lambda token: release(token, reason="No."), "ready"),
        (ack, None),
    ],
)
def test_what_waited_for_an_extension_is_done_to_the_extended_row(
    owner: psycopg.Connection,
    first: psycopg.Connection,
    second: psycopg.Connection,
    held: Token,
    then: Any,
    state: str | None,
) -> None:
    consume(first, extend(held, seconds=100))
    asked: Mapping[str, Any] = then(held)
    with ThreadPoolExecutor(1) as pool:
        answered = pool.submit(consume, second, asked)

        def waiting() -> bool:
            row = owner.execute(
                "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and pid = %s",
                [second.info.backend_pid],
            ).fetchone()
            return row == (1,)

        wait_for(waiting, "the second to wait for the first")
        first.commit()
        assert answered.result(WAIT_SECONDS_MAX).status() == "done"
    if state == "held for long":
        row = owner.execute(
            "select due_at > clock_timestamp() + interval '4000 seconds' from counterfoil.deliveries"
        ).fetchone()
        assert row == (True,)
    else:
        assert states(owner) == ({} if state is None else {held[1]: state})
