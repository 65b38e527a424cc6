"""Reading through pages: which one is next, and that they belong together.

The pages of one listing are pinned to the head of the first, so together they are one
snapshot of the book. That is the service's promise; it is checked here all the same,
because a guard's decision rests on it.
"""

from __future__ import annotations

from counterfoil.client.errors import UnexpectedAnswer, UsageError
from counterfoil.client.model import Event, Page
from counterfoil.client.requests import Ask, Listing


class Paging:
    """The state of one listing.

    >>> paging = Paging(Listing(types="flag_transaction"))
    >>> while (ask := paging.next_ask()) is not None:
    ...     page = paging.take(call(ask))
    """

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._first: Page | None = None
        self._cursor: str | None = None
        self._last_id: int | None = None
        self._finished = False

    @property
    def head(self) -> int:
        """The head that all pages are pinned to."""
        return self._first_page.head

    @property
    def incarnation(self) -> str:
        """The book's incarnation, the same over all pages."""
        return self._first_page.incarnation

    @property
    def _first_page(self) -> Page:
        if self._first is None:
            raise UsageError("Nothing has been read yet, so there is no head. Read a page first.")
        return self._first

    def next_ask(self) -> Ask[Page] | None:
        """Return the ask for the next page, or ``None`` when all pages have been taken."""
        return None if self._finished else self._listing.page(self._cursor)

    def take(self, page: Page) -> Page:
        """Take in the page that the last ask brought, and return it.

        Raises:
            UnexpectedAnswer: the page contradicts those before it.
        """
        if self._first is None:
            self._first = page
        if (page.head, page.incarnation) != (self.head, self.incarnation):
            raise _contradiction(f"The head moved from {self.head} to {page.head} between pages.")
        for event in page.events:
            self._check_order(event)
            self._last_id = event.id
        if page.has_more and (page.next is None or page.next == self._cursor):
            raise _contradiction("There is more to read, but no cursor leads on.")
        self._cursor = page.next
        self._finished = not page.has_more
        return page

    def _check_order(self, event: Event) -> None:
        if event.id > self.head:
            raise _contradiction(f"Event {event.id} lies above the head {self.head}.")
        if self._last_id is None:
            return
        in_order = (
            event.id > self._last_id if self._listing.order == "asc" else event.id < self._last_id
        )
        if not in_order:
            raise _contradiction(f"Event {event.id} came after event {self._last_id}.")


def _contradiction(what: str) -> UnexpectedAnswer:
    return UnexpectedAnswer(f"The pages of this read do not belong together. {what} Read again.")
