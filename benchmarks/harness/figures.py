"""Figures from measurements: percentiles, medians, ratios. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.harness.model import BenchmarkError


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank percentile of values in ascending order; ``share`` from 0 to 1.

    It is always a value that was measured. Raises BenchmarkError when there is none.
    """
    if not ordered:
        raise BenchmarkError("no measurement to take a percentile of")
    rank = math.ceil(share * len(ordered))
    return ordered[min(max(rank, 1), len(ordered)) - 1]


def latency_figures(milliseconds: Sequence[float]) -> dict[str, float]:
    """The figures of latency that every cell gives, by name."""
    ordered = sorted(milliseconds)
    return {
        "p50_milliseconds": percentile(ordered, 0.5),
        "p99_milliseconds": percentile(ordered, 0.99),
        "p999_milliseconds": percentile(ordered, 0.999),
        "max_milliseconds": percentile(ordered, 1.0),
    }


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle of several measurements, and how far they lie apart."""

    median: float
    minimum: float
    maximum: float
    count: int


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value. Raises BenchmarkError when there is none."""
    if not values:
        raise BenchmarkError("no measurement to take a median of")
    return Spread(median(values), min(values), max(values), len(values))


def ratio(above: Mapping[int, float], below: Mapping[int, float]) -> Spread | None:
    """The ratios of two figures by round, each within its round; None: no common round."""
    ratios = [
        value / below[number] for number, value in above.items() if below.get(number, 0.0) > 0
    ]
    return spread(ratios) if ratios else None
