"""Counterfoil as it is deployed: ``counterfoil serve``, a process of its own, on a free port."""

import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from benchmarks.harness.model import BenchmarkError

API_KEY: Final = "benchmark"  # the service asks for one, as it does in production

START_SECONDS_MAX: Final = 60.0
STOP_SECONDS_MAX: Final = 60.0
CALL_SECONDS_MAX: Final = 10.0
POLL_SECONDS: Final = 0.05

_READY = re.compile(r"http://(?P<host>[\d.]+):(?P<port>\d+)")

_OURS: Final = ("API_KEY", "DATABASE_URL", "COUNTERFOIL_", "PROMETHEUS_")
"""Variables that would change the service; what the caller's shell says must not."""


@dataclass(frozen=True, slots=True)
class Groups:
    """Appends that the service wrote, and in how many groups: one transaction each."""

    requests: float
    groups: float

    def since(self, before: Self) -> dict[str, float]:
        """How large the groups were since then, as a figure; nothing when there was none."""
        groups = self.groups - before.groups
        return {"requests_per_group": (self.requests - before.requests) / groups} if groups else {}


def parse_groups(text: str) -> Groups:
    """Read the service's metrics, in Prometheus' text form.

    Raises BenchmarkError where they do not tell of groups.
    """
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    try:
        return Groups(
            requests=float(values["counterfoil_group_requests_sum"]),
            groups=float(values["counterfoil_group_requests_count"]),
        )
    except (KeyError, ValueError) as error:
        raise BenchmarkError(
            "The service's metrics do not tell how large its groups are."
        ) from error


class RunningService:
    """One service that runs. Made by ``running_service``."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log
        self.host = ""
        self.port = 0

    @property
    def pid(self) -> int:
        """The root of the service's processes. Raises BenchmarkError when it has ended."""
        if self._process.poll() is not None:
            raise BenchmarkError(f"The service ended during the run. It says:\n{self.said()}")
        return self._process.pid

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        return f"http://{self.host}:{self.port}"

    @property
    def headers(self) -> Mapping[str, str]:
        """What every call has to bring."""
        return {"Authorization": f"Bearer {API_KEY}"}

    def said(self) -> str:
        """The end of the service's log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])

    def wait_until_ready(self) -> None:
        """Wait until it takes calls and reaches its database. Raises BenchmarkError."""
        deadline = time.monotonic() + START_SECONDS_MAX
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            heard = selector.select(START_SECONDS_MAX)
        found = _READY.search(self._process.stdout.readline()) if heard else None
        if found is None:
            raise BenchmarkError(f"The service does not start. It says:\n{self.said()}")
        self.host, self.port = found["host"], int(found["port"])
        while not self._is_ready():
            if time.monotonic() > deadline:
                raise BenchmarkError(f"The service does not get ready. It says:\n{self.said()}")
            time.sleep(POLL_SECONDS)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health/ready", timeout=5):  # noqa: S310 - our own service
                return True
        except urllib.error.HTTPError as error:
            error.close()
            return False

    def groups(self) -> Groups:
        """What all its workers have counted since they started."""
        request = urllib.request.Request(f"{self.url}/metrics", headers=dict(self.headers))  # noqa: S310 - our own service
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - the same
            return parse_groups(answer.read().decode())

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Make one call, by default with the service's own key; returns the answer's object.

        Raises BenchmarkError, with what the service says, for a refusal.
        """
        request = urllib.request.Request(  # noqa: S310 - our own service
            f"{self.url}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={**(headers or self.headers), "Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=CALL_SECONDS_MAX) as answer:  # noqa: S310 - the same
                made: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                said = error.read().decode(errors="replace")
            raise BenchmarkError(f"{method} {path} was answered {error.code}: {said}") from error
        return made

    def stop(self) -> None:
        """End it in order; by force, with all its workers, where that takes too long."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait(STOP_SECONDS_MAX)
        if self._process.stdout is not None:
            self._process.stdout.close()


@contextmanager
def running_service(
    database_url: str,
    folder: Path,
    *,
    workers: int = 1,
    environment: Mapping[str, str] | None = None,
) -> Iterator[RunningService]:
    """Run ``counterfoil serve`` while the block does.

    Args:
        database_url: a migrated database.
        folder: where its log goes.
        workers: its processes.
        environment: settings other than the defaults; production's defaults are measured.

    Raises:
        BenchmarkError: it does not start.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    given = {"DATABASE_URL": database_url, "API_KEY": API_KEY, **(environment or {})}
    command = [sys.executable, "-m", "counterfoil.cli", "serve"]
    command += ["--host", "127.0.0.1", "--port", "0", "--workers", str(workers)]
    log = folder / f"service-{time.monotonic_ns()}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            command,
            env={**inherited, **given},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            # Ctrl-C is ours to answer: the service is stopped when the cell is done with it.
            start_new_session=True,
        )
    service = RunningService(process, log)
    try:
        service.wait_until_ready()
        yield service
    finally:
        service.stop()
