"""The plain model of a book: a list, a dictionary, and the rules in as few words as possible.

It runs requests one after another and keeps everything in memory. What the log does with
locks, groups, indexes and cursors must not be told apart from it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from counterfoil.server.core import limits
from counterfoil.server.log.query import Item, matches
from tests.properties.documents import Json, contains, expected


@dataclass(frozen=True)
class ModelEvent:
    """One event, as a reader must see it; ``created_at`` is what its writer was told."""

    agent_name: str
    event_type: str
    payload: dict[str, Json]
    tags: frozenset[str]
    occurred_at: str | None = None
    caused_by: tuple[int, ...] = ()
    context: dict[str, Json] | None = None
    created_at: str = ""

    def shown(self, position: int) -> dict[str, Json]:
        """The event as the service shows it, in the form of ``documents.read``."""
        return {
            "id": expected(position),
            **self.shown_in_list(position),
            "tags": sorted(self.tags),
            "occurred_at": self.occurred_at,
            "caused_by": expected(list(self.caused_by)),
            "context": expected(self.context),
        }

    def shown_in_list(self, position: int) -> dict[str, Json]:
        """The event in the five fields of an agent's list."""
        return {
            "id": expected(position),
            "agent_name": self.agent_name,
            "event_type": self.event_type,
            "payload": expected(self.payload),
            "created_at": self.created_at,
        }


@dataclass(frozen=True)
class ModelCondition:
    """What must not be in the book above ``after``."""

    fail_if: tuple[Item, ...]
    after: int | None


@dataclass(frozen=True)
class ModelRequest:
    """An append as it was asked for; what is equal here is the same request to a key."""

    operation: str
    events: tuple[ModelEvent, ...]
    condition: ModelCondition | None

    def content(self) -> object:
        """What two requests with one key must have in common."""
        return (
            self.operation,
            [
                (
                    event.agent_name,
                    event.event_type,
                    expected(event.payload),
                    event.tags,
                    event.occurred_at,
                    event.caused_by,
                    expected(event.context),
                )
                for event in self.events
            ],
            self.condition,
        )


@dataclass(frozen=True)
class Answer:
    """How a request fared: ``stored``, ``replayed``, or the name of a refusal.

    ``positions`` are those of its events, or of the events in the way.
    """

    status: str
    positions: tuple[int, ...] = ()
    head: int | None = None


@dataclass
class ModelBook:
    """A whole book."""

    events: list[ModelEvent] = field(default_factory=list)
    keys: dict[str, tuple[ModelRequest, tuple[int, ...]]] = field(default_factory=dict)

    @property
    def head(self) -> int:
        """The last position."""
        return len(self.events)

    def append(self, request: ModelRequest, key: str | None) -> Answer:
        """What the book must answer. A stored request's events have no time yet."""
        if key is not None and key in self.keys:
            first, positions = self.keys[key]
            same = first.content() == request.content()
            return Answer("replayed", positions, self.head) if same else Answer("key_reused")
        if (condition := request.condition) is not None:
            if (condition.after or 0) > self.head:
                return Answer("after_above_head")
            if found := self.matching(condition.fail_if, after=condition.after or 0):
                return Answer("condition_failed", tuple(found[: limits.CONFLICTS_MAX]), self.head)
        if any(cause > self.head for event in request.events for cause in event.caused_by):
            return Answer("unknown_cause")
        positions = tuple(range(self.head + 1, self.head + 1 + len(request.events)))
        self.events.extend(request.events)
        if key is not None:
            self.keys[key] = (request, positions)
        return Answer("stored", positions, self.head)

    def matching(
        self,
        query: Iterable[Item] | None,
        *,
        payload: dict[str, Any] | None = None,
        after: int = 0,
        up_to: int | None = None,
    ) -> list[int]:
        """The positions of all that matches in ``after < position <= up_to``, oldest first."""
        return [
            position
            for position, event in enumerate(self.events, 1)
            if after < position <= (self.head if up_to is None else up_to)
            and matches(query, event.agent_name, event.event_type, event.tags)
            and (payload is None or contains(event.payload, payload))
        ]
