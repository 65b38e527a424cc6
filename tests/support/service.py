"""Real services: processes of their own on free ports, against a database that is given.

``running_service(url)`` starts one and stops it; start several to have them race::

    with running_service(database.url) as one, running_service(database.url) as other:
        ...

A service that fails to start or to stop shows its log.
"""

import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx2

from tests.support.waiting import WAIT_SECONDS_MAX, wait_for

ROOT: Final = Path(__file__).resolve().parents[2]

_OURS: Final = ("API_KEY", "DATABASE_URL", "COUNTERFOIL_", "PROMETHEUS_")


class Service:
    """One running service. Made by ``start_service``."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self.url = ""
        self._log = log

    @property
    def log(self) -> str:
        """Everything that the service has logged until now."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait_until_listening(self) -> None:
        """Wait until the service takes calls; sets ``url``."""
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(WAIT_SECONDS_MAX):
                raise AssertionError(f"the service does not start:\n{self.log}")
        self.url = self.process.stdout.readline().strip()
        if not self.url:
            raise AssertionError(f"the service ended at its start:\n{self.log}")

    def wait_until_ready(self) -> None:
        """Wait until the service can reach its database too."""
        with httpx2.Client(base_url=self.url) as client:

            def ready() -> bool:
                return client.get("/health/ready").status_code == 200

            try:
                wait_for(ready, "the service to be ready")
            except AssertionError as error:
                raise AssertionError(f"{error}\n{self.log}") from error

    def terminate(self) -> None:
        """Ask for a graceful end (SIGTERM); returns at once."""
        self.process.terminate()

    def kill(self) -> None:
        """End the process, and every worker of it, without warning."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(WAIT_SECONDS_MAX)

    def stop(self) -> int:
        """End it gracefully, and return its exit code."""
        self.terminate()
        try:
            return self.process.wait(WAIT_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the service does not stop:\n{self.log}") from None


def start_service(
    database_url: str,
    log: Path,
    *,
    api_key: str | None = None,
    workers: int = 1,
    port: int = 0,
    environment: Mapping[str, str] | None = None,
) -> Service:
    """Start a service without waiting for it; whoever calls ends it."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    given = {"DATABASE_URL": database_url, **({"API_KEY": api_key} if api_key else {})}
    arguments = ["-m", "tests.support.service_process", "127.0.0.1", str(port), str(workers)]
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**inherited, **given, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # so that kill() takes the workers too
        )
    return Service(process, log)


@contextmanager
def running_service(
    database_url: str,
    *,
    api_key: str | None = None,
    workers: int = 1,
    port: int = 0,
    environment: Mapping[str, str] | None = None,
    wait_until_ready: bool = True,
) -> Iterator[Service]:
    """Run a service while the block does.

    Args:
        database_url: where its book is.
        api_key: the key that it asks for.
        workers: how many processes share its port.
        port: where it listens; 0 is a free one.
        environment: more settings.
        wait_until_ready: whether the database has to be there before the block starts.
    """
    with tempfile.TemporaryDirectory(prefix="counterfoil-service-") as folder:
        service = start_service(
            database_url,
            Path(folder) / "log",
            api_key=api_key,
            workers=workers,
            port=port,
            environment=environment,
        )
        try:
            service.wait_until_listening()
            if wait_until_ready:
                service.wait_until_ready()
            yield service
        finally:
            if service.process.poll() is None:
                service.stop()
            assert service.process.stdout is not None
            service.process.stdout.close()
