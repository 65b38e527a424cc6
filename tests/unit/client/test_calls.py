"""When a call is tried again, and what is known when it ends: the table in ``calls``."""

from typing import Any, Final

import pytest

from counterfoil import (
    APIConnectionError,
    APIError,
    APITimeoutError,
    Busy,
    ConditionFailed,
    CounterfoilError,
    Frozen,
    InvalidRequestError,
    OutcomeUnknown,
    RateLimited,
    ServiceUnavailable,
    Stored,
    UnexpectedAnswer,
)
from counterfoil.client import answers, shapes
from counterfoil.client.answers import Answer
from counterfoil.client.calls import (
    BACKOFF_SECONDS_MAX,
    RETRY_AFTER_SECONDS_MAX,
    Again,
    Call,
    Done,
    Failure,
    Outcome,
    RetryPolicy,
)
from counterfoil.client.requests import Ask, Request
from tests.unit.client.simulated_book import CREATED_AT, problem

WRITE: Final = Request("POST", "/events", body=b"{}", idempotency_key="key-1")
READ: Final = Request("GET", "/events/1")

UNSENT: Final = Failure(APIConnectionError("cannot be reached"), sent=False)
LOST: Final = Failure(APIConnectionError("connection lost"), sent=True)
LATE: Final = Failure(APITimeoutError("no answer in time"), sent=True)


def answer(status: int, name: str = "", **headers: str) -> Answer:
    made = problem(status, name, "Said so.") if name else None
    content_type = {"content-type": "application/problem+json"} if made else {}
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return Answer(status, content_type | named, made.content if made else b"<html>")


def written() -> Answer:
    return Answer(201, {}, f'{{"id": 7, "created_at": "{CREATED_AT}"}}'.encode())


def condition_failed() -> Answer:
    made = problem(409, "condition-failed", "Said so.", head=3, conflicts=[])
    return Answer(409, {"content-type": "application/problem+json"}, made.content)


BUSY = answer(503, "busy", retry_after="1")
NOT_WRITTEN = answer(503, "not-written", retry_after="1")
UNKNOWN = answer(503, "outcome-unknown", retry_after="1")


def call(*outcomes: Outcome, request: Request = WRITE, max_retries: int = 2) -> Any:
    """Run a call through ``outcomes``; return what it brings, or the error that ends it."""
    policy = RetryPolicy(max_retries, chance=lambda: 0.0, now=lambda: 0.0)
    running = Call(Ask(request, answers.stored), policy)
    left = list(outcomes)
    while True:
        try:
            verdict = running.judge(left.pop(0))
        except APIError as error:
            assert left == [], "the call ended before its outcomes"
            return error
        if isinstance(verdict, Done):
            assert left == []
            return verdict.value


def first_wait(outcome: Outcome, tries: int = 1, chance: float = 0.0) -> float | None:
    """Return how long a call waits after ``tries`` such outcomes; ``None``: it ends."""
    policy = RetryPolicy(tries, chance=lambda: chance, now=lambda: 1_000_000.0)
    running = Call(Ask(READ, answers.stored), policy)
    verdict: object = None
    for _ in range(tries):
        try:
            verdict = running.judge(outcome)
        except APIError:
            return None
    assert isinstance(verdict, Again)
    return verdict.after_seconds


@pytest.mark.parametrize(
    "again",
    [UNSENT, LOST, LATE, BUSY, NOT_WRITTEN, UNKNOWN, answer(429), answer(502), answer(504)],
)
def test_a_call_that_nobody_decided_is_tried_again(again: Outcome) -> None:
    assert call(again, again, written()) == Stored(7, shapes.moment(CREATED_AT))


@pytest.mark.parametrize(
    "decided",
    [
        answer(400, "malformed-document"),
        answer(401, "unauthenticated"),
        answer(403, "scope-missing"),
        answer(404, "not-found"),
        answer(423, "frozen"),
        answer(413, "body-too-large"),
        answer(422, "invalid-input"),
        answer(307),
        answer(418),
        condition_failed(),
        answer(500, "internal-error"),
    ],
)
def test_what_was_decided_is_not_asked_again(decided: Answer) -> None:
    assert isinstance(call(decided), CounterfoilError)


def test_there_are_no_more_attempts_than_allowed() -> None:
    assert isinstance(call(UNSENT, max_retries=0), APIConnectionError)
    assert isinstance(call(*[UNSENT] * 6, max_retries=5), APIConnectionError)
    with pytest.raises(ValueError, match="0 or more"):
        RetryPolicy(-1)


# --- What is known of a write when it ends ----------------------------------------------


@pytest.mark.parametrize("open_", [LOST, LATE, UNKNOWN, answer(502), answer(503), answer(504)])
def test_a_write_that_may_have_arrived_ends_unknown_with_its_key(open_: Outcome) -> None:
    error = call(open_, open_, open_)
    assert isinstance(error, OutcomeUnknown)
    assert error.idempotency_key == "key-1"
    assert error.attempts == 3
    assert isinstance(error.__cause__, APIError)
    assert "idempotency_key='key-1'" in str(error)


@pytest.mark.parametrize("other", [answer(500, "internal-error"), Answer(201, {}, b"<html>")])
def test_so_does_one_whose_answer_says_nothing(other: Answer) -> None:
    assert isinstance(call(other), OutcomeUnknown)


@pytest.mark.parametrize(
    ("closed", "kind"),
    [
        (UNSENT, APIConnectionError),
        (BUSY, Busy),
        (NOT_WRITTEN, ServiceUnavailable),
        (answer(429), RateLimited),
    ],
)
def test_a_write_that_certainly_was_not_made_says_what_stopped_it(
    closed: Outcome, kind: type[APIError]
) -> None:
    assert type(call(closed, closed, closed)) is kind


@pytest.mark.parametrize(
    "last",
    [
        UNSENT,
        BUSY,
        answer(429, "rate-limited"),
        answer(401, "unauthenticated"),
        # Between two attempts the key may have lost its scope, or the rules may have changed.
        answer(403, "scope-missing"),
        answer(422, "payload-mismatch"),
        answer(422, "event-type-unregistered"),
        answer(409, "narrowing-change"),
    ],
)
def test_a_later_failure_says_nothing_about_an_earlier_attempt(last: Outcome) -> None:
    error = call(LOST, last, max_retries=1)
    assert isinstance(error, OutcomeUnknown)


@pytest.mark.parametrize(
    ("verdict", "kind"),
    [
        (condition_failed(), ConditionFailed),
        (answer(422, "invalid-input"), InvalidRequestError),
        (answer(423, "frozen"), Frozen),
    ],
)
def test_a_judged_answer_settles_an_earlier_attempt(verdict: Answer, kind: type[APIError]) -> None:
    # The key is looked up before condition and freezes, so what is refused was not written before.
    assert type(call(LOST, verdict)) is kind


@pytest.mark.parametrize("status", [422, 423])
def test_a_proxys_refusal_settles_nothing(status: int) -> None:
    assert isinstance(call(LOST, answer(status)), OutcomeUnknown)


@pytest.mark.parametrize(
    ("last", "kind"),
    [
        (LOST, APIConnectionError),
        (LATE, APITimeoutError),
        (answer(503), ServiceUnavailable),
    ],
)
def test_a_read_is_never_in_doubt(last: Outcome, kind: type[APIError]) -> None:
    assert type(call(last, last, last, request=READ)) is kind


def test_a_read_that_cannot_be_understood_is_not_repeated() -> None:
    assert type(call(Answer(200, {}, b"<html>"), request=READ)) is UnexpectedAnswer


# --- How long it waits ------------------------------------------------------------------


def test_waits_double_up_to_a_bound() -> None:
    waits = [first_wait(UNSENT, tries) for tries in range(1, 8)]
    assert waits == [0.5, 1.0, 2.0, 4.0, BACKOFF_SECONDS_MAX, BACKOFF_SECONDS_MAX, 8.0]
    assert first_wait(UNSENT, tries=5_000) == BACKOFF_SECONDS_MAX


def test_waits_are_shortened_at_random_so_that_clients_do_not_return_together() -> None:
    assert first_wait(UNSENT, chance=1.0) == 0.375
    assert 0.375 < (first_wait(UNSENT, chance=0.5) or 0) < 0.5


def test_retry_after_is_the_least_that_is_waited() -> None:
    assert first_wait(answer(503, retry_after="7")) == 7.0
    assert first_wait(answer(429, retry_after="7"), chance=1.0) == 8.75
    assert first_wait(answer(503, retry_after="0")) == 0.5
    assert first_wait(answer(503, retry_after="1"), tries=3) == 2.0


def test_retry_after_may_be_a_date() -> None:
    at = "Mon, 12 Jan 1970 13:46:50 GMT"  # Ten seconds after the policy's now.
    assert first_wait(answer(503, retry_after=at)) == 10.0
    assert first_wait(answer(503, retry_after="Mon, 12 Jan 1970 13:46:50 -0000")) == 10.0
    past = "Thu, 01 Jan 1970 00:00:00 GMT"
    assert first_wait(answer(503, retry_after=past)) == 0.5


@pytest.mark.parametrize("text", ["soon", "-5", "1.5", "", "²"])
def test_a_retry_after_that_makes_no_sense_is_left_out(text: str) -> None:
    assert first_wait(answer(503, retry_after=text)) == 0.5


def test_a_long_retry_after_is_told_and_not_slept_through() -> None:
    long = str(int(RETRY_AFTER_SECONDS_MAX) + 1)
    assert first_wait(answer(429, retry_after=long)) is None
    error = call(answer(503, "busy", retry_after=long))
    assert isinstance(error, Busy)
    assert error.retry_after_seconds == RETRY_AFTER_SECONDS_MAX + 1
