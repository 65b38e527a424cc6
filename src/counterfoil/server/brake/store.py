"""The brake's door to the database: the only caller of its SQL."""

from typing import Final, NamedTuple

from counterfoil.server.core import limits
from counterfoil.server.db.reading import Reader, there
from counterfoil.server.db.statement import statements_of

_STATEMENTS: Final = statements_of("counterfoil.server.brake")


class Freeze(NamedTuple):
    """A freeze: its id, and the whole of it as JSON."""

    id: int
    text: str


class BrakeStore:
    """Reads freezes through the process's pool."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def freezes(
        self, tenant_id: int, *, after: int = 0, up_to: int = limits.POSITION_MAX, limit: int
    ) -> list[Freeze]:
        """What is frozen now, with ids in ``after < id <= up_to``.

        Raises:
            DatabaseUnavailable, ReadTooSlow
        """
        rows = await self._reader.read(
            _STATEMENTS["freezes"],
            {"tenant_id": tenant_id, "after": after, "up_to": up_to, "limit": limit},
            tenant_id=tenant_id,
        )
        return [Freeze(int(there(position)), there(text)) for position, text in rows]
