"""The one way in which tests wait: for a condition, with a bound, and a reason if it fails."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

T = TypeVar("T")

WAIT_SECONDS_MAX: Final = float(os.environ.get("COUNTERFOIL_TEST_WAIT_SECONDS", "30"))
"""Far beyond what any awaited thing takes, below the time limit of a test. Mutants, most of
which are noticed by something that never comes, set less."""

ARRIVAL_SECONDS_MAX: Final = min(10.0, WAIT_SECONDS_MAX)
"""The same for somebody who arrives where he himself waits for five seconds at the most."""


def wait_for(look: Callable[[], T | None], what: str, seconds: float = WAIT_SECONDS_MAX) -> T:
    """Poll until ``look()`` returns something truthy, and return it.

    Raises AssertionError, saying ``what`` was waited for, when ``seconds`` have passed.
    """
    deadline = time.monotonic() + seconds
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.01)  # poll


async def eventually(
    look: Callable[[], Awaitable[T | None]], what: str, seconds: float = WAIT_SECONDS_MAX
) -> T:
    """The same for a ``look`` that has to be awaited."""
    deadline = time.monotonic() + seconds
    while True:
        seen = await look()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:.0f} s for {what}")
        await asyncio.sleep(0.005)  # poll
