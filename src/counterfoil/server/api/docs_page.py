"""``/docs``: the description of the service for people, and a form to try each call.

The viewer is Swagger UI. People paste keys into it, so every byte of it comes from this
service: its files lie in a package that is pinned by its hash, and the page may load nothing
from elsewhere, run no script that stands in it, and talk to this service only. FastAPI's own
page would load the viewer from a public server, whoever runs that at the time.
"""

import functools
import importlib.util
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from counterfoil.server.api.pages import page_headers
from counterfoil.server.api.routes import NEEDS, OPEN, RawRoute
from counterfoil.server.core.errors import InvariantBroken

router = APIRouter(route_class=RawRoute)

_PACKAGE: Final = "fastapi_offline"

_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Counterfoil: the calls</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="viewer"></div>
<noscript>This page needs JavaScript. <a href="/openapi.json">/openapi.json</a> does not.</noscript>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""

_START: Final = """SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#viewer",
  deepLinking: true,
  // No key is kept behind the page's back, and no description is sent to a validator elsewhere.
  persistAuthorization: false,
  validatorUrl: null,
  queryConfigEnabled: false,
});
"""

_HEADERS: Final = page_headers(
    # Swagger UI draws with pictures that stand in its style, and sets styles of single elements.
    "script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'"
)

_DESCRIBED: Final[dict[str, Any]] = {"include_in_schema": False, "openapi_extra": {NEEDS: OPEN}}


@router.get("/docs", **_DESCRIBED)
async def show_docs(_request: Request) -> Response:
    """Show every call, and let it be tried."""
    return HTMLResponse(_PAGE, headers=_HEADERS)


@router.get("/docs/start.js", **_DESCRIBED)
async def start_viewer(_request: Request) -> Response:
    """Start the viewer: a script of its own, since the page may not hold one."""
    return Response(_START, headers=_HEADERS, media_type="text/javascript")


def _file(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    async def send_file(_request: Request) -> Response:
        return Response(_read(name), headers=_HEADERS, media_type=media_type)

    return send_file


router.add_api_route(
    "/docs/swagger-ui-bundle.js", _file("swagger-ui-bundle.js", "text/javascript"), **_DESCRIBED
)
router.add_api_route("/docs/swagger-ui.css", _file("swagger-ui.css", "text/css"), **_DESCRIBED)


@functools.cache
def _read(name: str) -> bytes:
    # The package is looked up and not imported: only its files are wanted.
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise InvariantBroken(f"the package {_PACKAGE} belongs to the installation")
    return (Path(found.submodule_search_locations[0]) / "static" / name).read_bytes()
