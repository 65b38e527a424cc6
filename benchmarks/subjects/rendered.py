"""The work as the clients of a library take it: rendered before a run.

A client that measures builds no JSON. What differs from event to event is taken from a
thousand events of ``harness/work.py``; the transaction's number is written when it is sent.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Final, NamedTuple

from benchmarks.harness import work

EVENTS: Final = 1_000
"""How many different events there are to take from."""


class Rendered(NamedTuple):
    """One event for a store that takes a type, bytes, and perhaps tags.

    ``data`` is compact JSON of the agent and the payload: a store that knows no agents keeps
    the name there.
    """

    event_type: str
    data: bytes
    tags: list[str]


def events(client: int) -> Iterator[Rendered]:
    """Events without end, each with a transaction of its own.

    Args:
        client: below 100; its number keeps its transactions apart from those of the others.
    """
    for number, (event_type, data, customer) in zip(
        itertools.count(), itertools.cycle(_different()), strict=False
    ):
        # As long as the tags in harness/requests.py.
        yield Rendered(event_type, data, [customer, f"transaction:w_{client:02d}{number:07d}"])


@cache
def _different() -> Sequence[tuple[str, bytes, str]]:
    return [
        (
            event.event_type,
            json.dumps(
                {"agent_name": event.agent_name, "payload": event.payload}, separators=(",", ":")
            ).encode(),
            f"customer:{event.customer}",
        )
        for event in work.events(count=EVENTS)
    ]
