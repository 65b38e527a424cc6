"""Reading many events: through pages, and live. The asynchronous shell."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from types import TracebackType
from typing import Self

import httpx2

from counterfoil.client.async_transport import AsyncTransport
from counterfoil.client.calls import Failure
from counterfoil.client.errors import APIError
from counterfoil.client.following import Following
from counterfoil.client.model import Event, Page
from counterfoil.client.paging import Paging
from counterfoil.client.requests import Listing
from counterfoil.client.transport import opening_of


class AsyncEventIterator:
    """The events of a read, fetched page by page as they are asked for.

    All pages show the book as it stood at ``head``, which the first page fixed.

    >>> flags = cf.events.list(types="flag_transaction")
    >>> async for flag in flags:
    ...     print(flag.id, flag.payload)
    >>> print("as of", flags.head)
    """

    def __init__(self, transport: AsyncTransport, listing: Listing) -> None:
        self._transport = transport
        self._paging = Paging(listing)
        self._waiting: deque[Event] = deque()

    @property
    def head(self) -> int:
        """The book's last position in the snapshot that is read.

        Raises:
            UsageError: no page has been read yet.
        """
        return self._paging.head

    @property
    def incarnation(self) -> str:
        """Which life of the book is read; goes with ``head`` into a ``Condition``.

        Raises:
            UsageError: no page has been read yet.
        """
        return self._paging.incarnation

    async def pages(self) -> AsyncIterator[Page]:
        """Iterate over the pages that have not been read yet.

        >>> async for page in cf.events.list(tags="customer:cust_123").pages():
        ...     print(len(page), "events, as of", page.head)
        """
        while (page := await self._next_page()) is not None:
            yield page

    async def _next_page(self) -> Page | None:
        ask = self._paging.next_ask()
        return None if ask is None else self._paging.take(await self._transport.run(ask))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._waiting:
            page = await self._next_page()
            if page is None:
                raise StopAsyncIteration
            self._waiting.extend(page.events)
        return self._waiting.popleft()


class AsyncFollower:
    """The book, live: yields each event that matches, in order, once, without an end.

    It connects when it is iterated, and connects again by itself, from where it was, when
    the connection breaks. Use it in an ``async with`` block, so that leaving the loop
    closes it.

    >>> async with cf.events.follow(types="flag_transaction") as flags:
    ...     async for flag in flags:
    ...         print(flag.id, flag.payload)
    """

    def __init__(self, transport: AsyncTransport, following: Following) -> None:
        self._transport = transport
        self._following = following
        self._response: httpx2.Response | None = None
        self._chunks: AsyncGenerator[bytes, None] | None = None

    @property
    def position(self) -> int | None:
        """How far the book has been read: every matching event up to here was yielded.

        It moves on with heartbeats too, when nothing matches. ``None`` before the first
        connection of a follower that begins at the head.
        """
        return self._following.position

    @property
    def last_event_id(self) -> str | None:
        """``position`` with the book's incarnation: what to keep, and to resume from.

        >>> cf.events.follow(last_event_id=kept)  # BookRestored, if it was since
        """
        return self._following.last_event_id

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection. Iterating again connects again, from where it was."""
        chunks, response = self._chunks, self._response
        self._chunks = self._response = None
        if chunks is not None:
            await chunks.aclose()
        if response is not None:
            await response.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        try:
            while (event := self._following.next_event()) is None:
                await self._read(self._chunks or await self._connect())
        except APIError:
            await self.close()
            raise
        return event

    async def _connect(self) -> AsyncGenerator[bytes, None]:
        while not isinstance(
            opened := await self._transport.open(self._following.request()), httpx2.Response
        ):
            await self._transport.sleep(self._following.lost(opened))
        self._response = opened
        self._chunks = opened.aiter_bytes()
        self._following.opened(opening_of(opened))
        return self._chunks

    async def _read(self, chunks: AsyncGenerator[bytes, None]) -> None:
        try:
            chunk = await anext(chunks, None)
        except httpx2.RequestError as error:
            outcome: Failure | None = self._transport.settings.failure(error)
        except BaseException:
            # Interrupted or cancelled, which has ended the connection. That is no failure
            # of the service: whoever iterates again gets another one at once.
            self._chunks = self._response = None
            raise
        else:
            if chunk is not None:
                self._following.feed(chunk)
                return
            outcome = None
        await self.close()
        await self._transport.sleep(self._following.lost(outcome))
