"""Keys over HTTP: made, used, rotated, revoked, bounded in rate, and told of in the book."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from counterfoil.server.core import limits
from tests.contract.problems import assert_problem
from tests.support.cluster import Cluster, Database
from tests.support.keys import BOOTSTRAP, Holder, held, holder_of, wait_until_refused
from tests.support.service import Service, running_service
from tests.support.waiting import wait_for

pytestmark = pytest.mark.promise("P7")


@pytest.fixture(scope="module")
def database(cluster: Cluster) -> Iterator[Database]:
    with cluster.database() as fresh:
        yield fresh


@pytest.fixture(scope="module")
def service(database: Database) -> Iterator[Service]:
    with running_service(database.url, api_key=BOOTSTRAP) as running:
        yield running


@pytest.fixture(scope="module")
def operator(service: Service) -> Iterator[Holder]:
    with holder_of(service) as holder:
        yield holder


@pytest.fixture
def admin(operator: Holder, request: pytest.FixtureRequest) -> Holder:
    """The admin of a tenant of the test's own."""
    return operator.tenant(request.node.name)


def told(holder: Holder, what: str) -> list[dict[str, Any]]:
    """The payloads of the service's own events of one type."""
    answer = holder.get("/events", params={"type": f"counterfoil.{what}"})
    assert answer.status_code == 200, answer.text
    return [event["payload"] for event in answer.json()["events"]]


# --- Made -------------------------------------------------------------------------


def test_a_key_is_shown_once_and_writes_as_its_principal(admin: Holder) -> None:
    made = admin.post("/keys", {"kind": "agent", "name": "fraud_agent"})
    key = made.json()
    assert key["key"].startswith(f"cf_live_{key['key_id']}_")
    assert made.headers["Location"] == f"/keys/{key['key_id']}"
    assert key["scopes"] == ["append:*", "consume:*", "decide:*", "read:*"]
    agent = held(admin.client, made)

    assert agent.append("fraud_agent").status_code == 201
    refused = agent.append("other_agent")

    assert assert_problem(refused, 403, "name-not-yours")["agent_name"] == "fraud_agent"
    shown = admin.get(f"/keys/{key['key_id']}").json()
    assert shown == {name: value for name, value in key.items() if name != "key"}
    listed = admin.get("/keys").json()["keys"]
    assert [row["key_id"] for row in listed] == [admin.key_id, key["key_id"]]
    assert "digest" not in made.text
    assert key["key"] not in str(listed)


def test_the_database_holds_no_secret(admin: Holder, database: Database) -> None:
    agent = admin.made(kind="agent", name="a")
    secret = agent.text.rpartition("_")[2]
    with psycopg.connect(database.url) as owner:
        for table in ("keys", "events", "idempotency_keys"):
            rows = owner.execute(f"select t::text from counterfoil.{table} as t").fetchall()
            assert secret not in str(rows)
    assert secret not in str(admin)


def test_me_shows_whose_key_it_is(admin: Holder) -> None:
    agent = admin.made(kind="agent", name="a", scopes=["read:flag_*", "append:note"], mode="test")
    assert agent.text.startswith("cf_test_")
    me = agent.get("/me").json()
    assert (me["kind"], me["name"], me["principal"]) == ("agent", "a", "agent:a")
    assert (me["key_id"], me["mode"]) == (agent.key_id, "test")
    assert me["scopes"] == ["append:note", "read:flag_*"]
    assert me["tenant"] == "test_me_shows_whose_key_it_is"


@pytest.mark.parametrize(
    ("key", "pointer"),
    [
        ({"kind": "robot", "name": "a"}, "/kind"),
        ({"kind": "agent", "name": "counterfoil"}, "/name"),
        ({"kind": "agent", "name": "a", "scopes": ["appendd:*"]}, "/scopes/0"),
        ({"kind": "auditor", "name": "a", "scopes": ["append:*"]}, "/scopes"),
        ({"kind": "admin", "name": "a", "scopes": ["append:*"]}, "/scopes"),
        ({"kind": "agent", "name": "a", "scopes": ["manage:keys"]}, "/scopes"),
        ({"kind": "admin", "name": "a", "scopes": ["operate:tenants"]}, "/scopes"),
        ({"kind": "agent", "name": "a", "rate_burst": 5}, ""),
        ({"kind": "agent", "name": "a", "rate_per_second": 0}, "/rate_per_second"),
        ({"kind": "agent", "name": "a", "expires_at": "tomorrow"}, "/expires_at"),
    ],
)
def test_a_key_that_may_not_be_is_refused_at_its_field(
    admin: Holder, key: dict[str, Any], pointer: str
) -> None:
    before = admin.get("/keys").json()
    assert_problem(admin.post("/keys", key), 422, "invalid-input", pointer)
    assert admin.get("/keys").json() == before


def test_control_is_not_made_out_of_nothing(admin: Holder) -> None:
    """Who manages keys and nothing else makes no key that manages the brake."""
    keeper = admin.made(kind="admin", name="keeper", scopes=["manage:keys"])
    assert keeper.made(kind="agent", name="a").get("/me").status_code == 200
    refused = keeper.post("/keys", {"kind": "person", "name": "p", "scopes": ["manage:brake"]})
    assert assert_problem(refused, 403, "scope-missing")["scope"] == "manage:brake"
    rotated = keeper.post(f"/keys/{admin.key_id}/rotate", {})
    assert_problem(rotated, 403, "scope-missing")


@pytest.mark.promise("P5")
def test_a_retried_creation_makes_one_key_and_shows_no_secret_again(admin: Holder) -> None:
    headers = {"Idempotency-Key": "make-1"}
    body = {"kind": "agent", "name": "a"}
    first, again = (admin.post("/keys", body, headers=headers) for _ in range(2))
    assert first.json()["key"]
    assert again.status_code == 201
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json() == {**first.json(), "key": None}
    other = admin.post("/keys", {**body, "name": "b"}, headers=headers)
    assert_problem(other, 422, "idempotency-mismatch")
    assert len(admin.get("/keys").json()["keys"]) == 2


def test_the_list_of_keys_has_pages(admin: Holder) -> None:
    for n in range(4):
        admin.made(kind="agent", name=f"a{n}")
    names, cursor = [], None
    while True:
        params = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        page = admin.get("/keys", params=params).json()
        names += [row["name"] for row in page["keys"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert names == ["admin", "a0", "a1", "a2", "a3"]
    assert_problem(
        admin.get("/keys", params={"cursor": "x"}), 422, "invalid-input", "/cursor", "query"
    )


# --- Taken away -------------------------------------------------------------------


def test_a_revoked_key_opens_nothing_in_any_worker_within_a_second(cluster: Cluster) -> None:
    """Keys are looked up anew well within a second. Three processes use it all the time."""
    import time

    with (
        cluster.database() as database,
        running_service(database.url, api_key=BOOTSTRAP) as one,
        running_service(database.url, api_key=BOOTSTRAP) as two,
        running_service(database.url, api_key=BOOTSTRAP) as three,
        holder_of(one) as operator,
    ):
        agent = operator.made(kind="agent", name="a")
        others = []
        for service in (two, three):
            with holder_of(service, agent.text) as other:
                assert other.get("/me").status_code == 200
            others.append(service)
        assert agent.get("/me").status_code == 200
        answer = operator.post(f"/keys/{agent.key_id}/revoke", {"reason": "Lost."})
        revoked_at = time.monotonic()
        assert answer.json()["revoked_at"]
        for service in (one, *others):
            with holder_of(service, agent.text) as other:
                wait_until_refused(other)
        assert time.monotonic() - revoked_at < limits.KEY_TRUST_SECONDS_MAX + 2
    assert limits.KEY_TRUST_SECONDS_MAX < 1


def test_revoking_twice_changes_nothing_more(admin: Holder) -> None:
    agent = admin.made(kind="agent", name="a")
    first = admin.post(f"/keys/{agent.key_id}/revoke", {"reason": "Lost."})
    again = admin.post(f"/keys/{agent.key_id}/revoke", {"reason": "Once more."})
    assert again.json()["revoked_at"] == first.json()["revoked_at"]
    reader = admin.made(kind="auditor", name="k.osei")
    assert [payload["reason"] for payload in told(reader, "key_revoked")] == ["Lost."]


def test_a_rotated_key_overlaps_with_the_next_and_keeps_its_principal(admin: Holder) -> None:
    old = admin.made(kind="agent", name="a", scopes=["append:note", "read:*"], rate_per_second=7)
    event = {"agent_name": "a", "event_type": "note", "payload": {}}
    first = old.post("/events", event, headers={"Idempotency-Key": "k"})

    answer = admin.post(f"/keys/{old.key_id}/rotate", {"overlap_seconds": 3600})
    new = held(admin.client, answer)

    assert answer.json()["replaces"] == old.key_id
    assert (answer.json()["scopes"], answer.json()["rate_per_second"]) == (
        ["append:note", "read:*"],
        7,
    )
    assert old.get("/me").status_code == new.get("/me").status_code == 200
    again = new.post("/events", event, headers={"Idempotency-Key": "k"})
    assert again.json() == first.json(), "the idempotency key is the principal's"
    shown = admin.get(f"/keys/{old.key_id}").json()
    assert shown["expires_at"] is not None


def test_a_key_rotated_without_overlap_is_worth_nothing_at_once(admin: Holder) -> None:
    old = admin.made(kind="agent", name="a")
    new = held(admin.client, admin.post(f"/keys/{old.key_id}/rotate", {"overlap_seconds": 0}))
    wait_until_refused(old)
    assert new.get("/me").status_code == 200
    refused = admin.post(f"/keys/{old.key_id}/rotate", {})
    assert_problem(refused, 409, "key-not-active")


def test_a_stream_ends_with_its_key(admin: Holder) -> None:
    agent = admin.made(kind="agent", name="a")
    headers = {"Authorization": f"Bearer {agent.text}"}
    with agent.client.stream("GET", "/events/stream", headers=headers) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("retry:")
        admin.post(f"/keys/{agent.key_id}/revoke", {"reason": "Lost."})
        rest = list(lines)  # It ends, or this would wait for ever.
    # What it may have read before its end is that the key was revoked.
    assert all('"counterfoil.key_revoked"' in line for line in rest if line.startswith("data:"))
    assert agent.get("/events/stream").status_code == 401


# --- Scopes over HTTP -------------------------------------------------------------


def test_a_read_is_refused_where_it_could_show_more_and_never_shortened(admin: Holder) -> None:
    writer = admin.made(kind="agent", name="a")
    writer.append("a", "flag_x", payload={"customer_id": "c"})
    writer.append("a", "secret", payload={"customer_id": "c"})
    reader = admin.made(kind="agent", name="r", scopes=["read:flag_*", "read:*@case"])

    assert reader.get("/events", params={"type": "flag_x"}).json()["events"]
    for path, params in (
        ("/events", {}),
        ("/events", {"tag": "customer:c"}),
        ("/events", {"type": ["flag_x", "secret"]}),
        ("/agent-events/a", {}),
        ("/events/stream", {"tag": "customer:c"}),
    ):
        refused = reader.get(path, params=params)
        assert_problem(refused, 403, "scope-missing")
    assert reader.get("/events", params={"tag": "case:1"}).status_code == 200
    query = {"query": [{"types": ["flag_x"]}, {"tags": ["customer:c"]}]}
    assert_problem(reader.post("/events/query", query), 403, "scope-missing")
    ids = {event["event_type"]: event["id"] for event in writer.get("/events").json()["events"]}
    assert reader.get(f"/events/{ids['flag_x']}").status_code == 200
    document = assert_problem(reader.get(f"/events/{ids['secret']}"), 403, "scope-missing")
    assert document["scope"] == "read:secret"


def test_a_condition_asks_only_about_what_the_key_may_read(admin: Holder) -> None:
    """Its conflicts would show the rest."""
    writer = admin.made(kind="agent", name="w")
    writer.append("w", "secret", payload={"customer_id": "c"})
    agent = admin.made(kind="agent", name="a", scopes=["append:note", "read:flag_*"])
    asked = {"agent_name": "a", "event_type": "note", "payload": {}}
    hidden = {"fail_if": [{"tags": ["customer:c"]}]}
    refused = agent.post("/events", {**asked, "condition": hidden})
    assert_problem(refused, 403, "scope-missing")
    assert "secret" not in refused.text
    open_to_it = {"fail_if": [{"types": ["flag_x"], "tags": ["customer:c"]}]}
    assert agent.post("/events", {**asked, "condition": open_to_it}).status_code == 201
    assert_problem(agent.append("a", "other"), 403, "scope-missing")


def test_each_event_of_a_batch_is_held_against_the_key(admin: Holder) -> None:
    agent = admin.made(kind="agent", name="a", scopes=["append:note", "read:*"])
    head = agent.head()
    for name, event_type, problem in (
        ("b", "note", "name-not-yours"),
        ("a", "other", "scope-missing"),
    ):
        events = [
            {"agent_name": "a", "event_type": "note", "payload": {}},
            {"agent_name": name, "event_type": event_type, "payload": {}},
        ]
        assert_problem(agent.post("/events/batch", {"events": events}), 403, problem)
    assert agent.head() == head


# --- Rates ------------------------------------------------------------------------


def test_a_key_that_calls_too_often_is_told_how_long_to_wait(admin: Holder) -> None:
    agent = admin.made(kind="agent", name="a", rate_per_second=1, rate_burst=3)
    answers = [agent.get("/me") for _ in range(3)]
    assert [answer.headers["RateLimit-Policy"] for answer in answers] == ['"key";q=3;w=3'] * 3
    assert [answer.headers["RateLimit"][:9] for answer in answers] == [
        '"key";r=2',
        '"key";r=1',
        '"key";r=0',
    ]
    refused = agent.append("a")
    assert_problem(refused, 429, "rate-limited")
    assert refused.headers["Retry-After"] == "1"
    wait_for(lambda: agent.get("/me").status_code == 200, "the key to be let in again")
    assert admin.get("/me").status_code == 200, "another key is not held back"


# --- The trail --------------------------------------------------------------------


def test_keys_made_rotated_and_revoked_are_in_the_book(admin: Holder) -> None:
    agent = admin.made(kind="agent", name="a")
    new = held(admin.client, admin.post(f"/keys/{agent.key_id}/rotate", {}))
    admin.post(f"/keys/{new.key_id}/revoke", {"reason": "Lost."})
    reader = admin.made(kind="auditor", name="k.osei")

    made = told(reader, "key_created")
    assert [(row["kind"], row["name"]) for row in made] == [
        ("admin", "admin"),
        ("agent", "a"),
        ("auditor", "k.osei"),
    ]
    assert made[1]["by"] == "admin:admin"
    (rotated,) = told(reader, "key_rotated")
    assert (rotated["key_id"], rotated["replaces"]) == (new.key_id, agent.key_id)
    (revoked,) = told(reader, "key_revoked")
    assert (revoked["key_id"], revoked["reason"]) == (new.key_id, "Lost.")
    answer = reader.get("/events", params={"tag": f"key:{new.key_id}"})
    assert len(answer.json()["events"]) == 2


def test_an_auditors_read_is_in_the_book_before_it_is_answered(admin: Holder) -> None:
    auditor = admin.made(kind="auditor", name="k.osei")
    answer = auditor.get("/events", params={"type": "counterfoil.audit_read"})
    events = answer.json()["events"]
    assert len(events) == 1
    (event,) = events
    assert event["agent_name"] == "counterfoil"
    assert event["payload"]["principal"] == "auditor:k.osei"
    assert event["payload"]["first_call"] == "GET /events"
    minutes = {event["payload"]["minute"]}
    told(auditor, "audit_read")
    rows = told(auditor, "audit_read")
    minutes |= {row["minute"] for row in rows}
    assert len(rows) == len(minutes), "once for each minute, however often it reads"


def test_refused_attempts_are_summed_up_when_the_service_stops(cluster: Cluster) -> None:
    """One event for each key and minute; of unknown keys, none."""
    with cluster.database() as database:
        with (
            running_service(database.url, api_key=BOOTSTRAP) as service,
            holder_of(service) as operator,
        ):
            agent = operator.made(kind="agent", name="a", scopes=["append:note", "read:note"])
            for _ in range(3):
                assert agent.append("other").status_code == 403
            assert agent.get("/events").status_code == 403
            # Not quite the address that the door knows: this one goes the long way.
            assert agent.get("/events%0A").status_code == 403
            wrong = Holder(agent.client, f"cf_live_{agent.key_id}_{'a' * 52}")
            assert wrong.get("/me").status_code == 401
            unknown = Holder(agent.client, f"cf_live_{'a' * 16}_{'a' * 52}")
            assert unknown.get("/me").status_code == 401
            head = operator.head()
        with psycopg.connect(database.url) as owner:
            rows = owner.execute(
                "select position, payload from counterfoil.events where position > %s", [head]
            ).fetchall()
    ((_, payload),) = rows
    assert payload["key_id"] == agent.key_id
    assert (payload["attempts"], payload["reasons"]) == (
        6,
        {"name": 3, "scope": 2, "wrong_secret": 1},
    )


def test_the_time_of_the_last_use_is_noted_when_the_service_stops(cluster: Cluster) -> None:
    with cluster.database() as database:
        with (
            running_service(database.url, api_key=BOOTSTRAP) as service,
            holder_of(service) as operator,
        ):
            agent = operator.made(kind="agent", name="a")
            unused = operator.made(kind="agent", name="b")
            agent.get("/me")
        with (
            running_service(database.url, api_key=BOOTSTRAP) as service,
            holder_of(service) as operator,
        ):
            shown = operator.get(f"/keys/{agent.key_id}").json()
            assert shown["last_used_at"] >= shown["created_at"]
            assert operator.get(f"/keys/{unused.key_id}").json()["last_used_at"] is None


# --- Tenants ----------------------------------------------------------------------


def test_a_tenant_has_a_book_of_its_own_that_begins_with_its_first_key(operator: Holder) -> None:
    answer = operator.post("/tenants", {"name": "acme"})
    assert answer.status_code == 201
    tenant = answer.json()
    assert (tenant["name"], tenant["key"]["kind"]) == ("acme", "admin")
    assert tenant["key"]["event_id"] == 1
    admin = Holder(operator.client, tenant["key"]["key"])
    agent = admin.made(kind="agent", name="a")
    assert agent.append("a").json()["id"] == 3
    assert_problem(operator.post("/tenants", {"name": "acme"}), 409, "tenant-exists")
    assert "acme" in [row["name"] for row in operator.get("/tenants").json()["tenants"]]
    assert_problem(admin.get("/tenants"), 403, "scope-missing")
    assert_problem(admin.get("/metrics"), 403, "scope-missing")
    assert "acme" not in operator.get("/metrics").text


def test_a_new_book_begins_with_the_users_first_event(cluster: Cluster) -> None:
    """Nothing that the service tells comes before it."""
    with (
        cluster.database() as database,
        running_service(database.url) as service,
        holder_of(service, "") as anybody,
    ):
        assert anybody.append("a").json()["id"] == 1
        wrong = Holder(anybody.client, f"cf_live_{'a' * 16}_{'a' * 52}")
        assert wrong.get("/me").status_code == 401, "what looks like a key must be one"
        agent = anybody.made(kind="agent", name="a")
        assert agent.append("b").status_code == 403
