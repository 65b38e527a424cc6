"""The door of keys and tenants to the database: the only caller of its SQL."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, cast

import msgspec

from counterfoil.server.access.key_text import Mode
from counterfoil.server.access.scopes import KeyKind
from counterfoil.server.db.reading import Reader, there
from counterfoil.server.db.statement import statements_of

_STATEMENTS: Final = statements_of("counterfoil.server.access")
_scopes: Final = msgspec.json.Decoder(list[str])

State = Literal["active", "expired", "revoked"]


@dataclass(frozen=True, slots=True)
class StoredKey:
    """What the database knows of a key that somebody presented.

    ``digest`` is that of its secret part; ``state`` is by the database's clock.
    """

    key_id: str
    tenant_id: int
    tenant_name: str
    kind: KeyKind
    name: str
    scopes: tuple[str, ...]
    mode: Mode
    digest: bytes = field(repr=False)
    expires_at: str | None
    rate_per_second: int | None
    rate_burst: int | None
    state: State


class ListedRow(NamedTuple):
    """One row of a list: where the next page goes on, and the row as it is shown."""

    place: int
    text: str


class AccessStore:
    """Reads keys and tenants through the process's pool."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def presented(self, key_ids: Sequence[str]) -> list[StoredKey]:
        """What the keys with these ids are worth now; ids that there are not are left out.

        Raises:
            DatabaseUnavailable, ReadTooSlow
        """
        rows = await self._reader.read(
            _STATEMENTS["presented"], {"key_ids": ",".join(key_ids)}, tenant_id=None
        )
        return [
            StoredKey(
                key_id=there(row[0]),
                tenant_id=int(there(row[1])),
                tenant_name=there(row[2]),
                kind=cast("KeyKind", there(row[3])),
                name=there(row[4]),
                scopes=tuple(_scopes.decode(there(row[5]))),
                mode=cast("Mode", there(row[6])),
                digest=bytes.fromhex(there(row[7])),
                expires_at=row[8],
                rate_per_second=None if row[9] is None else int(row[9]),
                rate_burst=None if row[10] is None else int(row[10]),
                state=cast("State", there(row[11])),
            )
            for row in rows
        ]

    async def keys(self, tenant_id: int, *, after: int, limit: int) -> list[ListedRow]:
        """A tenant's keys in the order in which they were made, from above a position."""
        rows = await self._reader.read(
            _STATEMENTS["keys"],
            {"tenant_id": tenant_id, "after": after, "limit": limit},
            tenant_id=tenant_id,
        )
        return _listed(rows)

    async def key(self, tenant_id: int, key_id: str) -> int | None:
        """A key's position; None if the tenant has none with this id."""
        rows = await self._reader.read(
            _STATEMENTS["key"], {"tenant_id": tenant_id, "key_id": key_id}, tenant_id=tenant_id
        )
        return int(there(rows[0][0])) if rows else None

    async def tenants(
        self, *, after: int = 0, limit: int = 1, name: str | None = None
    ) -> list[ListedRow]:
        """All tenants from above an id, or the one of this name."""
        rows = await self._reader.read(
            _STATEMENTS["tenants"], {"after": after, "limit": limit, "name": name}, tenant_id=None
        )
        return _listed(rows)

    async def note_uses(self, tenant_id: int, uses: Mapping[str, str]) -> None:
        """Note when keys of a tenant were used last: ISO 8601 by the key's id."""
        await self._reader.read(
            _STATEMENTS["note_uses"],
            {"uses": msgspec.json.encode(uses).decode()},
            tenant_id=tenant_id,
        )


def _listed(rows: Sequence[tuple[str | None, ...]]) -> list[ListedRow]:
    return [ListedRow(int(there(place)), there(text)) for place, text in rows]
