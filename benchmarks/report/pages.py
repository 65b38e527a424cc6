"""What pages outside of RESULTS.md say of the results: blocks between two marks, written anew.

So that no figure there is typed by hand, and no link leads to what is not there yet.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from benchmarks.harness.model import BenchmarkError
from benchmarks.harness.records import Results, RunRecord
from benchmarks.report import charts
from benchmarks.report.goals import GOALS
from benchmarks.report.series import Measured

ROOT: Final = Path(__file__).parents[2]

BEGIN: Final = "<!-- results: written by tasks.py bench -->"
END: Final = "<!-- end of results -->"

SHOWN_CHARTS: Final = ("appends.svg", "peers.svg", "growth.svg")
"""What README.md shows of the charts."""

WITHOUT_RESULTS: Final[Mapping[str, str]] = {
    "README.md": "There are no figures yet: nobody has run the whole of it.",
    "benchmarks/README.md": "`RESULTS.md` will have the figures of the last whole run.",
}
"""What stands in each page's block as long as there are no results."""


def summary(measured: Measured, run: RunRecord) -> str:
    """How many goals were reached, where, in one sentence."""
    found = [(goal, goal.found(measured)) for goal in GOALS]
    known = [goal.reached(each) for goal, each in found if each is not None]
    unmeasured = len(GOALS) - len(known)
    more = f", and {unmeasured} {'was' if unmeasured == 1 else 'were'} not measured"
    cores, version = run.machine.get("cores", "?"), run.versions.get("postgresql", "")
    return (
        f"Of {len(GOALS)} goals, {sum(known)} were reached and {len(known) - sum(known)} missed"
        f"{more if unmeasured else ''}, on a machine of {cores} processors, generator, service and "
        f"PostgreSQL {version} sharing them."
    )


def write(measured: Measured, results: Results, root: Path = ROOT) -> list[Path]:
    """Write the blocks of all pages; returns the pages.

    Raises BenchmarkError where a page has no place for its block.
    """
    drawn = [
        f"![{chart.title}](benchmarks/charts/{chart.file})"
        for chart in charts.CHARTS
        if chart.file in SHOWN_CHARTS and charts.draw(chart, measured) is not None
    ]
    sentence = summary(measured, results.runs[-1])
    texts = {
        "README.md": "\n\n".join(
            [*drawn, f"{sentence} [The results](benchmarks/RESULTS.md) say what bounds each."]
        ),
        "benchmarks/README.md": f"[RESULTS.md](RESULTS.md) has the figures. {sentence}",
    }
    for name, text in texts.items():
        replace(root / name, text)
    return [root / name for name in texts]


def block(text: str) -> str:
    """What stands between the marks of a page. Raises BenchmarkError without them."""
    found = re.search(f"{re.escape(BEGIN)}\n(.*?)\n{re.escape(END)}", text, flags=re.DOTALL)
    if found is None:
        raise BenchmarkError(f"A page has no block from {BEGIN} to {END}.")
    return found[1].strip()


def replace(page: Path, text: str) -> None:
    """Put a text between the marks of a page."""
    before = page.read_text(encoding="utf-8")
    block(before)
    head, _, rest = before.partition(BEGIN)
    tail = rest.partition(END)[2]
    page.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{tail}", encoding="utf-8")
