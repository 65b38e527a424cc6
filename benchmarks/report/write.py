"""RESULTS.md and the charts, from the raw lines of one run or several."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Final

from benchmarks.harness.model import BenchmarkError, Suite
from benchmarks.harness.records import RESULTS, Results, RunRecord
from benchmarks.report import charts, pages
from benchmarks.report.bounds import bounds
from benchmarks.report.goals import goals_table
from benchmarks.report.series import Measured
from benchmarks.report.tables import doors_table, suite_tables, table

FOLDER: Final = Path(__file__).parents[1]

TEMPLATE: Final = Path(__file__).parent / "results.md.tmpl"


def newest_whole(folder: Path = RESULTS) -> list[Path]:
    """The file of the newest whole run. Raises BenchmarkError when there is none."""
    found = sorted(folder.glob("*-whole.jsonl"))
    if not found:
        raise BenchmarkError(
            f"There is no whole run in {folder}. Make one (python3 tasks.py bench), or name files: "
            "--report FILE ..."
        )
    return found[-1:]


def write(paths: Sequence[Path], suites: Sequence[Suite], folder: Path = FOLDER) -> list[Path]:
    """Write the report of these runs, of which the last one counts where suites repeat.

    Also the blocks of README.md beside ``folder``, and of the one in it.

    Returns what was written. Raises BenchmarkError when the files hold no valid figures.
    """
    results = Results.read(paths)
    if not results.runs or not results.cells:
        raise BenchmarkError("There are no valid figures to report.")
    measured = Measured.of(results.cells)
    (folder / "charts").mkdir(exist_ok=True)
    written = []
    for chart in charts.CHARTS:
        drawn = charts.draw(chart, measured)
        if drawn is not None:
            path = folder / "charts" / chart.file
            path.write_text(drawn, encoding="utf-8")
            written.append(path)
    page = folder / "RESULTS.md"
    page.write_text(render(results, measured, suites, folder), encoding="utf-8")
    return [page, *written, *pages.write(measured, results, folder.parent)]


def render(
    results: Results, measured: Measured, suites: Sequence[Suite], folder: Path = FOLDER
) -> str:
    """The page of the results; ``folder`` has the profiles that it links."""
    newest = results.runs[-1]
    cores = int(newest.machine.get("cores", "1"))
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        summary=pages.summary(measured, newest),
        goals=goals_table(measured, results),
        bounds=bounds(measured, cores=cores, folder=folder),
        suites="\n\n".join(
            _part(results, measured, suite, cores=cores) for suite in suites
        ).strip(),
        runs=_runs(results.runs),
        machine=_pairs(newest.machine),
        versions=_pairs(newest.versions),
        settings=_pairs(newest.settings),
    )


def _part(results: Results, measured: Measured, suite: Suite, *, cores: int) -> str:
    parts = [f"## {suite.title}"]
    if reason := results.refused.get(suite.name):
        return f"{parts[0]}\n\nRefused, and so without figures: {reason}"
    cells = measured.suite(suite.name)
    if not cells:
        return f"{parts[0]}\n\nNot measured in this run."
    counts = sorted({len(series.runs) for series in cells})
    rounds = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    parts += [
        f"![{chart.title}](charts/{chart.file})"
        for chart in charts.of_suite(suite.name)
        if charts.draw(chart, measured) is not None
    ]
    parts.append(suite_tables(measured, suite.name, cores=cores))
    if suite.doors:
        parts.append(doors_table(suite.doors))
    parts.append(
        f"{rounds} round{'' if rounds == '1' else 's'}. Again: "
        f"`python3 tasks.py bench --only {suite.name}`; one line of it: "
        f"`python3 tasks.py bench --only {cells[0].id}`"
    )
    return "\n\n".join(parts)


def _runs(runs: Sequence[RunRecord]) -> str:
    return table(
        ["run", "command", "commit", "started"],
        [[run.run, f"`{run.command}`", f"`{run.commit}`", run.started_at] for run in runs],
    )


def _pairs(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
