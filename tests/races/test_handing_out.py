"""Work handed out by two processes at once, held still at the moments that matter."""

import asyncio
import itertools
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, LiteralString

import httpx2
import pytest

from tests.support.appends import Caller, Json, note, problem, stored
from tests.support.gates import Book, Gate
from tests.support.starting import Start
from tests.support.waiting import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.promise("P8")]

PROGRESS: LiteralString = "select from counterfoil.consumer_progress where consumer = %s for update"
DELIVERIES: LiteralString = """
    select from counterfoil.deliveries d join counterfoil.consumers c using (tenant_id, generation)
    where c.name = %s for update of d
"""


class Consumer:
    """A consumer of what bears its name as a tag, whichever process is called."""

    def __init__(self, name: str, *callers: Caller) -> None:
        self.name = name
        self.one, self.other = callers

    async def put(self, **asked: Any) -> None:
        """Make it."""
        body = {"query": [{"types": ["noted"], "tags": [f"work:{self.name}"]}], **asked}
        answer = await self.one.client.put(f"/consumers/{self.name}", json=body)
        assert answer.status_code == 201, answer.text

    async def note(self, *tags: str) -> int:
        """Append an event for it."""
        return stored(await self.one.append(note() | {"tags": [f"work:{self.name}", *tags]}))

    async def call(self, caller: Caller, what: str, **body: Any) -> httpx2.Response:
        """Make a call about it."""
        return await caller.client.post(f"/consumers/{self.name}/{what}", json=body)

    async def claim(self, caller: Caller, **asked: Any) -> list[Json]:
        """Claim."""
        answer = await self.call(caller, "claim", **{"holder": "h", **asked})
        assert answer.status_code == 200, answer.text
        deliveries: list[Json] = answer.json()["deliveries"]
        return deliveries

    async def token(self, caller: Caller) -> str:
        """Claim one, which must be there; its token."""
        (delivery,) = await self.claim(caller)
        return str(delivery["token"])


@pytest.fixture
def consumer(one: Caller, other: Caller, tx: str) -> Consumer:
    return Consumer(tx, one, other)


@asynccontextmanager
async def locked(book: Book, what: LiteralString, consumer: Consumer) -> AsyncIterator[Gate]:
    """Hold these rows of a consumer while the block runs, or until the gate is opened."""
    async with book.session(role=None) as session:
        await session.execute(what, consumer.name)
        yield session


async def lease_over(book: Book, consumer: Consumer) -> None:
    """Wait until a lease is over by the database's clock."""

    async def look() -> bool:
        return bool(
            await book.value(
                "select bool_and(d.due_at < clock_timestamp()) from counterfoil.deliveries d"
                " join counterfoil.consumers c using (tenant_id, generation) where c.name = %s",
                consumer.name,
            )
        )

    await eventually(look, "the lease to end")


# --- Gated ------------------------------------------------------------------------


async def test_of_two_claims_at_once_one_gets_the_event(
    consumer: Consumer, book: Book, start: Start[Any]
) -> None:
    await consumer.put(in_flight_max=10)
    event_id = await consumer.note()
    async with locked(book, PROGRESS, consumer) as gate:
        claims = [start(consumer.claim(caller)) for caller in (consumer.one, consumer.other)]
        await book.waiting(2)
        await gate.open()
        got = sorted(await asyncio.gather(*claims), key=len)
    assert [[delivery["event"]["id"] for delivery in each] for each in got] == [[], [event_id]]


@pytest.mark.parametrize("call", ["ack", "release", "extend"])
async def test_who_is_held_up_beyond_the_lease_has_lost_it(
    consumer: Consumer, book: Book, start: Start[Any], call: str
) -> None:
    """The clock is read when the row is had, and not when the call began."""
    await consumer.put(lease_seconds=1)
    await consumer.note()
    token = await consumer.token(consumer.one)
    async with locked(book, DELIVERIES, consumer) as gate:
        late = start(consumer.call(consumer.one, call, tokens=[token]))
        await book.waiting(1)
        await lease_over(book, consumer)
        await gate.open()
        refused = problem(await late, 409, "lease-lost")
    assert refused["lost"] == [token]
    (delivery,) = await consumer.claim(consumer.other, wait_seconds=5)
    assert delivery["attempt"] == 2
    assert delivery["token"] > token


async def test_an_outcome_waits_for_a_row_behind_everybody_and_not_before_them(
    consumer: Consumer, book: Book, start: Start[Any]
) -> None:
    """Under the book's lock nothing is waited for: other appends go past it, in both processes."""
    await consumer.put()
    await consumer.note()
    token = await consumer.token(consumer.one)
    async with locked(book, DELIVERIES, consumer) as gate:
        outcome = start(
            consumer.call(consumer.one, "ack", tokens=[token], events=[note(of=consumer.name)])
        )
        passed = [
            stored(await caller.append(note()))
            for _ in range(5)
            for caller in (consumer.one, consumer.other)
        ]
        assert not outcome.done()
        await gate.open()
        assert stored(await outcome) > max(passed)
    assert await consumer.claim(consumer.other) == []


async def test_an_outcome_whose_row_is_not_to_be_had_is_not_written(
    consumer: Consumer, book: Book
) -> None:
    await consumer.put()
    await consumer.note()
    token = await consumer.token(consumer.one)
    async with locked(book, DELIVERIES, consumer) as gate:
        late = await consumer.call(consumer.one, "ack", tokens=[token], events=[note(of=1)])
        problem(late, 503, "busy")
        await gate.open()
    answer = await consumer.call(consumer.other, "ack", tokens=[token], events=[note(of=2)])
    assert (await consumer.one.get(stored(answer)))["payload"] == {"of": 2}


@pytest.mark.parametrize("what", ["pause", "seek", "delete"])
async def test_what_is_done_to_a_consumer_does_not_wait_for_claims_in_flight(
    consumer: Consumer, book: Book, start: Start[Any], what: str
) -> None:
    """A claim in flight counts as before it; what a seek or a deletion finds is worthless."""
    await consumer.put(in_flight_max=10)
    await consumer.note()
    await consumer.call(consumer.one, "release", tokens=[await consumer.token(consumer.one)])
    async with locked(book, PROGRESS, consumer) as gate:
        claim = start(consumer.claim(consumer.one))
        await book.waiting(1)
        if what == "delete":
            done = await consumer.other.client.delete(f"/consumers/{consumer.name}")
        else:
            body = {"reason": "So."} | ({"to": "beginning"} if what == "seek" else {})
            done = await consumer.call(consumer.other, what, **body)
        assert done.status_code == 200, done.text
        assert not claim.done()
        await gate.open()
        (delivery,) = await claim
    answer = await consumer.call(consumer.other, "ack", tokens=[delivery["token"]])
    match what:
        case "pause":
            assert answer.status_code == 200
        case "seek":
            problem(answer, 409, "lease-lost")
            (again,) = await consumer.claim(consumer.other)
            assert again["token"] > delivery["token"]
        case _:
            problem(answer, 404, "consumer-not-found")


# --- Ten holders ------------------------------------------------------------------


@dataclass
class Held:
    """One event in one holder's hands, from before it was given to after it was let go."""

    event_id: int
    keys: list[str]
    since: float
    until: float = 0.0
    done: bool = False


@dataclass
class Holders:
    """Ten holders at two processes, and what each had when."""

    consumer: Consumer
    goal: int
    chance: random.Random
    held: list[Held] = field(default_factory=list)
    done: int = 0

    async def work(self, nth: int) -> None:
        """Claim, and let go in all the ways there are, until all is done."""
        caller = (self.consumer.one, self.consumer.other)[nth % 2]
        while self.done < self.goal:
            asked = {"holder": f"h{nth}", "count": self.chance.choice((1, 3)), "wait_seconds": 0.3}
            deliveries = await self.consumer.claim(caller, **asked)
            since = time.monotonic()
            mine = []
            for delivery in deliveries:
                tags = [tag for tag in delivery["event"]["tags"] if tag.startswith("customer:")]
                mine.append((Held(delivery["event"]["id"], tags, since), delivery["token"]))
            self.held += [held for held, _ in mine]
            for held, token in mine:
                await self.let_go(caller, held, token)

    async def let_go(self, caller: Caller, held: Held, token: str) -> None:
        """Acknowledge it, with an outcome or without, or give it back."""
        how = self.chance.random()
        held.until = time.monotonic()
        if how < 0.2:
            answer = await self.consumer.call(caller, "release", tokens=[token])
        else:
            held.done = True
            more = {"events": [note(of=held.event_id)]} if how < 0.6 else {}
            answer = await self.consumer.call(caller, "ack", tokens=[token], **more)
            self.done += 1
        assert answer.is_success, answer.text

    def check(self) -> None:
        """Of each key, one at a time, in order."""
        by_key: dict[str, list[Held]] = defaultdict(list)
        for held in self.held:
            for key in held.keys:
                by_key[key].append(held)
        for key, line in by_key.items():
            line.sort(key=lambda held: held.since)
            for earlier, later in itertools.pairwise(line):
                assert earlier.until <= later.since, f"two of {key} are held at once"
                assert earlier.event_id <= later.event_id, f"{key} is out of order"
                assert earlier.done == (earlier.event_id < later.event_id)


async def test_ten_holders_keep_the_order_of_each_key(
    consumer: Consumer, start: Start[Any]
) -> None:
    await consumer.put(order_by="customer")
    chance = random.Random(8)
    goal = 250
    holders = Holders(consumer, goal, chance)
    working = [start(holders.work(nth)) for nth in range(10)]
    ids = []
    for _ in range(goal):
        customers = chance.sample(range(6), chance.choice((0, 1, 1, 1, 2)))
        ids.append(await consumer.note(*(f"customer:{customer}" for customer in customers)))
    await asyncio.gather(*working)
    assert sorted(held.event_id for held in holders.held if held.done) == ids
    holders.check()
