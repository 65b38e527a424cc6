"""How the service's answers are read: into values, or into the errors they stand for.

Fields that are not known are ignored, because the service promises to make additions
only; a field that is missing or of another kind is an ``UnexpectedAnswer``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar

from counterfoil.client import document
from counterfoil.client.errors import (
    APIStatusError,
    AuthenticationError,
    BookRestored,
    Busy,
    ConditionFailed,
    FieldError,
    IdempotencyMismatch,
    InternalServerError,
    InvalidRequestError,
    NotFoundError,
    RateLimited,
    ServiceUnavailable,
    UnexpectedAnswer,
)
from counterfoil.client.model import Event, Page, Stored, StoredBatch

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
        return Stored(_integer(data["id"]), _moment(data["created_at"]), _replayed(answer))

    return _read(answer, read)


def stored_batch(answer: Answer, count: int) -> StoredBatch:
    """Read the answer to a batch of ``count`` events."""

    def read(data: Any) -> StoredBatch:
        ids = tuple(map(_integer, data["ids"]))
        if len(ids) != count:
            raise ValueError(f"{len(ids)} ids for {count} events")
        return StoredBatch(ids, _moment(data["created_at"]), _replayed(answer))

    return _read(answer, read)


def page(answer: Answer) -> Page:
    """Read one page of events."""

    def read(data: Any) -> Page:
        return Page(
            events=tuple(map(_event, data["events"])),
            head=_integer(data["head"]),
            incarnation=answer.headers["counterfoil-incarnation"],
            next=None if data["next"] is None else _text(data["next"]),
            has_more=bool(data["has_more"]),
        )

    return _read(answer, read)


def event(answer: Answer) -> Event:
    """Read one event."""
    return _read(answer, _event)


def event_from_text(text: str) -> Event:
    """Read one event of the live stream."""
    return _read(Answer(200, {}, text.encode()), _event)


def _read(answer: Answer, read: Callable[[Any], T]) -> T:
    try:
        return read(_object(document.decode(answer.body)))
    except (ValueError, KeyError, TypeError) as error:
        raise UnexpectedAnswer(
            "The answer is not one of Counterfoil's. Check that `base_url` names the service and "
            f"not something before it (HTTP {answer.status}, {type(error).__name__}: {error})"
        ) from error


def _event(data: Any) -> Event:
    data = _object(data)
    occurred_at = data.get("occurred_at")
    context = data.get("context")
    return Event(
        id=_integer(data["id"]),
        agent_name=_text(data["agent_name"]),
        event_type=_text(data["event_type"]),
        payload=_object(data["payload"]),
        tags=tuple(map(_text, data["tags"])),
        created_at=_moment(data["created_at"]),
        occurred_at=None if occurred_at is None else _moment(occurred_at),
        caused_by=tuple(map(_integer, data.get("caused_by") or ())),
        context=None if context is None else _object(context),
    )


def _integer(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise TypeError(f"an integer was expected, not {type(value).__name__}")


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise TypeError(f"a string was expected, not {type(value).__name__}")


def _object(value: object) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise TypeError(f"an object was expected, not {type(value).__name__}")


def _moment(value: object) -> datetime:
    moment = datetime.fromisoformat(_text(value))
    if moment.tzinfo is None:
        raise ValueError("a time without an offset")
    return moment


def _replayed(answer: Answer) -> bool:
    return answer.headers.get("idempotent-replayed", "").lower() == "true"


# --- Refusal ----------------------------------------------------------------------------

_BY_PROBLEM: Final[Mapping[str, type[APIStatusError]]] = {
    "book-restored": BookRestored,
    "idempotency-mismatch": IdempotencyMismatch,
    "busy": Busy,
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
    if name == "condition-failed":
        try:
            head = _integer(problem["head"])
            conflicts = tuple(map(_event, problem["conflicts"]))
        except (ValueError, KeyError, TypeError):
            return APIStatusError(**status)
        return ConditionFailed(head=head, conflicts=conflicts, **status)
    fallback = InternalServerError if answer.status >= 500 else APIStatusError
    return _BY_PROBLEM.get(name, _BY_STATUS.get(answer.status, fallback))(**status)


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
