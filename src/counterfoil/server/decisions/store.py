"""The door of policies and decisions to the database: the only caller of its SQL."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, NamedTuple

import msgspec

from counterfoil.server.core import limits
from counterfoil.server.core.document import encode
from counterfoil.server.core.errors import invariant
from counterfoil.server.db.reading import Reader, first, there
from counterfoil.server.db.statement import statements_of
from counterfoil.server.decisions.inputs import Signal
from counterfoil.server.decisions.record import Basis
from counterfoil.server.log.operations import Stored

_STATEMENTS: Final = statements_of("counterfoil.server.decisions")

_FEW_EVENTS: Final = 50
"""About a subject: up to here, all are looked at, whatever they are."""


class StoredPolicy(NamedTuple):
    """One version of a policy: its number, what it says, its digest, and all else as JSON text."""

    version: int
    document: str
    digest: str
    text: str


class ListedPolicy(NamedTuple):
    """A policy in a list: its name, and the row as it is shown."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Look:
    """What is to be seen for one decision: ``document`` is that as JSON for the database."""

    document: bytes

    @classmethod
    def of(
        cls,
        policy: str,
        subject: str,
        basis: Basis,
        *,
        up_to: int | None = None,
        as_of: str | None = None,
    ) -> "Look":
        """Ask for all that a decision rests on.

        Args:
            policy: its name.
            subject: the tag that all of it bears.
            basis: what it rests on.
            up_to, as_of: of a decision's record, to see again what that decision saw.
        """
        count = len(basis.reads)
        document: dict[str, Any] = {
            "policy": policy,
            "subject": subject,
            "query": basis.documents[:count],
            "decisions": basis.documents[count : count + 1],
        }
        if up_to is not None:
            document |= {"up_to": up_to, "as_of": as_of}
        return cls(encode(document))


@dataclass(frozen=True, slots=True)
class Seen:
    """What one read saw, in one snapshot.

    Attributes:
        incarnation: of the book.
        head: its last position.
        as_of: the database's time in the very statement.
        version: of the policy that is in force; None: none is.
        standing: the id of the decision that stands; None: none does.
        signals: the events that were asked for, oldest first.
        found: how many there are, up to one more than a decision may rest on; more than the
            signals where those are too large together.
        bytes: how long the payloads are, as they are written.
    """

    incarnation: str
    head: int
    as_of: str
    version: int | None
    standing: int | None
    signals: list[Signal]
    found: int
    bytes: int


@dataclass(frozen=True, slots=True)
class StoredDecision:
    """A decision's event.

    Attributes:
        told: its record; None where it was erased.
        superseded_by: the decision that took its place; None: it stands.
    """

    incarnation: str
    head: int
    tags: Sequence[str]
    told: dict[str, Any] | None
    created_at: str
    agent_name: str
    superseded_by: int | None

    @classmethod
    def made(
        cls, told: dict[str, Any], stored: Stored, incarnation: str, agent_name: str
    ) -> "StoredDecision":
        """The one that was just appended, as a read would find it."""
        return cls(incarnation, stored.head, (), told, stored.created_at, agent_name, None)


class DecisionStore:
    """Reads policies and decisions through the process's pool."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def signals(self, tenant_id: int, looks: Sequence[Look]) -> list[Seen]:
        """All that these decisions rest on, in their order, in one snapshot.

        Raises:
            DatabaseUnavailable, ReadTooSlow: so do all calls here.
        """
        documents = b",".join([look.document for look in looks])
        rows = await self._reader.read(
            _STATEMENTS["signals"],
            {
                "tenant_id": tenant_id,
                "asked": f"[{documents.decode()}]",
                "limit": limits.DECISION_SIGNALS_MAX + 1,
                "bytes_max": limits.DECISION_SIGNALS_BYTES_MAX,
                "few": _FEW_EVENTS,
            },
            tenant_id=tenant_id,
        )
        if sum(len(row[-1] or "") for row in rows) <= limits.DECISION_BYTES_IN_TURN:
            seen = _all_seen(rows)
        else:
            seen = await asyncio.to_thread(_all_seen, rows)
        invariant(len(seen) == len(looks), "each look is answered")
        return seen

    async def policy(
        self, tenant_id: int, name: str, version: int | None = None
    ) -> StoredPolicy | None:
        """One version of a policy, or (None) the active one; None if there is none."""
        rows = await self._reader.read(
            _STATEMENTS["policy"],
            {"tenant_id": tenant_id, "name": name, "version": version},
            tenant_id=tenant_id,
        )
        for number, document, digest, text in rows:
            return StoredPolicy(int(there(number)), there(document), there(digest), there(text))
        return None

    async def newest_policy(self, tenant_id: int, name: str) -> tuple[int, str] | None:
        """The number and the digest of a policy's newest version; None if there is none."""
        rows = await self._reader.read(
            _STATEMENTS["newest_policy"],
            {"tenant_id": tenant_id, "name": name},
            tenant_id=tenant_id,
        )
        for number, digest in rows:
            return int(there(number)), there(digest)
        return None

    async def versions(self, tenant_id: int, name: str) -> list[str]:
        """The newest versions of a policy as JSON texts, the newest first."""
        rows = await self._reader.read(
            _STATEMENTS["versions"],
            {"tenant_id": tenant_id, "name": name, "limit": limits.LIST_ROWS_MAX},
            tenant_id=tenant_id,
        )
        return [there(text) for (text,) in rows]

    async def policies(self, tenant_id: int, *, after: str, limit: int) -> list[ListedPolicy]:
        """A tenant's policies by their names, from above one."""
        rows = await self._reader.read(
            _STATEMENTS["policies"],
            {"tenant_id": tenant_id, "after": after, "limit": limit},
            tenant_id=tenant_id,
        )
        return [ListedPolicy(there(name), there(text)) for name, text in rows]

    async def decision(self, tenant_id: int, decision_id: int) -> StoredDecision | None:
        """The decision with this id; None if the event is none, or there is none."""
        rows = await self._reader.read(
            _STATEMENTS["decision"],
            {"tenant_id": tenant_id, "position": decision_id},
            tenant_id=tenant_id,
        )
        incarnation, head, tags, payload, created_at, agent_name, successor = first(rows)
        if tags is None:
            return None
        return StoredDecision(
            incarnation=there(incarnation),
            head=int(there(head)),
            tags=_texts(tags),
            told=None if payload is None else _object(payload),
            created_at=there(created_at),
            agent_name=there(agent_name),
            superseded_by=None if successor is None else int(successor),
        )


def _all_seen(rows: Sequence[Sequence[str | None]]) -> list[Seen]:
    """What each look saw, in their order; there is a row for each, and one for each of its events."""
    return [_seen(list(of_one)) for _, of_one in groupby(rows, key=itemgetter(0))]


def _seen(rows: Sequence[Sequence[str | None]]) -> Seen:
    _, incarnation, head, as_of, version, standing, found = rows[0][:7]
    signals = [row[7:] for row in rows if row[7] is not None]
    return Seen(
        incarnation=there(incarnation),
        head=int(there(head)),
        as_of=there(as_of),
        version=None if version is None else int(version),
        standing=None if standing is None else int(standing),
        signals=[_signal(signal) for signal in signals],
        found=0 if found is None else int(found),
        bytes=sum(len(there(signal[-1])) for signal in signals),
    )


def _signal(row: Sequence[str | None]) -> Signal:
    position, event_type, agent_name, created_at, age, payload = map(there, row)
    return Signal(
        event_id=int(position),
        event_type=event_type,
        agent_name=agent_name,
        created_at=created_at,
        payload=_object(payload),
        age_seconds=Decimal(age),
    )


# What PostgreSQL writes was judged when it was stored, and holds no key twice: it need not be judged
# again, only read exactly.
_object: Final[Callable[[str], Any]] = msgspec.json.Decoder(Any, float_hook=Decimal).decode
_texts: Final = msgspec.json.Decoder(list[str]).decode
