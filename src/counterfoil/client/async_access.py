"""``cf.keys`` and ``cf.tenants``: who may call, and for whom. The asynchronous shell."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

from counterfoil.client import control_requests
from counterfoil.client.async_transport import AsyncTransport
from counterfoil.client.control_model import (
    CreatedKey,
    CreatedTenant,
    Key,
    KeyKind,
    KeyMode,
    Tenant,
)
from counterfoil.client.control_requests import ROWS_DEFAULT
from counterfoil.client.model import Texts


class AsyncKeys:
    """The calls about keys; reached as ``keys`` of an asynchronous client.

    They need ``manage:keys``.
    """

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(
        self,
        *,
        kind: KeyKind,
        name: str,
        scopes: Texts | None = None,
        mode: KeyMode = "live",
        expires_at: datetime | str | None = None,
        rate_per_second: int | None = None,
        rate_burst: int | None = None,
        idempotency_key: str | None = None,
    ) -> CreatedKey:
        """Make a key. Its text is in what this returns, and can never be had again.

        >>> created = await cf.keys.create(
        ...     kind="agent", name="fraud_agent", scopes=["append:flag_*", "read:*"]
        ... )
        >>> vault.write("counterfoil/fraud_agent", created.reveal())

        Args:
            kind: whose it is: an ``agent``, ``person`` or ``service`` (they append under
                their own name only), an ``auditor`` (reads only) or an ``admin`` (manages,
                never appends).
            name: the holder's name; an agent's is the ``agent_name`` of its events.
            scopes: what it may do: ``append:TYPE``, ``read:TYPE``, ``read:TYPE@TAG_KIND``,
                ``consume:NAME``, ``manage:keys``, ``manage:consumers`` …; a TYPE or the NAME of
                consumers may end in ``*``. Left out: all that its kind is for.
            mode: ``live`` or ``test``; stands in the key's text.
            expires_at: from when on it opens nothing: a datetime with a time zone, or RFC 3339.
            rate_per_second, rate_burst: how many calls it may make for ever, and at once.
            idempotency_key: as of ``events.append``. A repeated call makes no second key, and
                what it returns has no text: ``replayed`` says so.

        Raises:
            PermissionDenied: the caller may not manage keys, or has not itself what it would
                hand on.
            InvalidRequestError: the scopes are none, or not for this kind of key.
            OutcomeUnknown: it may be made or not. Call again with the error's key; if it was
                made, rotate it, since nobody has read its text.
        """
        return await self._transport.run(
            control_requests.create_key(
                kind=kind,
                name=name,
                scopes=scopes,
                mode=mode,
                expires_at=expires_at,
                rate_per_second=rate_per_second,
                rate_burst=rate_burst,
                idempotency_key=idempotency_key,
            )
        )

    def list(self, *, limit: int = ROWS_DEFAULT) -> AsyncIterator[Key]:
        """Iterate over the tenant's keys, in the order in which they were made.

        Those that have expired or were revoked are among them. Each page is read when it is
        needed.

        >>> async for key in cf.keys.list():
        ...     print(key.key_id, key.kind, key.name, key.last_used_at)

        Args:
            limit: keys of one *page*, up to 1,000; the iteration goes through all pages.
        """
        return self._transport.each(control_requests.keys(limit))

    async def get(self, key_id: str | Key) -> Key:
        """Return what is known of a key.

        >>> (await cf.keys.get("k7x2mq4awp5yjn3d")).last_used_at
        datetime.datetime(…)

        Args:
            key_id: the key's id, or a ``Key``; never the text of one.

        Raises:
            NotFoundError: the tenant has no such key.
        """
        return await self._transport.run(control_requests.get_key(key_id))

    async def rotate(
        self,
        key_id: str | Key,
        *,
        overlap_seconds: int | None = None,
        expires_at: datetime | str | None = None,
        idempotency_key: str | None = None,
    ) -> CreatedKey:
        """Make a key that takes the place of another: same holder, scopes and rate.

        The old one goes on to work for a while, so that nothing stands still while the new
        one is handed out.

        >>> new = await cf.keys.rotate("k7x2mq4awp5yjn3d", overlap_seconds=86_400)
        >>> vault.write("counterfoil/fraud_agent", new.reveal())

        Args:
            key_id: the old key's id, or a ``Key``.
            overlap_seconds: how long the old one goes on to work, up to 30 days; an hour when
                left out, 0: it ends at once.
            expires_at: when the new one ends.
            idempotency_key: as of ``create``.

        Raises:
            NotFoundError: the tenant has no such key.
            APIStatusError: ``key-not-active``: it was revoked or has expired.
            CounterfoilError: as ``create``.
        """
        return await self._transport.run(
            control_requests.rotate_key(
                key_id,
                overlap_seconds=overlap_seconds,
                expires_at=expires_at,
                idempotency_key=idempotency_key,
            )
        )

    async def revoke(
        self, key_id: str | Key, *, reason: str, idempotency_key: str | None = None
    ) -> Key:
        """Make a key worth nothing, in every process of the service, and for good.

        >>> await cf.keys.revoke("k7x2mq4awp5yjn3d", reason="The laptop that held it was lost.")

        Args:
            key_id: the key's id, or a ``Key``.
            reason: why, in a sentence; it stands in the book.
            idempotency_key: as of ``events.append``.

        Raises:
            NotFoundError: the tenant has no such key.
            CounterfoilError: as ``events.append``.
        """
        return await self._transport.run(
            control_requests.revoke_key(key_id, reason=reason, idempotency_key=idempotency_key)
        )


class AsyncTenants:
    """The calls about tenants; reached as ``tenants`` of an asynchronous client.

    They need ``operate:tenants``, which only keys of the operator's own tenant can have.
    """

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(self, name: str, *, idempotency_key: str | None = None) -> CreatedTenant:
        """Open a book of its own for a tenant, and make the key of its first admin.

        >>> acme = await cf.tenants.create("acme")
        >>> hand_over(acme.key.reveal())

        Args:
            name: by which the operator knows it.
            idempotency_key: as of ``keys.create``; a repeated call returns no text of the key.

        Raises:
            APIStatusError: ``tenant-exists``: the name is taken.
            CounterfoilError: as ``keys.create``.
        """
        return await self._transport.run(
            control_requests.create_tenant(name, idempotency_key=idempotency_key)
        )

    def list(self, *, limit: int = ROWS_DEFAULT) -> AsyncIterator[Tenant]:
        """Iterate over all tenants, in the order in which they were made.

        >>> async for tenant in cf.tenants.list():
        ...     print(tenant.tenant_id, tenant.name)

        Args:
            limit: tenants of one *page*, up to 1,000; the iteration goes through all pages.
        """
        return self._transport.each(control_requests.tenants(limit))
