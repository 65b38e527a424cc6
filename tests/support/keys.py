"""Keys for tests: made over HTTP by the bootstrap key, as an operator makes them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx2

from tests.support.service import Service
from tests.support.waiting import wait_for

BOOTSTRAP: Final = "a-key-of-the-tests"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Holder:
    """Somebody with a key, or (``text`` empty) without."""

    client: httpx2.Client
    text: str = ""
    key_id: str = ""

    def ask(self, method: str, path: str, **more: Any) -> httpx2.Response:
        """Make a call with the key."""
        headers = {**more.pop("headers", {})}
        if self.text:
            headers["Authorization"] = f"Bearer {self.text}"
        return self.client.request(method, path, headers=headers, **more)

    def get(self, path: str, **more: Any) -> httpx2.Response:
        """Read something."""
        return self.ask("GET", path, **more)

    def post(self, path: str, json: Json, **more: Any) -> httpx2.Response:
        """Write something."""
        return self.ask("POST", path, json=json, **more)

    def append(self, agent_name: str, event_type: str = "noted", **more: Any) -> httpx2.Response:
        """Write an event."""
        event = {"agent_name": agent_name, "event_type": event_type, "payload": {}, **more}
        return self.post("/events", event)

    def made(self, **key: Any) -> "Holder":
        """Make a key with this one, and hold it."""
        return held(self.client, self.post("/keys", key))

    def tenant(self, name: str) -> "Holder":
        """Open a tenant with this key, and hold the one of its first admin."""
        answer = self.post("/tenants", {"name": name})
        assert answer.status_code == 201, answer.text
        key = answer.json()["key"]
        return Holder(self.client, key["key"], key["key_id"])

    def head(self) -> int:
        """The book's last position."""
        return int(self.get("/events", params={"limit": 1}).headers["Counterfoil-Head"])


def held(client: httpx2.Client, answer: httpx2.Response) -> Holder:
    """Hold the key that an answer shows."""
    assert answer.status_code == 201, answer.text
    return Holder(client, answer.json()["key"], answer.json()["key_id"])


@contextmanager
def holder_of(service: Service, text: str = BOOTSTRAP) -> Iterator[Holder]:
    """Somebody who calls this service with a key."""
    with httpx2.Client(base_url=service.url, timeout=20) as client:
        yield Holder(client, text)


def wait_until_refused(holder: Holder) -> None:
    """Wait until the key opens nothing any more."""
    wait_for(lambda: holder.get("/me").status_code == 401, "the key to be refused")
