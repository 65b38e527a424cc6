"""The service's own events: what it writes about keys, rules and freezes, under its own name.

Each is an append like any other, in the tenant's own book and in its order. What makes it
different is its *effect*: the row of ``05_rules.sql`` that it makes or changes, in the same
step, at its position (``11_effects.sql``). The event's payload tells the book what happened;
the effect holds what the tables need beside that (the digest of a key), and is stored nowhere
else. No freeze holds such an event back: otherwise nobody could thaw a frozen book.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from counterfoil.server.core.document import encode
from counterfoil.server.log.fields import OWN_AGENT, OWN_TYPE_PREFIX
from counterfoil.server.log.model import AppendRequest

NO_EFFECT: Final[Mapping[str, Any]] = {"effect": "none"}
"""The effect of an event that only tells."""


@dataclass(frozen=True, slots=True)
class Made:
    """What a call made or changed, as JSON; whether it is new, and whether an earlier call made it."""

    text: str
    created: bool
    replayed: bool


def own_event(
    what: str,
    payload: Mapping[str, Any],
    *,
    tags: Sequence[str],
    principal: str,
    caused_by: Sequence[int] = (),
) -> dict[str, Any]:
    """One of the service's own events, as the database takes it.

    Args:
        what: its type without the service's prefix, such as ``key_created``.
        payload: what it tells.
        tags: what it is about. Nothing is derived from its payload.
        principal: who made the service write it.
        caused_by: ids of events in the book that it rests on.
    """
    return {
        "agent_name": OWN_AGENT,
        "event_type": f"{OWN_TYPE_PREFIX}{what}",
        "payload": dict(payload),
        "tags": sorted(set(tags)),
        "principal": principal,
        **({"caused_by": list(caused_by)} if caused_by else {}),
    }


def own_append(
    *events: Mapping[str, Any],
    effect: Mapping[str, Any],
    asked: Mapping[str, Any],
    key: str | None = None,
) -> AppendRequest:
    """The append of one of the service's own events, or of several with one effect.

    Args:
        events: what ``own_event`` made, all of one principal.
        effect: what it does, see ``apply_effect`` in ``11_effects.sql``.
        asked: the call that it answers, with its judged content: what an idempotency key is
            compared by. (The event may hold what is new in each try, such as a key's id.)
        key: the caller's idempotency key.
    """
    document: dict[str, Any] = {
        "operation": "own",
        "principal": events[0]["principal"],
        "own": True,
        "effect": dict(effect),
        "asked": dict(asked),
        "events": [
            {name: value for name, value in event.items() if name != "principal"}
            for event in events
        ],
    }
    if key is not None:
        document["key"] = key
    encoded = encode(document)
    return AppendRequest(
        operation="own",
        document=encoded,
        event_count=len(events),
        size_bytes=len(encoded),
        keyed=key is not None,
        causes=(),
        condition_after=None,
        condition_values=0,
    )
