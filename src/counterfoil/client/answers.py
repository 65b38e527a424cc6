"""How the service's answers are read: into values, or into the errors they stand for.

Fields that are not known are ignored, because the service promises to make additions
only; a field that is missing or of another kind is an ``UnexpectedAnswer``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar

from counterfoil.client import control_shapes, decision_shapes, document, shapes
from counterfoil.client.errors import (
    APIStatusError,
    AuthenticationError,
    BookRestored,
    Busy,
    ConditionFailed,
    ConsumerStarted,
    DecisionInputsRefused,
    DecisionNotFound,
    DecisionStands,
    FieldError,
    FourEyes,
    Frozen,
    IdempotencyMismatch,
    InternalServerError,
    InvalidRequestError,
    LeaseLost,
    NarrowingChange,
    NotDecided,
    NotFoundError,
    PayloadMismatch,
    PermissionDenied,
    PolicyNotActive,
    PolicyNotFound,
    PolicyRefused,
    RateLimited,
    ServiceUnavailable,
    SubjectWithoutEvents,
    UnexpectedAnswer,
    UnregisteredType,
)
from counterfoil.client.model import Event, Page, Stored, StoredBatch
from counterfoil.client.shapes import optional

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer. ``headers`` have their names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def succeeded(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300


# --- Success ----------------------------------------------------------------------------


def stored(answer: Answer) -> Stored:
    """Read the answer to an append."""

    def read(data: Any) -> Stored:
        return Stored(
            shapes.integer(data["id"]), shapes.moment(data["created_at"]), replayed(answer)
        )

    return read_by(read, answer)


def stored_batch(answer: Answer, count: int) -> StoredBatch:
    """Read the answer to a batch of ``count`` events."""
    return read_by(lambda data: batch_of(data, answer, count), answer)


def batch_of(data: Any, answer: Answer, count: int) -> StoredBatch:
    """Read a batch of ``count`` events as it stands in the document of an answer."""
    ids = tuple(map(shapes.integer, data["ids"]))
    if len(ids) != count:
        raise ValueError(f"{len(ids)} ids for {count} events")
    return StoredBatch(ids, shapes.moment(data["created_at"]), replayed(answer))


def page(answer: Answer) -> Page:
    """Read one page of events."""

    def read(data: Any) -> Page:
        return Page(
            events=tuple(map(event_of, data["events"])),
            head=shapes.integer(data["head"]),
            incarnation=answer.headers["counterfoil-incarnation"],
            next=optional(shapes.text, data["next"]),
            has_more=bool(data["has_more"]),
        )

    return read_by(read, answer)


def event(answer: Answer) -> Event:
    """Read one event."""
    return read_by(event_of, answer)


def event_from_text(text: str) -> Event:
    """Read one event of the live stream."""
    return read_by(event_of, Answer(200, {}, text.encode()))


def read_by(read: Callable[[Any], T], answer: Answer) -> T:
    """Read an answer by the function that knows its shape.

    Raises:
        UnexpectedAnswer: it is of another shape, or no JSON object at all.
    """
    try:
        return read(shapes.mapping(document.decode(answer.body)))
    except (ValueError, KeyError, TypeError) as error:
        raise UnexpectedAnswer(
            "The answer is not one of Counterfoil's. Check that `base_url` names the service and "
            f"not something before it (HTTP {answer.status}, {type(error).__name__}: {error})"
        ) from error


def event_of(data: Any) -> Event:
    """Read an event as it stands in a document."""
    data = shapes.mapping(data)
    return Event(
        id=shapes.integer(data["id"]),
        agent_name=shapes.text(data["agent_name"]),
        event_type=shapes.text(data["event_type"]),
        payload=shapes.mapping(data["payload"]),
        tags=shapes.texts(data["tags"]),
        created_at=shapes.moment(data["created_at"]),
        occurred_at=optional(shapes.moment, data.get("occurred_at")),
        caused_by=tuple(map(shapes.integer, data.get("caused_by") or ())),
        context=optional(shapes.mapping, data.get("context")),
    )


def replayed(answer: Answer) -> bool:
    """Whether this is the answer to an earlier call with the same idempotency key."""
    return answer.headers.get("idempotent-replayed", "").lower() == "true"


# --- Refusal ----------------------------------------------------------------------------

_BY_PROBLEM: Final[Mapping[str, type[APIStatusError]]] = {
    "book-restored": BookRestored,
    "idempotency-mismatch": IdempotencyMismatch,
    "busy": Busy,
    "consumer-started": ConsumerStarted,
    "decision-inputs-refused": DecisionInputsRefused,
    "decision-not-found": DecisionNotFound,
    "event-type-unregistered": UnregisteredType,
    "four-eyes": FourEyes,
    "narrowing-change": NarrowingChange,
    "not-decided": NotDecided,
    "policy-not-active": PolicyNotActive,
    "policy-not-found": PolicyNotFound,
    "policy-refused": PolicyRefused,
    "subject-without-events": SubjectWithoutEvents,
}

_BY_STATUS: Final[Mapping[int, type[APIStatusError]]] = {
    400: InvalidRequestError,
    401: AuthenticationError,
    404: NotFoundError,
    413: InvalidRequestError,
    415: InvalidRequestError,
    422: InvalidRequestError,
    429: RateLimited,
    503: ServiceUnavailable,
}


def error_of(answer: Answer, now: float) -> APIStatusError:
    """Return the error that an answer other than 2xx stands for.

    ``now`` (Unix seconds) turns a ``Retry-After`` that is a date into a wait.
    """
    problem = _problem(answer)
    status: dict[str, Any] = {
        "status_code": answer.status,
        "problem_type": _string(problem.get("type")),
        "title": _string(problem.get("title")),
        "detail": _string(problem.get("detail")) or _described(answer),
        "errors": _field_errors(problem.get("errors")),
        "request_id": answer.headers.get("x-request-id"),
        "headers": answer.headers,
        "retry_after_seconds": _retry_after_seconds(answer, now),
    }
    name = status["problem_type"].rpartition("/")[2]
    with_members = _WITH_MEMBERS.get(name)
    if with_members is not None:
        return with_members(problem, status)
    if answer.status == _FORBIDDEN:
        return _permission_denied(problem, status)
    fallback = InternalServerError if answer.status >= 500 else APIStatusError
    return _BY_PROBLEM.get(name, _BY_STATUS.get(answer.status, fallback))(**status)


def _condition_failed(problem: Mapping[str, Any], status: Mapping[str, Any]) -> APIStatusError:
    try:
        head = shapes.integer(problem["head"])
        conflicts = tuple(map(event_of, problem["conflicts"]))
        lease_ends = optional(shapes.moment, problem.get("lease_ends"))
    except (ValueError, KeyError, TypeError):
        return APIStatusError(**status)
    return ConditionFailed(head=head, conflicts=conflicts, lease_ends=lease_ends, **status)


def _lease_lost(problem: Mapping[str, Any], status: Mapping[str, Any]) -> LeaseLost:
    told = problem.get("lost")
    lost = told if isinstance(told, list) else []
    return LeaseLost(lost=tuple(token for token in lost if isinstance(token, str)), **status)


def _frozen(problem: Mapping[str, Any], status: Mapping[str, Any]) -> Frozen:
    told = problem.get("freeze")
    try:
        freeze = control_shapes.freeze(told)
    except (ValueError, KeyError, TypeError):
        # Thawed meanwhile: then only its id is told. Refused it was in any case.
        return Frozen(freeze_id=_number(told), **status)
    return Frozen(freeze_id=freeze.id, freeze=freeze, **status)


def _decision_stands(problem: Mapping[str, Any], status: Mapping[str, Any]) -> DecisionStands:
    told = problem.get("decision")
    try:
        decision = decision_shapes.decision(told)
    except (ValueError, KeyError, TypeError):
        # Its record was erased: then only its id is told.
        decision_id = _number(told.get("id")) if isinstance(told, dict) else None
        return DecisionStands(decision_id=decision_id, **status)
    return DecisionStands(decision_id=decision.id, decision=decision, **status)


def _payload_mismatch(problem: Mapping[str, Any], status: Mapping[str, Any]) -> PayloadMismatch:
    return PayloadMismatch(
        event_type=_string(problem.get("event_type")) or None,
        version=_number(problem.get("version")),
        **status,
    )


def _permission_denied(problem: Mapping[str, Any], status: Mapping[str, Any]) -> PermissionDenied:
    return PermissionDenied(
        scope=_string(problem.get("scope")) or None,
        agent_name=_string(problem.get("agent_name")) or None,
        **status,
    )


_WITH_MEMBERS: Final[
    Mapping[str, Callable[[Mapping[str, Any], Mapping[str, Any]], APIStatusError]]
] = {
    "condition-failed": _condition_failed,
    "decision-stands": _decision_stands,
    "frozen": _frozen,
    "lease-lost": _lease_lost,
    "payload-mismatch": _payload_mismatch,
}
"""The problems that tell more than every problem does."""

_FORBIDDEN: Final = 403


def _problem(answer: Answer) -> Mapping[str, Any]:
    if "json" not in answer.headers.get("content-type", ""):
        return {}
    try:
        problem = document.decode(answer.body)
    except ValueError:
        return {}
    return problem if isinstance(problem, dict) else {}


def _described(answer: Answer) -> str:
    if 300 <= answer.status < 400:
        place = answer.headers.get("location", "another place")
        return f"The address redirects to {place}; set `base_url` to where the service is."
    return ""


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _field_errors(value: object) -> tuple[FieldError, ...]:
    if not isinstance(value, list):
        return ()
    return tuple(
        FieldError(
            _string(item.get("pointer")),
            _string(item.get("message")),
            _string(item.get("in")) or "body",
        )
        for item in value
        if isinstance(item, dict)
    )


def _retry_after_seconds(answer: Answer, now: float) -> float | None:
    text = answer.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:  # "-0000": the date is in UTC, its origin unknown.
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, moment.timestamp() - now)
