"""Making consumers, looking at them and changing them. Each change is an event in the book."""

from typing import Any, Literal

import msgspec

from counterfoil.server.consumers.effects import (
    NO_CONSUMER,
    NotAsExpectedError,
    UnchangedError,
    append_own,
)
from counterfoil.server.consumers.lanes import Lanes
from counterfoil.server.consumers.model import (
    Because,
    NewConsumer,
    Seek,
    consumer_effect,
    judge_consumer_name,
)
from counterfoil.server.consumers.store import ConsumerStore
from counterfoil.server.core import limits
from counterfoil.server.core.errors import Busy, ConsumerNotFound, InvalidInput
from counterfoil.server.log.fields import OWN_TYPE_PREFIX
from counterfoil.server.log.operations import Log
from counterfoil.server.log.own import Made
from counterfoil.server.log.parameters import Listed, after_cursor, list_cursor, refused_list_cursor


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
        effect = consumer_effect(name, asked, by)
        told = {
            field: value
            for field, value in effect.items()
            if field not in {"effect", "by", "change_query"}
        }
        for _ in range(limits.RULES_TRIES_MAX):
            exists = await self._store.reading(tenant_id, name) is not None
            try:
                stored = await append_own(
                    self._log,
                    tenant_id,
                    "consumer_changed" if exists else "consumer_created",
                    {**told, "by": by},
                    {**effect, "exists": exists},
                    by=by,
                    key=key,
                    # It is asked for again in the same words, whether it was there before or not.
                    asked={"call": "put_consumer", **effect},
                )
            except UnchangedError:
                return Made(await self.one(tenant_id, name), created=False, replayed=False)
            except NotAsExpectedError:
                continue
            if stored.replayed:
                event_type = await self._log.event_type(tenant_id, stored.first_position)
                exists = event_type != f"{OWN_TYPE_PREFIX}consumer_created"
            self._lanes.news(tenant_id, name)
            return Made(
                await self.one(tenant_id, name), created=not exists, replayed=stored.replayed
            )
        raise Busy("This consumer is made and deleted all the time. Try again later.")

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
