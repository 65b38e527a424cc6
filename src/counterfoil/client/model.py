"""The client's words: events, queries, conditions, pages. Values only, no I/O."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from counterfoil.client import document
from counterfoil.client.errors import UnsendableValue, UsageError

Texts = str | Collection[str]
"""One string, or several. A lone string stands for itself, never for its letters."""


def texts(value: Texts) -> tuple[str, ...]:
    """Return ``value`` as a tuple of strings.

    >>> texts("transaction:tx_987")
    ('transaction:tx_987',)
    """
    return (value,) if isinstance(value, str) else tuple(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One immutable fact of the book.

    Attributes:
        id: its position in the book: 1, 2, 3 … without gaps.
        agent_name: who wrote it.
        event_type: what kind of fact it is.
        payload: the fact. Integers are ``int``; every other number is a
            ``decimal.Decimal``, so that amounts keep their digits.
        tags: what it is about, sorted: those given, and those derived from the payload's
            top-level ``…_id`` fields.
        created_at: when the book took it in; aware, never earlier than the event before.
        occurred_at: the writer's own time for it, if it gave one.
        caused_by: ids of the earlier events that it rests on.
        context: what produced it (model, prompt and tool versions, run id …).
    """

    id: int
    agent_name: str
    event_type: str
    payload: dict[str, Any] = field(hash=False)
    tags: tuple[str, ...]
    created_at: datetime
    occurred_at: datetime | None = None
    caused_by: tuple[int, ...] = ()
    context: dict[str, Any] | None = field(default=None, hash=False)

    def to_json(self) -> str:
        """Return the event as one line of JSON, all numbers digit for digit.

        (``json.dumps`` cannot write a ``Decimal``.)

        >>> print(event.to_json())
        {"id":1,"agent_name":"fraud_agent","event_type":"flag_transaction", …
        """
        return document.encode(
            {
                "id": self.id,
                "agent_name": self.agent_name,
                "event_type": self.event_type,
                "payload": self.payload,
                "tags": self.tags,
                "created_at": self.created_at.isoformat(timespec="microseconds"),
                "occurred_at": self.occurred_at and self.occurred_at.isoformat(),
                "caused_by": self.caused_by,
                "context": self.context,
            }
        ).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """One event of a batch, to be written; the same fields as ``events.append`` takes.

    >>> scored = NewEvent(
    ...     agent_name="risk_agent", event_type="risk_score", payload={"customer_id": "cust_123"}
    ... )
    """

    agent_name: str
    event_type: str
    payload: Mapping[str, Any]
    tags: Texts = ()
    occurred_at: datetime | str | None = None
    caused_by: Collection[int | Event] = ()
    context: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """The answer to an append: it is written and flushed.

    ``replayed``: it had been written before under the same idempotency key, and this is
    the answer given then.
    """

    id: int
    created_at: datetime
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """The answer to a batch: all of it is written, at consecutive positions."""

    ids: tuple[int, ...]
    created_at: datetime
    replayed: bool = False


@dataclass(frozen=True, slots=True, init=False)
class QueryItem:
    """One item of a query.

    An event matches it when its type is any of ``types``, its agent any of ``agents``, and it
    bears all of ``tags``; what is left out is not asked.

    >>> QueryItem(types="flag_transaction", tags=["transaction:tx_987"])
    QueryItem(types=('flag_transaction',), agents=(), tags=('transaction:tx_987',))

    Raises:
        UnsendableValue: it asks nothing, and so would match every event.
    """

    types: tuple[str, ...]
    agents: tuple[str, ...]
    tags: tuple[str, ...]

    def __init__(self, *, types: Texts = (), agents: Texts = (), tags: Texts = ()) -> None:
        for name, value in (("types", types), ("agents", agents), ("tags", tags)):
            object.__setattr__(self, name, texts(value))
        if not (self.types or self.agents or self.tags):
            raise UnsendableValue("A query item must ask for types, agents or tags.")


Query = QueryItem | Collection[QueryItem]
"""One item, or several: an event matches a query when it matches any of its items."""


def query_of(query: Query | None, tags: Texts, types: Texts, agents: Texts) -> Query:
    """Return the query that a call's arguments ask for.

    Raises:
        UsageError: both a query and filters were given.
        UnsendableValue: neither was.
    """
    if query is None:
        return QueryItem(types=types, agents=agents, tags=tags)
    if tags or types or agents:
        raise UsageError("Give either `query` or tags, types and agents, not both.")
    return query


def items_of(query: Query) -> tuple[QueryItem, ...]:
    """Return ``query`` as a tuple of its items.

    Raises:
        UnsendableValue: there are none.
    """
    items = (query,) if isinstance(query, QueryItem) else tuple(query)
    if not items:
        raise UnsendableValue("A query needs at least one item.")
    return items


@dataclass(frozen=True, slots=True, init=False)
class Condition:
    """Write only if nothing that matches ``fail_if`` has been written after ``after``.

    ``after`` is the *head* of the read that the decision rests on (not the id of the last
    event read); without it, nothing that matches may exist at all. ``incarnation``, from
    the same read, makes a book that was restored in between refuse.

    >>> page = cf.events.latest("fraud_agent")
    >>> Condition(QueryItem(agents="fraud_agent"), page.head, page.incarnation)
    """

    fail_if: tuple[QueryItem, ...]
    after: int | None
    incarnation: str | None

    def __init__(
        self, fail_if: Query, after: int | None = None, incarnation: str | None = None
    ) -> None:
        object.__setattr__(self, "fail_if", items_of(fail_if))
        object.__setattr__(self, "after", after)
        object.__setattr__(self, "incarnation", incarnation)


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a read: a sequence of its events, and what it was read from.

    Attributes:
        events: the events, in the order asked for.
        head: the book's last position in the snapshot that was read; what a condition's
            ``after`` takes.
        incarnation: which life of the book this is; changes when it is restored.
        next: the cursor of the page after this one.
        has_more: whether there is one.
    """

    events: tuple[Event, ...]
    head: int
    incarnation: str
    next: str | None = None
    has_more: bool = False

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    def __len__(self) -> int:
        return len(self.events)

    def __getitem__(self, index: int) -> Event:
        return self.events[index]
