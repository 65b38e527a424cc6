"""Lines while others are about to leave them or to join them: nobody overtakes, nobody is forgotten."""

from collections.abc import Callable

import pytest

from tests.db.book import append, append_one, request
from tests.db.handing_out import (
    Token,
    ack,
    change,
    claim,
    consume,
    drop,
    fail,
    hands_in,
    make_consumer,
    pay,
    replay,
    set_aside,
    states,
)
from tests.support.racing import Race, RacingSession, result

pytestmark = pytest.mark.promise("P8")


def acknowledge(session: RacingSession, token: Token) -> str | None:
    """Acknowledge one, and keep the transaction open."""
    return consume(session.connection, ack(token)).status()


def all_in_turn(race: Race) -> list[int]:
    """Hand everything out that is left, one after another, and see who can be had."""
    found: list[int] = []
    held = consume(race.service, claim(9))
    while held.positions:
        found += held.positions
        held = consume(race.service, claim(9, tokens=held.tokens))
    return found


def test_two_who_leave_two_lines_of_one_event_at_the_same_moment(race: Race) -> None:
    """They meet at the lock of who is next, and the second sees the first gone."""
    make_consumer(race.service, order_by="customer")
    _, _, both = pay(race.service, "customer:1", "customer:2", ("customer:1", "customer:2"))
    held = consume(race.service, claim(9)).tokens
    first, second = race.session(), race.session()
    assert acknowledge(first, held[0]) == "done"
    leaving = race.begin(acknowledge, second, held[1])
    race.waits_for(second, first)
    first.commit()
    assert result(leaving) == "done"
    second.commit()
    assert states(race.owner) == {both: "ready"}


def test_one_who_does_not_leave_after_all_lets_nobody_go(race: Race) -> None:
    make_consumer(race.service, order_by="customer")
    one, _, both = pay(race.service, "customer:1", "customer:2", ("customer:1", "customer:2"))
    held = consume(race.service, claim(9)).tokens
    first, second = race.session(), race.session()
    assert acknowledge(first, held[0]) == "done"
    leaving = race.begin(acknowledge, second, held[1])
    race.waits_for(second, first)
    first.rollback()
    assert result(leaving) == "done"
    second.commit()
    assert states(race.owner) == {one: "held", both: "waiting"}


def test_who_joins_a_line_while_its_last_is_leaving_is_put_out_later(race: Race) -> None:
    """And so are all behind it: whether it has to wait cannot be told now."""
    make_consumer(race.service, order_by="customer")
    one, *_ = pay(race.service, "customer:1")
    held = consume(race.service, claim())
    leaver, joiner = race.session(), race.session()
    assert acknowledge(leaver, held.tokens[0]) == "done"
    free, joining, behind = pay(race.service, "customer:2", "customer:1", "customer:3")
    answered = consume(joiner.connection, claim(9))
    assert (answered.positions, answered.told["behind"]) == ([free], True)
    joiner.commit()
    assert states(race.owner) == {one: "held", free: "held"}
    leaver.commit()
    assert all_in_turn(race) == [joining, behind]


@pytest.mark.parametrize("leaves", [True, False])
def test_who_joins_does_not_wait_for_who_may_be_leaving(race: Race, leaves: bool) -> None:
    make_consumer(race.service, order_by="customer")
    one, *_ = pay(race.service, "customer:1")
    held = consume(race.service, claim())
    leaver, joiner = race.session(), race.session()
    assert acknowledge(leaver, held.tokens[0]) == "done"
    (joining,) = pay(race.service, "customer:1")
    assert consume(joiner.connection, claim(9)).positions == []
    joiner.commit()
    (leaver.commit if leaves else leaver.rollback)()
    assert consume(race.service, claim(9)).positions == ([joining] if leaves else [])
    assert states(race.owner) == (
        {joining: "held"} if leaves else {one: "held", joining: "waiting"}
    )


def test_the_last_in_line_stays_until_who_joins_behind_it_has_joined(race: Race) -> None:
    """Otherwise it would leave without letting anybody go, and the other would wait for ever."""
    make_consumer(race.service, order_by="customer")
    pay(race.service, "customer:1")
    held = consume(race.service, claim())
    (joining,) = pay(race.service, "customer:1")
    leaver, joiner = race.session(), race.session()
    assert consume(joiner.connection, claim(9)).positions == []
    leaving = race.begin(acknowledge, leaver, held.tokens[0])
    race.waits_for(leaver, joiner)
    joiner.commit()
    assert result(leaving) == "done"
    leaver.commit()
    assert states(race.owner) == {joining: "ready"}


def test_an_outcome_is_not_held_up_by_who_joins_behind_it(race: Race) -> None:
    """Under the head: it comes again, and lets the joiner go."""
    make_consumer(race.service, order_by="customer")
    pay(race.service, "customer:1")
    held = consume(race.service, claim())
    (joining,) = pay(race.service, "customer:1")
    joiner = race.session()
    assert consume(joiner.connection, claim(9)).positions == []
    outcome = request(principal="agent:a", **hands_in(*held.tokens))
    answers = append(race.service, request(), outcome, request())
    assert [answer.status for answer in answers] == ["stored", "row_busy", "stored"]
    joiner.commit()
    assert append_one(race.service, outcome).status == "stored"
    assert states(race.owner) == {joining: "ready"}


def test_who_was_last_and_has_left_during_the_look_holds_nobody(race: Race) -> None:
    """The joiner's own step before: it acknowledges the last, and puts out who joins."""
    make_consumer(race.service, order_by="customer")
    pay(race.service, "customer:1")
    held = consume(race.service, claim())
    (joining,) = pay(race.service, "customer:1")
    assert consume(race.service, claim(tokens=held.tokens)).positions == [joining]


@pytest.mark.parametrize("how", ["ack", "outcome", "set aside"])
def test_a_replay_while_the_last_of_its_line_is_leaving(race: Race, how: str) -> None:
    make_consumer(race.service, order_by="customer")
    one, two = pay(race.service, "customer:1", "customer:1")
    set_aside(race.service, *consume(race.service, claim()).tokens)
    held = consume(race.service, claim())
    assert held.positions == [two]
    if how == "ack":
        leaver = race.session()
        assert acknowledge(leaver, held.tokens[0]) == "done"
        assert replay(race.service, one).status == "row_busy"
        leaver.commit()
    elif how == "outcome":
        outcome = request(principal="agent:a", **hands_in(*held.tokens))
        assert append_one(race.service, outcome).status == "stored"
    else:
        assert set_aside(race.service, *held.tokens).status == "stored"
    assert replay(race.service, one).status == "stored"
    assert states(race.owner) == {one: "ready"}


# --- Pairs of locks: each in both orders, with the first still open ------------------------
#
# What holds a book's head waits for nothing but the head. Handing out waits for what it names,
# and for who is next behind that, never for the head. So no two of them wait for each other.


class Scene:
    """Two lines with an event of both behind them, a dead letter, and something exhausted."""

    def __init__(self, race: Race) -> None:
        make_consumer(race.service, order_by="customer", dead_letters="hold", in_flight_max=50)
        self.race = race
        (self.exhausted,) = pay(race.service, "customer:7")
        self.spent = fail(race.service, race.owner, self.exhausted)
        (self.letter,) = pay(race.service, "customer:8")
        set_aside(race.service, *consume(race.service, claim()).tokens)
        self.one, self.two, self.both = pay(
            race.service, "customer:1", "customer:2", ("customer:1", "customer:2")
        )
        self.held = consume(race.service, claim(9)).tokens
        # Not put out yet: it joins both lines, and that of the letter.
        pay(race.service, ("customer:1", "customer:2", "customer:8", "customer:7"))

    def do(self, session: RacingSession, what: str, nth: int) -> str:
        """One move; ``nth`` tells two of a kind apart."""
        connection = session.connection
        token = self.held[nth]
        handing_in = request(principal="agent:a", **hands_in(token))
        moves: dict[str, Callable[[], str | None]] = {
            "append": lambda: append_one(connection, handing_in).status,
            "ack": lambda: consume(connection, ack(token)).status(),
            "claim": lambda: consume(connection, claim(5)).told["status"],
            "set aside": lambda: set_aside(connection, self.spent, principal=None).status,
            "replay": lambda: replay(connection, self.letter).status,
            "drop": lambda: drop(connection, self.letter).status,
            "seek": lambda: change(connection, "seek", to="beginning").status,
        }
        return str(moves[what]())


HEADS = ("append", "set aside", "replay", "drop", "seek")
"""What waits for the book's head, and for nothing else."""

FINE = {"stored", "done", "found", "row_busy", "lost", "lease_lost", "effect_refused"}


@pytest.mark.parametrize(
    "second", ["append", "ack", "claim", "set aside", "replay", "drop", "seek"]
)
@pytest.mark.parametrize("first", ["append", "ack", "claim", "set aside", "replay", "drop", "seek"])
def test_no_two_moves_wait_for_each_other(race: Race, first: str, second: str) -> None:
    scene = Scene(race)
    one, other = race.session(), race.session()
    assert scene.do(one, first, 0) in {"stored", "done", "found"}
    doing = race.begin(scene.do, other, second, 1)
    if first in HEADS and second in HEADS:
        race.waits_for(other, one)
    elif second in HEADS:
        # Under the head nothing is waited for.
        assert result(doing) in {"stored", "row_busy"}
    one.commit()
    assert result(doing) in FINE
    other.commit()
    left = {position for position, state in states(race.owner).items() if state == "waiting"}
    assert left <= {scene.both, scene.both + 1}, "nobody else waits, whoever came first"
