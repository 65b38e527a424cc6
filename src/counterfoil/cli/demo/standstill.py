"""Where a kill is scheduled: a scorer stands still between its work and its acknowledgement."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from counterfoil.cli.demo import wire
from counterfoil.cli.demo.wire import Wire


class Standstill:
    """A moment of one process at which everything is half-way, and nothing goes on.

    It comes with the transaction ``killed_at``: from then on the process acknowledges nothing.
    Once the acknowledgements that were under way are answered, it reports what it has in hand,
    that transaction last. Whoever has read this report has read all that the process has ever
    done, and can kill it without losing count.
    """

    def __init__(self, killed_at: str, pipes: Wire) -> None:
        self._killed_at = killed_at
        self._pipes = pipes
        self._standing = False
        self._over = asyncio.Event()
        self._held: list[str] = []
        self._under_way = 0

    @contextlib.asynccontextmanager
    async def passed_by(self, transaction_id: str) -> AsyncIterator[None]:
        """Let an acknowledgement through, the block; or hold it up until it is over."""
        self._standing = self._standing or transaction_id == self._killed_at
        if self._standing and not self._over.is_set():
            self._held.append(transaction_id)
            self._tell()
            await self._over.wait()
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            self._tell()

    def end(self, killed_at: str) -> None:
        """Let everything through from now on: somebody was killed at this transaction."""
        if killed_at == self._killed_at:
            self._over.set()

    def _tell(self) -> None:
        if not self._standing or self._under_way:
            return
        for transaction_id in sorted(self._held, key=lambda each: each == self._killed_at):
            self._pipes.report(wire.HELD, transaction_id)
        self._held.clear()
