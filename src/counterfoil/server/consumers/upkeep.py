"""What goes on by itself: setting aside what has failed too often, and clearing away.

Claiming appends nothing, and so sets nothing aside: a claim that comes upon something exhausted
says so, and a sweep here writes the events. Each process also looks every ``UPKEEP_SECONDS`` for
consumers that nobody calls at the time.
"""

import asyncio
from typing import Final

import structlog

from counterfoil.server.consumers.calls import Token
from counterfoil.server.consumers.effects import EXHAUSTED, set_aside_event
from counterfoil.server.consumers.lanes import Lanes
from counterfoil.server.consumers.store import ConsumerStore
from counterfoil.server.core import limits, metrics
from counterfoil.server.core.errors import CounterfoilError, EffectRefused, Unavailable
from counterfoil.server.log.fields import OWN_AGENT
from counterfoil.server.log.operations import Log
from counterfoil.server.log.own import own_append

_BY: Final = f"service:{OWN_AGENT}"

_log = structlog.get_logger(__name__)


class Upkeep:
    """The sweeps of one process."""

    def __init__(self, log: Log, store: ConsumerStore, lanes: Lanes) -> None:
        self._log = log
        self._store = store
        self._lanes = lanes
        self._looking: asyncio.Task[None] | None = None
        self._sweeps: dict[tuple[int, str], asyncio.Task[None]] = {}
        lanes.exhausted = self.found_exhausted

    def start(self) -> None:
        """Look after what nobody claims, from now on."""
        self._looking = asyncio.create_task(self._look_after_all(), name="consumers: upkeep")

    async def close(self) -> None:
        """Finish the sweeps that have begun."""
        tasks = [*self._sweeps.values()]
        if self._looking is not None:
            self._looking.cancel()
            tasks.append(self._looking)
        if tasks:
            await asyncio.wait(tasks)

    def found_exhausted(self, tenant_id: int, name: str) -> None:
        """Something is to be set aside: do it soon, once, beside the calls."""
        if (tenant_id, name) not in self._sweeps:
            sweep = asyncio.create_task(self._sweep(tenant_id, name), name=f"sweep {name}")
            self._sweeps[tenant_id, name] = sweep
            sweep.add_done_callback(lambda _: self._sweeps.pop((tenant_id, name), None))

    async def _sweep(self, tenant_id: int, name: str) -> None:
        """Set aside what has failed as often as it may."""
        try:
            while rows := await self._store.exhausted(
                tenant_id, name, limit=limits.SET_ASIDE_DELIVERIES
            ):
                request = own_append(
                    *(
                        set_aside_event(name, row.position, row.history, EXHAUSTED, _BY)
                        for row in rows
                    ),
                    effect={
                        "effect": "set_aside",
                        "consumer": name,
                        "tokens": [
                            Token(row.generation, row.position, row.attempt) for row in rows
                        ],
                        "principal": None,
                        "reason": EXHAUSTED,
                        "by": _BY,
                    },
                    asked={},
                )
                try:
                    await self._log.append(tenant_id, request)
                except EffectRefused as refused:
                    # Another process came first with some of them: look again.
                    if refused.reason != "unchanged":
                        return
                else:
                    metrics.DELIVERIES.labels("set_aside").inc(len(rows))
                    self._lanes.news(tenant_id, name)
        except CounterfoilError as error:
            _log.info("a sweep waits", name=name, reason=str(error))

    async def _look_after_all(self) -> None:
        """Take back what dead holders have left, and clear away, of consumers that nobody calls."""
        while True:
            await asyncio.sleep(limits.UPKEEP_SECONDS)
            try:
                for tenant_id, name in await self._store.in_need():
                    if name is None:
                        while await self._store.clear(tenant_id) >= limits.UPKEEP_ROWS_MAX:
                            pass
                    else:
                        self._lanes.look_for_due(tenant_id, name)
            except Unavailable as error:
                _log.info("upkeep waits", reason=str(error))
            except Exception:  # noqa: BLE001 - it goes on next time, and is logged
                _log.exception("upkeep failed")
