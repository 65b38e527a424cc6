"""The measurements by cell and round, ready to be compared. Pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Self

from benchmarks.harness.figures import Spread, ratio, spread
from benchmarks.harness.records import CellRecord

RATES: Final = ("events_per_second", "requests_per_second")
"""The figure that a cell is compared by: the first of these that it has."""

REFERENCES: Final[Mapping[str, tuple[str, str]]] = {
    "appends": (r"/[^/]+$", "/pgbench"),
    "conditions": (r"/[^/]+$", "/unconditional"),
    "batches": (r"/[^/]+$", "/copy-into-the-same-tables"),
    "bulk": (r"/import/\d+-events/", "/copy/"),
    "growth": (r"/\d+-events$", "/0-events"),
    "reads": (r"/[^/]+$", "/tutorial"),
    "peers": (r"/[^/]+$", "/counterfoil-2-workers"),
    "live": (r"/appends/\d+-subscribers?/", "/appends/0-subscribers/"),
}
"""By suite: what in a cell's id is replaced to get the id of the one it is compared with."""

AMONG_PEERS: Final = frozenset({"consumers"})
"""Suites whose cells are compared with the fastest of the peers under the same load: which one
that is differs from load to load, and is found by its median."""

OURS: Final = "counterfoil"
"""How the last part of an id begins where the cell is no peer's."""


@dataclass(frozen=True, slots=True)
class CellSeries:
    """All runs of one cell that count: one a round, the undisturbed one where there is one."""

    id: str
    runs: Mapping[int, CellRecord]
    disturbed: int

    @property
    def figures(self) -> list[str]:
        """The names of its figures, in the order in which the cell gave them."""
        names: dict[str, None] = {}
        for record in self.runs.values():
            names |= dict.fromkeys(record.figures)
        return list(names)

    def by_round(self, figure: str) -> dict[int, float]:
        """One figure of each round that has it."""
        return {
            number: record.figures[figure]
            for number, record in self.runs.items()
            if figure in record.figures
        }

    def spread(self, figure: str) -> Spread | None:
        """One figure's median and range; None when no run has it."""
        values = list(self.by_round(figure).values())
        return spread(values) if values else None

    @property
    def rate(self) -> str | None:
        """The name of the figure that it is compared by; None: it has no rate."""
        return next((name for name in RATES if name in self.figures), None)

    def cpu_per_event(self, role: str) -> Spread | None:
        """Microseconds of CPU of a role for one event or request."""
        values = [
            record.cpu_seconds.get(role, 0.0) / record.figures["events"] * 1e6
            for record in self.runs.values()
            if record.figures.get("events")
        ]
        return spread(values) if values else None

    def cores(self, role: str) -> float:
        """How many processors a role kept busy, in the median of the runs."""
        return spread(
            [
                record.cpu_seconds.get(role, 0.0) / record.seconds
                for record in self.runs.values()
                if record.seconds
            ]
            or [0.0]
        ).median


@dataclass(frozen=True, slots=True)
class Measured:
    """Every cell's series, by id, in the order of the first run."""

    cells: Mapping[str, CellSeries]

    @classmethod
    def of(cls, records: Iterable[CellRecord]) -> Self:
        """Sort records by cell and round."""
        found: dict[str, dict[int, list[CellRecord]]] = {}
        for record in records:
            found.setdefault(record.cell, {}).setdefault(record.round, []).append(record)
        return cls(
            {
                cell: CellSeries(
                    cell,
                    {number: _that_counts(tries) for number, tries in sorted(rounds.items())},
                    sum(bool(_that_counts(tries).disturbed) for tries in rounds.values()),
                )
                for cell, rounds in found.items()
            }
        )

    def suite(self, name: str) -> list[CellSeries]:
        """The cells of a suite, by their ids, numbers in them as numbers."""
        mine = [series for cell, series in self.cells.items() if cell.split("/")[0] == name]
        return sorted(mine, key=lambda series: natural(series.id))

    def ratio(self, cell: str, reference: str, figure: str | None = None) -> Spread | None:
        """One cell's figure over another's, round by round; None: there is none."""
        above, below = self.cells.get(cell), self.cells.get(reference)
        name = figure or (above.rate if above else None)
        if above is None or below is None or name is None:
            return None
        return ratio(above.by_round(name), below.by_round(name))

    def to_reference(self, series: CellSeries) -> Spread | None:
        """The ratio to the cell that its suite compares with; None: it is that, or has none."""
        suite = series.id.split("/")[0]
        if suite in AMONG_PEERS:
            reference = self.fastest_peer(series.id.rpartition("/")[0])
        else:
            pattern = REFERENCES.get(suite)
            reference = re.sub(*pattern, series.id) if pattern else None
        if reference is None or reference == series.id:
            return None
        return self.ratio(series.id, reference)

    def fastest_peer(self, load: str) -> str | None:
        """The cell of a load that is not ours and has the highest median rate; None: no peer's."""
        rates = {
            cell: rate.median
            for cell, series in self.cells.items()
            for group, _, subject in [cell.rpartition("/")]
            if group == load and not subject.startswith(OURS)
            if (rate := series.spread(series.rate or ""))
        }
        return max(rates, key=lambda cell: rates[cell]) if rates else None


def natural(text: str) -> list[tuple[int, int, str]]:
    """A key that sorts ``8-clients`` before ``64-clients``."""
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part)
        for part in re.split(r"(\d+)", text)
        if part
    ]


def _that_counts(tries: list[CellRecord]) -> CellRecord:
    """The undisturbed one of a round's tries; the last, if all were disturbed."""
    return next((record for record in tries if not record.disturbed), tries[-1])
