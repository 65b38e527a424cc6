"""Consumers of the simulated service: work that is handed out under leases.

What it promises is what the service promises: one holder at a time, tokens that grow, leases
that run out by the service's own clock, all or nothing, and one answer for one key. Its clock
stands still unless a test moves it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from urllib.parse import unquote

import httpx2

from tests.unit.client.simulated_book import CREATED_AT, Received, matches, parsed, problem
from tests.unit.client.simulated_service import Made, Refusal, SimulatedService, answered, page_of

DEFAULTS: dict[str, Any] = {
    "start": "beginning",
    "lease_seconds": 60,
    "attempts_max": 10,
    "backoff": {"initial_seconds": 1, "factor": 2, "max_seconds": 300},
    "order_by": None,
    "in_flight_max": 10_000,
    "dead_letters": "pass",
}


@dataclass
class Entry:
    """One event that a consumer has put out."""

    event: dict[str, Any]
    state: str = "ready"
    ready_at: float = 0.0
    lease_ends: float = 0.0
    token: str = ""
    holder: str = ""
    attempts: list[dict[str, Any]] = field(default_factory=list)
    letter: dict[str, Any] = field(default_factory=dict)


@dataclass
class SimulatedConsumer:
    """One consumer: what it was told to be, and its events."""

    made: dict[str, Any]
    after: int
    status: str = "running"
    entries: dict[int, Entry] = field(default_factory=dict)

    def held(self) -> list[Entry]:
        return [entry for entry in self.entries.values() if entry.state == "held"]


@dataclass
class SimulatedConsumers(SimulatedService):
    """The service with its consumers."""

    consumers: dict[str, SimulatedConsumer] = field(default_factory=dict)
    seconds: Callable[[], float] = lambda: 0.0
    tokens: int = 0

    def moment(self, seconds: float | None = None) -> datetime:
        """The service's time, now or so many seconds after it began."""
        passed = self.seconds() if seconds is None else seconds
        return datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC) + timedelta(seconds=passed)

    def states(self, name: str = "scorer") -> list[str]:
        """How the events of a consumer stand, in their order."""
        return [entry.state for entry in self._looked(name).entries.values()]

    def _serve(self, received: Received) -> httpx2.Response:
        steps = [unquote(step) for step in self.raw_paths[-1].strip("/").split("/")]
        if steps[0] != "consumers":
            return super()._serve(received)
        if self.api_key and received.headers.get("Authorization") != f"Bearer {self.api_key}":
            return problem(401, "unauthenticated", "This service needs a key.")
        try:
            answer = self._consumer_call(received, steps[1:])
        except Refusal as refusal:
            return refusal.answer
        answer.headers["Date"] = format_datetime(self.moment().replace(microsecond=0), usegmt=True)
        return answer

    def _consumer_call(self, received: Received, steps: list[str]) -> httpx2.Response:
        if not steps:
            rows = [self._state(name) for name in self.consumers]
            return answered((200, page_of("consumers", rows, received)), replayed=False)
        name, *verbs = steps
        if received.method == "PUT":
            return self._changed(received, lambda: self._put(received, name))
        if name not in self.consumers:
            raise Refusal(404, "consumer-not-found", "There is no consumer of this name.")
        if received.method == "GET":
            return answered((200, self._read(received, name, verbs)), replayed=False)
        if received.method == "DELETE":
            return self._changed(received, lambda: self._delete(received, name))
        return self._posted(received, name, verbs)

    def _posted(self, received: Received, name: str, verbs: list[str]) -> httpx2.Response:
        call: Callable[[str, dict[str, Any]], Made] = {
            "pause": self._pause,
            "resume": self._resume,
            "seek": self._seek,
            "claim": self._claim,
            "ack": self._ack,
            "extend": self._extend,
            "release": self._release,
            "set-aside": self._set_aside,
            "dead-letters": self._settle_letters,
        }[verbs[0]]
        asked = parsed(received.body) | ({"verb": verbs[1]} if verbs[1:] else {})
        if verbs == ["extend"]:
            return answered(call(name, asked), replayed=False)
        answer = self._changed(received, lambda: call(name, asked))
        if verbs == ["claim"] and "Idempotent-Replayed" in answer.headers:
            return answered((200, self._still_held(name, parsed(answer.content))), replayed=True)
        if verbs == ["ack"] and "Idempotent-Replayed" in answer.headers and asked.get("next"):
            document = parsed(answer.content)
            document["next"] = self._still_held(name, document["next"])
            return answered((answer.status_code, document), replayed=True)
        return answer

    # --- Managing -----------------------------------------------------------------------

    def _put(self, received: Received, name: str) -> Made:
        asked = parsed(received.body)
        made = DEFAULTS | {key: asked[key] for key in asked if key != "change_query"}
        there = self.consumers.get(name)
        if there is None:
            begins = made["start"]
            after = {"beginning": 0, "now": self.head}.get(begins) if isinstance(begins, str) else 0
            if isinstance(begins, dict):
                after = begins["after"]
            told = self._told("consumer_created")
            self.consumers[name] = SimulatedConsumer(made | {"event_id": told}, after or 0)
            return 201, self._state(name)
        fixed = ["start", "order_by"] + (["query"] if not asked.get("change_query") else [])
        changed = [key for key in fixed if made[key] != there.made[key]]
        if changed:
            refused = Refusal(409, "consumer-started", "It has started.")
            errors = [{"pointer": f"/{key}", "message": "It is settled."} for key in changed]
            refused.answer = problem(409, "consumer-started", "It has started.", errors=errors)
            raise refused
        there.made |= made
        return 200, self._state(name)

    def _state(self, name: str) -> dict[str, Any]:
        there = self._looked(name)
        states = [entry.state for entry in there.entries.values()]
        return there.made | {
            "name": name,
            "status": there.status,
            "position": self.head,
            "head": self.head,
            "lag": {
                "events": len(states) - states.count("done"),
                "seconds": 0.5,
                "at_least": False,
            },
            "in_flight": states.count("held"),
            "waiting": states.count("ready"),
            "set_aside": states.count("dead"),
            "rate": 1.5,
            "created_at": CREATED_AT,
            "created_by": "person:m.ito",
        }

    def _read(self, received: Received, name: str, steps: list[str]) -> dict[str, Any]:
        if not steps:
            return self._state(name)
        letters = {
            entry.event["id"]: entry.letter
            for entry in self._looked(name).entries.values()
            if entry.state == "dead"
        }
        if not steps[1:]:
            return page_of("dead_letters", list(letters.values()), received)
        if int(steps[1]) not in letters:
            raise Refusal(404, "dead-letter-not-found", "It is no dead letter.")
        return letters[int(steps[1])]

    def _delete(self, received: Received, name: str) -> Made:
        state = self._state(name)
        if state["set_aside"] and received.parameters.get("dead_letters") != "drop":
            raise Refusal(409, "consumer-has-dead-letters", "It has dead letters.")
        del self.consumers[name]
        return 200, {
            "name": name,
            "event_id": self._told("consumer_deleted"),
            "deleted_at": CREATED_AT,
            "deleted_by": "person:m.ito",
            "unfinished": state["waiting"] + state["in_flight"],
            "dead_letters": state["set_aside"],
        }

    def _pause(self, name: str, _: dict[str, Any]) -> Made:
        self.consumers[name].status = "paused"
        return 200, self._state(name)

    def _resume(self, name: str, _: dict[str, Any]) -> Made:
        self.consumers[name].status = "running"
        return 200, self._state(name)

    def _seek(self, name: str, asked: dict[str, Any]) -> Made:
        there = self.consumers[name]
        to = asked["to"]
        place = to if isinstance(to, dict) else {"after": {"beginning": 0, "now": self.head}[to]}
        there.after = place.get("after", 0)
        there.entries.clear()
        return 200, self._state(name)

    # --- Working ------------------------------------------------------------------------

    def _looked(self, name: str) -> SimulatedConsumer:
        """Put out what is new, and take back what is held no longer."""
        there = self.consumers[name]
        for event in self.events[there.after :]:
            if matches(there.made["query"], event):
                there.entries.setdefault(event["id"], Entry(event))
        for entry in there.held():
            if entry.lease_ends <= self.seconds():
                self._failed(there, entry, "The lease ran out.")
        return there

    def _failed(
        self, there: SimulatedConsumer, entry: Entry, reason: str, delay: float | None = None
    ) -> None:
        entry.attempts.append(self._attempt(entry, reason))
        failures = len(entry.attempts)
        backoff = there.made["backoff"]
        own = backoff["initial_seconds"] * backoff["factor"] ** (failures - 1)
        entry.state = "ready"
        entry.ready_at = self.seconds() + float(
            min(own, backoff["max_seconds"]) if delay is None else delay
        )
        if failures >= there.made["attempts_max"]:
            self._put_aside(entry, reason)

    def _attempt(self, entry: Entry, reason: str) -> dict[str, Any]:
        return {
            "attempt": len(entry.attempts) + 1,
            "holder": entry.holder,
            "claimed_at": CREATED_AT,
            "ended_at": self.moment().isoformat(),
            "reason": reason,
        }

    def _put_aside(self, entry: Entry, reason: str) -> int:
        entry.state = "dead"
        said_by = self._told("delivery_set_aside")
        entry.letter = {
            "event_id": entry.event["id"],
            "attempts": entry.attempts,
            "reason": reason,
            "set_aside_at": self.moment().isoformat(),
            "set_aside_by": "agent:scorer",
            "said_by": said_by,
            "holds_key": False,
        }
        return said_by

    def ready(self, name: str) -> list[Entry]:
        """The events that a claim would bring now."""
        there = self._looked(name)
        if there.status != "running":
            return []
        return [
            entry
            for entry in there.entries.values()
            if entry.state == "ready" and entry.ready_at <= self.seconds()
        ]

    def _claim(self, name: str, asked: dict[str, Any]) -> Made:
        for entry in self._entries(name, asked.get("done", [])):
            entry.state = "done"
        taken = self.ready(name)[: asked.get("count", 1)]
        for entry in taken:
            self.tokens += 1
            entry.state = "held"
            entry.holder = asked["holder"]
            entry.token = f"{name}.{entry.event['id']}.{self.tokens:08}"
            entry.lease_ends = self.seconds() + self.consumers[name].made["lease_seconds"]
        return 200, {
            "deliveries": [self._delivery(entry) for entry in taken],
            "status": self.consumers[name].status,
        }

    def _delivery(self, entry: Entry) -> dict[str, Any]:
        return {
            "event": entry.event,
            "attempt": len(entry.attempts) + 1,
            "lease_ends": self.moment(entry.lease_ends).isoformat(),
            "token": entry.token,
        }

    def _still_held(self, name: str, claimed: dict[str, Any]) -> dict[str, Any]:
        held = {entry.token for entry in self._looked(name).held()}
        kept = [each for each in claimed["deliveries"] if each["token"] in held]
        return claimed | {"deliveries": kept}

    def _entries(self, name: str, tokens: list[str]) -> list[Entry]:
        """All that is held under these tokens, or a refusal that names the lost ones."""
        held = {entry.token: entry for entry in self._looked(name).held()}
        lost = [token for token in tokens if token not in held]
        if lost:
            refusal = Refusal(409, "lease-lost")
            refusal.answer = problem(409, "lease-lost", "It is not held any more.", lost=lost)
            raise refusal
        return [held[token] for token in tokens]

    def _ack(self, name: str, asked: dict[str, Any]) -> Made:
        entries = self._entries(name, asked["tokens"])
        refused = self._refused(asked.get("condition"))
        if refused is not None:
            refusal = Refusal(409, "condition-failed")
            first = min(entry.lease_ends for entry in entries)
            more = {key: parsed(refused.content).get(key) for key in ("head", "conflicts")}
            more["lease_ends"] = self.moment(first).isoformat()
            refusal.answer = problem(409, "condition-failed", "Written since.", **more)
            raise refusal
        for entry in entries:
            entry.state = "done"
        status = 200
        document: dict[str, Any] = {"status": "done"}
        if "events" in asked:
            ids = [self._append(event) for event in asked["events"]]
            status, document = 201, {"ids": ids, "created_at": CREATED_AT, "status": "stored"}
        if "next" in asked:
            _, document["next"] = self._claim(name, asked["next"])
        return status, document

    def _extend(self, name: str, asked: dict[str, Any]) -> Made:
        entries = self._entries(name, asked["tokens"])
        own = self.consumers[name].made["lease_seconds"]
        ends = self.seconds() + asked.get("lease_seconds", own)
        for entry in entries:
            entry.lease_ends = ends
        return 200, {"lease_ends": self.moment(ends).isoformat()}

    def _release(self, name: str, asked: dict[str, Any]) -> Made:
        for entry in self._entries(name, asked["tokens"]):
            reason, delay = asked.get("reason"), asked.get("delay_seconds")
            if reason is not None:
                self._failed(self.consumers[name], entry, reason, delay)
            else:
                entry.state, entry.ready_at = "ready", self.seconds() + float(delay or 0)
        return 200, {"status": "released"}

    def _set_aside(self, name: str, asked: dict[str, Any]) -> Made:
        entries = self._entries(name, asked["tokens"])
        told = [self._put_aside(entry, asked["reason"]) for entry in entries]
        return 200, {"status": "set_aside", "event_ids": told}

    def _settle_letters(self, name: str, asked: dict[str, Any]) -> Made:
        dead = {
            entry.event["id"]: entry
            for entry in self._looked(name).entries.values()
            if entry.state == "dead"
        }
        ids = list(dead) if asked.get("all") else asked["event_ids"]
        if set(ids) - set(dead):
            raise Refusal(404, "dead-letter-not-found", "It is no dead letter.")
        state, status = {"replay": ("ready", "replayed"), "drop": ("done", "dropped")}[
            asked["verb"]
        ]
        for event_id in ids:
            dead[event_id].state = state
            dead[event_id].attempts = []
        return 200, {"status": status, "event_ids": ids}
