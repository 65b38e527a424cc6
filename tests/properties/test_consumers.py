"""A state machine drives a consumer beside a plain model: whatever is done, they agree."""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any, Final, cast

import psycopg
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.db.book import ACT_FOR, Answer, append_one, event, request
from tests.db.handing_out import CONSUMER, Answered, ack, claim, consume, extend, hands_in, release
from tests.properties.consumer_model import ModelConsumer, Token
from tests.support.cluster import Cluster
from tests.support.examples import examples

KEYS: Final = ("customer:1", "customer:2", "customer:3")
ATTEMPTS_MAX: Final = 2

picks = st.lists(st.integers(0, 7), min_size=1, max_size=3)


class ConsumerMachine(RuleBasedStateMachine):
    """One example: a book of its own with one consumer, and everybody who works for it."""

    def __init__(self, service: psycopg.Connection, owner: psycopg.Connection, tenant: int) -> None:
        super().__init__()
        self.service, self.owner, self.tenant = service, owner, tenant
        self.head = 0
        self.seen: list[Token] = []
        """All tokens that were ever handed out."""
        service.execute(ACT_FOR, [str(tenant)])

    # --- Making it, and giving it work -----------------------------------------------------

    @initialize(ordered=st.booleans(), holds=st.booleans())
    def begin(self, ordered: bool, holds: bool) -> None:
        asked = {
            **CONSUMER,
            "order_by": "customer" if ordered else None,
            "dead_letters": "hold" if holds else "pass",
            "attempts_max": ATTEMPTS_MAX,
            "change_query": False,
        }
        made = self.effect({"effect": "put_consumer", "name": "scorer", "by": "p", **asked})
        assert made.first_position is not None
        self.model = ModelConsumer(ATTEMPTS_MAX, ordered, holds, made.first_position)

    def effect(self, effect: dict[str, Any], events: int = 1) -> Answer:
        """One of the service's own appends."""
        own = [event("counterfoil", "counterfoil.x") for _ in range(events)]
        return self.append(request(*own, own=True, effect=effect))

    def append(self, asked: dict[str, Any]) -> Answer:
        answer = append_one(self.service, asked, tenant_id=self.tenant)
        self.head = max(self.head, answer.head)
        return answer

    def consume(self, *requests: dict[str, Any], look_for_due: bool = False) -> Answered:
        return consume(self.service, *requests, look_for_due=look_for_due, tenant_id=self.tenant)

    @rule(tags=st.lists(st.frozensets(st.sampled_from(KEYS), max_size=3), min_size=1, max_size=4))
    def write(self, tags: list[frozenset[str]]) -> None:
        """Events that match, with no key or up to three."""
        events = [event(event_type="payment", tags=each) for each in tags]
        first = self.append(request(*events)).first_position
        assert first is not None
        self.model.events.update(dict(enumerate(tags, first)))

    @rule()
    def write_what_does_not_match(self) -> None:
        self.append(request(event(event_type="refund", tags=KEYS)))

    # --- Working ------------------------------------------------------------------------------

    @rule(number=st.integers(1, 4), look_for_due=st.booleans())
    def claim(self, number: int, look_for_due: bool) -> None:
        answered = self.consume(claim(number), look_for_due=look_for_due)
        assert answered.positions == self.model.claim(number, self.head, look_for_due=look_for_due)
        assert answered.tokens == [self.model.token(n) for n in answered.positions]
        self.seen += answered.tokens

    def some(self, which: list[int]) -> list[Token]:
        """Some of the tokens that there ever were, the latest first."""
        latest = self.seen[::-1]
        return sorted({latest[n] for n in which if n < len(latest)})

    def judged(self, tokens: Sequence[Token], answered: Answered) -> bool:
        """Whether a call was done; and if not, whether it says what was lost."""
        lost = self.model.lost(tokens)
        assert answered.status() == ("lost" if lost else "done")
        assert answered.lost() == lost
        return not lost

    @precondition(lambda self: self.seen)
    @rule(which=picks)
    def acknowledge(self, which: list[int]) -> None:
        if (tokens := self.some(which)) and self.judged(tokens, self.consume(ack(*tokens))):
            self.model.done([token[1] for token in tokens])

    @precondition(lambda self: self.seen)
    @rule(which=picks)
    def hand_in(self, which: list[int]) -> None:
        if not (tokens := self.some(which)):
            return
        answer = self.append(request(principal="agent:a", **hands_in(*tokens)))
        assert answer.status == ("lease_lost" if self.model.lost(tokens) else "stored")
        if answer.status == "stored":
            self.model.done([token[1] for token in tokens])

    @precondition(lambda self: self.seen)
    @rule(which=picks)
    def extend(self, which: list[int]) -> None:
        if tokens := self.some(which):
            self.judged(tokens, self.consume(extend(*tokens)))

    @precondition(lambda self: self.seen)
    @rule(which=picks, counts=st.booleans(), delayed=st.booleans())
    def release(self, which: list[int], counts: bool, delayed: bool) -> None:
        if not (tokens := self.some(which)):
            return
        why = {"reason": "No."} if counts else {}
        answered = self.consume(release(*tokens, seconds=600 if delayed else 0, **why))
        if self.judged(tokens, answered):
            for _, position, _ in tokens:
                self.model.release(position, counts=counts, delayed=delayed)

    @rule(which=picks)
    def time_goes_by(self, which: list[int]) -> None:
        """Leases and delays end, by the database's clock."""
        due = sorted(
            n for n, one in self.model.deliveries.items() if one.state in ("held", "delayed")
        )
        ending = sorted({due[n] for n in which if n < len(due)})
        self.owner.execute(
            "update counterfoil.deliveries set due_at = clock_timestamp() - interval '1 s'"
            " where tenant_id = %s and generation = %s and position = any (%s)",
            [self.tenant, self.model.generation, ending],
        )
        for position in ending:
            self.model.deliveries[position].over = True

    # --- What fails -----------------------------------------------------------------------------

    @precondition(lambda self: self.seen)
    @rule(which=picks)
    def set_aside(self, which: list[int]) -> None:
        if not (tokens := self.some(which)):
            return
        answer = self.effect(self.aside(tokens, "agent:a"), len(tokens))
        assert answer.status == ("effect_refused" if self.model.lost(tokens) else "stored")
        if answer.status == "stored":
            for _, position, _ in tokens:
                self.model.set_aside(position)

    @rule()
    def sweep(self) -> None:
        """What is exhausted is set aside by the service."""
        tokens = sorted(
            self.model.token(n)
            for n, one in self.model.deliveries.items()
            if one.state == "exhausted"
        )
        if tokens:
            assert self.effect(self.aside(tokens, None), len(tokens)).status == "stored"
            for _, position, _ in tokens:
                self.model.set_aside(position)

    @staticmethod
    def aside(tokens: list[Token], principal: str | None) -> dict[str, Any]:
        return {
            "effect": "set_aside",
            "consumer": "scorer",
            "tokens": tokens,
            "principal": principal,
            "reason": "No.",
            "by": principal or "counterfoil",
        }

    @rule(which=picks, again=st.booleans())
    def replay_or_drop(self, which: list[int], again: bool) -> None:
        letters = sorted(self.model.letters)
        chosen = sorted({letters[n] for n in which if n < len(letters)})
        if chosen:
            effect = "replay_dead_letters" if again else "drop_dead_letters"
            asked = {"effect": effect, "name": "scorer", "event_ids": chosen}
            assert self.effect(asked).status == "stored"
            (self.model.replay if again else self.model.drop)(chosen)

    @rule(place=st.integers(0, 12), clear=st.booleans())
    def seek(self, place: int, clear: bool) -> None:
        to = min(place, self.head)
        asked = {"effect": "change_consumer", "change": "seek", "name": "scorer"}
        answer = self.effect({**asked, "to": {"after": to}})
        assert answer.first_position is not None
        self.model.seek(answer.first_position, to)
        if clear:
            self.service.execute("select counterfoil.clear_consumers_v1(5)")

    # --- Always ---------------------------------------------------------------------------------

    def rows(self) -> dict[int, tuple[str, list[str], int, int]]:
        found = self.owner.execute(
            "select position, state, keys, attempts, uncounted from counterfoil.deliveries"
            " where tenant_id = %s and generation = %s",
            [self.tenant, self.model.generation],
        )
        return {cast("int", n): cast("Any", tuple(row)) for n, *row in found.fetchall()}

    @invariant()
    def deliveries_are_the_models(self) -> None:
        if not self.head:
            return
        assert self.rows() == {
            position: (one.state, sorted(one.keys), one.attempts, one.uncounted)
            for position, one in self.model.deliveries.items()
        }
        found = self.owner.execute(
            "select position, attempts, holds_key from counterfoil.dead_letters"
            " where tenant_id = %s",
            [self.tenant],
        ).fetchall()
        assert {n: (attempts, holds) for n, attempts, holds in found} == self.model.letters

    @invariant()
    def of_each_key_only_the_first_is_out(self) -> None:
        if not self.head:
            return
        lines = self.owner.execute(
            "select key, array_agg(position order by place) from counterfoil.delivery_keys"
            " where tenant_id = %s and generation = %s group by key",
            [self.tenant, self.model.generation],
        ).fetchall()
        rows = self.rows()
        for _, line in lines:
            for behind in cast("list[int]", line)[1:]:
                assert rows[behind][0] == "waiting", "it would overtake"
        standing: dict[Any, Any] = dict(lines)
        assert standing == {key: line for key, line in self.model.lines.items() if line}
        for position, (state, keys, *_) in rows.items():
            first = all(cast("list[int]", standing[key])[0] == position for key in keys)
            assert state != "waiting" or not first, "nobody would ever let it go"

    @invariant()
    def no_event_is_lost_and_none_is_handed_out_again(self) -> None:
        if not self.head:
            return
        out = set(self.model.deliveries) | set(self.model.letters)
        began = self.owner.execute(
            "select reached from counterfoil.consumer_progress"
            " where tenant_id = %s and generation = %s",
            [self.tenant, self.model.generation],
        ).fetchone()
        assert began == (self.model.reached,)
        assert not self.model.finished & set(self.model.deliveries)
        for one in self.model.deliveries.values():
            assert one.attempts - one.uncounted <= ATTEMPTS_MAX
        of_this_generation = {
            n for n in self.model.events if self.model.began_after < n <= self.model.reached
        }
        assert of_this_generation <= out | self.model.finished

    def teardown(self) -> None:
        """Everything can be worked off: nothing waits for what is not there."""
        if not self.head:
            return
        self.time_goes_by([*range(50)])
        while True:
            held = self.consume(claim(50), look_for_due=True)
            assert held.positions == self.model.claim(50, self.head, look_for_due=True)
            self.sweep()
            if self.model.letters:
                self.replay_or_drop([*range(50)], again=False)
            elif not held.positions:
                break
            if held.positions:
                assert self.consume(ack(*held.tokens)).status() == "done"
                self.model.done(held.positions)
        assert self.rows() == {}


@pytest.fixture
def machine(cluster: Cluster) -> Iterator[Callable[[], ConsumerMachine]]:
    """Makes a machine with a book of its own, at each call."""
    tenants = count(2)
    with (
        cluster.database() as database,
        psycopg.connect(database.url, autocommit=True) as owner,
        psycopg.connect(database.url, autocommit=True) as service,
    ):
        service.execute("set role counterfoil_service")
        service.execute("set synchronous_commit = off")

        def make() -> ConsumerMachine:
            tenant_id = next(tenants)
            owner.execute(
                "insert into counterfoil.books (tenant_id, name) values (%s, %s)",
                [tenant_id, json.dumps(tenant_id)],
            )
            return ConsumerMachine(service, owner, tenant_id)

        yield make


@pytest.mark.promise("P8")
def test_a_consumer_behaves_as_its_model(machine: Callable[[], ConsumerMachine]) -> None:
    run_state_machine_as_test(
        cast("type[ConsumerMachine]", machine), settings=examples(20, stateful_step_count=40)
    )
