"""What brings parked claims back that did not hear of it themselves.

A lane in which claims are parked has a *watch*: the feed of live readers tells it of each event
that matches the consumer's query, and of those about the consumer itself, from whichever process
they were written. And in case a ring was lost, every ``PARKED_LOOK_SECONDS`` one statement looks
for all the lanes of a tenant that wait for what others hold.

A watch costs each append of the book a look by this process. So a consumer that works off what is
there, and whose claims wait for nothing, has none.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec
import structlog

from counterfoil.server.consumers.effects import NO_CONSUMER
from counterfoil.server.consumers.lane import Lane
from counterfoil.server.consumers.store import ConsumerStore
from counterfoil.server.core import limits
from counterfoil.server.core.errors import ConsumerNotFound, Unavailable
from counterfoil.server.log.fields import OWN_TYPE_PREFIX
from counterfoil.server.log.operations import Log
from counterfoil.server.log.query import Item

_log = structlog.get_logger(__name__)

IDLE_SECONDS: Final = 30.0
"""How long a lane without any call is kept."""

UNPARKED_SECONDS: Final = 1.0
"""How long a watch is kept over a lane in which no claim is parked any more. To begin another takes
two statements and a call."""

BEGUN_AT_ONCE: Final = 4
"""Watches that begin at the same time. After a start thousands may, and others read too."""

Lanes = dict[tuple[int, str], Lane]


class Watching:
    """The watches over the lanes of one process.

    Args:
        lanes: all of them; those that nobody uses any more are taken out here.
        ring: called where the parked claims of a lane are to be tried again.
    """

    def __init__(
        self, log: Log, store: ConsumerStore, lanes: Lanes, ring: Callable[[Lane, bool], None]
    ) -> None:
        self._log = log
        self._store = store
        self._lanes = lanes
        self._ring = ring
        self._unfinished: dict[int, set[Lane]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._looking: asyncio.Task[None] | None = None
        self._at_once = asyncio.Semaphore(BEGUN_AT_ONCE)
        self._closed = False

    def start(self) -> None:
        """Look after the lanes from now on; calling it again changes nothing."""
        if self._looking is None and not self._closed:
            self._looking = asyncio.create_task(self._look_again(), name="consumer lanes")

    async def close(self) -> None:
        """Watch nothing any more."""
        self._closed = True
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        while self._tasks:
            await asyncio.wait(self._tasks)
        for lane in self._lanes.values():
            self.forget(lane)

    def keep(self, lane: Lane) -> None:
        """Claims are parked in this lane: see that it has a watch."""
        if self._closed or lane.watching is not None:
            return
        if lane.watch is None or lane.watch.ended:
            lane.watching = asyncio.create_task(
                self._watch(lane), name=f"consumer watch {lane.name}"
            )
            self._tasks.add(lane.watching)
            lane.watching.add_done_callback(self._tasks.discard)

    def forget(self, lane: Lane) -> None:
        """This lane needs no watch, or another."""
        if lane.watch is not None:
            lane.watch.leave()
            lane.watch = None

    def note(self, lane: Lane, *, unfinished: bool) -> None:
        """Keep, by tenant, which lanes wait for what others hold."""
        if unfinished:
            self._unfinished.setdefault(lane.tenant_id, set()).add(lane)
        elif (lanes := self._unfinished.get(lane.tenant_id)) is not None:
            lanes.discard(lane)
            if not lanes:
                del self._unfinished[lane.tenant_id]

    def remove(self, lane: Lane) -> None:
        """Let go of a lane that is empty."""
        self.forget(lane)
        self.note(lane, unfinished=False)
        if lane.timer is not None:
            lane.timer.cancel()
        if self._lanes.get((lane.tenant_id, lane.name)) is lane:
            del self._lanes[lane.tenant_id, lane.name]

    async def _watch(self, lane: Lane) -> None:
        """Be told of what matches the consumer's query from now on, and then look once more."""
        try:
            self.forget(lane)
            async with self._at_once:
                reading = await self._store.reading(lane.tenant_id, lane.name)
                if reading is None:
                    lane.refuse_all(ConsumerNotFound(NO_CONSUMER))
                    return
                lane.watch = await self._log.watch(
                    lane.tenant_id,
                    [*items_of(reading.query), about(lane.name)],
                    lambda: self._ring(lane, False),
                )
            # The query may have been changed meanwhile. Then the look that follows says so.
            lane.watched_as = reading.changed_by
            self._ring(lane, False)
        except Unavailable as error:
            # The next look after the lanes begins it anew.
            _log.info("a consumer's watch waits", reason=str(error))
        finally:
            lane.watching = None

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(limits.PARKED_LOOK_SECONDS)
            try:
                self._look_after_lanes()
                await self._look_for_work()
            except Unavailable as error:
                _log.info("a look for work waits", reason=str(error))
            except Exception:  # noqa: BLE001 - it goes on next time, and is logged
                _log.exception("a look for work failed")

    def _look_after_lanes(self) -> None:
        """See that those have a watch that need one, and let go of those that nobody uses."""
        now = asyncio.get_running_loop().time()
        for lane in tuple(self._lanes.values()):
            if lane.waits_for_the_log:
                self.keep(lane)
            elif lane.waits_for_nothing and now - lane.parked_at > UNPARKED_SECONDS:
                self.forget(lane)
            if lane.is_empty:
                self.note(lane, unfinished=False)
                if now - lane.used_at > IDLE_SECONDS:
                    self.remove(lane)

    async def _look_for_work(self) -> None:
        """Ask, for all parked claims of a tenant together, whether others have given back."""
        for tenant_id, lanes in tuple(self._unfinished.items()):
            by_name = {lane.name: lane for lane in lanes}
            for name in await self._store.with_work(tenant_id, tuple(by_name)):
                self._ring(by_name[name], True)


_items: Final[msgspec.json.Decoder[list[dict[str, Any]]]] = msgspec.json.Decoder(
    list[dict[str, list[str]]]
)


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
