"""A service for the demo alone: ``counterfoil dev`` on a free port, as a process of its own.

It has a book of its own, in a temporary folder or in the one that is named, and never that
of a DATABASE_URL that happens to be set: nobody expects a demo to write into their book. A
key is made for it, so that nobody else on the machine takes part either.
"""

import contextlib
import os
import secrets
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Final

from rich.text import Text

from counterfoil.cli import arguments
from counterfoil.cli.exits import ExitCode, Failure
from counterfoil.cli.output import remark, remarks
from counterfoil.cli.service import server_library

START_SECONDS_MAX: Final = 120.0
"""How long the service may take to be ready; the first start makes a cluster, in seconds."""

STOP_SECONDS_MAX: Final = 30.0
"""How long it may take to stop in order, before it is killed."""

_LAST_LINES = 20


@contextlib.contextmanager
def a_service(
    base_url: str | None, api_key: str | None, data_dir: Path | None
) -> Iterator[Mapping[str, str]]:
    """The service that is named, or one of the demo's own; yields a client's environment."""
    if base_url is not None:
        yield {arguments.BASE_URL_VARIABLE: base_url, arguments.API_KEY_VARIABLE: api_key or ""}
        return
    with server_library():
        pass  # Says how to install it, before anything is started.
    status = remarks().status(Text("Starting PostgreSQL and the service …"))
    status.start()
    try:
        with own_service(data_dir) as environment:
            status.stop()
            try:
                yield environment
            except KeyboardInterrupt:
                remark("Interrupted; stopping the service …")
                raise
    finally:
        status.stop()


@contextlib.contextmanager
def own_service(data_dir: Path | None) -> Iterator[Mapping[str, str]]:
    """Run a service while the block runs; yields the environment that a client needs.

    ``data_dir`` keeps the book; without it, it is gone afterwards.

    Raises:
        Failure: it did not start; the message holds its last lines.
    """
    with contextlib.ExitStack() as cleanup:
        if data_dir is None:
            data_dir = cleanup.enter_context(_temporary_folder()) / "book"
        log = cleanup.enter_context(tempfile.TemporaryFile())
        key = secrets.token_urlsafe(32)
        environment = {**os.environ, "API_KEY": key, "PYTHONUNBUFFERED": "1"}
        environment.pop("DATABASE_URL", None)
        service = subprocess.Popen(
            [
                *(sys.executable, "-m", "counterfoil.cli", "dev", "--until-stdin-closes"),
                *("--port", "0", "--data-dir", str(data_dir)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
        cleanup.callback(_stop, service)
        yield {
            arguments.BASE_URL_VARIABLE: _address(service, log),
            arguments.API_KEY_VARIABLE: key,
        }


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="counterfoil-demo-") as name:
        folder = Path(name)
        if os.geteuid() == 0:
            # Root's PostgreSQL runs as another user, who has to pass through.
            folder.chmod(0o711)
        yield folder


def _address(service: subprocess.Popen[bytes], log: IO[bytes]) -> str:
    """Wait for the one line that says where the service is."""
    line = b""
    if service.stdout is not None:
        ready, _, _ = select.select([service.stdout], [], [], START_SECONDS_MAX)
        line = service.stdout.readline() if ready else b""
    address = line.decode().rpartition(" ")[2].strip()
    if address.startswith("http"):
        return address
    log.seek(0)
    said = b"".join(log.readlines()[-_LAST_LINES:]).decode(errors="replace").strip()
    raise Failure(f"The demo's service did not start. It said:\n{said}", ExitCode.UNAVAILABLE)


def _stop(service: subprocess.Popen[bytes]) -> None:
    for pipe in (service.stdin, service.stdout):
        if pipe is not None:
            pipe.close()
    try:
        service.wait(STOP_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        service.kill()
        service.wait()
