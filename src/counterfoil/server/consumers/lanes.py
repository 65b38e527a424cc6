"""Lanes: how the calls about a consumer that one process has waiting share their way.

Theory of operation
-------------------
Whoever claims, acknowledges, extends or gives back hands a request in and holds a future. The
requests of one consumer stand in its *lane*; a driver takes what is there, up to
``CLAIM_GROUP_REQUESTS_MAX``, into one call of ``consume_v1``, and what comes meanwhile is the
next group: the same as ``log/writer.py`` does with appends, and for the same reason. Order, leases
and who gets what are the database's to say; several processes do the same at once.

A claim that finds nothing is *parked*, in memory: it costs no connection and no statement. What
brings it back is *news*:

* an event that matches the consumer's query, or one about the consumer itself (resumed, sought,
  changed, replayed): the feed of live readers tells, from whichever process it was written;
* something given back, or let go by an earlier event of its key: the call that did so tells, or
  the doorbell of the process in which it was made;
* a lease or a delay that is over: a timer, set by what the last call said;
* and in case a ring was lost: every ``PARKED_LOOK_SECONDS`` one statement for all the lanes of a
  tenant in which claims are parked and deliveries are out. A consumer with nothing out and nothing
  new is not asked about at all.

A claim whose caller has gone is dropped. What was handed out to it in that moment is given back.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, Final

import msgspec
import psycopg
import structlog

from counterfoil.server.consumers.effects import NO_CONSUMER
from counterfoil.server.consumers.lane import Lane, Outcome, Waiting
from counterfoil.server.consumers.model import Token
from counterfoil.server.consumers.store import Answer, Consumed, ConsumerStore, HandedOut
from counterfoil.server.core import limits, metrics
from counterfoil.server.core.errors import (
    Busy,
    ConsumerNotFound,
    CounterfoilError,
    DatabaseUnavailable,
    InvariantBroken,
    NotWritten,
    OutcomeUnknown,
    Unavailable,
)
from counterfoil.server.core.shares import Shares
from counterfoil.server.db.pool import Connection, Pool
from counterfoil.server.log.fields import OWN_TYPE_PREFIX
from counterfoil.server.log.operations import Log
from counterfoil.server.log.query import Item
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

IDLE_SECONDS: Final = 30.0
"""How long a lane without any call is kept, and with it its watch."""


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
        self._unfinished: dict[int, set[Lane]] = {}
        self._places = Shares(
            limits.PARKED_CLAIMS_MAX, own_taken=_OWN_PARKED, all_taken=_ALL_PARKED
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._looking: asyncio.Task[None] | None = None
        self._closing = False
        self._stopped = False
        log.heard_of_consumers = self._heard

    async def call(
        self, tenant_id: int, name: str, document: dict[str, Any], *, wait_seconds: float = 0
    ) -> Outcome:
        """Hand in one request and wait for its outcome.

        Args:
            document: as ``consume_v1`` takes it.
            wait_seconds: of a claim: how long it may be parked.

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
        waiting = Waiting(document, wait_until)
        held = 0
        if wait_until is not None:
            self._places.take(tenant_id, 1)
            held = 1
        try:
            lane.used_at = loop.time()
            if wait_until is not None:
                waiting.timer = loop.call_at(wait_until, self._give_up, lane, waiting)
            lane.waiting.append(waiting)
            self._drive(lane)
            return await waiting.future
        finally:
            if waiting.timer is not None:
                waiting.timer.cancel()
            lane.parked.pop(waiting, None)
            lane.used_at = loop.time()
            if held:
                self._places.give_back(tenant_id, 1)

    def news(self, tenant_id: int, name: str) -> None:
        """A consumer has something ready, or has changed; tell the other processes too."""
        self._rang(tenant_id, name)
        self._log.ring_consumer(tenant_id, name)

    def look_for_due(self, tenant_id: int, name: str) -> None:
        """Take back what is due, though nobody may be claiming."""
        lane = self._lane(tenant_id, name)
        if not self._stopped and not lane.has_work:
            lane.due = True
            # A claim for nothing: whoever is parked is served in the same call.
            document = {"call": "extend", "principal": "", "tokens": []}
            lane.waiting.append(Waiting(document, None))
            self._ring(lane)
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
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        for lane in self._lanes.values():
            if lane.timer is not None:
                lane.timer.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)
        for lane in self._lanes.values():
            if lane.watch is not None:
                lane.watch.leave()

    # --- News -------------------------------------------------------------------------

    def _heard(self, tenant_id: int, name: str | None) -> None:
        """The doorbell rang; a book that has grown may have freed keys, by what was handed in."""
        if name is not None:
            self._rang(tenant_id, name)
            return
        for lane in self._unfinished.get(tenant_id, ()):
            if lane.parked:
                self._ring(lane)

    def _rang(self, tenant_id: int, name: str) -> None:
        lane = self._lanes.get((tenant_id, name))
        if lane is not None:
            self._ring(lane)

    def _ring(self, lane: Lane, *, due: bool = False) -> None:
        lane.news = True
        lane.due = lane.due or due
        if lane.parked:
            self._drive(lane)

    def _give_up(self, lane: Lane, waiting: Waiting) -> None:
        """A claim's wait is over. One that is on its way to the database waits for that."""
        if waiting in lane.parked:
            del lane.parked[waiting]
            waiting.answer(Outcome("claimed"))

    # --- Driving ----------------------------------------------------------------------

    def _lane(self, tenant_id: int, name: str) -> Lane:
        lane = self._lanes.get((tenant_id, name))
        if lane is None:
            lane = self._lanes[tenant_id, name] = Lane(tenant_id, name)
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
                if group:
                    await self._serve(lane, group)
        except Exception:  # noqa: BLE001 - the lane lives on, and is logged
            _log.exception("consumer lane failed", tenant_id=lane.tenant_id)
            lane.refuse_all(NotWritten(_NO_DATABASE))
        finally:
            lane.driver = None
            if lane.parked:
                self._keep_watch(lane)
            self._drive(lane)

    async def _serve(self, lane: Lane, group: Sequence[Waiting]) -> None:
        """Run one group, and answer or park everyone in it."""
        now = asyncio.get_running_loop().time()
        look_for_due = lane.due or now - lane.due_looked_at >= limits.DUE_LOOK_SECONDS
        try:
            consumed = await self._consumed(lane, group, look_for_due=look_for_due)
        except CounterfoilError as error:
            for waiting in group:
                waiting.refuse(error)
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
        if look_for_due:
            lane.due, lane.due_looked_at = False, now
        if consumed.told.status == "not_found":
            for waiting in group:
                waiting.refuse(ConsumerNotFound(NO_CONSUMER))
            return
        self._settle(lane, group, consumed)

    async def _consumed(
        self, lane: Lane, group: Sequence[Waiting], *, look_for_due: bool
    ) -> Consumed:
        """Run a group. Raises ``psycopg.Error`` where one of its requests may be to blame."""
        documents = [waiting.document for waiting in group]
        try:
            async with self._connection() as connection:
                try:
                    async with asyncio.timeout(limits.READ_SECONDS_MAX):
                        return await self._store.consume(
                            connection,
                            lane.tenant_id,
                            lane.name,
                            documents,
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
        told = consumed.told
        now = asyncio.get_running_loop().time()
        parked = False
        for nth, waiting in enumerate(group):
            answer = told.answers.get(str(nth))
            deliveries = consumed.deliveries.get(nth, [])
            if answer is not None and answer.status == "again":
                lane.waiting.append(waiting)
            elif answer is not None and not (waiting.claims and answer.status == "done"):
                self._answer(lane, waiting, deliveries, consumed, answer)
            elif deliveries or not self._may_wait(waiting, now):
                self._answer(lane, waiting, deliveries, consumed, Answer("claimed"))
            else:
                # What it was to acknowledge is acknowledged; from here on it only claims.
                waiting.document["tokens"] = []
                lane.parked[waiting] = None
                parked = True
        self._note_unfinished(lane, unfinished=told.unfinished and bool(lane.parked))
        if told.changed_by != lane.changed_by:
            lane.changed_by = told.changed_by
            self._forget_watch(lane)
        if told.exhausted:
            self.exhausted(lane.tenant_id, lane.name)
        if told.freed:
            if lane.parked:
                lane.news = True
            else:
                self._log.ring_consumer(lane.tenant_id, lane.name)
        if parked:
            self._set_timer(lane, consumed)

    def _note_unfinished(self, lane: Lane, *, unfinished: bool) -> None:
        """Keep by tenant which lanes wait for what others hold: asked at every append."""
        if unfinished:
            self._unfinished.setdefault(lane.tenant_id, set()).add(lane)
        elif (lanes := self._unfinished.get(lane.tenant_id)) is not None:
            lanes.discard(lane)
            if not lanes:
                del self._unfinished[lane.tenant_id]

    def _may_wait(self, waiting: Waiting, now: float) -> bool:
        return (
            waiting.wait_until is not None
            and waiting.wait_until > now
            and not (self._closing or waiting.future.done())
        )

    def _answer(
        self,
        lane: Lane,
        waiting: Waiting,
        deliveries: Sequence[HandedOut],
        consumed: Consumed,
        answer: Answer,
    ) -> None:
        told = consumed.told
        outcome = Outcome(
            status="claimed" if waiting.claims and answer.status == "replayed" else answer.status,
            deliveries=deliveries,
            generation=told.generation,
            lost=[Token(*lost) for lost in answer.lost],
            lease_ends=answer.lease_ends,
            paused=told.paused,
            changed_by=told.changed_by,
        )
        call = waiting.document["call"]
        if outcome.status in {"claimed", "done"}:
            metrics.DELIVERIES.labels(call).inc(
                len(deliveries) if waiting.claims else len(waiting.document["tokens"])
            )
        if not waiting.answer(outcome) and deliveries and answer.status == "claimed":
            # Whoever asked has gone: nobody would work on it until the lease ends.
            document = {
                "call": "release",
                "principal": waiting.document["principal"],
                "tokens": [
                    Token(told.generation, delivery.position, delivery.attempt)
                    for delivery in deliveries
                ],
            }
            lane.waiting.append(Waiting(document, None))

    def _set_timer(self, lane: Lane, consumed: Consumed) -> None:
        """Come again when something is due, or soon where more is to be put out."""
        told = consumed.told
        seconds = told.next_due_seconds
        due = seconds is not None
        if told.behind and not told.paused:
            seconds, due = limits.BEHIND_SECONDS, False
        if lane.timer is not None:
            lane.timer.cancel()
            lane.timer = None
        if seconds is not None:
            loop = asyncio.get_running_loop()
            lane.timer = loop.call_later(
                max(seconds, limits.BEHIND_SECONDS), lambda: self._ring(lane, due=due)
            )

    # --- Watching ---------------------------------------------------------------------

    def _keep_watch(self, lane: Lane) -> None:
        if self._stopped:
            return
        if lane.watching is None and (lane.watch is None or lane.watch.ended):
            lane.watching = self._start(self._watch(lane), f"consumer watch {lane.name}")
        if self._looking is None:
            self._looking = asyncio.create_task(self._look(), name="parked claims")

    async def _watch(self, lane: Lane) -> None:
        """Be told of what matches the consumer's query from now on, and then look once more."""
        try:
            self._forget_watch(lane)
            reading = await self._store.reading(lane.tenant_id, lane.name)
            if reading is None:
                lane.refuse_all(ConsumerNotFound(NO_CONSUMER))
                return
            lane.changed_by = reading.changed_by
            lane.watch = await self._log.watch(
                lane.tenant_id,
                [*items_of(reading.query), about(lane.name)],
                lambda: self._ring(lane),
            )
        except Unavailable as error:
            _log.info("a consumer's watch waits", reason=str(error))
        finally:
            lane.watching = None
            self._ring(lane)

    def _forget_watch(self, lane: Lane) -> None:
        if lane.watch is not None:
            lane.watch.leave()
            lane.watch = None

    async def _look(self) -> None:
        """Ask, for all parked claims together, whether others have given something back."""
        while True:
            await asyncio.sleep(limits.PARKED_LOOK_SECONDS)
            now = asyncio.get_running_loop().time()
            for key, lane in tuple(self._lanes.items()):
                if lane.parked:
                    if lane.watch is None or lane.watch.ended:
                        self._keep_watch(lane)
                elif not (lane.waiting or lane.driver or lane.watching):
                    self._note_unfinished(lane, unfinished=False)
                    if now - lane.used_at > IDLE_SECONDS:
                        self._forget_watch(lane)
                        del self._lanes[key]
            for tenant_id, lanes in tuple(self._unfinished.items()):
                with contextlib.suppress(Unavailable):
                    names = await self._store.with_work(tenant_id, [lane.name for lane in lanes])
                    for name in names:
                        lane = self._lanes[tenant_id, name]
                        self._ring(lane, due=True)


# As log/writer.py has them: errors that say "not now", and nothing of what was asked.
_NOT_NOW: Final = frozenset({"25", "40", "53", "55", "57"})

_items: Final = msgspec.json.Decoder(list[dict[str, list[str]]])


def _nobody_sweeps(_tenant_id: int, _name: str) -> None:
    pass


def items_of(query: str) -> list[Item]:
    """The items of a stored query."""
    return [
        Item(**{name: frozenset(values) for name, values in item.items()})
        for item in _items.decode(query)
    ]


def about(name: str) -> Item:
    """What the service writes about a consumer itself."""
    types: Iterable[str] = (
        *("consumer_changed", "consumer_paused", "consumer_resumed", "consumer_sought"),
        *("consumer_deleted", "dead_letters_replayed", "dead_letters_dropped"),
        "delivery_set_aside",
    )
    return Item(
        types=frozenset(f"{OWN_TYPE_PREFIX}{what}" for what in types),
        tags=frozenset({f"consumer:{name}"}),
    )
