"""The brake: freezing an agent, a tag or the whole book, and thawing it."""

from fastapi import APIRouter
from starlette.requests import Request

from counterfoil.server.api import openapi_rules as described
from counterfoil.server.api.keys import replayed_header
from counterfoil.server.api.parts import idempotency_key, judged, parts
from counterfoil.server.api.requests import no_parameters, principal
from counterfoil.server.api.routes import Answer, RawRoute
from counterfoil.server.brake.model import NewFreeze, Thaw
from counterfoil.server.log.query import judge_event_id

router = APIRouter(route_class=RawRoute)


@router.post("/freezes", **described.FREEZE)
async def freeze(request: Request) -> Answer:
    """Let nothing be written about an agent, a tag or at all, from now on."""
    no_parameters(request)
    caller = principal(request)
    key = idempotency_key(request)
    asked = await judged(request, NewFreeze)
    made = await parts(request).brake.freeze(caller.tenant_id, asked, by=caller.id, key=key)
    location = f"/freezes/{made.id}".encode("ascii")
    return Answer(
        made.text,
        status=201,
        headers=[(b"location", location), *replayed_header(made.replayed)],
    )


@router.get("/freezes", **described.LIST_FREEZES)
async def list_freezes(request: Request) -> Answer:
    """List what is frozen now."""
    no_parameters(request)
    texts = await parts(request).brake.freezes(principal(request).tenant_id)
    return Answer(f'{{"freezes":[{",".join(texts)}]}}')


@router.get("/freezes/{id}", **described.GET_FREEZE)  # noqa: FAST003 - judged by the log
async def get_freeze(request: Request) -> Answer:
    """Show one freeze that is in force."""
    no_parameters(request)
    freeze_id = judge_event_id(request.path_params["id"])
    return Answer(await parts(request).brake.one(principal(request).tenant_id, freeze_id))


@router.post("/freezes/{id}/thaw", **described.THAW)  # noqa: FAST003 - judged by the log
async def thaw(request: Request) -> Answer:
    """Let things be written again."""
    no_parameters(request)
    caller = principal(request)
    freeze_id = judge_event_id(request.path_params["id"])
    key = idempotency_key(request)
    asked = await judged(request, Thaw)
    made = await parts(request).brake.thaw(
        caller.tenant_id, freeze_id, asked, by=caller.id, key=key
    )
    return Answer(made.text, headers=replayed_header(made.replayed))
