"""The verbs of the brake. Freezing and thawing are events; append_v4 does the holding.

A freeze is there from its event's position on, in the order of all appends, so nothing that
bears what is frozen has a higher position, however many processes write at that moment.
"""

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from counterfoil.server.brake.model import NewFreeze, Thaw
from counterfoil.server.brake.store import BrakeStore
from counterfoil.server.core import limits
from counterfoil.server.core.errors import (
    EffectRefused,
    FieldError,
    FreezeNotFound,
    Frozen,
    InvalidInput,
    TooMany,
)
from counterfoil.server.log.operations import Log
from counterfoil.server.log.own import own_append, own_event

_NOT_FROZEN: Final = "Nothing is frozen under this id. It may have ended, or been thawed."
_WHAT: Final = {"agent": "The agent `{}`", "tag": "The tag `{}`", "book": "The whole book"}


@dataclass(frozen=True, slots=True)
class Made:
    """A freeze or a thaw as JSON, and whether an earlier call with the same key made it."""

    id: int
    text: str
    replayed: bool


class Brake:
    """What is frozen in the books, as one process sees them."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._store = BrakeStore(log.reader)

    async def freeze(self, tenant_id: int, asked: NewFreeze, *, by: str, key: str | None) -> Made:
        """Let nothing be written about something, from now on.

        Args:
            by: the principal who asks.
            key: its idempotency key.

        Raises:
            InvalidInput: it would end in the past.
            TooMany: the tenant has ``FREEZES_MAX``.
            IdempotencyMismatch, Unavailable: as an append does.
        """
        row = {
            "kind": asked.kind,
            "subject": asked.subject,
            "reason": asked.reason,
            "until": asked.until,
            "by": by,
        }
        event = own_event(
            "frozen",
            {**row, "subject": asked.subject or None},
            # Whoever reads about the thing reads that it was frozen.
            tags=[asked.tag] if asked.tag else [],
            principal=by,
        )
        asked_for = {"call": "freeze", **asked.model_dump()}
        request = own_append(event, effect={"effect": "freeze", **row}, asked=asked_for, key=key)
        try:
            stored = await self._log.append(tenant_id, request)
        except EffectRefused as refused:
            if refused.reason == "ends_in_the_past":
                message = "`until` must lie in the future, by the database's clock."
                raise InvalidInput(message, [FieldError("/until", message)]) from None
            raise TooMany(
                f"A tenant has at most {limits.FREEZES_MAX} freezes. Thaw some first."
            ) from None
        shown = {
            "id": stored.first_position,
            "kind": asked.kind,
            "subject": asked.subject or None,
            "reason": asked.reason,
            "until": asked.until,
            "frozen_at": stored.created_at,
            "frozen_by": by,
        }
        return Made(stored.first_position, msgspec.json.encode(shown).decode(), stored.replayed)

    async def thaw(
        self, tenant_id: int, freeze_id: int, asked: Thaw, *, by: str, key: str | None
    ) -> Made:
        """Let things be written again.

        Raises:
            FreezeNotFound: it is not frozen.
            IdempotencyMismatch, Unavailable: as an append does.
        """
        # An earlier call with this key may have thawed it: then the log knows better.
        found = await self._store.freezes(tenant_id, after=freeze_id - 1, up_to=freeze_id, limit=1)
        if not found and key is None:
            raise FreezeNotFound(_NOT_FROZEN)
        frozen: dict[str, Any] = msgspec.json.decode(found[0].text) if found else {"id": freeze_id}
        event = own_event(
            "thawed",
            {**frozen, "thawed_because": asked.reason, "by": by},
            tags=[frozen["subject"]] if frozen.get("kind") == "tag" else [],
            principal=by,
        )
        request = own_append(
            event,
            effect={"effect": "thaw", "id": freeze_id},
            asked={"call": "thaw", "id": freeze_id, **asked.model_dump()},
            key=key,
        )
        try:
            stored = await self._log.append(tenant_id, request)
        except EffectRefused:
            raise FreezeNotFound(_NOT_FROZEN) from None
        told = await self._log.payload(tenant_id, stored.first_position)
        told.pop("thawed_because")
        thawed_by = told.pop("by")
        shown = {
            **told,
            "thawed_at": stored.created_at,
            "thawed_by": thawed_by,
            "event_id": stored.first_position,
        }
        return Made(freeze_id, msgspec.json.encode(shown).decode(), stored.replayed)

    async def freezes(self, tenant_id: int) -> list[str]:
        """All that is frozen now, as JSON texts, the oldest first."""
        found = await self._store.freezes(tenant_id, limit=limits.FREEZES_MAX)
        return [freeze.text for freeze in found]

    async def one(self, tenant_id: int, freeze_id: int) -> str:
        """A freeze in force, as JSON text. Raises ``FreezeNotFound``."""
        found = await self._store.freezes(tenant_id, after=freeze_id - 1, up_to=freeze_id, limit=1)
        if not found:
            raise FreezeNotFound(_NOT_FROZEN)
        return found[0].text

    async def explained(self, tenant_id: int, error: Frozen) -> Frozen:
        """The refusal of an append with the freeze that is in its way, and why it is there."""
        found = await self._store.freezes(
            tenant_id, after=error.freeze - 1, up_to=error.freeze, limit=1
        )
        if not found:
            # It was thawed, or has ended, since the append was refused.
            return error
        freeze = msgspec.json.decode(found[0].text)
        what = _WHAT[freeze["kind"]].format(freeze["subject"])
        until = "" if freeze["until"] is None else f" until {freeze['until']}"
        return Frozen(f"{what} is frozen{until}: {freeze['reason']}", error.freeze, found[0].text)
