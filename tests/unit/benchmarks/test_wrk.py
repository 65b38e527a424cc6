"""What wrk prints, and what is refused of it."""

import json

import pytest

from benchmarks.harness import requests, wrk
from benchmarks.harness.model import BenchmarkError
from benchmarks.subjects.counterfoil import CONFLICT_LAG, check_conflicts

REQUESTS = 5_000
GOOD = {
    "requests": REQUESTS,
    "microseconds": 2_000_000,
    "connect_errors": 0,
    "read_errors": 0,
    "write_errors": 0,
    "timeouts": 0,
    "refused": 0,
    "p50": 4_000.0,
    "p99": 9_500.0,
    "p999": 12_000.0,
    "max": 20_000.0,
}


def output(**changed: object) -> str:
    return f"Running 2s test\n  1 threads\nresult {json.dumps({**GOOD, **changed})}\n"


def test_units_are_seconds_and_milliseconds() -> None:
    result = wrk.parse(output())
    assert result.per_second == 2_500
    assert result.latencies() == {
        "p50_milliseconds": 4.0,
        "p99_milliseconds": 9.5,
        "p999_milliseconds": 12.0,
        "max_milliseconds": 20.0,
    }


@pytest.mark.parametrize("error", ["connect_errors", "read_errors", "write_errors", "timeouts"])
def test_lost_connections_and_answers_are_never_a_result(error: str) -> None:
    with pytest.raises(BenchmarkError, match=error):
        wrk.parse(output(**{error: 1}), refusals_allowed=True)


def test_refusals_are_no_result_unless_they_are_the_point() -> None:
    with pytest.raises(BenchmarkError, match="7 answers of 5000"):
        wrk.parse(output(refused=7))
    assert wrk.parse(output(refused=7), refusals_allowed=True).refused == 7


@pytest.mark.parametrize("text", ["", "unable to connect\n", output() + output()])
def test_anything_but_one_result_is_refused(text: str) -> None:
    with pytest.raises(BenchmarkError, match="no result"):
        wrk.parse(text)


def test_no_answer_at_all_is_no_result() -> None:
    with pytest.raises(BenchmarkError, match="no answer"):
        wrk.parse(output(requests=0))


def test_counts_of_a_script_are_passed_on() -> None:
    assert wrk.parse(output(stored=3, failed=2)).counts == {"stored": 3, "failed": 2}


def conflicts(*, sent: int, failed: int, strange: int = 0, lost: int = 0) -> wrk.WrkResult:
    stored = REQUESTS - failed - strange - lost
    return wrk.parse(
        output(sent_to_fail=sent, failed=failed, strange=strange, stored=stored),
        refusals_allowed=True,
    )


def test_exactly_the_meant_conflicts_pass() -> None:
    meant = round(0.1 * (5_000 - CONFLICT_LAG * 8))
    check_conflicts(conflicts(sent=meant, failed=meant - 3), connections=8, conflicts=0.1)


@pytest.mark.parametrize(
    ("result", "what"),
    [
        (conflicts(sent=500, failed=501), "meant to"),
        (conflicts(sent=500, failed=480), "meant to"),
        (conflicts(sent=50, failed=50), "are not 10%"),
        (conflicts(sent=500, failed=500, strange=1), "neither"),
        (conflicts(sent=500, failed=500, lost=1), "do not add up"),
    ],
)
def test_other_conflicts_are_refused(result: wrk.WrkResult, what: str) -> None:
    with pytest.raises(BenchmarkError, match=what):
        check_conflicts(result, connections=8, conflicts=0.1)


def test_without_meant_conflicts_one_is_too_many() -> None:
    with pytest.raises(BenchmarkError, match="meant to"):
        check_conflicts(conflicts(sent=0, failed=1), connections=8, conflicts=0.0)


def test_length_of_a_rendered_request_is_right_whatever_its_numbers() -> None:
    rendered = requests.render(
        "/agent-events",
        {
            "tags": [f"transaction:w_{requests.NUMBER}", f"card:{requests.ASKED}"],
            "condition": {"after": requests.head_place()},
        },
        host="h",
        headers={"Idempotency-Key": f"key-{requests.NUMBER}"},
    )
    for number, head in ((1, 0), (123_456_789, 999_999_999_999)):
        head_part, _, body = requests.fill(rendered, number=number, head=head, asked=7).partition(
            b"\r\n\r\n"
        )
        assert f"Content-Length: {len(body)}".encode() in head_part
        assert f"key-{number:09d}".encode() in head_part
        sent = json.loads(body)
        assert sent["condition"]["after"] == head
        assert sent["tags"] == [f"transaction:w_{number:09d}", "card:000000007"]


def test_every_event_of_a_batch_has_a_transaction_of_its_own() -> None:
    bodies = list(requests.numbered_events(200, batch=100))
    sent = [
        requests.fill(body["tags"][1], number=number)
        for number in (1, 2)
        for body in bodies[100 * (number - 1) : 100 * number]
    ]
    assert len({*sent}) == 200
    assert {len(tag) for tag in sent} == {len(sent[0])}
    assert sent[-1] == b"transaction:w_00000000299"
