"""The rules that appends are judged by, as one process knows them.

Theory of operation
-------------------
A payload cannot be checked in the database, so it is checked here, before the append. The
rules may change in between. So every append carries the position of the last change under
which it was judged; ``append_v4`` compares that under the lock, and answers ``rules_changed``
where it is outdated. Then the rules are forgotten here, read anew, and the append is judged
anew. That is all that keeps a process up to date: what it remembers may be old, and can let
nothing through.

A version of a schema never changes, so what was compiled can be kept as long as there is
room, whoever it belongs to.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from counterfoil.server.core import limits
from counterfoil.server.core.document import pointer_to
from counterfoil.server.core.errors import FieldError, PayloadMismatch, UnregisteredType
from counterfoil.server.event_types.compiled import CompiledSchema, compile_stored
from counterfoil.server.event_types.store import EventTypeStore, StoredRules
from counterfoil.server.log.model import NewEvent, Path


class Rules:
    """What the events of one tenant are held against. Immutable.

    ``position`` is that of the event that changed it last; 0: nothing was ever registered.
    """

    def __init__(self, stored: StoredRules) -> None:
        self.position = stored.position
        self.versions = stored.versions
        self._refuses_unregistered = stored.unregistered_types == "refused"

    def version_of(self, event: NewEvent, path: Path) -> int | None:
        """The version that an event's payload has to fit; None: any payload will do.

        Raises ``UnregisteredType`` where its type has no schema and would need one.
        """
        version = self.versions.get(event.event_type)
        if version is None and self._refuses_unregistered:
            message = (
                f"The type `{event.event_type}` is not registered, and only registered types are "
                "accepted here."
            )
            raise UnregisteredType(
                message, [FieldError(pointer_to((*path, "event_type")), message)]
            )
        return version


class Registry:
    """The rules of the tenants that this process writes for, and their compiled schemas."""

    def __init__(self, store: EventTypeStore) -> None:
        self._store = store
        self._rules: OrderedDict[int, Rules] = OrderedDict()
        self._schemas: OrderedDict[tuple[int, str, int], CompiledSchema] = OrderedDict()
        self._schemas_bytes = 0
        self._compiling: dict[tuple[int, str, int], asyncio.Task[CompiledSchema]] = {}

    async def rules(self, tenant_id: int) -> Rules:
        """A tenant's rules, as far as this process knows.

        Raises:
            DatabaseUnavailable, ReadTooSlow
        """
        rules = self._rules.get(tenant_id)
        if rules is None:
            rules = self._rules[tenant_id] = Rules(await self._store.rules(tenant_id))
            if len(self._rules) > limits.RULES_REMEMBERED_MAX:
                self._rules.popitem(last=False)
        return rules

    def has_no_rules(self, tenant_id: int) -> bool:
        """Whether this tenant, as far as this process knows, never registered or settled anything."""
        rules = self._rules.get(tenant_id)
        return rules is not None and not rules.position

    def forget(self, tenant_id: int) -> None:
        """The rules of this tenant have changed: read them anew when they are needed."""
        self._rules.pop(tenant_id, None)

    async def check(
        self, tenant_id: int, rules: Rules, events: Sequence[tuple[Path, NewEvent]]
    ) -> None:
        """Hold judged events against these rules.

        Raises:
            UnregisteredType: a type has no schema, and the tenant takes none without.
            PayloadMismatch: a payload does not fit, with its faults at their pointers; or
                finding that out could take too long.
            DatabaseUnavailable, ReadTooSlow
        """
        if not rules.position:
            return
        total = unheard = 0
        for path, event in events:
            version = rules.version_of(event, path)
            if version is None:
                continue
            schema = await self._schema(tenant_id, event.event_type, version)
            steps = schema.steps(event.payload)
            total += steps
            unheard += steps
            if steps > limits.CHECK_STEPS_MAX:
                raise _mismatch(event, version, [_too_dear(path, steps)])
            if total > limits.CHECK_REQUEST_STEPS_MAX:
                raise _mismatch(event, version, [_too_dear_together(path)])
            if unheard > limits.CHECK_STEPS_MAX:
                # Others are served between two payloads, if not within one.
                await asyncio.sleep(0)
                unheard = steps
            errors = schema.faults(event.payload, path)
            if errors:
                raise _mismatch(event, version, errors)

    async def _schema(self, tenant_id: int, event_type: str, version: int) -> CompiledSchema:
        place = (tenant_id, event_type, version)
        schema = self._schemas.get(place)
        if schema is not None:
            self._schemas.move_to_end(place)
            return schema
        compiling = self._compiling.get(place)
        if compiling is None:
            compiling = self._compiling[place] = asyncio.create_task(self._compiled(*place))
            compiling.add_done_callback(_seen)
        # All that need it wait for one and the same; who goes away leaves it to the others.
        return await asyncio.shield(compiling)

    async def _compiled(self, tenant_id: int, event_type: str, version: int) -> CompiledSchema:
        place = (tenant_id, event_type, version)
        try:
            text = await self._store.schema(tenant_id, event_type, version)
            # Compiling a large one takes milliseconds, in which others would not be heard.
            schema = await asyncio.to_thread(compile_stored, text)
        finally:
            self._compiling.pop(place, None)
        self._keep(place, schema)
        return schema

    def _keep(self, place: tuple[int, str, int], schema: CompiledSchema) -> None:
        self._schemas[place] = schema
        self._schemas_bytes += schema.bytes
        while self._schemas_bytes > limits.SCHEMAS_REMEMBERED_BYTES_MAX:
            _, forgotten = self._schemas.popitem(last=False)
            self._schemas_bytes -= forgotten.bytes


def _seen(task: asyncio.Task[CompiledSchema]) -> None:
    """Its failure is told to whoever waits; where nobody does any more, nobody misses it."""
    if not task.cancelled():
        task.exception()


def _mismatch(event: NewEvent, version: int, errors: list[FieldError]) -> PayloadMismatch:
    return PayloadMismatch(
        f"The payload does not fit version {version} of the type `{event.event_type}`. "
        f"{errors[0].message}",
        errors,
        event_type=event.event_type,
        version=version,
    )


def _too_dear(path: Path, steps: int) -> FieldError:
    return FieldError(
        pointer_to((*path, "payload")),
        f"Holding it against its schema could take {steps:,} steps, and may take "
        f"{limits.CHECK_STEPS_MAX:,}. Send less in one event, or let the schema ask less of each "
        "place.",
    )


def _too_dear_together(path: Path) -> FieldError:
    return FieldError(
        pointer_to((*path, "payload")),
        "Up to this one, holding the payloads of this batch against their schemas could take more "
        f"than {limits.CHECK_REQUEST_STEPS_MAX:,} steps. Send fewer events in one batch.",
    )


NO_SCHEMA: Final = "There is no such event type, or no such version of it."
"""What a call is told that asks for one."""
