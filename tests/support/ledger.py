"""A ledger of what writers were told, held against the book after a crash.

The ledger is the test's own and survives whatever is killed. Each append bears a mark
that is used once, its size, and the number of each event in it, so that the book alone
shows what it holds of it::

    told            what the book must hold
    stored          all of it, at these positions
    refused         nothing of it
    unknown         all of it or nothing (the answer never came, or said so)

And, whatever was told: nothing by half, nothing twice, and no position left out.
"""

import asyncio
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import httpx2

from tests.support.appends import Caller, Json, note
from tests.support.gates import Book

Outcome = Literal["stored", "refused", "unknown"]

_REFUSALS: Final[dict[str, Outcome]] = {
    "/problems/not-written": "refused",
    "/problems/outcome-unknown": "unknown",
}
"""What an append may be told when the database fails, and what that means."""


@dataclass
class Entry:
    """One append and what its writer was told."""

    size: int
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    outcome: Outcome = "unknown"
    ids: list[int] = field(default_factory=list)
    problem: str = ""

    @property
    def events(self) -> list[Json]:
        """What is written."""
        return [note(mark=self.mark, size=self.size, nth=nth) for nth in range(self.size)]

    async def send(self, caller: Caller) -> None:
        """Send the append, under its mark as key, and note what is told.

        Raises httpx2.TransportError where no answer comes; the outcome is unknown then.
        """
        if self.size == 1:
            answer = await caller.append(self.events[0], key=self.mark)
        else:
            answer = await caller.batch(self.events, key=self.mark)
        body = answer.json()
        if answer.status_code == 201:
            self.outcome = "stored"
            self.ids = body["ids"] if "ids" in body else [body["id"]]
        else:
            assert answer.status_code == 503, answer.text
            assert answer.headers["Retry-After"]
            self.problem = body["type"]
            self.outcome = _REFUSALS[self.problem]


class Ledger:
    """All appends of a test."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def count(self, outcome: Outcome) -> int:
        """How many appends were told so."""
        return sum(entry.outcome == outcome for entry in self.entries)

    async def write(self, caller: Caller, stop: asyncio.Event) -> None:
        """One writer: singles and batches in turn, until it is stopped or gets no answer."""
        while not stop.is_set():
            entry = Entry(size=1 if len(self.entries) % 3 else 7)
            self.entries.append(entry)
            try:
                await entry.send(caller)
            except httpx2.TransportError:
                return

    async def retry_unknown(self, caller: Caller) -> int:
        """Send what is of unknown outcome again, under its key; how many there were."""
        unknown = [entry for entry in self.entries if entry.outcome == "unknown"]
        for entry in unknown:
            await entry.send(caller)
        return len(unknown)

    async def check(self, book: Book) -> None:
        """Hold the ledger against the book, which holds nothing else."""
        rows = await book.rows(
            "select position, payload ->> 'mark', (payload -> 'size')::int, (payload -> 'nth')::int"
            " from counterfoil.events where tenant_id = 1 order by position"
        )
        assert [row[0] for row in rows] == list(range(1, len(rows) + 1)), "a position is missing"
        found: dict[str, list[tuple[Any, ...]]] = {}
        for position, mark, size, nth in rows:
            found.setdefault(mark, []).append((position, size, nth))
        assert found.keys() <= {entry.mark for entry in self.entries}
        for entry in self.entries:
            held = found.get(entry.mark, [])
            if held:
                first = held[0][0]
                whole = [(first + nth, entry.size, nth) for nth in range(entry.size)]
                assert held == whole, f"half of it, or twice: {entry}"
            if entry.outcome == "stored":
                assert [position for position, _, _ in held] == entry.ids, f"lost: {entry}"
            elif entry.outcome == "refused":
                assert not held, f"written although refused: {entry}"
        keys = await book.rows("select key from counterfoil.idempotency_keys")
        assert Counter(key for (key,) in keys) == Counter(found.keys()), "keys and events differ"
