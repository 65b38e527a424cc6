"""A lane: the requests about one consumer that one process has waiting, or parked."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from counterfoil.server.consumers.model import Token
from counterfoil.server.consumers.store import HandedOut
from counterfoil.server.core import limits
from counterfoil.server.core.errors import CounterfoilError
from counterfoil.server.log.follow import Watch


class Outcome(NamedTuple):
    """What became of one request.

    Attributes:
        status: claimed, done, replayed, key_reused or lost.
        lost: lost: the tokens of what is not held any more.
        lease_ends: of an extension.
        changed_by: the event that made or changed the consumer last.
    """

    status: str
    deliveries: Sequence[HandedOut] = ()
    generation: int = 0
    lost: Sequence[Token] = ()
    lease_ends: str | None = None
    paused: bool = False
    changed_by: int = 0


class Waiting:
    """One request between its caller and its answer."""

    __slots__ = ("document", "future", "timer", "wait_until")

    def __init__(self, document: dict[str, Any], wait_until: float | None) -> None:
        loop = asyncio.get_running_loop()
        self.document = document
        self.wait_until = wait_until
        self.future: asyncio.Future[Outcome] = loop.create_future()
        self.timer: asyncio.TimerHandle | None = None

    @property
    def claims(self) -> bool:
        """Whether it may be handed something, and so may be parked."""
        return bool(self.document["call"] == "claim")

    def answer(self, outcome: Outcome) -> bool:
        """False: nobody waits for it any more."""
        if self.future.done():
            return False
        self.future.set_result(outcome)
        return True

    def refuse(self, error: CounterfoilError) -> None:
        """Answer with an error, if somebody still waits."""
        if not self.future.done():
            self.future.set_exception(error)


class Lane:
    """The requests about one consumer, and the task that takes them to the database."""

    def __init__(self, tenant_id: int, name: str) -> None:
        self.tenant_id = tenant_id
        self.name = name
        self.waiting: deque[Waiting] = deque()
        self.parked: dict[Waiting, None] = {}
        self.news = False
        self.driver: asyncio.Task[None] | None = None
        self.watch: Watch | None = None
        self.watching: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.due_looked_at = float("-inf")
        self.due = False
        self.changed_by = 0
        self.used_at = 0.0

    def next_group(self) -> list[Waiting]:
        """What goes into one call: where there is news, those that are parked first."""
        group: list[Waiting] = []
        if self.news:
            while self.parked and len(group) < limits.CLAIM_GROUP_REQUESTS_MAX:
                parked = next(iter(self.parked))
                del self.parked[parked]
                group.append(parked)
            self.news = bool(self.parked)
        while self.waiting and len(group) < limits.CLAIM_GROUP_REQUESTS_MAX:
            waiting = self.waiting.popleft()
            if not waiting.future.done():
                group.append(waiting)
        return group

    def refuse_all(self, error: CounterfoilError) -> None:
        """Empty the lane."""
        for waiting in (*self.waiting, *self.parked):
            waiting.refuse(error)
        self.waiting.clear()
        self.parked.clear()

    @property
    def has_work(self) -> bool:
        """Whether something is to be taken to the database now."""
        return bool(self.waiting) or (self.news and bool(self.parked))
