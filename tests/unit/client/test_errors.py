"""Each refusal becomes its error: typed, explained, and able to cross processes."""

import pickle
from typing import Any

import httpx2
import pytest

import counterfoil
from counterfoil import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BookRestored,
    Busy,
    ConditionFailed,
    ConsumerStarted,
    Counterfoil,
    CounterfoilError,
    DecisionInputsRefused,
    DecisionNotFound,
    DecisionStands,
    FieldError,
    FourEyes,
    Frozen,
    GuardTooLarge,
    IdempotencyMismatch,
    InternalServerError,
    InvalidRequestError,
    LeaseLost,
    NarrowingChange,
    NotDecided,
    NotFoundError,
    OutcomeUnknown,
    PayloadMismatch,
    PermissionDenied,
    PolicyNotActive,
    PolicyNotFound,
    PolicyRefused,
    RateLimited,
    ServiceUnavailable,
    SubjectWithoutEvents,
    UnregisteredType,
    UnsendableValue,
)
from counterfoil.client import control_shapes
from tests.unit.client.doors import Connect
from tests.unit.client.simulated_book import CREATED_AT, Fault, SimulatedBook, problem


def refused(cf: Counterfoil, book: SimulatedBook, answer: httpx2.Response) -> APIStatusError:
    """Have the next read answered so, and return the error that it raises."""
    book.faults.append(Fault(answer))
    with pytest.raises(APIStatusError) as raised:
        cf.events.get(1)
    return raised.value


@pytest.mark.parametrize(
    ("status", "name", "kind"),
    [
        (400, "malformed-document", InvalidRequestError),
        (401, "unauthenticated", AuthenticationError),
        (403, "scope-missing", PermissionDenied),
        (403, "name-not-yours", PermissionDenied),
        (404, "not-found", NotFoundError),
        (404, "key-not-found", NotFoundError),
        (404, "event-type-not-found", NotFoundError),
        (404, "freeze-not-found", NotFoundError),
        (404, "event-not-found", NotFoundError),
        (404, "consumer-not-found", NotFoundError),
        (404, "dead-letter-not-found", NotFoundError),
        (404, "policy-not-found", PolicyNotFound),
        (404, "decision-not-found", DecisionNotFound),
        (404, "subject-without-events", SubjectWithoutEvents),
        (405, "method-not-allowed", APIStatusError),
        (409, "book-restored", BookRestored),
        (409, "narrowing-change", NarrowingChange),
        (409, "tenant-exists", APIStatusError),
        (409, "key-not-active", APIStatusError),
        (409, "lease-lost", LeaseLost),
        (409, "consumer-started", ConsumerStarted),
        (409, "consumer-has-dead-letters", APIStatusError),
        (409, "policy-not-active", PolicyNotActive),
        (409, "four-eyes", FourEyes),
        (409, "decision-stands", DecisionStands),
        (413, "body-too-large", InvalidRequestError),
        (415, "unsupported-media-type", InvalidRequestError),
        (422, "invalid-input", InvalidRequestError),
        (422, "after-above-head", InvalidRequestError),
        (422, "unknown-cause", InvalidRequestError),
        (422, "idempotency-mismatch", IdempotencyMismatch),
        (422, "payload-mismatch", PayloadMismatch),
        (422, "event-type-unregistered", UnregisteredType),
        (422, "policy-refused", PolicyRefused),
        (422, "decision-inputs-refused", DecisionInputsRefused),
        (422, "not-decided", NotDecided),
        (423, "frozen", Frozen),
        (429, "rate-limited", RateLimited),
        (500, "internal-error", InternalServerError),
        (502, "bad-gateway", InternalServerError),
        (503, "busy", Busy),
        (503, "not-written", ServiceUnavailable),
        (503, "database-unavailable", ServiceUnavailable),
        (503, "read-too-slow", ServiceUnavailable),
    ],
)
def test_each_problem_is_its_own_error(
    connect: Connect, book: SimulatedBook, status: int, name: str, kind: type[APIStatusError]
) -> None:
    error = refused(connect(max_retries=0), book, problem(status, name, "The reason."))
    assert type(error) is kind
    assert error.status_code == status
    assert error.type == f"/problems/{name}"
    assert error.problem == name
    assert error.detail == "The reason."
    assert error.request_id == "req_1"
    assert error.headers["content-type"] == "application/problem+json"
    assert str(error).startswith("The reason. ")
    assert f"(HTTP {status} {name}, request req_1)" in str(error)


def test_the_offending_fields_are_named(cf: Counterfoil, book: SimulatedBook) -> None:
    errors = [
        {"pointer": "/payload/amount", "message": "Too many digits.", "in": "body"},
        {"pointer": "/limit", "message": "At most 1000.", "in": "query"},
        {"pointer": "", "message": "Not an object."},
        "nonsense",
    ]
    error = refused(cf, book, problem(422, "invalid-input", "No.", errors=errors))
    assert error.errors == (
        FieldError("/payload/amount", "Too many digits."),
        FieldError("/limit", "At most 1000.", "query"),
        FieldError("", "Not an object."),
    )
    assert "[/payload/amount: Too many digits.] [/limit (query): At most 1000.]" in str(error)


def test_a_message_that_the_detail_has_said_is_not_said_again(
    cf: Counterfoil, book: SimulatedBook
) -> None:
    errors = [
        {"pointer": "/limit", "message": "At most 1000.", "in": "query"},
        {"pointer": "/payload", "message": "Not an object.", "in": "body"},
    ]
    detail = "2 things are wrong. The first: At most 1000."
    error = refused(cf, book, problem(422, "invalid-input", detail, errors=errors))
    assert str(error).startswith(f"{detail} [/limit (query)] [/payload: Not an object.] (HTTP")


def test_a_missing_key_is_told_with_the_way_out(connect: Connect, book: SimulatedBook) -> None:
    book.api_key = "sesame"
    with pytest.raises(AuthenticationError, match="COUNTERFOIL_API_KEY"):
        connect().events.get(1)


def test_a_failed_condition_shows_what_stands_in_the_way(
    cf: Counterfoil, book: SimulatedBook
) -> None:
    book.add(2)
    book.add(event_type="flag", tags=["transaction:tx_1"])
    condition = counterfoil.Condition(counterfoil.QueryItem(types="flag"), after=2)
    with pytest.raises(ConditionFailed) as raised:
        cf.events.append(agent_name="a", event_type="t", payload={}, condition=condition)
    assert raised.value.head == 3
    (conflict,) = raised.value.conflicts
    assert (conflict.id, conflict.event_type, conflict.tags) == (3, "flag", ("transaction:tx_1",))
    assert len(book.received) == 1


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (httpx2.Response(502, text="<html>Bad gateway</html>"), "an error and no reason"),
        (httpx2.Response(403, json=["x"]), "an error and no reason"),
        (httpx2.Response(403, json={"title": 1, "errors": {}}), "an error and no reason"),
        (
            httpx2.Response(403, content=b"{", headers={"Content-Type": "application/json"}),
            "an error and no reason",
        ),
        (httpx2.Response(301, headers={"Location": "https://x.example/"}), "https://x.example/"),
    ],
)
def test_what_is_no_problem_document_is_an_error_all_the_same(
    connect: Connect, book: SimulatedBook, answer: httpx2.Response, text: str
) -> None:
    error = refused(connect(max_retries=0), book, answer)
    assert text in str(error)
    assert error.problem == ""
    assert error.status_code == answer.status_code


def test_a_conflict_that_cannot_be_read_is_still_a_refusal(
    cf: Counterfoil, book: SimulatedBook
) -> None:
    broken = problem(409, "condition-failed", "No.", head=3, conflicts=[{"id": 1}])
    error = refused(cf, book, broken)
    assert error.problem == "condition-failed"


def test_a_missing_scope_is_named(cf: Counterfoil, book: SimulatedBook) -> None:
    error = refused(cf, book, problem(403, "scope-missing", "No.", scope="read:flag_*@customer"))
    assert isinstance(error, PermissionDenied)
    assert (error.scope, error.agent_name) == ("read:flag_*@customer", None)
    assert "It needs a scope such as `read:flag_*@customer`." in str(error)
    told = "It needs read:flag_*@customer."
    again = refused(cf, book, problem(403, "scope-missing", told, scope="read:flag_*@customer"))
    assert str(again).count("read:flag_*@customer") == 1


def test_a_name_that_is_anothers_is_told_with_the_keys_own(
    cf: Counterfoil, book: SimulatedBook
) -> None:
    error = refused(cf, book, problem(403, "name-not-yours", "No.", agent_name="fraud_agent"))
    assert isinstance(error, PermissionDenied)
    assert (error.scope, error.agent_name) == (None, "fraud_agent")


FREEZE: dict[str, Any] = {
    "id": 57,
    "kind": "tag",
    "subject": "customer:c_1",
    "reason": "Account takeover is suspected.",
    "until": None,
    "frozen_at": CREATED_AT,
    "frozen_by": "person:m.ito",
}


def test_what_is_frozen_is_told_with_its_reason(cf: Counterfoil, book: SimulatedBook) -> None:
    error = refused(cf, book, problem(423, "frozen", "It is frozen.", freeze=FREEZE))
    assert isinstance(error, Frozen)
    assert error.freeze is not None
    assert (error.freeze.id, error.freeze.kind, error.freeze.subject, error.freeze.until) == (
        57,
        "tag",
        "customer:c_1",
        None,
    )
    assert error.freeze.reason == "Account takeover is suspected."
    assert error.freeze_id == 57


@pytest.mark.parametrize(("told", "freeze_id"), [(57, 57), (None, None), ({"id": 57}, None)])
def test_a_freeze_that_is_not_described_is_a_refusal_all_the_same(
    cf: Counterfoil, book: SimulatedBook, told: Any, freeze_id: int | None
) -> None:
    error = refused(cf, book, problem(423, "frozen", "It is frozen.", freeze=told))
    assert isinstance(error, Frozen)
    assert (error.freeze_id, error.freeze) == (freeze_id, None)


def test_a_payload_that_does_not_fit_says_which_schema_and_where(
    cf: Counterfoil, book: SimulatedBook
) -> None:
    errors = [{"pointer": "/payload/amount", "message": "Not an integer.", "in": "body"}]
    answer = problem(422, "payload-mismatch", "No.", errors=errors, event_type="payment", version=3)
    error = refused(cf, book, answer)
    assert isinstance(error, PayloadMismatch)
    assert (error.event_type, error.version) == ("payment", 3)
    assert error.errors == (FieldError("/payload/amount", "Not an integer."),)
    # What catches a refused event catches this one too.
    assert issubclass(PayloadMismatch, InvalidRequestError)
    assert issubclass(UnregisteredType, InvalidRequestError)


def test_a_locked_answer_of_something_else_is_no_freeze(
    connect: Connect, book: SimulatedBook
) -> None:
    error = refused(connect(max_retries=0), book, httpx2.Response(423, text="Locked"))
    assert type(error) is APIStatusError


@pytest.mark.parametrize(
    ("raised", "kind", "text"),
    [
        (httpx2.ConnectError("refused"), APIConnectionError, "Is the service running there?"),
        (httpx2.ReadError("reset"), APIConnectionError, "lost before the answer: reset"),
        (httpx2.RemoteProtocolError("cut"), APIConnectionError, "lost before the answer: cut"),
        (httpx2.ReadTimeout(""), APITimeoutError, "in time (ReadTimeout)"),
        (httpx2.ConnectTimeout(""), APITimeoutError, "in time (ConnectTimeout)"),
    ],
)
def test_a_connection_that_fails_is_told_with_its_reason(
    connect: Connect,
    book: SimulatedBook,
    raised: Exception,
    kind: type[CounterfoilError],
    text: str,
) -> None:
    book.faults.append(Fault(raised))
    with pytest.raises(APIConnectionError) as failed:
        connect(max_retries=0).events.get(1)
    assert type(failed.value) is kind
    assert text in str(failed.value)
    assert "http://127.0.0.1:8000" in str(failed.value)
    assert failed.value.__cause__ is raised


def status_arguments() -> dict[str, Any]:
    return {"status_code": 409, "problem_type": "/problems/x", "detail": "No.", "headers": {}}


@pytest.mark.parametrize(
    "error",
    [
        CounterfoilError("plain"),
        UnsendableValue("No.", "/payload"),
        GuardTooLarge(10, 99),
        APITimeoutError("late"),
        OutcomeUnknown("lost.", idempotency_key="k", attempts=3),
        BookRestored(**status_arguments()),
        ConditionFailed(head=3, conflicts=(), **status_arguments()),
        LeaseLost(lost=("token",), **status_arguments()),
        PermissionDenied(scope="manage:keys", **status_arguments()),
        Frozen(freeze_id=57, freeze=control_shapes.freeze(FREEZE), **status_arguments()),
        PayloadMismatch(event_type="payment", version=3, **status_arguments()),
    ],
)
def test_an_error_survives_the_way_to_another_process(error: CounterfoilError) -> None:
    there = pickle.loads(pickle.dumps(error))  # noqa: S301 - its own
    assert type(there) is type(error)
    assert str(there) == str(error)
    assert vars(there) == vars(error)


def test_a_lost_write_is_neither_a_lost_connection_nor_an_answer() -> None:
    # Code that takes a lost connection for "not written" must not catch it by accident.
    assert not issubclass(OutcomeUnknown, APIConnectionError | APIStatusError)
