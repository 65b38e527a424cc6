"""Who begins when, where one tenant floods and others call: turns, rests, and who goes away.

Time is virtual, so a wait is as long as it is said to be, and no test takes any.
"""

import asyncio
import time
from collections import Counter

import pytest

from counterfoil.server.access.turns import Begun, Queue, Turns
from counterfoil.server.core import limits
from counterfoil.server.core.errors import Busy
from tests.support.virtual_time import Clock, passes_of_the_loop

pytestmark = pytest.mark.promise("P7", "P13")

BUSY, NEIGHBOUR, THIRD = 1, 2, 3
TURN = limits.TURN_REQUESTS_MAX
FLOOD = 60
COST_SECONDS = 0.001
"""What a request takes of the processor's time, as it begins."""

REST_SECONDS = TURN * COST_SECONDS * limits.TURN_REST


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that the loop and the turns go by."""
    clock = Clock()
    monkeypatch.setattr(time, "process_time", lambda: clock.processor_seconds)
    return clock


class Service:
    """Requests of tenants: each begins when it may, and costs something."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.turns = Turns()
        self.begun: list[tuple[int, float]] = []
        """Whose requests began, and when."""

    async def request(self, tenant_id: int, *, keeps_loop_busy: bool = False) -> None:
        """A request that works as it begins; only the processor's clock goes on meanwhile."""
        queue = self.turns.queue_of(tenant_id)
        if queue is not None:
            await queue.begin()
        self.begun.append((tenant_id, self.clock.seconds))
        if keeps_loop_busy:
            self.clock.work(COST_SECONDS)
        else:
            self.clock.processor_seconds += COST_SECONDS

    async def call(self, tenant_id: int, requests: int = 1) -> list[asyncio.Task[None]]:
        """So many requests arrive at once; returns when all that may begin now have begun."""
        tasks = [asyncio.create_task(self.request(tenant_id)) for _ in range(requests)]
        await passes_of_the_loop(requests)
        return tasks

    async def stand_side_by_side(self, *tenants: int) -> None:
        """These call, one after the other, and so take turns from now on."""
        for tenant_id in tenants:
            await self.call(tenant_id)
        await self.clock.let_pass(2 * limits.TURN_SECONDS)
        self.begun.clear()

    async def flood(self) -> list[asyncio.Task[None]]:
        """Beside a neighbour, many requests of one tenant arrive at once."""
        await self.stand_side_by_side(NEIGHBOUR, BUSY)
        return await self.call(BUSY, FLOOD)

    async def others_call_on(self, seconds: float) -> None:
        """Two others call for so long, so that there are turns."""
        end = self.clock.seconds + seconds
        while self.clock.seconds < end:
            await self.clock.let_pass(min(limits.TURNS_SECONDS / 4, end - self.clock.seconds))
            for tenant_id in (NEIGHBOUR, THIRD):
                await self.request(tenant_id)

    def begun_by(self, tenant_id: int) -> int:
        return sum(whose == tenant_id for whose, _ in self.begun)


@pytest.fixture
def service(clock: Clock) -> Service:
    return Service(clock)


# --- Who begins -------------------------------------------------------------------


def test_alone_nobody_waits(clock: Clock, service: Service) -> None:
    async def go() -> None:
        await service.call(BUSY, 1_000)
        assert service.begun_by(BUSY) == 1_000
        assert service.turns.queue_of(BUSY) is None

    clock.run(go())


def test_beside_another_a_turns_requests_begin_and_the_next_behind_a_rest(
    clock: Clock, service: Service
) -> None:
    async def go() -> None:
        await service.flood()
        began = clock.seconds
        for turns in range(1, FLOOD // TURN):
            assert service.begun_by(BUSY) == turns * TURN
            await clock.let_pass(0.9 * REST_SECONDS)
            assert service.begun_by(BUSY) == turns * TURN
            await clock.let_pass(0.1 * REST_SECONDS)
            await passes_of_the_loop(TURN)
        assert service.begun_by(BUSY) == FLOOD
        assert clock.seconds == pytest.approx(began + (FLOOD / TURN - 1) * REST_SECONDS)

    clock.run(go())


def test_who_waited_is_let_in_a_few_at_a_time(clock: Clock, service: Service) -> None:
    async def go() -> None:
        await service.flood()
        await clock.let_pass(REST_SECONDS)
        begun = service.begun_by(BUSY)
        at_once = []
        while begun < 2 * TURN:
            await passes_of_the_loop(1)
            at_once.append(service.begun_by(BUSY) - begun)
            begun += at_once[-1]
        assert max(at_once) < TURN / 2

    clock.run(go())


def test_a_neighbour_begins_at_once_while_many_of_another_wait(
    clock: Clock, service: Service
) -> None:
    async def go() -> None:
        await service.flood()
        await service.call(NEIGHBOUR)
        assert service.begun[TURN:] == [(NEIGHBOUR, clock.seconds)]

    clock.run(go())


def test_all_are_served_in_the_order_in_which_they_came(clock: Clock, service: Service) -> None:
    async def go() -> None:
        await service.stand_side_by_side(NEIGHBOUR, BUSY)
        served: list[int] = []

        async def request(number: int) -> None:
            await service.request(BUSY)
            served.append(number)

        calls = asyncio.gather(*map(request, range(500)))
        await service.others_call_on(2.0)
        await calls
        assert served == list(range(500))

    clock.run(go())


# --- Rests ------------------------------------------------------------------------


def test_the_rest_is_for_what_the_tenant_cost_and_not_for_what_others_did(
    clock: Clock, service: Service
) -> None:
    async def go() -> None:
        await service.stand_side_by_side(NEIGHBOUR, BUSY)
        # In one and the same pass, others begin as many, and cost as much.
        tasks = [
            asyncio.create_task(service.request(tenant_id))
            for tenant_id in [BUSY] * 2 * TURN + [NEIGHBOUR] * (TURN // 2) + [THIRD] * (TURN // 2)
        ]
        await passes_of_the_loop(len(tasks))
        began = clock.seconds
        await asyncio.gather(*tasks)
        assert clock.seconds == pytest.approx(began + REST_SECONDS)

    clock.run(go())


def test_what_is_done_while_the_tenant_rests_counts_for_its_next_rest(
    clock: Clock, service: Service
) -> None:
    """Answers cost as much as requests, and come later."""

    async def go() -> None:
        tasks = await service.flood()
        clock.processor_seconds += 1.0
        await clock.let_pass(REST_SECONDS)
        await passes_of_the_loop(TURN)
        assert service.begun_by(BUSY) == 2 * TURN
        await service.others_call_on(0.9 * limits.TURN_REST)
        assert service.begun_by(BUSY) == 2 * TURN
        await service.others_call_on(0.2 * limits.TURN_REST)
        assert service.begun_by(BUSY) > 2 * TURN
        for task in tasks:
            task.cancel()

    clock.run(go())


def test_what_costs_the_processor_nothing_is_not_rested_for(
    clock: Clock, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All wait for a slow database: nothing would be better if they began later."""

    async def go() -> None:
        await service.stand_side_by_side(NEIGHBOUR, BUSY)
        monkeypatch.setattr(time, "process_time", lambda: 0.0)
        began = clock.seconds
        await asyncio.gather(*await service.call(BUSY, 1_000))
        assert clock.seconds == began

    clock.run(go())


@pytest.mark.parametrize("at_once", [1, TURN - 1])
def test_who_asks_for_less_than_a_turn_never_rests(
    clock: Clock, service: Service, at_once: int
) -> None:
    async def go() -> None:
        await service.stand_side_by_side(NEIGHBOUR, BUSY)
        for times in range(1, 20):
            await service.call(BUSY, at_once)
            assert service.begun_by(BUSY) == times * at_once
            clock.processor_seconds += 1
            await clock.let_pass(1.1 * limits.TURN_SECONDS)

    clock.run(go())


def test_who_begins_as_many_one_after_the_other_rests_too(clock: Clock, service: Service) -> None:
    async def go() -> None:
        await service.stand_side_by_side(NEIGHBOUR, BUSY)
        for _ in range(TURN):
            await service.call(BUSY)
            await clock.let_pass(0.5 * limits.TURN_SECONDS / TURN)
        await service.call(BUSY)
        assert service.begun_by(BUSY) == TURN

    clock.run(go())


def test_three_that_flood_are_served_alike_and_use_the_whole_process(
    clock: Clock, service: Service
) -> None:
    """Each with sixty connections that call again as soon as they are answered."""
    floods = (BUSY, NEIGHBOUR, THIRD)

    async def go() -> None:
        async def connection(tenant_id: int) -> None:
            while clock.seconds < 6.0:
                await service.request(tenant_id, keeps_loop_busy=True)
                await passes_of_the_loop(2)

        await service.stand_side_by_side(*floods)
        await asyncio.gather(*[connection(tenant) for tenant in floods for _ in range(FLOOD)])

    clock.run(go())
    served = Counter(whose for whose, _ in service.begun)
    assert max(served.values()) < 1.2 * min(served.values())
    assert served.total() * COST_SECONDS > 0.8 * clock.seconds


def test_one_that_floods_beside_a_neighbour_has_a_third_of_the_process(
    clock: Clock, service: Service
) -> None:
    async def go() -> None:
        async def connection() -> None:
            while clock.seconds < 6.0:
                await service.request(BUSY, keeps_loop_busy=True)
                await passes_of_the_loop(2)

        await service.stand_side_by_side(NEIGHBOUR, BUSY)
        calls = asyncio.gather(*[connection() for _ in range(FLOOD)])
        await service.others_call_on(6.0)
        await calls

    clock.run(go())
    share = service.begun_by(BUSY) * COST_SECONDS / clock.seconds
    assert share == pytest.approx(1 / (1 + limits.TURN_REST), rel=0.15)


# --- Who goes away ----------------------------------------------------------------


def test_who_goes_away_while_it_waits_takes_no_place(clock: Clock, service: Service) -> None:
    async def go() -> None:
        tasks = await service.flood()
        for task in tasks[TURN : FLOOD - 1]:
            task.cancel()
        await clock.let_pass(REST_SECONDS)
        await passes_of_the_loop(FLOOD)
        assert service.begun_by(BUSY) == TURN + 1
        await service.call(BUSY, TURN - 1)
        assert service.begun_by(BUSY) == 2 * TURN

    clock.run(go())


def test_where_all_who_wait_go_away_the_tenant_begins_anew(clock: Clock, service: Service) -> None:
    async def go() -> None:
        tasks = await service.flood()
        for task in tasks[TURN:]:
            task.cancel()
        await clock.let_pass(REST_SECONDS)
        await service.call(BUSY, TURN)
        assert service.begun_by(BUSY) == 2 * TURN

    clock.run(go())


def test_a_loop_that_is_held_up_in_the_middle_of_a_turn_forgets_nobody(
    clock: Clock, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of a turn is over while there is room in it, and some wait for that."""
    monkeypatch.setattr(limits, "TURN_REQUESTS_MAX", FLOOD)

    async def go() -> None:
        await service.stand_side_by_side(NEIGHBOUR, BUSY)
        await service.call(BUSY, 2 * FLOOD)
        await clock.let_pass(FLOOD * COST_SECONDS * limits.TURN_REST)
        await passes_of_the_loop(1)
        assert FLOOD < service.begun_by(BUSY) < FLOOD + TURN
        clock.seconds += 2 * limits.TURN_SECONDS
        await passes_of_the_loop(FLOOD)
        assert service.begun_by(BUSY) == 2 * FLOOD

    clock.run(go())


def test_who_waits_for_too_long_is_told_that_there_is_too_much(
    clock: Clock, service: Service
) -> None:
    async def go() -> None:
        tasks = await service.flood()
        clock.processor_seconds += 10 * limits.QUEUE_WAIT_SECONDS_MAX
        began = clock.seconds
        last = tasks[-1]
        while not last.done():
            await service.others_call_on(0.1)
        assert clock.seconds == pytest.approx(began + limits.QUEUE_WAIT_SECONDS_MAX, abs=0.2)
        with pytest.raises(Busy, match="Ask for less"):
            await last
        await asyncio.gather(*tasks, return_exceptions=True)

    clock.run(go())


# --- Who is there -----------------------------------------------------------------


def test_when_the_others_call_no_more_all_who_wait_are_let_in(
    clock: Clock, service: Service
) -> None:
    async def go() -> None:
        await service.stand_side_by_side(NEIGHBOUR, BUSY)
        await service.call(BUSY, 1_000)
        await clock.let_pass(0.9 * limits.TURNS_SECONDS)
        assert service.begun_by(BUSY) < 1_000 / 2
        await clock.let_pass(0.1 * limits.TURNS_SECONDS)
        await passes_of_the_loop(2)
        assert service.begun_by(BUSY) == 1_000
        assert service.turns.queue_of(BUSY) is None
        await service.call(BUSY, 1_000)
        assert service.begun_by(BUSY) == 2_000
        # And when they are back, there are turns again.
        await service.call(NEIGHBOUR)
        await service.call(BUSY, FLOOD)
        assert service.begun_by(BUSY) == 2_000 + TURN

    clock.run(go())


def test_who_is_let_in_when_the_others_are_gone_may_go_away_too(clock: Clock) -> None:
    queue = Queue(Begun())

    async def go() -> None:
        for _ in range(TURN):
            await queue.begin()
        waits = [asyncio.create_task(queue.begin()) for _ in range(FLOOD)]
        await passes_of_the_loop(1)
        queue.open()
        for waiting in waits:
            waiting.cancel()
        ended = await asyncio.gather(*waits, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ended)
        await clock.let_pass(2 * limits.TURN_SECONDS)
        assert queue.is_idle

    clock.run(go())


def test_queues_of_those_who_ask_for_nothing_are_forgotten(clock: Clock, service: Service) -> None:
    async def go() -> None:
        for tenant_id in range(5_000):
            await service.request(tenant_id)
        assert len(service.turns._queues) > 4_000
        await service.others_call_on(1.5 * limits.TURNS_SECONDS)
        assert len(service.turns._queues) <= 2

    clock.run(go())


def test_a_queue_in_which_some_wait_is_not_forgotten(clock: Clock, service: Service) -> None:
    async def go() -> None:
        tasks = await service.flood()
        clock.processor_seconds += 2 * limits.TURNS_SECONDS
        queue = service.turns._queues[BUSY]
        await service.others_call_on(2 * limits.TURNS_SECONDS)
        assert service.begun_by(BUSY) == 2 * TURN
        assert service.turns.queue_of(BUSY) is queue
        for task in tasks:
            task.cancel()

    clock.run(go())
