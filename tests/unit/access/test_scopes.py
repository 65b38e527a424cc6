"""Scopes: what each fault is called, what kinds of keys may have, and what is missing.

What scopes allow is tried in ``tests/properties/test_scopes.py``.
"""

from typing import get_args

import pytest

from counterfoil.server.access.scopes import (
    ALL,
    KEY_KINDS,
    KeyKind,
    Managed,
    Operated,
    Scopes,
    for_kind,
    kind_fault,
)
from counterfoil.server.core import limits
from counterfoil.server.core.errors import FieldError, InvalidInput
from counterfoil.server.log.query import Item

TENANT_ID = 2
OPERATOR = 1


def errors_of(*texts: str) -> tuple[FieldError, ...]:
    with pytest.raises(InvalidInput) as caught:
        Scopes.parse(texts)
    return caught.value.errors


def asks(*types: str, tags: tuple[str, ...] = ()) -> list[Item]:
    return [Item(types=frozenset(types), tags=frozenset(tags))]


# --- Reading them -----------------------------------------------------------------


@pytest.mark.promise("P13")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "such as `read:payment.*`"),
        ("appendix:*", "such as `read:payment.*`"),
        ("READ:*", "such as `read:payment.*`"),
        (" read:*", "such as `read:payment.*`"),
        ("append", "`append` names no event type. For all of them, end it in `*`: `append:*`."),
        ("read:", "For all of them, end it in `*`: `read:*`."),
        ("read:@customer", "`read:@customer` names no event type."),
        ("append:a@customer", "Only `read:` can be for a kind of tags"),
        ("append:a*b", "a `*` is not the end of the pattern. As itself, write `%2A`."),
        ("append:**", "a `*` is not the end of the pattern. As itself, write `%2A`."),
        ("read:a@k*", "a `*` is not the end of the pattern. As itself, write `%2A`."),
        ("read:a@k@l", "an `@` stands in the kind of tags. As itself, write `%40`."),
        ("read:a%2", "a `%` is not followed by two hexadecimal digits. Write `%25`."),
        ("read:100%", "a `%` is not followed by two hexadecimal digits. Write `%25`."),
        ("read:a%FF", "What is percent-encoded in `read:a%FF` is not UTF-8."),
        ("read:%ED%A0%80", "is not UTF-8"),
        ("append:café*", "write `append:caf%C3%A9*`."),
        ("read:a b@ü", "write `read:a%20b@%C3%BC`."),
        ("read:a\x00", "`read:a\\u0000` holds some as they are."),
        ("read:\ud800", "`read:\\ud800` holds some as they are."),
        ("read:a%00", "No event type can match `read:a%00`"),
        ("read:%20a*", "No event type can match `read:%20a*`"),
        ("read:a%20", "No event type can match `read:a%20`"),
        (f"read:{'a' * 129}", "No event type can match"),
        (f"read:{'a' * 129}*", "No event type can match"),
        ("read:a@", "What follows `@` in `read:a@` is no kind of tags"),
        ("read:a@customer:c1", "What follows `@` in `read:a@customer:c1` is no kind of tags"),
        ("read:a@%20k", "is no kind of tags"),
        (f"read:a@{'k' * 65}", "is no kind of tags"),
        (
            "manage:key",
            "`manage:` goes on with `keys`, `event-types`, `brake`, `consumers`, `policies`, `settings` or `*`; this",
        ),
        ("operate:", "`operate:` goes on with `tenants`, `metrics` or `*`; this is `operate:`."),
        ("operate:t*", "`operate:` goes on with"),
        (f"read:{'%20' * 84}", "A scope has at most 256 characters; this one has 257."),
    ],
)
def test_each_fault_is_named_with_the_way_out(text: str, said: str) -> None:
    (error,) = errors_of("read:*", text)
    assert error.pointer == "/scopes/1"
    assert said in error.message


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("append:a%20*", "append:a%20*"),
        (f"read:{'a' * 128}*", f"read:{'a' * 128}*"),
        (f"read:a@{'k' * 64}", f"read:a@{'k' * 64}"),
        ("read:%61%2e%2a@%6b", "read:a.%2A@k"),
        ("read:urn:x/y+z~1", "read:urn:x/y+z~1"),
        ("manage:*", "manage:*"),
    ],
)
def test_what_is_just_within_the_rules_is_taken(sent: str, kept: str) -> None:
    assert Scopes.parse([sent]).texts() == [kept]


def test_faults_are_named_together() -> None:
    errors = errors_of("read", "append:*", "manage:all")
    assert [error.pointer for error in errors] == ["/scopes/0", "/scopes/2"]
    assert len(errors_of(*["no"] * limits.SCOPES_MAX)) == limits.FIELD_ERRORS_MAX


def test_a_key_has_a_hundred_scopes_at_most() -> None:
    texts = [f"append:t{number}" for number in range(limits.SCOPES_MAX)]
    assert len(Scopes.parse(texts).texts()) == limits.SCOPES_MAX
    (error,) = errors_of(*texts, "append:u")
    assert error.pointer == "/scopes"
    assert "at most 100 scopes; these are 101" in error.message


def test_they_are_shown_as_they_are_written() -> None:
    scopes = Scopes.parse(["read:b", "append:a%2a", "read:b"])
    assert repr(scopes) == "Scopes.parse(['append:a%2A', 'read:b'])"
    assert scopes == Scopes.parse(["append:a%2A", "read:b"])
    assert scopes != Scopes.parse(["append:a*", "read:b"])


# --- What they allow, beside patterns ---------------------------------------------


def test_nothing_is_allowed_by_no_scope() -> None:
    nothing = Scopes.parse([])
    assert not nothing.may_append_anything
    assert not nothing.may_read_anything
    assert not nothing.may_read(None)
    assert not nothing.may_read_event("a", ["k:1"])
    assert not nothing.may_manage("keys")


def test_an_empty_query_opens_nothing() -> None:
    """Judged queries are never empty. One that is may be taken for one that asks nothing."""
    assert not Scopes.parse(["read:a", "read:*@k"]).may_read([])
    assert Scopes.parse(["read:*"]).may_read([])


def test_control_is_allowed_by_its_name_or_by_all_of_it() -> None:
    managed: tuple[Managed, ...] = ("keys", "event-types", "brake", "settings")
    operated: tuple[Operated, ...] = ("tenants", "metrics")
    for what in managed:
        assert [
            other for other in managed if Scopes.parse([f"manage:{what}"]).may_manage(other)
        ] == [what]
        assert Scopes.parse(["manage:*"]).may_manage(what)
        assert not Scopes.parse(["append:*", "read:*", "operate:*"]).may_manage(what)
        assert ALL.may_manage(what)
    for name in operated:
        assert [
            other for other in operated if Scopes.parse([f"operate:{name}"]).may_operate(other)
        ] == [name]
        assert Scopes.parse(["operate:*"]).may_operate(name)
        assert not Scopes.parse(["append:*", "read:*", "manage:*"]).may_operate(name)
        assert ALL.may_operate(name)


def test_all_is_everything() -> None:
    assert ALL.may_append_all
    assert ALL.may_read_all
    assert ALL.missing_to_grant(ALL) is None


def test_control_is_not_handed_on_by_those_who_do_not_have_it() -> None:
    keeper = Scopes.parse(["manage:keys"])
    assert keeper.missing_to_grant(Scopes.parse(["append:*", "read:*", "manage:keys"])) is None
    assert keeper.missing_to_grant(Scopes.parse(["manage:*"])) == "manage:brake"
    admin = Scopes.parse(["manage:*"])
    assert (
        admin.missing_to_grant(Scopes.parse(["manage:*", "operate:metrics"])) == "operate:metrics"
    )
    each = Scopes.parse([f"manage:{what}" for what in get_args(Managed)])
    assert each.missing_to_grant(admin) is None


# --- What is missing --------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "missing"),
    [
        (None, "read:*"),
        ([], "read:*"),
        (asks("open", "b b", "c"), "read:b%20b"),
        (asks(tags=("customer:c1",)), "read:*@customer"),
        (asks("open", "b", tags=("transaction:t1", "account:a1")), "read:b@account"),
        (asks("half"), "read:half"),
        (asks("open") + asks("half", tags=("customer:c1", "account:a1")) + asks("z"), "read:z"),
        ([Item(agents=frozenset({"someone"}))], "read:*"),
    ],
)
def test_the_missing_scope_is_the_narrowest_that_helps(
    query: list[Item] | None, missing: str
) -> None:
    scopes = Scopes.parse(["read:open", "read:half@customer"])
    assert not scopes.may_read(query)
    assert scopes.missing_read(query) == missing


def test_a_missing_scope_can_be_granted_however_long_the_type_is() -> None:
    event_type, kind = "💳" * limits.NAME_CHARACTERS_MAX, "é" * limits.TAG_KIND_CHARACTERS_MAX
    nothing = Scopes.parse([])

    missing = nothing.missing_append(event_type)
    assert missing.endswith("*")
    assert Scopes.parse([missing]).may_append(event_type)

    query = asks(event_type, tags=(f"{kind}:1",))
    assert Scopes.parse([nothing.missing_read(query)]).may_read(query)
    query = asks(tags=(f"{kind}:1",))
    assert Scopes.parse([nothing.missing_read(query)]).may_read(query)


# --- Kinds of keys ----------------------------------------------------------------

WHOLE = ("append:*", "manage:*", "operate:*", "read:*")


@pytest.mark.promise("P7")
@pytest.mark.parametrize(
    ("kind", "tenant_id", "allowed"),
    [
        ("agent", OPERATOR, {"append:*", "read:*"}),
        ("person", OPERATOR, {"append:*", "read:*", "manage:*"}),
        ("service", OPERATOR, {"append:*", "read:*", "manage:*"}),
        ("auditor", OPERATOR, {"read:*"}),
        ("admin", OPERATOR, {"read:*", "manage:*", "operate:*"}),
        ("admin", TENANT_ID, {"read:*", "manage:*"}),
    ],
)
def test_each_kind_of_key_has_its_bounds(kind: KeyKind, tenant_id: int, allowed: set[str]) -> None:
    for text in WHOLE:
        fault = kind_fault(kind, Scopes.parse([text]), tenant_id=tenant_id)
        assert (fault is None) == (text in allowed)
    together = kind_fault(kind, Scopes.parse(WHOLE), tenant_id=tenant_id)
    assert together is not None
    assert together.pointer == "/scopes"
    assert kind_fault(kind, Scopes.parse(sorted(allowed)), tenant_id=tenant_id) is None


def test_what_a_kind_cannot_have_is_said_with_the_way_out() -> None:
    fault = kind_fault("auditor", Scopes.parse(["append:a"]), tenant_id=TENANT_ID)
    assert fault == FieldError(
        "/scopes",
        "An auditor's key has scopes of `read:` only; `append:a` needs an agent's key, a person's "
        "key or a service's key.",
    )
    fault = kind_fault("admin", Scopes.parse(["operate:metrics"]), tenant_id=TENANT_ID)
    assert fault is not None
    assert fault.message.startswith("`operate:metrics` is for keys of the operator's own tenant")


@pytest.mark.parametrize("kind", KEY_KINDS)
@pytest.mark.parametrize("tenant_id", [OPERATOR, TENANT_ID])
def test_the_scopes_of_a_kind_are_within_its_bounds(kind: KeyKind, tenant_id: int) -> None:
    scopes = for_kind(kind, tenant_id=tenant_id)
    assert kind_fault(kind, scopes, tenant_id=tenant_id) is None
    assert scopes.may_append_all == (kind in {"agent", "person", "service"})
    assert scopes.may_read_all == (kind != "admin")
    assert scopes.may_manage("keys") == (kind == "admin")
    assert scopes.may_operate("tenants") == (kind == "admin" and tenant_id == OPERATOR)
