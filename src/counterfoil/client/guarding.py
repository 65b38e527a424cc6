"""Read by a query, then write under the same query as condition: without I/O.

Theory of operation. A guard is in one of three states, and a read or a commit moves it:

| state  | how it gets there                               | ``commit``                      |
|--------|-------------------------------------------------|---------------------------------|
| unread | made; a read that did not come to its end       | refused: nothing was relied on  |
| fresh  | all pages read                                  | sent                            |
| spent  | committed, or refused because the book moved on | refused: ``refresh()`` first    |

A commit that was not written for another reason (input at fault, service busy) leaves the
guard fresh: what was read is still what the decision rests on.

Beside its state, a guard remembers the idempotency key of a commit whose outcome is *open*:
under way, cancelled, or ``OutcomeUnknown``. Until that is settled every commit has to bear
this key, after a refresh too, because a decision that was written without the caller's
knowledge need not match the guard's query, and so would not show in what is read again. With
the key, whatever is sent, at most one of the commits is ever written: the same content is
answered with what was stored, and other content is refused when there is something.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from counterfoil.client import requests
from counterfoil.client.errors import (
    APIError,
    BookRestored,
    ConditionFailed,
    GuardTooLarge,
    IdempotencyMismatch,
    OutcomeUnknown,
    UsageError,
)
from counterfoil.client.model import (
    Condition,
    Event,
    NewEvent,
    Page,
    Query,
    QueryItem,
    Stored,
    StoredBatch,
    items_of,
)
from counterfoil.client.paging import Paging
from counterfoil.client.requests import Ask, Listing

GUARD_EVENTS_MAX_DEFAULT: Final = 10_000
"""Events that a guard reads at most. More is rarely one decision's concern, and is read
again at every refresh."""

GUARD_PAGE_EVENTS: Final = 1_000
"""Events of one page of a guard's read: the service's maximum, for the fewest calls."""


class _State(Enum):
    UNREAD = auto()
    FRESH = auto()
    SPENT = auto()


@dataclass(frozen=True, slots=True)
class Seen:
    """What a guard has read, whole: everything that matches, in one snapshot."""

    events: tuple[Event, ...]
    head: int
    incarnation: str


class Reading:
    """One read of everything that matches: collects the pages, up to the guard's limit."""

    def __init__(self, query: tuple[QueryItem, ...], max_events: int) -> None:
        limit = min(GUARD_PAGE_EVENTS, max_events + 1)
        self._paging = Paging(Listing(query=query, limit=limit))
        self._max_events = max_events
        self._events: list[Event] = []

    def next_ask(self) -> Ask[Page] | None:
        """Return the ask for the next page, or ``None`` when everything is read."""
        return self._paging.next_ask()

    def take(self, page: Page) -> None:
        """Take in a page.

        Raises:
            GuardTooLarge: more matches than the guard may read.
        """
        self._events.extend(self._paging.take(page))
        if len(self._events) > self._max_events:
            raise GuardTooLarge(self._max_events, page.head)

    def seen(self) -> Seen:
        """Return what was read; the whole, because the last page has been taken."""
        return Seen(tuple(self._events), self._paging.head, self._paging.incarnation)


class GuardCore:
    """The state of one guard; see the module's theory of operation."""

    def __init__(self, query: Query, max_events: int) -> None:
        if max_events < 1:
            raise UsageError("`max_events` is 1 or more.")
        self._query = items_of(query)
        self._max_events = max_events
        self._state = _State.UNREAD
        self._seen: Seen | None = None
        self._open_key: str | None = None

    def __repr__(self) -> str:
        head = f", head={self._seen.head}" if self._seen else ""
        return f"query={list(self._query)!r}, {self._state.name.lower()}{head}"

    @property
    def seen(self) -> Seen:
        """What was read, whole.

        Raises:
            UsageError: nothing was yet.
        """
        if self._seen is None:
            raise UsageError("This guard has read nothing yet. Enter it with `with`.")
        return self._seen

    def start(self) -> Reading:
        """Begin a read, or another; until it is finished, nothing can be committed."""
        self._state = _State.UNREAD
        self._seen = None
        return Reading(self._query, self._max_events)

    def finish(self, reading: Reading) -> None:
        """Take over what a complete read has brought."""
        self._seen = reading.seen()
        self._state = _State.FRESH

    def commit(self, event: NewEvent, idempotency_key: str | None) -> Ask[Stored]:
        """Ask for one event to be appended under the guard's condition.

        Raises:
            UsageError: the guard is not fresh.
            UnsendableValue: the event cannot be written as JSON.
        """
        self._check_may_commit(idempotency_key)
        return requests.append(event, self.condition, idempotency_key)

    def commit_batch(
        self, events: Collection[NewEvent], idempotency_key: str | None
    ) -> Ask[StoredBatch]:
        """Ask for several events to be appended under the condition; as ``commit``."""
        self._check_may_commit(idempotency_key)
        return requests.append_batch(events, self.condition, idempotency_key)

    @property
    def condition(self) -> Condition:
        """That nothing which matches was written after what was read; raises as ``seen``."""
        return Condition(self._query, after=self.seen.head, incarnation=self.seen.incarnation)

    def _check_may_commit(self, idempotency_key: str | None) -> None:
        if self._state is _State.UNREAD:
            raise UsageError("This guard has not read what to decide on. Enter it with `with`.")
        if self._state is _State.SPENT:
            raise UsageError(
                "This guard has been used: the book has moved on since it was read. Call "
                "`refresh()`, look again, and commit then."
            )
        if self._open_key is not None and idempotency_key != self._open_key:
            raise UsageError(
                "A commit of this guard is under way, or its outcome is unknown. Commit again "
                f"with idempotency_key={self._open_key!r}: no more than one is then written."
            )

    @contextmanager
    def sending(self, ask: Ask[Stored] | Ask[StoredBatch]) -> Iterator[None]:
        """Take the outcome of a commit into account, however it ends."""
        was_open = self._open_key is not None
        self._open_key = ask.request.idempotency_key  # What is raised past us leaves it open.
        try:
            yield
        except (ConditionFailed, BookRestored):
            self._settled(_State.SPENT)
            raise
        except IdempotencyMismatch:
            # The key has been used: by the commit that was open, or by another call.
            self._settled(_State.SPENT if was_open else _State.FRESH)
            raise
        except OutcomeUnknown:
            raise
        except APIError:
            # Not written, for a reason that does not touch what was read. But an attempt
            # that did not get through says nothing about the one before it.
            if not was_open:
                self._settled(_State.FRESH)
            raise
        else:
            self._settled(_State.SPENT)

    def _settled(self, state: _State) -> None:
        self._open_key = None
        self._state = state
