"""Settings, event types and the brake: what is sent, and what comes back."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx2
import pytest

from counterfoil import (
    Counterfoil,
    Frozen,
    NarrowingChange,
    NotFoundError,
    PayloadMismatch,
    PermissionDenied,
    TenantSettings,
    Thawed,
    UnsendableValue,
    UsageError,
)
from tests.unit.client.simulated_book import Fault, problem
from tests.unit.client.simulated_service import SimulatedService

CREATED = datetime(2025, 1, 2, 3, 4, 5, 6, UTC)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["amount"],
    "properties": {"amount": {"type": "integer"}, "rate": {"minimum": Decimal("0.10")}},
}


def sent(service: SimulatedService) -> object:
    return json.loads(service.received[-1].body, parse_float=Decimal)


# --- Settings ---------------------------------------------------------------------------


def test_settings_are_read_and_changed(cf: Counterfoil, service: SimulatedService) -> None:
    assert cf.settings.get() == TenantSettings(unregistered_types="accepted", event_id=None)
    changed = cf.settings.update(unregistered_types="refused", idempotency_key="tighten-1")
    assert changed == TenantSettings(unregistered_types="refused", event_id=1)
    assert service.received[-1].method == "PUT"
    assert service.received[-1].headers["Idempotency-Key"] == "tighten-1"
    assert sent(service) == {"unregistered_types": "refused"}
    assert cf.settings.get() == changed


# --- Event types --------------------------------------------------------------------------


def test_a_schema_is_registered_in_versions_that_stay_readable(
    cf: Counterfoil, service: SimulatedService
) -> None:
    first = cf.event_types.register("payment", SCHEMA)
    assert (service.received[0].method, service.received[0].path) == ("PUT", "/event-types/payment")
    assert sent(service) == {"schema": SCHEMA}
    assert (first.event_type, first.version, first.changed) == ("payment", 1, True)
    assert (first.registered_at, first.registered_by) == (CREATED, "person:m.ito")

    second = cf.event_types.register(
        "payment", SCHEMA | {"additionalProperties": False}, narrowing=True, reason="No typos."
    )
    assert sent(service) == {
        "schema": SCHEMA | {"additionalProperties": False},
        "narrowing": True,
        "reason": "No typos.",
    }
    assert second.version == 2

    now = cf.event_types.get("payment")
    assert (now.version, now.active, now.versions) == (2, True, (1, 2))
    assert (now.narrowing, now.reason) == (True, "No typos.")
    before = cf.event_types.get("payment", version=1)
    assert dict(service.received[-1].parameters) == {"version": "1"}
    assert (before.version, before.active, before.narrowing) == (1, False, False)
    assert before.schema == SCHEMA
    assert str(before.schema["properties"]["rate"]["minimum"]) == "0.10"
    assert [(each.event_type, each.version) for each in cf.event_types.list()] == [("payment", 2)]


def test_a_schema_that_is_in_force_is_left_as_it_is(cf: Counterfoil) -> None:
    first = cf.event_types.register("payment", SCHEMA, idempotency_key="start")
    again = cf.event_types.register("payment", SCHEMA)
    assert (again.version, again.changed, again.replayed) == (1, False, False)
    assert again.event_id == first.event_id
    replayed = cf.event_types.register("payment", SCHEMA, idempotency_key="start")
    assert (replayed.changed, replayed.replayed) == (True, True)


def test_a_type_may_have_any_name(cf: Counterfoil, service: SimulatedService) -> None:
    for name in ("a/b", "zahlung.geprüft", "a b?c#d%e", "..."):
        cf.event_types.register(name, SCHEMA)
        assert cf.event_types.get(name).event_type == name
    assert service.raw_paths[0] == "/event-types/a%2Fb"
    for name in ("", ".", "..", "\ud800"):
        with pytest.raises(UnsendableValue) as refused:
            cf.event_types.get(name)
        assert refused.value.pointer == "/event_type"


def test_a_narrowing_change_is_refused_with_its_places(
    cf: Counterfoil, service: SimulatedService
) -> None:
    errors = [{"pointer": "/schema/required", "message": "`currency` is new.", "in": "body"}]
    service.faults.append(Fault(problem(409, "narrowing-change", "It narrows.", errors=errors)))
    with pytest.raises(NarrowingChange, match=r"/schema/required: `currency` is new\.") as refused:
        cf.event_types.register("payment", SCHEMA)
    assert refused.value.errors[0].pointer == "/schema/required"
    assert len(service.received) == 1


def test_a_payload_that_does_not_fit_is_refused_on_appending(
    cf: Counterfoil, service: SimulatedService
) -> None:
    told = {"event_type": "payment", "version": 3}
    service.faults.append(Fault(problem(422, "payload-mismatch", "It does not fit.", **told)))
    with pytest.raises(PayloadMismatch) as refused:
        cf.events.append(agent_name="a", event_type="payment", payload={"amount": "12"})
    assert (refused.value.event_type, refused.value.version) == ("payment", 3)
    assert len(service.received) == 1


def test_a_version_that_is_not_there_is_not_found(cf: Counterfoil) -> None:
    with pytest.raises(NotFoundError):
        cf.event_types.get("payment")


# --- The brake ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "body", "kind", "subject"),
    [
        ({"agent": "fraud_agent"}, {"agent": "fraud_agent"}, "agent", "fraud_agent"),
        ({"tag": "customer:c_1"}, {"tag": "customer:c_1"}, "tag", "customer:c_1"),
        ({"book": True}, {"book": True}, "book", None),
    ],
)
def test_one_thing_is_frozen_and_thawed(
    cf: Counterfoil,
    service: SimulatedService,
    what: dict[str, Any],
    body: dict[str, Any],
    kind: str,
    subject: str | None,
) -> None:
    freeze = cf.brake.freeze(**what, reason="Suspected.", until="2027-03-01T00:00:00Z")
    assert (service.received[0].method, service.received[0].path) == ("POST", "/freezes")
    assert sent(service) == body | {"reason": "Suspected.", "until": "2027-03-01T00:00:00Z"}
    assert (freeze.id, freeze.kind, freeze.subject) == (1, kind, subject)
    assert (freeze.reason, freeze.until) == ("Suspected.", datetime(2027, 3, 1, tzinfo=UTC))
    assert (freeze.frozen_at, freeze.frozen_by) == (CREATED, "person:m.ito")
    assert cf.brake.list() == (freeze,)
    assert cf.brake.get(1) == cf.brake.get(freeze) == freeze

    thawed = cf.brake.thaw(freeze, reason="All is well.")
    assert service.received[-1].path == "/freezes/1/thaw"
    assert sent(service) == {"reason": "All is well."}
    assert isinstance(thawed, Thawed)
    assert (thawed.id, thawed.subject, thawed.thawed_at) == (1, subject, CREATED)
    assert (thawed.thawed_by, thawed.event_id) == ("person:j.doe", 2)
    assert cf.brake.list() == ()
    with pytest.raises(NotFoundError):
        cf.brake.thaw(1, reason="Again.")


@pytest.mark.parametrize(
    "what", [{}, {"agent": "a", "tag": "a:b"}, {"tag": "a:b", "book": True}, {"book": False}]
)
def test_it_must_be_exactly_one_thing(
    cf: Counterfoil, service: SimulatedService, what: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match="one thing to freeze"):
        cf.brake.freeze(**what, reason="Suspected.")
    assert service.received == []


def test_an_empty_name_is_the_services_to_refuse(
    cf: Counterfoil, service: SimulatedService
) -> None:
    # Left out, `agent=""` would look like a freeze of nothing: it is sent as it is.
    service.faults.append(Fault(problem(422, "invalid-input", "It is empty.")))
    with pytest.raises(Exception, match="It is empty"):
        cf.brake.freeze(agent="", reason="Suspected.")
    assert sent(service) == {"agent": "", "reason": "Suspected."}


def test_a_freeze_that_is_asked_for_twice_is_one(
    cf: Counterfoil, service: SimulatedService
) -> None:
    service.faults.append(Fault(httpx2.ReadError("reset"), served=True))
    freeze = cf.brake.freeze(book=True, reason="Cut-over.")
    assert cf.brake.list() == (freeze,)
    assert len({received.headers["Idempotency-Key"] for received in service.received[:2]}) == 1


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (problem(403, "scope-missing", "No.", scope="append:payment"), PermissionDenied),
        (problem(423, "frozen", "It is frozen.", freeze=57), Frozen),
    ],
)
def test_what_may_not_be_written_is_not_tried_again(
    cf: Counterfoil, service: SimulatedService, answer: httpx2.Response, kind: type[Exception]
) -> None:
    service.faults.append(Fault(answer))
    with pytest.raises(kind):
        cf.events.append(agent_name="a", event_type="payment", payload={})
    assert len(service.received) == 1
    assert service.head == 0
