"""The one table that turns the domain's errors into problem documents, and its use.

Nothing below ``api`` knows of statuses, and nothing else in ``api`` decides one.
Starlette's own refusals (no such path, wrong method) pass through here too, so that every
answer that is not a success has the same shape.
"""

from collections.abc import Mapping
from typing import Final

import msgspec
import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from counterfoil.server.api import problems
from counterfoil.server.api.problems import ProblemType
from counterfoil.server.api.requests import BodyTooSlow, request_id
from counterfoil.server.core import errors, limits

_log = structlog.get_logger(__name__)

PROBLEM_OF: Final[Mapping[type[errors.CounterfoilError], ProblemType]] = {
    errors.MalformedDocument: problems.MALFORMED_DOCUMENT,
    errors.InvalidInput: problems.INVALID_INPUT,
    errors.UnsupportedMediaType: problems.UNSUPPORTED_MEDIA_TYPE,
    errors.BodyTooLarge: problems.BODY_TOO_LARGE,
    BodyTooSlow: problems.BODY_TOO_SLOW,
    errors.AfterAboveHead: problems.AFTER_ABOVE_HEAD,
    errors.UnknownCause: problems.UNKNOWN_CAUSE,
    errors.Unauthenticated: problems.UNAUTHENTICATED,
    errors.ForeignHost: problems.FOREIGN_HOST,
    errors.ScopeMissing: problems.SCOPE_MISSING,
    errors.NameNotYours: problems.NAME_NOT_YOURS,
    errors.RateLimited: problems.RATE_LIMITED,
    errors.KeyNotFound: problems.KEY_NOT_FOUND,
    errors.KeyNotActive: problems.KEY_NOT_ACTIVE,
    errors.TenantExists: problems.TENANT_EXISTS,
    errors.TooMany: problems.TOO_MANY,
    errors.ConsumerNotFound: problems.CONSUMER_NOT_FOUND,
    errors.ConsumerStarted: problems.CONSUMER_STARTED,
    errors.ConsumerHasDeadLetters: problems.CONSUMER_HAS_DEAD_LETTERS,
    errors.DeadLetterNotFound: problems.DEAD_LETTER_NOT_FOUND,
    errors.LeaseLost: problems.LEASE_LOST,
    errors.PolicyRefused: problems.POLICY_REFUSED,
    errors.PolicyNotFound: problems.POLICY_NOT_FOUND,
    errors.PolicyNotActive: problems.POLICY_NOT_ACTIVE,
    errors.FourEyes: problems.FOUR_EYES,
    errors.SubjectWithoutEvents: problems.SUBJECT_WITHOUT_EVENTS,
    errors.DecisionInputsRefused: problems.DECISION_INPUTS_REFUSED,
    errors.NotDecided: problems.NOT_DECIDED,
    errors.DecisionStands: problems.DECISION_STANDS,
    errors.DecisionNotFound: problems.DECISION_NOT_FOUND,
    errors.EventTypeNotFound: problems.EVENT_TYPE_NOT_FOUND,
    errors.PayloadMismatch: problems.PAYLOAD_MISMATCH,
    errors.UnregisteredType: problems.EVENT_TYPE_UNREGISTERED,
    errors.NarrowingChange: problems.NARROWING_CHANGE,
    errors.Frozen: problems.FROZEN,
    errors.FreezeNotFound: problems.FREEZE_NOT_FOUND,
    errors.EventNotFound: problems.EVENT_NOT_FOUND,
    errors.ConditionFailed: problems.CONDITION_FAILED,
    errors.BookRestored: problems.BOOK_RESTORED,
    errors.IdempotencyMismatch: problems.IDEMPOTENCY_MISMATCH,
    errors.Busy: problems.BUSY,
    errors.NotWritten: problems.NOT_WRITTEN,
    errors.OutcomeUnknown: problems.OUTCOME_UNKNOWN,
    errors.DatabaseUnavailable: problems.DATABASE_UNAVAILABLE,
    errors.ReadTooSlow: problems.READ_TOO_SLOW,
}
"""Every error that a caller can meet. What is missing here (``InvariantBroken``) is a
fault of ours and becomes ``internal-error``."""

_WITH_FIELDS: Final = (errors.InputError, errors.NarrowingChange, errors.ConsumerStarted)

_PROBLEM_OF_STATUS: Final[Mapping[int, ProblemType]] = {
    404: problems.NOT_FOUND,
    405: problems.METHOD_NOT_ALLOWED,
}


def problem_response(
    problem: ProblemType,
    detail: str,
    *,
    request_id: str,
    members: dict[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Build the answer for one problem, with the headers that belong to its status."""
    all_headers = dict(headers or {})
    if problem.status == 401:
        all_headers["WWW-Authenticate"] = 'Bearer realm="counterfoil"'
    elif problem.status == 503:
        all_headers["Retry-After"] = str(limits.RETRY_AFTER_SECONDS)
    elif problem.status == 408:
        # What is left of the body would be read as the next request.
        all_headers["Connection"] = "close"
    return Response(
        problems.document(problem, detail, request_id=request_id, members=members),
        status_code=problem.status,
        headers=all_headers,
        media_type=problems.MEDIA_TYPE,
    )


def refusal(error: errors.CounterfoilError, *, request_id: str) -> Response:
    """Answer with the problem of a domain error; one without an entry is raised again."""
    problem = PROBLEM_OF.get(type(error))
    if problem is None:
        raise error
    own_headers: dict[str, str] = {}
    if isinstance(error, errors.RateLimited):
        own_headers["Retry-After"] = str(error.wait_seconds)
    if problem.status >= 500:
        _log.warning("unavailable", problem=problem.name, detail=str(error))
    return problem_response(
        problem,
        str(error),
        request_id=request_id,
        members=_members(error),
        headers=own_headers,
    )


def _members(error: errors.CounterfoilError) -> dict[str, object]:
    """What a problem document tells beside its sentences."""
    members: dict[str, object] = {}
    if isinstance(error, _WITH_FIELDS) and error.errors:
        members["errors"] = [
            {"pointer": field.pointer, "message": field.message, "in": field.location}
            for field in error.errors
        ]
    match error:
        case errors.PayloadMismatch():
            members |= {"event_type": error.event_type, "version": error.version}
        case errors.ConditionFailed():
            members["head"] = error.head
            members["conflicts"] = [msgspec.Raw(text.encode()) for text in error.conflicts]
            if error.lease_ends is not None:
                members["lease_ends"] = error.lease_ends
        case errors.LeaseLost():
            members["lost"] = error.lost
        case errors.DecisionStands():
            members["decision"] = msgspec.Raw(error.shown.encode())
        case errors.ScopeMissing():
            members["scope"] = error.scope
        case errors.NameNotYours():
            members["agent_name"] = error.name
        case errors.Frozen():
            members["freeze"] = (
                error.freeze if error.shown is None else msgspec.Raw(error.shown.encode())
            )
        case _:
            pass
    return members


def internal_error_response(*, request_id: str) -> Response:
    """Answer for a fault of ours, of which a caller learns nothing but where it was logged."""
    return problem_response(
        problems.INTERNAL_ERROR,
        "The service made a mistake. It was logged under this request's id.",
        request_id=request_id,
    )


def register(app: FastAPI) -> None:
    """Let every error of the application become a problem document."""

    async def on_fault(request: Request, _error: Exception) -> Response:
        # Raised again behind this, and so logged by whoever surrounds the application;
        # Starlette would have answered in a text of its own before that.
        return internal_error_response(request_id=request_id(request.scope))

    async def on_domain_error(request: Request, error: Exception) -> Response:
        if not isinstance(error, errors.CounterfoilError):  # pragma: no cover
            raise error
        return refusal(error, request_id=request_id(request.scope))

    async def on_http_error(request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):  # pragma: no cover
            raise error
        return _framework_refusal(request, error)

    async def on_validation_error(_request: Request, error: Exception) -> Response:
        if not isinstance(error, RequestValidationError):  # pragma: no cover
            raise error
        # FastAPI reads no field of our calls by itself, so this is a fault of ours: one of
        # its parameters would have been declared where the judges of the log belong.
        raise errors.InvariantBroken(f"FastAPI judged input: {error.errors()}") from error

    app.add_exception_handler(Exception, on_fault)
    app.add_exception_handler(errors.CounterfoilError, on_domain_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_validation_error)


def _framework_refusal(request: Request, error: HTTPException) -> Response:
    problem = _PROBLEM_OF_STATUS.get(error.status_code)
    if problem is None:
        raise errors.InvariantBroken(f"the framework answered {error.status_code}") from error
    if problem is problems.METHOD_NOT_ALLOWED:
        allowed = ", ".join(sorted(_methods_at(request.app.routes, request.scope)))
        return problem_response(
            problem,
            f"This address takes {allowed}.",
            request_id=request_id(request.scope),
            headers={"Allow": allowed},
        )
    return problem_response(
        problem,
        "No call of this service has this path. `/docs` shows those that exist.",
        request_id=request_id(request.scope),
    )


def _methods_at(routes: list[BaseRoute], scope: Scope) -> set[str]:
    """Collect the methods of all routes at the path: Starlette names the first one's only."""
    methods: set[str] = set()
    for route in routes:
        if route.matches(scope)[0] is not Match.NONE:
            methods |= getattr(route, "methods", None) or set()
    return methods
