"""Parts of the service's description: headers, parameters, answers, refusals, one call.

``openapi.py`` puts them together.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel

from counterfoil.server.api import (
    problems,
    schemas,
    schemas_access,
    schemas_consumers,
    schemas_decisions,
)
from counterfoil.server.api.problems import ProblemType
from counterfoil.server.api.routes import NEEDS, OPEN
from counterfoil.server.core import limits

Json = dict[str, Any]

ANY: Final = "any"
"""What a call needs that any key may make."""

REF: Final = "#/components/schemas/{model}"

# --- Headers and parameters ---------------------------------------------------------

HEADERS: Final[Mapping[str, Json]] = {
    "X-Request-Id": {
        "description": "The caller's own, or one that was made; it stands in the service's log.",
        "schema": {"type": "string"},
    },
    "Counterfoil-Head": {
        "description": "The last position of the book that this read saw.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "Counterfoil-Incarnation": {
        "description": "Which life of the book this is; it changes when a backup is restored.",
        "schema": {"type": "string", "format": "uuid"},
    },
    "Location": {
        "description": "Where what was stored can be read.",
        "schema": {"type": "string", "format": "uri-reference"},
    },
    "Idempotent-Replayed": {
        "description": "`true` if this is the answer to an earlier call with the same key.",
        "schema": {"type": "string", "const": "true"},
    },
    "Retry-After": {
        "description": "Seconds to wait before the next attempt.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "RateLimit-Policy": {
        "description": "How many calls the key may make at once (`q`), and in how many seconds it "
        "may make them again (`w`). Sent where something bounds it.",
        "schema": {"type": "string", "examples": ['"key";q=2000;w=2']},
    },
    "RateLimit": {
        "description": "How many calls are left (`r`), and in how many seconds all are again (`t`).",
        "schema": {"type": "string", "examples": ['"key";r=1999;t=1']},
    },
    "WWW-Authenticate": {"schema": {"type": "string"}},
}


def headers(*names: str) -> Json:
    """Refer to the headers of an answer; X-Request-Id is always one of them."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Request-Id", *names)}


def parameter(name: str, place: str, description: str, schema: Json, **more: Any) -> Json:
    """Describe one parameter."""
    return {"name": name, "in": place, "description": description, "schema": schema, **more}


REQUEST_ID: Final = parameter(
    "X-Request-Id",
    "header",
    f"An id of your own for this request: at most {limits.REQUEST_ID_CHARACTERS_MAX} visible ASCII "
    "characters. Any other is replaced.",
    {"type": "string"},
)
IDEMPOTENCY_KEY: Final = parameter(
    "Idempotency-Key",
    "header",
    "Makes it safe to send this request again: the same key with the same content is stored "
    "once, and answered alike. Kept as long as the event.",
    {
        "type": "string",
        "minLength": 1,
        "maxLength": limits.IDEMPOTENCY_KEY_CHARACTERS_MAX,
        "pattern": "^[!-~]+$",
    },
)
WRITE_HEADERS: Final = (
    IDEMPOTENCY_KEY,
    parameter(
        "traceparent",
        "header",
        "The W3C trace of the caller; kept in the event's `context`.",
        {"type": "string"},
    ),
)
AGENT_NAME: Final = parameter(
    "agent_name",
    "path",
    "Any agent's name, percent-encoded, slashes too.",
    {"type": "string", "minLength": 1, "maxLength": limits.NAME_CHARACTERS_MAX},
    required=True,
    example="fraud_agent",
)
EVENT_ID: Final = parameter(
    "id",
    "path",
    "The event's position.",
    {"type": "integer", "minimum": 1, "maximum": limits.POSITION_MAX},
    required=True,
)
LAST_EVENT_ID: Final = parameter(
    "Last-Event-ID",
    "header",
    "The last `id:` of an earlier connection; goes before `after`.",
    {"type": "string", "examples": ["7c9e6679-7425-40de-944b-e07fc1f90ae7.41"]},
)


def query_parameters(model: type[BaseModel]) -> tuple[Json, ...]:
    """Describe query parameters by the model that judges them."""
    described = []
    for name, property_schema in model.model_json_schema(ref_template=REF)["properties"].items():
        schema = _without_null(property_schema)  # A parameter is left out, never null.
        entry: Json = {"name": name, "in": "query", "description": schema.pop("description", "")}
        if name == "payload":
            entry["content"] = {"application/json": {"schema": schema}}
        else:
            entry["schema"] = schema
        described.append(entry)
    return tuple(described)


def _without_null(schema: Json) -> Json:
    schema = {key: value for key, value in schema.items() if key != "title"}
    if schema.get("default", ...) is None:
        del schema["default"]
    options = [option for option in schema.pop("anyOf", []) if option != {"type": "null"}]
    if len(options) == 1:
        schema = {**options[0], **schema}
    return schema


# --- Answers --------------------------------------------------------------------------

_ERRORS_EXAMPLE: Final = [
    {
        "pointer": "/event_type",
        "message": "This member is missing.",
        "in": "body",
    }
]


def _problem_example(problem: ProblemType) -> Json:
    document: Json = {
        "type": problem.uri,
        "title": problem.title,
        "status": problem.status,
        "detail": problem.meaning,
        "request_id": "0d7ab1c5f7c14f8fa3c4f0a5a1c5e3b2",
    }
    if problem is problems.INVALID_INPUT:
        document["errors"] = _ERRORS_EXAMPLE
    elif problem is problems.CONDITION_FAILED:
        document["head"] = 42
        document["conflicts"] = [EVENT_EXAMPLE]
    elif problem is problems.LEASE_LOST:
        document["lost"] = ["000000000000000c.0000000000000029.00000001"]
    elif problem is problems.SCOPE_MISSING:
        document["scope"] = "read:flag_transaction"
    elif problem is problems.NAME_NOT_YOURS:
        document["agent_name"] = "fraud_agent"
    elif problem is problems.FROZEN:
        document["freeze"] = FREEZE_EXAMPLE
    elif problem is problems.NOT_READY:
        document["checks"] = {"database": "The database cannot be reached at the moment."}
    return document


def _problem_responses(types: Sequence[ProblemType]) -> dict[int | str, Json]:
    by_status: dict[int, list[ProblemType]] = {}
    for problem in types:
        by_status.setdefault(problem.status, []).append(problem)
    return {
        status: {
            "description": " Or: ".join(f"{problem.title}." for problem in group),
            "headers": headers(*_HEADERS_OF_STATUS.get(status, ())),
            "content": {
                problems.MEDIA_TYPE: {
                    "schema": {"$ref": REF.format(model=_schema_of(group))},
                    "examples": {
                        problem.name: {"summary": problem.title, "value": _problem_example(problem)}
                        for problem in group
                    },
                }
            },
        }
        for status, group in sorted(by_status.items())
    }


_HEADERS_OF_STATUS: Final[Mapping[int, Sequence[str]]] = {
    401: ("WWW-Authenticate",),
    429: ("Retry-After", "RateLimit-Policy", "RateLimit"),
    503: ("Retry-After",),
}


_SCHEMA_WITH: Final[Sequence[tuple[ProblemType, type[BaseModel]]]] = (
    (problems.SCOPE_MISSING, schemas_access.ScopeMissingProblem),
    (problems.PAYLOAD_MISMATCH, schemas_access.PayloadMismatchProblem),
    (problems.FROZEN, schemas_access.FrozenProblem),
    (problems.DECISION_STANDS, schemas_decisions.DecisionStandsProblem),
    (problems.CONDITION_FAILED, schemas.ConditionFailedProblem),
    (problems.LEASE_LOST, schemas_consumers.LeaseLostProblem),
    (problems.NOT_READY, schemas.NotReadyProblem),
)
"""Which schema describes the answers of a status, by the first of these among its problems."""


def _schema_of(group: Sequence[ProblemType]) -> str:
    schema = next((schema for problem, schema in _SCHEMA_WITH if problem in group), schemas.Problem)
    return schema.__name__


EVENT_EXAMPLE: Final[Json] = {
    "id": 42,
    "agent_name": "fraud_agent",
    "event_type": "flag_transaction",
    "payload": {"transaction_id": "tx_987", "reason": "velocity_threshold_exceeded"},
    "tags": ["transaction:tx_987"],
    "created_at": "2026-03-01T12:00:00.000000+00:00",
    "occurred_at": "2026-03-01T11:59:58.250000+00:00",
    "caused_by": [40, 41],
    "context": {"model": "m-2026-02", "run_id": "run_5"},
}
NEW_EVENT_EXAMPLE: Final[Json] = {
    name: EVENT_EXAMPLE[name] for name in ("agent_name", "event_type", "payload")
}
APPROVAL_EXAMPLE: Final[Json] = {
    "agent_name": "approver",
    "event_type": "approved",
    "payload": {"transaction_id": "tx_987"},
    "condition": {
        "fail_if": [{"types": ["flag_transaction"], "tags": ["transaction:tx_987"]}],
        "after": 41,
    },
}
STORED_EXAMPLE: Final[Json] = {
    "id": 42,
    "created_at": EVENT_EXAMPLE["created_at"],
    "status": "stored",
}


FREEZE_EXAMPLE: Final[Json] = {
    "id": 41,
    "kind": "tag",
    "subject": "customer:cust_123",
    "reason": "Account takeover is suspected.",
    "until": "2026-03-02T00:00:00.000000+00:00",
    "frozen_at": EVENT_EXAMPLE["created_at"],
    "frozen_by": "person:m.ito",
}


def json_answer(model: type[BaseModel], example: Any, description: str, *header_names: str) -> Json:
    """Describe an answer in JSON; X-Request-Id is always among its headers."""
    return {
        "description": description,
        "headers": headers(*header_names),
        "content": {
            "application/json": {
                "schema": {"$ref": REF.format(model=model.__name__)},
                "example": example,
            }
        },
    }


def json_body(model: type[BaseModel], **examples: Json) -> Json:
    """Describe the body of a call by the model that judges it."""
    return {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": REF.format(model=model.__name__)},
                "examples": {
                    name: {"summary": name.replace("_", " "), "value": value}
                    for name, value in examples.items()
                },
            }
        },
    }


# --- Refusals -------------------------------------------------------------------------

BODY_REFUSALS: Final = (
    problems.MALFORMED_DOCUMENT,
    problems.INVALID_INPUT,
    problems.UNSUPPORTED_MEDIA_TYPE,
    problems.BODY_TOO_LARGE,
    problems.BODY_TOO_SLOW,
    problems.BUSY,
)
WRITE_REFUSALS: Final = (
    *BODY_REFUSALS,
    problems.CONDITION_FAILED,
    problems.BOOK_RESTORED,
    problems.AFTER_ABOVE_HEAD,
    problems.UNKNOWN_CAUSE,
    problems.IDEMPOTENCY_MISMATCH,
    problems.NAME_NOT_YOURS,
    problems.FROZEN,
    problems.PAYLOAD_MISMATCH,
    problems.EVENT_TYPE_UNREGISTERED,
    problems.NOT_WRITTEN,
    problems.OUTCOME_UNKNOWN,
)
CHANGE_REFUSALS: Final = (
    *BODY_REFUSALS,
    problems.IDEMPOTENCY_MISMATCH,
    problems.NOT_WRITTEN,
    problems.OUTCOME_UNKNOWN,
    problems.DATABASE_UNAVAILABLE,
    problems.READ_TOO_SLOW,
)
READ_REFUSALS: Final = (
    problems.INVALID_INPUT,
    problems.DATABASE_UNAVAILABLE,
    problems.READ_TOO_SLOW,
)

# --- Calls ----------------------------------------------------------------------------


def call(
    operation_id: str,
    tag: str,
    answer: Json,
    refusals: Sequence[ProblemType],
    *,
    status: int = 200,
    parameters: Sequence[Json] = (),
    body: Json | None = None,
    needs: str = OPEN,
    more_answers: Mapping[int | str, Json] | None = None,
) -> Json:
    """Put together the keyword arguments of one route.

    ``needs`` says what a key has to be let at (``auth.must_be_let``); without it, none is asked
    for.
    """
    is_open = needs == OPEN
    extra: Json = {"parameters": [*parameters, REQUEST_ID], NEEDS: needs}
    if body is not None:
        extra["requestBody"] = body
    if is_open:
        extra["security"] = []
    everywhere: tuple[ProblemType, ...] = ()
    if not is_open:
        everywhere = (
            *(problems.UNAUTHENTICATED, problems.FOREIGN_HOST, problems.RATE_LIMITED),
            *(problems.BUSY, problems.DATABASE_UNAVAILABLE),
            *(() if needs == ANY else (problems.SCOPE_MISSING,)),
        )
    return {
        "operation_id": operation_id,
        "tags": [tag],
        "status_code": status,
        "response_description": answer["description"],
        "responses": {
            status: answer,
            **(more_answers or {}),
            **_problem_responses(
                tuple(dict.fromkeys((*everywhere, *refusals, problems.INTERNAL_ERROR)))
            ),
        },
        "openapi_extra": extra,
    }
