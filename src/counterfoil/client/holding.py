"""What is in hand: one delivery, how it stands, and how long its lease lasts. Values only."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, Generic, TypeVar

from counterfoil.client.consumer_model import Delivery, Lease
from counterfoil.client.errors import LeaseLost
from counterfoil.client.requests import Ask

T = TypeVar("T")

LEASE_PART: Final = 0.5
"""The part of a lease after which it is extended. The other half is for attempts that fail."""

SERVICE_CLOCK_SECONDS: Final = 2.0
"""How exactly the service's clock is known: its answers give their time in whole seconds, which
may be one old."""

EXTENSION_SECONDS_MIN: Final = 0.25
"""The shortest time between two extensions, however short the leases are."""


class State(Enum):
    """How a delivery stands; the value says what has become of it."""

    HELD = "is held"
    DONE = "is done"
    GIVEN_BACK = "was given back"
    SET_ASIDE = "was set aside"
    LOST = "is not held any more"


@dataclass(eq=False, slots=True)
class Hold:
    """One delivery in hand. Times are those of the clock that the shell goes by."""

    delivery: Delivery
    lease: Lease
    state: State = State.HELD
    settling: bool = False
    doubtful: bool = False
    failures: int = 0
    extend_at: float = 0.0
    over_at: float = 0.0

    def leased(self, lease: Lease, now: float) -> None:
        """Take in a lease that was answered just now."""
        self.lease = lease
        answered_at = lease.answered_at or datetime.now(UTC)
        left = (lease.ends - answered_at).total_seconds() - SERVICE_CLOCK_SECONDS
        self.over_at = now + max(left, 0.0)
        self.extend_at = now + max(left * LEASE_PART, EXTENSION_SECONDS_MIN)


@dataclass(frozen=True, slots=True)
class Together(Generic[T]):
    """One call about several deliveries in hand: all of them, or none."""

    ask: Ask[T]
    holds: tuple[Hold, ...]


def deliveries_of(holds: Collection[Hold]) -> list[Delivery]:
    """Return what was claimed, as it was claimed."""
    return [hold.delivery for hold in holds]


def lost_of(together: Together[Any], error: LeaseLost) -> list[Hold]:
    """Return those of a call that its refusal names; where it names none, it may be any of them."""
    named = [hold for hold in together.holds if hold.delivery.token in error.lost]
    return named or list(together.holds)
