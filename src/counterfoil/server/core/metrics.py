"""What the service counts about itself, in one place that needs no web code.

The log's writer and the HTTP door both count here; ``api/health.py`` shows it at
``/metrics`` in Prometheus' text form. With several worker processes ``serving.py`` sets
``PROMETHEUS_MULTIPROC_DIR`` before they start, and each then counts into files of that
folder, which are added up when someone asks.

No label ever carries what a caller chose freely (a path, an agent's name): each value
of a label is a time series that stays in memory.
"""

import os
from pathlib import Path
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

MULTIPROCESS_FOLDER_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable by which prometheus_client itself is told to use files."""

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

# A second series for each, with the time at which it was first counted, tells nobody anything.
disable_created_metrics()  # type: ignore[no-untyped-call]  # their types are missing

_registry = CollectorRegistry()

APPENDS = Counter(
    "counterfoil_appends_total",
    "Appends by outcome: stored, replayed, refused, busy, not_written, unknown.",
    ["outcome"],
    registry=_registry,
)
EVENTS_STORED = Counter(
    "counterfoil_events_stored_total",
    "Events that this service wrote; replayed answers are not counted again.",
    registry=_registry,
)
GROUP_REQUESTS = Histogram(
    "counterfoil_group_requests",
    "Appends that shared one call of the stored function.",
    buckets=(1, 2, 4, 8, 16, 32, 64),
    registry=_registry,
)
GROUP_SECONDS = Histogram(
    "counterfoil_group_seconds",
    "From sending a group of appends to its commit.",
    buckets=_SECONDS,
    registry=_registry,
)
QUEUE_REQUESTS = Gauge(
    "counterfoil_queue_requests",
    "Appends that wait for their group to start.",
    registry=_registry,
    multiprocess_mode="livesum",
)
STREAM_SUBSCRIBERS = Gauge(
    "counterfoil_stream_subscribers",
    "Open live streams.",
    registry=_registry,
    multiprocess_mode="livesum",
)
DELIVERIES = Counter(
    "counterfoil_deliveries_total",
    "Deliveries of consumers by what became of them: claim, ack, extend, release, set_aside.",
    ["call"],
    registry=_registry,
)
PARKED_CLAIMS = Gauge(
    "counterfoil_parked_claims",
    "Claims that wait for something to come.",
    registry=_registry,
    multiprocess_mode="livesum",
)
DECISIONS = Counter(
    "counterfoil_decisions_total",
    "Decisions asked for, by what came of it: approve, review, decline (the outcome's kind), "
    "replayed, stands, changed, refused, unavailable.",
    ["result"],
    registry=_registry,
)
DECISION_TRIES = Histogram(
    "counterfoil_decision_tries",
    "How often a decision was read and made anew until it stood.",
    buckets=(1, 2, 3, 5, 10),
    registry=_registry,
)
CLOCK_SKEW_ALARMS = Counter(
    "counterfoil_clock_skew_alarms_total",
    "Groups written while the book's last time lay well ahead of the database's clock.",
    registry=_registry,
)
REQUESTS = Counter(
    "counterfoil_http_requests_total",
    "HTTP answers by method, route template and status.",
    ["method", "route", "status"],
    registry=_registry,
)
REQUEST_SECONDS = Histogram(
    "counterfoil_http_request_seconds",
    "From the arrival of an HTTP request to the start of its answer, by route template.",
    ["route"],
    buckets=_SECONDS,
    registry=_registry,
)


def render() -> bytes:
    """Return every metric in Prometheus' text form, of all workers where there are several."""
    folder = os.environ.get(MULTIPROCESS_FOLDER_VARIABLE)
    if not folder:
        return generate_latest(_registry)
    _forget_ended_workers(Path(folder))
    together = CollectorRegistry()
    MultiProcessCollector(together, folder)  # type: ignore[no-untyped-call]  # their types are missing
    return generate_latest(together)


def _forget_ended_workers(folder: Path) -> None:
    """Drop the gauges of processes that are gone; what they counted stays counted.

    A worker that was killed cannot say goodbye, so whoever is asked looks.
    """
    for file in folder.glob("gauge_live*_*.db"):
        process_id = int(file.stem.rpartition("_")[2])
        try:
            os.kill(process_id, 0)
        except ProcessLookupError:
            mark_process_dead(process_id, str(folder))  # type: ignore[no-untyped-call]  # their types are missing
        except PermissionError:
            pass  # Alive, and somebody else's: the number was given out again.
