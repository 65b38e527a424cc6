"""The verbs of keys and tenants. What changes anything is an event in the tenant's own book."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from counterfoil.server.access.key_text import NewSecret, new_key
from counterfoil.server.access.keyring import Keyring
from counterfoil.server.access.model import ADMIN_NAME, NewKey, NewTenant, Revocation, Rotation
from counterfoil.server.access.principal import Principal
from counterfoil.server.access.scopes import OPERATOR_TENANT_ID, Scopes, for_kind, kind_fault
from counterfoil.server.access.store import AccessStore, ListedRow
from counterfoil.server.access.trail import Trail
from counterfoil.server.access.turns import Turns
from counterfoil.server.core import limits
from counterfoil.server.core.errors import (
    EffectRefused,
    FieldError,
    InvalidInput,
    KeyNotActive,
    KeyNotFound,
    ScopeMissing,
    TenantExists,
    TooMany,
    invariant,
)
from counterfoil.server.log.operations import Log, Stored
from counterfoil.server.log.own import own_append, own_event
from counterfoil.server.log.parameters import Listed

_NO_SUCH_KEY: Final = "There is no key with this id."


@dataclass(frozen=True, slots=True)
class Made:
    """What a call made: its JSON, and whether it was made by an earlier call with the same key.

    A new key's text stands in the JSON, and so the JSON in no ``repr``.
    """

    text: str = field(repr=False)
    replayed: bool


class Access:
    """Keys, tenants, and whose call it is, for one process."""

    def __init__(self, log: Log, *, api_key: str | None, is_open: bool) -> None:
        self._log = log
        self._store = AccessStore(log.reader)
        self.trail = Trail(log)
        self.turns = Turns()
        self.keyring = Keyring(self._store, self.trail, api_key=api_key, is_open=is_open)

    async def close(self) -> None:
        """Tell and note what has not been yet. Before the log is closed."""
        await self.keyring.close()
        await self.trail.close()

    # --- Keys -----------------------------------------------------------------------

    async def create_key(self, caller: Principal, asked: NewKey, *, key: str | None) -> Made:
        """Make a key of the caller's tenant. Its text is in the answer, and nowhere else.

        Args:
            key: the caller's idempotency key.

        Raises:
            InvalidInput: its scopes are none, or not for its kind.
            TooMany: the tenant has ``KEYS_MAX``.
            IdempotencyMismatch, Unavailable: as an append does.
        """
        scopes = _judged_scopes(caller, asked)
        secret = new_key(asked.mode or "live")
        per_second = asked.rate_per_second
        burst = asked.rate_burst or (None if per_second is None else 2 * per_second)
        row = {
            "kind": asked.kind,
            "name": asked.name,
            "mode": asked.mode or "live",
            "scopes": scopes.texts(),
            "expires_at": asked.expires_at,
            "rate_per_second": per_second,
            "rate_burst": burst,
        }
        stored = await self._change(
            caller,
            "key_created",
            {"key_id": secret.key_id, **row},
            {"effect": "create_key", "key": _key_row(secret, row, caller)},
            asked={"call": "create_key", **asked.model_dump()},
            tags=_tags(secret.key_id, f"{asked.kind}:{asked.name}"),
            key=key,
        )
        return await self._made(caller.tenant_id, stored, secret)

    async def rotate_key(
        self, caller: Principal, key_id: str, asked: Rotation, *, key: str | None
    ) -> Made:
        """Make a key that takes the place of another: same principal, scopes and rate.

        Raises:
            KeyNotFound, KeyNotActive: there is nothing to take the place of.
            TooMany, IdempotencyMismatch, Unavailable
        """
        old = msgspec.json.decode(await self._key_text(caller.tenant_id, key_id))
        _must_hand_on(caller, Scopes.parse(old["scopes"]))
        secret = new_key(old["mode"])
        row = {
            name: old[name]
            for name in ("kind", "name", "mode", "scopes", "rate_per_second", "rate_burst")
        }
        row |= {"expires_at": asked.expires_at, "replaces": key_id}
        overlap = asked.overlap_seconds
        overlap = limits.KEY_OVERLAP_SECONDS_DEFAULT if overlap is None else overlap
        stored = await self._change(
            caller,
            "key_rotated",
            {"key_id": secret.key_id, "overlap_seconds": overlap, **row},
            {
                "effect": "rotate_key",
                "key_id": key_id,
                "overlap_seconds": overlap,
                "key": _key_row(secret, row, caller),
            },
            asked={"call": "rotate_key", "key_id": key_id, **asked.model_dump()},
            tags=[*_tags(secret.key_id, f"{old['kind']}:{old['name']}"), f"key:{key_id}"],
            key=key,
        )
        return await self._made(caller.tenant_id, stored, secret)

    async def revoke_key(
        self, caller: Principal, key_id: str, asked: Revocation, *, key: str | None
    ) -> Made:
        """Make a key worth nothing, in every process within ``KEY_TRUST_SECONDS_MAX``.

        One that was revoked before stays so, and nothing is written.

        Raises:
            KeyNotFound, IdempotencyMismatch, Unavailable
        """
        old = msgspec.json.decode(await self._key_text(caller.tenant_id, key_id))
        replayed = False
        try:
            stored = await self._change(
                caller,
                "key_revoked",
                {
                    "key_id": key_id,
                    "kind": old["kind"],
                    "name": old["name"],
                    "reason": asked.reason,
                },
                {"effect": "revoke_key", "key_id": key_id},
                asked={"call": "revoke_key", "key_id": key_id, **asked.model_dump()},
                tags=_tags(key_id, f"{old['kind']}:{old['name']}"),
                key=key,
            )
            replayed = stored.replayed
        except EffectRefused as refused:
            invariant(refused.reason == "unchanged", "a key that is there can be revoked")
        return Made(await self._key_text(caller.tenant_id, key_id), replayed)

    async def key(self, tenant_id: int, key_id: str) -> str:
        """One key of a tenant, without its text. Raises ``KeyNotFound``."""
        return await self._key_text(tenant_id, key_id)

    async def keys(self, tenant_id: int, *, limit: int, cursor: str | None) -> Listed:
        """A page of a tenant's keys, in the order in which they were made.

        Raises ``InvalidInput`` for a cursor that is none.
        """
        rows = await self._store.keys(tenant_id, after=_place(cursor), limit=limit + 1)
        return _page(rows, limit)

    # --- Tenants --------------------------------------------------------------------

    async def create_tenant(self, caller: Principal, asked: NewTenant, *, key: str | None) -> Made:
        """Open a book of its own for a tenant, with the key of its first admin.

        Raises:
            TenantExists: the name is taken.
            TooMany, IdempotencyMismatch, Unavailable
        """
        secret = new_key("live")
        row = {
            "kind": "admin",
            "name": ADMIN_NAME,
            "mode": "live",
            "scopes": _first_admins().texts(),
            "expires_at": None,
            "rate_per_second": None,
            "rate_burst": None,
        }
        first = own_event(
            "key_created",
            {"key_id": secret.key_id, **row},
            tags=_tags(secret.key_id, f"admin:{ADMIN_NAME}"),
            principal=caller.id,
        )
        effect = {
            "effect": "open_book",
            "name": asked.name,
            "event": first,
            "key": _key_row(secret, row, caller),
        }
        try:
            stored = await self._change(
                caller,
                "tenant_created",
                {"name": asked.name},
                effect,
                asked={"call": "create_tenant", **asked.model_dump()},
                tags=[],
                key=key,
            )
        except EffectRefused as refused:
            if refused.reason == "tenant_exists":
                raise TenantExists("There is a tenant of this name. Choose another.") from None
            raise TooMany("There are as many tenants as there may be.") from None
        (tenant,) = await self._store.tenants(name=asked.name)
        (made,) = await self._store.keys(tenant.place, after=0, limit=1)
        shown = _with_text(made.text, None if stored.replayed else secret.text)
        return Made(f'{tenant.text.rstrip("}")},"key":{shown}}}', stored.replayed)

    async def tenants(self, *, limit: int, cursor: str | None) -> Listed:
        """A page of all tenants. Raises ``InvalidInput`` for a cursor that is none."""
        rows = await self._store.tenants(after=_place(cursor), limit=limit + 1)
        return _page(rows, limit)

    # --- Between --------------------------------------------------------------------

    async def _change(
        self,
        caller: Principal,
        what: str,
        payload: Mapping[str, Any],
        effect: Mapping[str, Any],
        *,
        asked: Mapping[str, Any],
        tags: Sequence[str],
        key: str | None,
    ) -> Stored:
        event = own_event(what, {**payload, "by": caller.id}, tags=tags, principal=caller.id)
        request = own_append(event, effect=effect, asked=asked, key=key)
        try:
            return await self._log.append(caller.tenant_id, request)
        except EffectRefused as refused:
            match refused.reason:
                case "key_not_found":
                    raise KeyNotFound(_NO_SUCH_KEY) from None
                case "key_not_active":
                    raise KeyNotActive(
                        "This key was revoked or has expired. Make a new one."
                    ) from None
                case "too_many" if effect["effect"] != "open_book":
                    raise TooMany(
                        f"A tenant has at most {limits.KEYS_MAX} keys in force. Revoke some."
                    ) from None
                case _:
                    raise

    async def _made(self, tenant_id: int, stored: Stored, secret: NewSecret) -> Made:
        (row,) = await self._store.keys(tenant_id, after=stored.first_position - 1, limit=1)
        text = None if stored.replayed else secret.text
        return Made(_with_text(row.text, text), stored.replayed)

    async def _key_text(self, tenant_id: int, key_id: str) -> str:
        found = await self._store.key(tenant_id, key_id)
        if found is None:
            raise KeyNotFound(_NO_SUCH_KEY)
        (row,) = await self._store.keys(tenant_id, after=found - 1, limit=1)
        return row.text


def _judged_scopes(caller: Principal, asked: NewKey) -> Scopes:
    if asked.scopes is None:
        scopes = for_kind(asked.kind, tenant_id=caller.tenant_id)
    else:
        scopes = Scopes.parse(asked.scopes)
        fault = kind_fault(asked.kind, scopes, tenant_id=caller.tenant_id)
        if fault is not None:
            raise InvalidInput(fault.message, [fault])
    _must_hand_on(caller, scopes)
    return scopes


def _must_hand_on(caller: Principal, scopes: Scopes) -> None:
    """Refuse to give another what the caller has not: control is not made out of nothing."""
    missing = caller.scopes.missing_to_grant(scopes)
    if missing is not None:
        raise ScopeMissing(
            "Who manages keys can give control over something only to others if they have it "
            "themselves.",
            missing,
        )


def _first_admins() -> Scopes:
    """What the first key of a new tenant may do."""
    return for_kind("admin", tenant_id=OPERATOR_TENANT_ID + 1)


def _key_row(secret: NewSecret, row: Mapping[str, Any], caller: Principal) -> dict[str, Any]:
    return {
        **row,
        "key_id": secret.key_id,
        "digest": secret.digest.hex(),
        "created_by": caller.id,
    }


def _tags(key_id: str, principal_id: str) -> list[str]:
    return [f"key:{key_id}", f"principal:{principal_id}"]


def _with_text(shown: str, text: str | None) -> str:
    """A key as it is shown, with its own text, which is shown this once."""
    key = "null" if text is None else f'"{text}"'
    return f'{shown.rstrip("}")},"key":{key}}}'


def _page(rows: Sequence[ListedRow], limit: int) -> Listed:
    shown = rows[:limit]
    more = len(rows) > limit
    return Listed(tuple(row.text for row in shown), _cursor(shown[-1].place) if more else None)


def _cursor(place: int) -> str:
    return base64.urlsafe_b64encode(place.to_bytes(8)).decode("ascii").rstrip("=")


def _place(cursor: str | None) -> int:
    """Where a page begins. Raises ``InvalidInput``."""
    if cursor is None:
        return 0
    try:
        data = base64.b64decode(f"{cursor}=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    place = int.from_bytes(data)
    if len(data) != 8 or place > limits.POSITION_MAX:
        message = "This is no cursor of this list. Start again without one."
        raise InvalidInput(message, [FieldError("/cursor", message, "query")])
    return place
