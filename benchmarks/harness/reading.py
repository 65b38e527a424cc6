"""Reads under load: rendered requests, sent by wrk, and a look at what is answered."""

import itertools
import json
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlencode, urlsplit

from benchmarks.harness import requests, wrk
from benchmarks.harness.model import BenchmarkError, Stage

WARM_UP_SECONDS: Final = 1

ANSWER_SECONDS_MAX: Final = 60

_numbers = itertools.count()


class Served(Protocol):
    """Where something listens: Counterfoil, or another program that takes the same reads."""

    @property
    def url(self) -> str:
        """The address, without a slash at the end."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """What every call has to bring."""
        ...


def page_path(*, limit: int = 100, newest_first: bool = True, **filters: str) -> str:
    """The path of a page: ``page_path(tag="customer:42")``."""
    order = {"order": "desc"} if newest_first else {}
    return "/events?" + urlencode({**filters, **order, "limit": limit})


def write_requests(stage: Stage, service: Served, paths: Iterable[str]) -> Path:
    """Render a GET of each path into a file for wrk, which sends them in turn."""
    lines = [f"Host: {urlsplit(service.url).netloc}"]
    lines += [f"{name}: {value}" for name, value in service.headers.items()]
    headers = "\r\n".join(lines)
    rendered = [f"GET {path} HTTP/1.1\r\n{headers}\r\n\r\n" for path in paths]
    return requests.write(stage.folder / f"reads-{next(_numbers)}.requests", rendered)


def closed_loop(
    service: Served, file: Path, seconds: float, *, connections: int, warm_up: bool = True
) -> dict[str, float]:
    """Read as fast as so many connections go; returns the cell's figures.

    ``warm_up``: off where what is cold is asked for.
    """

    def drive(duration: int) -> wrk.WrkResult:
        return wrk.run(
            service.url, "requests.lua", [str(file), 0], connections=connections, seconds=duration
        )

    before = drive(WARM_UP_SECONDS).requests if warm_up else 0
    result = drive(round(seconds))
    return {
        "requests_per_second": result.per_second,
        **result.latencies(),
        "errors": 0.0,
        # What the CPU seconds of the run are for; a cold one's are for the chilling too.
        **({"events": float(before + result.requests)} if warm_up else {}),
    }


def events_of(service: Served, path: str) -> list[dict[str, Any]]:
    """What one read shows, to see that a cell measures what it says."""
    request = urllib.request.Request(f"{service.url}{path}", headers=dict(service.headers))  # noqa: S310 - our own service
    with urllib.request.urlopen(request, timeout=ANSWER_SECONDS_MAX) as answer:  # noqa: S310 - the same
        document = json.load(answer)
    if isinstance(document, list):
        return document
    events: list[dict[str, Any]] = document.get("events", [document])
    return events


def must_show(service: Served, path: str, *, at_least: int) -> None:
    """Raise BenchmarkError unless a read shows so many events."""
    if (found := len(events_of(service, path))) < at_least:
        raise BenchmarkError(f"{path} shows {found} events; the measurement needs {at_least}.")
