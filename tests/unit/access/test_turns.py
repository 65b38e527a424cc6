"""Who begins when, where one tenant floods and others call: turns, rests, and who goes away.

Time is virtual, so a wait is as long as it is said to be, and no test takes any.
"""

import asyncio
import time
from collections import Counter

import pytest

from counterfoil.server.access.turns import Queue, Turns
from counterfoil.server.core import limits
from counterfoil.server.core.errors import Busy
from tests.support.virtual_time import Clock, passes_of_the_loop

pytestmark = pytest.mark.promise("P7", "P13")

BUSY, NEIGHBOUR, THIRD = 1, 2, 3
TURN = limits.TURN_REQUESTS_MAX
FLOOD = 60


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that the loop and the turns go by."""
    clock = Clock()
    monkeypatch.setattr(time, "process_time", lambda: clock.processor_seconds)
    return clock


class Service:
    """Requests of tenants: each begins when it may, and goes on until it is answered."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.turns = Turns()
        self.begun: list[tuple[int, float]] = []
        """Whose requests began, and when."""
        self._running: list[asyncio.Event] = []

    async def request(self, tenant_id: int, *, work_seconds: float | None = None) -> None:
        """A request that works for so long and is answered; None: ``answer_all`` answers it."""
        queue = self.turns.queue_of(tenant_id)
        turn = None if queue is None else await queue.begin()
        self.begun.append((tenant_id, self.clock.seconds))
        try:
            if work_seconds is None:
                self._running.append(answered := asyncio.Event())
                await answered.wait()
            else:
                self.clock.work(work_seconds)
        finally:
            if queue is not None and turn is not None:
                queue.end(turn)

    async def call(self, tenant_id: int, requests: int = 1) -> list[asyncio.Task[None]]:
        """So many requests arrive at once; returns when all that may begin now have begun."""
        tasks = [asyncio.create_task(self.request(tenant_id)) for _ in range(requests)]
        await passes_of_the_loop(requests)
        return tasks

    async def answer_all(self) -> None:
        """What is running is answered."""
        for answered in self._running:
            answered.set()
        self._running.clear()
        await passes_of_the_loop(2)

    async def stand_side_by_side(self, *tenants: int) -> None:
        """These call, one after the other, and so take turns from now on."""
        for tenant_id in tenants:
            await self.call(tenant_id)
            await self.answer_all()
        self.begun.clear()

    async def flood(self) -> list[asyncio.Task[None]]:
        """Beside a neighbour, many requests of one tenant arrive at once."""
        await self.stand_side_by_side(NEIGHBOUR, BUSY)
        return await self.call(BUSY, FLOOD)

    def begun_by(self, tenant_id: int) -> int:
        return sum(whose == tenant_id for whose, _ in self.begun)

    async def until_all_began(self, requests: int) -> None:
        """Answer what is running, again and again."""
        for _ in range(requests):
            if len(self.begun) >= requests:
                break
            await self.answer_all()
            await self.clock.let_pass(limits.TURN_SECONDS_MAX)
        assert len(self.begun) == requests
        await self.answer_all()


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


def test_beside_another_only_so_many_are_begun_and_not_answered(
    clock: Clock, service: Service
) -> None:
    async def go() -> None:
        await service.flood()
        assert service.begun_by(BUSY) == TURN
        for turns in range(2, FLOOD // TURN + 1):
            await service.answer_all()
            await passes_of_the_loop(TURN)
            assert service.begun_by(BUSY) == turns * TURN

    clock.run(go())


def test_who_waited_is_let_in_a_few_at_a_time(clock: Clock, service: Service) -> None:
    async def go() -> None:
        await service.flood()
        await service.answer_all()
        begun = service.begun_by(BUSY)
        at_once = []
        while begun < 2 * TURN:
            await passes_of_the_loop(1)
            at_once.append(service.begun_by(BUSY) - begun)
            begun += at_once[-1]
        assert max(at_once) < TURN / 2

    clock.run(go())


def test_a_neighbour_begins_at_once_while_sixty_of_another_wait(
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
            await service.request(BUSY, work_seconds=0.001)
            served.append(number)

        await asyncio.gather(*map(request, range(500)))
        assert served == list(range(500))

    clock.run(go())


def test_three_that_flood_are_served_alike(clock: Clock, service: Service) -> None:
    """Each with sixty connections that call again as soon as they are answered."""
    floods = (BUSY, NEIGHBOUR, THIRD)

    async def go() -> None:
        async def connection(tenant_id: int) -> None:
            while clock.seconds < 3.0:
                await service.request(tenant_id, work_seconds=0.0005)
                await passes_of_the_loop(2)

        await service.stand_side_by_side(*floods)
        await asyncio.gather(*[connection(tenant) for tenant in floods for _ in range(FLOOD)])

    clock.run(go())
    served = Counter(whose for whose, _ in service.begun)
    assert min(served.values()) > 500
    assert max(served.values()) < 1.1 * min(served.values())


# --- Rests ------------------------------------------------------------------------


def test_who_uses_a_turn_up_rests_as_long_as_the_processor_worked(
    clock: Clock, service: Service
) -> None:
    async def go() -> None:
        await service.flood()
        clock.processor_seconds += 0.03  # in no time: what is counted is the processor's
        rested = clock.seconds + 0.03 * limits.TURN_REST
        await service.answer_all()
        await clock.let_pass(0.02 * limits.TURN_REST)
        await service.call(BUSY)
        await service.call(NEIGHBOUR)
        assert service.begun[TURN:] == [(NEIGHBOUR, clock.seconds)]
        await clock.let_pass(0.02 * limits.TURN_REST)
        assert service.begun_by(BUSY) == 2 * TURN
        assert service.begun[-1][1] == pytest.approx(rested)

    clock.run(go())


def test_who_rested_begins_anew_where_nobody_waits(clock: Clock, service: Service) -> None:
    async def go() -> None:
        await service.stand_side_by_side(NEIGHBOUR, BUSY)
        await service.call(BUSY, TURN)
        clock.processor_seconds += 0.03
        await service.answer_all()
        await clock.let_pass(0.031 * limits.TURN_REST)
        await service.call(BUSY, TURN)
        assert service.begun_by(BUSY) == 2 * TURN

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
            await service.answer_all()
        assert clock.seconds == 0

    clock.run(go())


# --- Turns that do not end by themselves ------------------------------------------


def test_slow_requests_hold_up_no_others_for_longer_than_a_turn(
    clock: Clock, service: Service
) -> None:
    async def go() -> None:
        await service.flood()
        await clock.let_pass(0.9 * limits.TURN_SECONDS_MAX)
        assert service.begun_by(BUSY) == TURN
        await clock.let_pass(0.2 * limits.TURN_SECONDS_MAX)
        assert service.begun_by(BUSY) == 2 * TURN
        # What is answered late belongs to a turn of the past, and ends no other.
        await service.answer_all()
        await clock.let_pass(0.1 * limits.TURN_SECONDS_MAX)
        assert service.begun_by(BUSY) == 3 * TURN

    clock.run(go())


def test_a_late_answer_does_not_end_the_turn_of_others(clock: Clock) -> None:
    queue = Queue()

    async def go() -> None:
        late = await queue.begin()
        await clock.let_pass(2 * limits.TURN_SECONDS_MAX)
        for _ in range(TURN):
            await queue.begin()
        waits = asyncio.create_task(queue.begin())
        queue.end(late)
        await passes_of_the_loop(5)
        assert not waits.done()
        await clock.let_pass(2 * limits.TURN_SECONDS_MAX)
        assert waits.done()

    clock.run(go())


def test_a_slow_request_takes_no_room_in_later_turns(clock: Clock, service: Service) -> None:
    async def go() -> None:
        await service.stand_side_by_side(NEIGHBOUR, BUSY)
        await service.call(BUSY)
        await clock.let_pass(2 * limits.TURN_SECONDS_MAX)
        await service.call(BUSY, TURN)
        assert service.begun_by(BUSY) == 1 + TURN

    clock.run(go())


def test_requests_that_are_answered_at_once_leave_nobody_waiting(
    clock: Clock, service: Service
) -> None:
    """All that began are answered before the next few are let in, and the turn goes on."""

    async def go() -> None:
        await service.flood()
        quick = [asyncio.create_task(service.request(BUSY, work_seconds=0)) for _ in range(FLOOD)]
        await service.until_all_began(2 * FLOOD)
        await asyncio.gather(*quick)

    clock.run(go())


def test_a_loop_that_is_held_up_in_the_middle_of_a_turn_forgets_nobody(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of a turn is over while there is room in it, and some wait for that."""
    monkeypatch.setattr(limits, "TURN_REQUESTS_MAX", FLOOD)
    queue = Queue()

    async def go() -> None:
        turns = [await queue.begin() for _ in range(FLOOD)]
        waits = [asyncio.create_task(queue.begin()) for _ in range(FLOOD)]
        await passes_of_the_loop(1)
        for turn in turns:
            queue.end(turn)
        while not any(waiting.done() for waiting in waits):
            await passes_of_the_loop(1)
        clock.seconds += 2 * limits.TURN_SECONDS_MAX
        await passes_of_the_loop(3)
        assert not all(waiting.done() for waiting in waits)
        await clock.let_pass(limits.TURN_SECONDS_MAX)
        assert all(waiting.done() for waiting in waits)

    clock.run(go())


# --- Who goes away ----------------------------------------------------------------


def test_who_goes_away_while_it_waits_takes_no_place(clock: Clock, service: Service) -> None:
    async def go() -> None:
        tasks = await service.flood()
        for task in tasks[TURN : FLOOD - 1]:
            task.cancel()
        await service.answer_all()
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
        await service.answer_all()
        await passes_of_the_loop(FLOOD)
        await service.call(BUSY, TURN)
        assert service.begun_by(BUSY) == 2 * TURN

    clock.run(go())


def test_who_goes_away_as_it_is_let_in_gives_its_place_back(clock: Clock) -> None:
    queue = Queue()

    async def go() -> None:
        turns = [await queue.begin() for _ in range(TURN)]
        waits = asyncio.create_task(queue.begin())
        await passes_of_the_loop(1)
        for turn in turns:
            queue.end(turn)
        while queue._turn is None:
            await passes_of_the_loop(1)
        assert queue._turn.running == 1
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        assert queue.is_idle

    clock.run(go())


def test_who_waits_for_too_long_is_told_that_there_is_too_much(
    clock: Clock, service: Service
) -> None:
    async def flood() -> None:
        await service.flood()
        clock.processor_seconds += 2 * limits.QUEUE_WAIT_SECONDS_MAX / limits.TURN_REST
        await service.answer_all()
        queue = service.turns.queue_of(BUSY)
        assert queue is not None
        began = clock.seconds
        with pytest.raises(Busy, match="Ask for less"):
            await queue.begin()
        assert clock.seconds == pytest.approx(began + limits.QUEUE_WAIT_SECONDS_MAX)

    async def go() -> None:
        """Others call on: alone, nobody would wait."""
        flooding = asyncio.create_task(flood())
        while not flooding.done():
            await clock.let_pass(limits.TURNS_SECONDS / 2)
            for tenant_id in (NEIGHBOUR, THIRD):
                await service.request(tenant_id, work_seconds=0)
        await flooding

    clock.run(go())


# --- Who is there -----------------------------------------------------------------


def test_when_the_others_call_no_more_all_who_wait_are_let_in(
    clock: Clock, service: Service
) -> None:
    async def go() -> None:
        await service.stand_side_by_side(NEIGHBOUR, BUSY)
        await service.call(BUSY, 1_000)
        await clock.let_pass(0.95 * limits.TURNS_SECONDS)
        assert service.begun_by(BUSY) < 1_000 / 2
        await clock.let_pass(0.1 * limits.TURNS_SECONDS)
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
    queue = Queue()

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
        await clock.let_pass(2 * limits.TURN_SECONDS_MAX)
        assert queue.is_idle

    clock.run(go())


def test_queues_of_those_who_ask_for_nothing_are_forgotten(clock: Clock, service: Service) -> None:
    async def go() -> None:
        for tenant_id in range(5_000):
            await service.request(tenant_id, work_seconds=0)
        assert len(service.turns._queues) > 4_000
        # Some are always there, so turns go on.
        for _ in range(6):
            await clock.let_pass(limits.TURNS_SECONDS / 4)
            for tenant_id in (NEIGHBOUR, THIRD):
                await service.request(tenant_id, work_seconds=0)
        assert len(service.turns._queues) <= 2

    clock.run(go())


def test_a_queue_in_which_some_wait_is_not_forgotten(clock: Clock, service: Service) -> None:
    async def go() -> None:
        await service.flood()
        clock.processor_seconds += 3 * limits.TURNS_SECONDS / limits.TURN_REST
        await service.answer_all()
        queue = service.turns._queues[BUSY]
        for _ in range(8):
            await clock.let_pass(limits.TURNS_SECONDS / 4)
            for tenant_id in (NEIGHBOUR, THIRD):
                await service.request(tenant_id, work_seconds=0)
        assert service.begun_by(BUSY) == TURN
        assert service.turns.queue_of(BUSY) is queue

    clock.run(go())
