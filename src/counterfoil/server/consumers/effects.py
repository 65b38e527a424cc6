"""What the service writes about consumers into the book, and what the caller hears if it cannot.

The effects themselves are made by the database (``09_consumer_effects.sql``).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from counterfoil.server.core import limits
from counterfoil.server.core.errors import (
    AfterAboveHead,
    ConsumerHasDeadLetters,
    ConsumerNotFound,
    ConsumerStarted,
    CounterfoilError,
    DeadLetterNotFound,
    EffectRefused,
    FieldError,
    InvariantBroken,
    TooMany,
)
from counterfoil.server.log.operations import Log, Stored
from counterfoil.server.log.own import own_append, own_event

NO_CONSUMER: Final = "This tenant has no consumer of this name."
EXHAUSTED: Final = "It failed as often as it may."

_KEPT: Final[Mapping[str, tuple[str, str]]] = {
    "begun_query": (
        "query",
        (
            "This consumer has begun, and keeps its query. Send `change_query: true` to change it "
            "from where it stands on."
        ),
    ),
    "begun_start": (
        "start",
        "This consumer has begun, and keeps its start. `seek` leads it to another place.",
    ),
    "begun_order_by": (
        "order_by",
        (
            "This consumer has begun, and keeps its order: what is out by one could not keep to "
            "another. Make a second consumer."
        ),
    ),
}


class UnchangedError(CounterfoilError):
    """It is so already; nothing was written."""


class NotAsExpectedError(CounterfoilError):
    """It was made, or deleted, since it was looked at; nothing was written."""


async def append_own(
    log: Log,
    tenant_id: int,
    what: str,
    told: Mapping[str, Any],
    effect: Mapping[str, Any],
    *,
    by: str,
    key: str | None,
    caused_by: Sequence[int] = (),
    asked: Mapping[str, Any] | None = None,
) -> Stored:
    """Append one of the service's own events about a consumer, with its effect.

    Args:
        what: the event's type without the service's prefix.
        told: its payload; its ``name`` is the consumer's.
        by: the principal who asks.
        key: its idempotency key.
        asked: what that is compared by, where it is not just the effect and its reason.

    Raises ``UnchangedError``, what the effect was refused for, and what an append raises.
    """
    request = own_append(
        own_event(what, told, tags=[f"consumer:{told['name']}"], principal=by, caused_by=caused_by),
        effect=effect,
        asked=asked or {"call": what, **effect, "reason": told.get("reason")},
        key=key,
    )
    try:
        return await log.append(tenant_id, request)
    except EffectRefused as refused:
        raise refusal(
            refused.reason, place="to" if what == "consumer_sought" else "start"
        ) from None


def set_aside_event(
    name: str, position: int, history: Sequence[dict[str, Any]], reason: str, by: str
) -> dict[str, Any]:
    """The event of one delivery that is set aside."""
    told = {
        "name": name,
        "event_id": position,
        "attempts": list(history),
        "reason": reason,
        "by": by,
    }
    return own_event(
        "delivery_set_aside",
        told,
        tags=[f"consumer:{name}"],
        principal=by,
        caused_by=[position],
    )


def refusal(reason: str, *, place: str = "start") -> CounterfoilError:
    """What an effect's refusal is to the caller.

    Args:
        place: in which field it said where in the book it wants to be.
    """
    if reason in _KEPT:
        field, message = _KEPT[reason]
        return ConsumerStarted(message, [FieldError(f"/{field}", message)])
    if reason == "after_above_head":
        message = "The book has not come to this place yet."
        return AfterAboveHead(message, [FieldError(f"/{place}/after", message)])
    made = _REFUSALS.get(reason)
    if made is None:
        return InvariantBroken(f"an effect on a consumer was refused: {reason}")
    error, message = made
    return error(message)


_REFUSALS: Final[Mapping[str, tuple[type[CounterfoilError], str]]] = {
    "unchanged": (UnchangedError, "It is so already."),
    "not_as_expected": (NotAsExpectedError, "It was made, or deleted, at the same moment."),
    "consumer_not_found": (ConsumerNotFound, NO_CONSUMER),
    "dead_letter_not_found": (
        DeadLetterNotFound,
        "One of these events has no dead letter with this consumer; nothing was done.",
    ),
    "has_dead_letters": (
        ConsumerHasDeadLetters,
        (
            "This consumer has dead letters, which would be lost with it. Replay or drop them "
            "first, or delete it with `?dead_letters=drop`."
        ),
    ),
    "too_many": (TooMany, f"A tenant has at most {limits.CONSUMERS_MAX:,} consumers."),
}
