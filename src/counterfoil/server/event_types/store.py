"""The door of event types and settings to the database: the only caller of its SQL."""

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple, cast

import msgspec

from counterfoil.server.db.reading import Reader, there
from counterfoil.server.db.statement import statements_of

_STATEMENTS: Final = statements_of("counterfoil.server.event_types")
_versions: Final = msgspec.json.Decoder(dict[str, int])

Unregistered = Literal["accepted", "refused"]


class StoredRules(NamedTuple):
    """What a tenant's events are held against.

    Attributes:
        position: of the event that changed it last; 0 where nothing was ever registered.
        unregistered_types: what becomes of types without a schema.
        versions: the active version of each type.
    """

    position: int
    unregistered_types: Unregistered
    versions: Mapping[str, int]


class StoredType(NamedTuple):
    """One version of a type: its number, its schema and all else of it, as JSON texts."""

    version: int
    schema: str
    text: str


class ListedType(NamedTuple):
    """A type in a list: its name, and the row as it is shown."""

    event_type: str
    text: str


class EventTypeStore:
    """Reads event types through the process's pool."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def rules(self, tenant_id: int) -> StoredRules:
        """A tenant's rules as they are now.

        Raises:
            DatabaseUnavailable, ReadTooSlow: so do all calls here.
        """
        rows = await self._reader.read(
            _STATEMENTS["rules"], {"tenant_id": tenant_id}, tenant_id=tenant_id
        )
        if not rows:
            return StoredRules(0, "accepted", {})
        position, unregistered, versions = rows[0]
        return StoredRules(
            int(there(position)),
            cast("Unregistered", there(unregistered)),
            {} if versions is None else _versions.decode(versions),
        )

    async def settings(self, tenant_id: int) -> tuple[str, int | None]:
        """What becomes of types without a schema, and the event that settled it last, if any."""
        rows = await self._reader.read(
            _STATEMENTS["settings"], {"tenant_id": tenant_id}, tenant_id=tenant_id
        )
        unregistered, event_id = rows[0]
        return there(unregistered), None if event_id is None else int(event_id)

    async def schema(self, tenant_id: int, event_type: str, version: int) -> str:
        """The schema of a version that there is, as JSON text."""
        rows = await self._reader.read(
            _STATEMENTS["schema"],
            {"tenant_id": tenant_id, "event_type": event_type, "version": version},
            tenant_id=tenant_id,
        )
        return there(rows[0][0])

    async def event_type(
        self, tenant_id: int, event_type: str, version: int | None = None
    ) -> StoredType | None:
        """One version of a type, or (None) the active one; None if there is none."""
        rows = await self._reader.read(
            _STATEMENTS["event_type"],
            {"tenant_id": tenant_id, "event_type": event_type, "version": version},
            tenant_id=tenant_id,
        )
        for number, schema, text in rows:
            return StoredType(int(there(number)), there(schema), there(text))
        return None

    async def event_types(self, tenant_id: int, *, after: str, limit: int) -> list[ListedType]:
        """A tenant's types by their names, from above one."""
        rows = await self._reader.read(
            _STATEMENTS["event_types"],
            {"tenant_id": tenant_id, "after": after, "limit": limit},
            tenant_id=tenant_id,
        )
        return [ListedType(there(name), there(text)) for name, text in rows]
