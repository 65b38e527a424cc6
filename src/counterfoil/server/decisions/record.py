"""A decision's record: the payload of its event, and how it is shown.

The record says all that the decision rests on, so that it can be made again from it alone: the
exact inputs and the events that they came from, the head and the time of the read, the version of
the policy with its digest, the engine with its version, and what the rules have matched. It is
written in one form, whoever asks: what was answered first, and what is answered when it is asked
for again, are the same bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any, Final, NamedTuple

import msgspec

from counterfoil.server.core import limits
from counterfoil.server.core.document import canonical, encode
from counterfoil.server.decisions.engine import ENGINE_VERSION, Evaluated
from counterfoil.server.decisions.inputs import Taken
from counterfoil.server.decisions.judging import JudgedPolicy
from counterfoil.server.decisions.model import NewDecision
from counterfoil.server.decisions.policy import Policy
from counterfoil.server.log.fields import OWN_TYPE_PREFIX
from counterfoil.server.log.query import Item, query_document

DECISION_MADE: Final = f"{OWN_TYPE_PREFIX}decision_made"
POLICY_CHANGED: Final = (f"{OWN_TYPE_PREFIX}policy_activated", f"{OWN_TYPE_PREFIX}policy_retired")
"""The events that change which version is in force."""

_CHANGES: Final = frozenset(POLICY_CHANGED)
_MADE: Final = frozenset({DECISION_MADE})

_RECORD: Final = (
    *("policy", "version", "digest", "engine", "subject", "outcome", "kind", "reasons", "inputs"),
    *("extra", "signals", "matched", "head", "as_of", "asked_by", "on_behalf_of", "supersedes"),
)
"""What a record says, in the order in which it is shown."""


@dataclass(frozen=True)
class Rests:
    """What a decision rests on.

    Attributes:
        head: the book's last position in the snapshot that was read.
        as_of: the database's time in that read.
        taken: the inputs that came from the book, each with its events.
        extra: those that came with the request.
    """

    head: int
    as_of: str
    taken: Mapping[str, Taken]
    extra: Mapping[str, Any]

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """All inputs, by name."""
        named = {**{name: one.value for name, one in self.taken.items()}, **self.extra}
        return {name: plain(named[name]) for name in sorted(named)}


def policy_tag(name: str) -> str:
    """What the events about a policy bear."""
    return f"policy:{name}"


def decision_tag(name: str) -> str:
    """What the decisions by a policy bear.

    Another tag than that of the events about the policy: every decision asks whether one of those
    is new, and would be held up by all other decisions.
    """
    return f"decision:{name}"


def reads_of(policy: Policy, subject: str) -> tuple[Item, ...]:
    """The events about a subject that a policy looks at: an item for each choice of agents."""
    tags = frozenset({subject})
    return tuple([Item(types, agents, tags) for agents, types in policy.looks_at.items()])


def decisions_of(name: str, subject: str) -> Item:
    """The decisions of a policy about a subject."""
    return Item(types=_MADE, tags=frozenset({subject, decision_tag(name)}))


class Basis(NamedTuple):
    """What a decision about a subject rests on, as queries.

    Attributes:
        reads: the events that its policy looks at.
        decisions: the decisions of the policy about it.
        condition: all that must not have changed for the decision to stand: these, and which
            version is in force.
        documents: the condition's items as the database takes them, in their order.
    """

    reads: tuple[Item, ...]
    decisions: Item
    condition: tuple[Item, ...]
    documents: list[dict[str, list[str]]]


def basis_of(name: str, policy: Policy, subject: str) -> Basis:
    """What a decision by this policy about this subject rests on."""
    reads, decisions = reads_of(policy, subject), decisions_of(name, subject)
    changes = Item(types=_CHANGES, tags=frozenset({policy_tag(name)}))
    condition = (*reads, decisions, changes)
    return Basis(reads, decisions, condition, query_document(condition))


def record(
    asked: NewDecision,
    judged: JudgedPolicy,
    version: int,
    rests: Rests,
    found: Evaluated,
    *,
    asked_by: str,
) -> dict[str, Any]:
    """What stands in the book about a decision."""
    outcome = judged.policy.outcomes[found.outcome]
    return {
        "policy": asked.policy,
        "version": version,
        "digest": judged.digest,
        "engine": ENGINE_VERSION,
        "subject": asked.subject,
        "outcome": found.outcome,
        "kind": outcome.kind,
        "reasons": [
            {
                "code": code,
                "text": outcome.reasons[code].text,
                "customer": outcome.reasons[code].customer,
            }
            for code in found.reasons
        ],
        "inputs": rests.inputs,
        "extra": sorted(rests.extra),
        "signals": {name: list(rests.taken[name].event_ids) for name in sorted(rests.taken)},
        "matched": [dict(row) for row in found.matched],
        "head": rests.head,
        "as_of": rests.as_of,
        "asked_by": asked_by,
        "on_behalf_of": asked.on_behalf_of,
        "supersedes": None if asked.supersedes is None else asked.supersedes.model_dump(),
    }


def causes_of(told: Mapping[str, Any]) -> list[int]:
    """The events that a decision names as its causes: the newest of those that it rests on.

    All of them stand in ``signals``; an event names ``CAUSES_MAX`` at most.
    """
    ids = {one for named in told["signals"].values() for one in named}
    if told["supersedes"] is not None:
        ids.add(told["supersedes"]["decision"])
    return sorted(ids)[-limits.CAUSES_MAX :]


def shown(
    decision_id: int, created_at: str, agent_name: str, told: Mapping[str, Any]
) -> dict[str, Any]:
    """A decision as it is answered."""
    return {
        "id": decision_id,
        "created_at": created_at,
        "agent_name": agent_name,
        # PostgreSQL keeps the members of an object in an order of its own: each is put in ours.
        **{name: told[name] for name in _RECORD},
        "reasons": [_in(("code", "text", "customer"), one) for one in told["reasons"]],
        "inputs": msgspec.Raw(canonical(told["inputs"])),
        "signals": {name: told["signals"][name] for name in sorted(told["signals"])},
        "matched": [_in(("table", "row", "rule"), one) for one in told["matched"]],
        "supersedes": told["supersedes"] and _in(("decision", "reason"), told["supersedes"]),
    }


def _in(order: Sequence[str], value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value[name] for name in order}


def written(document: Mapping[str, Any]) -> str:
    """An answer as JSON. What came from a caller stands in it as ``shown`` has put it in order."""
    return encode(document).decode()


def plain(value: Any) -> Any:
    """A value with its numbers as PostgreSQL writes them: in full, and no zero below zero."""
    if isinstance(value, Decimal):
        text = format(value or abs(value), "f")
        return Decimal(text) if "." in text else int(text)
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list) else value
