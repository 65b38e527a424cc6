"""Reading many events: through pages, and live. The blocking shell."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import httpx2

from counterfoil.client.calls import Failure
from counterfoil.client.errors import APIError
from counterfoil.client.following import Following
from counterfoil.client.model import Event, Page
from counterfoil.client.paging import Paging
from counterfoil.client.requests import Listing
from counterfoil.client.sync_transport import SyncTransport
from counterfoil.client.transport import opening_of


class EventIterator:
    """The events of a read, fetched page by page as they are asked for.

    All pages show the book as it stood at ``head``, which the first page fixed.

    >>> flags = cf.events.list(types="flag_transaction")
    >>> for flag in flags:
    ...     print(flag.id, flag.payload)
    >>> print("as of", flags.head)
    """

    def __init__(self, transport: SyncTransport, listing: Listing) -> None:
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

    def pages(self) -> Iterator[Page]:
        """Iterate over the pages that have not been read yet.

        >>> for page in cf.events.list(tags="customer:cust_123").pages():
        ...     print(len(page), "events, as of", page.head)
        """
        while (page := self._next_page()) is not None:
            yield page

    def _next_page(self) -> Page | None:
        ask = self._paging.next_ask()
        return None if ask is None else self._paging.take(self._transport.run(ask))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        while not self._waiting:
            page = self._next_page()
            if page is None:
                raise StopIteration
            self._waiting.extend(page.events)
        return self._waiting.popleft()


class Follower:
    """The book, live: yields each event that matches, in order, once, without an end.

    It connects when it is iterated, and connects again by itself, from where it was, when
    the connection breaks. Use it in a ``with`` block, so that leaving the loop closes it.

    >>> with cf.events.follow(types="flag_transaction") as flags:
    ...     for flag in flags:
    ...         print(flag.id, flag.payload)
    """

    def __init__(self, transport: SyncTransport, following: Following) -> None:
        self._transport = transport
        self._following = following
        self._response: httpx2.Response | None = None
        self._chunks: Iterator[bytes] | None = None

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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Iterating again connects again, from where it was."""
        response = self._response
        self._chunks = self._response = None
        if response is not None:
            response.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        try:
            while (event := self._following.next_event()) is None:
                self._read(self._chunks or self._connect())
        except APIError:
            self.close()
            raise
        return event

    def _connect(self) -> Iterator[bytes]:
        while not isinstance(
            opened := self._transport.open(self._following.request()), httpx2.Response
        ):
            self._transport.sleep(self._following.lost(opened))
        self._response = opened
        self._chunks = opened.iter_bytes()
        self._following.opened(opening_of(opened))
        return self._chunks

    def _read(self, chunks: Iterator[bytes]) -> None:
        try:
            chunk = next(chunks, None)
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
        self.close()
        self._transport.sleep(self._following.lost(outcome))
