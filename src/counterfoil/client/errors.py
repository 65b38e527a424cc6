"""What a call can raise, in three families.

* **Before anything is sent**: ``UnsendableValue`` (JSON cannot carry it), ``UsageError``
  (calls in an order that makes no sense), ``GuardTooLarge``.
* **The service answered**: ``APIStatusError`` and its subclasses. The service decided, so
  the same request would be decided the same way; only 429 and 502 to 504 are retried.
* **Nobody answered**: ``APIConnectionError`` and ``APITimeoutError``, for reads, and for
  writes that certainly did not arrive. A *write* that may have arrived is
  ``OutcomeUnknown``, which is deliberately none of the other two: code that treats a lost
  connection as "not written" would book twice.

Every message is a sentence with the way out. None holds the API key or a payload. All of
them survive ``pickle``, so they cross process pools and task queues.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime

    from counterfoil.client.control_model import Freeze
    from counterfoil.client.decision_model import Decision
    from counterfoil.client.model import Event


@dataclass(frozen=True, slots=True)
class FieldError:
    """One offending field of a refused request.

    ``pointer`` is a JSON pointer (RFC 6901) into the part of the request that
    ``location`` names (``body``, ``query``, ``header`` or ``path``):
    ``/events/3/payload`` in a body, ``/limit`` among the query parameters.
    """

    pointer: str
    message: str
    location: str = "body"

    @property
    def place(self) -> str:
        """Where it is, in one word or two: ``/limit (query)``."""
        where = self.pointer or "the whole"
        return where if self.location == "body" else f"{where} ({self.location})"

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


class CounterfoilError(Exception):
    """The base of everything that this package raises on purpose.

    >>> try:
    ...     cf.events.append(agent_name="a", event_type="t", payload={})
    ... except CounterfoilError as error:
    ...     print(error)
    """

    def __reduce__(self) -> tuple[Any, ...]:
        # The default protocol calls the class with ``args`` alone and so fails for every
        # class below whose constructor takes more than a message.
        return _rebuilt, (type(self), self.args, self.__dict__)


def _rebuilt(
    cls: type[CounterfoilError], args: tuple[Any, ...], state: dict[str, Any]
) -> CounterfoilError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


# --- Before anything is sent ------------------------------------------------------------


class UsageError(CounterfoilError, RuntimeError):
    """The calls came in an order that makes no sense, such as two commits of one guard."""


class UnsendableValue(CounterfoilError, ValueError):
    """A value cannot be sent: NaN, a naive datetime, a key that is not a string.

    ``pointer`` says where it stands in what would have been sent, ``reason`` what is wrong
    with it there. Nothing was sent.
    """

    def __init__(self, message: str, pointer: str = "") -> None:
        super().__init__(f"{pointer}: {message}" if pointer else message)
        self.pointer = pointer
        self.reason = message


class GuardTooLarge(CounterfoilError):
    """More events match a guard's query than its ``max_events`` allows.

    A guard reads everything that matches, or fails: deciding on the first part of what is
    known is how flags are missed.
    """

    def __init__(self, max_events: int, head: int) -> None:
        super().__init__(
            f"More than {max_events} events match this guard's query at head {head}. Ask for less "
            "(by tag, type or agent), or allow more with `max_events`."
        )
        self.max_events = max_events
        self.head = head


# --- Nobody answered, or not in a way that can be understood ----------------------------


class APIError(CounterfoilError):
    """A call that went out and did not succeed."""


class APIConnectionError(APIError):
    """The service could not be reached, or the connection broke before it answered.

    Raised for reads, and for writes that certainly did not arrive; see ``OutcomeUnknown``.
    """


class APITimeoutError(APIConnectionError):
    """The service did not answer within ``timeout``."""


class UnexpectedAnswer(APIError):
    """The answer is not one of Counterfoil's: another service, a proxy's page, a bug.

    Also raised when pages of one listing contradict each other, because a decision must not
    rest on them.
    """


class OutcomeUnknown(APIError):
    """A write was sent, and it is not known whether it was written.

    Call again with the same content and ``idempotency_key``: what was written is answered
    from the book (``replayed`` is then true), what was not is written now, once. The
    reason is in ``__cause__``.

    >>> try:
    ...     cf.events.append(**event)
    ... except OutcomeUnknown as unknown:
    ...     cf.events.append(**event, idempotency_key=unknown.idempotency_key)
    """

    def __init__(self, reason: str, *, idempotency_key: str, attempts: int) -> None:
        times = "once" if attempts == 1 else f"{attempts} times"
        super().__init__(
            f"It is not known whether this was written (tried {times}; at last: {reason}) "
            f"Send the same again with idempotency_key={idempotency_key!r}: it is then stored "
            "once, whatever became of this call."
        )
        self.idempotency_key = idempotency_key
        self.attempts = attempts


# --- The service answered ----------------------------------------------------------------


class APIStatusError(APIError):
    """The service answered with an error.

    Attributes:
        status_code: the HTTP status.
        type: the problem's ``type`` as sent, such as ``/problems/condition-failed``.
        problem: the last part of it, such as ``condition-failed``; empty when the answer
            was not a problem document (a proxy's page, say).
        title, detail: the problem in short, and as a sentence.
        errors: the offending fields.
        request_id: what to quote when asking the operators.
        headers: the answer's headers, their names in lower case.
        retry_after_seconds: what the service asked for with ``Retry-After``, if it did.
    """

    way_out = ""

    def __init__(
        self,
        *,
        status_code: int,
        problem_type: str = "",
        title: str = "",
        detail: str = "",
        errors: tuple[FieldError, ...] = (),
        request_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        self.status_code = status_code
        self.type = problem_type
        self.problem = problem_type.rpartition("/")[2]
        self.title = title
        self.detail = detail
        self.errors = errors
        self.request_id = request_id
        self.headers: Mapping[str, str] = dict(headers or {})
        self.retry_after_seconds = retry_after_seconds
        super().__init__(self._sentence())

    def _sentence(self) -> str:
        text = self.detail or self.title or "The service answered with an error and no reason."
        # A detail often is its only error's message: then only the place is new.
        errors = [error.place if error.message in text else str(error) for error in self.errors]
        parts = [text, *(f"[{error}]" for error in errors), self.way_out]
        name = f" {self.problem}" if self.problem else ""
        request = f", request {self.request_id}" if self.request_id else ""
        parts.append(f"(HTTP {self.status_code}{name}{request})")
        return " ".join(part for part in parts if part)


class InvalidRequestError(APIStatusError):
    """The request breaks a rule (400, 413, 415, 422); ``errors`` names the fields."""


class AuthenticationError(APIStatusError):
    """No API key, or not one that opens this service (401)."""

    way_out = "Give `api_key=` to the client, or set COUNTERFOIL_API_KEY."


class PermissionDenied(APIStatusError):
    """The key is right, and may not do this (403). Nothing was stored.

    ``scope`` is one with which it might; ``agent_name`` the only name that the key writes
    under. Either is ``None`` where the refusal is about something else.

    >>> try:
    ...     cf.events.append(agent_name="approver", event_type="approved", payload={})
    ... except PermissionDenied as refusal:
    ...     print(refusal.scope, cf.me().scopes)
    """

    def __init__(
        self, *, scope: str | None = None, agent_name: str | None = None, **status: Any
    ) -> None:
        self.scope = scope
        self.agent_name = agent_name
        if scope is not None and scope not in status.get("detail", ""):
            self.way_out = f"It needs a scope such as `{scope}`."
        super().__init__(**status)


class NotFoundError(APIStatusError):
    """No such event, key, event type, freeze, consumer or dead letter, or no such path (404).

    Of policies and decisions: ``PolicyNotFound``, ``DecisionNotFound``, ``SubjectWithoutEvents``.
    """


class ConditionFailed(APIStatusError):
    """Something that matches the condition was written after what the decision relied on.

    ``conflicts`` are the first of the events in the way, oldest first; ``head`` is the
    book's last position at the time of the check. Nothing was written. Look again, decide
    again: with a guard, ``refresh()`` and go on.

    ``lease_ends`` says until when a delivery is still held whose acknowledgement was refused so;
    it is ``None`` elsewhere.
    """

    def __init__(
        self,
        *,
        head: int,
        conflicts: tuple[Event, ...],
        lease_ends: datetime | None = None,
        **status: Any,
    ) -> None:
        super().__init__(**status)
        self.head = head
        self.conflicts = conflicts
        self.lease_ends = lease_ends


class LeaseLost(APIStatusError):
    """A delivery is not held any more (409): its lease ran out, or the consumer was sought.

    ``lost`` are the tokens that are worth nothing. Nothing was done, and nothing was written,
    about the others of the call either. Somebody else holds the event now, or will: drop it.

    >>> try:
    ...     await delivery.done(scored)
    ... except LeaseLost:
    ...     pass  # Whoever holds it now writes the outcome.
    """

    def __init__(self, *, lost: tuple[str, ...] = (), **status: Any) -> None:
        super().__init__(**status)
        self.lost = lost


class ConsumerStarted(APIStatusError):
    """This cannot be changed of a consumer that is there already (409).

    ``errors`` says what: ``start`` and ``order_by`` are settled when a consumer is made, and its
    ``query`` changes only where ``change_query=True`` says that it is meant.
    """


class Frozen(APIStatusError):
    """What would have been written is about something that is frozen (423). Nothing was stored.

    ``freeze`` says what is frozen, why, by whom and until when; it is ``None`` if the freeze
    was gone when the refusal was written. ``freeze_id`` is there in both cases. Reading goes
    on as before. Whoever may manage the brake ends a freeze: ``brake.thaw``.

    >>> try:
    ...     cf.events.append(**event)
    ... except Frozen as refusal:
    ...     hand_over_to_a_person(event, refusal.freeze)
    """

    def __init__(
        self, *, freeze_id: int | None = None, freeze: Freeze | None = None, **status: Any
    ) -> None:
        super().__init__(**status)
        self.freeze_id = freeze_id
        self.freeze = freeze


class PayloadMismatch(InvalidRequestError):
    """The payload does not fit the schema of its event type (422). Nothing was stored.

    ``event_type`` and ``version`` say which schema; ``errors`` point at the fields.

    >>> try:
    ...     cf.events.append(agent_name="a", event_type="payment", payload={"amount": "12"})
    ... except PayloadMismatch as refusal:
    ...     print(refusal.event_type, refusal.version, refusal.errors[0].pointer)
    payment 3 /payload/amount
    """

    def __init__(
        self, *, event_type: str | None = None, version: int | None = None, **status: Any
    ) -> None:
        super().__init__(**status)
        self.event_type = event_type
        self.version = version


class UnregisteredType(InvalidRequestError):
    """The event's type has no schema, and the tenant accepts registered types only (422)."""


class NarrowingChange(APIStatusError):
    """A schema may refuse payloads that the version before accepted (409).

    ``errors`` says where. Nothing was registered. Widen the schema instead; or, if it is
    meant, register it with ``narrowing=True`` and a ``reason``.
    """


class PolicyRefused(InvalidRequestError):
    """A policy that may not be published (422); ``errors`` says where, and why.

    No version was made. ``counterfoil policies lint`` says the same without a service.
    """


class PolicyNotFound(NotFoundError):
    """There is no policy of this name, or no such version of it (404)."""


class PolicyNotActive(APIStatusError):
    """No version of the policy is active, so it decides nothing (409)."""


class FourEyes(APIStatusError):
    """A version cannot be activated by whoever drafted it (409). Somebody else has to."""


class SubjectWithoutEvents(NotFoundError):
    """The book has no event about this subject, so nothing can be decided about it (404)."""


class DecisionInputsRefused(InvalidRequestError):
    """The inputs of a decision cannot be taken as the policy wants them (422).

    Missing, too old, of the wrong type, beyond 2^53, erased: ``errors`` says which, at
    ``/inputs/<name>``. Nothing was decided.

    >>> try:
    ...     cf.decide("credit", "application:42")
    ... except DecisionInputsRefused as refusal:
    ...     print(refusal.errors[0].pointer, refusal.errors[0].message)
    /inputs/income There is no `income_verified` about this subject.
    """


class NotDecided(InvalidRequestError):
    """The rules come to nothing for these inputs (422): no row fits, or an expression is null.

    Nothing was decided. A policy whose last row catches everything, for a review, has no such.
    """


class DecisionStands(APIStatusError):
    """A decision by this policy stands about this subject already (409). Nothing was decided.

    ``decision`` is the one that stands; it is ``None`` if its record was erased. ``decision_id``
    is there in both cases. To take its place, name it:

    >>> try:
    ...     cf.decide("credit", "application:42")
    ... except DecisionStands as standing:
    ...     cf.decide(
    ...         "credit", "application:42", supersedes=standing.decision_id, reason="New pay slips."
    ...     )
    """

    def __init__(
        self, *, decision_id: int | None = None, decision: Decision | None = None, **status: Any
    ) -> None:
        super().__init__(**status)
        self.decision_id = decision_id
        self.decision = decision


class DecisionNotFound(NotFoundError):
    """There is no decision with this id (404)."""


class IdempotencyMismatch(APIStatusError):
    """This idempotency key was used before for other content (422). Nothing was written.

    A key stands for one logical write; take a new one, or leave it out, for another.
    """


class BookRestored(APIStatusError):
    """The book was restored from a backup since this position was read (409).

    Positions read before may now be other events. Read again from the beginning, and
    follow from there.
    """


class RateLimited(APIStatusError):
    """The key calls too often (429), also after the retries.

    ``retry_after_seconds`` says when to come back. A wait of up to 30 seconds is slept
    through by the retries; a longer one is raised at once.
    """


class ServiceUnavailable(APIStatusError):
    """The service cannot answer just now (503), also after the retries."""


class Busy(ServiceUnavailable):
    """More is waiting than the service accepts. A write refused so was not written."""


class InternalServerError(APIStatusError):
    """A fault of the service, or of a proxy before it (5xx other than 503)."""
