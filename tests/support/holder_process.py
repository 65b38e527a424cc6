"""A holder that works until it is killed: a process of its own, over plain HTTP.

``python -m tests.support.holder_process NAME SEED URL [URL ...]`` claims from the consumer
``scorer`` and acknowledges each event with an outcome that names it. What is not answered it sends
again under its key, to the next of these services, as a careful client does. Events that are
poisoned it gives back, with a reason.
"""

import contextlib
import random
import sys
import uuid
from collections.abc import Sequence
from typing import Any, Final

import httpx2

AGAIN: Final = {
    "/problems/busy",
    "/problems/not-written",
    "/problems/outcome-unknown",
    "/problems/database-unavailable",
    "/problems/read-too-slow",
}
"""What is sent again."""

CALL_SECONDS: Final = 5.0


class Holder:
    """One holder, and the services that it may call."""

    def __init__(self, name: str, seed: int, urls: Sequence[str]) -> None:
        self.name = name
        self.random = random.Random(seed)
        self.clients = [httpx2.Client(base_url=url, timeout=CALL_SECONDS) for url in urls]

    def call(self, what: str, **body: Any) -> httpx2.Response:
        """Make a call until it is answered."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        while True:
            client = self.random.choice(self.clients)
            with contextlib.suppress(httpx2.TransportError):
                answer = client.post(f"/consumers/scorer/{what}", json=body, headers=headers)
                if answer.status_code != 503 or answer.json()["type"] not in AGAIN:
                    return answer

    def work(self) -> None:
        """Claim and handle, for ever."""
        done: list[str] = []
        while True:
            claim: dict[str, Any] = {"holder": self.name, "count": 5, "wait_seconds": 1}
            if done:
                claim["done"], done = done, []
            claimed = self.call("claim", **claim)
            if claimed.status_code != 200:
                # Some of what it had done had gone to another meanwhile.
                assert claimed.json()["type"] == "/problems/lease-lost", claimed.text
                continue
            for delivery in claimed.json()["deliveries"]:
                self.handle(delivery)

    def handle(self, delivery: dict[str, Any]) -> None:
        """Write the outcome of one event, or give it back."""
        tokens = [delivery["token"]]
        if delivery["event"]["payload"]["poisoned"]:
            answer = self.call("release", tokens=tokens, reason="It is poisoned.", delay_seconds=0)
        else:
            if self.random.random() < 0.2:
                self.call("extend", tokens=tokens)
            outcome = {
                "agent_name": self.name,
                "event_type": "scored",
                "payload": {"of": delivery["event"]["id"], "token": delivery["token"]},
            }
            answer = self.call("ack", tokens=tokens, events=[outcome])
        assert answer.status_code in {200, 201} or (
            answer.json()["type"] == "/problems/lease-lost"
        ), answer.text


if __name__ == "__main__":
    name, seed, *urls = sys.argv[1:]
    Holder(name, int(seed), urls).work()
