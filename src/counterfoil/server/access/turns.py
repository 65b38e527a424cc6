"""Turns between tenants: who calls now and then does not stand behind who calls without pause.

Theory of operation
-------------------
A process has one event loop, which serves what is ready in the order in which it came. A tenant
that keeps sixty connections busy has sixty requests in front of a neighbour's one, and sixty
answers in front of its answer. Rates do not help where they allow more than the machine can do,
and a tenant has as many keys as it likes.

So while more than one tenant calls, each has *turns*: in a turn, ``TURN_REQUESTS_MAX`` of its requests
begin, those that had to wait few in each pass of the loop. That many at once are enough for group
commit to do its work.

And who uses a turn up rests behind it, ``TURN_REST`` times as long as the processor worked for it: a
process that is never idle has something in front of everybody, and takes a processor that the
database needs too. What comes meanwhile waits. Its part in the processor's time is its part in the
requests that began since it rested last, so that tenants which are busy at the same time use all of
the process. Whether anything is answered does not count: a slow database holds nobody up.

::

    no turn ──► turn ──► rest ──► turn ──► ...        while there is more than fits into a turn
      ▲          │
      └──────────┘   TURN_SECONDS passed before the turn was used up

Who asks for less notices nothing of all this, and where one tenant calls alone there are no turns.
What they cost: one that is busy beside others that are not has a third of the process's time.
"""

import asyncio
import time
from collections import deque
from typing import Final

from counterfoil.server.core import limits
from counterfoil.server.core.errors import Busy

_BEGUN_AT_ONCE: Final = 4
"""Requests that are let in in one pass of the loop: between two passes it looks what has arrived."""

_TOO_MANY: Final = "This tenant asks for more at once than it can be served in time. Ask for less."


class Begun:
    """How many requests began in a process while tenants took turns."""

    __slots__ = ("requests",)

    def __init__(self) -> None:
        self.requests = 0


class Queue:
    """What a tenant asks for while others call, too.

    What holds between any two calls of it: where some wait, the tenant rests, or the loop has been
    asked to let more in. So nobody is forgotten.
    """

    def __init__(self, begun: "Begun") -> None:
        self._begun = begun
        self._left = limits.TURN_REQUESTS_MAX
        """Requests that may begin yet in the turn that is on."""
        self._timer: asyncio.TimerHandle | None = None
        """When that turn is over; None while none is on."""
        self._waiting: deque[asyncio.Future[None]] = deque()
        """In the order in which they came; those who have gone stand in it until it is theirs."""
        self._rests = False
        self._used_seconds = 0.0
        self._begun_before = 0
        """The processor's time, and what had begun of all tenants, when it rested last."""

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing in it that has to be remembered."""
        return self._timer is None and not self._waiting and not self._rests

    async def begin(self) -> None:
        """Wait until a request may begin.

        Raises ``Busy`` after ``QUEUE_WAIT_SECONDS_MAX``.
        """
        if not (self._rests or self._waiting):
            if self._timer is None:
                self._used_seconds = time.process_time()
                self._begun_before = self._begun.requests
                self._next_turn()
            self._take_place()
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            async with asyncio.timeout(limits.QUEUE_WAIT_SECONDS_MAX):
                await place
        except TimeoutError:
            raise Busy(_TOO_MANY) from None

    def open(self) -> None:
        """The tenant is alone now: all who wait are let in. Nobody begins here any more."""
        for place in self._waiting:
            if not place.done():
                place.set_result(None)
        self._waiting.clear()

    def _next_turn(self) -> None:
        self._left = limits.TURN_REQUESTS_MAX
        self._timer = asyncio.get_running_loop().call_later(limits.TURN_SECONDS, self._expired)

    def _expired(self) -> None:
        """It asked for less than it may: the next turn begins when it asks again."""
        self._timer = None

    def _take_place(self) -> None:
        """One more of this turn's requests begins; behind the last one, the tenant rests."""
        self._left -= 1
        self._begun.requests += 1
        if self._left or self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        self._rests = True
        # In the next pass, when all that began have done their first work.
        asyncio.get_running_loop().call_soon(self._rest)

    def _rest(self) -> None:
        now_seconds = time.process_time()
        begun = self._begun.requests - self._begun_before
        own_seconds = (now_seconds - self._used_seconds) * limits.TURN_REQUESTS_MAX / begun
        rest_seconds = own_seconds * limits.TURN_REST
        self._used_seconds = now_seconds
        self._begun_before = self._begun.requests
        asyncio.get_running_loop().call_later(rest_seconds, self._rested)

    def _rested(self) -> None:
        self._rests = False
        if self._waiting:
            self._next_turn()
            self._go_on()

    def _go_on(self) -> None:
        """Let a few of those in that wait, and more in the next pass of the loop."""
        let_in = 0
        while self._waiting and not self._rests and let_in < _BEGUN_AT_ONCE:
            place = self._waiting.popleft()
            if not place.done():  # Whose it is may have gone.
                let_in += 1
                place.set_result(None)
                if self._timer is None:
                    self._next_turn()  # Its time was over between two passes.
                self._take_place()
        if self._waiting and not self._rests:
            asyncio.get_running_loop().call_soon(self._go_on)


class Turns:
    """The queues of all tenants of one process. To be used in its event loop only."""

    def __init__(self) -> None:
        self._last_tenant: int | None = None
        self._are_several = False
        self._several_until = 0.0
        self._begun = Begun()
        self._queues: dict[int, Queue] = {}

    def queue_of(self, tenant_id: int) -> Queue | None:
        """Where a request of this tenant has to ``begin``; None: it just begins."""
        if tenant_id != self._last_tenant:
            self._take_note(tenant_id)
        if not self._are_several:
            return None
        queue = self._queues.get(tenant_id)
        if queue is None:
            queue = self._queues[tenant_id] = Queue(self._begun)
        return queue

    def _take_note(self, tenant_id: int) -> None:
        """Another tenant calls than the last time."""
        is_first = self._last_tenant is None
        self._last_tenant = tenant_id
        if is_first:
            return
        loop = asyncio.get_running_loop()
        self._several_until = loop.time() + limits.TURNS_SECONDS
        if not self._are_several:
            self._are_several = True
            loop.call_at(self._several_until, self._look_again)

    def _look_again(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() < self._several_until:
            self._queues = {
                tenant_id: queue for tenant_id, queue in self._queues.items() if not queue.is_idle
            }
            loop.call_at(self._several_until, self._look_again)
            return
        self._are_several = False
        for queue in self._queues.values():
            queue.open()
        self._queues.clear()
