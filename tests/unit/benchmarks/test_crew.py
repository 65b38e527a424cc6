"""Clients in processes of their own: what they did is counted, and what they say is heard."""

from collections.abc import Sequence

import pytest

from benchmarks.harness.crew import Client, open_crew
from benchmarks.harness.model import BenchmarkError
from benchmarks.subjects import rendered
from benchmarks.subjects.stored_functions import one_or_array


def open_idle(numbers: Sequence[int]) -> list[Client]:
    """Clients whose store is always done at once."""
    return [lambda _: None for _ in numbers]


def open_refused(numbers: Sequence[int]) -> list[Client]:
    """Clients whose last one fails."""

    def refused(_: int) -> None:
        raise ValueError("the store is full")

    return [*open_idle(numbers[1:]), refused]


def open_nothing(_: Sequence[int]) -> list[Client]:
    raise ValueError("no such store")


def test_all_calls_are_acknowledged_and_only_those_in_time_count() -> None:
    with open_crew(open_idle, clients=3, processes=2) as crew:
        outcome = crew.run(0.05, events=10)
    assert len(crew.pids) == 2
    assert 0 < outcome.calls < outcome.calls_in_all
    assert outcome.acknowledged == outcome.calls_in_all * 10
    assert outcome.figures()["events_per_second"] == outcome.calls * 10 / 0.05


def test_one_failed_call_makes_the_run_worth_nothing() -> None:
    with open_crew(open_refused, clients=2, processes=1) as crew:
        for _ in range(2):  # and the crew is not confused by it
            with pytest.raises(BenchmarkError, match="the store is full"):
                crew.run(0.05, events=1)


def test_clients_that_cannot_be_opened_say_why() -> None:
    with (
        pytest.raises(BenchmarkError, match="no such store"),
        open_crew(open_nothing, clients=1, processes=1),
    ):
        pass


def test_no_two_clients_share_a_transaction() -> None:
    tags = [
        next(events).tags[1]
        for events in (rendered.events(1), rendered.events(11))
        for _ in range(1_001)
    ]
    assert len(set(tags)) == len(tags)
    assert {len(tag) for tag in tags} == {len("transaction:w_000000000")}


def test_several_texts_are_one_array() -> None:
    assert one_or_array(['{"a": 1}']) == '{"a": 1}'
    assert one_or_array(['{"a": "\\n"}', "{}"]) == r'{"{\"a\": \"\\n\"}","{}"}'
