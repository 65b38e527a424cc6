"""How what the service says of keys, tenants, rules and freezes is read into values."""

from __future__ import annotations

from typing import Any, Final

from counterfoil.client import shapes
from counterfoil.client.control_model import (
    CreatedKey,
    CreatedTenant,
    EventType,
    EventTypeVersion,
    Freeze,
    Key,
    Me,
    RegisteredType,
    Tenant,
    TenantSettings,
    Thawed,
)
from counterfoil.client.shapes import optional

_CREATED: Final = 201


def key(data: Any) -> Key:
    """Read one key."""
    return Key(**_key_members(data))


def created_key(data: Any, *, replayed: bool) -> CreatedKey:
    """Read a key that was made, with its text.

    A text may be missing from a repeated answer only: elsewhere it would be lost for good,
    which nobody should find out later.
    """
    data = shapes.mapping(data)
    text = optional(shapes.text, data["key"])
    if text is None and not replayed:
        raise ValueError("a key was made, and its text is not there")
    return CreatedKey(**_key_members(data), text=text, replayed=replayed)


def _key_members(data: Any) -> dict[str, Any]:
    data = shapes.mapping(data)
    return {
        "key_id": shapes.text(data["key_id"]),
        "kind": shapes.text(data["kind"]),
        "name": shapes.text(data["name"]),
        "mode": shapes.text(data["mode"]),
        "scopes": shapes.texts(data["scopes"]),
        "created_at": shapes.moment(data["created_at"]),
        "created_by": shapes.text(data["created_by"]),
        "expires_at": optional(shapes.moment, data.get("expires_at")),
        "revoked_at": optional(shapes.moment, data.get("revoked_at")),
        "last_used_at": optional(shapes.moment, data.get("last_used_at")),
        "rate_per_second": optional(shapes.integer, data.get("rate_per_second")),
        "rate_burst": optional(shapes.integer, data.get("rate_burst")),
        "replaces": optional(shapes.text, data.get("replaces")),
        "event_id": shapes.integer(data["event_id"]),
    }


def tenant(data: Any) -> Tenant:
    """Read one tenant."""
    return Tenant(**_tenant_members(data))


def created_tenant(data: Any, *, replayed: bool) -> CreatedTenant:
    """Read a tenant that was made, with the key of its first admin."""
    admin = created_key(shapes.mapping(data)["key"], replayed=replayed)
    return CreatedTenant(**_tenant_members(data), key=admin, replayed=replayed)


def _tenant_members(data: Any) -> dict[str, Any]:
    data = shapes.mapping(data)
    return {
        "tenant_id": shapes.integer(data["tenant_id"]),
        "name": shapes.text(data["name"]),
        "created_at": shapes.moment(data["created_at"]),
    }


def settings(data: Any) -> TenantSettings:
    """Read a tenant's settings."""
    data = shapes.mapping(data)
    return TenantSettings(
        unregistered_types=shapes.text(data["unregistered_types"]),
        event_id=optional(shapes.integer, data["event_id"]),
    )


def event_type(data: Any) -> EventType:
    """Read one event type of the list."""
    return EventType(**_type_members(data))


def registered_type(data: Any, *, status: int, replayed: bool) -> RegisteredType:
    """Read the answer to a registration."""
    return RegisteredType(**_type_members(data), changed=status == _CREATED, replayed=replayed)


def event_type_version(data: Any) -> EventTypeVersion:
    """Read one version of an event type, with its schema."""
    data = shapes.mapping(data)
    return EventTypeVersion(
        **_type_members(data),
        schema=shapes.mapping(data["schema"]),
        active=shapes.boolean(data["active"]),
        versions=tuple(map(shapes.integer, shapes.array(data["versions"]))),
        narrowing=shapes.boolean(data["narrowing"]),
        reason=optional(shapes.text, data.get("reason")),
    )


def _type_members(data: Any) -> dict[str, Any]:
    data = shapes.mapping(data)
    return {
        "event_type": shapes.text(data["event_type"]),
        "version": shapes.integer(data["version"]),
        "registered_at": shapes.moment(data["registered_at"]),
        "registered_by": shapes.text(data["registered_by"]),
        "event_id": shapes.integer(data["event_id"]),
    }


def freeze(data: Any) -> Freeze:
    """Read one freeze."""
    return Freeze(**_freeze_members(data))


def freezes(data: Any) -> tuple[Freeze, ...]:
    """Read the list of what is frozen."""
    return tuple(map(freeze, shapes.array(shapes.mapping(data)["freezes"])))


def thawed(data: Any) -> Thawed:
    """Read a freeze that was ended."""
    data = shapes.mapping(data)
    return Thawed(
        **_freeze_members(data),
        thawed_at=shapes.moment(data["thawed_at"]),
        thawed_by=shapes.text(data["thawed_by"]),
        event_id=shapes.integer(data["event_id"]),
    )


def _freeze_members(data: Any) -> dict[str, Any]:
    data = shapes.mapping(data)
    return {
        "id": shapes.integer(data["id"]),
        "kind": shapes.text(data["kind"]),
        "subject": optional(shapes.text, data["subject"]),
        "reason": shapes.text(data["reason"]),
        "until": optional(shapes.moment, data["until"]),
        "frozen_at": shapes.moment(data["frozen_at"]),
        "frozen_by": shapes.text(data["frozen_by"]),
    }


def me(data: Any) -> Me:
    """Read whose key it is."""
    data = shapes.mapping(data)
    return Me(
        tenant=shapes.text(data["tenant"]),
        principal=shapes.text(data["principal"]),
        kind=optional(shapes.text, data.get("kind")),
        name=optional(shapes.text, data.get("name")),
        key_id=optional(shapes.text, data.get("key_id")),
        mode=optional(shapes.text, data.get("mode")),
        scopes=shapes.texts(data["scopes"]),
        expires_at=optional(shapes.moment, data.get("expires_at")),
        rate_per_second=optional(shapes.integer, data.get("rate_per_second")),
        rate_burst=optional(shapes.integer, data.get("rate_burst")),
    )
