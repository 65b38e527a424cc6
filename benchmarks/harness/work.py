"""The work that every subject is given: small events of a fraud pipeline.

One event is about 200 bytes of payload and two tags, one of them common (a customer out of
``CUSTOMERS``) and one its own (a transaction). They come from a seeded generator, so that two
runs do the same work.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

PAYLOAD_BYTES: Final = 200
"""The length of a payload as compact JSON, give or take the digits of its numbers."""

CUSTOMERS: Final = 10_000
AGENTS: Final = tuple(f"agent_{number:02d}" for number in range(20))
TYPES: Final = (
    "transaction_seen",
    "score_computed",
    "flag_transaction",
    "approved",
    "declined",
)

_FILLER: Final = "velocity threshold of the last hour compared with the customer's own history "


@dataclass(frozen=True, slots=True)
class Event:
    """One event of the work; ``number`` makes its transaction its own."""

    number: int
    agent_name: str
    event_type: str
    customer: str
    transaction: str
    payload: dict[str, Any]

    @property
    def tags(self) -> list[str]:
        """The two tags."""
        return [f"customer:{self.customer}", f"transaction:{self.transaction}"]

    @property
    def payload_text(self) -> str:
        """The payload as compact JSON."""
        return json.dumps(self.payload, separators=(",", ":"))

    def body(self) -> dict[str, Any]:
        """The event as Counterfoil's calls take it."""
        return {
            "agent_name": self.agent_name,
            "event_type": self.event_type,
            "payload": self.payload,
            "tags": self.tags,
        }


def events(*, start: int = 0, count: int | None = None, series: str = "w") -> Iterator[Event]:
    """Events from ``start`` on, endless without ``count``.

    ``series`` sets the transactions of two generators apart.
    """
    chance = random.Random(f"{series}:{start}")
    number = start
    while count is None or number < start + count:
        yield event(number, chance, series=series)
        number += 1


def event(number: int, chance: random.Random, *, series: str = "w") -> Event:
    """The event of this number, with its free choices taken from ``chance``."""
    customer = f"cust_{chance.randrange(CUSTOMERS):05d}"
    payload: dict[str, Any] = {
        "amount_minor": chance.randrange(100, 1_000_000),
        "currency": "EUR",
        "score": chance.randrange(1_000),
        "merchant": f"m_{chance.randrange(5_000):04d}",
    }
    room = PAYLOAD_BYTES - len(json.dumps({**payload, "note": ""}, separators=(",", ":")))
    payload["note"] = (_FILLER * 3)[:room]
    return Event(
        number=number,
        agent_name=chance.choice(AGENTS),
        event_type=chance.choice(TYPES),
        customer=customer,
        transaction=f"{series}_{number}",
        payload=payload,
    )
