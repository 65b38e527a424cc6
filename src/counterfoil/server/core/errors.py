"""What can go wrong, in the domain's words.

None of these knows of HTTP: ``api/errors.py`` holds the one table that turns each into
a status and a problem document. Messages are sentences for the caller, and never hold
a secret or another tenant's data.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Location = Literal["body", "query", "header", "path"]


@dataclass(frozen=True, slots=True)
class FieldError:
    """One offending field.

    ``pointer`` is a JSON pointer (RFC 6901) into the part of the request that
    ``location`` names: ``/events/3/payload`` in a body, ``/limit`` among the query
    parameters, ``/Idempotency-Key`` among the headers. Empty: the whole part.
    """

    pointer: str
    message: str
    location: Location = "body"


class CounterfoilError(Exception):
    """Anything that the service refuses or cannot do. ``str()`` is a clear sentence."""


class InputError(CounterfoilError):
    """The request itself is at fault; nothing was stored."""

    def __init__(self, message: str, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(message)
        self.errors: tuple[FieldError, ...] = tuple(errors)


class MalformedDocument(InputError):
    """The body cannot be read as one JSON document (or is missing)."""


class InvalidInput(InputError):
    """The document was read, and something in it breaks a rule. ``errors`` says what."""


class BodyTooLarge(InputError):
    """The body is longer than its call allows."""


class UnsupportedMediaType(InputError):
    """The body is not declared as JSON."""


class AfterAboveHead(InputError):
    """A position was given that the book has not reached: it cannot have been read."""


class UnknownCause(InputError):
    """``caused_by`` names an event that is not in the book yet."""


class PayloadMismatch(InputError):
    """A payload does not fit the schema that its event type is registered with."""

    def __init__(
        self, message: str, errors: Sequence[FieldError], *, event_type: str, version: int
    ) -> None:
        super().__init__(message, errors)
        self.event_type = event_type
        self.version = version


class UnregisteredType(InputError):
    """An event's type has no schema, and this tenant takes none without."""


class Unauthenticated(CounterfoilError):
    """No key, or not one that opens this service. The two are told apart nowhere."""


class ScopeMissing(CounterfoilError):
    """The key may not do this. ``scope`` is one with which it might."""

    def __init__(self, message: str, scope: str) -> None:
        super().__init__(message)
        self.scope = scope


class NameNotYours(CounterfoilError):
    """An event under another name than the key's own. ``name`` is the one that is."""

    def __init__(self, message: str, name: str) -> None:
        super().__init__(message)
        self.name = name


class RateLimited(CounterfoilError):
    """The key calls too often. In ``wait_seconds`` it may call again."""

    def __init__(self, message: str, wait_seconds: int) -> None:
        super().__init__(message)
        self.wait_seconds = wait_seconds


class KeyNotFound(CounterfoilError):
    """The tenant has no key with this id."""


class KeyNotActive(CounterfoilError):
    """The key was revoked or has expired, and so cannot be rotated."""


class TenantExists(CounterfoilError):
    """There is a tenant of this name."""


class EventTypeNotFound(CounterfoilError):
    """The tenant has registered no such type, or no such version of it."""


class NarrowingChange(CounterfoilError):
    """A schema may refuse what the version before accepted, and that was not asked for.

    ``errors`` say where.
    """

    def __init__(self, message: str, errors: Sequence[FieldError]) -> None:
        super().__init__(message)
        self.errors: tuple[FieldError, ...] = tuple(errors)


class FreezeNotFound(CounterfoilError):
    """Nothing is frozen under this id."""


class ConsumerNotFound(CounterfoilError):
    """The tenant has no consumer of this name."""


class ConsumerStarted(CounterfoilError):
    """A consumer has begun, and keeps what was to be changed. ``errors`` say what."""

    def __init__(self, message: str, errors: Sequence[FieldError]) -> None:
        super().__init__(message)
        self.errors: tuple[FieldError, ...] = tuple(errors)


class ConsumerHasDeadLetters(CounterfoilError):
    """A consumer is to be deleted, and dead letters would be lost with it."""


class DeadLetterNotFound(CounterfoilError):
    """A consumer has no dead letter of this event."""


class LeaseLost(CounterfoilError):
    """Some of what a call names is not its holder's any more. ``lost`` are their tokens."""

    def __init__(self, message: str, lost: Sequence[str]) -> None:
        super().__init__(message)
        self.lost: tuple[str, ...] = tuple(lost)


class PolicyRefused(InputError):
    """A policy may not be published. ``errors`` say why, each at its place."""


class PolicyNotFound(CounterfoilError):
    """The tenant has no policy of this name, or no such version of it."""


class PolicyNotActive(CounterfoilError):
    """No version of the policy is in force."""


class FourEyes(CounterfoilError):
    """Who proposed something cannot be the one who puts it in force."""


class SubjectWithoutEvents(CounterfoilError):
    """Nothing that the policy reads is in the book about this subject."""


class DecisionInputsRefused(InputError):
    """The inputs of a decision are not what its policy asks for. ``errors`` say which."""


class NotDecided(CounterfoilError):
    """The rules came to nothing that may stand. ``str()`` is a sentence."""


class DecisionStands(CounterfoilError):
    """A decision of the policy stands about the subject. ``shown`` is the whole of it as JSON."""

    def __init__(self, message: str, shown: str) -> None:
        super().__init__(message)
        self.shown = shown


class DecisionNotFound(CounterfoilError):
    """There is no decision with this id."""


class TooMany(CounterfoilError):
    """A tenant has as many of something as it may."""


class ForeignHost(CounterfoilError):
    """A call without a key that does not address this machine by a name of its own."""


class EventNotFound(CounterfoilError):
    """There is no event at this position."""


class ConditionFailed(CounterfoilError):
    """Something that matches the condition's query lies above its ``after``.

    ``head`` is the book's last position at the time of the check; ``conflicts`` are the
    texts (JSON objects) of the first events in the way, oldest first. ``lease_ends`` is when
    the first of the leases ends that the append was to hand in, and that are still held.
    """

    def __init__(self, head: int, conflicts: Sequence[str], lease_ends: str | None = None) -> None:
        super().__init__(
            "An event that matches `fail_if` was written after what this decision relied on. "
            "Read again, decide again."
        )
        self.head = head
        self.conflicts: tuple[str, ...] = tuple(conflicts)
        self.lease_ends = lease_ends


class BookRestored(CounterfoilError):
    """A cursor, stream id or condition comes from before the book was restored."""


class Frozen(CounterfoilError):
    """Something that the append writes about is frozen.

    ``freeze`` is its id: the position of the event that says so. ``shown`` is the whole of it
    as JSON, once it was looked up.
    """

    def __init__(self, message: str, freeze: int, shown: str | None = None) -> None:
        super().__init__(message)
        self.freeze = freeze
        self.shown = shown


class RulesChanged(CounterfoilError):
    """The append was judged by rules that have changed since. Judged anew, it may stand."""


class EffectRefused(CounterfoilError):
    """What one of the service's own events was to do cannot be done. ``reason`` is a word."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the effect was refused: {reason}")
        self.reason = reason


class IdempotencyMismatch(CounterfoilError):
    """The key was used before, by the same principal, for other content."""


class Unavailable(CounterfoilError):
    """Nothing is wrong with the request; it cannot be served now. Try again later."""


class Busy(Unavailable):
    """More is waiting than the service accepts, or the book's lock was not had in time.

    An append that is refused so was not written.
    """


class NotWritten(Unavailable):
    """The database could not be reached or refused; the append was certainly not written."""


class OutcomeUnknown(Unavailable):
    """The connection was lost after the append was sent: it may be written or not."""


class DatabaseUnavailable(Unavailable):
    """The database could not be reached for a read."""


class ReadTooSlow(Unavailable):
    """A read ran into its time limit in the database."""


class InvariantBroken(CounterfoilError):
    """The service found itself in a state that its own rules exclude: a fault of ours."""


def invariant(holds: bool, what: str) -> None:
    """Raise ``InvariantBroken`` unless ``holds``; unlike ``assert`` it stays under ``-O``."""
    if not holds:
        raise InvariantBroken(what)
