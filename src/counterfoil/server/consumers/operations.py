"""Making consumers, looking at them and changing them. Each change is an event in the book."""

from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from counterfoil.server.consumers.effects import NO_CONSUMER, UnchangedError, append_own
from counterfoil.server.consumers.lanes import Lanes
from counterfoil.server.consumers.model import (
    Because,
    NewConsumer,
    Seek,
    consumer_effect,
    judge_consumer_name,
)
from counterfoil.server.consumers.store import ConsumerStore
from counterfoil.server.core.errors import ConsumerNotFound, InvalidInput
from counterfoil.server.log.operations import Log
from counterfoil.server.log.parameters import after_cursor, list_cursor, refused_list_cursor


@dataclass(frozen=True, slots=True)
class Made:
    """A consumer, or what was done to it, as JSON."""

    text: str
    created: bool
    replayed: bool


@dataclass(frozen=True, slots=True)
class Listed:
    """A page of a list, as JSON texts, and where the next one begins."""

    texts: tuple[str, ...]
    next: str | None


class Consumers:
    """The consumers of all tenants, as one process sees them."""

    def __init__(self, log: Log, store: ConsumerStore, lanes: Lanes) -> None:
        self._log = log
        self._store = store
        self._lanes = lanes

    async def put(
        self, tenant_id: int, name: str, asked: NewConsumer, *, by: str, key: str | None
    ) -> Made:
        """Make a consumer, or change it. One that is as asked for already stays.

        Args:
            by: the principal who asks.
            key: its idempotency key.

        Raises:
            AfterAboveHead: it would begin where the book has not come.
            ConsumerStarted: it has begun, and keeps what was to be changed.
            TooMany: the tenant has ``CONSUMERS_MAX``.
            IdempotencyMismatch, Unavailable: as an append does.
        """
        before = await self._store.reading(tenant_id, name)
        effect = consumer_effect(name, asked, by)
        told = {
            field: value
            for field, value in effect.items()
            if field not in {"effect", "by", "change_query"}
        }
        what = "consumer_created" if before is None else "consumer_changed"
        try:
            stored = await append_own(
                self._log, tenant_id, what, {**told, "by": by}, effect, by=by, key=key
            )
        except UnchangedError:
            return Made(await self.one(tenant_id, name), created=False, replayed=False)
        self._lanes.news(tenant_id, name)
        return Made(
            await self.one(tenant_id, name), created=before is None, replayed=stored.replayed
        )

    async def one(self, tenant_id: int, name: str) -> str:
        """How a consumer stands, as JSON. Raises ``ConsumerNotFound``."""
        text = await self._store.consumer(tenant_id, name)
        if text is None:
            raise ConsumerNotFound(NO_CONSUMER)
        return text

    async def all(self, tenant_id: int, *, limit: int, cursor: str | None) -> Listed:
        """A page of a tenant's consumers. Raises ``InvalidInput`` for a cursor that is none."""
        after = "" if cursor is None else after_cursor(cursor)
        if cursor is not None:
            try:
                judge_consumer_name(after)
            except InvalidInput:
                raise refused_list_cursor() from None
        rows = await self._store.consumers(tenant_id, after=after, limit=limit + 1)
        shown = rows[:limit]
        following = list_cursor(shown[-1][0]) if len(rows) > limit else None
        return Listed(tuple(text for _, text in shown), following)

    async def pause(
        self,
        tenant_id: int,
        name: str,
        change: Literal["pause", "resume"],
        asked: Because,
        *,
        by: str,
        key: str | None,
    ) -> Made:
        """Let nothing be handed out, or let it again. Where it is so already, nothing is written.

        Raises ``ConsumerNotFound``, and what an append raises.
        """
        return await self._changed(
            tenant_id,
            name,
            f"consumer_{change}d",
            {"name": name, "reason": asked.reason, "by": by},
            {"effect": "change_consumer", "change": change, "name": name},
            by=by,
            key=key,
        )

    async def seek(
        self, tenant_id: int, name: str, asked: Seek, *, by: str, key: str | None
    ) -> Made:
        """Go on at another place. What is out by then can be neither kept nor acknowledged.

        Raises ``ConsumerNotFound``, ``AfterAboveHead``, and what an append raises.
        """
        return await self._changed(
            tenant_id,
            name,
            "consumer_sought",
            {"name": name, "to": asked.to, "reason": asked.reason, "by": by},
            {"effect": "change_consumer", "change": "seek", "name": name, "to": asked.to},
            by=by,
            key=key,
        )

    async def delete(
        self, tenant_id: int, name: str, *, drop_dead_letters: bool, by: str, key: str | None
    ) -> Made:
        """Delete a consumer, with all that is out.

        Raises ``ConsumerNotFound``, ``ConsumerHasDeadLetters``, and what an append raises.
        """
        text = await self._store.consumer(tenant_id, name)
        if text is None and key is None:
            raise ConsumerNotFound(NO_CONSUMER)
        stood: dict[str, Any] = {} if text is None else msgspec.json.decode(text)
        told = {
            "name": name,
            "unfinished": stood.get("in_flight", 0) + stood.get("waiting", 0),
            "dead_letters": stood.get("set_aside", 0),
            "by": by,
        }
        effect = {
            "effect": "change_consumer",
            "change": "delete",
            "name": name,
            "drop_dead_letters": drop_dead_letters,
        }
        stored = await append_own(
            self._log, tenant_id, "consumer_deleted", told, effect, by=by, key=key
        )
        self._lanes.news(tenant_id, name)
        told = await self._log.payload(tenant_id, stored.first_position)
        shown = {
            "name": told["name"],
            "deleted_at": stored.created_at,
            "deleted_by": told["by"],
            "unfinished": told["unfinished"],
            "dead_letters": told["dead_letters"],
            "event_id": stored.first_position,
        }
        return Made(msgspec.json.encode(shown).decode(), created=False, replayed=stored.replayed)

    async def _changed(
        self,
        tenant_id: int,
        name: str,
        what: str,
        told: dict[str, Any],
        effect: dict[str, Any],
        *,
        by: str,
        key: str | None,
    ) -> Made:
        replayed = False
        try:
            stored = await append_own(self._log, tenant_id, what, told, effect, by=by, key=key)
            replayed = stored.replayed
            self._lanes.news(tenant_id, name)
        except UnchangedError:
            pass
        return Made(await self.one(tenant_id, name), created=False, replayed=replayed)
