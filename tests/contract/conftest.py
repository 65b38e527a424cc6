"""A real service for the contract tests, and a book that can be asked whether it grew."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import pytest

from tests.support.cluster import Cluster
from tests.support.service import Service, running_service

KEY = "a-key-of-the-tests"


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
