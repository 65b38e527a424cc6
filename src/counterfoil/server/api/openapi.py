"""What each call takes and gives, for ``/openapi.json``.

FastAPI derives this from signatures; our calls read their requests raw and answer bytes,
so it is written here: requests from the very models that judge them, answers from
``schemas.py``, refusals from the catalogue of problems. Each constant holds the keyword
arguments of one route.
"""

from collections.abc import Sequence
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import HTMLResponse, PlainTextResponse

from counterfoil.server.api import (
    openapi_access,
    openapi_consumers,
    openapi_decisions,
    openapi_rules,
    problems,
    schemas,
)
from counterfoil.server.api import openapi_parts as parts
from counterfoil.server.api.openapi_parts import REF, Json
from counterfoil.server.log.model import AppendBody, BatchBody
from counterfoil.server.log.query import (
    LatestParameters,
    QueryBody,
    ReadParameters,
    StreamParameters,
)

_INPUTS: Final[Sequence[type[BaseModel]]] = (
    *(AppendBody, BatchBody, QueryBody),
    *openapi_access.INPUTS,
    *openapi_rules.INPUTS,
    *openapi_consumers.INPUTS,
    *openapi_decisions.INPUTS,
)
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
    *openapi_access.OUTPUTS,
    *openapi_rules.OUTPUTS,
    *openapi_consumers.OUTPUTS,
    *openapi_decisions.OUTPUTS,
)

_DESCRIPTION: Final = """\
Shared memory and control plane for agents that handle money.

**Decide on what you read.** Every read returns the *head* of the book. Every write may say:
*only if nothing that matches this query has been written after that head*. A refused write
comes back with the very events that stood in its way.

Every refusal is a problem document (RFC 9457) whose `type` leads to a page that explains it;
all of them are listed at [/problems](/problems).
"""


_WRITE_REFUSALS: Final = parts.WRITE_REFUSALS
_POSITION_REFUSALS: Final = (problems.AFTER_ABOVE_HEAD, problems.BOOK_RESTORED)
_READ_HEADERS: Final = ("Counterfoil-Head", "Counterfoil-Incarnation")


def _append(operation_id: str) -> Json:
    return parts.call(
        operation_id,
        "events",
        parts.json_answer(
            schemas.StoredEvent,
            parts.STORED_EXAMPLE,
            "The event is committed and flushed.",
            "Location",
            "Idempotent-Replayed",
        ),
        _WRITE_REFUSALS,
        status=201,
        needs="append",
        parameters=parts.WRITE_HEADERS,
        body=parts.json_body(
            AppendBody, an_event=parts.NEW_EVENT_EXAMPLE, a_guarded_decision=parts.APPROVAL_EXAMPLE
        ),
    )


APPEND: Final = _append("append_agent_event")
APPEND_ALIAS: Final = _append("append_event")
APPEND_BATCH: Final = parts.call(
    "append_events",
    "events",
    parts.json_answer(
        schemas.StoredEvents,
        {"ids": [42, 43], "created_at": parts.EVENT_EXAMPLE["created_at"], "status": "stored"},
        "All events are committed and flushed.",
        "Location",
        "Idempotent-Replayed",
    ),
    _WRITE_REFUSALS,
    status=201,
    needs="append",
    parameters=parts.WRITE_HEADERS,
    body=parts.json_body(
        BatchBody, two_events={"events": [parts.NEW_EVENT_EXAMPLE, parts.NEW_EVENT_EXAMPLE]}
    ),
)
LATEST: Final = parts.call(
    "list_latest",
    "events",
    {
        **parts.json_answer(
            schemas.AgentEvent, None, "The agent's events, newest first.", *_READ_HEADERS
        ),
        "content": {
            "application/json": {
                "schema": {"type": "array", "items": {"$ref": REF.format(model="AgentEvent")}},
                "example": [
                    {
                        name: parts.EVENT_EXAMPLE[name]
                        for name in ("id", "agent_name", "event_type", "payload", "created_at")
                    }
                ],
            }
        },
    },
    parts.READ_REFUSALS,
    needs="read",
    parameters=(parts.AGENT_NAME, *parts.query_parameters(LatestParameters)),
)
_PAGE_EXAMPLE: Final[Json] = {
    "events": [parts.EVENT_EXAMPLE],
    "head": 42,
    "next": "AQB8nmZ5dCVA3pRL4H_B-QrnAAAAAAAAACoAAAAAAAAAKQAJ0y5h",
    "has_more": True,
}
LIST: Final = parts.call(
    "list_events",
    "events",
    parts.json_answer(schemas.EventPage, _PAGE_EXAMPLE, "One page.", *_READ_HEADERS),
    (*parts.READ_REFUSALS, *_POSITION_REFUSALS),
    needs="read",
    parameters=parts.query_parameters(ReadParameters),
)
QUERY: Final = parts.call(
    "query_events",
    "events",
    parts.json_answer(schemas.EventPage, _PAGE_EXAMPLE, "One page.", *_READ_HEADERS),
    (*parts.BODY_REFUSALS, *parts.READ_REFUSALS[1:], *_POSITION_REFUSALS),
    needs="read",
    body=parts.json_body(
        QueryBody, one_transaction={"query": [{"tags": ["transaction:tx_987"]}], "limit": 10}
    ),
)
GET: Final = parts.call(
    "get_event",
    "events",
    parts.json_answer(schemas.Event, parts.EVENT_EXAMPLE, "The event.", *_READ_HEADERS),
    (*parts.READ_REFUSALS, problems.EVENT_NOT_FOUND),
    needs="read",
    parameters=(parts.EVENT_ID,),
)
STREAM: Final = parts.call(
    "stream_events",
    "events",
    {
        "description": "Events as they are written, until one side leaves.",
        "headers": parts.headers(*_READ_HEADERS),
        "content": {
            "text/event-stream": {
                "schema": {"type": "string"},
                "example": "retry: 1000\n\n: heartbeat\nid: 7c9e6679-7425-40de-944b-e07fc1f90ae7.41"
                '\n\ndata: {"id":42,…}\nid: 7c9e6679-7425-40de-944b-e07fc1f90ae7.42\n\n',
            }
        },
    },
    (*parts.READ_REFUSALS, *_POSITION_REFUSALS, problems.BUSY),
    needs="read",
    parameters=(
        *parts.query_parameters(StreamParameters),
        parts.LAST_EVENT_ID,
    ),
)
LIVE: Final = parts.call(
    "live",
    "platform",
    parts.json_answer(schemas.Live, {"status": "live"}, "The process runs."),
    (),
)
READY: Final = parts.call(
    "ready",
    "platform",
    parts.json_answer(
        schemas.Ready,
        {"status": "ready", "checks": {"database": "ok"}},
        "Calls can be served.",
    ),
    (problems.NOT_READY,),
)
METRICS: Final = {
    **parts.call(
        "metrics",
        "platform",
        {
            "description": "What the service counts, in Prometheus' text form.",
            "headers": parts.headers(),
            "content": {"text/plain": {"schema": {"type": "string"}}},
        },
        (),
        needs="operate:metrics",
    ),
    "response_class": PlainTextResponse,
}


def _pages(operation_id: str, description: str, schema: Json, **more: Any) -> Json:
    return {
        **parts.call(
            operation_id,
            "problems",
            {
                "description": description,
                "headers": parts.headers(),
                "content": {
                    "text/html": {"schema": {"type": "string"}},
                    "application/json": {"schema": schema},
                },
            },
            more.pop("refusals", ()),
            **more,
        ),
        "response_class": HTMLResponse,
    }


_DESCRIBED: Final[Json] = {"$ref": REF.format(model="ProblemDescription")}
PROBLEMS: Final = _pages(
    "list_problems", "Every problem type.", {"type": "array", "items": _DESCRIBED}
)
PROBLEM: Final = _pages(
    "show_problem",
    "What the problem means and what to do.",
    _DESCRIBED,
    refusals=(problems.NOT_FOUND,),
    parameters=(
        parts.parameter(
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
            {"name": "access", "description": "Keys, tenants, and what they may do."},
            {"name": "rules", "description": "What may be written now."},
            {"name": "platform", "description": "For whoever runs the service."},
            {"name": "problems", "description": "What a refusal means."},
        ],
    )
    _, definitions = models_json_schema(
        [
            *((model, "validation") for model in _INPUTS),
            *((model, "serialization") for model in _OUTPUTS),
        ],
        ref_template=REF,
    )
    components = document.setdefault("components", {})
    components["schemas"] = definitions["$defs"]
    components["headers"] = dict(parts.HEADERS)
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    # Either of them; operations that are open say so themselves.
    document["security"] = [{"bearer": []}, {"api_key": []}]
    return document
