"""Goals, what bounds those that were missed, and profiles."""

import re
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks.harness.model import GOAL, BenchmarkError
from benchmarks.harness.profiling import Profile, busiest, parse_folded
from benchmarks.harness.records import CellRecord, Record, Results, RunFile, RunRecord, SuiteRecord
from benchmarks.harness.service import parse_groups
from benchmarks.report import bounds, charts, flame, pages, profiles, write
from benchmarks.report.goals import GOALS
from benchmarks.report.series import Measured
from benchmarks.report.tables import suite_tables
from benchmarks.suites import all_suites

OURS = "appends/plain/64-connections/counterfoil-2-workers"
PGBENCH = "appends/plain/64-connections/pgbench"
MACHINE = {"cores": "2"}
FIGURES = {
    "events_per_second": 100.0,
    "requests_per_second": 100.0,
    "p50_milliseconds": 2.0,
    "p99_milliseconds": 90.0,
    "requests_per_group": 8.0,
    "seconds": 9.0,
    "events": 1_000.0,
}


def record(cell: str, **changed: float) -> CellRecord:
    return CellRecord(
        "r",
        cell.partition("/")[0],
        cell,
        1,
        "",
        {**FIGURES, **changed},
        2.0,
        {"service": 3.0, "postgresql": 0.5},
    )


def results(
    *cells: CellRecord, mode: str = "whole", refused: Mapping[str, str] | None = None
) -> Results:
    run = RunRecord("r", mode, "", "bench", "abc", MACHINE, {}, {})
    return Results((run,), cells, dict(refused or {}))


def everything() -> Results:
    """All cells, each with the same figures: every ratio is 1, and each delay is too long."""
    return results(
        *(record(cell) for suite in all_suites() for cell in suite.cell_ids(quick=False))
    )


def verdicts(found: Results) -> dict[str, str]:
    measured = Measured.of(found.cells)
    return {goal.name: goal.line(measured, found)[-1] for goal in GOALS}


def test_goals_have_one_name_each() -> None:
    assert len({goal.name for goal in GOALS}) == len(GOALS)


def test_cells_that_goals_rest_on_get_the_longer_effort() -> None:
    """A check alone and a start are no rates: they have as many rounds, and take their time."""
    for suite in all_suites():
        measured = Measured.of([record(cell) for cell in suite.cell_ids(quick=False)])
        for goal in GOALS:
            found = goal.found(measured)
            for cell in filter(None, [found.cell, found.reference] if found else []):
                effort = suite.effort(cell, quick=False)
                assert effort.rounds >= GOAL.rounds, cell
                if suite.name != "start" and "/checks/" not in cell:
                    assert effort.seconds >= GOAL.seconds, cell


def test_why_a_goal_was_not_measured() -> None:
    name = "64-connections-over-pgbench"
    assert verdicts(results())[name].endswith(f"`{OURS}` is not in this run")
    assert verdicts(results(mode="quick"))[name].endswith("only the whole run does")
    refused = verdicts(results(refused={"appends": "gaps\nat 7"}))[name]
    assert refused.endswith("`appends` was refused (gaps)")
    assert verdicts(results(record(OURS)))[name].endswith(f"`{PGBENCH}` had nothing to run on")


def test_missed_goal_leads_to_what_bounds_it() -> None:
    found = everything()
    page = write.render(found, Measured.of(found.cells), all_suites())
    assert "not measured" not in page
    missed = [name for name, verdict in verdicts(found).items() if "not reached" in verdict]
    assert {"256-connections-over-pgbench", "p99-over-p50", "live-p99"} <= set(missed)
    assert "64-connections-over-pgbench" not in missed
    for name in missed:
        assert f"(#{name})" in page
        assert f'<a id="{name}"></a>' in page
    # Computed: 3 s of the service for a thousand events.
    assert "what stays for each event is the service's own path of\n3,000 µs" in page
    assert "${" not in page


def test_prose_about_every_goal_names_figures_that_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(type(GOALS[0]), "reached", lambda *_: False)
    found = everything()
    text = bounds.bounds(Measured.of(found.cells), cores=2, folder=Path())
    assert all(f'<a id="{goal.name}"></a>' in text for goal in GOALS)


def test_peers_table_says_how_each_is_called() -> None:
    found = everything()
    page = write.render(found, Measured.of(found.cells), all_suites())
    assert "| `umadb` | gRPC" in page


def test_held_snapshot_is_compared_with_the_time_before_it() -> None:
    cell = record(
        "held-snapshot/appends/64-connections",
        before_events_per_second=200.0,
        held_events_per_second=100.0,
        after_events_per_second=190.0,
        held_p99_milliseconds=30.0,
        at_10_s_events_per_second=210.0,
        held_seconds=60.0,
    )
    text = suite_tables(Measured.of([cell]), "held-snapshot", cores=2)
    assert "held for 60.0 s" in text
    assert "| held | 100 | 0.50 |" in text
    assert "| 10 s | 210 |" in text


def test_groups_are_counted_from_the_services_own_metrics() -> None:
    text = (
        "# TYPE counterfoil_group_requests histogram\n"
        'counterfoil_group_requests_bucket{le="1.0"} 3.0\n'
        "counterfoil_group_requests_sum %s\n"
        "counterfoil_group_requests_count %s\n"
    )
    before, after = parse_groups(text % (10, 5)), parse_groups(text % (70, 10))
    assert after.since(before) == {"requests_per_group": 12.0}
    assert before.since(before) == {}
    with pytest.raises(BenchmarkError, match="how large its groups"):
        parse_groups("counterfoil_other 1\n")


STACKS = {"main (a.py);run (counterfoil/b.py)": 60, "main (a.py)": 30, "idle (c.py)": 10}


def profile(stacks: Mapping[str, int]) -> Profile:
    statement = {
        "top_level": True,
        "calls": 2,
        "total_milliseconds": 4.0,
        "mean_milliseconds": 2.0,
        "rows": 2,
        "wal_bytes": 10,
        "query": "select 1 | 2",
    }
    return Profile(
        OURS, "now", 2.0, FIGURES, {"service": 3.0}, {"IO: WalSync": 0.5}, [statement], stacks
    )


def test_flame_graph_is_as_wide_as_its_samples() -> None:
    drawn = flame.draw(STACKS, "a <b>")
    assert drawn == flame.draw(STACKS, "a <b>")
    root = ET.fromstring(drawn)  # noqa: S314 - our own text
    svg = "{http://www.w3.org/2000/svg}"
    shares = {
        str(box.findtext(f"{svg}title")): box.find(f"{svg}rect") for box in root.iter(f"{svg}g")
    }
    assert set(shares) == {
        "main (a.py): 90.0%",
        "run (counterfoil/b.py): 60.0%",
        "idle (c.py): 10.0%",
    }
    box = shares["run (counterfoil/b.py): 60.0%"]
    assert box is not None
    assert float(box.attrib["width"]) == pytest.approx(0.6 * flame.WIDTH, abs=1)
    assert box.attrib["class"] == "ours"
    assert next(iter(flame.own_samples(STACKS))) == "run (counterfoil/b.py)"


def test_bars_begin_behind_their_longest_label() -> None:
    long = "counterfoil-2-workers-done-with-the-next"
    cells = [record(f"consumers/acknowledged/batch-1/1-holder/{name}") for name in ("pgmq", long)]
    chart = charts.of_suite("consumers")[0]
    drawn = charts.draw(chart, Measured.of(cells))
    assert drawn is not None
    root = ET.fromstring(drawn)  # noqa: S314 - our own text
    svg = "{http://www.w3.org/2000/svg}"
    (begin,) = {float(bar.get("x", "0")) for bar in root.iter(f"{svg}rect")}
    assert begin > charts.CHARACTER * len(long)


def test_profile_is_written_and_then_linked(tmp_path: Path) -> None:
    assert not profiles.exists(OURS, tmp_path)
    written = profiles.write(profile(STACKS), commit="abc", folder=tmp_path)
    assert [path.suffix for path in written] == [".md", ".json", ".svg"]
    page = written[0].read_text()
    assert "| service | 1.50 |" in page
    assert r"select 1 \| 2" in page
    assert "(appends-plain-64-connections-counterfoil-2-workers.svg)" in page
    assert profiles.exists(OURS, tmp_path)
    without = profiles.write(profile({}), commit="abc", folder=tmp_path)
    assert [path.suffix for path in without] == [".md", ".json"]


def test_stacks_and_the_busiest_process() -> None:
    assert parse_folded("a;b c (d.py:1) 3\n 4\na;b c (d.py:1) 2\n") == {"a;b c (d.py:1)": 5}
    assert busiest({1: 5.0, 2: 1.0}, {1: 5.1, 2: 2.0, 3: 0.5}) == 2
    assert busiest({}, {}) is None


def test_pages_say_what_the_results_say() -> None:
    """Their blocks are written with RESULTS.md, and never by hand."""
    page = pages.ROOT / "benchmarks" / "RESULTS.md"
    for name, without in pages.WITHOUT_RESULTS.items():
        text = pages.block((pages.ROOT / name).read_text(encoding="utf-8"))
        if page.exists():
            sentence = text[text.index("Of ") : text.index("sharing them.")]
            assert sentence in page.read_text(encoding="utf-8")
        else:
            assert text == without


def test_report_writes_the_results_the_charts_and_the_blocks(tmp_path: Path) -> None:
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    for name in pages.WITHOUT_RESULTS:
        (tmp_path / name).write_text(f"before\n{pages.BEGIN}\nold\n{pages.END}\nafter\n")
    found = everything()
    file = RunFile(tmp_path / "run.jsonl")
    verdict = (SuiteRecord("r", suite.name, "", 1.0) for suite in all_suites())
    lines: list[Record] = [*found.runs, *found.cells, *verdict]
    for line in lines:
        file.write(line)
    written = write.write([file.path], all_suites(), folder)
    assert folder / "RESULTS.md" in written
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    shown = re.findall(r"\((benchmarks/charts/[^)]+)\)", text)
    assert len(shown) == len(pages.SHOWN_CHARTS)
    assert all((tmp_path / chart).is_file() for chart in shown)
    assert f"Of {len(GOALS)} goals, " in text


def test_page_without_a_place_for_results_is_refused() -> None:
    with pytest.raises(BenchmarkError, match="no block"):
        pages.block(f"{pages.END}\n{pages.BEGIN}")
