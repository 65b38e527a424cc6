"""Group commit: many waiting appends, one call of the stored function, one flush to disk.

Theory of operation
-------------------
All appends of a tenant are serial in the database, and each commit costs a flush. So each
process puts what is waiting for a tenant into one call of ``append_v1`` and starts the
next as soon as the last returned: while one group is being flushed, the next gathers.
Nothing waits on purpose; an append that finds its lane idle starts at once, alone.

::

    request tasks      append() ──► lane (a queue) ──► driver (a task, owns a connection)
      hold a future  ◄───────────────────────────────  one group in flight at a time

* A lane is one tenant's; a group holds one tenant's appends; lanes run side by side.
* Order and checks are the database's. This module decides who shares a commit with whom,
  and nothing else; several processes do the same at once.
* A caller that is cancelled while it waits is dropped from the queue. Once its group was
  sent nothing can call it back: cancelling the statement would cancel everybody's, and a
  cancelled wait for a synchronous standby looks like success. So the driver is a task of
  its own, and callers hold futures.

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
import select
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

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
from counterfoil.server.log.store import AppendResult, Store

_log = structlog.get_logger(__name__)

_NO_ROOM: Final = "More appends are waiting than this service accepts. Try again shortly."
_WAITED_TOO_LONG: Final = (
    "The append waited too long for its turn and was taken back; nothing was written."
)
_NO_LOCK: Final = "The book was held by other writers for too long; nothing was written."
_NO_DATABASE: Final = "The database cannot be reached at the moment; nothing was written."
_STOPPING: Final = "This service is stopping; nothing was written."
_UNKNOWN: Final = (
    "The database did not say whether the append was written. Send it again with the same "
    "Idempotency-Key; without one, read before you write again."
)

# SQLSTATE classes that say "not now" of the whole group and nothing of its content:
# 25 invalid transaction state (a standby since a failover), 40 rolled back (deadlock),
# 53 out of resources, 55 not available, 57 operator intervention (a statement's time limit).
_NOT_NOW: Final = frozenset({"25", "40", "53", "55", "57"})


class _Waiting:
    """One append between its caller and its group."""

    __slots__ = ("future", "request", "timer")

    def __init__(self, request: AppendRequest, loop: asyncio.AbstractEventLoop) -> None:
        self.request = request
        self.future: asyncio.Future[AppendResult] = loop.create_future()
        self.timer = loop.call_later(
            limits.QUEUE_WAIT_SECONDS_MAX, self.refuse, Busy(_WAITED_TOO_LONG)
        )

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
    """The queue of one tenant, and the task that empties it."""

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
        grown: called as ``grown(tenant_id, head)`` after each group that wrote something.
    """

    def __init__(self, store: Store, pool: Pool, grown: Callable[[int, int], None]) -> None:
        self._store = store
        self._pool = pool
        self._grown = grown
        self._lanes: dict[int, _Lane] = {}
        self._stopping = False

    async def append(self, tenant_id: int, request: AppendRequest) -> AppendResult:
        """Hand in one append and wait for its outcome, refusals of its content included.

        Raises:
            Busy: the queue is full, the wait was too long, or the lock was not had.
            NotWritten: the database could not take it; it is certainly not written.
            OutcomeUnknown: it may be written or not.
        """
        if self._stopping:
            raise NotWritten(_STOPPING)
        lane = self._lanes.get(tenant_id)
        if lane is None:
            lane = self._lanes[tenant_id] = _Lane(tenant_id)
        if (
            len(lane.waiting) >= limits.QUEUE_REQUESTS_MAX
            or lane.waiting_bytes + request.size_bytes > limits.QUEUE_BYTES_MAX
        ):
            raise Busy(_NO_ROOM)
        waiting = _Waiting(request, asyncio.get_running_loop())
        lane.put(waiting)
        if lane.driver is None:
            lane.driver = asyncio.create_task(self._drive(lane), name=f"append lane {tenant_id}")
        return await waiting.future

    async def close(self) -> None:
        """Take nothing more, and finish what was accepted."""
        self._stopping = True
        drivers = [lane.driver for lane in self._lanes.values() if lane.driver is not None]
        await asyncio.gather(*drivers)

    async def _drive(self, lane: _Lane) -> None:
        """Commit group after group until the lane is empty."""
        try:
            while lane.waiting:
                try:
                    async with self._pool.connection() as connection:
                        while lane.waiting and _is_quiet(connection):
                            await self._commit(connection, lane.tenant_id, lane.next_group())
                        if lane.waiting:
                            await connection.close()
                except DatabaseUnavailable as error:
                    # Everybody who waits would wait for the same connection.
                    lane.refuse_all(NotWritten(f"{error} Nothing was written."))
        finally:
            lane.driver = None

    async def _commit(
        self, connection: Connection, tenant_id: int, group: Sequence[_Waiting]
    ) -> None:
        """Run one group and answer everyone in it; in halves where it fails as a whole."""
        if not group:
            return
        loop = asyncio.get_running_loop()
        give_up = loop.call_later(
            limits.APPEND_OUTCOME_SECONDS_MAX, _refuse, group, OutcomeUnknown(_UNKNOWN)
        )
        started = monotonic()
        try:
            results = await self._store.append(
                connection, tenant_id, [waiting.request.document for waiting in group]
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, every caller gets an answer
            refusal = _refusal(error, connection)
            if refusal is None and len(group) > 1:
                half = len(group) // 2
                await self._commit(connection, tenant_id, group[:half])
                await self._commit(connection, tenant_id, group[half:])
                return
            _log.error(
                "group failed",
                tenant_id=tenant_id,
                requests=len(group),
                sqlstate=getattr(error, "sqlstate", None),
                error=type(error).__name__,
            )
            _refuse(group, refusal or InvariantBroken("PostgreSQL refused a judged append"))
            return
        finally:
            give_up.cancel()
        metrics.GROUP_SECONDS.observe(monotonic() - started)
        metrics.GROUP_REQUESTS.observe(len(group))
        self._account(tenant_id, results)
        for waiting, result in zip(group, results, strict=True):
            waiting.answer(result)

    def _account(self, tenant_id: int, results: Sequence[AppendResult]) -> None:
        """Count what was stored, ring for it, and look at the clock."""
        stored = [result for result in results if result.status == "stored"]
        if stored:
            metrics.EVENTS_STORED.inc(sum(result.event_count for result in stored))
            self._grown(tenant_id, stored[-1].head)
        ahead = results[-1].clock_ahead_seconds
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
    if error.sqlstate[:2] in _NOT_NOW:
        return NotWritten(_NO_DATABASE)
    return None


def _is_quiet(connection: Connection) -> bool:
    """Whether an idle connection has nothing to say, without asking the server.

    A server that went away has left its farewell or an end of file in the socket. Sending
    an append down such a connection would make its outcome unknown for no reason.
    """
    if connection.closed:
        return False
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return not poll.poll(0)
