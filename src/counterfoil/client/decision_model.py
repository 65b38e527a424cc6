"""The client's words for deciding by policy: policies, decisions, replays, explanations.

Values only, no I/O. All of them are what the service answered; none can be changed. Numbers in
them are ``int`` or ``decimal.Decimal``, as in payloads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

# --- Policies ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyVersion:
    """One version of a policy. It never changes; only its state does.

    Attributes:
        name: the policy's name.
        version: its number, from 1.
        state: ``draft``, ``active`` (what decides now) or ``retired``.
        digest: SHA-256 of the document, which stands in every decision by this version.
        drafted_by, drafted_at: who drafted it, and when.
        event_id: the event of the book that tells of the draft.
        activated_by, activated_at: who put it in force last, and when; never the one who
            drafted it.
        retired_by, retired_at: who ended it, and when.
        versions: the numbers of all versions of the policy.
        policy: the document; ``None`` where versions are listed.
    """

    name: str
    version: int
    state: str
    digest: str
    drafted_by: str
    drafted_at: datetime
    event_id: int
    activated_by: str | None = None
    activated_at: datetime | None = None
    retired_by: str | None = None
    retired_at: datetime | None = None
    versions: tuple[int, ...] = ()
    policy: dict[str, Any] | None = field(default=None, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftedPolicy(PolicyVersion):
    """The answer to ``policies.draft``.

    Attributes:
        changed: a new version was made; ``False``: the newest one has this document already.
        replayed: it had been drafted before, under the same idempotency key.
    """

    changed: bool = True
    replayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySummary:
    """A policy, as it stands in the list of them.

    Attributes:
        name: its name.
        active_version: the version that decides now; ``None``: none does.
        versions: how many versions there are.
        digest: the digest of the active version.
        changed_at: when it was drafted, activated or retired last.
    """

    name: str
    active_version: int | None
    versions: int
    digest: str | None
    changed_at: datetime


# --- Decisions --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why a decision came out as it did.

    Attributes:
        code: by which the policy names it.
        text: for those who decide.
        customer: for the customer, in plain words.
    """

    code: str
    text: str
    customer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """A row of a decision table that fitted.

    Attributes:
        table: the table's name.
        row: its number in the table, from 1.
        rule: its id, which it keeps when rows before it come or go.
    """

    table: str
    row: int
    rule: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Superseded:
    """Which decision another took the place of, and why.

    Attributes:
        decision: its id.
        reason: why, in a sentence.
    """

    decision: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A decision by a policy about a subject: an event of the book, and all that it rests on.

    Attributes:
        id: the event's id.
        created_at: when it was written.
        agent_name: in whose name.
        policy, version, digest: by what it was decided.
        engine: what applied the rules, with its version.
        subject: about what: a tag, as ``application:42``.
        outcome: one of the policy's outcomes.
        kind: what that means: ``approve``, ``decline`` or ``review``.
        reasons: why.
        inputs: what the rules were given, exactly.
        extra: the inputs among them that came with the request, and not from the book.
        signals: by input: the ids of the events that it came from.
        matched: the rows that fitted.
        head: the book's last position in the snapshot that it read.
        as_of: the moment from which the age of its signals was counted.
        asked_by: whose key asked: ``kind:name``.
        on_behalf_of: for whom the caller said that it asked.
        supersedes: the decision that this one took the place of.
        state: ``standing`` or ``superseded``; known of a decision that was got by its id.
        superseded_by: the id of the decision that took its place.
        explanation: where it was asked for.
        replayed: it had been decided before, under the same idempotency key.
    """

    id: int
    created_at: datetime
    agent_name: str
    policy: str
    version: int
    digest: str
    engine: str
    subject: str
    outcome: str
    kind: str
    reasons: tuple[Reason, ...]
    inputs: dict[str, Any] = field(hash=False)
    extra: tuple[str, ...]
    signals: dict[str, tuple[int, ...]] = field(hash=False)
    matched: tuple[Matched, ...]
    head: int
    as_of: datetime
    asked_by: str
    on_behalf_of: str | None = None
    supersedes: Superseded | None = None
    state: str | None = None
    superseded_by: int | None = None
    explanation: Explanation | None = field(default=None, hash=False)
    replayed: bool = False


# --- Replay -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Something that decides, as it was then and as it is now.

    Attributes:
        recorded: what stands in the decision's record.
        now: what it was replayed with.
        changed: whether these are two things.
    """

    recorded: str | None
    now: str | None
    changed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What a replay came to that is not what was recorded.

    Attributes:
        what: which part of the decision.
        recorded, recomputed: the one and the other.
    """

    what: str
    recorded: Any = field(hash=False)
    recomputed: Any = field(hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recomputed:
    """What the rules come to, when they are applied again.

    Attributes:
        outcome: one of the policy's.
        reasons: the codes of its reasons.
        matched: the rows that fitted.
    """

    outcome: str
    reasons: tuple[str, ...]
    matched: tuple[Matched, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A decision that was decided again, from its record alone.

    Attributes:
        decision: its id.
        identical: whether it comes out as it was recorded.
        differences: what does not.
        version: the version that it was replayed under.
        engine: what applied the rules then, and what applies them now.
        digest: that of the decision's own version, then and now; it never changes.
        recomputed: what came of it; ``None`` where nothing did.
        refused: why nothing came of it.
        signals: whether its inputs, taken anew from the book as it stood then, are
            ``identical``, ``differ``, or cannot be taken since something was ``erased``.
    """

    decision: int
    identical: bool
    differences: tuple[Difference, ...]
    version: int
    engine: Compared
    digest: Compared
    recomputed: Recomputed | None
    refused: str | None
    signals: str


# --- Explanation ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """An event that was looked at for a decision.

    Attributes:
        id, event_type, agent_name, created_at: the event.
        age_seconds: how old it was when it was decided.
        inputs: the inputs that came from it; none: it was not used.
    """

    id: int
    event_type: str
    agent_name: str
    created_at: datetime
    age_seconds: int | Decimal | None
    inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedInput:
    """An input of a decision, and where it came from.

    Attributes:
        name: as the rules call it.
        value: exactly.
        origin: ``book``, or ``request``: it came with the call.
        take: how it was taken from the book: ``latest``, ``count`` …
        events: the ids of the events that it came from.
    """

    name: str
    value: Any = field(hash=False)
    origin: str
    take: str | None = None
    events: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCondition:
    """What a row asks of one column.

    Attributes:
        field: what the column compares.
        condition: what it must be.
    """

    field: str
    condition: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedRow:
    """A row that fitted, in its own words.

    Attributes:
        table, row, rule: which one; as of ``Matched``.
        conditions: what it asks; none: it catches everything.
        gives: by column: what it decides, as it stands in the table.
    """

    table: str
    row: int
    rule: str | None = None
    conditions: tuple[RowCondition, ...] = ()
    gives: dict[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a decision is what it is: what was known, which rows fitted, what the customer is told.

    Attributes:
        decision: the decision.
        timeline: the events that were looked at, the oldest first.
        inputs: what the rules were given.
        rows: the rows that fitted.
        customer: sentences for the customer, in plain words.
        text: all of it on a page for people.
    """

    decision: Decision
    timeline: tuple[Signal, ...]
    inputs: tuple[ExplainedInput, ...]
    rows: tuple[ExplainedRow, ...]
    customer: tuple[str, ...]
    text: str
