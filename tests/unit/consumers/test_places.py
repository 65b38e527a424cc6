"""Places in the database: shared by tenants, in turn, however many consumers each has."""

import asyncio

import pytest

from counterfoil.server.consumers.places import Places
from tests.support.virtual_time import Clock

CALL_SECONDS = 1.0


class Calls:
    """Calls of tenants that take ``CALL_SECONDS`` each, and the order in which they began."""

    def __init__(self, clock: Clock, places: Places) -> None:
        self.clock = clock
        self.places = places
        self.begun: list[int] = []
        self.at_once: dict[int, int] = {}
        self.most: dict[int, int] = {}

    async def call(self, tenant_id: int, seconds_max: float = 1000) -> None:
        async with self.places.place(tenant_id, seconds_max=seconds_max):
            self.begun.append(tenant_id)
            self.at_once[tenant_id] = self.at_once.get(tenant_id, 0) + 1
            self.most[tenant_id] = max(self.most.get(tenant_id, 0), self.at_once[tenant_id])
            await self.clock.let_pass(CALL_SECONDS)
            self.at_once[tenant_id] -= 1


def test_one_tenant_leaves_a_place_to_its_neighbours() -> None:
    clock = Clock()

    async def main() -> None:
        calls = Calls(clock, Places(4, tenant_max=3))
        busy = [asyncio.create_task(calls.call(1)) for _ in range(100)]
        await clock.let_pass(10.5)
        before = clock.seconds
        await calls.call(2)
        assert clock.seconds == before + CALL_SECONDS, "it did not wait"
        await asyncio.gather(*busy)
        assert calls.most == {1: 3, 2: 1}

    clock.run(main())


def test_many_calls_of_some_do_not_stand_before_one_of_another() -> None:
    """Each tenant that waits is next after at most one call of each other."""
    clock = Clock()

    async def main() -> None:
        calls = Calls(clock, Places(2, tenant_max=1))
        busy = [asyncio.create_task(calls.call(nth % 5)) for nth in range(500)]
        await asyncio.sleep(0)
        late = asyncio.create_task(calls.call(9))
        await late
        assert calls.begun.index(9) <= 7
        await asyncio.gather(*busy)
        assert sorted(calls.begun) == sorted([*(nth % 5 for nth in range(500)), 9])

    clock.run(main())


def test_whose_turn_does_not_come_in_time_is_told() -> None:
    clock = Clock()

    async def main() -> None:
        calls = Calls(clock, Places(1, tenant_max=1))
        first = asyncio.create_task(calls.call(1))
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            await calls.call(2, seconds_max=0.5)
        await first
        await calls.call(2)
        assert calls.places._waiting == {}
        assert calls.places._taken == {}

    clock.run(main())


@pytest.mark.parametrize("when", [0.5, 1.0], ids=["before its turn", "as it comes"])
def test_a_place_is_not_lost_with_who_was_to_have_it(when: float) -> None:
    clock = Clock()

    async def main() -> None:
        calls = Calls(clock, Places(1, tenant_max=1))
        first = asyncio.create_task(calls.call(1))
        await asyncio.sleep(0)
        gone = asyncio.create_task(calls.call(2))
        behind = asyncio.create_task(calls.call(3))
        await asyncio.sleep(0)
        if when == CALL_SECONDS:
            first.add_done_callback(lambda _: gone.cancel())
        else:
            asyncio.get_running_loop().call_later(when, gone.cancel)
        await behind
        assert calls.begun in ([1, 3], [1, 2, 3])
        assert (calls.places._free, calls.places._taken, calls.places._waiting) == (1, {}, {})

    clock.run(main())
