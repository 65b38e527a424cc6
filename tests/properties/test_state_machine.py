"""A state machine drives the log beside a plain model: whatever is done, they agree."""

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import count
from typing import Any, Final, cast

import psycopg
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from counterfoil.server.core.errors import (
    AfterAboveHead,
    ConditionFailed,
    EventNotFound,
    IdempotencyMismatch,
    UnknownCause,
)
from counterfoil.server.core.settings import Settings
from counterfoil.server.log.model import AppendRequest, judge_append, judge_batch
from counterfoil.server.log.operations import Log
from counterfoil.server.log.query import (
    Item,
    ReadRequest,
    judge_query,
    judge_read_parameters,
    query_document,
)
from tests.properties.documents import Json, read, write
from tests.properties.model import (
    Answer,
    ModelBook,
    ModelCondition,
    ModelEvent,
    ModelRequest,
)
from tests.support.cluster import Cluster
from tests.support.examples import examples

AGENTS: Final = ("fraud_agent", "approver", "écrivain/..")
TYPES: Final = ("flag", "approve", "note")
CARDS: Final[tuple[Json, ...]] = ("4", 4, 7, None, Decimal("4.0"), True)
KEYS: Final = tuple(f"k{number}" for number in range(8))
TIMES: Final = ("2026-01-01T00:00:00.000000+00:00", "0001-01-01T00:00:00.000001+00:00")

# Small domains on purpose: what never matches anything finds nothing.
tags = st.sampled_from(("card:4", "card:7", "case:a", "case:b"))
payloads = st.fixed_dictionaries(
    {},
    optional={
        "card_id": st.sampled_from(CARDS),
        "n": st.sampled_from((0, 1, Decimal("1.0"), Decimal("1E+2"))),
        "deep": st.sampled_from(([], [1, {"a": None}], {"a": [1, 2]}, "x")),
    },
)
parts = st.sampled_from(
    ({}, {"n": 1}, {"n": Decimal("1.00")}, {"deep": {"a": [2]}}, {"deep": [1]}, {"card_id": "4"})
)
items = st.builds(
    Item,
    types=st.frozensets(st.sampled_from(TYPES), max_size=2),
    agents=st.frozensets(st.sampled_from(AGENTS), max_size=2),
    tags=st.frozensets(tags, max_size=2),
).filter(lambda item: bool(item.types or item.agents or item.tags))
queries = st.lists(items, min_size=1, max_size=3).map(tuple)
new_events = st.builds(
    ModelEvent,
    agent_name=st.sampled_from(AGENTS),
    event_type=st.sampled_from(TYPES),
    payload=payloads,
    tags=st.frozensets(tags, max_size=2),
    occurred_at=st.none() | st.sampled_from(TIMES),
    caused_by=st.sampled_from(((), (), (), (1,), (4, 2), (12,))),
    context=st.none() | st.just({"model": "m", "t": Decimal("0.10")}),
)
afters = st.sampled_from(("none", "zero", "seen", "head", "above"))


Asked = tuple[ModelRequest, str | None, str]
"""A request, its key if it has one, and what its condition's ``after`` shall be."""

Sent = tuple[ModelRequest, str | None]
"""A request as it is sent, and its key."""


@st.composite
def appends(draw: st.DrawFn) -> Asked:
    """Any append."""
    batch = draw(st.lists(new_events, min_size=1, max_size=3))
    operation = "append" if len(batch) == 1 and draw(st.booleans()) else "batch"
    condition = draw(st.none() | st.builds(ModelCondition, queries, st.none()))
    key = draw(st.none() | st.sampled_from(KEYS))
    return ModelRequest(operation, tuple(batch), condition), key, draw(afters)


@dataclass(frozen=True)
class Unfinished:
    """A read whose next page is still to come, and all that it has to show."""

    asked: dict[str, Json]
    cursor: str
    head: int
    left: tuple[int, ...]


def judged(request: ModelRequest, key: str | None) -> AppendRequest:
    """The request as the door would hand it in."""
    bodies = [
        {
            "agent_name": event.agent_name,
            "event_type": event.event_type,
            "payload": event.payload,
            "tags": sorted(event.tags),
            "occurred_at": event.occurred_at,
            "caused_by": list(event.caused_by),
            "context": event.context,
        }
        for event in request.events
    ]
    body: dict[str, Json] = bodies[0] if request.operation == "append" else {"events": bodies}
    if request.condition is not None:
        body["condition"] = {
            "fail_if": query_document(request.condition.fail_if),
            "after": request.condition.after,
        }
    judge = judge_append if request.operation == "append" else judge_batch
    return judge(write(body).encode(), principal="api-key", key=key, traceparent=None)


def with_derived_tags(event: ModelEvent) -> ModelEvent:
    """The model's own reading of the rule: strings and whole numbers, and nothing else."""
    card = event.payload.get("card_id")
    if type(card) in (str, int):
        return replace(event, tags=event.tags | {f"card:{card}"})
    return event


class BookMachine(RuleBasedStateMachine):
    """One example: a book of its own, and everything that callers do with it."""

    unfinished = Bundle("unfinished")
    seen_heads = Bundle("seen_heads")
    sent = Bundle("sent")

    def __init__(self, log: Log, run: Callable[[Any], Any], tenant_id: int) -> None:
        super().__init__()
        self.log = log
        self.run = run
        self.tenant_id = tenant_id
        self.model = ModelBook()

    # --- Writing ------------------------------------------------------------------

    @initialize(target=seen_heads, events=st.lists(new_events, min_size=4, max_size=8))
    def begin(self, events: list[ModelEvent]) -> int:
        """A book with something in it: what is new is rare, what is there is asked for."""
        first = ModelRequest("batch", tuple(replace(one, caused_by=()) for one in events), None)
        self.append_together([self.prepared((first, None, "none"), 0)])
        return self.model.head

    @rule(target=sent, asked=appends(), seen=seen_heads)
    def append(self, asked: Asked, seen: int) -> Any:
        return self.append_together([self.prepared(asked, seen)])

    @rule(target=sent, asked=st.lists(appends(), min_size=2, max_size=5), seen=seen_heads)
    def append_in_a_group(self, asked: list[Asked], seen: int) -> Any:
        """They wait while the first is committed, and share the next commit in their order."""
        return self.append_together([self.prepared(one, seen) for one in asked])

    @rule(again=sent)
    def retry(self, again: Sent) -> None:
        """A caller that has not heard the answer asks again, unchanged."""
        self.append_together([again])

    @rule(target=sent, again=sent, asked=appends(), seen=seen_heads)
    def retry_in_a_group(self, again: Sent, asked: Asked, seen: int) -> Any:
        """And again at once, beside somebody else."""
        return self.append_together([again, self.prepared(asked, seen), again])

    def append_together(self, requests: Sequence[Sent]) -> Any:
        """Append them at once, and return those that have a key, to be sent again."""
        answers = [self.model.append(request, key) for request, key in requests]

        async def together() -> list[Any]:
            return await asyncio.gather(
                *(self.log.append(self.tenant_id, judged(*request)) for request in requests),
                return_exceptions=True,
            )

        for expected, outcome in zip(answers, self.run(together()), strict=True):
            self.compare(expected, outcome)
        return multiple(*(sent for sent in requests if sent[1] is not None))

    def prepared(self, asked: Asked, seen: int) -> Sent:
        """Settle what its condition's ``after`` is, and which tags its payloads give."""
        request, key, place = asked
        condition = request.condition
        if condition is not None:
            after = {
                "none": None,
                "zero": 0,
                "seen": seen,
                "head": self.model.head,
                "above": self.model.head + 1,
            }[place]
            condition = replace(condition, after=after)
        events = tuple(map(with_derived_tags, request.events))
        return replace(request, events=events, condition=condition), key

    def compare(self, expected: Answer, outcome: Any) -> None:
        match expected.status:
            case "stored" | "replayed":
                assert not isinstance(outcome, BaseException), outcome
                first, *_ = expected.positions
                assert outcome.first_position == first
                assert outcome.event_count == len(expected.positions)
                assert outcome.replayed == (expected.status == "replayed")
                assert outcome.head == expected.head
                for position in expected.positions:
                    event = self.model.events[position - 1]
                    assert event.created_at in ("", outcome.created_at)
                    self.model.events[position - 1] = replace(event, created_at=outcome.created_at)
            case "condition_failed":
                assert isinstance(outcome, ConditionFailed)
                assert outcome.head == expected.head
                self.compare_events(outcome.conflicts, expected.positions)
            case "key_reused":
                assert isinstance(outcome, IdempotencyMismatch)
            case "after_above_head":
                assert isinstance(outcome, AfterAboveHead)
            case _:
                assert isinstance(outcome, UnknownCause)

    # --- Reading ------------------------------------------------------------------

    @rule(
        target=unfinished,
        query=st.none() | queries,
        payload=st.none() | parts,
        bounds=st.fixed_dictionaries(
            {},
            optional={
                "after": st.integers(0, 15),
                "before": st.integers(1, 15),
                "up_to": st.integers(0, 15),
            },
        ),
        order=st.sampled_from(("asc", "desc")),
        limit=st.integers(1, 4),
        by_parameters=st.booleans(),
    )
    def read_first_page(
        self,
        query: tuple[Item, ...] | None,
        payload: dict[str, Json] | None,
        bounds: dict[str, int],
        order: str,
        limit: int,
        by_parameters: bool,
    ) -> Any:
        documents = query_document(query or ())
        asked: dict[str, Json] = {"query": documents, **bounds, "order": order, "limit": limit}
        if not documents or (by_parameters and len(documents) == 1):
            # Parameters can ask for one item, and alone can ask for nothing.
            asked["parameters"] = (asked.pop("query") or [{}])[0]
        if payload is not None:
            asked["payload"] = payload
        beyond = max(bounds.get("after", 0), bounds.get("up_to", 0)) > self.model.head
        if beyond:
            with pytest.raises(AfterAboveHead):
                self.run(self.log.page(self.tenant_id, request_for(asked)))
            return multiple()
        head = min(bounds.get("up_to", self.model.head), self.model.head)
        left = self.model.matching(
            query,
            payload=payload,
            after=bounds.get("after", 0),
            up_to=min(head, bounds.get("before", head + 1) - 1),
        )
        if order == "desc":
            left.reverse()
        return self.page(Unfinished(asked, "", head, tuple(left)))

    @rule(target=unfinished, reading=consumes(unfinished), limit=st.integers(1, 4))
    def read_next_page(self, reading: Unfinished, limit: int) -> Any:
        """Whatever was written since the first page is not on this one."""
        return self.page(replace(reading, asked={**reading.asked, "limit": limit}))

    def page(self, reading: Unfinished) -> Any:
        asked = {**reading.asked, **({"cursor": reading.cursor} if reading.cursor else {})}
        found = self.run(self.log.page(self.tenant_id, request_for(asked)))
        shown, left = reading.left[: asked["limit"]], reading.left[asked["limit"] :]
        assert found.head == reading.head
        self.compare_events(found.events, shown)
        assert found.has_more == bool(left)
        assert (found.next is not None) == found.has_more
        if not left:
            return multiple()
        return replace(reading, cursor=found.next, left=left)

    @rule(target=seen_heads, query=queries)
    def look(self, query: tuple[Item, ...]) -> int:
        """A read whose head somebody decides on later."""
        asked = {"query": query_document(query)}
        found = self.run(self.log.page(self.tenant_id, request_for(asked)))
        assert found.head == self.model.head
        self.compare_events(found.events, self.model.matching(query))
        return int(found.head)

    @rule(
        agent_name=st.sampled_from((*AGENTS, "nobody")),
        limit=st.integers(1, 5),
        before=st.none() | st.integers(1, 20),
    )
    def latest(self, agent_name: str, limit: int, before: int | None) -> None:
        found = self.run(self.log.latest(self.tenant_id, agent_name, limit=limit, before=before))
        mine = [
            event.shown_in_list(position)
            for position, event in enumerate(self.model.events, 1)
            if event.agent_name == agent_name and (before is None or position < before)
        ]
        assert [read(text) for text in found.events] == mine[::-1][:limit]
        assert found.head == self.model.head

    @rule(position=st.integers(1, 30))
    def get(self, position: int) -> None:
        if position > self.model.head:
            with pytest.raises(EventNotFound):
                self.run(self.log.get(self.tenant_id, position))
            return
        found = self.run(self.log.get(self.tenant_id, position))
        self.compare_events(found.events, [position])

    def compare_events(self, texts: Sequence[str], positions: Sequence[int]) -> None:
        shown = [self.model.events[position - 1].shown(position) for position in positions]
        assert [read(text) for text in texts] == shown

    # --- Always -------------------------------------------------------------------

    @invariant()
    def times_never_run_backwards(self) -> None:
        times = [event.created_at for event in self.model.events]
        assert times == sorted(times)

    def teardown(self) -> None:
        """A live reader that comes now is told the whole book, in its order."""

        async def follow() -> list[str]:
            stream = await self.log.follow(self.tenant_id, ReadRequest(), after=0, incarnation=None)
            told: list[str] = []
            async with asyncio.timeout(10):
                async for item in stream:
                    if item.text is not None:
                        told.append(item.text)
                    if item.position == self.model.head:
                        break
            return told

        self.compare_events(self.run(follow()), range(1, self.model.head + 1))


def request_for(asked: dict[str, Json]) -> ReadRequest:
    """The read as the door would hand it in: a whole query's body, or query parameters."""
    if "parameters" not in asked:
        return judge_query(write(asked).encode())
    names = {"types": "type", "agents": "agent", "tags": "tag"}
    lists = asked["parameters"]
    parameters = [(names[name], value) for name in lists for value in lists[name]]
    for name, value in asked.items():
        if name == "payload":
            parameters.append((name, write(value)))
        elif name != "parameters":
            parameters.append((name, str(value)))
    return judge_read_parameters(parameters)


@pytest.fixture
def machine(cluster: Cluster) -> Iterator[Callable[[], BookMachine]]:
    """Makes a machine with a book of its own, at each call."""
    tenants = count(2)
    with (
        cluster.database() as database,
        psycopg.connect(database.url, autocommit=True) as owner,
        asyncio.Runner() as runner,
    ):
        log = runner.run(Log.open(Settings.from_environment(database_url=database.url)))

        def make() -> BookMachine:
            tenant_id = next(tenants)
            owner.execute(
                "insert into counterfoil.books (tenant_id, name) values (%s, %s)",
                [tenant_id, json.dumps(tenant_id)],
            )
            return BookMachine(log, runner.run, tenant_id)

        yield make
        runner.run(log.close())


@pytest.mark.promise("P2", "P3", "P4", "P5")
def test_log_behaves_as_its_model(machine: Callable[[], BookMachine]) -> None:
    run_state_machine_as_test(
        cast("type[BookMachine]", machine), settings=examples(50, stateful_step_count=40)
    )
