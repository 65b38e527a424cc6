"""The pipeline: which consumer hands which events to which agent, and in which order.

| agent          | is handed                               | one after another, of each … |
|----------------|-----------------------------------------|------------------------------|
| `scorer`       | `transaction_posted`                    | customer                     |
| `investigator` | `risk_score`                            | customer                     |
| `approver`     | `clear_transaction`, `flag_transaction` | transaction                  |

Scores are about what a customer did before, so a customer's payments are scored in the order
in which they were made, however many copies of the scorer there are. A late flag waits until
its transaction was decided at the clearance before it, and is found to be decided.

Each run has consumers of its own, which know nothing but that run, and which are deleted at
its end: it may have been let into a book that is somebody else's.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from counterfoil import Counterfoil, CounterfoilError
from counterfoil.cli.demo import vocabulary as words

SCORER_LEASE_SECONDS: Final = 3
"""How long the payments of a scorer that was killed wait for the other copy. A score takes
milliseconds; and a copy that lives extends its leases."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One agent's place in the pipeline. ``lease_seconds`` where the default is too long."""

    agent: str
    types: tuple[str, ...]
    order_by: str
    lease_seconds: int | None = None


STAGES: Final = (
    Stage(words.SCORER, (words.POSTED,), "customer", SCORER_LEASE_SECONDS),
    Stage(words.INVESTIGATOR, (words.SCORED,), "customer"),
    Stage(words.APPROVER, (words.CLEARED, words.FLAGGED), "transaction"),
)


@dataclass(frozen=True, slots=True)
class Left:
    """What a consumer has left over: matching events that are not done, and those set aside."""

    unfinished: int
    set_aside: int


@contextlib.contextmanager
def consumers(cf: Counterfoil, run_id: str) -> Iterator[None]:
    """Make the consumers of a run, from the book as it stands; delete them in the end.

    Raises:
        CounterfoilError: they could not be made.
    """
    try:
        for stage in STAGES:
            cf.consumers.put(
                words.consumer_name(run_id, stage.agent),
                types=stage.types,
                tags=words.run_tag(run_id),
                start="now",
                order_by=stage.order_by,
                lease_seconds=stage.lease_seconds,
            )
        yield
    finally:
        # Of a service that is gone, nothing can be deleted, and the run has said so.
        with contextlib.suppress(CounterfoilError):
            for stage in STAGES:
                cf.consumers.delete(words.consumer_name(run_id, stage.agent), dead_letters="drop")


def left_over(cf: Counterfoil, run_id: str) -> dict[str, Left]:
    """What is left of the work, by agent; nothing, at the end of a run as it must be."""
    left = {}
    for stage in STAGES:
        consumer = cf.consumers.get(words.consumer_name(run_id, stage.agent))
        left[stage.agent] = Left(consumer.lag.events, consumer.set_aside)
    return left
