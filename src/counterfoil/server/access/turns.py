"""Turns between tenants: who calls now and then does not stand behind who calls without pause.

Theory of operation
-------------------
A process has one event loop, which serves what is ready in the order in which it came. A tenant
that keeps sixty connections busy has sixty requests in front of a neighbour's one, and sixty
answers in front of its answer. Rates do not help where they allow more than the machine can do,
and a tenant has as many keys as it likes.

So while more than one tenant calls, each has *turns*. In a turn, up to ``TURN_REQUESTS_MAX`` of its
requests begin, those that had to wait few in each pass of the loop; the next turn begins when they
are answered. What comes meanwhile waits. That many at once are enough for group commit to do its
work.

And who uses a turn up rests behind it, for ``TURN_REST`` of the processor's time that passed: a
process that is never idle has something in front of everybody, and takes a processor that the
database needs too. A request that is slow because the database is holds nobody up: after
``TURN_SECONDS_MAX`` its turn is over without it.

::

    no turn ──► turn ──► rest ──► turn ──► ...        while there is more than fits into a turn
      ▲          │
      └──────────┘   all answered, or TURN_SECONDS_MAX, before the turn was used up

Who asks for one thing after another notices nothing of all this, and where one tenant calls alone
there are no turns. What they cost a busy tenant beside others is about half of the process's time.
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


class Turn:
    """A tenant's turn: how many of its requests may begin in it yet, and how many are running."""

    __slots__ = ("began_seconds", "left", "running", "timer")

    def __init__(self, timer: asyncio.TimerHandle) -> None:
        self.left = limits.TURN_REQUESTS_MAX
        self.running = 0
        self.began_seconds = time.process_time()
        self.timer = timer


class Queue:
    """What a tenant asks for while others call, too.

    What holds between any two calls of it: who waits is waited for by a turn that is used up, by a
    rest, or by a ``_go_on`` that the loop has been asked for. So nobody is forgotten.
    """

    def __init__(self) -> None:
        self._turn: Turn | None = None
        """The one that is on; None while the tenant rests, or asks for nothing."""
        self._waiting: deque[asyncio.Future[Turn]] = deque()
        """In the order in which they came; those who have gone stand in it until it is theirs."""
        self._rests = False

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing in it that has to be remembered."""
        return self._turn is None and not self._waiting and not self._rests

    async def begin(self) -> Turn:
        """Wait until a request may begin. Who began has to ``end`` the turn that it was given.

        Raises ``Busy`` after ``QUEUE_WAIT_SECONDS_MAX``.
        """
        if not (self._rests or self._waiting):
            turn = self._turn or self._next_turn()
            if turn.left > 0:
                turn.left -= 1
                turn.running += 1
                return turn
        place: asyncio.Future[Turn] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            async with asyncio.timeout(limits.QUEUE_WAIT_SECONDS_MAX):
                return await place
        except BaseException as error:
            if not place.cancel() and not place.cancelled():
                self.end(place.result())  # It was let in as it went away.
            if isinstance(error, TimeoutError):
                raise Busy(_TOO_MANY) from None
            raise

    def end(self, turn: Turn) -> None:
        """A request that began in this turn has been answered."""
        turn.running -= 1
        # Where some wait although there is room for them, they are about to be let in.
        if turn is self._turn and not turn.running and not (turn.left > 0 and self._waiting):
            self._over()

    def open(self) -> None:
        """The tenant is alone now: all who wait are let in. Nobody begins here any more."""
        while self._waiting:
            self._let_in(self._turn or self._next_turn())

    def _next_turn(self) -> Turn:
        timer = asyncio.get_running_loop().call_later(limits.TURN_SECONDS_MAX, self._over)
        self._turn = Turn(timer)
        return self._turn

    def _over(self) -> None:
        """The turn that is on is over; whoever leaves some waiting has used it up, too."""
        turn = self._turn
        assert turn is not None, "its timer was cancelled when it was over before"
        turn.timer.cancel()
        self._turn = None
        if turn.left <= 0 or self._waiting:
            self._rests = True
            passed_seconds = time.process_time() - turn.began_seconds
            asyncio.get_running_loop().call_later(passed_seconds * limits.TURN_REST, self._rested)

    def _rested(self) -> None:
        self._rests = False
        if self._waiting:
            self._go_on(self._next_turn())

    def _go_on(self, turn: Turn) -> None:
        """Let a few of those in that wait, and more in the next pass of the loop."""
        if turn is not self._turn:
            return  # It was over in between; behind the rest there is another.
        for _ in range(_BEGUN_AT_ONCE):
            if turn.left > 0 and self._waiting:
                self._let_in(turn)
        if turn.left > 0 and self._waiting:
            asyncio.get_running_loop().call_soon(self._go_on, turn)
        elif not turn.running:
            self._over()

    def _let_in(self, turn: Turn) -> None:
        place = self._waiting.popleft()
        if not place.done():  # Whose it is may have gone.
            turn.left -= 1
            turn.running += 1
            place.set_result(turn)


class Turns:
    """The queues of all tenants of one process. To be used in its event loop only."""

    def __init__(self) -> None:
        self._last_tenant: int | None = None
        self._are_several = False
        self._several_until = 0.0
        self._queues: dict[int, Queue] = {}

    def queue_of(self, tenant_id: int) -> Queue | None:
        """Where a request of this tenant has to ``begin``; None: it just begins."""
        if tenant_id != self._last_tenant:
            self._take_note(tenant_id)
        if not self._are_several:
            return None
        queue = self._queues.get(tenant_id)
        if queue is None:
            queue = self._queues[tenant_id] = Queue()
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
