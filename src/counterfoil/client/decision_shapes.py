"""How what the service says of policies and decisions is read into values."""

from __future__ import annotations

from typing import Any, Final

from counterfoil.client import shapes
from counterfoil.client.decision_model import (
    Compared,
    Decision,
    Difference,
    DraftedPolicy,
    ExplainedInput,
    ExplainedRow,
    Explanation,
    Matched,
    PolicySummary,
    PolicyVersion,
    Reason,
    Recomputed,
    Replay,
    RowCondition,
    Signal,
    Superseded,
)
from counterfoil.client.shapes import optional

_CREATED: Final = 201


# --- Policies ---------------------------------------------------------------------------


def policy_summary(data: Any) -> PolicySummary:
    """Read one policy of the list."""
    data = shapes.mapping(data)
    return PolicySummary(
        name=shapes.text(data["name"]),
        active_version=optional(shapes.integer, data["active_version"]),
        versions=shapes.integer(data["versions"]),
        digest=optional(shapes.text, data["digest"]),
        changed_at=shapes.moment(data["changed_at"]),
    )


def policy_version(data: Any) -> PolicyVersion:
    """Read one version of a policy."""
    return PolicyVersion(**_policy_members(data))


def policy_versions(data: Any) -> tuple[PolicyVersion, ...]:
    """Read all versions of a policy."""
    return tuple(map(policy_version, shapes.array(shapes.mapping(data)["versions"])))


def drafted_policy(data: Any, *, status: int, replayed: bool) -> DraftedPolicy:
    """Read the answer to a draft."""
    return DraftedPolicy(**_policy_members(data), changed=status == _CREATED, replayed=replayed)


def _policy_members(data: Any) -> dict[str, Any]:
    data = shapes.mapping(data)
    return {
        "name": shapes.text(data["name"]),
        "version": shapes.integer(data["version"]),
        "state": shapes.text(data["state"]),
        "digest": shapes.text(data["digest"]),
        "drafted_by": shapes.text(data["drafted_by"]),
        "drafted_at": shapes.moment(data["drafted_at"]),
        "event_id": shapes.integer(data["event_id"]),
        "activated_by": optional(shapes.text, data.get("activated_by")),
        "activated_at": optional(shapes.moment, data.get("activated_at")),
        "retired_by": optional(shapes.text, data.get("retired_by")),
        "retired_at": optional(shapes.moment, data.get("retired_at")),
        "versions": _integers(data.get("versions") or []),
        "policy": optional(shapes.mapping, data.get("policy")),
    }


# --- Decisions --------------------------------------------------------------------------


def decision(data: Any, *, replayed: bool = False) -> Decision:
    """Read one decision, with its explanation where that came with it."""
    members = _decision_members(data)
    told = shapes.mapping(data).get("explanation")
    if told is not None:
        members["explanation"] = explanation(told, of=Decision(**members))
    return Decision(**members, replayed=replayed)


def _decision_members(data: Any) -> dict[str, Any]:
    data = shapes.mapping(data)
    signals = shapes.mapping(data["signals"])
    return {
        "id": shapes.integer(data["id"]),
        "created_at": shapes.moment(data["created_at"]),
        "agent_name": shapes.text(data["agent_name"]),
        "policy": shapes.text(data["policy"]),
        "version": shapes.integer(data["version"]),
        "digest": shapes.text(data["digest"]),
        "engine": shapes.text(data["engine"]),
        "subject": shapes.text(data["subject"]),
        "outcome": shapes.text(data["outcome"]),
        "kind": shapes.text(data["kind"]),
        "reasons": tuple(map(_reason, shapes.array(data["reasons"]))),
        "inputs": shapes.mapping(data["inputs"]),
        "extra": shapes.texts(data["extra"]),
        "signals": {name: _integers(ids) for name, ids in signals.items()},
        "matched": _all_matched(data["matched"]),
        "head": shapes.integer(data["head"]),
        "as_of": shapes.moment(data["as_of"]),
        "asked_by": shapes.text(data["asked_by"]),
        "on_behalf_of": optional(shapes.text, data.get("on_behalf_of")),
        "supersedes": optional(_superseded, data.get("supersedes")),
        "state": optional(shapes.text, data.get("state")),
        "superseded_by": optional(shapes.integer, data.get("superseded_by")),
    }


def _reason(data: Any) -> Reason:
    data = shapes.mapping(data)
    return Reason(
        code=shapes.text(data["code"]),
        text=shapes.text(data["text"]),
        customer=optional(shapes.text, data.get("customer")),
    )


def _all_matched(data: Any) -> tuple[Matched, ...]:
    return tuple(Matched(**_matched_members(row)) for row in shapes.array(data))


def _matched_members(data: Any) -> dict[str, Any]:
    data = shapes.mapping(data)
    return {
        "table": shapes.text(data["table"]),
        "row": shapes.integer(data["row"]),
        "rule": optional(shapes.text, data.get("rule")),
    }


def _superseded(data: Any) -> Superseded:
    data = shapes.mapping(data)
    return Superseded(decision=shapes.integer(data["decision"]), reason=shapes.text(data["reason"]))


# --- Replay -----------------------------------------------------------------------------


def replay(data: Any) -> Replay:
    """Read what a decision comes to when it is decided again."""
    data = shapes.mapping(data)
    return Replay(
        decision=shapes.integer(data["decision"]),
        identical=shapes.boolean(data["identical"]),
        differences=tuple(map(_difference, shapes.array(data["differences"]))),
        version=shapes.integer(data["version"]),
        engine=_compared(data["engine"]),
        digest=_compared(data["digest"]),
        recomputed=optional(_recomputed, data["recomputed"]),
        refused=optional(shapes.text, data["refused"]),
        signals=shapes.text(data["signals"]),
    )


def _compared(data: Any) -> Compared:
    data = shapes.mapping(data)
    recorded, now = (optional(shapes.text, data[name]) for name in ("recorded", "now"))
    return Compared(recorded=recorded, now=now, changed=recorded != now)


def _difference(data: Any) -> Difference:
    data = shapes.mapping(data)
    return Difference(
        what=shapes.text(data["what"]),
        recorded=data["recorded"],
        recomputed=data["recomputed"],
    )


def _recomputed(data: Any) -> Recomputed:
    data = shapes.mapping(data)
    return Recomputed(
        outcome=shapes.text(data["outcome"]),
        reasons=shapes.texts(data["reasons"]),
        matched=_all_matched(data["matched"]),
    )


# --- Explanation ------------------------------------------------------------------------


def explanation(data: Any, *, of: Decision | None = None) -> Explanation:
    """Read an explanation; ``of``: of this decision, where it does not repeat it."""
    data = shapes.mapping(data)
    return Explanation(
        decision=of if of is not None else decision(data["decision"]),
        timeline=tuple(map(_signal, shapes.array(data["timeline"]))),
        inputs=tuple(map(_explained_input, shapes.array(data["inputs"]))),
        rows=tuple(map(_explained_row, shapes.array(data["rows"]))),
        customer=shapes.texts(data["customer"]),
        text=shapes.text(data["text"]),
    )


def _signal(data: Any) -> Signal:
    data = shapes.mapping(data)
    return Signal(
        id=shapes.integer(data["id"]),
        event_type=shapes.text(data["event_type"]),
        agent_name=shapes.text(data["agent_name"]),
        created_at=shapes.moment(data["created_at"]),
        age_seconds=optional(shapes.exact, data["age_seconds"]),
        inputs=shapes.texts(data["inputs"]),
    )


def _explained_input(data: Any) -> ExplainedInput:
    data = shapes.mapping(data)
    return ExplainedInput(
        name=shapes.text(data["name"]),
        value=data["value"],
        origin=shapes.text(data["from"]),
        take=optional(shapes.text, data.get("take")),
        events=_integers(data["events"]),
    )


def _explained_row(data: Any) -> ExplainedRow:
    data = shapes.mapping(data)
    gives = shapes.mapping(data["gives"])
    return ExplainedRow(
        **_matched_members(data),
        conditions=tuple(map(_row_condition, shapes.array(data["conditions"]))),
        gives={name: shapes.text(constant) for name, constant in gives.items()},
    )


def _row_condition(data: Any) -> RowCondition:
    data = shapes.mapping(data)
    return RowCondition(field=shapes.text(data["field"]), condition=shapes.text(data["condition"]))


def _integers(data: Any) -> tuple[int, ...]:
    return tuple(map(shapes.integer, shapes.array(data)))
