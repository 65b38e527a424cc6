"""The pages for people: what a problem's ``type`` leads to.

Each says what a browser may do with it, and that is little: see ``page_headers``.
"""

from typing import Final

import msgspec
from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from counterfoil.server.api import openapi, problems
from counterfoil.server.api.routes import RawRoute

router = APIRouter(route_class=RawRoute)


def page_headers(policy: str) -> dict[str, str]:
    """Return the headers of a page that is the same for everybody until the next version.

    Args:
        policy: what of its own the page may use; anything else, frames, forms and a base of
            addresses included, is ruled out.
    """
    return {
        "Cache-Control": "public, max-age=3600",
        "Content-Security-Policy": (
            f"default-src 'none'; {policy}; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'"
        ),
        "Referrer-Policy": "no-referrer",
        "X-Frame-Options": "DENY",
    }


_HEADERS: Final = {**page_headers("style-src 'unsafe-inline'"), "Vary": "Accept"}


@router.get("/problems", **openapi.PROBLEMS)
async def list_problems(request: Request) -> Response:
    """List every problem type."""
    if _wants_json(request):
        return _json([_described(problem) for problem in problems.CATALOGUE.values()])
    return HTMLResponse(problems.index_page(), headers=_HEADERS)


@router.get("/problems/{name}", **openapi.PROBLEM)  # noqa: FAST003 - looked up in the catalogue
async def show_problem(request: Request) -> Response:
    """Explain one problem type."""
    problem = problems.CATALOGUE.get(request.path_params["name"])
    if problem is None:
        raise HTTPException(404)
    if _wants_json(request):
        return _json(_described(problem))
    return HTMLResponse(problems.page(problem), headers=_HEADERS)


def _wants_json(request: Request) -> bool:
    accepted = request.headers.get("accept", "")
    return "application/json" in accepted and "text/html" not in accepted


def _described(problem: problems.ProblemType) -> dict[str, object]:
    return {
        "type": problem.uri,
        "status": problem.status,
        "title": problem.title,
        "meaning": problem.meaning,
        "remedy": problem.remedy,
    }


def _json(content: object) -> Response:
    return Response(msgspec.json.encode(content), headers=_HEADERS, media_type="application/json")
