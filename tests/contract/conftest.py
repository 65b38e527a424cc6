"""A real service for the contract tests, its clients, and a book that can be asked whether it grew."""

import asyncio
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast

import httpx2
import pytest

from counterfoil import AsyncCounterfoil, Counterfoil
from counterfoil.cli.app import run
from tests.support.cluster import Cluster
from tests.support.service import Service, running_service
from tests.unit.client.doors import Blocking

KEY = "a-key-of-the-tests"


class Connect(Protocol):
    """Makes a client of a service."""

    def __call__(self, service: Service, **settings: Any) -> Counterfoil: ...


class Door:
    """The service as a caller sees it: plain HTTP, nothing of the client library."""

    def __init__(self, service: Service, client: httpx2.Client) -> None:
        self.service = service
        self.client = client

    def head(self) -> int:
        """The book's last position."""
        answer = self.client.get("/events", params={"limit": 1})
        assert answer.status_code == 200, answer.text
        return int(answer.headers["Counterfoil-Head"])

    def append(self, **event: object) -> int:
        """Store an event (of agent ``a`` and type ``t`` unless it says otherwise)."""
        answer = self.client.post(
            "/events", json={"agent_name": "a", "event_type": "t", "payload": {}, **event}
        )
        assert answer.status_code == 201, answer.text
        return int(answer.json()["id"])

    @contextmanager
    def stores_nothing(self) -> Iterator[None]:
        """Fail if the book grows meanwhile."""
        before = self.head()
        yield
        assert self.head() == before


@contextmanager
def open_door(service: Service, **headers: str) -> Iterator[Door]:
    """Talk to a service."""
    with httpx2.Client(base_url=service.url, headers=headers, timeout=10) as client:
        yield Door(service, client)


@pytest.fixture(scope="session")
def shared_service(cluster: Cluster) -> Iterator[Service]:
    """A service without a key that many tests share: they may add to its book."""
    with cluster.database() as database, running_service(database.url) as service:
        yield service


@pytest.fixture(scope="session")
def door(shared_service: Service) -> Iterator[Door]:
    """The shared service."""
    with open_door(shared_service) as opened:
        yield opened


@pytest.fixture(scope="session")
def locked_service(cluster: Cluster) -> Iterator[Service]:
    """A service that asks for ``KEY``."""
    with (
        cluster.database() as database,
        running_service(database.url, api_key=KEY) as service,
    ):
        yield service


@pytest.fixture(params=["blocking", "asynchronous"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Make clients of a service, of one kind and of the other; all are closed in the end."""
    made: list[Counterfoil] = []
    with asyncio.Runner() as runner:

        def connected(service: Service, **settings: Any) -> Counterfoil:
            settings = {"base_url": service.url, "timeout": 30, **settings}
            if request.param == "blocking":
                client = Counterfoil(**settings)
            else:
                client = cast("Counterfoil", Blocking(AsyncCounterfoil(**settings), runner))
            made.append(client)
            return client

        yield connected
        for client in made:
            client.close()


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


class Call(Protocol):
    """Runs a command in this process."""

    def __call__(self, *arguments: str, stdin: str = "", **variables: str) -> Ended: ...


@pytest.fixture
def call(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    shared_service: Service,
) -> Call:
    """Run a command against the shared service, in this process: most tests need no other."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("COUNTERFOIL_BASE_URL", shared_service.url)
    monkeypatch.delenv("COUNTERFOIL_API_KEY", raising=False)

    def run_here(*arguments: str, stdin: str = "", **variables: str) -> Ended:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        capsys.readouterr()
        code = run(list(arguments))
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err, printed.err
        return Ended(code, printed.out, printed.err)

    return run_here
