"""Event types with schemas, and what a tenant settles for itself."""

from urllib.parse import quote

from fastapi import APIRouter
from starlette.requests import Request

from counterfoil.server.api import openapi_rules as described
from counterfoil.server.api.keys import list_answer, replayed_header
from counterfoil.server.api.parts import idempotency_key, judged, parts
from counterfoil.server.api.requests import (
    no_parameters,
    path_text,
    principal,
    query_parameters,
)
from counterfoil.server.api.routes import Answer, RawRoute
from counterfoil.server.event_types.model import (
    NewSettings,
    NewVersion,
    TypeParameters,
    judge_event_type,
)
from counterfoil.server.log.parameters import ListParameters, judged_parameters

_PATH = "/event-types/"

router = APIRouter(route_class=RawRoute)


@router.get("/event-types", **described.LIST_TYPES)
async def list_event_types(request: Request) -> Answer:
    """List the tenant's registered types, each with its active version."""
    asked = judged_parameters(ListParameters, query_parameters(request))
    listed = await parts(request).event_types.event_types(
        principal(request).tenant_id, limit=asked.limit, cursor=asked.cursor
    )
    return list_answer("event_types", listed.texts, listed.next)


@router.get("/event-types/{event_type:anything}", **described.GET_TYPE)  # noqa: FAST003 - read raw
async def get_event_type(request: Request) -> Answer:
    """Show one version of a type with its schema; the active one, if none is asked for."""
    event_type = judge_event_type(path_text(request, _PATH, "event_type"))
    asked = judged_parameters(TypeParameters, query_parameters(request))
    return Answer(
        await parts(request).event_types.event_type(
            principal(request).tenant_id, event_type, asked.version
        )
    )


@router.put("/event-types/{event_type:anything}", **described.REGISTER)  # noqa: FAST003 - read raw
async def register(request: Request) -> Answer:
    """Give a type a schema, or the next version of it."""
    no_parameters(request)
    caller = principal(request)
    event_type = judge_event_type(path_text(request, _PATH, "event_type"))
    key = idempotency_key(request)
    asked = await judged(request, NewVersion)
    made = await parts(request).event_types.register(
        caller.tenant_id, event_type, asked, by=caller.id, key=key
    )
    location = f"{_PATH}{quote(event_type, safe='')}".encode("ascii")
    return Answer(
        made.text,
        status=201 if made.created else 200,
        headers=[
            *([(b"location", location)] if made.created else []),
            *replayed_header(made.replayed),
        ],
    )


@router.get("/settings", **described.GET_SETTINGS)
async def get_settings(request: Request) -> Answer:
    """Show what the tenant has settled for itself."""
    no_parameters(request)
    return Answer(await parts(request).event_types.settings(principal(request).tenant_id))


@router.put("/settings", **described.CHANGE_SETTINGS)
async def change_settings(request: Request) -> Answer:
    """Settle what becomes of events whose type has no schema."""
    no_parameters(request)
    caller = principal(request)
    key = idempotency_key(request)
    asked = await judged(request, NewSettings)
    made = await parts(request).event_types.change_settings(
        caller.tenant_id, asked, by=caller.id, key=key
    )
    return Answer(made.text, headers=replayed_header(made.replayed))
