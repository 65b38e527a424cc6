"""What the calls about event types, settings and the brake take and give, for ``/openapi.json``."""

from collections.abc import Sequence
from typing import Any, Final

from pydantic import BaseModel

from counterfoil.server.api import openapi_parts as parts
from counterfoil.server.api import problems, schemas_access
from counterfoil.server.api.openapi_parts import Json
from counterfoil.server.brake.model import NewFreeze, Thaw
from counterfoil.server.core import limits
from counterfoil.server.event_types.model import NewSettings, NewVersion, TypeParameters
from counterfoil.server.log.parameters import ListParameters

INPUTS: Final[Sequence[type[BaseModel]]] = (NewVersion, NewSettings, NewFreeze, Thaw)
OUTPUTS: Final[Sequence[type[BaseModel]]] = (
    schemas_access.EventType,
    schemas_access.TypeList,
    schemas_access.TenantSettings,
    schemas_access.PayloadMismatchProblem,
    schemas_access.Freeze,
    schemas_access.Thawed,
    schemas_access.FreezeList,
    schemas_access.FrozenProblem,
)

_TIME: Final = "2026-03-01T12:00:00.000000+00:00"
_REPLAYED: Final = "Idempotent-Replayed"


def _changed(operation_id: str, answer: Json, needs: str, *refusals: Any, **more: Any) -> Json:
    return parts.call(
        operation_id,
        "rules",
        answer,
        (*parts.CHANGE_REFUSALS, *refusals),
        needs=needs,
        **{**more, "parameters": (*more.get("parameters", ()), parts.IDEMPOTENCY_KEY)},
    )


_FREEZE_ID: Final = {**parts.EVENT_ID, "description": "The freeze's id."}

_TYPE: Final = parts.parameter(
    "event_type",
    "path",
    "Any event type, percent-encoded, slashes too.",
    {"type": "string", "minLength": 1, "maxLength": limits.NAME_CHARACTERS_MAX},
    required=True,
    example="flag_transaction",
)
_SCHEMA: Final[Json] = {
    "type": "object",
    "properties": {
        "transaction_id": {"type": "string"},
        "amount": {"type": "integer", "minimum": 0, "description": "In cents."},
    },
    "required": ["transaction_id", "amount"],
}
_LISTED: Final[Json] = {
    "event_type": "flag_transaction",
    "version": 2,
    "registered_at": _TIME,
    "registered_by": "admin:admin",
    "event_id": 12,
}
_VERSION: Final[Json] = {
    **_LISTED,
    "active": True,
    "versions": [1, 2],
    "narrowing": True,
    "reason": "An amount is needed to weigh a flag.",
    "schema": _SCHEMA,
}

LIST_TYPES: Final = parts.call(
    "list_event_types",
    "rules",
    parts.json_answer(
        schemas_access.TypeList, {"event_types": [_LISTED], "next": "ZmxhZw=="}, "One page."
    ),
    parts.READ_REFUSALS,
    needs=parts.ANY,
    parameters=parts.query_parameters(ListParameters),
)
GET_TYPE: Final = parts.call(
    "get_event_type",
    "rules",
    parts.json_answer(schemas_access.EventType, _VERSION, "The version, with its schema."),
    (*parts.READ_REFUSALS, problems.EVENT_TYPE_NOT_FOUND),
    needs=parts.ANY,
    parameters=(_TYPE, *parts.query_parameters(TypeParameters)),
)
_REGISTERED: Final = parts.json_answer(
    schemas_access.EventType, _VERSION, "The version that was registered.", "Location", _REPLAYED
)
REGISTER: Final = _changed(
    "register_event_type",
    parts.json_answer(
        schemas_access.EventType, _VERSION, "It is the active version already; nothing changed."
    ),
    "manage:event-types",
    *(problems.NARROWING_CHANGE, problems.TOO_MANY),
    parameters=(_TYPE,),
    body=parts.json_body(
        NewVersion,
        a_flag={"schema": _SCHEMA},
        a_narrower_one={
            "schema": {**_SCHEMA, "additionalProperties": False},
            "narrowing": True,
            "reason": "Misspelt fields went unnoticed.",
        },
    ),
    more_answers={201: _REGISTERED},
)
GET_SETTINGS: Final = parts.call(
    "get_settings",
    "rules",
    parts.json_answer(
        schemas_access.TenantSettings,
        {"unregistered_types": "accepted", "event_id": 17},
        "The settings.",
    ),
    parts.READ_REFUSALS,
    needs=parts.ANY,
)
CHANGE_SETTINGS: Final = _changed(
    "change_settings",
    parts.json_answer(
        schemas_access.TenantSettings,
        {"unregistered_types": "refused", "event_id": 18},
        "The settings as they are now.",
        _REPLAYED,
    ),
    "manage:settings",
    body=parts.json_body(NewSettings, only_registered={"unregistered_types": "refused"}),
)
FREEZE: Final = _changed(
    "freeze",
    parts.json_answer(
        schemas_access.Freeze, parts.FREEZE_EXAMPLE, "The freeze.", "Location", _REPLAYED
    ),
    "manage:brake",
    problems.TOO_MANY,
    status=201,
    body=parts.json_body(
        NewFreeze,
        a_customer={"tag": "customer:cust_123", "reason": "Account takeover is suspected."},
        an_agent={"agent": "fraud_agent", "reason": "Flags everything since the last release."},
        the_book={"book": True, "reason": "Cut-over.", "until": "2027-03-01T06:00:00Z"},
    ),
)
LIST_FREEZES: Final = parts.call(
    "list_freezes",
    "rules",
    parts.json_answer(
        schemas_access.FreezeList, {"freezes": [parts.FREEZE_EXAMPLE]}, "All of them."
    ),
    parts.READ_REFUSALS,
    needs=parts.ANY,
)
GET_FREEZE: Final = parts.call(
    "get_freeze",
    "rules",
    parts.json_answer(schemas_access.Freeze, parts.FREEZE_EXAMPLE, "The freeze."),
    (*parts.READ_REFUSALS, problems.FREEZE_NOT_FOUND),
    needs=parts.ANY,
    parameters=(_FREEZE_ID,),
)
THAW: Final = _changed(
    "thaw",
    parts.json_answer(
        schemas_access.Thawed,
        {**parts.FREEZE_EXAMPLE, "thawed_at": _TIME, "thawed_by": "person:m.ito", "event_id": 57},
        "What was frozen.",
        _REPLAYED,
    ),
    "manage:brake",
    problems.FREEZE_NOT_FOUND,
    parameters=(_FREEZE_ID,),
    body=parts.json_body(Thaw, cleared={"reason": "The customer was reached; all is well."}),
)
