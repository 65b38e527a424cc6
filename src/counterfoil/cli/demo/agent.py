"""What the agents of the demo have in common: the client, the brief, and the pipes.

An agent that is handed its work is a ``Worker``, and says no more than how it handles one
delivery; ``run`` of the client does the rest. It claims what its consumer hands out, extends
the leases while the handler works, gives back what fails, and ends when it is told to.
"""

import abc
import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar

from counterfoil import (
    APIConnectionError,
    AsyncCounterfoil,
    AsyncHeldDelivery,
    Condition,
    Event,
    InternalServerError,
    LeaseLost,
    NewEvent,
    OutcomeUnknown,
    QueryItem,
    RateLimited,
    ServiceUnavailable,
)
from counterfoil.cli.demo import vocabulary as words
from counterfoil.cli.demo.wire import Wire

STOP_SECONDS: Final = 2.0
"""What a worker has to finish what it has in hand, when it is told to end."""

_PASSING: Final = (
    LeaseLost,
    OutcomeUnknown,
    APIConnectionError,
    RateLimited,
    ServiceUnavailable,
    InternalServerError,
)
"""Errors that may be over at the next attempt. Whatever else is raised is a refusal of the
service, or a fault: a product would let it become a dead letter, a demo shows it at once."""


class OfRun(Protocol):
    """A brief, as far as every agent needs it."""

    @property
    def run_id(self) -> str:
        """The run that it is about."""


BriefT = TypeVar("BriefT", bound=OfRun)


class Agent(Generic[BriefT]):
    """What all have: a name, the client, the brief, and the pipes to the conductor."""

    name: ClassVar[str]

    def __init__(self, cf: AsyncCounterfoil, brief: BriefT, pipes: Wire) -> None:
        self.cf = cf
        self.brief = brief
        self.pipes = pipes

    async def work(self) -> None:
        """Do what the book asks for, until cancelled. Some agents wait for orders only."""
        await asyncio.Event().wait()

    async def obey(self, command: dict[str, Any]) -> None:
        """Do what the conductor asks for."""
        raise RuntimeError(f"the {self.name} takes no commands, and got {command}")

    def key(self, deed: str, about: str | int) -> str:
        """The idempotency key of one deed: the same deed twice is written once."""
        return f"demo:{self.brief.run_id}:{deed}:{about}"


class Worker(Agent[BriefT], abc.ABC):
    """An agent that a consumer hands its work to."""

    at_once_max: ClassVar[int]
    """How many deliveries one process of it has in hand at the same time."""

    def __init__(self, cf: AsyncCounterfoil, brief: BriefT, pipes: Wire) -> None:
        super().__init__(cf, brief, pipes)
        self._given_up = asyncio.Event()
        self._reason: Exception | None = None

    async def work(self) -> None:
        """Handle what is handed out. Raises what would fail at every attempt."""
        await self.cf.run(
            {words.consumer_name(self.brief.run_id, self.name): self._handle},
            holder=self.pipes.process,
            max_at_once=self.at_once_max,
            stop_seconds=STOP_SECONDS,
            stop=self._given_up,
        )
        if self._reason is not None:
            raise self._reason

    async def _handle(self, delivery: AsyncHeldDelivery) -> None:
        """Handle one delivery; give up at what no further attempt can mend."""
        try:
            await self.handle(delivery)
        except _PASSING:
            raise
        except Exception as error:  # noqa: BLE001 - it is raised where the work ends
            self._reason = self._reason or error
            self._given_up.set()
            await delivery.release(delay_seconds=0)

    @abc.abstractmethod
    async def handle(self, delivery: AsyncHeldDelivery) -> None:
        """Do the work of one delivery, and acknowledge it with what came of it."""

    async def finish(
        self,
        delivery: AsyncHeldDelivery,
        done: str,
        outcome: NewEvent,
        condition: Condition | None = None,
    ) -> None:
        """Acknowledge a delivery and write its outcome, in one step; then tell the conductor."""
        stored = await delivery.done(outcome, condition=condition)
        position = stored.ids[0] if stored is not None else 0
        self.pipes.report(done, transaction_of(delivery.event), position, delivery.attempt)


def transaction_of(event: Event) -> str:
    """Which transaction an event of the demo is about."""
    transaction_id: str = event.payload["transaction_id"]
    return transaction_id


def subject(event: Event) -> dict[str, Any]:
    """The four ids that every event about a transaction bears, and that give its tags."""
    ids = ("run_id", "transaction_id", "customer_id", "card_id")
    return {name: event.payload[name] for name in ids}


def time_of(event: Event) -> datetime:
    """When the payment was made that the event is about."""
    if event.occurred_at is None:
        raise ValueError(f"event {event.id} does not say when the payment was made")
    return event.occurred_at


async def latest_before(
    cf: AsyncCounterfoil, event: Event, event_type: str, *tags: str, count: int
) -> Sequence[Event]:
    """The last ``count`` events of a type before ``event`` that bear any of the tags."""
    found = cf.events.query(
        [QueryItem(types=event_type, tags=tag) for tag in tags],
        before=event.id,
        order="desc",
        limit=count,
    )
    async for page in found.pages():
        return page.events
    return ()
