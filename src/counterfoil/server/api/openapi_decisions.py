"""What the calls about policies and decisions take and give, for ``/openapi.json``."""

from collections.abc import Sequence
from typing import Any, Final

from pydantic import BaseModel

from counterfoil.server.api import openapi_parts as parts
from counterfoil.server.api import problems, schemas_decisions
from counterfoil.server.api.openapi_parts import Json
from counterfoil.server.core import limits
from counterfoil.server.decisions.model import (
    Activation,
    DecisionParameters,
    NewDecision,
    PolicyParameters,
    Replaying,
    Retirement,
)
from counterfoil.server.decisions.policy import Policy
from counterfoil.server.log.parameters import ListParameters

INPUTS: Final[Sequence[type[BaseModel]]] = (
    Policy,
    Activation,
    Retirement,
    NewDecision,
    Replaying,
)
OUTPUTS: Final[Sequence[type[BaseModel]]] = (
    schemas_decisions.PolicyList,
    schemas_decisions.PolicyVersion,
    schemas_decisions.VersionList,
    schemas_decisions.MadeDecision,
    schemas_decisions.DecisionState,
    schemas_decisions.DecisionPage,
    schemas_decisions.Explanation,
    schemas_decisions.ReplayedDecision,
    schemas_decisions.DecisionStandsProblem,
)

_TIME: Final = "2026-03-01T12:00:00.000000+00:00"
_REPLAYED: Final = "Idempotent-Replayed"
_READ_HEADERS: Final = ("Counterfoil-Head", "Counterfoil-Incarnation")
_DIGEST: Final = "5f1c3b0a9d2e4c6f8a7b1d3e5c7f9a0b2d4e6f8091a3b5c7d9e0f1a2b3c4d5e6"

_NAME: Final = parts.parameter(
    "name",
    "path",
    "The policy's name.",
    {
        "type": "string",
        "minLength": 1,
        "maxLength": limits.POLICY_NAME_CHARACTERS_MAX,
        "pattern": "^[a-z0-9][a-z0-9._-]*$",
    },
    required=True,
    example="consumer_credit",
)
_VERSION: Final = parts.parameter(
    "version",
    "path",
    "The number of the version.",
    {"type": "integer", "minimum": 1, "maximum": 2**31 - 1},
    required=True,
)
_DECISION_ID: Final = {**parts.EVENT_ID, "description": "The decision's id: that of its event."}

_GRAPH: Final[Json] = {
    "nodes": [
        {"id": "in", "type": "inputNode", "name": "inputs", "position": {"x": 80, "y": 120}},
        {
            "id": "figures",
            "type": "expressionNode",
            "name": "figures",
            "position": {"x": 320, "y": 120},
            "content": {
                "expressions": [{"id": "1", "key": "debt_ratio", "value": "debt / income"}],
                "passThrough": True,
            },
        },
        {
            "id": "decide",
            "type": "decisionTableNode",
            "name": "decide",
            "position": {"x": 560, "y": 120},
            "content": {
                "hitPolicy": "first",
                "inputs": [{"id": "ratio", "name": "debt to income", "field": "debt_ratio"}],
                "outputs": [
                    {"id": "outcome", "name": "outcome", "field": "outcome"},
                    {"id": "reasons", "name": "reasons", "field": "reasons"},
                ],
                "rules": [
                    {"_id": "high", "ratio": "> 0.5", "outcome": '"decline"', "reasons": '"D01"'},
                    {"_id": "low", "ratio": "<= 0.3", "outcome": '"approve"', "reasons": ""},
                    {"_id": "else", "ratio": "", "outcome": '"review"', "reasons": ""},
                ],
            },
        },
        {"id": "out", "type": "outputNode", "name": "decision", "position": {"x": 800, "y": 120}},
    ],
    "edges": [
        {"id": "1", "sourceId": "in", "targetId": "figures", "type": "edge"},
        {"id": "2", "sourceId": "figures", "targetId": "decide", "type": "edge"},
        {"id": "3", "sourceId": "decide", "targetId": "out", "type": "edge"},
    ],
}
_REASON: Final[Json] = {
    "text": "Monthly debts exceed half of the monthly income.",
    "customer": "Your monthly debts are high for your income.",
}
POLICY_EXAMPLE: Final[Json] = {
    "subject": "application",
    "reads": {
        "debt": {"types": ["debts_checked"], "take": "latest", "path": "/monthly_minor"},
        "income": {
            "types": ["income_verified"],
            "take": "latest",
            "path": "/monthly_minor",
            "max_age_seconds": 7_776_000,
        },
    },
    "inputs_schema": {
        "type": "object",
        "properties": {
            "debt": {"type": "integer", "minimum": 0},
            "income": {"type": "integer", "minimum": 1},
        },
        "required": ["debt", "income"],
        "additionalProperties": False,
    },
    "rules": _GRAPH,
    "outcomes": {
        "approve": {"kind": "approve"},
        "review": {"kind": "review"},
        "decline": {"kind": "decline", "reasons": {"D01": _REASON}},
    },
    "forbidden_inputs": ["age", "nationality"],
    "examples": [
        {
            "name": "few debts",
            "inputs": {"debt": 200_00, "income": 2_000_00},
            "outcome": "approve",
        },
        {
            "name": "many debts",
            "inputs": {"debt": 1_200_00, "income": 2_000_00},
            "outcome": "decline",
            "reasons": ["D01"],
        },
    ],
}
_LISTED: Final[Json] = {
    "name": "consumer_credit",
    "version": 2,
    "state": "active",
    "digest": _DIGEST,
    "drafted_by": "person:m.ito",
    "drafted_at": _TIME,
    "event_id": 41,
    "activated_by": "person:a.silva",
    "activated_at": _TIME,
    "retired_by": None,
    "retired_at": None,
}
_POLICY: Final[Json] = {**_LISTED, "versions": [1, 2], "policy": POLICY_EXAMPLE}

_DECISION: Final[Json] = {
    "id": 58,
    "created_at": _TIME,
    "agent_name": "policy_agent",
    "policy": "consumer_credit",
    "version": 2,
    "digest": _DIGEST,
    "engine": "zen-engine 2.1.3",
    "subject": "application:42",
    "outcome": "decline",
    "kind": "decline",
    "reasons": [{"code": "D01", **_REASON}],
    "inputs": {"debt": 1_200_00, "income": 2_000_00},
    "extra": [],
    "signals": {"debt": [55], "income": [54]},
    "matched": [{"table": "decide", "row": 1, "rule": "high"}],
    "head": 57,
    "as_of": _TIME,
    "asked_by": "agent:policy_agent",
    "on_behalf_of": None,
    "supersedes": None,
}
_EXPLANATION: Final[Json] = {
    "decision": _DECISION,
    "timeline": [
        {
            "id": 55,
            "event_type": "debts_checked",
            "agent_name": "risk_agent",
            "created_at": _TIME,
            "age_seconds": 0.25,
            "inputs": ["debt"],
        }
    ],
    "inputs": [
        {"name": "debt", "value": 1_200_00, "from": "book", "take": "latest", "events": [55]}
    ],
    "rows": [
        {
            "table": "decide",
            "row": 1,
            "rule": "high",
            "conditions": [{"field": "debt_ratio", "condition": "> 0.5"}],
            "gives": {"outcome": '"decline"', "reasons": '"D01"'},
        }
    ],
    "customer": [_REASON["customer"]],
    "text": "Decision 58: decline about application:42\n…",
}
_REPLAY: Final[Json] = {
    "decision": 58,
    "version": 2,
    "identical": True,
    "differences": [],
    "engine": {"recorded": "zen-engine 2.1.3", "now": "zen-engine 2.1.3", "changed": False},
    "digest": {"recorded": _DIGEST, "now": _DIGEST},
    "recomputed": {
        "outcome": "decline",
        "reasons": ["D01"],
        "matched": [{"table": "decide", "row": 1, "rule": "high"}],
    },
    "refused": None,
    "signals": "identical",
}


def _changed(operation_id: str, answer: Json, *refusals: Any, **more: Any) -> Json:
    return parts.call(
        operation_id,
        "decisions",
        answer,
        (*parts.CHANGE_REFUSALS, *refusals),
        needs="manage:policies",
        **{**more, "parameters": (_NAME, *more.get("parameters", ()), parts.IDEMPOTENCY_KEY)},
    )


def _read(operation_id: str, answer: Json, *refusals: Any, **more: Any) -> Json:
    return parts.call(operation_id, "decisions", answer, (*parts.READ_REFUSALS, *refusals), **more)


LIST_POLICIES: Final = _read(
    "list_policies",
    parts.json_answer(
        schemas_decisions.PolicyList,
        {
            "policies": [
                {
                    "name": "consumer_credit",
                    "active_version": 2,
                    "versions": 2,
                    "digest": _DIGEST,
                    "changed_at": _TIME,
                }
            ],
            "next": None,
        },
        "One page.",
    ),
    needs=parts.ANY,
    parameters=parts.query_parameters(ListParameters),
)
GET_POLICY: Final = _read(
    "get_policy",
    parts.json_answer(schemas_decisions.PolicyVersion, _POLICY, "The version, with what it says."),
    problems.POLICY_NOT_FOUND,
    problems.POLICY_NOT_ACTIVE,
    needs=parts.ANY,
    parameters=(_NAME, *parts.query_parameters(PolicyParameters)),
)
LIST_VERSIONS: Final = _read(
    "list_policy_versions",
    parts.json_answer(
        schemas_decisions.VersionList, {"versions": [_LISTED], "next": None}, "All of them."
    ),
    problems.POLICY_NOT_FOUND,
    needs=parts.ANY,
    parameters=(_NAME,),
)
DRAFT: Final = _changed(
    "draft_policy",
    parts.json_answer(
        schemas_decisions.PolicyVersion,
        _POLICY,
        "The newest version says the same; nothing changed.",
    ),
    problems.POLICY_REFUSED,
    problems.TOO_MANY,
    body=parts.json_body(Policy, a_small_one=POLICY_EXAMPLE),
    more_answers={
        201: parts.json_answer(
            schemas_decisions.PolicyVersion,
            {**_POLICY, "state": "draft", "activated_by": None, "activated_at": None},
            "The draft.",
            "Location",
            _REPLAYED,
        )
    },
)
ACTIVATE: Final = _changed(
    "activate_policy",
    parts.json_answer(
        schemas_decisions.PolicyVersion, _POLICY, "The version, which is in force.", _REPLAYED
    ),
    problems.POLICY_NOT_FOUND,
    problems.FOUR_EYES,
    parameters=(_VERSION,),
    body=parts.json_body(Activation, reviewed={"reason": "Reviewed with the credit committee."}),
)
RETIRE: Final = _changed(
    "retire_policy",
    parts.json_answer(
        schemas_decisions.PolicyVersion,
        {**_POLICY, "state": "retired", "retired_by": "person:a.silva", "retired_at": _TIME},
        "The version that was in force.",
        _REPLAYED,
    ),
    problems.POLICY_NOT_FOUND,
    problems.POLICY_NOT_ACTIVE,
    body=parts.json_body(Retirement, ended={"reason": "The product is no longer sold."}),
)
DECIDE: Final = parts.call(
    "decide",
    "decisions",
    parts.json_answer(
        schemas_decisions.MadeDecision,
        _DECISION,
        "The decision is committed and flushed.",
        "Location",
        _REPLAYED,
    ),
    (
        *parts.BODY_REFUSALS,
        *(problems.POLICY_NOT_FOUND, problems.POLICY_NOT_ACTIVE),
        *(problems.SUBJECT_WITHOUT_EVENTS, problems.DECISION_INPUTS_REFUSED),
        *(problems.NOT_DECIDED, problems.DECISION_STANDS, problems.CONDITION_FAILED),
        *(problems.BOOK_RESTORED, problems.IDEMPOTENCY_MISMATCH, problems.NAME_NOT_YOURS),
        *(problems.FROZEN, problems.NOT_WRITTEN, problems.OUTCOME_UNKNOWN),
    ),
    status=201,
    needs="decide",
    parameters=parts.WRITE_HEADERS,
    body=parts.json_body(
        NewDecision,
        a_decision={"policy": "consumer_credit", "subject": "application:42"},
        in_the_place_of_another={
            "policy": "consumer_credit",
            "subject": "application:42",
            "supersedes": {"decision": 58, "reason": "The income was corrected."},
        },
    ),
)
LIST_DECISIONS: Final = _read(
    "list_decisions",
    parts.json_answer(
        schemas_decisions.DecisionPage,
        {"decisions": [_DECISION], "head": 58, "next": None, "has_more": False},
        "One page.",
        *_READ_HEADERS,
    ),
    problems.BOOK_RESTORED,
    needs="read",
    parameters=parts.query_parameters(DecisionParameters),
)
GET_DECISION: Final = _read(
    "get_decision",
    parts.json_answer(
        schemas_decisions.DecisionState,
        {**_DECISION, "state": "standing", "superseded_by": None},
        "The decision.",
        *_READ_HEADERS,
    ),
    problems.DECISION_NOT_FOUND,
    needs="read",
    parameters=(_DECISION_ID,),
)
EXPLAIN: Final = _read(
    "explain_decision",
    parts.json_answer(
        schemas_decisions.Explanation, _EXPLANATION, "Why it came out so.", *_READ_HEADERS
    ),
    problems.DECISION_NOT_FOUND,
    problems.POLICY_NOT_FOUND,
    problems.NOT_DECIDED,
    needs="read",
    parameters=(_DECISION_ID,),
)
REPLAY: Final = _read(
    "replay_decision",
    parts.json_answer(
        schemas_decisions.ReplayedDecision, _REPLAY, "What came of it now.", *_READ_HEADERS
    ),
    *parts.BODY_REFUSALS,
    problems.DECISION_NOT_FOUND,
    problems.POLICY_NOT_FOUND,
    problems.NOT_DECIDED,
    needs="read",
    parameters=(_DECISION_ID,),
    body=parts.json_body(Replaying, as_it_was={}, what_if={"version": 3}),
)
