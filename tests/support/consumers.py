"""Consumers over plain HTTP, as somebody with a key works with them."""

from dataclasses import dataclass
from typing import Any, Final

import httpx2

from tests.support.keys import Holder

Json = dict[str, Any]

QUERY: Final = [{"types": ["noted"]}]


@dataclass(frozen=True, slots=True)
class Consumer:
    """A consumer, as seen by whoever holds this key."""

    holder: Holder
    name: str = "scorer"

    def by(self, holder: Holder) -> "Consumer":
        """The same consumer, by another key."""
        return Consumer(holder, self.name)

    @property
    def path(self) -> str:
        """Where it is."""
        return f"/consumers/{self.name}"

    def put(self, *, key: str | None = None, **asked: Any) -> httpx2.Response:
        """Make it, or change it."""
        body = {"query": QUERY, **asked}
        return self.holder.ask("PUT", self.path, json=body, headers=keyed(key))

    def made(self, **asked: Any) -> "Consumer":
        """Make it, which must work."""
        answer = self.put(**asked)
        assert answer.status_code == 201, answer.text
        return self

    def state(self) -> Json:
        """How it stands."""
        answer = self.holder.get(self.path)
        assert answer.status_code == 200, answer.text
        state: Json = answer.json()
        return state

    def call(self, what: str, *, key: str | None = None, **body: Any) -> httpx2.Response:
        """Make one of its calls: claim, ack, pause …, ``dead-letters/drop``."""
        return self.holder.post(f"{self.path}/{what}", body, headers=keyed(key))

    def claim(self, *, key: str | None = None, **body: Any) -> httpx2.Response:
        """Claim as holder ``h``."""
        return self.call("claim", key=key, **{"holder": "h", **body})

    def delivered(self, count: int = 1, **body: Any) -> list[Json]:
        """Claim exactly so many."""
        answer = self.claim(count=max(count, 1), **body)
        assert answer.status_code == 200, answer.text
        deliveries: list[Json] = answer.json()["deliveries"]
        assert len(deliveries) == count, deliveries
        return deliveries

    def tokens(self, count: int = 1, **body: Any) -> list[str]:
        """The tokens of exactly so many."""
        return [delivery["token"] for delivery in self.delivered(count, **body)]

    def letters(self) -> list[Json]:
        """Its dead letters."""
        answer = self.holder.get(f"{self.path}/dead-letters")
        assert answer.status_code == 200, answer.text
        letters: list[Json] = answer.json()["dead_letters"]
        return letters

    def delete(self, *, key: str | None = None, **parameters: str) -> httpx2.Response:
        """Delete it."""
        return self.holder.ask("DELETE", self.path, params=parameters, headers=keyed(key))


def keyed(key: str | None) -> dict[str, str]:
    """The header of an idempotency key."""
    return {} if key is None else {"Idempotency-Key": key}


def note(agent: Holder, count: int = 1, *tags: str) -> list[int]:
    """Let an agent's key write events that ``QUERY`` matches."""
    name = agent.get("/me").json()["name"]
    ids = []
    for _ in range(count):
        answer = agent.append(name, tags=list(tags))
        assert answer.status_code == 201, answer.text
        ids.append(int(answer.json()["id"]))
    return ids
