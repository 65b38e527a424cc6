"""The simulated service of the client's tests behind a socket, for commands as they are called."""

import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol

import httpx2
import pytest

from counterfoil.cli.app import run
from tests.unit.client.simulated_consumers import SimulatedConsumers
from tests.unit.client.simulated_service import SimulatedService


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed."""

    code: int
    stdout: str
    stderr: str


class Call(Protocol):
    """Runs a command against the simulated service."""

    def __call__(self, *arguments: str, stdin: str = "", answering: str | None = None) -> Ended: ...


class Terminal(io.TextIOWrapper):
    """Standard input at which somebody sits, who has typed the answers already."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def service() -> SimulatedConsumers:
    """The simulated service that the commands talk to."""
    return SimulatedConsumers()


@pytest.fixture
def address(service: SimulatedService) -> Iterator[str]:
    """Where it listens."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked = httpx2.Request(
                self.command, f"http://service{self.path}", headers=dict(self.headers), content=body
            )
            answer = service.handle(asked)
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 - the names that the library looks for

        def log_message(self, *_: object) -> None:
            """Say nothing: what is printed is what the tests look at."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def call(address: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run a command, with ``stdin`` from a pipe or what somebody is ``answering`` at a terminal."""
    monkeypatch.setenv("COUNTERFOIL_BASE_URL", address)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("COUNTERFOIL_API_KEY", raising=False)

    def called(*arguments: str, stdin: str = "", answering: str | None = None) -> Ended:
        typed = io.BytesIO((stdin if answering is None else answering).encode())
        kind = io.TextIOWrapper if answering is None else Terminal
        monkeypatch.setattr("sys.stdin", kind(typed))
        capsys.readouterr()
        code = run(list(arguments))
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err, printed.err
        return Ended(code, printed.out, printed.err)

    return called
