"""Finding what was decided: one decision, a page of them, why, and whether it is the same again.

Whoever reads a decision sees the inputs that it rests on, so a key must be able to read decisions,
and for an explanation or a replay also the signals.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from counterfoil.server.access.principal import Principal
from counterfoil.server.core import limits
from counterfoil.server.core.document import encode, parse
from counterfoil.server.core.errors import DecisionNotFound
from counterfoil.server.decisions.explaining import explanation
from counterfoil.server.decisions.judging import JudgedPolicy
from counterfoil.server.decisions.looking import Looks
from counterfoil.server.decisions.model import DecisionParameters
from counterfoil.server.decisions.policies import Policies
from counterfoil.server.decisions.record import (
    DECISION_MADE,
    basis_of,
    decision_tag,
    decisions_of,
    shown,
    written,
)
from counterfoil.server.decisions.replaying import Replayed, replayed
from counterfoil.server.decisions.store import DecisionStore, Look, Seen, StoredDecision
from counterfoil.server.log.operations import Log
from counterfoil.server.log.query import Item, ReadRequest, query_document

_NOT_FOUND: Final = "There is no decision with this id. It is the id of the decision's event."
_ERASED: Final = "The record of this decision was erased."


@dataclass(frozen=True, slots=True)
class Found:
    """An answer as JSON, with the head and the incarnation of the book that it was read from."""

    text: str
    head: int
    incarnation: str


@dataclass(frozen=True, slots=True)
class DecisionPage:
    """A page of decisions as JSON texts; those whose record was erased are left out.

    ``head`` is that of the first page on all of them.
    """

    texts: tuple[str, ...]
    head: int
    incarnation: str
    next: str | None
    has_more: bool


class Finding:
    """The decisions in the books, as they can be looked at."""

    def __init__(self, log: Log, store: DecisionStore, looks: Looks, policies: Policies) -> None:
        self._log = log
        self._store = store
        self._looks = looks
        self._policies = policies

    async def one(self, caller: Principal, decision_id: int) -> Found:
        """A decision, and whether it stands. Raises ``DecisionNotFound``, ``ScopeMissing``."""
        found = await self._readable(caller, decision_id)
        document = {
            **shown_decision(decision_id, found),
            "state": "standing" if found.superseded_by is None else "superseded",
            "superseded_by": found.superseded_by,
        }
        return Found(written(document), found.head, found.incarnation)

    async def page(self, caller: Principal, asked: DecisionParameters) -> DecisionPage:
        """A page of decisions, by their policy and their subject.

        Raises:
            ScopeMissing, InvalidInput, BookRestored
        """
        tags = [
            *(() if asked.policy is None else (decision_tag(asked.policy),)),
            *(() if asked.subject is None else (asked.subject,)),
        ]
        query = (Item(types=frozenset({DECISION_MADE}), tags=frozenset(tags)),)
        caller.must_read(query)
        read = ReadRequest(
            query=query,
            query_document=encode(query_document(query)).decode(),
            newest_first=asked.order == "desc",
            limit=asked.limit,
        )
        if asked.cursor is not None:
            read = read.resumed_at(asked.cursor, "query")
        page = await self._log.page(caller.tenant_id, read)
        if sum(map(len, page.events)) <= limits.DECISION_BYTES_IN_TURN:
            texts = _shown_events(page.events)
        else:
            texts = await asyncio.to_thread(_shown_events, page.events)
        return DecisionPage(
            texts=texts,
            head=page.head,
            incarnation=page.incarnation,
            next=page.next,
            has_more=page.has_more,
        )

    async def explained(self, caller: Principal, decision_id: int) -> Found:
        """Why a decision came out as it did. Raises as ``one``, and ``PolicyNotFound``."""
        found = await self._readable(caller, decision_id)
        document = await self.explanation_of(caller.tenant_id, decision_id, found, caller)
        return Found(written(document), found.head, found.incarnation)

    async def replay(self, caller: Principal, decision_id: int, version: int | None) -> Found:
        """Make a decision again from its record, by its own version or (what if) by another.

        Raises as ``one``, and ``PolicyNotFound`` for a version that there is not.
        """
        found = await self._readable(caller, decision_id)
        told = record_of(found)
        tenant_id, name = caller.tenant_id, told["policy"]
        own = await self._policies.version(tenant_id, name, told["version"])
        other = own if version is None else await self._policies.version(tenant_id, name, version)
        seen = await self._seen_then(tenant_id, told, own, caller)
        came: Replayed = await asyncio.to_thread(replayed, told, own, other, seen.signals)
        number = told["version"] if version is None else version
        return Found(
            written({"decision": decision_id, "version": number, **came}),
            found.head,
            found.incarnation,
        )

    async def explanation_of(
        self,
        tenant_id: int,
        decision_id: int,
        found: StoredDecision,
        caller: Principal | None = None,
    ) -> dict[str, Any]:
        """The explanation of a decision; without a caller, for whoever has just made it."""
        told = record_of(found)
        judged = await self._policies.version(tenant_id, told["policy"], told["version"])
        seen = await self._seen_then(tenant_id, told, judged, caller)
        return explanation(
            shown_decision(decision_id, found), told["inputs"], judged.policy, seen.signals
        )

    async def _readable(self, caller: Principal, decision_id: int) -> StoredDecision:
        found = await self.told(caller.tenant_id, decision_id)
        if found.told is not None:
            caller.must_read([decisions_of(found.told["policy"], found.told["subject"])])
        return found

    async def told(self, tenant_id: int, decision_id: int) -> StoredDecision:
        """A decision's event. Raises ``DecisionNotFound``."""
        found = await self._store.decision(tenant_id, decision_id)
        if found is None:
            raise DecisionNotFound(_NOT_FOUND)
        return found

    async def _seen_then(
        self,
        tenant_id: int,
        told: Mapping[str, Any],
        judged: JudgedPolicy,
        caller: Principal | None,
    ) -> Seen:
        """What the decision of a record saw, as the book has it today.

        Raises ``ScopeMissing`` where the caller may not read all of it; None has just decided.
        """
        basis = basis_of(told["policy"], judged.policy, told["subject"])
        if caller is not None:
            caller.must_read(basis.reads)
        look = Look.of(
            told["policy"], told["subject"], basis, up_to=told["head"], as_of=told["as_of"]
        )
        return await self._looks.look(tenant_id, look)


def _shown_events(texts: Sequence[str]) -> tuple[str, ...]:
    """Decisions as they are answered, of their events as JSON; those that were erased are left out."""
    events: list[Any] = [parse(text.encode()) for text in texts]
    return tuple(
        written(shown(event["id"], event["created_at"], event["agent_name"], event["payload"]))
        for event in events
        if event["payload"] is not None
    )


def record_of(found: StoredDecision) -> dict[str, Any]:
    """A decision's record. Raises ``DecisionNotFound`` where it was erased."""
    if found.told is None:
        raise DecisionNotFound(_ERASED)
    return found.told


def shown_decision(decision_id: int, found: StoredDecision) -> dict[str, Any]:
    """A decision as it is answered. Raises ``DecisionNotFound`` where it was erased."""
    return shown(decision_id, found.created_at, found.agent_name, record_of(found))
