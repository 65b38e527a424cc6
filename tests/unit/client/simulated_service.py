"""The rest of the simulated service: keys, tenants, settings, event types, the brake.

Like the book beside it, it promises what the service promises: one object for one idempotency
key, a key's text in one answer only, lists in pages, versions, freezes that end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import httpx2

from tests.unit.client.simulated_book import (
    CREATED_AT,
    Received,
    SimulatedBook,
    parsed,
    problem,
    written,
)

SECRET_PART = "s3cr3t" + "a" * 46

Made = tuple[int, dict[str, Any]]
"""Status and document of an answer."""


class Refusal(Exception):
    """Ends a call with a problem document."""

    def __init__(self, status: int, name: str, detail: str = "The reason.") -> None:
        super().__init__(detail)
        self.answer = problem(status, name, detail)


@dataclass
class SimulatedService(SimulatedBook):
    """The book with all that stands around it."""

    keys: list[dict[str, Any]] = field(default_factory=list)
    tenants: list[dict[str, Any]] = field(default_factory=list)
    versions: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    freezes: dict[int, dict[str, Any]] = field(default_factory=dict)
    settings: dict[str, Any] = field(
        default_factory=lambda: {"unregistered_types": "accepted", "event_id": None}
    )
    made_by_key: dict[str, tuple[Any, Made]] = field(default_factory=dict)
    raw_paths: list[str] = field(default_factory=list)

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        self.raw_paths.append(request.url.raw_path.decode().partition("?")[0])
        return super().handle(request)

    def _serve(self, received: Received) -> httpx2.Response:
        steps = [unquote(step) for step in self.raw_paths[-1].strip("/").split("/")]
        call = self._calls().get((received.method, steps[0], len(steps), *steps[2:]))
        if call is None:
            return super()._serve(received)
        if self.api_key and received.headers.get("Authorization") != f"Bearer {self.api_key}":
            return problem(401, "unauthenticated", "This service needs a key.")
        try:
            if received.method == "GET":
                return answered((200, call(received, *steps[1:2])), replayed=False)
            return self._changed(received, lambda: call(received, *steps[1:2]))
        except Refusal as refusal:
            return refusal.answer

    def _calls(self) -> dict[tuple[Any, ...], Callable[..., Any]]:
        return {
            ("GET", "me", 1): self._me,
            ("GET", "keys", 1): lambda received: page_of("keys", self.keys, received),
            ("POST", "keys", 1): self._create_key,
            ("GET", "keys", 2): lambda _, key_id: self._key(key_id),
            ("POST", "keys", 3, "rotate"): self._rotate,
            ("POST", "keys", 3, "revoke"): self._revoke,
            ("GET", "tenants", 1): lambda received: page_of("tenants", self.tenants, received),
            ("POST", "tenants", 1): self._create_tenant,
            ("GET", "settings", 1): lambda _: self.settings,
            ("PUT", "settings", 1): self._update_settings,
            ("GET", "event-types", 1): self._types,
            ("GET", "event-types", 2): self._type,
            ("PUT", "event-types", 2): self._register,
            ("GET", "freezes", 1): lambda _: {"freezes": list(self.freezes.values())},
            ("POST", "freezes", 1): self._freeze,
            ("GET", "freezes", 2): lambda _, freeze_id: self._frozen(freeze_id),
            ("POST", "freezes", 3, "thaw"): self._thaw,
        }

    def _changed(self, received: Received, make: Callable[[], Made]) -> httpx2.Response:
        key = received.headers["Idempotency-Key"]
        content = (received.method, received.path, received.body)
        if key in self.made_by_key:
            asked, made = self.made_by_key[key]
            if asked != content:
                return problem(422, "idempotency-mismatch", "The key was used for other content.")
            return answered(made, replayed=True)
        made = make()
        self.made_by_key[key] = (content, made)
        return answered(made, replayed=False)

    def _told(self, what: str) -> int:
        self.add(agent_name="counterfoil", event_type=f"counterfoil.{what}")
        return self.head

    # --- Keys and tenants -------------------------------------------------------------------

    def _me(self, _: Received) -> dict[str, Any]:
        return {
            "tenant": "default",
            "kind": "agent",
            "name": "fraud_agent",
            "principal": "agent:fraud_agent",
            "key_id": "k" * 16,
            "mode": "live",
            "scopes": ["append:flag_*", "read:*"],
            "expires_at": None,
            "rate_per_second": 100,
            "rate_burst": 200,
        }

    def _new_key(self, **members: Any) -> dict[str, Any]:
        number = len(self.keys)
        key = {
            "key_id": "abcdefghijklmno" + "abcdefghijklmnopqrstuvwxyz234567"[number],
            "mode": "live",
            "scopes": ["append:*", "read:*"],
            "created_at": CREATED_AT,
            "created_by": "person:m.ito",
            "expires_at": None,
            "revoked_at": None,
            "last_used_at": None,
            "rate_per_second": None,
            "rate_burst": None,
            "replaces": None,
            "event_id": self._told("key_created"),
        } | members
        self.keys.append(key)
        return key

    def _create_key(self, received: Received) -> Made:
        return 201, with_text(self._new_key(**parsed(received.body)))

    def _key(self, key_id: str) -> dict[str, Any]:
        for key in self.keys:
            if key["key_id"] == key_id:
                return key
        raise Refusal(404, "key-not-found", "There is no key with this id.")

    def _rotate(self, received: Received, key_id: str) -> Made:
        old = self._key(key_id)
        if old["revoked_at"] is not None:
            raise Refusal(409, "key-not-active", "This key was revoked.")
        asked = parsed(received.body)
        same = {name: old[name] for name in ("kind", "name", "mode", "scopes")}
        new = self._new_key(**same, replaces=key_id, expires_at=asked.get("expires_at"))
        return 201, with_text(new)

    def _revoke(self, _: Received, key_id: str) -> Made:
        key = self._key(key_id)
        key["revoked_at"] = CREATED_AT
        self._told("key_revoked")
        return 200, key

    def _create_tenant(self, received: Received) -> Made:
        name = parsed(received.body)["name"]
        if any(tenant["name"] == name for tenant in self.tenants):
            raise Refusal(409, "tenant-exists", "There is a tenant of this name.")
        tenant = {"tenant_id": len(self.tenants) + 2, "name": name, "created_at": CREATED_AT}
        self.tenants.append(tenant)
        admin = self._new_key(kind="admin", name="admin", scopes=["manage:*"])
        return 201, tenant | {"key": with_text(admin)}

    # --- Rules ------------------------------------------------------------------------------

    def _update_settings(self, received: Received) -> Made:
        self.settings = parsed(received.body) | {"event_id": self._told("settings_changed")}
        return 200, self.settings

    def _types(self, received: Received) -> dict[str, Any]:
        rows = [in_list(versions[-1]) for versions in self.versions.values()]
        return page_of("event_types", rows, received)

    def _type(self, received: Received, event_type: str) -> dict[str, Any]:
        versions = self.versions.get(event_type, [])
        number = int(received.parameters.get("version", len(versions)))
        if not 1 <= number <= len(versions):
            raise Refusal(404, "event-type-not-found", "It is not registered.")
        found = versions[number - 1]
        numbers = list(range(1, len(versions) + 1))
        return found | {"active": number == len(versions), "versions": numbers}

    def _register(self, received: Received, event_type: str) -> Made:
        asked = parsed(received.body)
        versions = self.versions.setdefault(event_type, [])
        if versions and versions[-1]["schema"] == asked["schema"]:
            return 200, in_list(versions[-1])
        version = {
            "event_type": event_type,
            "version": len(versions) + 1,
            "registered_at": CREATED_AT,
            "registered_by": "person:m.ito",
            "event_id": self._told("event_type_registered"),
            "schema": asked["schema"],
            "narrowing": asked.get("narrowing", False),
            "reason": asked.get("reason"),
        }
        versions.append(version)
        return 201, in_list(version)

    # --- The brake --------------------------------------------------------------------------

    def _freeze(self, received: Received) -> Made:
        asked = parsed(received.body)
        (kind,) = {"agent", "tag", "book"} & set(asked)
        freeze = {
            "id": self._told("frozen"),
            "kind": kind,
            "subject": None if kind == "book" else asked[kind],
            "reason": asked["reason"],
            "until": asked.get("until"),
            "frozen_at": CREATED_AT,
            "frozen_by": "person:m.ito",
        }
        self.freezes[freeze["id"]] = freeze
        return 201, freeze

    def _frozen(self, freeze_id: str) -> dict[str, Any]:
        if int(freeze_id) not in self.freezes:
            raise Refusal(404, "freeze-not-found", "Nothing is frozen under this id.")
        return self.freezes[int(freeze_id)]

    def _thaw(self, _: Received, freeze_id: str) -> Made:
        freeze = self._frozen(freeze_id)
        del self.freezes[freeze["id"]]
        ended = {"thawed_at": CREATED_AT, "thawed_by": "person:j.doe"}
        return 200, freeze | ended | {"event_id": self._told("thawed")}


def page_of(name: str, rows: list[dict[str, Any]], received: Received) -> dict[str, Any]:
    first = int(received.parameters.get("cursor", 0))
    last = first + int(received.parameters["limit"])
    return {name: rows[first:last], "next": str(last) if last < len(rows) else None}


def in_list(version: dict[str, Any]) -> dict[str, Any]:
    names = ("event_type", "version", "registered_at", "registered_by", "event_id")
    return {name: version[name] for name in names}


def with_text(key: dict[str, Any]) -> dict[str, Any]:
    return key | {"key": f"cf_{key['mode']}_{key['key_id']}_{SECRET_PART}"}


def without_text(made: dict[str, Any]) -> dict[str, Any]:
    """What is answered to a repeated call: shown once means once."""
    if "key_id" in made:
        return made | {"key": None}
    if "key" in made:
        return made | {"key": without_text(made["key"])}
    return made


def answered(made: Made, *, replayed: bool) -> httpx2.Response:
    status, document = made
    headers = {"Content-Type": "application/json"}
    if replayed:
        headers["Idempotent-Replayed"] = "true"
        document = without_text(document)
    return httpx2.Response(status, headers=headers, content=written(document))
