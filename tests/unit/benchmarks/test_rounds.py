"""Order, disturbance, and what a round keeps."""

import itertools
import os
from collections.abc import Iterator, Mapping

import pytest

from benchmarks.harness import cpu, rounds
from benchmarks.harness.cpu import Process, Usage
from benchmarks.harness.model import BenchmarkError, Cell, Effort
from benchmarks.harness.records import CellRecord
from benchmarks.suites import all_suites


def cells(count: int) -> list[Cell]:
    return [Cell(f"s/{number}", lambda _: {"events_per_second": 1.0}) for number in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 29])
def test_every_round_runs_every_cell_once(count: int) -> None:
    given = cells(count)
    for number in range(1, 8):
        ran = [cell.id for cell in rounds.order(given, number)]
        assert sorted(ran) == sorted(cell.id for cell in given)


@pytest.mark.parametrize("count", [3, 7, 29])
def test_no_cell_is_always_first(count: int) -> None:
    assert len({rounds.order(cells(count), number)[0].id for number in range(1, 6)}) > 1


@pytest.mark.parametrize(
    ("usage", "figures", "said"),
    [
        (Usage(10.0, {"others": 0.5}), {}, None),
        (Usage(10.0, {"others": 0.8}), {}, "other processes used 4%"),
        (Usage(10.0, {"service": 20.0, "kernel": 5.0}), {}, None),
        (Usage(10.0, {}, steal_seconds=0.3), {}, None),
        (Usage(10.0, {}, steal_seconds=1.0), {}, "hypervisor withheld 5%"),
        (Usage(10.0, {}), {"lag_p99_milliseconds": 4.9}, None),
        (Usage(10.0, {}), {"lag_p99_milliseconds": 12.0}, "late by 12 ms"),
    ],
)
def test_disturbance_says_what_it_was(
    usage: Usage, figures: Mapping[str, float], said: str | None
) -> None:
    reasons = rounds.disturbance(usage, figures, cores=2)
    assert (said is None) == (not reasons)
    assert said is None or said in reasons[0]


@pytest.fixture
def kept() -> list[CellRecord]:
    return []


def run(
    given: list[Cell],
    kept: list[CellRecord],
    monkeypatch: pytest.MonkeyPatch,
    others: Iterator[float],
    efforts: Mapping[str, Effort] | None = None,
) -> None:
    """Run one round, or as many as ``efforts`` say, with what others used in each run as given."""
    monkeypatch.setattr(cpu, "snapshot", lambda _: None)
    monkeypatch.setattr(cpu, "usage", lambda *_: Usage(1.0, {"others": next(others)}))
    rounds.run_rounds(
        run="r",
        suite="s",
        cells=given,
        effort=efforts.__getitem__ if efforts else lambda _: Effort(rounds=1, seconds=1.0),
        cores=2,
        before_each=lambda: None,
        keep=kept.append,
        show=lambda *_: None,
    )


def test_disturbed_run_is_made_once_more_at_the_end_of_its_round(
    kept: list[CellRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(cells(3), kept, monkeypatch, iter([1.0, 0.0, 0.0, 0.0]))
    assert [record.cell for record in kept] == ["s/0", "s/1", "s/2", "s/0"]
    assert [bool(record.disturbed) for record in kept] == [True, False, False, False]
    assert [record.repeated for record in kept] == [False, False, False, True]


def test_run_that_is_disturbed_again_is_not_made_a_third_time(
    kept: list[CellRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(cells(1), kept, monkeypatch, iter([1.0, 1.0]))
    assert [bool(record.disturbed) for record in kept] == [True, True]


def test_cell_is_run_as_often_and_as_long_as_its_suite_says(
    kept: list[CellRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [Cell(f"s/{number}", lambda seconds: {"asked": seconds}) for number in range(2)]
    efforts = {"s/0": Effort(rounds=3, seconds=4.0), "s/1": Effort(rounds=1, seconds=1.0)}
    run(given, kept, monkeypatch, itertools.repeat(0.0), efforts)
    assert sorted((record.cell, record.round, record.figures["asked"]) for record in kept) == [
        ("s/0", 1, 4.0),
        ("s/0", 2, 4.0),
        ("s/0", 3, 4.0),
        ("s/1", 1, 1.0),
    ]


@pytest.mark.parametrize(
    ("quick", "most"), [(False, rounds.WHOLE_SECONDS_MAX), (True, rounds.QUICK_SECONDS_MAX)]
)
def test_plan_keeps_within_what_a_run_may_take(quick: bool, most: float) -> None:
    """With a reserve: another machine starts, fills and checks more slowly."""
    assert rounds.planned_seconds(all_suites(), quick=quick) <= 0.96 * most


def test_failed_cell_ends_the_suite_and_leaves_what_was_kept(
    kept: list[CellRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: float) -> Mapping[str, float]:
        raise BenchmarkError("no")

    with pytest.raises(BenchmarkError, match="no"):
        run([*cells(1), Cell("s/fails", fails)], kept, monkeypatch, iter([0.0]))
    assert [record.cell for record in kept] == ["s/0"]


def test_cpu_time_belongs_to_the_nearest_root_above() -> None:
    processes = {
        1: Process(0, 100.0),
        2: Process(0, 3.0),
        30: Process(2, 4.0),  # a thread of the kernel
        500: Process(1, 1.0),  # ourselves
        501: Process(500, 2.0),  # a load generator
        600: Process(500, 5.0),  # the service, which we started
        601: Process(600, 7.0),
        700: Process(1, 11.0),  # somebody else
    }
    totals = cpu.by_role(processes, {"service": [600]}, own=500)
    assert totals == {"service": 12.0, "client": 3.0, "kernel": 7.0, "others": 111.0}


def test_time_of_an_ended_child_stays_with_its_tree() -> None:
    before = cpu.Snapshot(
        0.0, cpu.by_role({5: Process(1, 1.0), 6: Process(5, 4.0)}, {"peer": [5]}, own=9)
    )
    # 6 ended; what it had used, and a tenth more, is now among its parent's children's.
    after = cpu.Snapshot(2.0, cpu.by_role({5: Process(1, 5.1)}, {"peer": [5]}, own=9))
    assert cpu.usage(before, after).cpu_seconds["peer"] == pytest.approx(0.1)


def test_line_of_a_process_with_a_strange_name_is_read_right() -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    numbers = " ".join(["S", "77", *["0"] * 9, "1", "2", "3", "4", "20", "0"])
    assert cpu.parse_stat(f"12 (a ) b (c)) {numbers}") == Process(77, 10 / ticks)
