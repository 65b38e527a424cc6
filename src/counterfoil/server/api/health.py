"""What the platform asks: is the process alive, can it serve, what does it count."""

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from counterfoil.server.api import openapi, problems
from counterfoil.server.api.errors import problem_response
from counterfoil.server.api.parts import parts
from counterfoil.server.api.requests import request_id
from counterfoil.server.api.routes import RawRoute
from counterfoil.server.core import metrics

router = APIRouter(route_class=RawRoute)


@router.get("/health/live", **openapi.LIVE)
async def live(_request: Request) -> Response:
    """Answer as long as the process does. Restart it if this fails, and only then."""
    return Response(b'{"status":"live"}', media_type="application/json")


@router.get("/health/ready", **openapi.READY)
async def ready(request: Request) -> Response:
    """Tell whether calls can be served now. Send none while this fails."""
    readiness = await parts(request).log.ready()
    if readiness.ready:
        return Response(
            msgspec.json.encode({"status": "ready", "checks": readiness.checks}),
            media_type="application/json",
        )
    return problem_response(
        problems.NOT_READY,
        "At least one check fails; see `checks`.",
        request_id=request_id(request.scope),
        members={"checks": readiness.checks},
    )


@router.get("/metrics", **openapi.METRICS)
async def show_metrics(request: Request) -> Response:
    """Show what this service counts, in Prometheus' text form."""
    consumers = await parts(request).handing_out.figures.text()
    return Response(metrics.render() + consumers, headers={"Content-Type": metrics.CONTENT_TYPE})
