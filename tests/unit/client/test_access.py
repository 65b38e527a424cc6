"""Keys and tenants: what is sent, what comes back, and where a key's text never stands."""

import json
import traceback
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx2
import pytest

from counterfoil import (
    APIStatusError,
    AuthenticationError,
    Counterfoil,
    CreatedKey,
    Key,
    NotFoundError,
    OutcomeUnknown,
    UnexpectedAnswer,
    UnsendableValue,
    UsageError,
)
from counterfoil.client.control_requests import ROWS_DEFAULT
from tests.unit.client.simulated_book import Fault, problem
from tests.unit.client.simulated_service import SECRET_PART, SimulatedService

CREATED = datetime(2025, 1, 2, 3, 4, 5, 6, UTC)


def sent(service: SimulatedService) -> object:
    return json.loads(service.received[-1].body)


def keys_sent(service: SimulatedService) -> list[str]:
    return [received.headers["Idempotency-Key"] for received in service.received]


# --- Making keys ------------------------------------------------------------------------


def test_a_key_is_made_with_what_was_given_and_nothing_else(
    cf: Counterfoil, service: SimulatedService
) -> None:
    created = cf.keys.create(kind="agent", name="fraud_agent")
    assert sent(service) == {"kind": "agent", "name": "fraud_agent", "mode": "live"}
    assert (service.received[0].method, service.received[0].path) == ("POST", "/keys")
    assert UUID(keys_sent(service)[0]).version == 4
    assert (created.kind, created.name, created.mode) == ("agent", "fraud_agent", "live")
    assert created.scopes == ("append:*", "read:*")
    assert (created.created_at, created.created_by) == (CREATED, "person:m.ito")
    assert (created.expires_at, created.revoked_at, created.last_used_at) == (None, None, None)
    assert (created.event_id, created.replaces, created.replayed) == (1, None, False)


def test_everything_that_a_key_can_be_asked_for_arrives(
    cf: Counterfoil, service: SimulatedService
) -> None:
    created = cf.keys.create(
        kind="service",
        name="export",
        scopes=["read:*@customer", "append:export_*"],
        mode="test",
        expires_at=datetime(2027, 3, 1, tzinfo=UTC),
        rate_per_second=5,
        rate_burst=50,
    )
    assert sent(service) == {
        "kind": "service",
        "name": "export",
        "scopes": ["read:*@customer", "append:export_*"],
        "mode": "test",
        "expires_at": "2027-03-01T00:00:00+00:00",
        "rate_per_second": 5,
        "rate_burst": 50,
    }
    assert created.expires_at == datetime(2027, 3, 1, tzinfo=UTC)
    assert (created.rate_per_second, created.rate_burst) == (5, 50)
    assert created.reveal().startswith("cf_test_")


def test_a_scope_is_not_taken_for_its_letters(cf: Counterfoil, service: SimulatedService) -> None:
    cf.keys.create(kind="auditor", name="m.ito", scopes="read:*")
    assert sent(service) == {
        "kind": "auditor",
        "name": "m.ito",
        "scopes": ["read:*"],
        "mode": "live",
    }


def test_no_scopes_at_all_are_not_sent_as_the_defaults(
    cf: Counterfoil, service: SimulatedService
) -> None:
    # A program that computed an empty list must not be given a key to everything.
    cf.keys.create(kind="agent", name="a", scopes=[])
    assert sent(service) == {"kind": "agent", "name": "a", "scopes": [], "mode": "live"}


def test_a_time_without_a_zone_is_refused_before_sending(
    cf: Counterfoil, service: SimulatedService
) -> None:
    with pytest.raises(UnsendableValue, match="without a time zone") as naive:
        cf.keys.create(kind="agent", name="a", expires_at=datetime(2027, 1, 1))  # noqa: DTZ001 - the point
    assert naive.value.pointer == "/expires_at"
    assert service.received == []


# --- The text: once, and nowhere else -----------------------------------------------------


def test_the_text_is_there_once_and_in_nothing_that_can_be_printed(cf: Counterfoil) -> None:
    created = cf.keys.create(kind="agent", name="fraud_agent")
    assert created.text == created.reveal()
    assert SECRET_PART in created.reveal()
    shown = [repr(created), str(created), f"{created}", repr([created]), repr({"key": created})]
    tenant = cf.tenants.create("acme")
    assert SECRET_PART in tenant.key.reveal()
    shown += [repr(tenant), str(tenant)]
    assert SECRET_PART not in "\n".join(shown)
    assert created.key_id in repr(created)


def test_a_repeated_call_makes_no_second_key_and_shows_no_text(
    cf: Counterfoil, service: SimulatedService
) -> None:
    first = cf.keys.create(kind="agent", name="fraud_agent", idempotency_key="deploy-17")
    again = cf.keys.create(kind="agent", name="fraud_agent", idempotency_key="deploy-17")
    assert len(service.keys) == 1
    assert (again.key_id, again.text, again.replayed) == (first.key_id, None, True)
    with pytest.raises(UsageError, match="in that answer only") as refused:
        again.reveal()
    assert f"keys.rotate('{first.key_id}', overlap_seconds=0)" in str(refused.value)


def test_an_answer_without_the_text_is_not_believed(
    cf: Counterfoil, service: SimulatedService
) -> None:
    made = cf.keys.create(kind="agent", name="a", idempotency_key="k")
    assert isinstance(made, CreatedKey)
    stripped = {**service.keys[0], "key": None}
    service.faults.append(Fault(httpx2.Response(201, json=stripped)))
    with pytest.raises(OutcomeUnknown, match="its text is not there"):
        cf.keys.create(kind="agent", name="a")


def test_a_lost_answer_is_asked_for_again_and_makes_one_key(
    cf: Counterfoil, service: SimulatedService
) -> None:
    service.faults.append(Fault(httpx2.ReadError("reset"), served=True))
    created = cf.keys.create(kind="agent", name="fraud_agent")
    assert len(service.keys) == 1
    assert len(set(keys_sent(service))) == 1
    # Its text was in the answer that was lost: nobody has it, and the caller is told so.
    assert created.replayed
    assert created.text is None


def test_no_error_shows_the_text_of_a_key(cf: Counterfoil, service: SimulatedService) -> None:
    text = cf.keys.create(kind="agent", name="a").reveal()
    for call in (cf.keys.get, cf.keys.rotate):
        with pytest.raises(UnsendableValue, match="the text of a key") as refused:
            call(text)
        assert SECRET_PART not in "".join(traceback.format_exception(refused.value))
    with pytest.raises(UnsendableValue, match="It was not sent"):
        cf.keys.revoke(text, reason="Lost.")
    assert len(service.received) == 1


# --- The life of a key --------------------------------------------------------------------


def test_a_key_is_listed_shown_rotated_and_revoked(
    cf: Counterfoil, service: SimulatedService
) -> None:
    old = cf.keys.create(kind="agent", name="fraud_agent", scopes=["append:flag_*"])
    new = cf.keys.rotate(old.key_id, overlap_seconds=0, expires_at="2027-03-01T00:00:00Z")
    assert sent(service) == {"overlap_seconds": 0, "expires_at": "2027-03-01T00:00:00Z"}
    assert (new.replaces, new.kind, new.name) == (old.key_id, old.kind, old.name)
    assert new.scopes == ("append:flag_*",)
    assert new.reveal() != old.reveal()

    revoked = cf.keys.revoke(old, reason="The laptop that held it was lost.")
    assert service.received[-1].path == f"/keys/{old.key_id}/revoke"
    assert sent(service) == {"reason": "The laptop that held it was lost."}
    assert revoked.revoked_at == CREATED
    assert type(revoked) is Key

    assert cf.keys.get(old.key_id).revoked_at == CREATED
    assert [key.key_id for key in cf.keys.list()] == [old.key_id, new.key_id]


def test_a_rotation_leaves_the_overlap_to_the_service(
    cf: Counterfoil, service: SimulatedService
) -> None:
    cf.keys.rotate(cf.keys.create(kind="agent", name="a"))
    assert sent(service) == {}


def test_a_list_is_read_page_by_page_when_it_is_needed(
    cf: Counterfoil, service: SimulatedService
) -> None:
    made = [cf.keys.create(kind="agent", name=f"agent_{number}").key_id for number in range(5)]
    service.received.clear()
    keys = cf.keys.list(limit=2)
    assert service.received == []
    first = next(keys)
    assert len(service.received) == 1
    assert [first.key_id, *(key.key_id for key in keys)] == made
    asked = [dict(received.parameters) for received in service.received]
    assert asked == [{"limit": "2"}, {"limit": "2", "cursor": "2"}, {"limit": "2", "cursor": "4"}]


def test_an_empty_list_is_one_page(cf: Counterfoil, service: SimulatedService) -> None:
    assert list(cf.tenants.list()) == []
    assert dict(service.received[0].parameters) == {"limit": str(ROWS_DEFAULT)}


def test_a_list_that_leads_back_to_itself_is_not_followed(
    cf: Counterfoil, service: SimulatedService
) -> None:
    circle = httpx2.Response(200, json={"keys": [], "next": "1"})
    service.faults.extend([Fault(circle)] * 3)
    with pytest.raises(UnexpectedAnswer, match="leads back"):
        list(cf.keys.list())
    assert len(service.received) == 2


def test_a_refused_page_ends_the_iteration(cf: Counterfoil, service: SimulatedService) -> None:
    service.faults.append(Fault(problem(401, "unauthenticated", "No.")))
    with pytest.raises(AuthenticationError):
        list(cf.keys.list())


@pytest.mark.parametrize("key_id", ["", ".", ".."])
def test_an_id_that_means_another_path_is_refused_before_sending(
    cf: Counterfoil, service: SimulatedService, key_id: str
) -> None:
    with pytest.raises(UnsendableValue, match="cannot stand in an address"):
        cf.keys.revoke(key_id, reason="Lost.")
    assert service.received == []


def test_an_id_cannot_lead_elsewhere(cf: Counterfoil, service: SimulatedService) -> None:
    with pytest.raises(NotFoundError):
        cf.keys.get("a/../../tenants?x=1#y")
    assert service.raw_paths == ["/keys/a%2F..%2F..%2Ftenants%3Fx%3D1%23y"]


def test_a_key_knows_whether_it_opens_anything(cf: Counterfoil) -> None:
    key = cf.keys.create(kind="agent", name="a")
    assert key.is_active()
    ends = datetime.now(UTC) + timedelta(hours=1)
    ending = cf.keys.create(kind="agent", name="b", expires_at=ends)
    assert ending.is_active()
    assert ending.is_active(ends - timedelta(seconds=1))
    assert not ending.is_active(ends)
    assert not cf.keys.revoke(key, reason="Lost.").is_active()


def test_what_is_known_of_a_key_cannot_be_changed(cf: Counterfoil) -> None:
    key = cf.keys.create(kind="agent", name="a")
    with pytest.raises(FrozenInstanceError):
        key.revoked_at = None  # type: ignore[misc]  # the point


def test_a_key_that_is_none_of_counterfoils_is_not_believed(
    cf: Counterfoil, service: SimulatedService
) -> None:
    service.faults.append(Fault(httpx2.Response(200, json={"key_id": 7})))
    with pytest.raises(UnexpectedAnswer, match="a string was expected"):
        cf.keys.get("k")


# --- Tenants, and oneself -----------------------------------------------------------------


def test_a_tenant_is_made_with_the_key_of_its_first_admin(
    cf: Counterfoil, service: SimulatedService
) -> None:
    acme = cf.tenants.create("acme", idempotency_key="onboarding-1")
    assert (service.received[0].method, service.received[0].path) == ("POST", "/tenants")
    assert sent(service) == {"name": "acme"}
    assert (acme.tenant_id, acme.name, acme.created_at) == (2, "acme", CREATED)
    assert (acme.key.kind, acme.key.name, acme.replayed) == ("admin", "admin", False)
    assert acme.key.text is not None

    again = cf.tenants.create("acme", idempotency_key="onboarding-1")
    assert (again.replayed, again.key.replayed, again.key.text) == (True, True, None)
    assert [tenant.name for tenant in cf.tenants.list()] == ["acme"]
    with pytest.raises(APIStatusError) as taken:
        cf.tenants.create("acme")
    assert taken.value.problem == "tenant-exists"


def test_a_client_can_ask_whose_key_it_has(cf: Counterfoil) -> None:
    me = cf.me()
    assert (me.tenant, me.principal) == ("default", "agent:fraud_agent")
    assert (me.kind, me.name, me.mode) == ("agent", "fraud_agent", "live")
    assert me.scopes == ("append:flag_*", "read:*")
    assert (me.rate_per_second, me.rate_burst, me.expires_at) == (100, 200, None)


def test_the_key_that_the_service_was_started_with_has_no_id(
    cf: Counterfoil, service: SimulatedService
) -> None:
    bootstrap = {"tenant": "default", "principal": "api-key", "kind": None, "name": None}
    rest = {"key_id": None, "mode": None, "scopes": ["append:*"], "expires_at": None}
    service.faults.append(Fault(httpx2.Response(200, json=bootstrap | rest)))
    me = cf.me()
    assert (me.principal, me.kind, me.name, me.key_id) == ("api-key", None, None, None)
