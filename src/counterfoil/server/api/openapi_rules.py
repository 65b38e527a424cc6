"""What the calls about the brake take and give, for ``/openapi.json``."""

from collections.abc import Sequence
from typing import Any, Final

from pydantic import BaseModel

from counterfoil.server.api import openapi_parts as parts
from counterfoil.server.api import problems, schemas_access
from counterfoil.server.api.openapi_parts import Json
from counterfoil.server.brake.model import NewFreeze, Thaw

INPUTS: Final[Sequence[type[BaseModel]]] = (NewFreeze, Thaw)
OUTPUTS: Final[Sequence[type[BaseModel]]] = (
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
