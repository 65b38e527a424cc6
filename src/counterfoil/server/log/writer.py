"""Group commit: many waiting appends, one call of the stored function, one flush to disk.

Theory of operation
-------------------
All appends of a tenant are serial in the database, and each commit costs a flush. So each
process puts what is waiting for a tenant into one call of ``append_v4`` and starts the
next as soon as the last returned: while one group is being flushed, the next gathers.
Nothing waits on purpose; an append that finds its lane idle starts at once, alone.

::

    request tasks      append() ──► lane (a queue) ──► driver (a task, owns a connection)
      hold a future  ◄───────────────────────────────  one group in flight at a time

* There are fewer connections than there may be busy lanes. While another driver waits for
  one, each gives its own back after every group, and the pool serves them in the order in
  which they asked: a tenant whose queue is never empty takes turns with all others.
* A lane is one tenant's; a group holds one tenant's appends; lanes run side by side. A
  tenant has a second lane for conditions that look far back: checking one may take long,
  before it comes to the lock, and that must not be everybody's wait.
* Order and checks are the database's. This module decides who shares a commit with whom,
  and nothing else; several processes do the same at once.
* A caller that is cancelled while it waits is dropped from the queue. Once its group was
  sent nothing can call it back: cancelling the statement would cancel everybody's, and a
  cancelled wait for a synchronous standby looks like success. So the driver is a task of
  its own, and callers hold futures.
* An append that hands in what it holds (consumers) may find a row of it locked by somebody else.
  Under the lock of the book nothing is waited for, so it comes back alone, unwritten, and goes
  to the end of the queue after a moment.
* A driver whose group is not answered in time is retired: its callers are told, the lane
  gets another driver, and the old one waits on by itself for what its connection brings.

What is known when the database fails
-------------------------------------
=============================================  ===================  =====================
what happened                                  what is certain      what the caller gets
=============================================  ===================  =====================
no connection was to be had                    nothing was sent     NotWritten
an error, and the connection still stands      rolled back          see ``_refusal``
the connection was lost, once sent             nothing              OutcomeUnknown
no answer in APPEND_OUTCOME_SECONDS_MAX        nothing              OutcomeUnknown
=============================================  ===================  =====================

The rule of the third row is deliberately blunt: a FATAL error can arrive after the commit
(the server was told to stop at that very moment), so whatever breaks the connection
leaves the outcome open. An append of unknown outcome is never sent again from here.
"""

import asyncio
import contextlib
import select
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from time import monotonic
from typing import Any, Final

import psycopg
import structlog

from counterfoil.server.core import limits, metrics
from counterfoil.server.core.errors import (
    Busy,
    CounterfoilError,
    DatabaseUnavailable,
    InvariantBroken,
    NotWritten,
    OutcomeUnknown,
)
from counterfoil.server.db.pool import Connection, Pool
from counterfoil.server.log.model import AppendRequest
from counterfoil.server.log.store import AppendResult, GroupResult, Store

_log = structlog.get_logger(__name__)

ROW_BUSY_SECONDS: Final = 0.005
"""How long an append that found a row locked waits before it is sent again: about as long as the
commit that holds the row takes."""

_NO_ROOM: Final = "More appends are waiting than this service accepts. Try again shortly."
_WAITED_TOO_LONG: Final = (
    "The append waited too long for its turn and was taken back; nothing was written."
)
_NO_LOCK: Final = "The book was held by other writers for too long; nothing was written."
_ROW_BUSY: Final = (
    "What this hands in was locked by others for too long; nothing was written. Try again shortly."
)
_TOO_SLOW: Final = (
    "The append took too long in the database; nothing was written. A condition that looks far "
    "back may be the reason: read again, and send its `after`."
)
_NO_DATABASE: Final = "The database cannot be reached at the moment; nothing was written."
_STOPPING: Final = "This service is stopping; nothing was written."
_UNKNOWN: Final = (
    "The database did not say whether the append was written. Send it again with the same "
    "Idempotency-Key; without one, read before you write again."
)

# SQLSTATE classes that say "not now" of the whole group and nothing of its content:
# 25 invalid transaction state (a standby since a failover), 40 rolled back (deadlock),
# 53 out of resources, 55 not available, 57 operator intervention.
_NOT_NOW: Final = frozenset({"25", "40", "53", "55", "57"})


class _Waiting:
    """One append between its caller and its group."""

    __slots__ = ("deadline", "future", "request", "timer")

    def __init__(self, request: AppendRequest, loop: asyncio.AbstractEventLoop) -> None:
        self.request = request
        self.future: asyncio.Future[AppendResult] = loop.create_future()
        self.deadline = loop.time() + limits.QUEUE_WAIT_SECONDS_MAX
        self.timer = loop.call_at(self.deadline, self.refuse, Busy(_WAITED_TOO_LONG))

    def wait_again(self) -> None:
        """Go back to the queue, unwritten, for as long as is left of the wait."""
        self.timer = self.future.get_loop().call_at(self.deadline, self.refuse, Busy(_ROW_BUSY))

    def send(self) -> bool:
        """Leave the queue for a group; False if the caller has gone or was given up."""
        self.timer.cancel()
        return not self.future.done()

    def answer(self, result: AppendResult) -> None:
        if not self.future.done():
            self.future.set_result(result)

    def refuse(self, error: CounterfoilError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class _Lane:
    """A queue of one tenant, and the task that empties it."""

    __slots__ = ("driver", "tenant_id", "waiting", "waiting_bytes")

    def __init__(self, tenant_id: int) -> None:
        self.tenant_id = tenant_id
        self.waiting: deque[_Waiting] = deque()
        self.waiting_bytes = 0
        self.driver: asyncio.Task[None] | None = None

    def put(self, waiting: _Waiting) -> None:
        self.waiting.append(waiting)
        self.waiting_bytes += waiting.request.size_bytes
        metrics.QUEUE_REQUESTS.inc()

    def next_group(self) -> list[_Waiting]:
        """Take from the front what fits into one call; who has gone meanwhile is dropped."""
        group: list[_Waiting] = []
        events = size_bytes = 0
        while self.waiting and len(group) < limits.GROUP_REQUESTS_MAX:
            request = self.waiting[0].request
            events += request.event_count
            size_bytes += request.size_bytes
            if group and (events > limits.GROUP_EVENTS_MAX or size_bytes > limits.GROUP_BYTES_MAX):
                break
            waiting = self.waiting.popleft()
            self.waiting_bytes -= request.size_bytes
            metrics.QUEUE_REQUESTS.dec()
            if waiting.send():
                group.append(waiting)
            else:
                events -= request.event_count
                size_bytes -= request.size_bytes
        return group

    def refuse_all(self, error: CounterfoilError) -> None:
        """Empty the queue, unwritten."""
        for waiting in self.waiting:
            waiting.timer.cancel()
            waiting.refuse(error)
        metrics.QUEUE_REQUESTS.dec(len(self.waiting))
        self.waiting.clear()
        self.waiting_bytes = 0


class GroupCommit:
    """The process's writer: takes appends, answers when they are committed or refused.

    Args:
        pool: where the drivers borrow their connections: one each while there is work.
        grown: called with the tenant's id after each group that wrote something.
    """

    def __init__(self, store: Store, pool: Pool, grown: Callable[[int, GroupResult], None]) -> None:
        self._store = store
        self._pool = pool
        self._grown = grown
        self._lanes: dict[tuple[int, bool], _Lane] = {}
        self._heads: dict[int, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._without_connection = 0

    async def append(self, tenant_id: int, request: AppendRequest) -> AppendResult:
        """Hand in one append and wait for its outcome, refusals of its content included.

        Raises:
            Busy: the queue is full, the wait was too long, or the lock was not had.
            NotWritten: the database could not take it; it is certainly not written.
            OutcomeUnknown: it may be written or not.
        """
        if self._stopping:
            raise NotWritten(_STOPPING)
        lane = self._lane(tenant_id, request)
        if (
            len(lane.waiting) >= limits.QUEUE_REQUESTS_MAX
            or lane.waiting_bytes + request.size_bytes > limits.QUEUE_BYTES_MAX
        ):
            raise Busy(_NO_ROOM)
        waiting = _Waiting(request, asyncio.get_running_loop())
        lane.put(waiting)
        if lane.driver is None:
            self._start_driver(lane)
        return await waiting.future

    async def close(self) -> None:
        """Take nothing more, and finish what was accepted."""
        self._stopping = True
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _lane(self, tenant_id: int, request: AppendRequest) -> _Lane:
        """The tenant's lane, or the one for conditions that look far back.

        How far is judged by the last head that this process has seen; where it has seen
        none yet, everything counts as near.
        """
        far = False
        if request.condition_after is not None:
            steps = (
                self._heads.get(tenant_id, 0) - request.condition_after
            ) * request.condition_values
            far = steps > limits.CONDITION_STEPS_MAX
        lane = self._lanes.get((tenant_id, far))
        if lane is None:
            lane = self._lanes[tenant_id, far] = _Lane(tenant_id)
        return lane

    def _start_driver(self, lane: _Lane) -> None:
        lane.driver = self._start(self._drive(lane), f"append lane {lane.tenant_id}")

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _come_back(self, lane: _Lane, waiting: _Waiting) -> None:
        """Put an append that found a row locked back into its queue, after a moment."""
        waiting.wait_again()
        await asyncio.sleep(ROW_BUSY_SECONDS)
        lane.put(waiting)
        if lane.driver is None:
            self._start_driver(lane)

    async def _drive(self, lane: _Lane) -> None:
        """Commit group after group until the lane is empty, or this driver is retired."""
        me = asyncio.current_task()
        try:
            while lane.waiting and lane.driver is me:
                try:
                    async with self._connection() as connection:
                        while lane.waiting and lane.driver is me:
                            if not is_quiet(connection):
                                await connection.close()
                                break
                            await self._commit(connection, lane, lane.next_group())
                            if self._without_connection:
                                break
                except DatabaseUnavailable as error:
                    # Everybody who waits would wait for the same connection.
                    if lane.driver is me:
                        lane.refuse_all(NotWritten(f"{error} Nothing was written."))
        except Exception:  # noqa: BLE001 - the lane lives on, and is logged
            # Nothing is known to end here; if something does, nobody waits in vain for it.
            _log.exception("append lane failed", tenant_id=lane.tenant_id)
            if lane.driver is me:
                lane.refuse_all(NotWritten(_NO_DATABASE))
        finally:
            if lane.driver is me:
                self._release(lane)

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """Borrow a connection, and be counted as waiting for it meanwhile."""
        async with contextlib.AsyncExitStack() as stack:
            self._without_connection += 1
            try:
                connection = await stack.enter_async_context(self._pool.connection())
            finally:
                self._without_connection -= 1
            yield connection

    def _retire(
        self, lane: _Lane, driver: asyncio.Task[None] | None, group: Sequence[_Waiting]
    ) -> None:
        """Give up on a group that was sent, and on the driver that waits for its answer."""
        _refuse(group, OutcomeUnknown(_UNKNOWN))
        if lane.driver is driver:
            self._release(lane)

    def _release(self, lane: _Lane) -> None:
        """Let go of the lane's driver; whoever waits still gets another."""
        lane.driver = None
        if lane.waiting:
            self._start_driver(lane)

    async def _commit(self, connection: Connection, lane: _Lane, group: Sequence[_Waiting]) -> None:
        """Run one group and answer everyone in it; in halves where it fails as a whole."""
        if not group:
            return
        give_up = asyncio.get_running_loop().call_later(
            limits.APPEND_OUTCOME_SECONDS_MAX, self._retire, lane, asyncio.current_task(), group
        )
        started = monotonic()
        try:
            result = await self._store.append(
                connection, lane.tenant_id, [waiting.request for waiting in group]
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, every caller gets an answer
            give_up.cancel()
            refusal = _refusal(error, connection)
            if refusal is None and len(group) > 1:
                half = len(group) // 2
                await self._commit(connection, lane, group[:half])
                await self._commit(connection, lane, group[half:])
                return
            _refuse(group, refusal or InvariantBroken("PostgreSQL refused a judged append"))
            _log.error(
                "group failed",
                tenant_id=lane.tenant_id,
                requests=len(group),
                sqlstate=getattr(error, "sqlstate", None),
                error=type(error).__name__,
            )
            return
        give_up.cancel()
        for waiting, answer in zip(group, result.requests, strict=True):
            if answer.status == "row_busy":
                _ = self._start(self._come_back(lane, waiting), f"append again {lane.tenant_id}")
            else:
                waiting.answer(answer)
        self._account(lane.tenant_id, result, seconds=monotonic() - started)

    def _account(self, tenant_id: int, result: GroupResult, *, seconds: float) -> None:
        """Count what was stored, tell of it, and look at the clock."""
        metrics.GROUP_SECONDS.observe(seconds)
        metrics.GROUP_REQUESTS.observe(len(result.requests))
        self._heads[tenant_id] = result.head
        statuses = Counter(answer.status for answer in result.requests)
        del statuses["row_busy"]
        for status, requests in statuses.items():
            metrics.APPENDS.labels(status if status in ("stored", "replayed") else "refused").inc(
                requests
            )
        events = sum(a.event_count for a in result.requests if a.status == "stored")
        if events:
            metrics.EVENTS_STORED.inc(events)
            self._grown(tenant_id, result)
        ahead = result.clock_ahead_seconds
        if ahead > limits.CLOCK_SKEW_SECONDS_ALARM:
            metrics.CLOCK_SKEW_ALARMS.inc()
            _log.warning(
                "the book's last time is ahead of the clock", tenant_id=tenant_id, seconds=ahead
            )


def _refuse(group: Sequence[_Waiting], error: CounterfoilError) -> None:
    for waiting in group:
        waiting.refuse(error)


def _refusal(error: Exception, connection: Connection) -> CounterfoilError | None:
    """What a failed group's callers get; None if one of its requests may be to blame."""
    # Only an error with a SQLSTATE is the server's word that it rolled back.
    if connection.closed or not isinstance(error, psycopg.Error) or error.sqlstate is None:
        return OutcomeUnknown(_UNKNOWN)
    if isinstance(error, psycopg.errors.LockNotAvailable):
        return Busy(_NO_LOCK)
    if isinstance(error, psycopg.errors.QueryCanceled):
        return NotWritten(_TOO_SLOW)
    if error.sqlstate[:2] in _NOT_NOW:
        return NotWritten(_NO_DATABASE)
    return None


def is_quiet(connection: Connection) -> bool:
    """Whether an idle connection has nothing to say, without asking the server.

    A server that went away has left its farewell or an end of file in the socket. Sending
    an append down such a connection would make its outcome unknown for no reason.
    """
    if connection.closed:
        return False
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return not poll.poll(0)
