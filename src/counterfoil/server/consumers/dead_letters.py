"""Dead letters: looking at them, handing them out again, dropping them."""

from collections.abc import Sequence
from typing import Final

import msgspec

from counterfoil.server.consumers.effects import NO_CONSUMER, append_own
from counterfoil.server.consumers.lanes import Lanes
from counterfoil.server.consumers.model import Drop, Replay
from counterfoil.server.consumers.store import ConsumerStore
from counterfoil.server.core import limits
from counterfoil.server.core.errors import Busy, ConsumerNotFound, DeadLetterNotFound
from counterfoil.server.log.operations import Log, Stored
from counterfoil.server.log.parameters import Listed, after_cursor, list_cursor, refused_list_cursor

_NO_LETTER: Final = "This consumer has no dead letter of this event."


class _Letter(msgspec.Struct):
    """What has to be known of a dead letter to settle it."""

    event_id: int
    said_by: int


_letter: Final = msgspec.json.Decoder(_Letter)


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
        what is set aside from the first step on is not among them. With a key, an earlier call's
        first step is answered again, and what it did not come to any more is settled now.

        Returns the events whose letters these were, and whether an earlier call settled them.
        Raises ``ConsumerNotFound``, ``DeadLetterNotFound``, and what an append raises.
        """
        if asked.event_ids is not None:
            ids = sorted(set(asked.event_ids))
            named = await self._step(tenant_id, name, asked, ids, by=by, key=key)
            return ids, named.replayed
        settled, first = await self._step_of_all(tenant_id, name, asked, by=by, key=key)
        if first is None:
            await self._must_be(tenant_id, name)
            return [], False
        if first.replayed:
            told = await self._log.payload(tenant_id, first.first_position)
            settled = told["event_ids"]
        while True:
            ids, stored = await self._step_of_all(
                tenant_id, name, asked, by=by, key=None, said_before=first.first_position
            )
            if stored is None:
                return settled, first.replayed
            settled = settled + ids

    async def _step_of_all(
        self,
        tenant_id: int,
        name: str,
        asked: Replay | Drop,
        *,
        by: str,
        key: str | None,
        said_before: int = limits.POSITION_MAX,
    ) -> tuple[list[int], Stored | None]:
        """Settle the first of the letters that are there; (without ids) None: there is none."""
        for _ in range(limits.RULES_TRIES_MAX):
            ids = await self._letters(tenant_id, name, said_before=said_before)
            if not ids and key is None:
                return [], None
            try:
                # Also with none, where an earlier call with this key may have settled them.
                return ids, await self._step(tenant_id, name, asked, ids, by=by, key=key)
            except DeadLetterNotFound:
                if not ids:
                    return [], None
                # Somebody else has settled some of them meanwhile: look again.
        raise Busy("Others settle these dead letters all the time. Try again later.")

    async def _letters(self, tenant_id: int, name: str, *, said_before: int) -> list[int]:
        """The events of the first letters that were set aside before this position."""
        after = 0
        while True:
            rows = await self._store.dead_letters(
                tenant_id,
                name,
                after=after,
                up_to=limits.POSITION_MAX,
                limit=limits.SETTLED_LETTERS,
            )
            letters = [_letter.decode(text) for _, text in rows]
            ids = [letter.event_id for letter in letters if letter.said_by < said_before]
            if ids or not letters:
                return ids
            after = letters[-1].event_id

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
            asked=None
            if asked.all is None
            else {
                "call": f"{verb}_dead_letters",
                "name": name,
                "all": True,
                "reason": asked.reason,
            },
        )
        self._lanes.news(tenant_id, name)
        return stored
