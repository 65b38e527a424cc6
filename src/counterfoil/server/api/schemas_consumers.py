"""The shapes of answers about consumers and deliveries, for the description only."""

from typing import Annotated, Any, Literal

from pydantic import Field

from counterfoil.server.api.schemas import Answered, Event, Id, Problem, StoredEvents, Time
from counterfoil.server.consumers.model import Backoff
from counterfoil.server.log.query import QueryItem


class Lag(Answered):
    """What a consumer has not done yet."""

    events: int
    seconds: Annotated[float, Field(description="How old the oldest of them is.")]
    at_least: Annotated[bool, Field(description="Whether there are more than were counted.")]


class Consumer(Answered):
    """A consumer, and how it stands."""

    name: str
    query: list[QueryItem]
    start: Annotated[Any, Field(description="As it was asked for.")]
    lease_seconds: int
    attempts_max: int
    backoff: Backoff
    order_by: str | None
    in_flight_max: int | None
    dead_letters: Literal["hold", "pass"]
    status: Literal["running", "paused", "stalled"]
    position: Annotated[int, Field(description="Up to here every event was looked at.")]
    head: int
    lag: Lag
    in_flight: int
    waiting: Annotated[int, Field(description="Put out, and held by nobody.")]
    set_aside: Annotated[int, Field(description="Dead letters.")]
    rate: Annotated[float, Field(description="Events that left in a second, of late.")]
    event_id: Annotated[Id, Field(description="The event that made or changed it last.")]
    created_at: Time
    created_by: str


class ConsumerList(Answered):
    """A page of consumers."""

    consumers: list[Consumer]
    next: str | None


class DeletedConsumer(Answered):
    """A consumer that is gone, and what went with it."""

    name: str
    deleted_at: Time
    deleted_by: str
    unfinished: int
    dead_letters: int
    event_id: Id


class Delivery(Answered):
    """An event that its holder has until the lease ends."""

    event: Event
    attempt: Annotated[int, Field(ge=1)]
    lease_ends: Time
    token: Annotated[
        str,
        Field(
            description="What the holder shows for it. An event's tokens grow with each handing "
            "out, as texts: whoever keeps the greatest one can fence off an earlier holder."
        ),
    ]


class Claimed(Answered):
    """What was handed out; nothing, where the wait was over."""

    deliveries: list[Delivery]
    status: Literal["running", "paused", "stalled"]


_Next = Annotated[
    Claimed | None,
    Field(
        description="Where `next` was asked for: what was handed out. Null: nothing that is known "
        "of; what was named is done all the same, and the holder claims again."
    ),
]


class Done(Answered):
    """What was named is done."""

    status: Literal["done"]
    next: _Next = None


class StoredOutcome(StoredEvents):
    """What was named is done, and all events are committed and flushed."""

    next: _Next = None


class Extended(Answered):
    """Until when it is held now."""

    lease_ends: Time


class Released(Answered):
    """What was named is given back."""

    status: Literal["released"]


class SetAsideEvents(Answered):
    """What was named is set aside, and the events that say so."""

    status: Literal["set_aside"]
    event_ids: list[Id]


class Attempt(Answered):
    """How an attempt ended."""

    attempt: int
    holder: str
    claimed_at: Time
    ended_at: Time
    reason: str


class DeadLetter(Answered):
    """An event that was set aside."""

    event_id: Id
    attempts: list[Attempt]
    reason: str
    set_aside_at: Time
    set_aside_by: str
    said_by: Annotated[Id, Field(description="The event that says so.")]
    holds_key: Annotated[bool, Field(description="Whether later events of its keys wait for it.")]


class DeadLetterList(Answered):
    """A page of dead letters."""

    dead_letters: list[DeadLetter]
    next: str | None


class SettledLetters(Answered):
    """Dead letters that are replayed, or dropped."""

    status: Literal["replayed", "dropped"]
    event_ids: list[Id]


class LeaseLostProblem(Problem):
    """Some of what was named is not held any more."""

    lost: Annotated[list[str] | None, Field(description="Their tokens.")] = None
