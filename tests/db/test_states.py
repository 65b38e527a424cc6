"""The states of a delivery and the moves between them: the database makes those of the table."""

import psycopg
import pytest

from counterfoil.server.consumers.states import MOVES, STATES
from tests.db.book import append_one, event, request
from tests.db.handing_out import (
    ack,
    change,
    claim,
    consume,
    extend,
    hands_in,
    make_consumer,
    own,
    pay,
    release,
    set_aside,
)

pytestmark = pytest.mark.promise("P8")

RECORDED = """
    create table public.moves (before text, after text);
    create function public.note_move() returns trigger language plpgsql as $$
    begin
        insert into public.moves values (
            case when tg_op <> 'INSERT' then old.state end,
            case when tg_op <> 'DELETE' then new.state end);
        return null;
    end $$;
    create trigger moves after insert or update or delete on counterfoil.deliveries
        for each row execute function public.note_move();
"""
LEASES_END = """
    update counterfoil.deliveries set due_at = clock_timestamp() - interval '1 second'
    where due_at is not null
"""


@pytest.fixture
def recorded(owner: psycopg.Connection) -> psycopg.Connection:
    """A database that notes every move of every delivery."""
    owner.execute(RECORDED)
    return owner


def moves(owner: psycopg.Connection) -> set[tuple[str | None, str | None]]:
    rows = owner.execute("select distinct before, after from public.moves").fetchall()
    return {(before, after) for before, after in rows if before != after or before == "held"}


def exhaust(owner: psycopg.Connection, name: str) -> tuple[int, int, int]:
    """Let the next delivery fail as often as it may; returns its last token."""
    while True:
        (token,) = consume(owner, claim(), name=name).tokens
        consume(owner, release(token, reason="No."), name=name)
        if consume(owner, name=name).told["exhausted"]:
            return token


def test_what_the_database_does_is_what_the_table_says(recorded: psycopg.Connection) -> None:
    owner = recorded
    make_consumer(owner, "pass", order_by="customer", attempts_max=2)
    make_consumer(owner, "hold", order_by="customer", attempts_max=2, dead_letters="hold")
    pay(owner, *["customer:a"] * 8)

    # Handed out, extended, acknowledged with an outcome and without; the next one goes on.
    (token,) = consume(owner, claim(), name="pass").tokens
    consume(owner, extend(token), name="pass")
    consume(owner, ack(token), name="pass")
    (token,) = consume(owner, claim(), name="pass").tokens
    outcome = request(event(), principal="agent:a", **hands_in(token, name="pass"))
    assert append_one(owner, outcome).status == "stored"
    # Given back, at once and for later; and by leases that end, the last time too.
    (token,) = consume(owner, claim(), name="pass").tokens
    consume(owner, release(token), name="pass")
    (token,) = consume(owner, claim(), name="pass").tokens
    consume(owner, release(token, seconds=60), name="pass")
    for _ in range(3):
        owner.execute(LEASES_END)
        consume(owner, claim(), name="pass")
    # Set aside by itself, and by its holder; both ways to treat a key.
    exhausted = owner.execute(
        "select generation, position, attempts from counterfoil.deliveries where state = 'exhausted'"
    ).fetchone()
    assert exhausted is not None
    assert set_aside(owner, exhausted, principal=None, name="pass").status == "stored"
    (token,) = consume(owner, claim(), name="pass").tokens
    assert set_aside(owner, token, name="pass").status == "stored"
    token = exhaust(owner, "hold")
    assert set_aside(owner, token, principal=None, name="hold").status == "stored"
    assert consume(owner, claim(), name="hold").tokens == []
    letters = {"name": "hold", "event_ids": [token[1]]}
    assert own(owner, "r", {"effect": "replay_dead_letters", **letters}).status == "stored"
    (token,) = consume(owner, claim(), name="hold").tokens
    assert set_aside(owner, token, name="hold").status == "stored"
    assert own(owner, "d", {"effect": "drop_dead_letters", **letters}).status == "stored"
    assert len(consume(owner, claim(), name="hold").tokens) == 1

    assert moves(owner) == {(move.before, move.after) for move in MOVES}


def test_every_state_of_the_table_is_one_that_can_be_stored(owner: psycopg.Connection) -> None:
    row = owner.execute(
        "select pg_get_constraintdef(oid) from pg_constraint "
        "where conname = 'delivery_state_is_known'"
    ).fetchone()
    assert row is not None
    stored = {part.split("'")[0] for part in str(row[0]).split("'")[1::2]}
    assert stored == {state.name for state in STATES}
    assert {move.before for move in MOVES} | {move.after for move in MOVES} == {None, *stored}


def test_a_seek_ends_all_of_them_and_moves_none(recorded: psycopg.Connection) -> None:
    make_consumer(recorded)
    pay(recorded, "customer:a", "customer:b")
    consume(recorded, claim())
    before = recorded.execute("select count(*) from public.moves").fetchone()
    assert change(recorded, "seek", to="beginning").status == "stored"
    assert recorded.execute("select count(*) from public.moves").fetchone() == before
