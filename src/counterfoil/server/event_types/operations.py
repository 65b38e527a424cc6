"""The verbs of event types and settings. What changes anything is an event in the book."""

import asyncio
import contextlib
from typing import Any, Final

from counterfoil.server.core import limits
from counterfoil.server.core.document import canonical, parse
from counterfoil.server.core.errors import (
    Busy,
    DatabaseUnavailable,
    EffectRefused,
    EventTypeNotFound,
    FieldError,
    InvalidInput,
    NarrowingChange,
    NotWritten,
    PayloadMismatch,
    ReadTooSlow,
    RulesChanged,
    TooMany,
    UnregisteredType,
)
from counterfoil.server.event_types.model import NewSettings, NewVersion
from counterfoil.server.event_types.registry import NO_SCHEMA, Registry
from counterfoil.server.event_types.schemas import judge_schema
from counterfoil.server.event_types.store import EventTypeStore, StoredType
from counterfoil.server.event_types.widening import narrowing
from counterfoil.server.log.fields import OWN_TYPE_PREFIX
from counterfoil.server.log.model import AppendRequest
from counterfoil.server.log.operations import Log, Stored
from counterfoil.server.log.own import Made, own_append, own_event
from counterfoil.server.log.parameters import Listed, after_cursor, list_cursor, refused_list_cursor

_TOO_FAST: Final = "The rules of this book change faster than an append can be judged by them; nothing was written."


class EventTypes:
    """The schemas and settings of all tenants, as one process sees them."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._store = EventTypeStore(log.reader)
        self._registry = Registry(self._store)

    async def append(self, tenant_id: int, asked: AppendRequest) -> Stored:
        """Append what keeps to the tenant's rules.

        Each payload is held against the version of its type that is active at its position.

        Raises:
            PayloadMismatch, UnregisteredType: it does not keep to them.
            Busy: the rules change faster than it can be judged.
            NotWritten: the rules cannot be read now.
            Everything else that ``Log.append`` raises.
        """
        if self._registry.has_no_rules(tenant_id):
            with contextlib.suppress(RulesChanged):
                return await self._log.append(tenant_id, asked)
            self._registry.forget(tenant_id)
        for _ in range(limits.RULES_TRIES_MAX):
            try:
                rules = await self._registry.rules(tenant_id)
                await self._registry.check(tenant_id, rules, asked.events)
            except (DatabaseUnavailable, ReadTooSlow) as error:
                raise NotWritten(f"{error} Nothing was written.") from error
            except (PayloadMismatch, UnregisteredType) as refusal:
                if asked.keyed:
                    return await self._log.answered_before(tenant_id, asked, refusal)
                raise
            try:
                return await self._log.append(tenant_id, asked.under(rules.position))
            except RulesChanged:
                self._registry.forget(tenant_id)
        raise Busy(_TOO_FAST)

    async def register(
        self, tenant_id: int, event_type: str, asked: NewVersion, *, by: str, key: str | None
    ) -> Made:
        """Give a type a schema, or its next version. One that is the active one already stays.

        Args:
            by: the principal who asks.
            key: its idempotency key.

        Raises:
            InvalidInput: the schema breaks a rule.
            NarrowingChange: it may refuse what the active version accepts, and that was not
                asked for.
            TooMany: the tenant has ``EVENT_TYPES_MAX``.
            IdempotencyMismatch, Unavailable: as an append does.
        """
        _must_be_theirs(event_type)
        # Compiling a large one takes milliseconds, in which others would not be heard.
        await asyncio.to_thread(judge_schema, asked.schema_)
        for _ in range(limits.RULES_TRIES_MAX):
            active = await self._store.event_type(tenant_id, event_type)
            same = active is not None and _same(active.schema, asked.schema_)
            if active is not None and same and key is None:
                return Made(_shown(active), created=False, replayed=False)
            refusal = None
            if active is not None and not same and not asked.narrowing:
                refusal = await _narrows(active, asked)
                if refusal is not None and key is None:
                    raise refusal
            # Where it is the same, or refused, only an earlier call with this key can be
            # answered: the version of such a one is none that can be taken.
            version = 1 if active is None else active.version + (0 if same or refusal else 1)
            try:
                stored = await self._log.append(
                    tenant_id, _registration(event_type, version, asked, by=by, key=key)
                )
            except EffectRefused as refused:
                if refused.reason == "too_many":
                    raise TooMany(
                        f"A tenant registers at most {limits.EVENT_TYPES_MAX} event types."
                    ) from None
                if refusal is not None:
                    raise refusal from None
                if active is not None and same:
                    return Made(_shown(active), created=False, replayed=False)
                continue  # Somebody registered a version in between: compare with that one.
            self._registry.forget(tenant_id)
            told = await self._log.payload(tenant_id, stored.first_position)
            made = await self._store.event_type(tenant_id, event_type, told["version"])
            if made is not None:
                return Made(_shown(made), created=True, replayed=stored.replayed)
        raise Busy(_TOO_FAST)

    async def event_type(self, tenant_id: int, event_type: str, version: int | None) -> str:
        """One version of a type as JSON, or (None) the active one. Raises ``EventTypeNotFound``."""
        found = await self._store.event_type(tenant_id, event_type, version)
        if found is None:
            raise EventTypeNotFound(NO_SCHEMA)
        return _shown(found)

    async def event_types(self, tenant_id: int, *, limit: int, cursor: str | None) -> Listed:
        """A page of a tenant's types. Raises ``InvalidInput`` for a cursor that is none."""
        rows = await self._store.event_types(tenant_id, after=_after(cursor), limit=limit + 1)
        shown = rows[:limit]
        following = list_cursor(shown[-1].event_type) if len(rows) > limit else None
        return Listed(tuple(row.text for row in shown), following)

    async def settings(self, tenant_id: int) -> str:
        """What a tenant has settled for itself, as JSON."""
        unregistered, event_id = await self._store.settings(tenant_id)
        changed = "null" if event_id is None else event_id
        return f'{{"unregistered_types":"{unregistered}","event_id":{changed}}}'

    async def change_settings(
        self, tenant_id: int, asked: NewSettings, *, by: str, key: str | None
    ) -> Made:
        """Settle something. What is settled so already stays, and nothing is written.

        Raises:
            IdempotencyMismatch, Unavailable: as an append does.
        """
        row = {"unregistered_types": asked.unregistered_types, "by": by}
        request = own_append(
            own_event("settings_changed", row, tags=[], principal=by),
            effect={"effect": "change_settings", **row},
            asked={"call": "change_settings", **asked.model_dump()},
            key=key,
        )
        replayed = False
        with contextlib.suppress(EffectRefused):  # It is settled so already.
            replayed = (await self._log.append(tenant_id, request)).replayed
        self._registry.forget(tenant_id)
        return Made(await self.settings(tenant_id), created=False, replayed=replayed)


def _registration(
    event_type: str, version: int, asked: NewVersion, *, by: str, key: str | None
) -> AppendRequest:
    row: dict[str, Any] = {
        "event_type": event_type,
        "version": version,
        "schema": asked.schema_,
        "narrowing": asked.narrowing,
        "reason": asked.reason,
        "by": by,
    }
    return own_append(
        own_event("event_type_registered", row, tags=[f"event-type:{event_type}"], principal=by),
        effect={"effect": "register_event_type", **row},
        asked={
            "call": "register_event_type",
            "event_type": event_type,
            **asked.model_dump(by_alias=True),
        },
        key=key,
    )


def _must_be_theirs(event_type: str) -> None:
    if event_type.startswith(OWN_TYPE_PREFIX):
        message = f"Types that begin with `{OWN_TYPE_PREFIX}` are the service's own."
        raise InvalidInput(message, [FieldError("/event_type", message, "path")])


async def _narrows(active: StoredType, asked: NewVersion) -> NarrowingChange | None:
    """Why a schema counts as narrower than the active one; None if it does not."""
    before: Any = parse(active.schema.encode())
    errors = await asyncio.to_thread(narrowing, before, asked.schema_)
    if not errors:
        return None
    return NarrowingChange(
        f"This schema may refuse payloads that version {active.version} accepts. If that is "
        "meant, send `narrowing: true` with a `reason`.",
        errors,
    )


def _same(stored: str, schema: dict[str, Any]) -> bool:
    return canonical(parse(stored.encode())) == canonical(schema)


def _shown(stored: StoredType) -> str:
    return f'{stored.text.rstrip("}")},"schema":{stored.schema}}}'


def _after(cursor: str | None) -> str:
    """The type that a page begins behind. Raises ``InvalidInput``."""
    if cursor is None:
        return ""
    after = after_cursor(cursor)
    if not 1 <= len(after) <= limits.NAME_CHARACTERS_MAX or "\0" in after:
        raise refused_list_cursor()
    return after
