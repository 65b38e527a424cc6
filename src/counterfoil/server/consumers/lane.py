"""A lane: the requests about one consumer that one process has waiting, or parked."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from counterfoil.server.consumers.calls import Call, Token
from counterfoil.server.consumers.store import HandedOut
from counterfoil.server.core import limits, metrics
from counterfoil.server.core.errors import CounterfoilError
from counterfoil.server.log.follow import Watch


class Outcome(NamedTuple):
    """What became of one request.

    Attributes:
        status: claimed, done, replayed, key_reused or lost.
        lost: lost: the tokens of what is not held any more.
        lease_ends: of an extension.
        consumer: how the consumer stands: running, paused or stalled.
        changed_by: the event that made or changed the consumer last; 0 where nobody was asked.
    """

    status: str
    handed_out: HandedOut | None = None
    lost: Sequence[Token] = ()
    lease_ends: str | None = None
    consumer: str = "running"
    changed_by: int = 0


class Waiting:
    """One request between its caller and its answer.

    Attributes:
        call: as ``consume_v2`` takes it.
        wait_until: of a claim: until when it may be parked.
        left: tells whether whoever asks has gone.
        since: since when it waits for its turn.
        was_parked: whether it was; then it stands before those that came later.
    """

    __slots__ = ("call", "future", "left", "since", "timer", "wait_until", "was_parked")

    def __init__(
        self,
        call: Call,
        wait_until: float | None = None,
        left: Callable[[], bool] = lambda: False,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.call = call
        self.left = left
        self.wait_until = wait_until
        self.future: asyncio.Future[Outcome] = loop.create_future()
        self.timer: asyncio.TimerHandle | None = None
        self.since = loop.time()
        self.was_parked = False

    @classmethod
    def of_nobody(cls, call: Call) -> "Waiting":
        """A request whose answer nobody waits for, whatever it is."""
        waiting = cls(call)
        waiting.future.add_done_callback(lambda future: future.cancelled() or future.exception())
        return waiting

    @property
    def claims(self) -> bool:
        """Whether it may be handed something, and so may be parked."""
        return self.call.what == "claim"

    def answer(self, outcome: Outcome) -> bool:
        """False: nobody waits for it any more."""
        if self.future.done():
            return False
        self.future.set_result(outcome)
        return not self.left()

    def refuse(self, error: CounterfoilError) -> None:
        """Answer with an error, if somebody still waits."""
        if not self.future.done():
            self.future.set_exception(error)


class Lane:
    """The requests about one consumer, and the task that takes them to the database.

    Attributes:
        waiting: what goes to the database next.
        parked: claims that found nothing; those that have waited the longest stand first.
        news: whether those are to be tried again.
        others_to_tell: whether other processes are to hear of it, should it be enough for all here.
        due: whether something is, and is to be taken back by the next call.
        watch: who is told of what matches the consumer's query, as it stood after the event
            ``watched_as``.
        parked_at: when a claim was parked last.
        retried: whether claims that were parked are on their way to the database: they may find
            nothing again, and wait on.
        behind: whether claims went short although more is to be put out, so that a timer and not
            the log brings them back.
        stands, changed_by, frees: how the consumer stood at the last call; the event that had
            made or changed it last; whether what is done with may let others go. Before the
            first call nobody knows: it might.
        found: whether there was such a consumer.
    """

    def __init__(self, tenant_id: int, name: str) -> None:
        self.tenant_id = tenant_id
        self.name = name
        self.waiting: deque[Waiting] = deque()
        self.parked: OrderedDict[Waiting, None] = OrderedDict()
        self.news = False
        self.others_to_tell = False
        self.driver: asyncio.Task[None] | None = None
        self.watch: Watch | None = None
        self.watched_as = 0
        self.watching: asyncio.Task[None] | None = None
        self.parked_at = float("-inf")
        self.retried = False
        self.behind = False
        self.timer: asyncio.TimerHandle | None = None
        self.due_looked_at = float("-inf")
        self.due = False
        self.stands = "running"
        self.changed_by = 0
        self.frees = True
        self.found = True
        self.used_at = asyncio.get_running_loop().time()

    def put(self, waiting: Waiting) -> None:
        """Let it wait for its turn."""
        waiting.since = self.used_at = asyncio.get_running_loop().time()
        self.waiting.append(waiting)

    def park(self, claims: Sequence[Waiting]) -> None:
        """Let claims wait for news: those that did before in front, in their order."""
        metrics.PARKED_CLAIMS.inc(len(claims))
        for waiting in reversed([claim for claim in claims if claim.was_parked]):
            self.parked[waiting] = None
            self.parked.move_to_end(waiting, last=False)
        for waiting in claims:
            if not waiting.was_parked:
                waiting.was_parked = True
                self.parked[waiting] = None

    def unpark(self, waiting: Waiting) -> bool:
        """Let a claim wait for news no more. False: it did not."""
        if waiting not in self.parked:
            return False
        del self.parked[waiting]
        self.parked_at = asyncio.get_running_loop().time()
        metrics.PARKED_CLAIMS.dec()
        return True

    def next_group(self) -> list[Waiting]:
        """What goes into one call: where there is news, those that are parked first.

        They leave half of it to what else is waiting: who wants something must not keep others
        from giving back what that might be.
        """
        group: list[Waiting] = []
        whole, taken = limits.CLAIM_GROUP_DELIVERIES_MAX, 0
        if self.news:
            self.news = False
            share = 2 if self.waiting else 1
            while self.parked and len(group) < limits.CLAIM_GROUP_REQUESTS_MAX // share:
                waiting = next(iter(self.parked))
                if group and taken + waiting.call.size > whole // share:
                    break
                taken += waiting.call.size
                self.unpark(waiting)
                group.append(waiting)
        room = max(whole - taken, whole // 2)
        while self.waiting and len(group) < limits.CLAIM_GROUP_REQUESTS_MAX:
            waiting = self.waiting[0]
            if not waiting.future.done():
                room -= waiting.call.size
                if group and room < 0:
                    break
                group.append(waiting)
            self.waiting.popleft()
        self.retried = any(waiting.was_parked for waiting in group)
        return group

    def refuse_all(self, error: CounterfoilError) -> None:
        """Empty the lane."""
        for waiting in (*self.waiting, *self.parked):
            waiting.refuse(error)
        metrics.PARKED_CLAIMS.dec(len(self.parked))
        self.waiting.clear()
        self.parked.clear()

    @property
    def has_work(self) -> bool:
        """Whether something is to be taken to the database now."""
        return bool(self.waiting) or (self.news and bool(self.parked))

    @property
    def waits_for_the_log(self) -> bool:
        """Whether claims are parked that only something new can bring back."""
        return bool(self.parked) and not self.behind

    @property
    def waits_for_nothing(self) -> bool:
        """Whether no claim is parked, and none was that is being tried again."""
        return not (self.parked or self.retried)

    @property
    def is_empty(self) -> bool:
        """Whether nobody waits in it for anything, and nothing is under way."""
        return not (self.waiting or self.parked or self.driver or self.watching)
