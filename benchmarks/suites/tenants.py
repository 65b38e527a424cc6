"""Tenants beside each other: what one that floods costs its neighbour, and what keys cost."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.harness import openloop, requests, work, wrk
from benchmarks.harness.model import GOAL, Cell, Effort, Stage
from benchmarks.subjects import counterfoil
from benchmarks.subjects.counterfoil import CounterfoilSubject

WORKERS: Final = 2

NEIGHBOUR_RATE: Final = 50.0
"""Appends a second of the neighbour, at a constant rate: far below what it may have."""

NEIGHBOUR_CONNECTIONS: Final = 4

FLOOD_CONNECTIONS: Final = 64

UNBOUNDED: Final = {"rate_per_second": 100_000, "rate_burst": 1_000_000}
"""A key that nothing bounds: what a check of it costs, and nothing else, is then measured."""

ALONE: Final = "tenants/neighbour/alone"
BESIDE: Final = "tenants/neighbour/beside-a-flood"
BOOTSTRAP: Final = "tenants/appends/bootstrap-key"
KEY: Final = "tenants/appends/agents-key"
SCHEMA: Final = "tenants/appends/agents-key-and-schema"


class Tenants:
    """One service, and tenants of it that know nothing of each other.

    The neighbour appends at a constant rate, with a key of its own, alone and while 64 connections
    of another tenant append as fast as they can, with a key as keys are made. Then the same appends with the bootstrap key, with an
    agent's key, and with one whose event types have a schema of all its fields.
    """

    name: Final = "tenants"
    title: Final = "Tenants beside each other"
    doors: Final[Mapping[str, str]] = {}

    def cell_ids(self, *, quick: bool) -> Sequence[str]:
        """The neighbour's latency, then what keys and schemas cost; none in the short run."""
        return [] if quick else [ALONE, BESIDE, BOOTSTRAP, KEY, SCHEMA]

    def effort(self, cell_id: str, *, quick: bool) -> Effort:  # noqa: ARG002 - one for both
        """More rounds for latencies, which are what noise falls on first."""
        return Effort(3 if "/neighbour/" in cell_id else 1, 3.0, GOAL.around_seconds)

    def opening_seconds(self, *, quick: bool) -> float:
        """A service, tenants and keys, and a book to check."""
        return 0 if quick else 6

    @contextmanager
    def open(self, stage: Stage) -> Iterator[Sequence[Cell]]:
        """One service for all: what is compared differs in keys and load only."""
        wanted = [cell for cell in self.cell_ids(quick=stage.quick) if stage.wants(cell)]
        with counterfoil.opened(stage, "tenants", workers=WORKERS) as subject:
            runs = _runs(subject, stage.folder)
            yield [Cell(cell, runs[cell], subject.roles) for cell in wanted]


def _runs(
    subject: CounterfoilSubject, folder: Path
) -> Mapping[str, Callable[[float], Mapping[str, float]]]:
    neighbour = _Tenant(subject, "neighbour")
    quiet = neighbour.key("neighbour")
    flooder = _Tenant(subject, "flooder")
    bounded = _file(subject, folder / "flood", flooder.key("flooder"), "flooder")
    writer = _Tenant(subject, "writer")
    plain = _file(subject, folder / "plain", writer.key("plain", **UNBOUNDED), "plain")
    checked = _Tenant(subject, "checked")
    for event_type in work.TYPES:
        checked.call("PUT", f"/event-types/{event_type}", {"schema": _schema()})
    schema = _file(subject, folder / "schema", checked.key("checked", **UNBOUNDED), "checked")
    return {
        ALONE: partial(_neighbour, subject, quiet, None),
        BESIDE: partial(_neighbour, subject, quiet, bounded),
        BOOTSTRAP: partial(
            subject.closed_loop, subject.write_requests(), connections=FLOOD_CONNECTIONS
        ),
        KEY: partial(_appends, subject, plain),
        SCHEMA: partial(_appends, subject, schema),
    }


class _Tenant:
    """A tenant of the service, managed by its admin."""

    def __init__(self, subject: CounterfoilSubject, name: str) -> None:
        self._subject = subject
        made = subject.service.call("POST", "/tenants", {"name": name})
        # That it was made is an event of the operator's book.
        subject.book.add(acknowledged=1)
        self._headers = {"Authorization": f"Bearer {made['key']['key']}"}

    def call(self, method: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Make a call as the tenant's admin."""
        return self._subject.service.call(method, path, body, self._headers)

    def key(self, name: str, **rate: int) -> str:
        """Make a key of an agent; its text."""
        text: str = self.call("POST", "/keys", {"kind": "agent", "name": name, **rate})["key"]
        return text


def _rendered(subject: CounterfoilSubject, key: str, agent: str, count: int) -> Iterator[str]:
    host = f"{subject.service.host}:{subject.service.port}"
    headers = {"Authorization": f"Bearer {key}"}
    for event in requests.numbered_events(count):
        yield requests.render(
            "/agent-events", {**event, "agent_name": agent}, host=host, headers=headers
        )


def _file(subject: CounterfoilSubject, path: Path, key: str, agent: str) -> Path:
    return requests.write(path, _rendered(subject, key, agent, 1_000))


def _schema() -> dict[str, Any]:
    """Every field of the work's payload, with its type."""
    (event,) = work.events(count=1)
    types = {str: "string", int: "integer", bool: "boolean", float: "number"}
    payload = event.payload
    properties = {
        name: {"type": types.get(type(value), "object")} for name, value in payload.items()
    }
    return {"type": "object", "properties": properties, "required": sorted(payload)}


def _neighbour(
    subject: CounterfoilSubject, key: str, flood: Path | None, seconds: float
) -> dict[str, float]:
    rendered = list(_rendered(subject, key, "neighbour", 200))
    first = subject.take_numbers(round((seconds + 3) * NEIGHBOUR_RATE) + 1)
    flooded: list[wrk.WrkResult] = []
    flooding = threading.Thread(
        target=lambda: flooded.append(_drive(subject, flood, round(seconds) + 2)) if flood else None
    )
    flooding.start()
    result = openloop.run(
        subject.service.host,
        subject.service.port,
        lambda number: requests.fill(rendered[number % len(rendered)], number=first + number + 1),
        connections=NEIGHBOUR_CONNECTIONS,
        rate=NEIGHBOUR_RATE,
        seconds=seconds,
        warm_up_seconds=1.0,
    )
    flooding.join()
    figures = result.figures()
    if flooded:
        figures["flood_requests_per_second"] = flooded[0].per_second
        figures["flood_refused_percent"] = 100 * flooded[0].refused / flooded[0].requests
    return figures


def _drive(subject: CounterfoilSubject, file: Path, seconds: int) -> wrk.WrkResult:
    return wrk.run(
        subject.service.url,
        "requests.lua",
        [str(file), subject.take_numbers((seconds + 1) * counterfoil.NUMBERS_PER_SECOND)],
        connections=FLOOD_CONNECTIONS,
        seconds=seconds,
        refusals_allowed=True,
    )


def _appends(subject: CounterfoilSubject, file: Path, seconds: float) -> dict[str, float]:
    _drive(subject, file, counterfoil.WARM_UP_SECONDS)
    result = _drive(subject, file, round(seconds))
    return {
        "events_per_second": result.per_second,
        **result.latencies(),
        "errors": float(result.refused),
        "events": float(result.requests),
    }
