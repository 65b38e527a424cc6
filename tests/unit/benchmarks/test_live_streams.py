"""What would make a delay lie: an event missed, counted for another, or read in two pieces."""

import pytest

from benchmarks.harness import work
from benchmarks.harness.model import BenchmarkError
from benchmarks.harness.sse import EventParser
from benchmarks.harness.subscribers import Arrivals, Filter, check_complete, delays, mix

INCARNATION = "7c9e6679-7425-40de-944b-e07fc1f90ae7"


def an_event(position: int, payload: str = "{}") -> bytes:
    text = f'{{"id":{position},"payload":{payload}}}'
    return f"data: {text}\nid: {INCARNATION}.{position}\n\n".encode()


STREAM = (
    b"retry: 1000\n\n"
    + f": heartbeat\nid: {INCARNATION}.40\n\n".encode()
    + an_event(41)
    + an_event(42, '{"note":"id: 7.9 data: a.b"}')
)


@pytest.mark.parametrize("size", [1, 7, 64, len(STREAM)])
def test_events_are_found_however_the_stream_is_cut(size: int) -> None:
    parser = EventParser()
    found = [
        position
        for start in range(0, len(STREAM), size)
        for position in parser.feed(STREAM[start : start + size])
    ]
    assert found == [41, 42]
    assert parser.heartbeats == 1


def test_an_event_counts_when_it_is_whole() -> None:
    parser = EventParser()
    assert parser.feed(an_event(41)[:-1]) == []
    assert parser.feed(b"\n") == [41]


@pytest.mark.parametrize("block", [b"data: {}\n\n", b"data: {}\nid: 41\n\n"])
def test_an_event_without_its_id_is_an_error(block: bytes) -> None:
    with pytest.raises(ValueError, match="without an id"):
        EventParser().feed(block)


def test_a_delay_runs_from_the_writers_answer_to_each_subscriber() -> None:
    arrivals = Arrivals(
        positions=[[1, 2], [2]],
        times=[[1_500_000, 9_000_000], [3_000_000]],
        ended=[],
        late=[],
    )
    answered = {1: 1_000_000, 2: 4_000_000}
    assert delays(arrivals, answered) == [0.5, 5.0, -1.0]
    # What was written in the warm-up is in no figure.
    assert delays(arrivals, {2: 4_000_000}) == [5.0, -1.0]


EVENTS = dict(enumerate(work.events(count=200), start=1))
EVERYTHING = Filter("everything")
ONE_TYPE = Filter("type", work.TYPES[0])


def what(filters: list[Filter]) -> list[list[int]]:
    return [[n for n, event in EVENTS.items() if each.matches(event)] for each in filters]


def arrived(positions: list[list[int]], ended: list[int] | None = None) -> Arrivals:
    return Arrivals(positions, [[0] * len(each) for each in positions], ended or [], [])


def test_a_complete_run_passes() -> None:
    filters = [EVERYTHING, ONE_TYPE]
    check_complete(filters, arrived(what(filters)), EVENTS)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda positions: positions.pop(),
        lambda positions: positions.append(positions[-1]),
        lambda positions: positions.reverse(),
        lambda positions: positions.insert(0, 10_000),
    ],
    ids=["missing", "twice", "out of order", "nobody wrote it"],
)
def test_a_run_that_is_not_complete_is_refused(spoil: object) -> None:
    positions = what([EVERYTHING, ONE_TYPE])
    assert callable(spoil)
    spoil(positions[1])
    with pytest.raises(BenchmarkError, match=f"type={work.TYPES[0]}"):
        check_complete([EVERYTHING, ONE_TYPE], arrived(positions), EVENTS)


def test_a_stream_that_was_ended_spoils_the_run() -> None:
    with pytest.raises(BenchmarkError, match="ended"):
        check_complete([EVERYTHING], arrived(what([EVERYTHING]), ended=[0]), EVENTS)


def test_deaf_subscribers_are_left_out_by_their_number() -> None:
    arrivals = arrived([[1], [2], []], ended=[2]).first(2)
    assert (arrivals.positions, arrivals.ended) == ([[1], [2]], [])


def test_the_mix_is_the_one_that_is_said() -> None:
    kinds = [each.kind for each in mix(100)]
    counts = {kind: kinds.count(kind) for kind in ("everything", "type", "agent", "tag")}
    assert counts == {"everything": 2, "type": 3, "agent": 10, "tag": 85}
    assert mix(1) == [EVERYTHING]


def test_filters_ask_for_tags_that_the_work_has() -> None:
    tags = {f"customer:cust_{number:05d}" for number in range(work.CUSTOMERS)}
    assert {each.value for each in mix(1_000) if each.kind == "tag"} <= tags
