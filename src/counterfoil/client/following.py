"""Following the book live, over connections that break: without I/O.

Theory of operation. The stream says where it stands with every event and with every
heartbeat, in an id of the form ``<incarnation>.<position>``. Whenever the connection
ends, for whatever reason, the next one is opened with the last id (``Last-Event-ID``), so
nothing is missed; an event at or below the position is dropped, so nothing comes twice.
Where a follower without a starting place begins is settled by the first answer's headers
and not by the first event, because the connection may break in between.

Before the first connection stands, failures count as those of any call: after
``max_retries`` they are raised, so that a wrong address shows at once. After it, the
follower keeps trying (up to ``max_reconnects`` failures in a row, if given), since a
service that is being replaced is no reason to stop. What the service decides (no key, a
restored book, a filter that it refuses) is raised either way.

``on_reconnect`` hears of each such interruption twice: with the reason when it begins, and
with ``None`` when a connection stands again. The failures in between are not told.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from counterfoil.client import answers, requests
from counterfoil.client.answers import Answer
from counterfoil.client.calls import Outcome, RetryPolicy
from counterfoil.client.errors import (
    APIConnectionError,
    APIError,
    BookRestored,
    UnexpectedAnswer,
    UnsendableValue,
    UsageError,
)
from counterfoil.client.model import Event
from counterfoil.client.requests import Parameters, Request
from counterfoil.client.sse import EventStreamParser, Message

SILENCE_SECONDS_MAX: Final = 45.0
"""How long a stream may be silent before it counts as lost: three of the service's
heartbeats."""

RECONNECT_FIRST_SECONDS: Final = 1.0
"""The wait before the first reconnection, unless the stream sets another (``retry``)."""

RECONNECT_SECONDS_MIN: Final = 0.1
"""The shortest such wait: no stream may talk its followers into calling without a pause."""

RECONNECT_SECONDS_MAX: Final = 30.0
"""The longest wait between two attempts to reconnect."""


class Following:
    """The state of one follower; see the module's theory of operation."""

    def __init__(
        self,
        filters: Parameters,
        *,
        after: int | None,
        last_event_id: str | None,
        max_reconnects: int | None,
        policy: RetryPolicy,
        on_reconnect: Callable[[APIError | None], None] | None = None,
    ) -> None:
        if after is not None and last_event_id is not None:
            raise UsageError("Give `after` or `last_event_id`, not both.")
        self._filters = filters
        self._policy = policy
        self._max_reconnects = max_reconnects
        self._first_seconds = RECONNECT_FIRST_SECONDS
        self._failures = 0
        self._on_reconnect = on_reconnect
        self._connected_once = False
        self._interrupted = False
        self._parser = EventStreamParser()
        self._messages: deque[Message] = deque()
        self.position = after
        self.last_event_id = last_event_id
        if last_event_id is not None:
            self.position = _parsed(last_event_id)
            if self.position is None:
                raise UnsendableValue(
                    "This is no place in a stream. Give what `last_event_id` of a follower was.",
                    "/Last-Event-ID",
                )

    def request(self) -> Request:
        """Return the request that opens the stream where this follower stands."""
        after = self.position if self.last_event_id is None else None
        return requests.stream(self._filters, after, self.last_event_id)

    def opened(self, answer: Answer) -> None:
        """Take in status and headers of a stream that has been opened.

        Raises:
            UnexpectedAnswer: it is no stream of Counterfoil's.
        """
        if "text/event-stream" not in answer.headers.get("content-type", ""):
            raise UnexpectedAnswer(
                "The answer is not Counterfoil's stream. Check that `base_url` names the service "
                "and not something before it."
            )
        if self.last_event_id is None:
            self._begin(answer)
        self._parser = EventStreamParser()
        self._connected_once = True
        self._tell(None)

    def _begin(self, answer: Answer) -> None:
        try:
            incarnation = answer.headers["counterfoil-incarnation"]
            if self.position is None:
                self.position = int(answer.headers["counterfoil-head"])
        except (KeyError, ValueError):
            raise UnexpectedAnswer(
                "The stream does not say where it begins. Check that nothing between this client "
                "and the service removes its headers."
            ) from None
        self.last_event_id = f"{incarnation}.{self.position}"

    def feed(self, chunk: bytes) -> None:
        """Take in bytes of the stream; ``next_event`` then gives what they brought.

        Raises:
            UnexpectedAnswer: they are no event stream.
        """
        try:
            self._messages.extend(self._parser.feed(chunk))
        except ValueError as error:
            raise UnexpectedAnswer(f"The stream cannot be read: {error}") from error

    def next_event(self) -> Event | None:
        """Return the next event, or ``None`` when more bytes are needed for one.

        The position moves on with what is returned here, never ahead of it.

        Raises:
            UnexpectedAnswer: a message is none of Counterfoil's.
            BookRestored: it comes from another life of the book.
        """
        while self._messages:
            event = self._take(self._messages.popleft())
            if event is not None:
                return event
        return None

    def _take(self, message: Message) -> Event | None:
        self._failures = 0
        if message.retry_milliseconds is not None:
            asked = message.retry_milliseconds / 1000
            self._first_seconds = min(max(asked, RECONNECT_SECONDS_MIN), RECONNECT_SECONDS_MAX)
        if not message.id:
            return None
        place = _parsed(message.id)
        if place is None:
            raise UnexpectedAnswer(f"The stream's id {message.id!r} is no place in a book.")
        self._check_incarnation(message.id)
        if not message.data:
            self._advance(place, message.id)
            return None
        event = answers.event_from_text(message.data)
        if event.id != place:
            raise UnexpectedAnswer(
                f"The stream gave event {event.id} the position {place}. Read it with "
                "`events.list`, and report this."
            )
        return event if self._advance(place, message.id) else None

    def _advance(self, place: int, event_id: str) -> bool:
        if self.position is not None and place <= self.position:
            return False
        self.position = place
        self.last_event_id = event_id
        return True

    def _check_incarnation(self, event_id: str) -> None:
        before = (self.last_event_id or event_id).rpartition(".")[0]
        if event_id.rpartition(".")[0] != before:
            raise BookRestored(
                status_code=409,
                problem_type="/problems/book-restored",
                detail="The book was restored while it was followed. Read it again from the "
                "beginning.",
            )

    def lost(self, outcome: Outcome | None) -> float:
        """Return how many seconds to wait before the next connection.

        ``outcome`` says what came instead of a stream or ended it; ``None``: it ended
        without an error, as it does when the service shuts down.

        Raises:
            APIError: trying again is pointless, or has been tried often enough.
        """
        self._failures += 1
        error = _ended() if outcome is None else self._policy.error_of(outcome)
        if self._failures > self._failures_max():
            raise error
        wait = self._policy.wait_seconds(
            error, self._failures, self._first_seconds, RECONNECT_SECONDS_MAX
        )
        if wait is None:
            raise error
        if self._connected_once:
            self._tell(error)
        return wait

    def _tell(self, reason: APIError | None) -> None:
        """Say that an interruption has begun or is over, once each."""
        interrupted = reason is not None
        if interrupted == self._interrupted:
            return
        self._interrupted = interrupted
        if self._on_reconnect is not None:
            self._on_reconnect(reason)

    def _failures_max(self) -> float:
        if not self._connected_once:
            return self._policy.max_retries
        return float("inf") if self._max_reconnects is None else self._max_reconnects


def _ended() -> APIError:
    return APIConnectionError("The service ended the stream.")


def _parsed(event_id: str) -> int | None:
    """The position in a stream id; its incarnation is the service's to judge."""
    incarnation, _, position = event_id.rpartition(".")
    fits = incarnation and position.isascii() and position.isdigit()
    return int(position) if fits else None
