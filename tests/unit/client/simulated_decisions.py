"""Policies and decisions of the simulated service.

What it promises is what the service promises: versions that never change, four eyes, one standing
decision of a policy about a subject. Its rules are as simple as can be: what the extra input
``amount`` is decides, and a replay comes out the same unless a test says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import httpx2

from tests.unit.client.simulated_book import CREATED_AT, Received, parsed, problem, written
from tests.unit.client.simulated_consumers import SimulatedConsumers
from tests.unit.client.simulated_service import Made, Refusal, answered, page_of

ENGINE = "zen-engine 2.1.3"
DIGEST = "ab" * 32
LIMIT = 1_000


@dataclass
class SimulatedDecisions(SimulatedConsumers):
    """The service with its policies and decisions."""

    policies: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    decisions: dict[int, dict[str, Any]] = field(default_factory=dict)
    differing: dict[int, dict[str, Any]] = field(default_factory=dict)
    """By decision: what is another when it is replayed."""

    drafted_by: str = "person:m.ito"
    caller: str = "person:m.ito"

    def _serve(self, received: Received) -> httpx2.Response:
        steps = [unquote(step) for step in self.raw_paths[-1].strip("/").split("/")]
        if steps[0] not in {"policies", "decisions"}:
            return super()._serve(received)
        serve = self._policy_call if steps[0] == "policies" else self._decision_call
        try:
            return serve(received, steps[1:])
        except Refusal as refusal:
            return refusal.answer

    # --- Policies -----------------------------------------------------------------------

    def _policy_call(self, received: Received, steps: list[str]) -> httpx2.Response:
        match received.method, steps:
            case "GET", []:
                rows = [self._summary(name) for name in self.policies]
                return answered((200, page_of("policies", rows, received)), replayed=False)
            case "POST", [name, "drafts"]:
                return self._changed(received, lambda: self._draft(received, name))
            case "POST", [name, "versions", number, "activate"]:
                return self._changed(received, lambda: self._activate(name, int(number)))
            case "POST", [name, "retire"]:
                return self._changed(received, lambda: self._retire(name))
            case "GET", [name, "versions"]:
                rows = [without_policy(one) for one in reversed(self._versions(name))]
                return answered((200, {"versions": rows, "next": None}), replayed=False)
            case "GET", [name]:
                return answered((200, self._policy(name, received)), replayed=False)
            case _:
                raise Refusal(404, "not-found")

    def _versions(self, name: str) -> list[dict[str, Any]]:
        if name not in self.policies:
            raise Refusal(404, "policy-not-found", "There is no policy of this name.")
        return self.policies[name]

    def _active(self, name: str) -> dict[str, Any]:
        for version in self._versions(name):
            if version["state"] == "active":
                return version
        raise Refusal(409, "policy-not-active", "No version of this policy is in force.")

    def _summary(self, name: str) -> dict[str, Any]:
        active = next((one for one in self.policies[name] if one["state"] == "active"), None)
        return {
            "name": name,
            "active_version": active and active["version"],
            "versions": len(self.policies[name]),
            "digest": active and active["digest"],
            "changed_at": CREATED_AT,
        }

    def _shown(self, version: dict[str, Any]) -> dict[str, Any]:
        numbers = [one["version"] for one in self.policies[version["name"]]]
        return version | {"versions": numbers}

    def _policy(self, name: str, received: Received) -> dict[str, Any]:
        asked = received.parameters.get("version")
        if asked is None:
            return self._shown(self._active(name))
        versions = self._versions(name)
        if int(asked) > len(versions):
            raise Refusal(404, "policy-not-found", "This policy has no such version.")
        return self._shown(versions[int(asked) - 1])

    def _draft(self, received: Received, name: str) -> Made:
        document = parsed(received.body)
        versions = self.policies.setdefault(name, [])
        if versions and versions[-1]["policy"] == document:
            return 200, self._shown(versions[-1])
        version = {
            "name": name,
            "version": len(versions) + 1,
            "state": "draft",
            "digest": DIGEST,
            "drafted_by": self.drafted_by,
            "drafted_at": CREATED_AT,
            "event_id": self._told("policy_drafted"),
            "activated_by": None,
            "activated_at": None,
            "retired_by": None,
            "retired_at": None,
            "policy": document,
        }
        versions.append(version)
        return 201, self._shown(version)

    def _activate(self, name: str, number: int) -> Made:
        versions = self._versions(name)
        if number > len(versions):
            raise Refusal(404, "policy-not-found", "This policy has no such version.")
        version = versions[number - 1]
        if version["drafted_by"] == self.caller:
            raise Refusal(409, "four-eyes", "Who drafted it cannot activate it.")
        for one in versions:
            if one["state"] == "active":
                one |= {"state": "retired", "retired_by": self.caller, "retired_at": CREATED_AT}
        version |= {"state": "active", "activated_by": self.caller, "activated_at": CREATED_AT}
        self._told("policy_activated")
        return 200, self._shown(version)

    def _retire(self, name: str) -> Made:
        version = self._active(name)
        version |= {"state": "retired", "retired_by": self.caller, "retired_at": CREATED_AT}
        self._told("policy_retired")
        return 200, self._shown(version)

    def in_force(self, name: str, document: dict[str, Any]) -> None:
        """Let a policy have a version that decides."""
        self.drafted_by, caller = "person:author", self.caller
        self.caller = "person:board"
        request = httpx2.Request("POST", "http://s/policies", content=written(document))
        received = Received("POST", "", request.url.params, request.headers, request.content)
        _, made = self._draft(received, name)
        self._activate(name, made["version"])
        self.caller = caller

    # --- Decisions ----------------------------------------------------------------------

    def _decision_call(self, received: Received, steps: list[str]) -> httpx2.Response:
        match received.method, steps:
            case "POST", []:
                return self._changed(received, lambda: self._decide(parsed(received.body)))
            case "GET", []:
                return answered((200, self._decisions(received)), replayed=False)
            case "GET", [number]:
                return answered((200, self._with_state(self._decision(number))), replayed=False)
            case "GET", [number, "explanation"]:
                shown = explained(self._decision(number))
                return answered((200, shown), replayed=False)
            case "POST", [number, "replay"]:
                made = self._replayed(self._decision(number), parsed(received.body))
                return answered((200, made), replayed=False)
            case _:
                raise Refusal(404, "not-found")

    def _decision(self, number: str) -> dict[str, Any]:
        if int(number) not in self.decisions:
            raise Refusal(404, "decision-not-found", "There is no decision with this id.")
        return self.decisions[int(number)]

    def _superseded_by(self, decision: dict[str, Any]) -> int | None:
        later = (one for one in self.decisions.values() if one["supersedes"])
        found = (one["id"] for one in later if one["supersedes"]["decision"] == decision["id"])
        return next(found, None)

    def _with_state(self, decision: dict[str, Any]) -> dict[str, Any]:
        later = self._superseded_by(decision)
        state = "standing" if later is None else "superseded"
        return decision | {"state": state, "superseded_by": later}

    def _decide(self, asked: dict[str, Any]) -> Made:
        version = self._active(asked["policy"])
        about = (asked["policy"], asked["subject"])
        for one in self.decisions.values():
            named = (asked.get("supersedes") or {}).get("decision") == one["id"]
            stands = self._superseded_by(one) is None
            if (one["policy"], one["subject"]) == about and stands and not named:
                refusal = Refusal(409, "decision-stands")
                refusal.answer = problem(409, "decision-stands", "One stands.", decision=one)
                raise refusal
        inputs = asked.get("inputs", {})
        if "amount" not in inputs:
            refusal = Refusal(422, "decision-inputs-refused")
            errors = [{"pointer": "/inputs/amount", "message": "It is missing.", "in": "body"}]
            refusal.answer = problem(422, "decision-inputs-refused", "No.", errors=errors)
            raise refusal
        approved = inputs["amount"] <= LIMIT
        head, decision_id = self.head, self._told("decision_made")
        decision = {
            "id": decision_id,
            "created_at": CREATED_AT,
            "agent_name": asked.get("agent_name", "credit_agent"),
            "policy": asked["policy"],
            "version": version["version"],
            "digest": version["digest"],
            "engine": ENGINE,
            "subject": asked["subject"],
            "outcome": "approve" if approved else "decline",
            "kind": "approve" if approved else "decline",
            "reasons": []
            if approved
            else [{"code": "A01", "text": "Too much.", "customer": "It is too much for us."}],
            "inputs": {"flags": 0, **inputs},
            "extra": sorted(inputs),
            "signals": {"flags": [1, 2]},
            "matched": [{"table": "decide", "row": 1 if approved else 2, "rule": "r1"}],
            "head": head,
            "as_of": CREATED_AT,
            "asked_by": "agent:credit_agent",
            "on_behalf_of": asked.get("on_behalf_of"),
            "supersedes": asked.get("supersedes"),
        }
        self.decisions[decision_id] = decision
        more = {"explanation": explained(decision)} if asked.get("explain") else {}
        return 201, decision | more

    def _decisions(self, received: Received) -> dict[str, Any]:
        asked = received.parameters
        rows = [
            one
            for one in self.decisions.values()
            if asked.get("policy", one["policy"]) == one["policy"]
            and asked.get("subject", one["subject"]) == one["subject"]
        ]
        page = page_of("decisions", rows if asked["order"] == "asc" else rows[::-1], received)
        more = page["next"] is not None
        return page | {"head": self.head, "has_more": more, "next": page["next"] or "the-end"}

    def _replayed(self, decision: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
        same = {
            "decision": decision["id"],
            "identical": True,
            "differences": [],
            "version": asked.get("version", decision["version"]),
            "engine": {"recorded": ENGINE, "now": ENGINE, "changed": False},
            "digest": {"recorded": DIGEST, "now": DIGEST},
            "recomputed": {
                "outcome": decision["outcome"],
                "reasons": [reason["code"] for reason in decision["reasons"]],
                "matched": decision["matched"],
            },
            "refused": None,
            "signals": "identical",
        }
        return same | self.differing.get(decision["id"], {})


def without_policy(version: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in version.items() if name not in {"policy", "versions"}}


def explained(decision: dict[str, Any]) -> dict[str, Any]:
    return {
        "decision": decision,
        "timeline": [
            {
                "id": 1,
                "event_type": "flagged",
                "agent_name": "fraud_agent",
                "created_at": CREATED_AT,
                "age_seconds": 0.25,
                "inputs": ["flags"],
            }
        ],
        "inputs": [
            {
                "name": "amount",
                "value": decision["inputs"]["amount"],
                "from": "request",
                "take": None,
                "events": [],
            },
            {"name": "flags", "value": 0, "from": "book", "take": "count", "events": [1, 2]},
        ],
        "rows": [
            {
                "table": "decide",
                "row": 2,
                "rule": "r1",
                "conditions": [{"field": "amount", "condition": "> 1000"}],
                "gives": {"outcome": '"decline"'},
            }
        ],
        "customer": ["It is too much for us."],
        "text": f"Decision {decision['id']}\n  about {decision['subject']}",
    }
