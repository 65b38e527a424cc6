"""What the calls about policies and decisions send: without I/O.

Every one that changes something carries an idempotency key, as an append does. To replay a
decision writes nothing, so it has none.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import partial
from typing import Any

from counterfoil.client import answers, decision_shapes, document
from counterfoil.client.answers import Answer
from counterfoil.client.control_requests import Listed, change, given, path_step, reading
from counterfoil.client.decision_model import (
    Decision,
    DraftedPolicy,
    Explanation,
    PolicySummary,
    PolicyVersion,
    Replay,
)
from counterfoil.client.errors import UsageError
from counterfoil.client.requests import Ask, Order, Request

# --- Policies ---------------------------------------------------------------------------


def draft(
    name: str, policy: Mapping[str, Any], *, idempotency_key: str | None
) -> Ask[DraftedPolicy]:
    """Ask for a policy to be kept as its next version."""
    return Ask(change("POST", f"{_policy_path(name)}/drafts", policy, idempotency_key), _drafted)


def _drafted(answer: Answer) -> DraftedPolicy:
    read = partial(
        decision_shapes.drafted_policy, status=answer.status, replayed=answers.replayed(answer)
    )
    return answers.read_by(read, answer)


def activate(
    name: str, version: int, *, reason: str, idempotency_key: str | None
) -> Ask[PolicyVersion]:
    """Ask for a version to be what decides."""
    path = f"{_policy_path(name)}/versions/{operator.index(version)}/activate"
    request = change("POST", path, {"reason": reason}, idempotency_key)
    return Ask(request, partial(answers.read_by, decision_shapes.policy_version))


def retire(name: str, *, reason: str, idempotency_key: str | None) -> Ask[PolicyVersion]:
    """Ask for a policy to decide no more."""
    path = f"{_policy_path(name)}/retire"
    request = change("POST", path, {"reason": reason}, idempotency_key)
    return Ask(request, partial(answers.read_by, decision_shapes.policy_version))


def get_policy(name: str, version: int | None) -> Ask[PolicyVersion]:
    """Ask for a version of a policy; ``None``: for the active one."""
    parameters = () if version is None else (("version", str(operator.index(version))),)
    request = Request("GET", _policy_path(name), parameters)
    return Ask(request, partial(answers.read_by, decision_shapes.policy_version))


def policy_versions(name: str) -> Ask[tuple[PolicyVersion, ...]]:
    """Ask for all versions of a policy, without their documents."""
    return reading(f"{_policy_path(name)}/versions", decision_shapes.policy_versions)


def policies(limit: int) -> Listed[PolicySummary]:
    """Read all policies."""
    return Listed("/policies", "policies", decision_shapes.policy_summary, limit)


def _policy_path(name: str) -> str:
    return f"/policies/{path_step(name, '/name')}"


# --- Decisions --------------------------------------------------------------------------


def decide(
    policy: str,
    subject: str,
    *,
    inputs: Mapping[str, Any] | None,
    on_behalf_of: str | None,
    agent_name: str | None,
    supersedes: int | Decision | None,
    reason: str | None,
    explain: bool,
    idempotency_key: str | None,
) -> Ask[Decision]:
    """Ask for a decision.

    Raises:
        UsageError: one of ``supersedes`` and ``reason`` is there without the other.
    """
    if (supersedes is None) != (reason is None):
        raise UsageError(
            "`supersedes` names the decision that this one takes the place of, and `reason` says "
            "why: give both, or neither."
        )
    replaced = None
    if supersedes is not None:
        replaced = {"decision": _decision_id(supersedes), "reason": reason}
    body = given(
        policy=policy,
        subject=subject,
        inputs=inputs,
        on_behalf_of=on_behalf_of,
        agent_name=agent_name,
        supersedes=replaced,
        explain=explain or None,
    )
    return Ask(change("POST", "/decisions", body, idempotency_key), _decided)


def _decided(answer: Answer) -> Decision:
    read = partial(decision_shapes.decision, replayed=answers.replayed(answer))
    return answers.read_by(read, answer)


def get_decision(decision: int | Decision) -> Ask[Decision]:
    """Ask for a decision, and whether it stands."""
    return reading(_decision_path(decision), decision_shapes.decision)


def decisions(
    policy: str | None, subject: str | None, order: Order, limit: int
) -> Listed[Decision]:
    """Read decisions: by a policy, about a subject, or all."""
    asked = given(policy=policy, subject=subject, order=order)
    return Listed("/decisions", "decisions", decision_shapes.decision, limit, tuple(asked.items()))


def replay(decision: int | Decision, version: int | None) -> Ask[Replay]:
    """Ask for a decision to be decided again; ``version``: under this one."""
    body = {} if version is None else {"version": operator.index(version)}
    request = Request("POST", f"{_decision_path(decision)}/replay", body=document.encode(body))
    return Ask(request, partial(answers.read_by, decision_shapes.replay))


def explain(decision: int | Decision) -> Ask[Explanation]:
    """Ask why a decision is what it is."""
    return reading(f"{_decision_path(decision)}/explanation", decision_shapes.explanation)


def _decision_path(decision: int | Decision) -> str:
    return f"/decisions/{_decision_id(decision)}"


def _decision_id(decision: int | Decision) -> int:
    return decision.id if isinstance(decision, Decision) else operator.index(decision)
