"""What each call takes and gives, for ``/openapi.json``.

FastAPI derives this from signatures; our calls read their requests raw and answer bytes,
so it is written here: requests from the very models that judge them, answers from
``schemas.py``, refusals from the catalogue of problems. Each constant holds the keyword
arguments of one route.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import HTMLResponse, PlainTextResponse

from counterfoil.server.api import problems, schemas
from counterfoil.server.api.problems import ProblemType
from counterfoil.server.core import limits
from counterfoil.server.log.model import AppendBody, BatchBody
from counterfoil.server.log.query import QueryBody, ReadParameters

Json = dict[str, Any]

_REF: Final = "#/components/schemas/{model}"

_INPUTS: Final[Sequence[type[BaseModel]]] = (AppendBody, BatchBody, QueryBody, ReadParameters)
_OUTPUTS: Final[Sequence[type[BaseModel]]] = (
    schemas.StoredEvent,
    schemas.StoredEvents,
    schemas.AgentEvent,
    schemas.Event,
    schemas.EventPage,
    schemas.Problem,
    schemas.ConditionFailedProblem,
    schemas.NotReadyProblem,
    schemas.Live,
    schemas.Ready,
    schemas.ProblemDescription,
)

_DESCRIPTION: Final = """\
Shared memory and control plane for agents that handle money.

**Decide on what you read.** Every read returns the *head* of the book. Every write may say:
*only if nothing that matches this query has been written after that head*. A refused write
comes back with the very events that stood in its way.

Every refusal is a problem document (RFC 9457) whose `type` leads to a page that explains it;
all of them are listed at [/problems](/problems).
"""

# --- Headers and parameters ---------------------------------------------------------

_HEADERS: Final[Mapping[str, Json]] = {
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
    "WWW-Authenticate": {"schema": {"type": "string"}},
}


def _headers(*names: str) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Request-Id", *names)}


def _parameter(name: str, place: str, description: str, schema: Json, **more: Any) -> Json:
    return {"name": name, "in": place, "description": description, "schema": schema, **more}


_REQUEST_ID: Final = _parameter(
    "X-Request-Id",
    "header",
    "An id of your own for this request. One that is not visible ASCII, or too long, is replaced.",
    {"type": "string", "maxLength": limits.REQUEST_ID_CHARACTERS_MAX},
)
_WRITE_HEADERS: Final = (
    _parameter(
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
    ),
    _parameter(
        "traceparent",
        "header",
        "The W3C trace of the caller; kept in the event's `context`.",
        {"type": "string"},
    ),
)
_AGENT_NAME: Final = _parameter(
    "agent_name",
    "path",
    "Any agent's name, percent-encoded, slashes too.",
    {"type": "string", "minLength": 1, "maxLength": limits.NAME_CHARACTERS_MAX},
    required=True,
    example="fraud_agent",
)
_EVENT_ID: Final = _parameter(
    "id",
    "path",
    "The event's position.",
    {"type": "integer", "minimum": 1, "maximum": limits.POSITION_MAX},
    required=True,
)
_LAST_EVENT_ID: Final = _parameter(
    "Last-Event-ID",
    "header",
    "The last `id:` of an earlier connection; goes before `after`.",
    {"type": "string", "examples": ["7c9e6679-7425-40de-944b-e07fc1f90ae7.41"]},
)
_LATEST_PARAMETERS: Final = (
    _parameter(
        "limit",
        "query",
        "How many events at most.",
        {
            "type": "integer",
            "minimum": 1,
            "maximum": limits.PAGE_EVENTS_MAX,
            "default": limits.LATEST_EVENTS_DEFAULT,
        },
    ),
    _parameter(
        "before",
        "query",
        "Only events below this position: the id of the last one of the list before.",
        {"type": "integer", "minimum": 1, "maximum": limits.POSITION_MAX},
    ),
)


def _read_parameters(names: Sequence[str] | None = None) -> tuple[Json, ...]:
    """Describe query parameters as the model says that judges them."""
    properties: Json = ReadParameters.model_json_schema(ref_template=_REF)["properties"]
    parameters = []
    for name, property_schema in properties.items():
        if names is not None and name not in names:
            continue
        schema = _without_null(property_schema)  # A parameter is left out, never null.
        description = schema.pop("description", "")
        parameter: Json = {"name": name, "in": "query", "description": description}
        if name == "payload":
            parameter["content"] = {"application/json": {"schema": schema}}
        else:
            parameter["schema"] = schema
        parameters.append(parameter)
    return tuple(parameters)


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
        document["conflicts"] = [_EVENT_EXAMPLE]
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
            "headers": _headers(*_HEADERS_OF_STATUS.get(status, ())),
            "content": {
                problems.MEDIA_TYPE: {
                    "schema": {"$ref": _REF.format(model=_schema_of(group))},
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
    503: ("Retry-After",),
}


def _schema_of(group: Sequence[ProblemType]) -> str:
    if problems.CONDITION_FAILED in group:
        return schemas.ConditionFailedProblem.__name__
    if problems.NOT_READY in group:
        return schemas.NotReadyProblem.__name__
    return schemas.Problem.__name__


_EVENT_EXAMPLE: Final[Json] = {
    "id": 42,
    "agent_name": "fraud_agent",
    "event_type": "flag_transaction",
    "payload": {"transaction_id": "tx_987", "reason": "velocity_threshold_exceeded"},
    "tags": ["transaction:tx_987"],
    "created_at": "2026-03-01T12:00:00.000000+00:00",
    "occurred_at": None,
    "caused_by": [],
    "context": None,
}
_NEW_EVENT_EXAMPLE: Final[Json] = {
    name: _EVENT_EXAMPLE[name] for name in ("agent_name", "event_type", "payload")
}
_APPROVAL_EXAMPLE: Final[Json] = {
    "agent_name": "approver",
    "event_type": "approved",
    "payload": {"transaction_id": "tx_987"},
    "condition": {
        "fail_if": [{"types": ["flag_transaction"], "tags": ["transaction:tx_987"]}],
        "after": 41,
    },
}
_STORED_EXAMPLE: Final[Json] = {
    "id": 42,
    "created_at": _EVENT_EXAMPLE["created_at"],
    "status": "stored",
}


def _json_answer(model: type[BaseModel], example: Any, description: str, *headers: str) -> Json:
    return {
        "description": description,
        "headers": _headers(*headers),
        "content": {
            "application/json": {
                "schema": {"$ref": _REF.format(model=model.__name__)},
                "example": example,
            }
        },
    }


def _json_body(model: type[BaseModel], **examples: Json) -> Json:
    return {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": _REF.format(model=model.__name__)},
                "examples": {
                    name: {"summary": name.replace("_", " "), "value": value}
                    for name, value in examples.items()
                },
            }
        },
    }


# --- Calls ----------------------------------------------------------------------------


def _call(
    operation_id: str,
    tag: str,
    answer: Json,
    refusals: Sequence[ProblemType],
    *,
    status: int = 200,
    parameters: Sequence[Json] = (),
    body: Json | None = None,
    is_open: bool = False,
) -> Json:
    """Put together the keyword arguments of one route."""
    extra: Json = {"parameters": [*parameters, _REQUEST_ID]}
    if body is not None:
        extra["requestBody"] = body
    if is_open:
        extra["security"] = []
    everywhere = () if is_open else (problems.UNAUTHENTICATED,)
    return {
        "operation_id": operation_id,
        "tags": [tag],
        "status_code": status,
        "response_description": answer["description"],
        "responses": {
            status: answer,
            **_problem_responses((*everywhere, *refusals, problems.INTERNAL_ERROR)),
        },
        "openapi_extra": extra,
    }


_BODY_REFUSALS: Final = (
    problems.MALFORMED_DOCUMENT,
    problems.INVALID_INPUT,
    problems.UNSUPPORTED_MEDIA_TYPE,
    problems.BODY_TOO_LARGE,
    problems.BODY_TOO_SLOW,
    problems.BUSY,
)
_WRITE_REFUSALS: Final = (
    *_BODY_REFUSALS,
    problems.CONDITION_FAILED,
    problems.BOOK_RESTORED,
    problems.AFTER_ABOVE_HEAD,
    problems.UNKNOWN_CAUSE,
    problems.IDEMPOTENCY_MISMATCH,
    problems.NOT_WRITTEN,
    problems.OUTCOME_UNKNOWN,
)
_READ_REFUSALS: Final = (
    problems.INVALID_INPUT,
    problems.DATABASE_UNAVAILABLE,
    problems.READ_TOO_SLOW,
)
_POSITION_REFUSALS: Final = (problems.AFTER_ABOVE_HEAD, problems.BOOK_RESTORED)
_READ_HEADERS: Final = ("Counterfoil-Head", "Counterfoil-Incarnation")


def _append(operation_id: str) -> Json:
    return _call(
        operation_id,
        "events",
        _json_answer(
            schemas.StoredEvent,
            _STORED_EXAMPLE,
            "The event is committed and flushed.",
            "Location",
            "Idempotent-Replayed",
        ),
        _WRITE_REFUSALS,
        status=201,
        parameters=_WRITE_HEADERS,
        body=_json_body(
            AppendBody, an_event=_NEW_EVENT_EXAMPLE, a_guarded_decision=_APPROVAL_EXAMPLE
        ),
    )


APPEND: Final = _append("append_agent_event")
APPEND_ALIAS: Final = _append("append_event")
APPEND_BATCH: Final = _call(
    "append_events",
    "events",
    _json_answer(
        schemas.StoredEvents,
        {"ids": [42, 43], "created_at": _EVENT_EXAMPLE["created_at"], "status": "stored"},
        "All events are committed and flushed.",
        "Location",
        "Idempotent-Replayed",
    ),
    _WRITE_REFUSALS,
    status=201,
    parameters=_WRITE_HEADERS,
    body=_json_body(BatchBody, two_events={"events": [_NEW_EVENT_EXAMPLE, _NEW_EVENT_EXAMPLE]}),
)
LATEST: Final = _call(
    "list_latest",
    "events",
    {
        **_json_answer(
            schemas.AgentEvent, None, "The agent's events, newest first.", *_READ_HEADERS
        ),
        "content": {
            "application/json": {
                "schema": {"type": "array", "items": {"$ref": _REF.format(model="AgentEvent")}},
                "example": [
                    {
                        name: _EVENT_EXAMPLE[name]
                        for name in ("id", "agent_name", "event_type", "payload", "created_at")
                    }
                ],
            }
        },
    },
    _READ_REFUSALS,
    parameters=(_AGENT_NAME, *_LATEST_PARAMETERS),
)
_PAGE_EXAMPLE: Final[Json] = {
    "events": [_EVENT_EXAMPLE],
    "head": 42,
    "next": None,
    "has_more": False,
}
LIST: Final = _call(
    "list_events",
    "events",
    _json_answer(schemas.EventPage, _PAGE_EXAMPLE, "One page.", *_READ_HEADERS),
    (*_READ_REFUSALS, *_POSITION_REFUSALS),
    parameters=_read_parameters(),
)
QUERY: Final = _call(
    "query_events",
    "events",
    _json_answer(schemas.EventPage, _PAGE_EXAMPLE, "One page.", *_READ_HEADERS),
    (*_BODY_REFUSALS, *_READ_REFUSALS[1:], *_POSITION_REFUSALS),
    body=_json_body(
        QueryBody, one_transaction={"query": [{"tags": ["transaction:tx_987"]}], "limit": 10}
    ),
)
GET: Final = _call(
    "get_event",
    "events",
    _json_answer(schemas.Event, _EVENT_EXAMPLE, "The event.", *_READ_HEADERS),
    (*_READ_REFUSALS, problems.EVENT_NOT_FOUND),
    parameters=(_EVENT_ID,),
)
STREAM: Final = _call(
    "stream_events",
    "events",
    {
        "description": "Events as they are written, until one side leaves.",
        "headers": _headers(*_READ_HEADERS),
        "content": {
            "text/event-stream": {
                "schema": {"type": "string"},
                "example": "retry: 1000\n\n: heartbeat\nid: 7c9e6679-7425-40de-944b-e07fc1f90ae7.41"
                '\n\ndata: {"id":42,…}\nid: 7c9e6679-7425-40de-944b-e07fc1f90ae7.42\n\n',
            }
        },
    },
    (*_READ_REFUSALS, *_POSITION_REFUSALS, problems.BUSY),
    parameters=(*_read_parameters(("tag", "type", "agent", "payload", "after")), _LAST_EVENT_ID),
)
LIVE: Final = _call(
    "live",
    "platform",
    _json_answer(schemas.Live, {"status": "live"}, "The process runs."),
    (),
    is_open=True,
)
READY: Final = _call(
    "ready",
    "platform",
    _json_answer(
        schemas.Ready,
        {"status": "ready", "checks": {"database": "ok"}},
        "Calls can be served.",
    ),
    (problems.NOT_READY,),
    is_open=True,
)
METRICS: Final = {
    **_call(
        "metrics",
        "platform",
        {
            "description": "What the service counts, in Prometheus' text form.",
            "headers": _headers(),
            "content": {"text/plain": {"schema": {"type": "string"}}},
        },
        (),
    ),
    "response_class": PlainTextResponse,
}


def _pages(operation_id: str, description: str, schema: Json, **more: Any) -> Json:
    return {
        **_call(
            operation_id,
            "problems",
            {
                "description": description,
                "headers": _headers(),
                "content": {
                    "text/html": {"schema": {"type": "string"}},
                    "application/json": {"schema": schema},
                },
            },
            more.pop("refusals", ()),
            is_open=True,
            **more,
        ),
        "response_class": HTMLResponse,
    }


_DESCRIBED: Final[Json] = {"$ref": _REF.format(model="ProblemDescription")}
PROBLEMS: Final = _pages(
    "list_problems", "Every problem type.", {"type": "array", "items": _DESCRIBED}
)
PROBLEM: Final = _pages(
    "show_problem",
    "What the problem means and what to do.",
    _DESCRIBED,
    refusals=(problems.NOT_FOUND,),
    parameters=(
        _parameter(
            "name",
            "path",
            "The last part of a problem's `type`.",
            {"type": "string", "enum": list(problems.CATALOGUE)},
            required=True,
        ),
    ),
)

# --- The document -----------------------------------------------------------------------


class DescribedService(FastAPI):
    """A FastAPI application whose description is completed from this module."""

    def openapi(self) -> Json:
        """Return the OpenAPI document; built once."""
        if self.openapi_schema is None:
            self.openapi_schema = _document(self)
        return self.openapi_schema


def _document(app: FastAPI) -> Json:
    document = get_openapi(
        title="Counterfoil",
        version=app.version,
        description=_DESCRIPTION,
        routes=app.routes,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        tags=[
            {"name": "events", "description": "Write, read and follow the book."},
            {"name": "platform", "description": "For whoever runs the service."},
            {"name": "problems", "description": "What a refusal means."},
        ],
    )
    _, definitions = models_json_schema(
        [
            *((model, "validation") for model in _INPUTS),
            *((model, "serialization") for model in _OUTPUTS),
        ],
        ref_template=_REF,
    )
    components = document.setdefault("components", {})
    components["schemas"] = definitions["$defs"]
    components["headers"] = dict(_HEADERS)
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    # Either of them; operations that are open say so themselves.
    document["security"] = [{"bearer": []}, {"api_key": []}]
    return document
