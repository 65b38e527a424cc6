"""The client's words for who may write what: keys, tenants, event types, freezes.

Values only, no I/O. All of them are what the service answered; none can be changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from counterfoil.client.errors import UsageError

KeyKind = Literal["agent", "person", "service", "auditor", "admin"]
"""What a key's holder is, which bounds what its scopes may be."""

KeyMode = Literal["live", "test"]
"""What a key's text says that it is for."""

UnregisteredTypes = Literal["accepted", "refused"]
"""What becomes of an event whose type has no schema."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What is known of an API key. Its text is not: the service keeps only a digest of it.

    Attributes:
        key_id: by which it is looked up and spoken of; no secret.
        kind: whose it is: an ``agent``, a ``person``, a ``service``, an ``auditor`` (reads,
            never writes) or an ``admin`` (manages, never appends).
        name: the holder's name. What the key appends, it appends under this name.
        mode: ``live`` or ``test``.
        scopes: what it may do, as ``append:flag_*`` or ``read:*@customer``.
        created_at, created_by: when it was made, and by whom (``person:m.ito``).
        expires_at: from when on it opens nothing; ``None``: it does not end by itself.
        revoked_at: since when it has been revoked.
        last_used_at: when it was last used, to within a minute.
        rate_per_second, rate_burst: how many calls it may make for ever, and at once;
            ``None``: the service's own bounds.
        replaces: the id of the key that it took the place of, by rotation.
        event_id: the event of the book that tells of its making.
    """

    key_id: str
    kind: str
    name: str
    mode: str
    scopes: tuple[str, ...]
    created_at: datetime
    created_by: str
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
    rate_per_second: int | None = None
    rate_burst: int | None = None
    replaces: str | None = None
    event_id: int

    def is_active(self, at: datetime | None = None) -> bool:
        """Whether it opens anything, now or at another time, as far as is known here.

        >>> [key.key_id for key in cf.keys.list() if key.is_active()]
        ['k7x2mq4awp5yjn3d']
        """
        at = at or datetime.now(UTC)
        ended = [moment for moment in (self.expires_at, self.revoked_at) if moment is not None]
        return all(at < moment for moment in ended)


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedKey(Key):
    """A key that was just made, with its text: the only time that it is shown.

    The text stands in no ``repr`` and so in no log line or stack trace that shows one.
    ``dataclasses.asdict`` and ``pickle`` do carry it.

    Attributes:
        text: what to call with; ``None`` when ``replayed``, because shown once means once.
        replayed: the key had been made before, under the same idempotency key.
    """

    text: str | None = field(default=None, repr=False)
    replayed: bool = False

    def reveal(self) -> str:
        """Return the text, which is certainly there.

        >>> created = cf.keys.create(kind="agent", name="fraud_agent")
        >>> vault.write("counterfoil/fraud_agent", created.reveal())

        Raises:
            UsageError: this answers a repeated call, and the text was in the first answer.
        """
        if self.text is None:
            raise UsageError(
                f"Key {self.key_id} was made by an earlier call with this idempotency key, and its "
                "text was in that answer only. If nobody has kept it, take another: "
                f"`keys.rotate({self.key_id!r}, overlap_seconds=0)`."
            )
        return self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """A tenant: whose book it is. Every key, event and rule belongs to one.

    Attributes:
        tenant_id: its number.
        name: its name, by which the operator knows it.
        created_at: when its book was opened.
    """

    tenant_id: int
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedTenant(Tenant):
    """A tenant that was just made, with the key of its first admin.

    Attributes:
        key: the admin's key; its text is shown this once.
        replayed: the tenant had been made before, under the same idempotency key.
    """

    key: CreatedKey
    replayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantSettings:
    """What a tenant has settled for its book.

    Attributes:
        unregistered_types: whether events are ``accepted`` or ``refused`` whose type has no
            schema.
        event_id: the event of the book that tells of the last change; ``None``: never changed.
    """

    unregistered_types: str
    event_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventType:
    """An event type that has a schema, as it stands in the list of them.

    Attributes:
        event_type: its name.
        version: the schema's version, that in force.
        registered_at, registered_by: when that version was registered, and by whom.
        event_id: the event of the book that tells of it. Payloads at higher positions stand
            under this version.
    """

    event_type: str
    version: int
    registered_at: datetime
    registered_by: str
    event_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredType(EventType):
    """The answer to ``event_types.register``.

    Attributes:
        changed: a new version was made; ``False``: the schema was in force already.
        replayed: it had been registered before, under the same idempotency key.
    """

    changed: bool = True
    replayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EventTypeVersion(EventType):
    """One version of an event type, with its schema.

    Attributes:
        schema: the JSON Schema of the payload. Numbers in it are ``int`` or
            ``decimal.Decimal``, as in payloads.
        active: whether it is the version in force.
        versions: the numbers of all versions that can be read.
        narrowing: it may refuse what the version before accepted, and was asked for so.
        reason: why it was narrowed.
    """

    schema: dict[str, Any] = field(hash=False)
    active: bool
    versions: tuple[int, ...]
    narrowing: bool = False
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Freeze:
    """Something that nothing is written about, until it is thawed or ends by itself.

    Attributes:
        id: the position of the event that froze it. Nothing that it concerns has a higher one.
        kind: what is frozen: an ``agent``, a ``tag`` or the whole ``book``.
        subject: which agent or tag; ``None`` for the book.
        reason: why.
        until: when it ends by itself; ``None``: when somebody thaws it.
        frozen_at, frozen_by: when it was frozen, and by whom.
    """

    id: int
    kind: str
    subject: str | None
    reason: str
    until: datetime | None
    frozen_at: datetime
    frozen_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Thawed(Freeze):
    """A freeze that was ended.

    Attributes:
        thawed_at, thawed_by: when, and by whom.
        event_id: the event of the book that tells of it.
    """

    thawed_at: datetime
    thawed_by: str
    event_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Me:
    """Whose key the client calls with, and what it may do.

    Attributes:
        tenant: the name of the tenant whose book is read and written.
        principal: who calls, as it is kept with each event: ``agent:fraud_agent``.
        kind, name: the same in its parts. ``None`` for the key that the service was started
            with, which may write under any name.
        key_id: the key's id; ``None`` for that key.
        mode: ``live`` or ``test``; ``None`` for that key.
        scopes: what the key may do.
        expires_at: from when on it opens nothing.
        rate_per_second, rate_burst: how many calls it may make for ever, and at once.
    """

    tenant: str
    principal: str
    kind: str | None = None
    name: str | None = None
    key_id: str | None = None
    mode: str | None = None
    scopes: tuple[str, ...] = ()
    expires_at: datetime | None = None
    rate_per_second: int | None = None
    rate_burst: int | None = None
