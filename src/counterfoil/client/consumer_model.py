"""The client's words for handing out work: consumers, deliveries, dead letters.

Values only, no I/O. All of them are what the service answered; none can be changed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from counterfoil.client.model import Event, QueryItem, StoredBatch

ConsumerStart = Literal["beginning", "now"] | int
"""Where a consumer begins: at the book's beginning, at its head, or after a position."""

DeadLetterRule = Literal["hold", "pass"]
"""Whether a dead letter holds up what comes after it under the same key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long an event waits after a failed attempt, before it is handed out again.

    After the k-th: ``initial_seconds * factor ** (k - 1)``, and never more than ``max_seconds``.

    >>> await cf.consumers.put("scorer", types="payment", backoff=Backoff(initial_seconds=5))
    """

    initial_seconds: float = 1
    factor: float = 2
    max_seconds: float = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """How far a consumer is behind.

    Attributes:
        events: the events that match and are not done.
        seconds: the age of the oldest of them.
        at_least: they were counted only so far; there are more.
    """

    events: int
    seconds: float
    at_least: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumer:
    """A named, durable reader of a query, and how it stands.

    Attributes:
        name: by which it is called.
        query: the events that it hands out; any of these items.
        start: where it began: ``beginning``, ``now``, or after a position.
        lease_seconds: how long a delivery is held before it is handed out again.
        attempts_max: the attempts after which an event is set aside.
        backoff: how long an event waits between two of them.
        order_by: the tag kind under which events are handed out one after another.
        in_flight_max: how many may be held at once.
        dead_letters: whether a dead letter holds up its key (``hold``) or not (``pass``).
        status: ``running``, ``paused``, or ``stalled``: too many dead letters to go on.
        position: the events up to here were looked at.
        head: the book's last position.
        lag: how far it is behind.
        in_flight: the events that are held now.
        waiting: the events that are neither held nor done: ready, delayed, or behind another.
        set_aside: its dead letters.
        rate: events done in a second, lately.
        event_id: the event of the book that made it, or changed it last.
        created_at, created_by: when it was made, and by whom.
    """

    name: str
    query: tuple[QueryItem, ...]
    start: str | int
    lease_seconds: int
    attempts_max: int
    backoff: Backoff
    order_by: str | None
    in_flight_max: int | None
    dead_letters: str
    status: str
    position: int
    head: int
    lag: Lag
    in_flight: int
    waiting: int
    set_aside: int
    rate: float
    event_id: int
    created_at: datetime
    created_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletedConsumer:
    """A consumer that was deleted, and what it left.

    Attributes:
        name: what it was called.
        event_id: the event of the book that says so.
        deleted_at, deleted_by: when, and by whom.
        unfinished: the events that had been put out and were not done.
        dead_letters: the dead letters that went with it.
    """

    name: str
    event_id: int
    deleted_at: datetime
    deleted_by: str
    unfinished: int
    dead_letters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One event as it was claimed. Nothing extends its lease; see ``consume`` for what does.

    Attributes:
        event: the event.
        attempt: which attempt this is; 1 is the first.
        lease_ends: until when it is held, by the service's clock.
        token: what to acknowledge it with. The tokens of one event grow with each handing out
            (compared as text), so a store that keeps the greatest can refuse the smaller: it
            comes from a holder that was given up.
    """

    event: Event
    attempt: int
    lease_ends: datetime
    token: str


Tokens = str | Delivery | Iterable[str | Delivery]
"""One delivery or several, or their tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """What a claim brought: a sequence of deliveries, which may be empty.

    Attributes:
        deliveries: what is held now.
        status: whether the consumer is ``running``, ``paused`` or ``stalled``.
        answered_at: the service's time when it answered, to the second, as far as it says so.
            A lease is measured from there: the clock here may be another.
    """

    deliveries: tuple[Delivery, ...]
    status: str
    answered_at: datetime | None = None

    def __iter__(self) -> Iterator[Delivery]:
        return iter(self.deliveries)

    def __len__(self) -> int:
        return len(self.deliveries)


@dataclass(frozen=True, slots=True, kw_only=True)
class Next:
    """What an acknowledgement claims in the same call: of what is ready then, without a wait.

    >>> await cf.consumers.ack("scorer", delivery, next=Next(holder="scorer-1", count=10))

    Attributes:
        holder: who takes them: one text for each process; up to 128 characters.
        count: how many at most; up to 1,000.
    """

    holder: str
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledged:
    """What an acknowledgement brought that was to claim what is next.

    Attributes:
        stored: what was stored; ``None`` without events.
        next: what was claimed, which may be nothing. ``None``: the acknowledgement stands, and
            nothing is known to have been taken; claim again.
    """

    stored: StoredBatch | None
    next: Claimed | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Until when something is held, and when the service said so."""

    ends: datetime
    answered_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt at an event, and how it ended.

    Attributes:
        attempt: which one; 1 is the first.
        holder: who held it.
        claimed_at, ended_at: from when to when.
        reason: why it failed.
    """

    attempt: int
    holder: str
    claimed_at: datetime
    ended_at: datetime | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """An event that was set aside: it kept failing, or its holder said so.

    Attributes:
        event_id: the event.
        attempts: what was tried, the oldest first.
        reason: why it was set aside.
        set_aside_at, set_aside_by: when, and by whom.
        said_by: the event of the book that says so.
        holds_key: whether it holds up what comes after it under the same key.
    """

    event_id: int
    attempts: tuple[Attempt, ...]
    reason: str
    set_aside_at: datetime
    set_aside_by: str
    said_by: int
    holds_key: bool


DeadLetters = int | Event | DeadLetter | Collection[int | Event | DeadLetter]
"""One dead letter or several, or the ids of their events."""
