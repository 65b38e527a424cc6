"""Live readers: what is new is read once and handed to everyone whose query matches.

Theory of operation
-------------------
A *feed* is one task for each book that has live readers in this process. It learns of a
new head (a doorbell, or a look every ``STREAM_POLL_SECONDS``), reads the events above its
own position once, and offers each to the *streams* that have joined it and that it may
concern. Those it finds by what their queries ask, so that an event costs what it concerns
and not what is subscribed.

A stream is one reader. It is in one of two states:

======== ==========================================================================
behind   it reads the table from its position, page by page, at its reader's pace
joined   it stands where the feed stands or ahead of it, and takes what is offered
======== ==========================================================================

* behind → joined: when it has read to its end and its position is not below the feed's.
  That is decided and done without an ``await`` in between, so that no event can be fed
  after the question and before the joining. What is offered at or below its position is
  passed over: no gap, and nothing twice.
* joined → behind: when its reader is slow and the buffer is full. What is in the buffer
  is still delivered; then it goes on from the table. Nobody waits for a slow reader, and
  memory is bounded whatever it does.

A stream with a payload filter never joins: containment is PostgreSQL's to judge. It reads
the table whenever the feed has moved.

A waiting stream holds no connection and no transaction. Positions are gapless and final
(promise P2), which is why ``position > cursor`` is all that any of this needs.
"""

import asyncio
import contextlib
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

import structlog

from counterfoil.server.core import limits, metrics
from counterfoil.server.core.errors import AfterAboveHead, BookRestored, Busy, Unavailable
from counterfoil.server.core.shares import Shares
from counterfoil.server.log.query import Item, Lead, ReadRequest, leads_of, leads_to, matches
from counterfoil.server.log.store import FedEvent, Head, Store

_log = structlog.get_logger(__name__)


class StreamItem(NamedTuple):
    """What a live reader gets: an event's text, or None to say how far it has read.

    ``position`` is where a reader that breaks off here should go on.
    """

    position: int
    incarnation: str
    text: str | None


class Stream:
    """One live reader. Iterate over it; it ends when the service stops or the book changes.

    It is fed until its iterator is closed, so whoever opens a stream must begin to iterate.

    ``head`` and ``incarnation`` are what the book showed when the stream was opened;
    ``leads`` tells the feed which events may concern it.
    """

    def __init__(
        self, feed: "_Feed", filters: ReadRequest, *, incarnation: str, head: int, position: int
    ) -> None:
        self.incarnation = incarnation
        self.head = head
        self.leads = leads_to(filters.query)
        self.needs_text = True
        self._feed = feed
        self._filters = filters
        self._position = position
        self._joined = False
        self._buffer: deque[tuple[int, str]] = deque()
        self._buffered_bytes = 0
        self._taken_to = position
        self._news = asyncio.Event()
        self._ended = False

    def offer(self, event: FedEvent, tags: frozenset[str]) -> None:
        """Take an event from the feed, if it matches and there is room. Called by the feed.

        Only who gets something is woken: most events concern few of the streams.
        """
        if not self._joined or event.position <= self._taken_to:
            return
        if matches(self._filters.query, event.agent_name, event.event_type, tags):
            if (
                len(self._buffer) >= limits.STREAM_BUFFER_EVENTS_MAX
                or self._buffered_bytes + len(event.text) > limits.STREAM_BUFFER_BYTES_MAX
            ):
                self._joined = False
            else:
                self._buffer.append((event.position, event.text))
                self._buffered_bytes += len(event.text)
                self._taken_to = event.position
            self.wake()

    def feed_moved(self) -> None:
        """The feed stands elsewhere now: news for a stream that is behind. Called by the feed."""
        if not self._joined:
            self.wake()

    def wake(self) -> None:
        """There is news, or the end. Called by the feed."""
        self._news.set()

    def end(self) -> None:
        """End this stream alone, at once: what has not been taken from it is not delivered."""
        self._ended = True
        self.wake()

    async def __aiter__(self) -> AsyncIterator[StreamItem]:
        """Deliver what matches, in order, with a heartbeat at the start and while it is quiet.

        Raises:
            DatabaseUnavailable, ReadTooSlow: a stream that is behind cannot read on.
        """
        try:
            yield self._heartbeat()
            while not (self._feed.ended or self._ended):
                self._news.clear()
                if self._buffer:
                    self._position, text = self._buffer.popleft()
                    self._buffered_bytes -= len(text)
                    yield StreamItem(self._position, self.incarnation, text)
                elif self._joined:
                    if not await self._news_within(limits.STREAM_HEARTBEAT_SECONDS):
                        # What went by meanwhile and did not match counts as read; what came
                        # in at this very moment, or had no room then, does not.
                        if self._stands_with_the_feed():
                            self._position = max(self._position, self._feed.position)
                        yield self._heartbeat()
                else:
                    async for item in self._read_on():
                        yield item
        finally:
            self._feed.leave_place(self)

    async def _read_on(self) -> AsyncIterator[StreamItem]:
        """Deliver from the table up to its end, then join the feed, or wait for it to move."""
        page = await self._feed.store.page(
            self._feed.tenant_id,
            query=self._filters.query_document,
            payload=self._filters.payload_document,
            after=self._position,
            up_to=limits.POSITION_MAX,
            limit=limits.STREAM_PAGE_EVENTS,
            bytes_max=limits.STREAM_PAGE_BYTES_MAX,
            newest_first=False,
        )
        if page.incarnation != self.incarnation:
            self._feed.end()
            return
        for position, text in zip(page.positions, page.texts, strict=True):
            if self._ended:
                return
            self._position = self._taken_to = position
            yield StreamItem(position, self.incarnation, text)
        if page.found == limits.STREAM_PAGE_EVENTS or page.found > len(page.positions):
            return
        # All that matches up to this page's head has been read. From here to the joining
        # there is no await, so the feed cannot move in between.
        self._position = self._taken_to = max(page.head, self._position)
        if self._filters.payload_document is None:
            self._joined = self._position >= self._feed.position
        elif self._feed.position <= self._position and not await self._news_within(
            limits.STREAM_HEARTBEAT_SECONDS
        ):
            yield self._heartbeat()

    async def _news_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    def _stands_with_the_feed(self) -> bool:
        """Whether it has all that matches up to where the feed is, and its reader too."""
        return self._joined and not self._buffer

    def _heartbeat(self) -> StreamItem:
        return StreamItem(self._position, self.incarnation, None)


class Watch:
    """One who wants to know that something matches, and not what: a consumer's parked claims.

    ``rang`` is called for each event that matches, and once when the feed has ended.
    """

    needs_text = False

    def __init__(self, feed: "_Feed", query: Sequence[Item], rang: Callable[[], None]) -> None:
        self.leads = leads_to(query)
        self._feed = feed
        self._query = query
        self._rang = rang

    def offer(self, event: FedEvent, tags: frozenset[str]) -> None:
        """Ring, if the event matches. Called by the feed."""
        if matches(self._query, event.agent_name, event.event_type, tags):
            self._rang()

    def feed_moved(self) -> None:
        """Say nothing: what matches was offered. Called by the feed."""

    def wake(self) -> None:
        """There is the end. Called by the feed."""
        self._rang()

    @property
    def ended(self) -> bool:
        """Whether nothing is offered any more."""
        return self._feed.ended

    def leave(self) -> None:
        """Be offered nothing any more."""
        self._feed.leave(self)


class _Feed:
    """What is new in one book, read once for all streams of this process."""

    def __init__(
        self, store: Store, places: Shares, tenant_id: int, incarnation: str, position: int
    ) -> None:
        self.store = store
        self.tenant_id = tenant_id
        self.position = position
        self.ended = False
        self._places = places
        self._incarnation = incarnation
        self._readers: set[Stream | Watch] = set()
        self._concerned: defaultdict[Lead, set[Stream | Watch]] = defaultdict(set)
        self._bell = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"feed {tenant_id}")

    def enter(self, reader: Stream | Watch) -> None:
        """Feed a stream that has a place, or a watch, until it leaves."""
        self._readers.add(reader)
        for lead in reader.leads:
            self._concerned[lead].add(reader)
        if reader.needs_text:
            metrics.STREAM_SUBSCRIBERS.inc()

    def leave(self, reader: Stream | Watch) -> bool:
        """Feed it no longer. False: it had left already."""
        here = reader in self._readers
        if here:
            self._readers.remove(reader)
            for lead in reader.leads:
                self._concerned[lead].remove(reader)
                if not self._concerned[lead]:
                    del self._concerned[lead]
        if not self._readers:
            self.end()
        return here

    def leave_place(self, stream: Stream) -> None:
        """Feed a stream no longer, and give its place back."""
        if self.leave(stream):
            self._places.give_back(self.tenant_id, 1)
            metrics.STREAM_SUBSCRIBERS.dec()

    def ring(self) -> None:
        self._bell.set()

    def end(self) -> None:
        """End every stream, and stop reading after what is being read now."""
        self.ended = True
        self._bell.set()
        for reader in tuple(self._readers):
            reader.wake()

    async def stopped(self) -> None:
        """Wait for the feed's last read to be over."""
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            while not self.ended:
                # No doorbell within the time: look all the same.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(limits.STREAM_POLL_SECONDS):
                        await self._bell.wait()
                self._bell.clear()
                try:
                    await self._advance()
                except Unavailable as error:
                    _log.info("feed waits", tenant_id=self.tenant_id, error=str(error))
        finally:
            # Whatever stopped the feed, a stream must not wait for it in silence.
            self.end()

    async def _advance(self) -> None:
        """Hand out what lies between the feed's position and the head."""
        while not self.ended:
            with_text = self._needs_text()
            head, events = await self.store.feed(
                self.tenant_id,
                after=self.position,
                limit=limits.STREAM_PAGE_EVENTS,
                bytes_max=limits.STREAM_PAGE_BYTES_MAX,
                with_text=with_text,
            )
            if head.incarnation != self._incarnation:
                self.end()
                return
            if not events:
                return
            if self._needs_text() and not with_text:
                continue  # A stream has come meanwhile, and may have joined.
            for event in events:
                self._offer(event)
            self.position = events[-1].position
            for reader in tuple(self._readers):
                reader.feed_moved()
            if self.position >= head.position:
                return

    def _needs_text(self) -> bool:
        return any(reader.needs_text for reader in self._readers)

    def _offer(self, event: FedEvent) -> None:
        """Offer an event to each stream that it may concern; to one that it may not, never."""
        tags = frozenset(event.tags)
        concerned: set[Stream | Watch] = set()
        for lead in leads_of(event.agent_name, event.event_type, tags):
            # Not by [], which would keep an empty set for every tag that ever went by.
            concerned.update(self._concerned.get(lead, ()))
        for reader in concerned:
            reader.offer(event, tags)


class Followers:
    """All live readers of this process, by book."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._places = Shares(
            limits.STREAM_SUBSCRIBERS_MAX,
            own_taken=(
                "This tenant has as many live readers as it may have here. "
                "Close some, or try again later."
            ),
            all_taken="This process accepts no more live readers now. Try again later.",
        )
        self._feeds: dict[int, _Feed] = {}
        self._closing = False

    def ring(self, tenant_id: int) -> None:
        """The tenant's book has grown, here or elsewhere."""
        if (feed := self._feeds.get(tenant_id)) is not None:
            feed.ring()

    async def follow(
        self, tenant_id: int, filters: ReadRequest, *, after: int | None, incarnation: str | None
    ) -> Stream:
        """Open a stream of what matches ``filters``, from above ``after`` (None: from now).

        Raises:
            BookRestored: ``incarnation`` is given and is not the book's.
            AfterAboveHead: the book has not reached ``after``.
            Busy: this process has all the live readers that it accepts, of this tenant or of all
                (``STREAM_SUBSCRIBERS_MAX``), or is stopping.
            DatabaseUnavailable: the book cannot be read.
        """
        self._must_not_be_closing()
        # Before the book is asked, so that of many who come at once, no more ask than may enter.
        self._places.take(tenant_id, 1)
        try:
            return await self._entered(tenant_id, filters, after=after, incarnation=incarnation)
        except BaseException:
            # From the entering on, the place is the stream's; whoever did not enter has none.
            self._places.give_back(tenant_id, 1)
            raise

    async def _entered(
        self, tenant_id: int, filters: ReadRequest, *, after: int | None, incarnation: str | None
    ) -> Stream:
        """Open a stream that has its place. Raises what ``follow`` raises."""
        head = await self._store.head(tenant_id)
        # Once more: the end may have come meanwhile. From here to the entering there is no await.
        self._must_not_be_closing()
        if incarnation is not None and incarnation != head.incarnation:
            raise BookRestored(
                "The book was restored from a backup since this position was read. "
                "Read it anew from where your own records are certain."
            )
        if after is not None and after > head.position:
            raise AfterAboveHead(
                f"The book ends at {head.position}; position {after} cannot have been read."
            )
        feed = self._feed_of(tenant_id, head)
        stream = Stream(
            feed,
            filters,
            incarnation=head.incarnation,
            head=head.position,
            position=head.position if after is None else after,
        )
        feed.enter(stream)
        return stream

    async def watch(self, tenant_id: int, query: Sequence[Item], rang: Callable[[], None]) -> Watch:
        """Be told of each event that matches from now on: what is in the book now is not.

        Takes no place of a live reader: whoever watches holds nothing, and is bounded elsewhere.

        Raises:
            Busy: this process is stopping.
            DatabaseUnavailable: the book cannot be read.
        """
        head = await self._store.head(tenant_id)
        self._must_not_be_closing()
        feed = self._feed_of(tenant_id, head)
        watch = Watch(feed, query, rang)
        feed.enter(watch)
        return watch

    def _feed_of(self, tenant_id: int, head: Head) -> _Feed:
        """The tenant's feed: one that runs, or another that begins at the head."""
        feed = self._feeds.get(tenant_id)
        if feed is None or feed.ended:
            feed = self._feeds[tenant_id] = _Feed(
                self._store, self._places, tenant_id, head.incarnation, head.position
            )
        return feed

    def _must_not_be_closing(self) -> None:
        if self._closing:
            raise Busy("This service is stopping. Connect again.")

    def closing(self) -> None:
        """End every stream, at once and for good."""
        self._closing = True
        for feed in self._feeds.values():
            feed.end()

    async def close(self) -> None:
        """End every stream, and wait until nothing reads for them any more."""
        self.closing()
        for feed in self._feeds.values():
            await feed.stopped()
