"""The parts of the service that a call reaches, and small things that several calls need."""

from typing import NamedTuple, TypeVar, cast

from starlette.requests import Request

from counterfoil.server.access.operations import Access
from counterfoil.server.api.appends import Appends
from counterfoil.server.api.requests import header, judged_body
from counterfoil.server.brake.operations import Brake
from counterfoil.server.consumers.handing_out import HandingOut
from counterfoil.server.core import limits
from counterfoil.server.decisions.operations import Decisions
from counterfoil.server.event_types.operations import EventTypes
from counterfoil.server.log.fields import Wire
from counterfoil.server.log.model import judge_idempotency_key
from counterfoil.server.log.operations import Log
from counterfoil.server.log.refusals import judged_document

Judged = TypeVar("Judged", bound=Wire)


class Parts(NamedTuple):
    """Everything that was put together when the service opened its log."""

    log: Log
    access: Access
    event_types: EventTypes
    brake: Brake
    appends: Appends
    handing_out: HandingOut
    decisions: Decisions


def parts(request: Request) -> Parts:
    """Return the parts of this service."""
    return cast("Parts", request.scope["app"].parts)


async def judged(request: Request, model: type[Judged]) -> Judged:
    """Read the small body of a call that manages something, as the model that judges it."""
    return await judged_body(
        request,
        lambda body: judged_document(model, body),
        bytes_max=limits.MANAGE_BODY_BYTES_MAX,
    )


def idempotency_key(request: Request) -> str | None:
    """Return the caller's idempotency key, judged."""
    return judge_idempotency_key(header(request, "Idempotency-Key"))
