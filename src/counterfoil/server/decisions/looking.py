"""Looks at the book for decisions, many in one statement.

A look is a third of a decision's work in the database, and most of it is what any statement costs.
So the looks of a tenant that arrive while one statement runs are put into the next, as appends are
put into groups (``log/writer.py``). Each still sees what was committed before it was asked for: it
is in no statement that began before.
"""

import asyncio
from typing import Final

from counterfoil.server.core import limits
from counterfoil.server.core.errors import ReadTooSlow
from counterfoil.server.decisions.store import DecisionStore, Look, Seen

_Waiting = tuple[Look, "asyncio.Future[Seen]"]


class Looks:
    """The looks of one process. One statement of a tenant runs at a time."""

    def __init__(self, store: DecisionStore) -> None:
        self._store: Final = store
        self._waiting: dict[int, list[_Waiting]] = {}
        self._running: dict[int, asyncio.Task[None]] = {}

    async def look(self, tenant_id: int, asked: Look) -> Seen:
        """See all that a decision rests on.

        Raises:
            DatabaseUnavailable, ReadTooSlow
        """
        seen: asyncio.Future[Seen] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant_id, []).append((asked, seen))
        if tenant_id not in self._running:
            self._running[tenant_id] = asyncio.create_task(
                self._drive(tenant_id), name=f"looks of tenant {tenant_id}"
            )
        return await seen

    async def _drive(self, tenant_id: int) -> None:
        """Run statement after statement until nobody waits."""
        try:
            while waiting := self._waiting.pop(tenant_id, None):
                group = waiting[: limits.DECISION_LOOKS_MAX]
                if rest := waiting[limits.DECISION_LOOKS_MAX :]:
                    self._waiting[tenant_id] = rest
                # Whoever has gone meanwhile is asked for no more.
                group = [one for one in group if not one[1].done()]
                if group:
                    await self._run(tenant_id, group)
        finally:
            del self._running[tenant_id]

    async def _run(self, tenant_id: int, group: list[_Waiting]) -> None:
        try:
            found = await self._store.signals(tenant_id, [asked for asked, _ in group])
        except ReadTooSlow as error:
            # One of them may be what is slow: the others must not be refused with it.
            if len(group) > 1:
                half = len(group) // 2
                await self._run(tenant_id, group[:half])
                await self._run(tenant_id, group[half:])
            else:
                _refuse(group, error)
            return
        except BaseException as error:
            _refuse(group, error)
            if not isinstance(error, Exception):
                raise
            return
        for (_, seen), answer in zip(group, found, strict=True):
            if not seen.done():
                seen.set_result(answer)


def _refuse(group: list[_Waiting], error: BaseException) -> None:
    for _, seen in group:
        if not seen.done():
            seen.set_exception(error)
