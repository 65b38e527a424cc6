"""The shapes of answers about keys, tenants, rules and freezes, for the description only."""

from typing import Annotated, Any, Literal

from pydantic import Field

from counterfoil.server.api.schemas import Answered, Id, Problem, Time

_Kind = Literal["agent", "person", "service", "auditor", "admin"]


class Key(Answered):
    """A key, without its text."""

    key_id: str
    kind: _Kind
    name: str
    mode: Literal["live", "test"]
    scopes: list[str]
    created_at: Time
    created_by: str
    expires_at: Time | None
    revoked_at: Time | None
    last_used_at: Annotated[Time | None, Field(description="To within a minute.")]
    rate_per_second: int | None
    rate_burst: int | None
    replaces: str | None
    event_id: Id


class CreatedKey(Key):
    """A key that was just made, with its text."""

    key: Annotated[
        str | None,
        Field(description="The text to call with. Shown once: null in the answer to a retry."),
    ]


class KeyList(Answered):
    """A page of keys."""

    keys: list[Key]
    next: str | None


class Me(Answered):
    """Whose key this is."""

    tenant: str
    kind: _Kind | None
    name: Annotated[str | None, Field(description="Under which name it writes; null: under any.")]
    principal: str
    key_id: str | None
    mode: Literal["live", "test"] | None
    scopes: list[str]
    expires_at: Time | None
    rate_per_second: int | None
    rate_burst: int | None


class Tenant(Answered):
    """A tenant."""

    tenant_id: int
    name: str
    created_at: Time


class CreatedTenant(Tenant):
    """A tenant that was just made, with the key of its first admin."""

    key: CreatedKey


class TenantList(Answered):
    """A page of tenants."""

    tenants: list[Tenant]
    next: str | None


class ListedType(Answered):
    """A registered type in a list, with its active version."""

    event_type: str
    version: int
    registered_at: Time
    registered_by: str
    event_id: Id


class TypeList(Answered):
    """A page of registered types."""

    event_types: list[ListedType]
    next: str | None


class EventType(ListedType):
    """One version of a type."""

    active: bool
    versions: list[int]
    narrowing: bool
    reason: str | None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class TenantSettings(Answered):
    """What a tenant has settled for itself."""

    unregistered_types: Literal["accepted", "refused"]
    event_id: Annotated[Id | None, Field(description="The event that settled it last.")]


class PayloadMismatchProblem(Problem):
    """The request breaks a rule; with `payload-mismatch`, which schema it was."""

    event_type: str | None = None
    version: int | None = None


class Freeze(Answered):
    """Something that nothing is written about."""

    id: Id
    kind: Literal["agent", "tag", "book"]
    subject: Annotated[str | None, Field(description="The agent or the tag; null for the book.")]
    reason: str
    until: Time | None
    frozen_at: Time
    frozen_by: str


class Thawed(Freeze):
    """A freeze that was ended."""

    thawed_at: Time
    thawed_by: str
    event_id: Id


class FreezeList(Answered):
    """What is frozen now."""

    freezes: list[Freeze]


class ScopeMissingProblem(Problem):
    """The key may not do this."""

    scope: Annotated[str | None, Field(description="A scope with which it might.")] = None
    agent_name: Annotated[str | None, Field(description="The name that the key writes under.")] = (
        None
    )


class FrozenProblem(Problem):
    """Something that this writes about is frozen."""

    freeze: Freeze | int
