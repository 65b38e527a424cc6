"""One logical call: how often it is tried, when it is over, and what is then known.

Theory of operation. A shell sends the request and hands what came of it, an ``Answer`` or
a ``Failure``, to ``Call.judge``, which returns ``Done`` or ``Again`` or raises. The request
of a write carries one idempotency key in all its attempts, so an attempt too many does no
harm; an attempt too few leaves the caller in doubt.

That doubt is tracked, not guessed. An attempt *leaves it open* whether the write was made
when the request may have arrived and the answer does not say. Once any attempt has left it
open, only an answer that speaks of the content itself (it was judged, the key looked up)
closes it again: a connection refused by the next attempt says nothing about the first. A
write that ends open is ``OutcomeUnknown``.

Some refusals come before the key is looked up. One that follows from the content alone
settles the matter all the same: the same content was refused before. But what a key may do
(403), whether it opens anything (401), and which payloads and schemas are taken can change
between two attempts, so these say nothing about the first. A freeze changes too, but it is
asked after the key, in the same step: had the first attempt been written, its answer would
have come instead of 423.

| what came                                     | tried again | a write's outcome         |
|-----------------------------------------------|-------------|---------------------------|
| 2xx                                           | no          | written                   |
| 2xx that cannot be read                       | no          | open                      |
| 400, 409, 413, 415, 422, 423 as a problem     | no          | not written; closes       |
| … but judged by rules that may have changed   | no          | not written, as it was    |
| other 3xx and 4xx (401, 403 …)                | no          | not written, as it was    |
| 429                                           | yes         | not written, as it was    |
| 503 that says "not written"                   | yes         | not written, as it was    |
| 502, 503, 504                                 | yes         | open                      |
| other 5xx                                     | no          | open                      |
| connection failed before sending              | yes         | not written, as it was    |
| connection lost, or timeout, after it         | yes         | open                      |
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from counterfoil.client.answers import Answer, error_of
from counterfoil.client.errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    OutcomeUnknown,
    UnexpectedAnswer,
)
from counterfoil.client.requests import Ask, Request

T = TypeVar("T")

MAX_RETRIES_DEFAULT: Final = 2
"""Attempts after the first."""

BACKOFF_FIRST_SECONDS: Final = 0.5
"""The wait before the second attempt; doubled for each one after."""

BACKOFF_SECONDS_MAX: Final = 8.0
"""The longest wait that the client chooses by itself."""

RETRY_AFTER_SECONDS_MAX: Final = 30.0
"""The longest ``Retry-After`` that is slept through. A longer one is the caller's to plan
with: the error is raised at once and carries it as ``retry_after_seconds``."""

JITTER: Final = 0.25
"""The part of a wait that is random, so that clients turned away together do not come
back together."""

_STATUSES_RETRIED: Final = frozenset({429, 502, 503, 504})

_STATUSES_JUDGED: Final = frozenset({400, 409, 413, 415, 422, 423})

_PROBLEMS_OF_RULES: Final = frozenset(
    {"payload-mismatch", "event-type-unregistered", "narrowing-change"}
)
"""Of these statuses, but judged by the tenant's rules before the key is looked up: an attempt
before a change of the rules may have been written."""

_PROBLEMS_NOT_WRITTEN: Final = frozenset(
    {"busy", "not-written", "database-unavailable", "read-too-slow"}
)


@dataclass(frozen=True, slots=True)
class Failure:
    """Nobody answered. ``sent``: the request may have arrived all the same."""

    error: APIConnectionError
    sent: bool


Outcome = Answer | Failure


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """The call succeeded."""

    value: T


@dataclass(frozen=True, slots=True)
class Again:
    """Wait, then send the same request once more."""

    after_seconds: float


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how soon. ``chance`` and ``now`` are there for tests to set."""

    max_retries: int = MAX_RETRIES_DEFAULT
    chance: Callable[[], float] = random.random
    now: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        if self.max_retries < 0:
            raise ValueError("`max_retries` is 0 or more.")

    def error_of(self, outcome: Outcome) -> APIError:
        """Return the error that an outcome other than 2xx stands for."""
        if isinstance(outcome, Failure):
            return outcome.error
        return error_of(outcome, self.now())

    def wait_seconds(
        self,
        error: APIError,
        tries: int,
        first_seconds: float = BACKOFF_FIRST_SECONDS,
        seconds_max: float = BACKOFF_SECONDS_MAX,
    ) -> float | None:
        """Return how long to wait after the ``tries``-th try failed with ``error``.

        ``None``: trying again is pointless, or not so soon.
        """
        asked = 0.0
        if isinstance(error, APIStatusError):
            if error.status_code not in _STATUSES_RETRIED:
                return None
            asked = error.retry_after_seconds or 0.0
        elif not isinstance(error, APIConnectionError):
            return None
        if asked > RETRY_AFTER_SECONDS_MAX:
            return None
        doublings = min(tries - 1, 30)  # Beyond, only the bound counts.
        own = min(first_seconds * 2.0**doublings, seconds_max)
        # What was asked for is the least; the client's own waits still grow above it.
        return max(asked * (1 + JITTER * self.chance()), own * (1 - JITTER * self.chance()))


class Call(Generic[T]):
    """The state of one logical call; see the module's theory of operation.

    >>> call = Call(ask, policy)
    >>> while not isinstance(verdict := call.judge(send(ask.request)), Done):
    ...     sleep(verdict.after_seconds)
    >>> verdict.value
    """

    def __init__(self, ask: Ask[T], policy: RetryPolicy) -> None:
        self._ask = ask
        self._policy = policy
        self._attempts = 0
        self._attempts_max = 1 + policy.max_retries
        self._open = False

    @property
    def request(self) -> Request:
        """What each attempt sends."""
        return self._ask.request

    def once_more(self) -> None:
        """Allow one attempt more; what an earlier one left open stays so."""
        self._attempts_max = self._attempts + 1

    def judge(self, outcome: Outcome) -> Done[T] | Again:
        """Judge what came of one attempt.

        Raises:
            APIError: the call is over and did not succeed.
        """
        self._attempts += 1
        result = self._read(outcome)
        if isinstance(result, Done):
            return result
        self._open = self._is_open(outcome, result)
        if self._attempts < self._attempts_max:
            wait = self._policy.wait_seconds(result, self._attempts)
            if wait is not None:
                return Again(wait)
        raise self._final(result)

    def _read(self, outcome: Outcome) -> Done[T] | APIError:
        if not (isinstance(outcome, Answer) and outcome.succeeded):
            return self._policy.error_of(outcome)
        try:
            return Done(self._ask.read(outcome))
        except UnexpectedAnswer as error:
            return error

    def _is_open(self, outcome: Outcome, error: APIError) -> bool:
        if isinstance(outcome, Failure):
            return self._open or outcome.sent
        if outcome.succeeded:  # And yet an error: it cannot be read.
            return True
        problem = error.problem if isinstance(error, APIStatusError) else ""
        if outcome.status >= 500:
            return self._open or problem not in _PROBLEMS_NOT_WRITTEN
        judged = problem and outcome.status in _STATUSES_JUDGED
        return self._open and not (judged and problem not in _PROBLEMS_OF_RULES)

    def _final(self, error: APIError) -> APIError:
        key = self._ask.request.idempotency_key
        if key is None or not self._open:
            return error
        unknown = OutcomeUnknown(str(error), idempotency_key=key, attempts=self._attempts)
        unknown.__cause__ = error
        return unknown
