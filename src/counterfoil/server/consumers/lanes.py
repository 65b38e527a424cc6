"""Lanes: how the calls about a consumer that one process has waiting share their way.

Theory of operation
-------------------
Whoever claims, acknowledges, extends or gives back hands a request in and holds a future. The
requests of one consumer stand in its *lane*; a driver takes what is there, up to
``CLAIM_GROUP_REQUESTS_MAX``, into one call of ``consume_v2``, and what comes meanwhile is the
next group: the same as ``log/writer.py`` does with appends, and for the same reason. Order, leases
and who gets what are the database's to say; several processes do the same at once.

A claim that finds nothing is *parked*, in memory: it costs no connection and no statement. What
brings it back is *news*:

* an event that matches the consumer's query, or one about the consumer itself (resumed, sought,
  changed, replayed): the feed of live readers tells, from whichever process it was written;
* something given back, let go by an earlier event of its key, or room in flight: the call that
  made it so tells, or the doorbell of the process in which that was made;
* a lease or a delay that is over: a timer, set by what the last call said;
* and in case a ring was lost: every ``PARKED_LOOK_SECONDS`` one statement for all the lanes of a
  tenant in which claims are parked and deliveries are out (``watching.py``). A consumer with
  nothing out and nothing new is not asked about at all.

With news come as many of the parked claims as fit into one call, those first that have waited the
longest. If one of them goes short there is nothing left for those behind it, and they wait on;
only if none does are the next ones tried.

A claim whose caller has gone is dropped. What was handed out to it in that moment is given back.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

import psycopg
import structlog

from counterfoil.server.consumers.calls import Call, Token
from counterfoil.server.consumers.effects import NO_CONSUMER
from counterfoil.server.consumers.lane import Lane, Outcome, Waiting
from counterfoil.server.consumers.places import Places
from counterfoil.server.consumers.store import Consumed, ConsumerStore
from counterfoil.server.consumers.watching import Watching
from counterfoil.server.core import limits, metrics
from counterfoil.server.core.errors import (
    Busy,
    ConsumerNotFound,
    CounterfoilError,
    DatabaseUnavailable,
    InvariantBroken,
    NotWritten,
    OutcomeUnknown,
)
from counterfoil.server.core.shares import Shares
from counterfoil.server.db.pool import Connection, Pool
from counterfoil.server.log.operations import Log
from counterfoil.server.log.writer import is_quiet

_log = structlog.get_logger(__name__)

_NO_ROOM: Final = "More calls about this consumer are waiting than the service accepts."
_STOPPING: Final = "This service is stopping; nothing was done."
_NO_DATABASE: Final = "The database cannot be reached at the moment; nothing was done."
_NO_LOCK: Final = "What this names was held by others for too long; nothing was done."
_UNKNOWN: Final = (
    "The database did not say whether this was done. Send it again with the same Idempotency-Key."
)
_OWN_PARKED: Final = "This tenant has as many waiting claims as it may have here."
_ALL_PARKED: Final = "This process holds no more waiting claims now."
_WAITED_TOO_LONG: Final = "This waited too long for its turn and was taken back; nothing was done."
_NO_PLACE: Final = "More consumers of this tenant are busy than can be served in time."


class Lanes:
    """The lanes of one process.

    Args:
        pool: where drivers borrow a connection for each call.
    """

    def __init__(self, log: Log, store: ConsumerStore, pool: Pool) -> None:
        self.exhausted: Callable[[int, str], None] = _nobody_sweeps
        """Called with tenant and name where something is to be set aside."""
        self._log = log
        self._store = store
        self._pool = pool
        self._lanes: dict[tuple[int, str], Lane] = {}
        self._watching = Watching(log, store, self._lanes, self._ring)
        self._parked = Shares(
            limits.PARKED_CLAIMS_MAX, own_taken=_OWN_PARKED, all_taken=_ALL_PARKED
        )
        self._places = Places(pool.size_max, tenant_max=max(1, pool.size_max - 1))
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._stopped = False
        log.heard_of_consumers = self._rang

    async def call(
        self,
        tenant_id: int,
        name: str,
        call: Call,
        *,
        wait_seconds: float = 0,
        left: Callable[[], bool] = lambda: False,
    ) -> Outcome:
        """Hand in one request and wait for its outcome.

        Args:
            call: as ``consume_v2`` takes it.
            wait_seconds: of a claim: how long it may be parked.
            left: tells whether whoever asks has gone: then what it was handed is given back.

        Raises:
            ConsumerNotFound
            Busy: too many are waiting, or what it names is locked by others.
            NotWritten: the database cannot be reached; nothing was done.
            OutcomeUnknown: it may be done or not; only the same key can tell.
        """
        if self._stopped:
            raise NotWritten(_STOPPING)
        loop = asyncio.get_running_loop()
        lane = self._lane(tenant_id, name)
        if len(lane.waiting) >= limits.CONSUMER_QUEUE_REQUESTS_MAX:
            raise Busy(_NO_ROOM)
        wait_until = loop.time() + wait_seconds if wait_seconds else None
        waiting = Waiting(call, wait_until, left)
        if wait_until is not None:
            self._parked.take(tenant_id, 1)
            waiting.timer = loop.call_at(wait_until, self._give_up, lane, waiting)
        try:
            lane.put(waiting)
            self._drive(lane)
            return await waiting.future
        finally:
            lane.unpark(waiting)
            lane.used_at = loop.time()
            if waiting.timer is not None:
                waiting.timer.cancel()
                self._parked.give_back(tenant_id, 1)

    def news(self, tenant_id: int, name: str) -> None:
        """A consumer has something ready, or has changed.

        Those who wait here are tried first. The other processes are told where nobody does, or
        where there is enough for everybody here.
        """
        lane = self._lanes.get((tenant_id, name))
        if lane is None or not lane.parked:
            self._log.ring_consumer(tenant_id, name)
        if lane is not None:
            lane.others_to_tell = bool(lane.parked)
            self._ring(lane, False)

    def handed_in(self, tenant_id: int, name: str) -> None:
        """An append has taken something out of its holder's hands."""
        lane = self._lanes.get((tenant_id, name))
        if lane is None or lane.frees:
            self.news(tenant_id, name)

    def look_for_due(self, tenant_id: int, name: str) -> None:
        """Take back what is due, though nobody may be claiming."""
        lane = self._lane(tenant_id, name)
        if not self._stopped and not lane.has_work:
            lane.put(Waiting.of_nobody(_NOTHING))
            self._ring(lane, True)
            self._drive(lane)

    def closing(self) -> None:
        """The process is about to stop: answer what is parked, with nothing."""
        self._closing = True
        for lane in self._lanes.values():
            for parked in tuple(lane.parked):
                self._give_up(lane, parked)

    async def close(self) -> None:
        """Take nothing more, and finish what was accepted."""
        self.closing()
        self._stopped = True
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self._watching.close()
        for lane in self._lanes.values():
            if lane.timer is not None:
                lane.timer.cancel()

    # --- News -------------------------------------------------------------------------

    def _rang(self, tenant_id: int, name: str) -> None:
        lane = self._lanes.get((tenant_id, name))
        if lane is not None:
            self._ring(lane, False)

    def _ring(self, lane: Lane, due: bool) -> None:
        lane.news = True
        # Only the call that follows can say so again; should it fail, the log brings them back.
        lane.behind = False
        lane.due = lane.due or due
        if lane.parked:
            self._drive(lane)

    def _give_up(self, lane: Lane, waiting: Waiting) -> None:
        """A claim's wait is over. One that is on its way to the database waits for that."""
        if lane.unpark(waiting):
            waiting.answer(Outcome("claimed", consumer=lane.stands, changed_by=lane.changed_by))

    # --- Driving ----------------------------------------------------------------------

    def _lane(self, tenant_id: int, name: str) -> Lane:
        lane = self._lanes.get((tenant_id, name))
        if lane is None:
            lane = self._lanes[tenant_id, name] = Lane(tenant_id, name)
            self._watching.start()
        return lane

    def _start(self, work: Any, name: str) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _drive(self, lane: Lane) -> None:
        if lane.driver is None and lane.has_work:
            lane.driver = self._start(self._run(lane), f"consumer lane {lane.name}")

    async def _run(self, lane: Lane) -> None:
        """Take group after group to the database until nothing is left to do."""
        try:
            while lane.has_work:
                group = lane.next_group()
                if group := self._in_time(group):
                    await self._serve(lane, group)
        except Exception:  # noqa: BLE001 - the lane lives on, and is logged
            _log.exception("consumer lane failed", tenant_id=lane.tenant_id)
            lane.refuse_all(NotWritten(_NO_DATABASE))
        finally:
            lane.driver, lane.retried = None, False
            if lane.waits_for_the_log:
                self._watching.keep(lane)
            elif lane.is_empty and not lane.found:
                # Whoever asks for names that nobody has must not fill the memory with them.
                self._watching.remove(lane)
            self._drive(lane)

    def _in_time(self, group: Sequence[Waiting]) -> list[Waiting]:
        """Those of a group that have not waited too long; the others are told so."""
        since = asyncio.get_running_loop().time() - limits.QUEUE_WAIT_SECONDS_MAX
        late = [waiting for waiting in group if waiting.since < since and not waiting.was_parked]
        for waiting in late:
            waiting.refuse(Busy(_WAITED_TOO_LONG))
        return [waiting for waiting in group if waiting not in late] if late else list(group)

    async def _serve(self, lane: Lane, group: Sequence[Waiting]) -> None:
        """Run one group, and answer or park everyone in it."""
        now = asyncio.get_running_loop().time()
        look_for_due = lane.due or now - lane.due_looked_at >= limits.DUE_LOOK_SECONDS
        try:
            consumed = await self._consumed(lane, group, look_for_due=look_for_due)
        except CounterfoilError as error:
            _refuse(group, error)
            return
        except psycopg.Error as error:
            if len(group) > 1:
                half = len(group) // 2
                await self._serve(lane, group[:half])
                await self._serve(lane, group[half:])
                return
            _log.error("consumer group failed", sqlstate=error.sqlstate, name=lane.name)
            group[0].refuse(InvariantBroken("PostgreSQL refused a judged request"))
            return
        except Exception:  # noqa: BLE001 - whatever it is, every caller gets an answer
            _log.exception("consumer group failed", name=lane.name)
            _refuse(group, OutcomeUnknown(_UNKNOWN))
            return
        if look_for_due:
            lane.due, lane.due_looked_at = False, now
        lane.found = consumed.told.status == "found"
        if lane.found:
            self._settle(lane, group, consumed)
        else:
            _refuse(group, ConsumerNotFound(NO_CONSUMER))
            parked = tuple(waiting for waiting in tuple(lane.parked) if lane.unpark(waiting))
            _refuse(parked, ConsumerNotFound(NO_CONSUMER))

    async def _consumed(
        self, lane: Lane, group: Sequence[Waiting], *, look_for_due: bool
    ) -> Consumed:
        """Run a group. Raises ``psycopg.Error`` where one of its requests may be to blame."""
        calls = [waiting.call for waiting in group]
        try:
            async with (
                self._places.place(lane.tenant_id, seconds_max=_patience(group)),
                self._connection() as connection,
            ):
                try:
                    async with asyncio.timeout(limits.READ_SECONDS_MAX):
                        return await self._store.consume(
                            connection,
                            lane.tenant_id,
                            lane.name,
                            calls,
                            look_for_due=look_for_due,
                        )
                except psycopg.errors.LockNotAvailable as error:
                    raise Busy(_NO_LOCK) from error
                except psycopg.Error as error:
                    if connection.closed or error.sqlstate is None:
                        raise OutcomeUnknown(_UNKNOWN) from error
                    if error.sqlstate[:2] in _NOT_NOW:
                        raise NotWritten(_NO_DATABASE) from error
                    raise
                except TimeoutError as error:
                    raise OutcomeUnknown(_UNKNOWN) from error
        except DatabaseUnavailable as error:
            raise NotWritten(f"{error} Nothing was done.") from error
        except TimeoutError as error:
            raise Busy(_NO_PLACE) from error

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """Borrow a connection; of those that died with a server before, none."""
        for _ in range(self._pool.size_max + 1):
            async with self._pool.connection() as connection:
                if is_quiet(connection):
                    yield connection
                    return
                await connection.close()
        raise NotWritten(_NO_DATABASE)

    def _settle(self, lane: Lane, group: Sequence[Waiting], consumed: Consumed) -> None:
        """Answer or park everyone in a group, and see to what else its call has told."""
        told = consumed.told
        lane.stands, lane.changed_by, lane.frees = told.stands, told.changed_by, told.frees
        if lane.watch is not None and told.changed_by != lane.watched_as:
            self._watching.forget(lane)
        went_short = [
            waiting
            for nth, waiting in enumerate(group)
            if not self._settled(lane, waiting, nth, consumed)
        ]
        lane.park(went_short)
        if went_short:
            # Nothing is left; and only such a call says what those who wait, wait for.
            lane.others_to_tell = False
            lane.behind = told.behind and not told.paused
            self._watching.note(lane, unfinished=told.unfinished)
            self._set_timer(lane, consumed)
        elif not lane.parked:
            self._watching.note(lane, unfinished=False)
        elif any(waiting.was_parked for waiting in group):
            lane.news = True
        if told.freed and lane.parked:
            lane.news = lane.others_to_tell = True
        elif told.freed or (lane.others_to_tell and not lane.parked):
            self._log.ring_consumer(lane.tenant_id, lane.name)
            lane.others_to_tell = False
        if told.exhausted:
            self.exhausted(lane.tenant_id, lane.name)

    def _settled(self, lane: Lane, waiting: Waiting, nth: int, consumed: Consumed) -> bool:
        """Answer one of a group. False: it is a claim that found nothing, and waits on."""
        status = consumed.told.statuses[nth]
        if status == "again":
            lane.put(waiting)
            return True
        if waiting.claims and status == "done":
            # What it was to acknowledge is acknowledged; from here on it only claims.
            metrics.DELIVERIES.labels("ack").inc(len(waiting.call.tokens))
            waiting.call = waiting.call._replace(tokens=())
            status = "acknowledged"
        if status == "acknowledged":
            status = None
        if status is None and nth not in consumed.handed_out and self._may_wait(waiting):
            return False
        self._answer(lane, waiting, nth, consumed, status or "claimed")
        return True

    def _may_wait(self, waiting: Waiting) -> bool:
        return (
            waiting.wait_until is not None
            and waiting.wait_until > asyncio.get_running_loop().time()
            and not (self._closing or waiting.future.done())
        )

    def _answer(
        self, lane: Lane, waiting: Waiting, nth: int, consumed: Consumed, status: str
    ) -> None:
        told, call = consumed.told, waiting.call
        handed_out = consumed.handed_out.get(nth)
        outcome = Outcome(
            status="claimed" if waiting.claims and status == "replayed" else status,
            handed_out=handed_out,
            lost=[Token(*lost) for lost in told.lost.get(str(nth), ())],
            lease_ends=told.lease_ends.get(str(nth)),
            consumer=told.stands,
            changed_by=told.changed_by,
        )
        if status in {"claimed", "done"}:
            taken = handed_out.number if handed_out is not None else 0
            metrics.DELIVERIES.labels(call.what).inc(taken if waiting.claims else len(call.tokens))
        if not waiting.answer(outcome) and handed_out is not None and status == "claimed":
            # Whoever asked has gone: nobody would work on it until the lease ends.
            lane.put(
                Waiting.of_nobody(
                    Call("give_back", call.principal, handed_out.tokens(), more=call.more)
                )
            )

    def _set_timer(self, lane: Lane, consumed: Consumed) -> None:
        """Come again when something is due, or soon where more is to be put out."""
        told = consumed.told
        seconds = told.next_due_seconds
        due = seconds is not None
        if lane.behind:
            seconds, due = limits.BEHIND_SECONDS, False
        elif told.held_back == "full" and (seconds is None or seconds > limits.PARKED_LOOK_SECONDS):
            # Nobody tells when there is room again.
            seconds, due = limits.PARKED_LOOK_SECONDS, True
        if lane.timer is not None:
            lane.timer.cancel()
            lane.timer = None
        if seconds is not None:
            loop = asyncio.get_running_loop()
            lane.timer = loop.call_later(max(seconds, limits.BEHIND_SECONDS), self._ring, lane, due)


_NOTHING: Final = Call("extend", "")
"""A call for nothing: what is due is taken back with it, and whoever is parked is served."""

# As log/writer.py has them: errors that say "not now", and nothing of what was asked.
_NOT_NOW: Final = frozenset({"25", "40", "53", "55", "57"})


def _patience(group: Sequence[Waiting]) -> float:
    """How long a group may wait for a place in the database, in seconds.

    Claims that wait anyway wait for that too: after a start, everybody's come at once.
    """
    now = asyncio.get_running_loop().time()
    return max(
        limits.QUEUE_WAIT_SECONDS_MAX,
        min(0 if one.wait_until is None else one.wait_until - now for one in group),
    )


def _refuse(group: Sequence[Waiting], error: CounterfoilError) -> None:
    for waiting in group:
        waiting.refuse(error)


def _nobody_sweeps(_tenant_id: int, _name: str) -> None:
    pass
