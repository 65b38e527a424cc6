"""Event types with schemas: registering, versions, what is refused and where it points."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.problems import assert_problem
from tests.support.cluster import Cluster
from tests.support.keys import BOOTSTRAP, Holder, holder_of
from tests.support.service import Service, running_service

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "transaction_id": {"type": "string"},
        "amount": {"type": "integer", "minimum": 0},
    },
    "required": ["amount"],
}


@pytest.fixture(scope="module")
def service(cluster: Cluster) -> Iterator[Service]:
    with (
        cluster.database() as database,
        running_service(database.url, api_key=BOOTSTRAP) as running,
    ):
        yield running


@pytest.fixture
def admin(service: Service, request: pytest.FixtureRequest) -> Iterator[Holder]:
    """The admin of a tenant of the test's own."""
    with holder_of(service) as operator:
        yield operator.tenant(request.node.name)


@pytest.fixture
def agent(admin: Holder) -> Holder:
    return admin.made(kind="agent", name="fraud_agent")


def register(admin: Holder, event_type: str = "flag", **body: Any) -> Any:
    return admin.ask("PUT", f"/event-types/{event_type}", json={"schema": SCHEMA, **body})


def flag(agent: Holder, payload: Any) -> Any:
    return agent.append("fraud_agent", "flag", payload=payload)


def test_what_fits_is_stored_and_what_does_not_is_refused_at_its_field(
    admin: Holder, agent: Holder
) -> None:
    assert flag(agent, {"amount": "much"}).status_code == 201  # before it is registered
    made = register(admin)
    assert made.status_code == 201
    assert (made.json()["version"], made.json()["active"]) == (1, True)
    assert made.headers["Location"] == "/event-types/flag"
    head = agent.head()

    assert flag(agent, {"amount": 100}).status_code == 201
    for payload, pointer in (
        ({"amount": "much"}, "/payload/amount"),
        ({"amount": -1}, "/payload/amount"),
        ({"amount": 1.5}, "/payload/amount"),
        ({}, "/payload/amount"),
        ({"amount": 1, "transaction_id": ["tx"]}, "/payload/transaction_id"),
    ):
        document = assert_problem(flag(agent, payload), 422, "payload-mismatch", pointer)
        assert (document["event_type"], document["version"]) == ("flag", 1)
    batch = [
        {"agent_name": "fraud_agent", "event_type": "flag", "payload": {"amount": n}}
        for n in (1, "two")
    ]
    refused = agent.post("/events/batch", {"events": batch})
    assert_problem(refused, 422, "payload-mismatch", "/events/1/payload/amount")

    assert agent.head() == head + 1


def test_numbers_are_compared_digit_for_digit(admin: Holder, agent: Holder) -> None:
    exact = {"type": "object", "properties": {"n": {"maximum": 2**53, "multipleOf": 1}}}
    admin.ask("PUT", "/event-types/flag", json={"schema": exact})
    assert flag(agent, {"n": 2**53}).status_code == 201
    assert_problem(flag(agent, {"n": 2**53 + 1}), 422, "payload-mismatch", "/payload/n")
    cents = {"type": "object", "properties": {"n": {"multipleOf": 0.01}}}
    changed = {"schema": cents, "narrowing": True, "reason": "Cents."}
    assert admin.ask("PUT", "/event-types/flag", json=changed).status_code == 201
    for text, fits in (("19.99", True), ("19.995", False), ("0.3", True), ("1e-3", False)):
        body = f'{{"agent_name":"fraud_agent","event_type":"flag","payload":{{"n":{text}}}}}'
        answer = agent.ask(
            "POST", "/events", content=body, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == (201 if fits else 422), text


@pytest.mark.parametrize(
    ("asked", "number", "fits"),
    [
        ({"maximum": "1.0"}, "1.00000000000000000000000000001", False),
        ({"maximum": "1.0"}, "1", True),
        ({"minimum": "9007199254740993"}, "9007199254740993.0", True),
        ({"exclusiveMaximum": "9007199254740993"}, "9007199254740993.0", False),
        ({"exclusiveMinimum": "0.1"}, "0.1000000000000000000000001", True),
        ({"multipleOf": "1"}, "1.00000000000000000000000000001", False),
        ({"multipleOf": "0.5"}, "9007199254740992.5", True),
        ({"multipleOf": "1"}, "9007199254740992.5", False),
        ({"multipleOf": "1e-50"}, "1e40", True),
        ({"type": '"integer"'}, "9007199254740993.0", True),
        ({"enum": "[9007199254740993, 0.1]"}, "9007199254740992", False),
        ({"enum": "[9007199254740993, 0.1]"}, "0.10", True),
    ],
)
def test_no_digit_is_lost_on_the_way_to_a_comparison(
    admin: Holder, agent: Holder, asked: dict[str, str], number: str, fits: bool
) -> None:
    ((keyword, value),) = asked.items()
    json = {"Content-Type": "application/json"}
    schema = f'{{"schema":{{"properties":{{"n":{{"{keyword}":{value}}}}}}}}}'
    assert admin.ask("PUT", "/event-types/flag", content=schema, headers=json).status_code == 201
    body = f'{{"agent_name":"fraud_agent","event_type":"flag","payload":{{"n":{number}}}}}'
    answer = agent.ask("POST", "/events", content=body, headers=json)
    assert answer.status_code == (201 if fits else 422)


def test_a_wider_version_is_taken_and_a_narrower_one_needs_to_be_asked_for(
    admin: Holder, agent: Holder
) -> None:
    register(admin)
    wider = {**SCHEMA, "required": []}
    assert register(admin, schema=wider).json()["version"] == 2
    assert flag(agent, {}).status_code == 201

    narrower = {**SCHEMA, "additionalProperties": False}
    refused = register(admin, schema=narrower)
    document = assert_problem(refused, 409, "narrowing-change")
    assert {error["pointer"] for error in document["errors"]} == {
        "/schema/required",
        "/schema/additionalProperties",
    }
    assert_problem(register(admin, schema=narrower, narrowing=True), 422, "invalid-input")
    reason = "Misspelt fields went unnoticed."
    made = register(admin, schema=narrower, narrowing=True, reason=reason)
    assert (made.status_code, made.json()["version"], made.json()["reason"]) == (201, 3, reason)
    assert_problem(flag(agent, {"amount": 1, "amuont": 2}), 422, "payload-mismatch", "/payload")


def test_versions_stay_readable(admin: Holder, agent: Holder) -> None:
    register(admin)
    register(admin, schema={"type": "object"})

    first = agent.get("/event-types/flag", params={"version": 1}).json()
    active = agent.get("/event-types/flag").json()

    assert (first["version"], first["active"], first["schema"]) == (1, False, SCHEMA)
    assert (active["version"], active["active"], active["versions"]) == (2, True, [1, 2])
    assert_problem(
        agent.get("/event-types/flag", params={"version": 3}), 404, "event-type-not-found"
    )
    assert_problem(agent.get("/event-types/other"), 404, "event-type-not-found")
    listed = agent.get("/event-types").json()
    assert [(row["event_type"], row["version"]) for row in listed["event_types"]] == [("flag", 2)]


def test_the_book_tells_of_every_version(admin: Holder, agent: Holder) -> None:
    made = register(admin).json()
    told = agent.get(f"/events/{made['event_id']}").json()
    assert (told["agent_name"], told["event_type"]) == (
        "counterfoil",
        "counterfoil.event_type_registered",
    )
    assert told["payload"]["schema"] == SCHEMA
    assert told["payload"]["by"] == "admin:admin"


def test_the_same_schema_again_changes_nothing_and_a_key_answers_alike(
    admin: Holder, agent: Holder
) -> None:
    key = {"Idempotency-Key": "register-1"}
    body = {"schema": SCHEMA}
    first = admin.ask("PUT", "/event-types/flag", json=body, headers=key)
    head = agent.head()

    again = admin.ask("PUT", "/event-types/flag", json=body)
    replayed = admin.ask("PUT", "/event-types/flag", json=body, headers=key)
    other = {"schema": {"type": "object"}}

    assert (first.status_code, again.status_code, replayed.status_code) == (201, 200, 201)
    assert replayed.headers["Idempotent-Replayed"] == "true"
    assert replayed.json() == first.json() == again.json()
    assert_problem(
        admin.ask("PUT", "/event-types/flag", json=other, headers=key), 422, "idempotency-mismatch"
    )
    assert agent.head() == head


@pytest.mark.promise("P5")
def test_what_was_stored_is_answered_again_under_rules_that_refuse_it(
    admin: Holder, agent: Holder
) -> None:
    """A retry whose first answer was lost; the rules became narrower in between."""
    event = {"agent_name": "fraud_agent", "event_type": "flag", "payload": {"amount": "much"}}
    other = {**event, "event_type": "other"}
    first = [
        agent.post("/events", body, headers={"Idempotency-Key": key}).json()
        for key, body in (("k1", event), ("k2", other))
    ]
    register(admin, narrowing=True, reason="Cents.")
    admin.ask("PUT", "/settings", json={"unregistered_types": "refused"})
    head = agent.head()

    again = agent.post("/events", event, headers={"Idempotency-Key": "k1"})
    assert (again.status_code, again.json()) == (201, first[0])
    assert again.headers["Idempotent-Replayed"] == "true"
    again = agent.post("/events", other, headers={"Idempotency-Key": "k2"})
    assert (again.status_code, again.json()) == (201, first[1])
    fresh = agent.post("/events", event, headers={"Idempotency-Key": "k3"})
    assert_problem(fresh, 422, "payload-mismatch", "/payload/amount")
    changed = {**event, "payload": {"amount": "more"}}
    mixed = agent.post("/events", changed, headers={"Idempotency-Key": "k1"})
    assert_problem(mixed, 422, "idempotency-mismatch")
    assert agent.head() == head


@pytest.mark.promise("P5")
def test_a_registration_is_answered_again_when_it_would_narrow_by_now(
    admin: Holder,
) -> None:
    key = {"Idempotency-Key": "r1"}
    body = {"schema": SCHEMA}
    first = admin.ask("PUT", "/event-types/flag", json=body, headers=key)
    register(admin, schema={"type": "object"})
    again = admin.ask("PUT", "/event-types/flag", json=body, headers=key)
    assert (again.status_code, again.json()["version"]) == (201, first.json()["version"])
    assert again.headers["Idempotent-Replayed"] == "true"
    fresh = admin.ask("PUT", "/event-types/flag", json=body, headers={"Idempotency-Key": "r2"})
    assert_problem(fresh, 409, "narrowing-change")


@pytest.mark.parametrize(
    ("schema", "pointer"),
    [
        ({"requried": ["amount"]}, "/schema/requried"),
        ({"type": "array"}, "/schema/type"),
        ({"type": "objct"}, "/schema/type"),
        ({"properties": {"a": {"$ref": "https://example.com/a"}}}, "/schema/properties/a/$ref"),
        ({"properties": {"a": {"$ref": "#"}}}, "/schema/properties/a/$ref"),
        ({"properties": {"a": {"format": "phone"}}}, "/schema/properties/a/format"),
        ({"properties": {"a": {"pattern": "(?=a)"}}}, "/schema/properties/a/pattern"),
        ({"properties": {"a": {"pattern": "(a{1000}){1000}"}}}, "/schema/properties/a/pattern"),
        ({"properties": {"a": {"pattern": "(?i)a"}}}, "/schema/properties/a/pattern"),
        ({"patternProperties": {"(": {}}}, "/schema/patternProperties/("),
        ({"patternProperties": 5}, "/schema/patternProperties"),
        ({"properties": [{}]}, "/schema/properties"),
        ({"anyOf": {}}, "/schema/anyOf"),
        ({"properties": {"a" * 40_000: {"allOf": [{}] * 4_000}}}, "/schema"),
        ({"properties": {"a": 1}}, "/schema/properties/a"),
        ({"properties": {"a": {"format": []}}}, "/schema/properties/a/format"),
        ({"type": 5}, "/schema/type"),
        ({"then": {"required": ["a"]}}, "/schema/then"),
        ({"minContains": 1}, "/schema/minContains"),
        # Two ways to write one name: what is judged must be what is followed.
        (
            {"$defs": {"a%62": {}, "ab": {"properties": {"a": {"$ref": "#/$defs/a%62"}}}}},
            "/schema/$defs",
        ),
        # What the checker would compare with itself, entry by entry, before it is judged.
        ({"required": [0.5, 1.5]}, "/schema/required"),
        ({"type": [0.5, 1.5]}, "/schema/type"),
        ({"dependentRequired": {"a": [0.5]}}, "/schema/dependentRequired"),
        ({"$dynamicRef": "#a"}, "/schema/$dynamicRef"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "/schema/$schema"),
        (
            {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"},
            "/schema/$defs/a",
        ),
    ],
)
def test_a_schema_that_may_not_be_is_refused_at_its_place(
    admin: Holder, schema: Any, pointer: str
) -> None:
    refused = admin.ask("PUT", "/event-types/flag", json={"schema": schema})
    assert_problem(refused, 422, "invalid-input", pointer)
    assert_problem(admin.get("/event-types/flag"), 404, "event-type-not-found")


def test_a_schema_that_doubles_with_every_level_is_refused(admin: Holder) -> None:
    levels: dict[str, Any] = {"l0": {"type": "string"}}
    for n in range(1, 40):
        reference = {"$ref": f"#/$defs/l{n - 1}"}
        levels[f"l{n}"] = {"anyOf": [reference, reference]}
    schema = {"$defs": levels, "properties": {"a": {"$ref": "#/$defs/l39"}}}
    refused = admin.ask("PUT", "/event-types/flag", json={"schema": schema})
    assert_problem(refused, 422, "invalid-input", "/schema")


def test_references_that_lead_too_deep_are_refused(admin: Holder) -> None:
    levels: dict[str, Any] = {"l0": {"type": "string"}}
    for n in range(1, 1_000):
        levels[f"l{n}"] = {"items": {"$ref": f"#/$defs/l{n - 1}"}}
    schema = {"$defs": levels, "properties": {"a": {"$ref": "#/$defs/l999"}}}
    refused = admin.ask("PUT", "/event-types/flag", json={"schema": schema})
    assert "more than 64 deep" in assert_problem(refused, 422, "invalid-input", "/schema")["detail"]


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ([f"^{n}$" for n in range(101)], "100 patterns"),
        ([f"^.{{1,140}}{n}$" for n in range(10)], "1,024 KiB compiled"),
        ([r"\s" * 60] * 5, "256 classes"),
    ],
)
def test_patterns_that_would_take_too_much_together_are_refused(
    admin: Holder, patterns: list[str], message: str
) -> None:
    schema = {"properties": {f"p{n}": {"pattern": text} for n, text in enumerate(patterns)}}
    refused = admin.ask("PUT", "/event-types/flag", json={"schema": schema})
    assert message in assert_problem(refused, 422, "invalid-input", "/schema")["detail"]


def test_a_schema_that_nothing_can_be_held_against_in_time_is_refused(admin: Holder) -> None:
    schema: dict[str, Any] = {}
    for _ in range(15):
        schema = {"allOf": [schema], "unevaluatedProperties": False}
    refused = admin.ask("PUT", "/event-types/flag", json={"schema": schema})
    assert "Not even an empty" in assert_problem(refused, 422, "invalid-input", "/schema")["detail"]


BRANCHES: dict[str, Any] = {
    "properties": {"v": {"items": {"anyOf": [*({"minLength": n} for n in range(2, 301)), {}]}}}
}
"""Every entry of `v` is held against 300 schemas."""


def test_a_payload_that_could_hold_up_the_process_is_refused_before_it_is_checked(
    admin: Holder, agent: Holder
) -> None:
    assert register(admin, schema=BRANCHES).status_code == 201
    assert flag(agent, {"v": [1] * 100}).status_code == 201
    head = agent.head()
    refused = assert_problem(flag(agent, {"v": [1] * 20_000}), 422, "payload-mismatch", "/payload")
    assert "12,040,008 steps" in refused["detail"]
    assert "Send less in one event" in refused["detail"]
    assert agent.head() == head


def test_a_batch_that_could_hold_up_the_process_is_refused(admin: Holder, agent: Holder) -> None:
    assert register(admin, schema=BRANCHES).status_code == 201
    event = {"agent_name": "fraud_agent", "event_type": "flag", "payload": {"v": [1] * 3_000}}
    assert agent.post("/events/batch", {"events": [event] * 11}).status_code == 201
    refused = agent.post("/events/batch", {"events": [event] * 12})
    document = assert_problem(refused, 422, "payload-mismatch", "/events/11/payload")
    assert "fewer events" in document["detail"]


def test_a_tenant_can_refuse_types_without_a_schema(admin: Holder, agent: Holder) -> None:
    register(admin)
    before = {"unregistered_types": "accepted", "event_id": None}
    assert agent.get("/settings").json() == before
    changed = admin.ask("PUT", "/settings", json={"unregistered_types": "refused"})
    assert changed.json() == {"unregistered_types": "refused", "event_id": agent.head()}

    refused = agent.append("fraud_agent", "flga")
    assert_problem(refused, 422, "event-type-unregistered", "/event_type")
    assert flag(agent, {"amount": 1}).status_code == 201
    head = agent.head()
    admin.ask("PUT", "/settings", json={"unregistered_types": "refused"})
    assert agent.head() == head, "what is settled already is not written again"
    admin.ask("PUT", "/settings", json={"unregistered_types": "accepted"})
    assert agent.append("fraud_agent", "flga").status_code == 201


def test_another_tenants_types_are_none_of_ours(
    service: Service, admin: Holder, agent: Holder
) -> None:
    register(admin)
    with holder_of(service) as operator:
        rival = operator.tenant(f"rival of {admin.key_id}")
        theirs = rival.made(kind="agent", name="fraud_agent")
        assert_problem(theirs.get("/event-types/flag"), 404, "event-type-not-found")
        assert flag(theirs, {"amount": "much"}).status_code == 201
    assert flag(agent, {"amount": "much"}).status_code == 422


def test_the_services_own_types_cannot_be_registered(admin: Holder) -> None:
    refused = register(admin, "counterfoil.frozen")
    assert_problem(refused, 422, "invalid-input", "/event_type", "path")
