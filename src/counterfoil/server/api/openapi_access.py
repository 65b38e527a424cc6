"""What the calls about keys and tenants take and give, for ``/openapi.json``."""

from collections.abc import Sequence
from typing import Any, Final

from pydantic import BaseModel

from counterfoil.server.access.model import NewKey, NewTenant, Revocation, Rotation
from counterfoil.server.api import openapi_parts as parts
from counterfoil.server.api import problems, schemas_access
from counterfoil.server.api.openapi_parts import Json
from counterfoil.server.log.parameters import ListParameters

INPUTS: Final[Sequence[type[BaseModel]]] = (NewKey, Rotation, Revocation, NewTenant)
OUTPUTS: Final[Sequence[type[BaseModel]]] = (
    schemas_access.Key,
    schemas_access.CreatedKey,
    schemas_access.KeyList,
    schemas_access.Me,
    schemas_access.Tenant,
    schemas_access.CreatedTenant,
    schemas_access.TenantList,
    schemas_access.ScopeMissingProblem,
)

_TIME: Final = "2026-03-01T12:00:00.000000+00:00"
_KEY_ID: Final = "k7m2q4x6z2c5v3b7"
_KEY: Final[Json] = {
    "key_id": _KEY_ID,
    "kind": "agent",
    "name": "fraud_agent",
    "mode": "live",
    "scopes": ["append:flag_*", "read:*"],
    "created_at": _TIME,
    "created_by": "api-key",
    # FastAPI leaves nulls out of examples, so here everything has a value.
    "expires_at": "2027-03-01T00:00:00.000000+00:00",
    "revoked_at": "2026-09-01T08:30:00.000000+00:00",
    "last_used_at": "2026-09-01T08:29:00.000000+00:00",
    "rate_per_second": 50,
    "rate_burst": 100,
    "replaces": "a2b3c4d5e6f7g2h3",
    "event_id": 7,
}
# Never a text that could be one: examples are copied, and scanners look for them.
_CREATED: Final[Json] = {**_KEY, "key": "cf_live_…"}

_KEY_ID_PARAMETER: Final = parts.parameter(
    "key_id",
    "path",
    "The key's id: the part of its text between the second and the third `_`.",
    {"type": "string"},
    required=True,
    example=_KEY_ID,
)
_REPLAYED: Final = "Idempotent-Replayed"


def _managed(operation_id: str, answer: Json, needs: str, *refusals: Any, **more: Any) -> Json:
    """Describe a call that changes something."""
    return parts.call(
        operation_id,
        "access",
        answer,
        (*parts.CHANGE_REFUSALS, *refusals),
        needs=needs,
        **{
            **more,
            "parameters": (*more.get("parameters", ()), parts.IDEMPOTENCY_KEY),
        },
    )


ME: Final = parts.call(
    "show_me",
    "access",
    parts.json_answer(
        schemas_access.Me,
        {
            "tenant": "default",
            "principal": "agent:fraud_agent",
            "key_id": _KEY_ID,
            "rate_per_second": 1_000,
            "rate_burst": 2_000,
            **{name: _KEY[name] for name in ("kind", "name", "mode", "scopes", "expires_at")},
        },
        "Whose key this is.",
    ),
    (problems.INVALID_INPUT,),
    needs=parts.ANY,
)
CREATE_KEY: Final = _managed(
    "create_key",
    parts.json_answer(schemas_access.CreatedKey, _CREATED, "The key.", "Location", _REPLAYED),
    "manage:keys",
    problems.TOO_MANY,
    status=201,
    body=parts.json_body(
        NewKey,
        an_agent={"kind": "agent", "name": "fraud_agent"},
        an_agent_of_few_types={
            "kind": "agent",
            "name": "fraud_agent",
            "scopes": ["append:flag_*", "read:*@transaction"],
        },
        an_auditor={"kind": "auditor", "name": "k.osei", "expires_at": "2027-03-01T00:00:00Z"},
    ),
)
LIST_KEYS: Final = parts.call(
    "list_keys",
    "access",
    parts.json_answer(schemas_access.KeyList, {"keys": [_KEY], "next": "AAAAAAAAAAc"}, "One page."),
    parts.READ_REFUSALS,
    needs="manage:keys",
    parameters=parts.query_parameters(ListParameters),
)
GET_KEY: Final = parts.call(
    "get_key",
    "access",
    parts.json_answer(schemas_access.Key, _KEY, "The key, without its text."),
    (*parts.READ_REFUSALS, problems.KEY_NOT_FOUND),
    needs="manage:keys",
    parameters=(_KEY_ID_PARAMETER,),
)
ROTATE_KEY: Final = _managed(
    "rotate_key",
    parts.json_answer(
        schemas_access.CreatedKey,
        _CREATED,
        "The new key.",
        "Location",
        _REPLAYED,
    ),
    "manage:keys",
    *(problems.KEY_NOT_FOUND, problems.KEY_NOT_ACTIVE, problems.TOO_MANY),
    status=201,
    parameters=(_KEY_ID_PARAMETER,),
    body=parts.json_body(Rotation, an_hour={}, a_week={"overlap_seconds": 604_800}),
)
REVOKE_KEY: Final = _managed(
    "revoke_key",
    parts.json_answer(schemas_access.Key, _KEY, "The key, worth nothing now.", _REPLAYED),
    "manage:keys",
    problems.KEY_NOT_FOUND,
    parameters=(_KEY_ID_PARAMETER,),
    body=parts.json_body(Revocation, lost={"reason": "The laptop that held it was lost."}),
)
_TENANT: Final[Json] = {"tenant_id": 2, "name": "acme", "created_at": _TIME}
CREATE_TENANT: Final = _managed(
    "create_tenant",
    parts.json_answer(
        schemas_access.CreatedTenant,
        {
            **_TENANT,
            "key": {
                **_CREATED,
                "kind": "admin",
                "name": "admin",
                "scopes": ["manage:*"],
                "event_id": 1,
            },
        },
        "The tenant, with the key of its first admin.",
        "Location",
        _REPLAYED,
    ),
    "operate:tenants",
    *(problems.TENANT_EXISTS, problems.TOO_MANY),
    status=201,
    body=parts.json_body(NewTenant, acme={"name": "acme"}),
)
LIST_TENANTS: Final = parts.call(
    "list_tenants",
    "access",
    parts.json_answer(
        schemas_access.TenantList, {"tenants": [_TENANT], "next": "AAAAAAAAAAI"}, "One page."
    ),
    parts.READ_REFUSALS,
    needs="operate:tenants",
    parameters=parts.query_parameters(ListParameters),
)
