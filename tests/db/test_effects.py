"""The effects of the service's own events, in the order of the group that they are in (P4, P7).

What may be written is settled in the same order as what is written: a request of a group is
judged by every request before it.
"""

from typing import Any

import psycopg
import pytest

from tests.db.book import Request, append, append_one, event, request, statuses

pytestmark = pytest.mark.promise("P7")

TAG = "customer:c"


def own(effect: dict[str, Any], **more: Any) -> Request:
    """One of the service's own requests."""
    told = event("counterfoil", "counterfoil.told")
    return request(told, own=True, effect=effect, **more)


def freeze(kind: str = "tag", subject: str = TAG, **more: Any) -> Request:
    row = {"kind": kind, "subject": subject, "reason": "why", "by": "admin:a", **more}
    return own({"effect": "freeze", **row})


def thaw(freeze_id: int) -> Request:
    return own({"effect": "thaw", "id": freeze_id})


def register(version: int = 1, event_type: str = "t") -> Request:
    row = {"event_type": event_type, "version": version, "schema": {}, "narrowing": False}
    return own({"effect": "register_event_type", "by": "admin:a", **row})


def create_key(key_id: str, **more: Any) -> dict[str, Any]:
    row = {"key_id": key_id, "kind": "agent", "name": "a", "mode": "live", "scopes": []}
    row |= {"digest": "00" * 32, "created_by": "admin:a", **more}
    return {"effect": "create_key", "key": row}


def about(*tags: str, agent: str = "a", **more: Any) -> Request:
    return request(event(agent, "t", tags=tags), **more)


def reasons(connection: psycopg.Connection, *requests: Request) -> list[Any]:
    """How each request fared; of a refused effect, why."""
    texts = []
    import json

    row = connection.execute(
        "select others from counterfoil.append_v4(1, %s, 1000)", [json.dumps(list(requests))]
    ).fetchone()
    assert row is not None
    others = {other["request"]: other for other in row[0] or []}
    for nth in range(len(requests)):
        other = others.get(nth)
        texts.append("stored" if other is None else other.get("reason") or other["status"])
    return texts


def test_those_before_a_freeze_are_stored_and_those_behind_it_are_not(
    service: psycopg.Connection,
) -> None:
    answers = append(service, about(TAG), freeze(), about(TAG), about("customer:d"), about())
    assert statuses(answers) == ["stored", "stored", "frozen", "stored", "stored"]
    assert answers[2].detail == [2]
    assert statuses(append(service, about(), about(TAG))) == ["stored", "frozen"]


def test_a_thaw_lets_those_behind_it_through(service: psycopg.Connection) -> None:
    frozen = append_one(service, freeze()).first_position
    assert frozen is not None
    answers = append(service, about(TAG), thaw(frozen), about(TAG))
    assert statuses(answers) == ["frozen", "stored", "stored"]


@pytest.mark.parametrize(
    ("kind", "subject", "held"),
    [("tag", TAG, [1, 3]), ("agent", "b", [2, 3]), ("book", "", [0, 1, 2, 3])],
)
def test_what_is_held_is_what_was_frozen(
    service: psycopg.Connection, kind: str, subject: str, held: list[int]
) -> None:
    append_one(service, freeze(kind, subject))
    asked = [about(), about("x:y", TAG), about(agent="b"), about(TAG, agent="b")]
    answers = append(service, *asked)
    assert [nth for nth, answer in enumerate(answers) if answer.status == "frozen"] == held


def test_a_batch_is_held_by_any_of_its_events(service: psycopg.Connection) -> None:
    append_one(service, freeze())
    batch = request(event("a", "t"), event("a", "t", tags=[TAG]))
    assert statuses(append(service, batch, about())) == ["frozen", "stored"]


def test_a_freeze_that_has_ended_holds_nothing_and_is_forgotten(
    service: psycopg.Connection, owner: psycopg.Connection
) -> None:
    append_one(service, freeze(until="2999-01-01T00:00:00Z"))
    assert append_one(service, about(TAG)).status == "frozen"
    owner.execute("update counterfoil.freezes set until = clock_timestamp()")
    assert append_one(service, about(TAG)).status == "stored"
    append_one(service, freeze("agent", "z"))
    assert owner.execute("select subject from counterfoil.freezes").fetchall() == [("z",)]


def test_the_key_comes_before_the_freeze(service: psycopg.Connection) -> None:
    """What was stored is answered again; what was refused is not remembered."""
    append_one(service, about(TAG, key="k"))
    frozen = append_one(service, freeze()).first_position
    assert append_one(service, about(TAG, key="k")).status == "replayed"
    assert append_one(service, about(TAG, key="k2")).status == "frozen"
    assert frozen is not None
    append_one(service, thaw(frozen))
    assert append_one(service, about(TAG, key="k2")).status == "stored"


def test_what_was_judged_by_outdated_rules_is_judged_anew(service: psycopg.Connection) -> None:
    answers = append(service, about(), register(), about(), about(rules=2), about(key="k"))
    assert statuses(answers) == ["stored", "stored", "rules_changed", "stored", "rules_changed"]
    assert append_one(service, about(rules=2)).status == "stored"
    # A group in which nothing else asks for a look.
    assert statuses(append(service, about(rules=2), about(rules=1))) == ["stored", "rules_changed"]
    assert append_one(service, about(rules=99)).status == "rules_changed"


def test_the_services_own_events_are_held_by_no_freeze_and_no_rules(
    service: psycopg.Connection,
) -> None:
    append_one(service, register())
    answers = append(service, freeze("book", ""), own({"effect": "none"}), register(2))
    assert statuses(answers) == ["stored"] * 3


def test_a_retry_under_new_rules_is_the_same_request(service: psycopg.Connection) -> None:
    """The rules are the process's, not the caller's: the content is compared without them."""
    append_one(service, about(key="k"))
    append_one(service, register())
    assert append_one(service, about(key="k", rules=2)).status == "replayed"


def test_an_effect_that_cannot_be_is_refused_alone_and_leaves_no_gap(
    service: psycopg.Connection,
) -> None:
    asked = [
        *(about(), thaw(77), register(2), register(1), register(1)),
        own({"effect": "revoke_key", "key_id": "x"}),
        own({"effect": "rotate_key", "key_id": "x", "overlap_seconds": 1, "key": {}}),
        freeze(until="2000-01-01T00:00:00Z"),
        own({"effect": "change_settings", "unregistered_types": "accepted"}),
        own(create_key("k1")),
    ]
    assert reasons(service, *asked) == [
        *("stored", "freeze_not_found", "version_taken", "stored", "version_taken"),
        *("key_not_found", "key_not_found", "ends_in_the_past", "unchanged", "stored"),
    ]
    row = service.execute("select max(position), count(*) from counterfoil.events").fetchone()
    assert row == (3, 3)


def test_what_a_key_stands_for_changes_at_the_position_of_its_event(
    service: psycopg.Connection, owner: psycopg.Connection
) -> None:
    new = create_key("k2", replaces="k1")["key"]
    rotate = {"effect": "rotate_key", "key_id": "k1", "overlap_seconds": 60, "key": new}
    assert reasons(
        service,
        own(create_key("k1")),
        own(rotate),
        own({"effect": "revoke_key", "key_id": "k1"}),
        own({"effect": "revoke_key", "key_id": "k1"}),
        own(rotate),
    ) == ["stored", "stored", "stored", "unchanged", "key_not_active"]
    rows = owner.execute(
        "select key_id, position, revoked_at is not null, replaces, "
        "expires_at - created_at from counterfoil.keys order by position"
    ).fetchall()
    assert [row[:4] for row in rows] == [("k1", 1, True, None), ("k2", 2, False, "k1")]
    assert rows[0][4].total_seconds() == 60


def test_another_tenants_book_opens_with_its_first_key(
    service: psycopg.Connection, owner: psycopg.Connection
) -> None:
    first = {**event("counterfoil", "counterfoil.key_created", {"n": 1}), "principal": "p"}
    asked = {"effect": "open_book", "name": "acme", "event": first}
    asked["key"] = create_key("k1")["key"]
    assert reasons(service, own(asked), about(), own(asked)) == [
        *("stored", "stored", "tenant_exists"),
    ]
    rows = owner.execute(
        "select b.tenant_id, b.name, (select count(*) from counterfoil.events e "
        "where e.tenant_id = b.tenant_id), (select key_id from counterfoil.keys k where "
        "k.tenant_id = b.tenant_id) from counterfoil.books b order by 1"
    ).fetchall()
    assert rows == [(1, "default", 2, None), (2, "acme", 1, "k1")]
    # The transaction is the opener's again.
    assert append_one(service, about()).status == "stored"
