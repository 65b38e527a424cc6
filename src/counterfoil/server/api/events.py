"""Writing and reading events.

An append is answered from what the log returns, and only then: the log returns after the
commit. Reads forward PostgreSQL's own text of each event between commas; no event is ever
parsed or built on its way out, so that no number in a payload changes.
"""

from dataclasses import replace
from functools import partial
from typing import Final

import msgspec
from fastapi import APIRouter
from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request

from counterfoil.server.api import openapi
from counterfoil.server.api.parts import parts
from counterfoil.server.api.requests import (
    header,
    judged_body,
    no_parameters,
    path_text,
    principal,
    query_parameters,
)
from counterfoil.server.api.routes import Answer, RawRoute
from counterfoil.server.core import limits
from counterfoil.server.core.errors import FieldError, InputError, InvalidInput
from counterfoil.server.log.fields import Name
from counterfoil.server.log.model import (
    judge_append,
    judge_batch,
    judge_idempotency_key,
    judge_traceparent,
)
from counterfoil.server.log.operations import Stored
from counterfoil.server.log.query import (
    Item,
    ReadRequest,
    judge_event_id,
    judge_latest_parameters,
    judge_query,
    judge_read_parameters,
)

_AGENT_PATH: Final = "/agent-events/"
_NAME: Final = TypeAdapter[str](Name)

router = APIRouter(route_class=RawRoute)


@router.post("/agent-events", **openapi.APPEND)
@router.post("/events", **openapi.APPEND_ALIAS)
async def append(request: Request) -> Answer:
    """Store one event for good, if its condition holds."""
    caller = principal(request)
    judge = partial(
        judge_append,
        principal=caller.id,
        key=judge_idempotency_key(header(request, "Idempotency-Key")),
        traceparent=judge_traceparent(header(request, "traceparent")),
    )
    asked = await judged_body(request, judge, bytes_max=limits.APPEND_BODY_BYTES_MAX)
    stored = await parts(request).appends.append(caller, asked)
    position = stored.first_position
    return _created(
        stored,
        f'{{"id":{position},"created_at":"{stored.created_at}","status":"stored"}}',
        location=f"/events/{position}",
    )


@router.post("/events/batch", **openapi.APPEND_BATCH)
async def append_batch(request: Request) -> Answer:
    """Store several events as one: all of them, next to each other, or none."""
    caller = principal(request)
    judge = partial(
        judge_batch,
        principal=caller.id,
        key=judge_idempotency_key(header(request, "Idempotency-Key")),
        traceparent=judge_traceparent(header(request, "traceparent")),
    )
    asked = await judged_body(request, judge, bytes_max=limits.BATCH_BODY_BYTES_MAX)
    stored = await parts(request).appends.append(caller, asked)
    first, last = stored.first_position, stored.first_position + stored.event_count - 1
    ids = ",".join(map(str, range(first, last + 1)))
    return _created(
        stored,
        f'{{"ids":[{ids}],"created_at":"{stored.created_at}","status":"stored"}}',
        location=f"/events?after={first - 1}&up_to={last}&limit={stored.event_count}",
    )


@router.get("/agent-events/{agent_name:anything}", **openapi.LATEST)  # noqa: FAST003 - read raw
async def latest(request: Request) -> Answer:
    """List what an agent wrote last, newest first."""
    agent_name = _judged_name(path_text(request, _AGENT_PATH, "agent_name"))
    limit, before = judge_latest_parameters(query_parameters(request))
    caller = principal(request)
    caller.must_read([Item(agents=frozenset({agent_name}))])
    read = await parts(request).log.latest(caller.tenant_id, agent_name, limit=limit, before=before)
    return _read(f"[{','.join(read.events)}]", read.head, read.incarnation)


@router.get("/events", **openapi.LIST)
async def list_events(request: Request) -> Answer:
    """Read a page of what matches the parameters."""
    asked = judge_read_parameters(query_parameters(request))
    try:
        return await _page(request, asked)
    except InputError as error:
        # The log knows the fields of a read, not which door they came through.
        in_query = [replace(field, location="query") for field in error.errors]
        raise type(error)(str(error), in_query) from None


@router.post("/events/query", **openapi.QUERY)
async def query_events(request: Request) -> Answer:
    """Read a page of what matches a query of several items."""
    no_parameters(request)
    asked = await judged_body(request, judge_query, bytes_max=limits.QUERY_BODY_BYTES_MAX)
    return await _page(request, asked)


@router.get("/events/{id}", **openapi.GET)  # noqa: FAST003 - judged by the log
async def get_event(request: Request) -> Answer:
    """Read one event."""
    no_parameters(request)
    position = judge_event_id(request.path_params["id"])
    caller = principal(request)
    read = await parts(request).log.get(caller.tenant_id, position)
    if not caller.scopes.may_read_all:
        about = _about.decode(read.events[0])
        caller.must_see(about.event_type, about.tags)
    return _read(read.events[0], read.head, read.incarnation)


class _About(msgspec.Struct):
    """What of an event decides who may see it."""

    event_type: str
    tags: list[str]


_about: Final = msgspec.json.Decoder(_About)


def _judged_name(name: str) -> str:
    """Refuse what no agent can be called: for some of it PostgreSQL cannot even be asked."""
    try:
        return _NAME.validate_python(name)
    except ValidationError:
        message = (
            f"A name has 1 to {limits.NAME_CHARACTERS_MAX} characters, no control characters, and "
            "no white space at its ends."
        )
        raise InvalidInput(message, [FieldError("/agent_name", message, "path")]) from None


async def _page(request: Request, asked: ReadRequest) -> Answer:
    caller = principal(request)
    caller.must_read(asked.query)
    page = await parts(request).log.page(caller.tenant_id, asked)
    following = "null" if page.next is None else f'"{page.next}"'
    more = "true" if page.has_more else "false"
    return _read(
        f'{{"events":[{",".join(page.events)}],"head":{page.head},'
        f'"next":{following},"has_more":{more}}}',
        page.head,
        page.incarnation,
    )


def _created(stored: Stored, body: str, *, location: str) -> Answer:
    headers = [(b"location", location.encode("ascii"))]
    if stored.replayed:
        headers.append((b"idempotent-replayed", b"true"))
    return Answer(body, status=201, headers=headers)


def _read(body: str, head: int, incarnation: str) -> Answer:
    return Answer(
        body,
        headers=[
            (b"counterfoil-head", b"%d" % head),
            (b"counterfoil-incarnation", incarnation.encode("ascii")),
        ],
    )
