"""``cf.settings``, ``cf.event_types`` and ``cf.brake``: what may be written now.

The blocking shell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from counterfoil.client import control_requests
from counterfoil.client.control_model import (
    EventType,
    EventTypeVersion,
    Freeze,
    RegisteredType,
    TenantSettings,
    Thawed,
    UnregisteredTypes,
)
from counterfoil.client.control_requests import ROWS_DEFAULT
from counterfoil.client.sync_transport import SyncTransport


class BookSettings:
    """The calls about a tenant's settings; reached as ``settings`` of a client."""

    def __init__(self, transport: SyncTransport) -> None:
        self._transport = transport

    def get(self) -> TenantSettings:
        """Return the tenant's settings.

        >>> cf.settings.get()
        TenantSettings(unregistered_types='accepted', event_id=None)
        """
        return self._transport.run(control_requests.get_settings())

    def update(
        self, *, unregistered_types: UnregisteredTypes, idempotency_key: str | None = None
    ) -> TenantSettings:
        """Change the tenant's settings; every event after that one stands under them.

        >>> cf.settings.update(unregistered_types="refused")
        TenantSettings(unregistered_types='refused', event_id=17)

        Args:
            unregistered_types: whether events are ``accepted`` or ``refused`` whose type has
                no schema.
            idempotency_key: as of ``events.append``.

        Raises:
            PermissionDenied: the key has no ``manage:settings``.
            CounterfoilError: as ``events.append``.
        """
        return self._transport.run(
            control_requests.update_settings(
                unregistered_types=unregistered_types, idempotency_key=idempotency_key
            )
        )


class EventTypes:
    """The calls about event types; reached as ``event_types`` of a client."""

    def __init__(self, transport: SyncTransport) -> None:
        self._transport = transport

    def register(
        self,
        event_type: str,
        schema: Mapping[str, Any],
        *,
        narrowing: bool = False,
        reason: str | None = None,
        idempotency_key: str | None = None,
    ) -> RegisteredType:
        """Put a schema in force for the payloads of a type, as its next version.

        A schema that is in force already is left as it is, so this can be called at every
        start of a program.

        >>> cf.event_types.register(
        ...     "payment",
        ...     {
        ...         "type": "object",
        ...         "required": ["amount", "currency"],
        ...         "properties": {
        ...             "amount": {"type": "integer", "description": "in minor units"},
        ...             "currency": {"type": "string", "pattern": "^[A-Z]{3}$"},
        ...         },
        ...     },
        ... )
        RegisteredType(event_type='payment', version=1, …, changed=True, replayed=False)

        Args:
            event_type: the type; 1 to 128 characters.
            schema: a JSON Schema (draft 2020-12).
            narrowing: register it even if it may refuse what the version before accepted.
            reason: why it is narrowed; needed with ``narrowing``.
            idempotency_key: as of ``events.append``.

        Raises:
            NarrowingChange: it may refuse what was accepted; ``errors`` says where.
            InvalidRequestError: it is no schema that the service takes.
            PermissionDenied: the key has no ``manage:event-types``.
            CounterfoilError: as ``events.append``.
        """
        return self._transport.run(
            control_requests.register_type(
                event_type,
                schema,
                narrowing=narrowing,
                reason=reason,
                idempotency_key=idempotency_key,
            )
        )

    def get(self, event_type: str, *, version: int | None = None) -> EventTypeVersion:
        """Return a type's schema: the version in force, or another.

        >>> cf.event_types.get("payment").schema["required"]
        ['amount', 'currency']

        Raises:
            NotFoundError: the type has no schema, or no such version.
        """
        return self._transport.run(control_requests.get_type(event_type, version))

    def list(self, *, limit: int = ROWS_DEFAULT) -> Iterator[EventType]:
        """Iterate over the types that have a schema, each with its version in force.

        >>> for registered in cf.event_types.list():
        ...     print(registered.event_type, registered.version)

        Args:
            limit: types of one *page*, up to 1,000; the iteration goes through all pages.
        """
        return self._transport.each(control_requests.event_types(limit))


class Brake:
    """The calls that freeze and thaw; reached as ``brake`` of a client."""

    def __init__(self, transport: SyncTransport) -> None:
        self._transport = transport

    def freeze(
        self,
        *,
        agent: str | None = None,
        tag: str | None = None,
        book: bool = False,
        reason: str,
        until: datetime | str | None = None,
        idempotency_key: str | None = None,
    ) -> Freeze:
        """Let nothing be written about something, from this event on, by whomever.

        When this returns it is in force in every process of the service: no event that it
        concerns has a position above ``id``. Writers get ``Frozen``; reading goes on.

        >>> cf.brake.freeze(tag="customer:cust_123", reason="Account takeover is suspected.")
        Freeze(id=57, kind='tag', subject='customer:cust_123', …)

        Args:
            agent, tag, book: what: an agent's name, one tag, or with ``book=True`` everything.
            reason: why, in a sentence; it stands in the book, and in each refusal.
            until: when it ends by itself; left out: when somebody thaws it.
            idempotency_key: as of ``events.append``.

        Raises:
            UsageError: it is not exactly one of ``agent``, ``tag`` and ``book``.
            PermissionDenied: the key has no ``manage:brake``.
            CounterfoilError: as ``events.append``.
        """
        return self._transport.run(
            control_requests.freeze(
                agent=agent,
                tag=tag,
                book=book,
                reason=reason,
                until=until,
                idempotency_key=idempotency_key,
            )
        )

    def thaw(
        self, freeze_id: int | Freeze, *, reason: str, idempotency_key: str | None = None
    ) -> Thawed:
        """End a freeze.

        >>> cf.brake.thaw(57, reason="The customer was reached; all is well.")

        Args:
            freeze_id: the freeze's id, or a ``Freeze``.
            reason: why, in a sentence; it stands in the book.
            idempotency_key: as of ``events.append``.

        Raises:
            NotFoundError: nothing is frozen under this id, or not any more.
            PermissionDenied: the key has no ``manage:brake``.
            CounterfoilError: as ``events.append``.
        """
        return self._transport.run(
            control_requests.thaw(freeze_id, reason=reason, idempotency_key=idempotency_key)
        )

    def list(self) -> tuple[Freeze, ...]:
        """Return all that is frozen now, the oldest first.

        >>> for freeze in cf.brake.list():
        ...     print(freeze.kind, freeze.subject, freeze.reason)
        """
        return self._transport.run(control_requests.freezes())

    def get(self, freeze_id: int | Freeze) -> Freeze:
        """Return a freeze that is in force.

        >>> cf.brake.get(57).reason
        'Account takeover is suspected.'

        Raises:
            NotFoundError: nothing is frozen under this id, or not any more.
        """
        return self._transport.run(control_requests.get_freeze(freeze_id))
