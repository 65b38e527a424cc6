"""What the calls about keys, tenants, rules and freezes send: without I/O.

Every one that changes something carries an idempotency key, as an append does. None of them
ever sends the text of an API key: paths and bodies are logged in many places.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final, Generic, TypeVar
from urllib.parse import quote

from counterfoil.client import answers, control_shapes, document, shapes
from counterfoil.client.answers import Answer
from counterfoil.client.control_model import (
    CreatedKey,
    CreatedTenant,
    EventType,
    EventTypeVersion,
    Freeze,
    Key,
    KeyKind,
    KeyMode,
    Me,
    RegisteredType,
    Tenant,
    TenantSettings,
    Thawed,
    UnregisteredTypes,
)
from counterfoil.client.errors import UnexpectedAnswer, UnsendableValue, UsageError
from counterfoil.client.model import Texts, texts
from counterfoil.client.requests import Ask, Parameters, Request, idempotency_key_of, moment_text

T = TypeVar("T")

ROWS_DEFAULT: Final = 100
"""Rows of one page of a list when the caller does not say; the service allows up to 1,000."""

_KEY_TEXT_BEGINS: Final = "cf_"


# --- Lists ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rows(Generic[T]):
    """One page of a list, and the cursor of the next."""

    rows: tuple[T, ...]
    next: str | None


class Listed(Generic[T]):
    """The state of reading a list through its pages.

    A list is no snapshot: what is made while it is read may stand on a later page.

    >>> keys = listed_keys(limit=100)
    >>> while (ask := keys.next_ask()) is not None:
    ...     rows = keys.take(call(ask))
    """

    def __init__(
        self,
        path: str,
        name: str,
        read: Callable[[Any], T],
        limit: int,
        parameters: Parameters = (),
    ) -> None:
        self._path = path
        self._name = name
        self._read = read
        self._parameters = (*parameters, ("limit", str(operator.index(limit))))
        self._cursor: str | None = None
        self._finished = False

    def next_ask(self) -> Ask[Rows[T]] | None:
        """Return the ask for the next page, or ``None`` when all have been taken."""
        if self._finished:
            return None
        cursor = () if self._cursor is None else (("cursor", self._cursor),)
        request = Request("GET", self._path, (*self._parameters, *cursor))
        return Ask(request, partial(answers.read_by, self._page))

    def take(self, page: Rows[T]) -> tuple[T, ...]:
        """Take in the page that the last ask brought, and return its rows.

        Raises:
            UnexpectedAnswer: it leads back to itself.
        """
        if page.next is not None and page.next == self._cursor:
            raise UnexpectedAnswer("The list leads back to a page that was read. Read it again.")
        self._cursor = page.next
        self._finished = page.next is None
        return page.rows

    def _page(self, data: Any) -> Rows[T]:
        rows = tuple(map(self._read, shapes.array(data[self._name])))
        more = shapes.boolean(data.get("has_more", True))
        return Rows(rows, shapes.optional(shapes.text, data["next"]) if more else None)


def keys(limit: int) -> Listed[Key]:
    """Read the keys, in the order in which they were made."""
    return Listed("/keys", "keys", control_shapes.key, limit)


def tenants(limit: int) -> Listed[Tenant]:
    """Read the tenants, in the order in which they were made."""
    return Listed("/tenants", "tenants", control_shapes.tenant, limit)


def event_types(limit: int) -> Listed[EventType]:
    """Read the event types that have a schema."""
    return Listed("/event-types", "event_types", control_shapes.event_type, limit)


# --- Keys and tenants -------------------------------------------------------------------


def create_key(
    *,
    kind: KeyKind,
    name: str,
    scopes: Texts | None,
    mode: KeyMode,
    expires_at: datetime | str | None,
    rate_per_second: int | None,
    rate_burst: int | None,
    idempotency_key: str | None,
) -> Ask[CreatedKey]:
    """Ask for a key to be made."""
    body = given(
        kind=kind,
        name=name,
        # An empty list is sent as it is, to be refused: left out, it would mean everything.
        scopes=None if scopes is None else texts(scopes),
        mode=mode,
        expires_at=optional_moment(expires_at, "/expires_at"),
        rate_per_second=rate_per_second,
        rate_burst=rate_burst,
    )
    return Ask(change("POST", "/keys", body, idempotency_key), _created_key)


def get_key(key: str | Key) -> Ask[Key]:
    """Ask for what is known of a key."""
    return reading(f"/keys/{_key_id(key)}", control_shapes.key)


def rotate_key(
    key: str | Key,
    *,
    overlap_seconds: int | None,
    expires_at: datetime | str | None,
    idempotency_key: str | None,
) -> Ask[CreatedKey]:
    """Ask for a key that takes the place of another."""
    body = given(
        overlap_seconds=overlap_seconds, expires_at=optional_moment(expires_at, "/expires_at")
    )
    path = f"/keys/{_key_id(key)}/rotate"
    return Ask(change("POST", path, body, idempotency_key), _created_key)


def revoke_key(key: str | Key, *, reason: str, idempotency_key: str | None) -> Ask[Key]:
    """Ask for a key to be worth nothing from now on."""
    request = change("POST", f"/keys/{_key_id(key)}/revoke", {"reason": reason}, idempotency_key)
    return Ask(request, partial(answers.read_by, control_shapes.key))


def _created_key(answer: Answer) -> CreatedKey:
    read = partial(control_shapes.created_key, replayed=answers.replayed(answer))
    return answers.read_by(read, answer)


def create_tenant(name: str, *, idempotency_key: str | None) -> Ask[CreatedTenant]:
    """Ask for a tenant to be made."""
    return Ask(change("POST", "/tenants", {"name": name}, idempotency_key), _created_tenant)


def _created_tenant(answer: Answer) -> CreatedTenant:
    read = partial(control_shapes.created_tenant, replayed=answers.replayed(answer))
    return answers.read_by(read, answer)


def me() -> Ask[Me]:
    """Ask whose key it is."""
    return reading("/me", control_shapes.me)


# --- Rules ------------------------------------------------------------------------------


def get_settings() -> Ask[TenantSettings]:
    """Ask for the tenant's settings."""
    return reading("/settings", control_shapes.settings)


def update_settings(
    *, unregistered_types: UnregisteredTypes, idempotency_key: str | None
) -> Ask[TenantSettings]:
    """Ask for the tenant's settings to be changed."""
    body = {"unregistered_types": unregistered_types}
    request = change("PUT", "/settings", body, idempotency_key)
    return Ask(request, partial(answers.read_by, control_shapes.settings))


def register_type(
    event_type: str,
    schema: Mapping[str, Any],
    *,
    narrowing: bool,
    reason: str | None,
    idempotency_key: str | None,
) -> Ask[RegisteredType]:
    """Ask for a schema to be put in force for a type."""
    body = given(schema=schema, narrowing=narrowing or None, reason=reason)
    request = change("PUT", _event_type_path(event_type), body, idempotency_key)
    return Ask(request, _registered)


def _registered(answer: Answer) -> RegisteredType:
    read = partial(
        control_shapes.registered_type, status=answer.status, replayed=answers.replayed(answer)
    )
    return answers.read_by(read, answer)


def get_type(event_type: str, version: int | None) -> Ask[EventTypeVersion]:
    """Ask for a version of a type's schema; ``None``: for that in force."""
    parameters = () if version is None else (("version", str(operator.index(version))),)
    request = Request("GET", _event_type_path(event_type), parameters)
    return Ask(request, partial(answers.read_by, control_shapes.event_type_version))


def _event_type_path(event_type: str) -> str:
    return f"/event-types/{path_step(event_type, '/event_type')}"


# --- The brake --------------------------------------------------------------------------


def freeze(
    *,
    agent: str | None,
    tag: str | None,
    book: bool,
    reason: str,
    until: datetime | str | None,
    idempotency_key: str | None,
) -> Ask[Freeze]:
    """Ask for an agent, a tag or the whole book to be frozen.

    Raises:
        UsageError: it is not exactly one of them.
    """
    if [agent is not None, tag is not None, book].count(True) != 1:
        raise UsageError("Name one thing to freeze: `agent`, `tag`, or `book=True`.")
    body = given(
        agent=agent,
        tag=tag,
        book=book or None,
        reason=reason,
        until=optional_moment(until, "/until"),
    )
    request = change("POST", "/freezes", body, idempotency_key)
    return Ask(request, partial(answers.read_by, control_shapes.freeze))


def thaw(freeze: int | Freeze, *, reason: str, idempotency_key: str | None) -> Ask[Thawed]:
    """Ask for a freeze to be ended."""
    path = f"/freezes/{_freeze_id(freeze)}/thaw"
    request = change("POST", path, {"reason": reason}, idempotency_key)
    return Ask(request, partial(answers.read_by, control_shapes.thawed))


def freezes() -> Ask[tuple[Freeze, ...]]:
    """Ask for all that is frozen now."""
    return reading("/freezes", control_shapes.freezes)


def get_freeze(freeze: int | Freeze) -> Ask[Freeze]:
    """Ask for a freeze that is in force."""
    return reading(f"/freezes/{_freeze_id(freeze)}", control_shapes.freeze)


def _freeze_id(freeze: int | Freeze) -> int:
    return freeze.id if isinstance(freeze, Freeze) else operator.index(freeze)


# --- Parts ------------------------------------------------------------------------------


def reading(path: str, read: Callable[[Any], T]) -> Ask[T]:
    """Ask for what is at a path."""
    return Ask(Request("GET", path), partial(answers.read_by, read))


def change(method: str, path: str, body: Mapping[str, Any], idempotency_key: str | None) -> Request:
    """Return a request that changes something, with the caller's idempotency key or a new one."""
    return Request(
        method,
        path,
        body=document.encode(body),
        idempotency_key=idempotency_key_of(idempotency_key),
    )


def given(**members: Any) -> dict[str, Any]:
    """Return the members of a body that were given; the service has a default for the others."""
    return {name: value for name, value in members.items() if value is not None}


def optional_moment(value: datetime | str | None, pointer: str) -> str | None:
    """Return a moment as it is sent, if there is one."""
    return None if value is None else moment_text(value, pointer)


def _key_id(key: str | Key) -> str:
    key_id = key.key_id if isinstance(key, Key) else key
    if key_id.startswith(_KEY_TEXT_BEGINS):
        raise UnsendableValue(
            "This is the text of a key, which belongs in no address and no log. Give its id: the "
            "16 characters after `cf_live_` or `cf_test_`. (It was not sent.)",
            "/key_id",
        )
    return path_step(key_id, "/key_id")


def path_step(name: str, pointer: str) -> str:
    """Return a name as one step of a path.

    Raises:
        UnsendableValue: an address cannot carry it: each of these would mean another path.
    """
    if name in {"", ".", ".."}:
        raise UnsendableValue(f"{name!r} cannot stand in an address.", pointer)
    try:
        return quote(name, safe="")
    except UnicodeEncodeError:
        raise UnsendableValue("A lone surrogate cannot be written as UTF-8.", pointer) from None
