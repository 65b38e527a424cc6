"""What a handler is, what its end means, and who it works for: without I/O."""

from __future__ import annotations

import os
import platform
import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from counterfoil.client.consumer_requests import new_event
from counterfoil.client.consuming import LOGGER
from counterfoil.client.errors import UsageError
from counterfoil.client.model import Event, NewEvent, Stored, StoredBatch

MAX_AT_ONCE_DEFAULT: Final = 10
"""What ``run`` handles of one consumer at once when the caller does not say."""

CLAIM_WAIT_SECONDS_DEFAULT: Final = 20.0
"""How long a claim waits for work. Longer saves nothing: an idle worker calls three times a
minute."""

STOP_SECONDS_DEFAULT: Final = 20.0
"""What ``run`` gives its handlers to finish when it is told to stop. Platforms commonly kill 30
seconds after they have asked."""

GIVE_BACK_SECONDS: Final = 5.0
"""What giving back may take after that."""

REASON_CHARACTERS_MAX: Final = 500
"""The service's own limit of a reason."""

HOLDER_CHARACTERS_MAX: Final = 128
"""The service's own limit of a holder."""

UNSETTLED: Final = "The handler left the delivery without settling it."

Outcome = (
    NewEvent
    | Mapping[str, Any]
    | Sequence[NewEvent | Mapping[str, Any]]
    | Stored
    | StoredBatch
    | None
)
"""What a handler may return: what came of the event, to be written as it is acknowledged; or
nothing; or what it has written by itself."""


def holder_of(given: str | None) -> str:
    """Return the caller's name for this process, or one that no other process has."""
    if given is not None:
        return given
    ending = f"-{os.getpid()}-{secrets.token_hex(4)}"
    return platform.node()[: HOLDER_CHARACTERS_MAX - len(ending)] + ending


def reason_of(error: BaseException) -> str:
    """Return why an attempt failed: the exception's class and message, as far as they fit.

    >>> reason_of(TimeoutError("The model did not answer."))
    'TimeoutError: The model did not answer.'
    """
    text = f"{type(error).__name__}: {error}"
    # Neither a lone surrogate nor NUL can be kept as text.
    sendable = text.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
    if len(sendable) <= REASON_CHARACTERS_MAX:
        return sendable
    return sendable[: REASON_CHARACTERS_MAX - 1] + "…"


def outcome_of(returned: object, *, settled: bool) -> tuple[NewEvent, ...]:
    """Return the events that a handler has returned, to be written as the outcome.

    Raises:
        UsageError: it is something else; or the handler had settled the delivery by itself, so
            that nothing can be written with it any more.
        UnsendableValue: a mapping is no event.
    """
    several = returned if isinstance(returned, list | tuple) else (returned,)
    events = [event for event in several if isinstance(event, NewEvent | Mapping)]
    if settled:
        if events:
            raise UsageError(
                "The handler settled its delivery and returned events too: those were not "
                "written. Give them to `done()`, or return them instead of calling it."
            )
        return ()
    if returned is None or isinstance(returned, Stored | StoredBatch):
        return ()
    if len(events) != len(several):
        raise UsageError(
            "A handler returns an event, a list of events, or nothing, and not "
            f"{type(returned).__name__}."
        )
    return tuple(new_event(event) for event in events)


# --- What is told -----------------------------------------------------------------------


def tell_failure(consumer: str, event: Event, attempt: int, error: BaseException) -> None:
    """Say that an event was not handled."""
    LOGGER.error(
        "Event %d of the consumer %r was not handled (attempt %d).",
        event.id,
        consumer,
        attempt,
        exc_info=error,
    )


def tell_loss(consumer: str, event: Event, attempt: int) -> None:
    """Say that an event was handled in vain."""
    LOGGER.warning(
        "Event %d of the consumer %r was lost while it was handled (attempt %d): whoever holds it "
        "now goes on with it.",
        event.id,
        consumer,
        attempt,
    )


def tell_stop(consumers: Collection[str], stop_seconds: float) -> None:
    """Say that nothing more is claimed."""
    LOGGER.info(
        "Nothing more is claimed of %s. What is in hand has %g seconds to finish.",
        ", ".join(map(repr, consumers)),
        stop_seconds,
    )


def check_handlers(handlers: Mapping[str, object]) -> None:
    """Check that there is something to run.

    Raises:
        UsageError: there is not.
    """
    if not handlers:
        raise UsageError('Give `run` a handler for each consumer: `run({"scorer": handle})`.')
