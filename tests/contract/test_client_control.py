"""Both clients, and the commands, against the real service: who may write what.

What the simulated service of the client's unit tests promises about keys, tenants, rules and
the brake, the real one keeps.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import uuid4

import pytest

from counterfoil import (
    APIStatusError,
    AuthenticationError,
    Counterfoil,
    Frozen,
    InvalidRequestError,
    NarrowingChange,
    NotFoundError,
    PayloadMismatch,
    PermissionDenied,
    RateLimited,
    UnregisteredType,
    UsageError,
)
from counterfoil.cli.app import run
from counterfoil.cli.exits import ExitCode
from tests.contract.conftest import KEY, Connect
from tests.support.cluster import Cluster
from tests.support.service import Service, running_service

SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["amount"],
    "properties": {"amount": {"type": "integer"}},
}


class ConnectWith(Protocol):
    """Makes a client that calls with a key."""

    def __call__(self, api_key: str, **settings: Any) -> Counterfoil: ...


@pytest.fixture(scope="module")
def service(cluster: Cluster) -> Iterator[Service]:
    """A service with a key. Each test has a tenant of its own in it, but for the operator's."""
    with (
        cluster.database() as database,
        running_service(database.url, api_key=KEY) as started,
    ):
        yield started


@pytest.fixture
def connect(connect: Connect, service: Service) -> ConnectWith:
    """Make clients of the service with one key or another."""
    return lambda api_key, **settings: connect(service, api_key=api_key, **settings)


@pytest.fixture
def operator(connect: ConnectWith) -> Counterfoil:
    """A client with the key that the service was started with."""
    return connect(KEY)


@pytest.fixture
def admin(connect: ConnectWith, operator: Counterfoil) -> Counterfoil:
    """A client of the admin of a new tenant, in whose book nothing is yet but his key."""
    return connect(operator.tenants.create(f"tenant {uuid4()}").key.reveal())


@pytest.fixture
def agent(connect: ConnectWith, admin: Counterfoil) -> Counterfoil:
    """A client of an agent of that tenant, ``a``, who may write and read everything."""
    return connect(admin.keys.create(kind="agent", name="a").reveal())


def appended(cf: Counterfoil, agent_name: str, event_type: str, **payload: Any) -> int:
    return cf.events.append(agent_name=agent_name, event_type=event_type, payload=payload).id


# --- P7: keys -----------------------------------------------------------------------------


def test_the_life_of_a_key(connect: ConnectWith, admin: Counterfoil) -> None:
    assert (admin.me().principal, admin.me().kind) == ("admin:admin", "admin")

    created = admin.keys.create(
        kind="agent",
        name="fraud_agent",
        scopes=["append:flag_*", "read:flag_*@customer"],
        expires_at=datetime.now(UTC) + timedelta(days=1),
        rate_per_second=100,
    )
    agent = connect(created.reveal())
    me = agent.me()
    assert (me.principal, me.key_id) == ("agent:fraud_agent", created.key_id)
    assert set(me.scopes) == set(created.scopes) == {"append:flag_*", "read:flag_*@customer"}
    assert me.expires_at == created.expires_at

    appended(agent, "fraud_agent", "flag_transaction", customer_id="c_1")
    with pytest.raises(PermissionDenied) as anothers:
        appended(agent, "approver", "flag_transaction")
    assert anothers.value.agent_name == "fraud_agent"
    with pytest.raises(PermissionDenied) as out_of_scope:
        appended(agent, "fraud_agent", "approved")
    assert out_of_scope.value.scope == "append:approved"
    with pytest.raises(PermissionDenied) as unread:
        list(agent.events.list(types="flag_transaction"))
    assert unread.value.scope is not None
    with pytest.raises(PermissionDenied, match="manage:keys"):
        list(agent.keys.list())

    rotated = admin.keys.rotate(created, overlap_seconds=0)
    assert (rotated.replaces, rotated.name) == (created.key_id, "fraud_agent")
    successor = connect(rotated.reveal())
    assert successor.me().principal == "agent:fraud_agent"
    with pytest.raises(APIStatusError) as ended:
        admin.keys.rotate(created.key_id)
    assert ended.value.problem == "key-not-active"

    revoked = admin.keys.revoke(rotated.key_id, reason="The laptop that held it was lost.")
    assert revoked.revoked_at is not None
    assert not revoked.is_active(revoked.revoked_at)
    assert admin.keys.get(rotated.key_id).revoked_at == revoked.revoked_at
    with pytest.raises(NotFoundError):
        admin.keys.get("a" * 16)


def test_keys_are_listed_through_all_pages(admin: Counterfoil) -> None:
    made = [admin.keys.create(kind="agent", name=f"agent_{n}").key_id for n in range(5)]
    assert [key.key_id for key in admin.keys.list(limit=2)] == [admin.me().key_id, *made]


def test_a_repeated_creation_has_no_text(admin: Counterfoil) -> None:
    first = admin.keys.create(kind="agent", name="a", idempotency_key="k")
    again = admin.keys.create(kind="agent", name="a", idempotency_key="k")
    assert (again.key_id, again.text, again.replayed) == (first.key_id, None, True)
    with pytest.raises(UsageError):
        again.reveal()
    with pytest.raises(InvalidRequestError):
        admin.keys.create(kind="agent", name="a", scopes=[])


def test_a_follower_ends_when_its_key_does(
    connect: ConnectWith, admin: Counterfoil, agent: Counterfoil
) -> None:
    created = admin.keys.create(kind="auditor", name="m.ito")
    at = appended(agent, "a", "seen")
    with connect(created.reveal()).events.follow(after=at - 1) as events:
        assert next(events).id == at
        admin.keys.revoke(created, reason="The audit is over.")
        with pytest.raises(AuthenticationError):
            list(events)  # What was under way is still given.


def test_a_key_that_calls_too_often_is_told_when_to_come_back(
    connect: ConnectWith, admin: Counterfoil
) -> None:
    slow = admin.keys.create(kind="auditor", name="m.ito", rate_per_second=1, rate_burst=1)
    impatient = connect(slow.reveal(), max_retries=0)
    with pytest.raises(RateLimited) as limited:
        [impatient.me() for _ in range(20)]
    assert limited.value.retry_after_seconds is not None
    assert connect(slow.reveal(), max_retries=5).me().rate_per_second == 1


def test_a_tenant_has_a_book_and_keys_of_its_own(
    connect: ConnectWith, operator: Counterfoil
) -> None:
    assert (operator.me().tenant, operator.me().key_id) == ("default", None)
    name, key = f"acme {uuid4()}", str(uuid4())
    acme = operator.tenants.create(name, idempotency_key=key)
    assert operator.tenants.create(name, idempotency_key=key).key.text is None
    tenants = [tenant.name for tenant in operator.tenants.list(limit=1)]
    assert (tenants[0], tenants[-1]) == ("default", name)
    with pytest.raises(APIStatusError) as taken:
        operator.tenants.create(name)
    assert taken.value.problem == "tenant-exists"

    admin = connect(acme.key.reveal())
    assert (admin.me().tenant, admin.me().kind) == (name, "admin")
    with pytest.raises(PermissionDenied):
        list(admin.tenants.list())
    agent = connect(admin.keys.create(kind="agent", name="a").reveal())
    assert agent.events.get(appended(agent, "a", "seen")).agent_name == "a"
    with pytest.raises(NotFoundError):
        operator.keys.get(acme.key.key_id)


# --- Rules ----------------------------------------------------------------------------------


def test_a_payload_must_fit_its_registered_type(admin: Counterfoil, agent: Counterfoil) -> None:
    first = admin.event_types.register("payment/€", SCHEMA)
    assert (first.version, first.changed, first.registered_by) == (1, True, "admin:admin")
    again = admin.event_types.register("payment/€", SCHEMA)
    assert (again.version, again.changed, again.event_id) == (1, False, first.event_id)

    appended(agent, "a", "payment/€", amount=12)
    with pytest.raises(PayloadMismatch) as misfit:
        appended(agent, "a", "payment/€", amount="12")
    assert (misfit.value.event_type, misfit.value.version) == ("payment/€", 1)
    assert misfit.value.errors[0].pointer == "/payload/amount"

    narrower = {**SCHEMA, "required": ["amount", "currency"]}
    with pytest.raises(NarrowingChange) as refused:
        admin.event_types.register("payment/€", narrower)
    assert refused.value.errors
    second = admin.event_types.register(
        "payment/€", narrower, narrowing=True, reason="No payment without a currency."
    )
    assert second.version == 2

    now = admin.event_types.get("payment/€")
    assert (now.schema, now.active, now.versions) == (narrower, True, (1, 2))
    assert (now.narrowing, now.reason) == (True, "No payment without a currency.")
    before = admin.event_types.get("payment/€", version=1)
    assert (before.schema, before.active) == (SCHEMA, False)
    assert [each.version for each in admin.event_types.list()] == [2]
    with pytest.raises(NotFoundError):
        admin.event_types.get("payment/€", version=3)


def test_unregistered_types_are_refused_where_the_tenant_says_so(
    admin: Counterfoil, agent: Counterfoil
) -> None:
    assert admin.settings.get().unregistered_types == "accepted"
    changed = admin.settings.update(unregistered_types="refused")
    assert changed.unregistered_types == "refused"
    assert admin.settings.get() == changed
    with pytest.raises(UnregisteredType):
        appended(agent, "a", "unheard_of")


# --- The brake --------------------------------------------------------------------------------


def test_what_is_frozen_is_not_written_about_until_it_is_thawed(
    admin: Counterfoil, agent: Counterfoil
) -> None:
    until = datetime(2999, 1, 1, tzinfo=UTC)
    freeze = admin.brake.freeze(tag="customer:c_1", reason="Suspected.", until=until)
    assert (freeze.kind, freeze.subject, freeze.until) == ("tag", "customer:c_1", until)
    assert admin.brake.list() == (freeze,)
    assert admin.brake.get(freeze.id) == freeze

    with pytest.raises(Frozen, match="Suspected") as refused:
        appended(agent, "a", "payment", customer_id="c_1")
    assert refused.value.freeze == freeze
    assert refused.value.freeze_id == freeze.id
    appended(agent, "a", "payment", customer_id="c_2")

    thawed = admin.brake.thaw(freeze, reason="All is well.")
    assert (thawed.id, thawed.subject, thawed.reason) == (freeze.id, "customer:c_1", "Suspected.")
    assert thawed.event_id > freeze.id
    appended(agent, "a", "payment", customer_id="c_1")
    with pytest.raises(NotFoundError):
        admin.brake.thaw(freeze, reason="Again.")

    everything = admin.brake.freeze(book=True, reason="Cut-over.")
    with pytest.raises(Frozen):
        appended(agent, "a", "payment")
    admin.brake.thaw(everything, reason="Done.")
    assert admin.brake.list() == ()


# --- The commands -----------------------------------------------------------------------------


class Call(Protocol):
    """Runs a command with a key, and returns what it printed on standard output."""

    def __call__(self, key: str, *arguments: str, ends: ExitCode = ExitCode.OK) -> str: ...


@pytest.fixture
def call(
    service: Service, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Call:
    """Run commands against the service."""
    monkeypatch.setenv("COUNTERFOIL_BASE_URL", service.url)
    monkeypatch.setenv("COLUMNS", "200")

    def called(key: str, *arguments: str, ends: ExitCode = ExitCode.OK) -> str:
        monkeypatch.setenv("COUNTERFOIL_API_KEY", key)
        capsys.readouterr()
        code = run(list(arguments))
        printed = capsys.readouterr()
        assert code == ends, printed.err
        return printed.out

    return called


def test_keys_and_tenants_by_command(call: Call) -> None:
    name = f"acme {uuid4()}"
    admin = call(KEY, "tenants", "create", name).strip()
    assert name in call(KEY, "tenants", "list")
    assert name in call(admin, "whoami")

    agent = ("agent", "fraud_agent", "--scope", "append:flag_*", "--expires-in", "90d")
    key = call(admin, "keys", "create", *agent).strip()
    assert "agent:fraud_agent" in call(key, "whoami")
    call(key, "append", "fraud_agent", "flag_it", "{}")
    call(key, "append", "approver", "flag_it", "{}", ends=ExitCode.REFUSED)
    call(key, "keys", "list", ends=ExitCode.REFUSED)

    listed = [json.loads(line) for line in call(admin, "keys", "list", "-o", "json").splitlines()]
    assert [each["name"] for each in listed] == ["admin", "fraud_agent"]
    new = call(admin, "keys", "rotate", listed[1]["key_id"], "--overlap", "0s").strip()
    assert "fraud_agent" in call(new, "whoami")
    key_id = new.split("_")[2]
    assert f"replaces   {listed[1]['key_id']}" in call(admin, "keys", "show", key_id)
    call(admin, "keys", "revoke", key_id, "--reason", "Lost.", "--yes")
    assert "revoked" in call(admin, "keys", "list")


def test_rules_and_the_brake_by_command(call: Call) -> None:
    admin = call(KEY, "tenants", "create", f"acme {uuid4()}").strip()
    key = call(admin, "keys", "create", "agent", "a").strip()
    append = ("append", "a", "flag_it", '{"customer_id": "c_1"}')
    call(key, *append)

    freeze = ("brake", "freeze", "--tag", "customer:c_1", "--for", "2h", "--reason", "Suspected.")
    frozen = json.loads(call(admin, *freeze, "-o", "json"))
    assert "tag customer:c_1" in call(admin, "brake", "list")
    call(key, *append, ends=ExitCode.FROZEN)
    call(admin, "brake", "thaw", str(frozen["id"]), "--reason", "All is well.")
    call(key, *append)

    call(admin, "event-types", "register", "flag_it", json.dumps(SCHEMA))
    call(key, *append, ends=ExitCode.REFUSED)
    assert '"required": ["amount"]' in call(admin, "event-types", "show", "flag_it")
    assert "flag_it" in call(admin, "event-types", "list")

    assert "refused" in call(admin, "settings", "set", "--unregistered-types", "refused")
    assert "refused" in call(admin, "settings", "show")
    call(key, "append", "a", "unheard_of", "{}", ends=ExitCode.REFUSED)
