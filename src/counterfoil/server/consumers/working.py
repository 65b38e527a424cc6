"""What holders do: claim, acknowledge, extend, give back, set aside.

All but the last leave no event: they are bookkeeping, and go by their consumer's lane
(``lanes.py``). An acknowledgement with an outcome is an append, and comes here only to say what
was lost.
"""

from collections.abc import Callable, Sequence
from typing import Final

from counterfoil.server.consumers.calls import Call, Token, call_of
from counterfoil.server.consumers.effects import NO_CONSUMER, refusal, set_aside_event
from counterfoil.server.consumers.lane import Outcome
from counterfoil.server.consumers.lanes import Lanes
from counterfoil.server.consumers.model import Claim, Extend, Release, SetAside
from counterfoil.server.consumers.store import ConsumerStore
from counterfoil.server.consumers.watching import items_of
from counterfoil.server.core import limits, metrics
from counterfoil.server.core.errors import (
    ConsumerNotFound,
    EffectRefused,
    IdempotencyMismatch,
    LeaseLost,
)
from counterfoil.server.log.operations import Log, Stored
from counterfoil.server.log.own import own_append
from counterfoil.server.log.query import Item

_LOST: Final = "Some of this is not held by you any more, so nothing was done: the work belongs to another now."


class Work:
    """The calls of holders, of all tenants, in one process."""

    def __init__(self, log: Log, store: ConsumerStore, lanes: Lanes) -> None:
        self._log = log
        self._store = store
        self._lanes = lanes
        self._readings: dict[tuple[int, str], tuple[int, Sequence[Item]]] = {}

    async def reads(self, tenant_id: int, name: str) -> Sequence[Item]:
        """What a consumer reads. Raises ``ConsumerNotFound``."""
        kept = self._readings.get((tenant_id, name))
        if kept is None:
            reading = await self._store.reading(tenant_id, name)
            if reading is None:
                raise ConsumerNotFound(NO_CONSUMER)
            if len(self._readings) >= limits.RULES_REMEMBERED_MAX:
                self._readings.clear()
            kept = reading.changed_by, items_of(reading.query)
            self._readings[tenant_id, name] = kept
        return kept[1]

    def knows(self, tenant_id: int, name: str, changed_by: int) -> bool:
        """Whether ``reads`` answered as of this change; if not, it is asked anew."""
        kept = self._readings.get((tenant_id, name))
        if kept is not None and kept[0] == changed_by:
            return True
        self._readings.pop((tenant_id, name), None)
        return False

    async def claim(
        self,
        tenant_id: int,
        name: str,
        asked: Claim,
        *,
        principal: str,
        key: str | None,
        left: Callable[[], bool] = lambda: False,
    ) -> Outcome:
        """Hand out what is ready, or what becomes ready while the claim waits.

        To whoever has ``left`` by the time of the answer, nothing is.

        Raises ``ConsumerNotFound``, ``LeaseLost``, ``IdempotencyMismatch``, ``Unavailable``.
        """
        return await self._called(
            tenant_id,
            name,
            call_of(
                "claim",
                name,
                principal=principal,
                key=key,
                tokens=asked.done or (),
                holder=asked.holder,
                count=asked.count,
            ),
            wait_seconds=float(asked.wait_seconds),
            left=left,
        )

    async def ack(
        self, tenant_id: int, name: str, tokens: Sequence[str], *, principal: str, key: str | None
    ) -> Outcome:
        """Acknowledge what leaves no event. Raises as ``claim``."""
        return await self._called(
            tenant_id,
            name,
            call_of("ack", name, principal=principal, key=key, tokens=tokens),
        )

    def handed_in(self, tenant_id: int, name: str, count: int) -> None:
        """So many deliveries were acknowledged with an outcome, which is in the book now."""
        metrics.DELIVERIES.labels("ack").inc(count)
        self._lanes.handed_in(tenant_id, name)

    async def extend(self, tenant_id: int, name: str, asked: Extend, *, principal: str) -> Outcome:
        """Let leases end later. Raises as ``claim``."""
        return await self._called(
            tenant_id,
            name,
            call_of(
                "extend",
                name,
                principal=principal,
                key=None,
                tokens=asked.tokens,
                seconds=asked.lease_seconds,
            ),
        )

    async def release(
        self, tenant_id: int, name: str, asked: Release, *, principal: str, key: str | None
    ) -> Outcome:
        """Give back what is held. Raises as ``claim``."""
        return await self._called(
            tenant_id,
            name,
            call_of(
                "release",
                name,
                principal=principal,
                key=key,
                tokens=asked.tokens,
                seconds=asked.delay_seconds,
                reason=asked.reason,
            ),
        )

    async def set_aside(
        self, tenant_id: int, name: str, asked: SetAside, *, principal: str, key: str | None
    ) -> Stored:
        """Set aside what is held: an event for each, next to each other, in their order.

        Raises as ``claim``.
        """
        tokens = Token.all_of(asked.tokens)
        told = await self._store.histories(
            tenant_id, name, positions=[token.position for token in tokens], principal=principal
        )
        events = []
        for token in tokens:
            holder, since, history = told.get(token.position, ("", "", []))
            last = {"attempt": token.attempt, "holder": holder, "claimed_at": since}
            events.append(
                set_aside_event(
                    name,
                    token.position,
                    [*history, {**last, "reason": asked.reason}],
                    asked.reason,
                    principal,
                )
            )
        request = own_append(
            *events,
            effect={
                "effect": "set_aside",
                "consumer": name,
                "tokens": tokens,
                "principal": principal,
                "reason": asked.reason,
                "by": principal,
            },
            asked={"call": "set_aside", "consumer": name, **asked.model_dump()},
            key=key,
        )
        try:
            stored = await self._log.append(tenant_id, request)
        except EffectRefused as refused:
            if refused.reason == "lease_lost":
                raise await self.lost(tenant_id, name, asked.tokens, principal) from None
            raise refusal(refused.reason) from None
        metrics.DELIVERIES.labels("set_aside").inc(len(tokens))
        self._lanes.news(tenant_id, name)
        return stored

    async def lost(
        self, tenant_id: int, name: str, tokens: Sequence[str], principal: str
    ) -> LeaseLost:
        """The refusal of a call that names what its caller holds no longer, with what that is."""
        named = Token.all_of(tokens)
        held = await self._store.still_held(
            tenant_id, name, positions=[token.position for token in named], principal=principal
        )
        lost = [token.text for token in named if (token.position, token.attempt) not in held]
        # Of an earlier generation, all are; or they were held again by the time of this look.
        return LeaseLost(_LOST, lost or [token.text for token in named])

    async def _called(
        self,
        tenant_id: int,
        name: str,
        call: Call,
        *,
        wait_seconds: float = 0,
        left: Callable[[], bool] = lambda: False,
    ) -> Outcome:
        outcome = await self._lanes.call(
            tenant_id, name, call, wait_seconds=wait_seconds, left=left
        )
        if outcome.status == "lost":
            raise LeaseLost(_LOST, [token.text for token in outcome.lost])
        if outcome.status == "key_reused":
            raise IdempotencyMismatch(
                "This Idempotency-Key was used before for other content. Use a new key for a new "
                "request, and repeat a request unchanged."
            )
        return outcome
