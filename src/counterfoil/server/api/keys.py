"""Keys and tenants: making them, looking at them, and taking them away."""

from collections.abc import Sequence

import msgspec
from fastapi import APIRouter
from starlette.requests import Request

from counterfoil.server.access.model import NewKey, NewTenant, Revocation, Rotation
from counterfoil.server.access.operations import Made
from counterfoil.server.api import openapi_access as described
from counterfoil.server.api.parts import idempotency_key, judged, parts
from counterfoil.server.api.requests import (
    admission,
    no_parameters,
    principal,
    query_parameters,
)
from counterfoil.server.api.routes import Answer, RawRoute
from counterfoil.server.log.parameters import ListParameters, judged_parameters

router = APIRouter(route_class=RawRoute)


@router.get("/me", **described.ME)
async def show_me(request: Request) -> Answer:
    """Show whose key this is, and what it may do."""
    no_parameters(request)
    admitted = admission(request)
    caller = admitted.principal
    rate = admitted.rate
    shown = {
        "tenant": caller.tenant_name,
        "kind": caller.kind,
        "name": caller.name,
        "principal": caller.id,
        "key_id": caller.key_id,
        "mode": admitted.mode,
        "scopes": caller.scopes.texts(),
        "expires_at": admitted.expires_at,
        "rate_per_second": None if rate is None else rate.per_second,
        "rate_burst": None if rate is None else rate.burst,
    }
    return Answer(msgspec.json.encode(shown).decode())


@router.post("/keys", **described.CREATE_KEY)
async def create_key(request: Request) -> Answer:
    """Make a key. Its text is in this answer, and never shown again."""
    no_parameters(request)
    key = idempotency_key(request)
    asked = await judged(request, NewKey)
    made = await parts(request).access.create_key(principal(request), asked, key=key)
    return _created(made, f"/keys/{_key_id(made)}")


@router.get("/keys", **described.LIST_KEYS)
async def list_keys(request: Request) -> Answer:
    """List the tenant's keys, in the order in which they were made."""
    asked = judged_parameters(ListParameters, query_parameters(request))
    listed = await parts(request).access.keys(
        principal(request).tenant_id, limit=asked.limit, cursor=asked.cursor
    )
    return list_answer("keys", listed.texts, listed.next)


@router.get("/keys/{key_id}", **described.GET_KEY)  # noqa: FAST003 - looked up as it is
async def get_key(request: Request) -> Answer:
    """Show one key, without its text."""
    no_parameters(request)
    text = await parts(request).access.key(
        principal(request).tenant_id, request.path_params["key_id"]
    )
    return Answer(text)


@router.post("/keys/{key_id}/rotate", **described.ROTATE_KEY)  # noqa: FAST003 - the same
async def rotate_key(request: Request) -> Answer:
    """Make a key that takes the place of another, which goes on to work for a while."""
    no_parameters(request)
    key = idempotency_key(request)
    asked = await judged(request, Rotation)
    made = await parts(request).access.rotate_key(
        principal(request), request.path_params["key_id"], asked, key=key
    )
    return _created(made, f"/keys/{_key_id(made)}")


@router.post("/keys/{key_id}/revoke", **described.REVOKE_KEY)  # noqa: FAST003 - the same
async def revoke_key(request: Request) -> Answer:
    """Make a key worth nothing, at once and for good."""
    no_parameters(request)
    key = idempotency_key(request)
    asked = await judged(request, Revocation)
    made = await parts(request).access.revoke_key(
        principal(request), request.path_params["key_id"], asked, key=key
    )
    return Answer(made.text, headers=replayed_header(made.replayed))


@router.post("/tenants", **described.CREATE_TENANT)
async def create_tenant(request: Request) -> Answer:
    """Open a book of its own for a tenant, and make the key of its first admin."""
    no_parameters(request)
    key = idempotency_key(request)
    asked = await judged(request, NewTenant)
    made = await parts(request).access.create_tenant(principal(request), asked, key=key)
    return _created(made, "/tenants")


@router.get("/tenants", **described.LIST_TENANTS)
async def list_tenants(request: Request) -> Answer:
    """List the tenants, in the order in which they were made."""
    asked = judged_parameters(ListParameters, query_parameters(request))
    listed = await parts(request).access.tenants(limit=asked.limit, cursor=asked.cursor)
    return list_answer("tenants", listed.texts, listed.next)


def list_answer(name: str, texts: Sequence[str], cursor: str | None) -> Answer:
    """Write a page of a list, and where the next one begins."""
    following = "null" if cursor is None else f'"{cursor}"'
    return Answer(f'{{"{name}":[{",".join(texts)}],"next":{following}}}')


def replayed_header(replayed: bool) -> list[tuple[bytes, bytes]]:
    """Write the header that marks the answer to an earlier call with the same key."""
    return [(b"idempotent-replayed", b"true")] if replayed else []


def _created(made: Made, location: str) -> Answer:
    headers = [(b"location", location.encode("ascii")), *replayed_header(made.replayed)]
    return Answer(made.text, status=201, headers=headers)


def _key_id(made: Made) -> str:
    key_id: str = msgspec.json.decode(made.text)["key_id"]
    return key_id
