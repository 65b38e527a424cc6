"""Raw lines, and what is made of them."""

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks.cli import wanted
from benchmarks.harness.figures import Spread, latency_figures, percentile, ratio, spread
from benchmarks.harness.model import BenchmarkError
from benchmarks.harness.records import (
    CellRecord,
    Record,
    Results,
    RunFile,
    RunRecord,
    SuiteRecord,
    from_line,
    to_line,
)
from benchmarks.report import charts
from benchmarks.report.goals import GOALS
from benchmarks.report.series import Measured, natural
from benchmarks.report.tables import number, shown, suite_tables
from benchmarks.subjects.plain_postgresql import figures, read_log
from benchmarks.suites import all_suites
from benchmarks.suites.limits import parse_fsync

RUN = RunRecord("r1", "whole", "2026-01-01T00:00:00+00:00", "bench", "abc", {}, {}, {})
OURS = "appends/plain/64-connections/counterfoil-2-workers"
PGBENCH = "appends/plain/64-connections/pgbench"


def cell(
    name: str = OURS,
    rate: float = 1.0,
    *,
    turn: int = 1,
    disturbed: Sequence[str] = (),
    repeated: bool = False,
) -> CellRecord:
    return CellRecord(
        run="r1",
        suite=name.partition("/")[0],
        cell=name,
        round=turn,
        at="2026-01-01T00:00:00+00:00",
        figures={"events_per_second": rate, "p50_milliseconds": 2.0, "events": 100.0},
        seconds=2.0,
        cpu_seconds={"service": 3.0, "postgresql": 0.5},
        disturbed=list(disturbed),
        repeated=repeated,
    )


def verdict(refused: str | None = None) -> SuiteRecord:
    return SuiteRecord("r1", "appends", "2026-01-01T00:00:00+00:00", 1.0, refused)


def results(folder: Path, *runs: Sequence[Record]) -> Results:
    paths = []
    for index, records in enumerate(runs):
        file = RunFile(folder / f"{index}.jsonl")
        for record in records:
            file.write(record)
        paths.append(file.path)
    return Results.read(paths)


@pytest.mark.parametrize("record", [RUN, cell(disturbed=["é: others"]), verdict("no")])
def test_record_survives_its_line(record: Record) -> None:
    line = to_line(record)
    assert "\n" not in line
    assert from_line(line) == record


@pytest.mark.parametrize("line", ["", "{}", "[1]", '{"kind": "cell"}', '{"kind": "other"}'])
def test_other_lines_are_refused(line: str) -> None:
    with pytest.raises(BenchmarkError, match="Not a line"):
        from_line(line)


def test_figure_that_is_no_number_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_line(cell(rate=float("nan")))


def test_suite_without_a_verdict_has_no_figures(tmp_path: Path) -> None:
    read = results(tmp_path, [RUN, cell()])
    assert read.cells == ()
    assert "broken off" in read.refused["appends"]


def test_refused_suite_has_no_figures(tmp_path: Path) -> None:
    read = results(tmp_path, [RUN, cell(), verdict("the book is not whole")])
    assert read.cells == ()
    assert read.refused == {"appends": "the book is not whole"}


def test_later_run_replaces_the_cells_that_it_has(tmp_path: Path) -> None:
    earlier: list[Record] = [RUN, cell(rate=1.0), cell(rate=1.5, turn=2), cell(PGBENCH), verdict()]
    later: list[Record] = [RUN, cell(rate=2.0), verdict()]
    read = results(tmp_path, earlier, later)
    assert [(record.cell, record.round) for record in read.cells] == [(OURS, 1), (PGBENCH, 1)]
    assert read.cells[0].figures["events_per_second"] == 2.0
    assert results(tmp_path, later, [RUN, cell(), verdict("no")]).cells == ()


def test_undisturbed_repetition_counts_instead_of_the_disturbed_run() -> None:
    measured = Measured.of(
        [
            cell(rate=10.0, disturbed=["others"]),
            cell(rate=30.0, repeated=True),
            cell(rate=50.0, turn=2, disturbed=["others"]),
            cell(rate=70.0, turn=2, disturbed=["others"], repeated=True),
        ]
    )
    assert measured.cells[OURS].by_round("events_per_second") == {1: 30.0, 2: 70.0}
    assert measured.cells[OURS].disturbed == 1


def test_ratio_is_taken_within_rounds() -> None:
    """The machine was twice as fast in the second round; that is nobody's merit."""
    measured = Measured.of(
        [
            cell(OURS, 80.0),
            cell(PGBENCH, 100.0),
            cell(PGBENCH, 200.0, turn=2),
            cell(OURS, 160.0, turn=2),
            cell(OURS, 999.0, turn=3),  # the other was not run in this round
        ]
    )
    assert measured.ratio(OURS, PGBENCH) == Spread(0.8, 0.8, 0.8, 2)
    assert measured.to_reference(measured.cells[OURS]) == Spread(0.8, 0.8, 0.8, 2)
    assert measured.to_reference(measured.cells[PGBENCH]) is None


def test_ratio_without_a_common_round_is_none() -> None:
    assert ratio({1: 1.0}, {2: 1.0}) is None
    assert ratio({1: 1.0}, {1: 0.0}) is None


def test_median_and_range() -> None:
    assert spread([3.0, 1.0, 100.0]) == Spread(3.0, 1.0, 100.0, 3)
    assert spread([4.0, 2.0]) == Spread(3.0, 2.0, 4.0, 2)
    with pytest.raises(BenchmarkError):
        spread([])


@pytest.mark.parametrize(
    ("share", "value"), [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (0.999, 100.0), (1.0, 100.0)]
)
def test_percentile_is_the_nearest_rank(share: float, value: float) -> None:
    assert percentile([float(number) for number in range(1, 101)], share) == value


def test_percentiles_do_not_need_an_order() -> None:
    assert latency_figures([3.0, 1.0, 2.0])["p50_milliseconds"] == 2.0
    with pytest.raises(BenchmarkError):
        latency_figures([])


def test_goal_is_held_against_the_median() -> None:
    goal = GOALS[0]
    reached = Measured.of([cell(OURS, 101.0), cell(PGBENCH, 100.0)])
    missed = Measured.of([cell(OURS, 99.0), cell(PGBENCH, 100.0)])
    assert goal.line(reached)[-1] == "reached"
    assert goal.line(missed)[-1].startswith("**not reached**")
    assert goal.line(Measured.of([]))[-1] == "not measured"


def test_every_cell_that_a_goal_names_exists() -> None:
    """A goal about a cell that was renamed would say `not measured` for ever."""
    everything = Measured.of(
        [
            CellRecord(
                "r",
                suite.name,
                name,
                1,
                "",
                {
                    "events_per_second": 1.0,
                    "requests_per_second": 1.0,
                    "p50_milliseconds": 1.0,
                    "p99_milliseconds": 1.0,
                    "seconds": 1.0,
                },
                1.0,
                {},
            )
            for suite in all_suites()
            for name in suite.cell_ids(quick=False)
        ]
    )
    known = {suite.name for suite in all_suites()}
    assert known >= {"appends", "conditions", "batches", "limits"}
    assert [goal.what for goal in GOALS if goal.found(everything) is None] == []


def test_cells_have_one_id_each_and_begin_with_their_suite() -> None:
    ids = [(suite, name) for suite in all_suites() for name in suite.cell_ids(quick=False)]
    assert len({name for _, name in ids}) == len(ids)
    assert all(name.startswith(f"{suite.name}/") for suite, name in ids)


@pytest.mark.parametrize(
    ("pattern", "is_wanted"),
    [
        (OURS, True),
        ("appends", True),
        ("appends/plain/", True),
        ("append", False),
        ("*/64-connections/*", True),
        ("appends/keyed", False),
    ],
)
def test_only_takes_patterns_and_beginnings(pattern: str, is_wanted: bool) -> None:
    assert wanted(OURS, [pattern]) is is_wanted
    assert wanted(OURS, [])


def test_tables_say_which_runs_were_disturbed() -> None:
    text = suite_tables(Measured.of([cell(disturbed=["others"]), cell(turn=2)]), "appends", cores=2)
    assert "1 of 2 runs" in text
    assert "processors, most by service" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12_345.6, "12,300"),
        (987.6, "988"),
        (12.34, "12.3"),
        (0.456, "0.46"),
        (1_234_567.0, "1,230,000"),
    ],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_range_is_shown_where_there_is_one() -> None:
    assert shown(Spread(2.0, 1.0, 3.0, 3), " ×") == "2.00 × (1.00 … 3.00)"
    assert shown(Spread(2.0, 2.0, 2.0, 1)) == "2.00"


def test_numbers_in_ids_sort_as_numbers() -> None:
    assert sorted(["64-c", "8-c", "a/10", "a/9"], key=natural) == ["8-c", "64-c", "a/9", "a/10"]


def test_chart_is_the_same_twice_and_well_formed() -> None:
    measured = Measured.of([cell(OURS, 2.0), cell(PGBENCH, 4.0)])
    drawn = charts.draw(charts.CHARTS[0], measured)
    assert drawn is not None
    assert drawn == charts.draw(charts.CHARTS[0], measured)
    root = ET.fromstring(drawn)  # noqa: S314 - our own text
    widths = [float(bar.attrib["width"]) for bar in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert widths[1] == pytest.approx(2 * widths[0], rel=0.01)
    assert charts.draw(charts.CHARTS[0], Measured.of([])) is None


def test_pgbench_counts_what_ended_after_the_warm_up() -> None:
    lines = [
        "0 1 900000 0 100 0",  # the warm-up: filling caches takes most of a second
        "0 2 2000 0 101 0",
        "1 1 4000 0 101 500000",
        "0 3 6000 0 103 0",
    ]
    found = figures(sorted(read_log("\n".join(lines))), rows=10, warm_up=1)
    assert found["events_per_second"] == pytest.approx(3 * 10 / 2.0)
    assert found["p50_milliseconds"] == 4.0
    assert found["max_milliseconds"] == 6.0
    assert found["events"] == 40


def test_failed_transaction_of_pgbench_is_no_result() -> None:
    with pytest.raises(BenchmarkError, match="failed"):
        list(read_log("0 1 failed 0 100 0"))


def test_flushes_are_read_from_the_right_line() -> None:
    assert parse_fsync("        fdatasync      1234.567 ops/sec     810 usecs/op") == 1234.567
    assert parse_fsync("        open_datasync  99.1 ops/sec  10 usecs/op") is None
    assert parse_fsync("        fdatasync      n/a") is None
