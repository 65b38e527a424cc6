"""The promises that the tests check, and the marker with which a test names its own.

    @pytest.mark.promise("P4")
    def test_…

``tests/test_promises.py`` holds the list against the suite both ways: a promise without a
test fails there, and so does a test of a promise that is not in the list.
"""

from collections.abc import Mapping
from typing import Final

import pytest

PROMISES: Final[Mapping[str, str]] = {
    "P1": "Durable: a 2xx answer means committed and flushed. No kill -9, of the service or of "
    "PostgreSQL, at any instant, loses an acknowledged event or leaves a part of a batch.",
    "P2": "Ordered: positions are 1, 2, 3 … per tenant; if n can be seen, all before n can be "
    "seen; a cursor never skips, however writers interleave.",
    "P3": "Read your writes: after the answer, every read of the primary sees the event; what is "
    "read and the head that comes with it are one snapshot, over all pages.",
    "P4": "Decide on what you read: a conditional append commits only if no event that matches "
    "`fail_if` has a position above `after`, all writers counted.",
    "P5": "Once: same principal, same Idempotency-Key, same content: the same answer, also after "
    "a restart and from another process; other content: 422. Refusals are not kept.",
    "P6": "Immutable: no code path and no role of the service changes or deletes an event. "
    "Erasure, by a role of its own that can do nothing else, blanks a payload and its salt, and "
    "leaves the event's place and digest.",
    "P7": "Nobody writes in another's name: an agent's key writes as that agent only; no key sees "
    "another tenant, not even whether something exists.",
    "P8": "Handed over: each matching event is held by one holder at a time per consumer, in order "
    "per key; a dead holder's lease runs out; a late acknowledgement is refused; what keeps failing "
    "is set aside, never lost.",
    "P9": "Reproducible: a decision replayed from its record gives the identical result, or says "
    "what differs.",
    "P13": "Clear refusal: bad input gets application/problem+json with a stable type and the "
    "offending field, and nothing is stored; too much load gets 429 or 503 with Retry-After.",
}
"""What must hold, by id. P10 to P12 come with the parts that they are about."""


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known: misspelt markers fail."""
    config.addinivalue_line(
        "markers", "promise(*ids): the promises that this test checks; see tests/promises.py"
    )
