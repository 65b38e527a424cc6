"""Places: whose calls are in the database at the same time, where there is not room for all.

A tenant has as many consumers as it likes, and so as many groups of calls that want a connection.
Were they served in the order in which they came, a tenant with a thousand busy consumers would
stand a thousand times in front of its neighbour's one. So places are given to tenants: whoever has
the fewest is next, and of those that have as few, who has waited the longest. And no tenant has
all of them, so that a neighbour's call mostly need not wait for one of another's to end, which may
take long.

Not safe for threads: to be used in the event loop.
"""

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator


class Places:
    """What tenants have of a number of places.

    Args:
        whole: how many there are.
        tenant_max: how many one tenant may have.
    """

    def __init__(self, whole: int, *, tenant_max: int) -> None:
        self._free = whole
        self._tenant_max = tenant_max
        self._taken: Counter[int] = Counter()
        # By tenant, in the order in which they began to wait.
        self._waiting: dict[int, deque[asyncio.Future[None]]] = {}

    @contextlib.asynccontextmanager
    async def place(self, tenant_id: int, *, seconds_max: float) -> AsyncIterator[None]:
        """Have a place while the block runs. Raises ``TimeoutError``: there was none in time."""
        if self._free and self._taken[tenant_id] < self._tenant_max:
            # Nobody who may have one waits: they would have got it.
            self._take(tenant_id)
        else:
            await self._wait(tenant_id, seconds_max)
        try:
            yield
        finally:
            self._give_back(tenant_id)

    async def _wait(self, tenant_id: int, seconds_max: float) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant_id, deque()).append(turn)
        try:
            async with asyncio.timeout(seconds_max):
                await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self._give_back(tenant_id)  # It came at the same moment, and is not used.
            else:
                self._forget(tenant_id, turn)
            raise

    def _take(self, tenant_id: int) -> None:
        self._free -= 1
        self._taken[tenant_id] += 1

    def _give_back(self, tenant_id: int) -> None:
        self._free += 1
        self._taken[tenant_id] -= 1
        if not self._taken[tenant_id]:
            del self._taken[tenant_id]
        self._serve()

    def _serve(self) -> None:
        """Give what is free to those who wait for it."""
        while self._free:
            may = [one for one in self._waiting if self._taken[one] < self._tenant_max]
            if not may:
                return
            tenant_id = min(may, key=lambda one: self._taken[one])
            turn = self._waiting[tenant_id].popleft()
            # What else it waits for, it waits for behind the others.
            rest = self._waiting.pop(tenant_id)
            if rest:
                self._waiting[tenant_id] = rest
            if not turn.done():
                self._take(tenant_id)
                turn.set_result(None)

    def _forget(self, tenant_id: int, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(tenant_id)
        if turns is not None and turn in turns:
            turns.remove(turn)
            if not turns:
                del self._waiting[tenant_id]
