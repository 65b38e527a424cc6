"""An event loop whose time passes when nobody has anything to do, and then at once.

What waits for a time is reached in no time, and exactly; where everybody waits for nothing, the test
fails instead of hanging.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import TypeVar

from typing_extensions import override

T = TypeVar("T")


class Clock:
    """What time it is, and how much of the processor's time was used; a test moves both."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.processor_seconds = 0.0

    def work(self, seconds: float) -> None:
        """Keep the loop, and the processor, busy for so long."""
        self.seconds += seconds
        self.processor_seconds += seconds

    def run(self, main: Coroutine[object, object, T]) -> T:
        """Run it to its end, on a loop of its own that goes by this clock."""
        with asyncio.Runner(loop_factory=lambda: _VirtualLoop(self)) as runner:
            return runner.run(main)

    async def let_pass(self, seconds: float) -> None:
        """Let the others do what they do in so much time."""
        loop = asyncio.get_running_loop()
        passed = loop.create_future()
        timer = loop.call_later(seconds, passed.set_result, None)
        try:
            await passed
        finally:
            timer.cancel()


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        super().__init__(_Impatient(clock))

    @override
    def time(self) -> float:
        return self._clock.seconds


class _Impatient(selectors.SelectSelector):
    """Looks at once, where it was to wait."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    @override
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits, and nobody for a time"
        self._clock.seconds += max(0.0, timeout)
        return super().select(0)


async def passes_of_the_loop(number: int) -> None:
    """Let the loop pass so often over what is ready."""
    for _ in range(number):
        await asyncio.sleep(0)
