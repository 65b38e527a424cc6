"""Policies, and the decisions that are made by them."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from counterfoil.server.api import openapi_decisions as described
from counterfoil.server.api.keys import list_answer, replayed_header
from counterfoil.server.api.parts import idempotency_key, judged, parts
from counterfoil.server.api.requests import (
    header,
    judged_body,
    no_parameters,
    principal,
    query_parameters,
)
from counterfoil.server.api.routes import Answer, RawRoute
from counterfoil.server.core import limits
from counterfoil.server.decisions.finding import Found
from counterfoil.server.decisions.model import (
    Activation,
    DecisionParameters,
    NewDecision,
    PolicyParameters,
    Replaying,
    Retirement,
    judge_policy_name,
    judge_version,
)
from counterfoil.server.log.model import judge_traceparent, parsed_object
from counterfoil.server.log.parameters import ListParameters, judged_parameters
from counterfoil.server.log.query import judge_event_id
from counterfoil.server.log.refusals import judged_document

router = APIRouter(route_class=RawRoute)


def _name(request: Request) -> str:
    return judge_policy_name(request.path_params["name"])


# --- Policies ---------------------------------------------------------------------


@router.get("/policies", **described.LIST_POLICIES)
async def list_policies(request: Request) -> Answer:
    """List the tenant's policies by their names."""
    asked = judged_parameters(ListParameters, query_parameters(request))
    listed = await parts(request).decisions.policies.all(
        principal(request).tenant_id, limit=asked.limit, cursor=asked.cursor
    )
    return list_answer("policies", listed.texts, listed.next)


@router.get("/policies/{name}", **described.GET_POLICY)  # noqa: FAST003 - judged by the domain
async def get_policy(request: Request) -> Answer:
    """Show the version of a policy that is in force, or another one."""
    asked = judged_parameters(PolicyParameters, query_parameters(request))
    return Answer(
        await parts(request).decisions.policies.one(
            principal(request).tenant_id, _name(request), asked.version
        )
    )


@router.get("/policies/{name}/versions", **described.LIST_VERSIONS)  # noqa: FAST003 - the same
async def list_versions(request: Request) -> Answer:
    """List the versions of a policy, the newest first, without what they say."""
    no_parameters(request)
    texts = await parts(request).decisions.policies.versions(
        principal(request).tenant_id, _name(request)
    )
    return list_answer("versions", texts, None)


@router.post("/policies/{name}/drafts", **described.DRAFT)  # noqa: FAST003 - the same
async def draft_policy(request: Request) -> Answer:
    """Draft the next version of a policy. It is judged, and its examples are run."""
    no_parameters(request)
    caller, name, key = principal(request), _name(request), idempotency_key(request)
    document: dict[str, Any] = await judged_body(
        request, parsed_object, bytes_max=limits.POLICY_BODY_BYTES_MAX
    )
    made = await parts(request).decisions.policies.draft(
        caller.tenant_id, name, document, by=caller.id, key=key
    )
    location = [(b"location", f"/policies/{name}".encode("ascii"))] if made.created else []
    return Answer(
        made.text,
        status=201 if made.created else 200,
        headers=[*location, *replayed_header(made.replayed)],
    )


@router.post("/policies/{name}/versions/{version}/activate", **described.ACTIVATE)  # noqa: FAST003 - the same
async def activate_policy(request: Request) -> Answer:
    """Put a version in force, in the place of the one that is."""
    no_parameters(request)
    caller, name, key = principal(request), _name(request), idempotency_key(request)
    version = judge_version(request.path_params["version"])
    asked = await judged(request, Activation)
    made = await parts(request).decisions.policies.activate(
        caller.tenant_id, name, version, asked, by=caller.id, key=key
    )
    return Answer(made.text, headers=replayed_header(made.replayed))


@router.post("/policies/{name}/retire", **described.RETIRE)  # noqa: FAST003 - the same
async def retire_policy(request: Request) -> Answer:
    """Take a policy out of force: nothing is decided by it any more."""
    no_parameters(request)
    caller, name, key = principal(request), _name(request), idempotency_key(request)
    asked = await judged(request, Retirement)
    made = await parts(request).decisions.policies.retire(
        caller.tenant_id, name, asked, by=caller.id, key=key
    )
    return Answer(made.text, headers=replayed_header(made.replayed))


# --- Decisions --------------------------------------------------------------------


@router.post("/decisions", **described.DECIDE)
async def decide(request: Request) -> Answer:
    """Decide by a policy, on what the book says, and write it down."""
    no_parameters(request)
    key, trace = idempotency_key(request), judge_traceparent(header(request, "traceparent"))
    asked = await judged_body(
        request,
        lambda body: judged_document(NewDecision, body),
        bytes_max=limits.DECISION_BODY_BYTES_MAX,
    )
    made = await parts(request).decisions.decide(
        principal(request), asked, key=key, traceparent=trace
    )
    location = f"/decisions/{made.id}".encode("ascii")
    return Answer(
        made.text,
        status=201,
        headers=[(b"location", location), *replayed_header(made.replayed)],
    )


@router.get("/decisions", **described.LIST_DECISIONS)
async def list_decisions(request: Request) -> Answer:
    """List decisions, by their policy and their subject."""
    asked = judged_parameters(DecisionParameters, query_parameters(request))
    page = await parts(request).decisions.found.page(principal(request), asked)
    following = "null" if page.next is None else f'"{page.next}"'
    has_more = "true" if page.has_more else "false"
    return _found(
        Found(
            f'{{"decisions":[{",".join(page.texts)}],"head":{page.head},"next":{following},'
            f'"has_more":{has_more}}}',
            page.head,
            page.incarnation,
        )
    )


@router.get("/decisions/{id}", **described.GET_DECISION)  # noqa: FAST003 - the same
async def get_decision(request: Request) -> Answer:
    """Show a decision, and whether it stands."""
    no_parameters(request)
    return _found(await parts(request).decisions.found.one(principal(request), _id(request)))


@router.get("/decisions/{id}/explanation", **described.EXPLAIN)  # noqa: FAST003 - the same
async def explain_decision(request: Request) -> Answer:
    """Show why a decision came out as it did."""
    no_parameters(request)
    return _found(await parts(request).decisions.found.explained(principal(request), _id(request)))


@router.post("/decisions/{id}/replay", **described.REPLAY)  # noqa: FAST003 - the same
async def replay_decision(request: Request) -> Answer:
    """Make a decision again from its record, and say what differs. Nothing is written."""
    no_parameters(request)
    asked = await judged(request, Replaying)
    return _found(
        await parts(request).decisions.found.replay(principal(request), _id(request), asked.version)
    )


def _id(request: Request) -> int:
    return judge_event_id(request.path_params["id"])


def _found(found: Found) -> Answer:
    return Answer(
        found.text,
        headers=[
            (b"counterfoil-head", b"%d" % found.head),
            (b"counterfoil-incarnation", found.incarnation.encode("ascii")),
        ],
    )
