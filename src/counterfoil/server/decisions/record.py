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
from typing import Any, Final

import msgspec

from counterfoil.server.core import limits
from counterfoil.server.core.document import canonical, encode
from counterfoil.server.decisions.engine import ENGINE_VERSION, Evaluated
from counterfoil.server.decisions.inputs import Taken
from counterfoil.server.decisions.judging import JudgedPolicy
from counterfoil.server.decisions.model import NewDecision
from counterfoil.server.decisions.policy import Policy
from counterfoil.server.log.fields import OWN_TYPE_PREFIX
from counterfoil.server.log.query import Item

DECISION_MADE: Final = f"{OWN_TYPE_PREFIX}decision_made"
POLICY_CHANGED: Final = (f"{OWN_TYPE_PREFIX}policy_activated", f"{OWN_TYPE_PREFIX}policy_retired")
"""The events that change which version is in force."""

_RECORD: Final = (
    *("policy", "version", "digest", "engine", "subject", "outcome", "kind", "reasons", "inputs"),
    *("extra", "signals", "matched", "head", "as_of", "asked_by", "on_behalf_of", "supersedes"),
)
"""What a record says, in the order in which it is shown."""


@dataclass(frozen=True, slots=True)
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

    @property
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
    types: dict[frozenset[str], set[str]] = {}
    for read in policy.reads.values():
        types.setdefault(frozenset(read.agents or ()), set()).update(read.types)
    return tuple(
        Item(frozenset(named), agents, frozenset({subject})) for agents, named in types.items()
    )


def decisions_of(name: str, subject: str) -> Item:
    """The decisions of a policy about a subject."""
    return Item(types=frozenset({DECISION_MADE}), tags=frozenset({subject, decision_tag(name)}))


def condition_of(name: str, policy: Policy, subject: str) -> tuple[Item, ...]:
    """What must not have changed for a decision to stand: all that it has read."""
    changes = Item(types=frozenset(POLICY_CHANGED), tags=frozenset({policy_tag(name)}))
    return (*reads_of(policy, subject), decisions_of(name, subject), changes)


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
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(one) for one in value]
    return value
