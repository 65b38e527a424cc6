"""Dead letters: looking at them, handing them out again, dropping them."""

from collections.abc import Sequence
from typing import Final

from counterfoil.server.consumers.effects import NO_CONSUMER, append_own
from counterfoil.server.consumers.lanes import Lanes
from counterfoil.server.consumers.model import Drop, Replay
from counterfoil.server.consumers.operations import Listed
from counterfoil.server.consumers.store import ConsumerStore
from counterfoil.server.core import limits
from counterfoil.server.core.errors import ConsumerNotFound, DeadLetterNotFound
from counterfoil.server.log.operations import Log, Stored
from counterfoil.server.log.parameters import after_cursor, list_cursor, refused_list_cursor

_NO_LETTER: Final = "This consumer has no dead letter of this event."


class DeadLetters:
    """The dead letters of all consumers, as one process sees them."""

    def __init__(self, log: Log, store: ConsumerStore, lanes: Lanes) -> None:
        self._log = log
        self._store = store
        self._lanes = lanes

    async def all(self, tenant_id: int, name: str, *, limit: int, cursor: str | None) -> Listed:
        """A page of dead letters in the order of their events. Raises ``ConsumerNotFound``."""
        text = "0" if cursor is None else after_cursor(cursor)
        if not (text.isascii() and text.isdecimal() and int(text) <= limits.POSITION_MAX):
            raise refused_list_cursor()
        rows = await self._store.dead_letters(
            tenant_id, name, after=int(text), up_to=limits.POSITION_MAX, limit=limit + 1
        )
        if not rows:
            await self._must_be(tenant_id, name)
        shown = rows[:limit]
        following = list_cursor(str(shown[-1][0])) if len(rows) > limit else None
        return Listed(tuple(letter for _, letter in shown), following)

    async def one(self, tenant_id: int, name: str, event_id: int) -> str:
        """One dead letter, as JSON. Raises ``ConsumerNotFound``, ``DeadLetterNotFound``."""
        rows = await self._store.dead_letters(
            tenant_id, name, after=event_id - 1, up_to=event_id, limit=1
        )
        if not rows:
            await self._must_be(tenant_id, name)
            raise DeadLetterNotFound(_NO_LETTER)
        return rows[0][1]

    async def _must_be(self, tenant_id: int, name: str) -> None:
        """See that there is such a consumer. Raises ``ConsumerNotFound``."""
        if await self._store.reading(tenant_id, name) is None:
            raise ConsumerNotFound(NO_CONSUMER)

    async def settle(
        self,
        tenant_id: int,
        name: str,
        asked: Replay | Drop,
        *,
        by: str,
        key: str | None,
    ) -> tuple[list[int], bool]:
        """Hand dead letters out again, or drop them; some of them in each event of the book.

        Those that are named are settled together or not at all. All that there are, in steps;
        with a key, an earlier call's first step is answered again, and the others follow anew.

        Returns the events whose letters these were, and whether an earlier call settled them.
        Raises ``ConsumerNotFound``, ``DeadLetterNotFound``, and what an append raises.
        """
        if asked.event_ids is not None:
            ids = sorted(set(asked.event_ids))
            stored = await self._step(tenant_id, name, asked, ids, by=by, key=key)
            return ids, stored.replayed
        settled: list[int] = []
        replayed = False
        await self._must_be(tenant_id, name)
        while True:
            rows = await self._store.dead_letters(
                tenant_id,
                name,
                after=settled[-1] if settled else 0,
                up_to=limits.POSITION_MAX,
                limit=limits.SET_ASIDE_DELIVERIES,
            )
            if not rows:
                return settled, replayed
            ids = [event_id for event_id, _ in rows]
            stored = await self._step(tenant_id, name, asked, ids, by=by, key=None)
            settled += ids

    async def _step(
        self,
        tenant_id: int,
        name: str,
        asked: Replay | Drop,
        ids: Sequence[int],
        *,
        by: str,
        key: str | None,
    ) -> Stored:
        verb, past = ("replay", "replayed") if isinstance(asked, Replay) else ("drop", "dropped")
        effect = {"effect": f"{verb}_dead_letters", "name": name, "event_ids": list(ids)}
        told = {"name": name, "event_ids": list(ids), "reason": asked.reason, "by": by}
        stored = await append_own(
            self._log,
            tenant_id,
            f"dead_letters_{past}",
            told,
            effect,
            by=by,
            key=key,
            caused_by=ids[: limits.CAUSES_MAX],
        )
        self._lanes.news(tenant_id, name)
        return stored
