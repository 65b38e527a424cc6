"""The shapes of answers about policies and decisions, for the description only."""

from typing import Annotated, Any, Literal

from pydantic import Field

from counterfoil.server.api.schemas import Answered, Id, Problem, Time

_State = Literal["draft", "active", "retired"]
_Digest = Annotated[str, Field(description="SHA-256 of its canonical JSON, in hexadecimal.")]


class ListedVersion(Answered):
    """A version of a policy, without what it says."""

    name: str
    version: int
    state: _State
    digest: _Digest
    drafted_by: str
    drafted_at: Time
    event_id: Annotated[Id, Field(description="Of the event that drafted it.")]
    activated_by: str | None = None
    activated_at: Time | None = None
    retired_by: str | None = None
    retired_at: Time | None = None


class VersionList(Answered):
    """The versions of a policy, the newest first."""

    versions: list[ListedVersion]
    next: None = None


class PolicyVersion(ListedVersion):
    """A version of a policy."""

    versions: list[int]
    policy: Annotated[dict[str, Any], Field(description="What it says, as it was drafted.")]


class PolicySummary(Answered):
    """A policy in a list."""

    name: str
    active_version: int | None = None
    versions: Annotated[int, Field(description="How many there are.")]
    digest: Annotated[str | None, Field(description="Of the active version.")] = None
    changed_at: Time


class PolicyList(Answered):
    """A page of policies."""

    policies: list[PolicySummary]
    next: str | None = None


class GivenReason(Answered):
    """Why a decision came out as it did."""

    code: str
    text: str
    customer: Annotated[str | None, Field(description="What the customer is told.")] = None


class Matched(Answered):
    """A row that fitted."""

    table: str
    row: Annotated[int, Field(description="Counted from 1.")]
    rule: Annotated[str | None, Field(description="Its id in the graph.")] = None


class Superseded(Answered):
    """The decision whose place another took."""

    decision: Id
    reason: str


class Decision(Answered):
    """A decision, with all that it rests on."""

    id: Id
    created_at: Time
    agent_name: str
    policy: str
    version: int
    digest: _Digest
    engine: str
    subject: str
    outcome: str
    kind: Literal["approve", "decline", "review"]
    reasons: list[GivenReason]
    inputs: Annotated[dict[str, Any], Field(description="Exactly what the rules were given.")]
    extra: Annotated[list[str], Field(description="Those that came with the request.")]
    signals: Annotated[
        dict[str, list[int]],
        Field(description="The others, each with the ids of the events that it came from."),
    ]
    matched: list[Matched]
    head: Annotated[int, Field(description="The book's last position when it was read.")]
    as_of: Annotated[Time, Field(description="The database's time in that read.")]
    asked_by: str
    on_behalf_of: str | None = None
    supersedes: Superseded | None = None


class DecisionState(Decision):
    """A decision, and whether it stands."""

    state: Literal["standing", "superseded"]
    superseded_by: Id | None = None


class DecisionPage(Answered):
    """A page of decisions."""

    decisions: list[Decision]
    head: int
    next: str | None = None
    has_more: bool


class TimelineEvent(Answered):
    """An event that a decision looked at."""

    id: Id
    event_type: str
    agent_name: str
    created_at: Time
    age_seconds: Annotated[float, Field(description="When it was decided.")]
    inputs: Annotated[list[str], Field(description="Which inputs came from it.")]


class ExplainedInput(Answered):
    """An input, and where it came from."""

    name: str
    value: Any
    from_: Annotated[Literal["book", "request"], Field(alias="from")]
    take: str | None = None
    events: list[Id]


class AskedCondition(Answered):
    """A condition of a row, as the analyst wrote it."""

    field: str
    condition: str


class ExplainedRow(Matched):
    """A row that fitted, with what it asks and what it gives."""

    conditions: list[AskedCondition]
    gives: dict[str, str]


class Explanation(Answered):
    """Why a decision came out as it did."""

    decision: Decision
    timeline: list[TimelineEvent]
    inputs: list[ExplainedInput]
    rows: list[ExplainedRow]
    customer: Annotated[list[str], Field(description="What the customer is told.")]
    text: Annotated[str, Field(description="All of it, to be read.")]


class MadeDecision(Decision):
    """A decision that was made, with its explanation where that was asked for and could be read."""

    explanation: Explanation | None = None


class Difference(Answered):
    """Something that is not as the record has it."""

    what: Literal["outcome", "reasons", "matched", "digest", "signals"]
    recorded: Any
    recomputed: Any


class EngineVersions(Answered):
    """The engine then and now."""

    recorded: str
    now: str
    changed: bool


class DigestThenAndNow(Answered):
    """The digest of the policy's version in the record, and of what is kept."""

    recorded: str
    now: str


class Recomputed(Answered):
    """What came of the inputs of the record."""

    outcome: str
    reasons: list[str]
    matched: list[Matched]


class ReplayedDecision(Answered):
    """A decision made again from its record."""

    decision: Id
    version: int
    identical: bool
    differences: list[Difference]
    engine: EngineVersions
    digest: DigestThenAndNow
    recomputed: Recomputed | None = None
    refused: Annotated[str | None, Field(description="Why nothing was decided, if so.")] = None
    signals: Annotated[
        Literal["identical", "differ", "erased"],
        Field(
            description="Whether the inputs, taken from the book as it stood then, are the same."
        ),
    ]


class DecisionStandsProblem(Problem):
    """What this needs has changed, or stands already."""

    head: int | None = None
    conflicts: list[Any] | None = None
    decision: Annotated[
        dict[str, Any] | None, Field(description="With `decision-stands`: the one that stands.")
    ] = None
