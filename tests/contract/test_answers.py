"""What a success looks like: exact bodies, headers, and values that come back as they were."""

import re

import pytest

from tests.contract.conftest import Door
from tests.contract.problems import assert_problem

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

EVENT = {"agent_name": "a", "event_type": "t", "payload": {}}


# --- Writing ----------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/events", "/agent-events"])
def test_a_stored_event_is_answered_with_its_id(door: Door, path: str) -> None:
    head = door.head()

    answer = door.client.post(path, json=EVENT)

    assert answer.status_code == 201
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Location"] == f"/events/{head + 1}"
    assert "Idempotent-Replayed" not in answer.headers
    document = answer.json()
    assert list(document) == ["id", "created_at", "status"]
    assert document["id"] == head + 1
    assert TIME.fullmatch(document["created_at"])
    assert document["status"] == "stored"


def test_a_batch_is_answered_with_its_ids(door: Door) -> None:
    head = door.head()

    answer = door.client.post("/events/batch", json={"events": [EVENT] * 3})

    assert answer.status_code == 201
    document = answer.json()
    assert list(document) == ["ids", "created_at", "status"]
    assert document["ids"] == [head + 1, head + 2, head + 3]
    assert TIME.fullmatch(document["created_at"])
    found = door.client.get(answer.headers["Location"]).json()
    assert [event["id"] for event in found["events"]] == document["ids"]


def test_an_event_has_all_its_members(door: Door) -> None:
    cause = door.append()
    position = door.append(
        agent_name="scorer",
        event_type="risk_score",
        payload={"customer_id": "cust_123", "score": 0.87},
        tags=["case:7", "card:c_1"],
        occurred_at="2026-03-01T13:00:00+01:00",
        caused_by=[cause],
        context={"model": "m-1"},
    )

    answer = door.client.get(f"/events/{position}")

    event = answer.json()
    assert list(event) == [
        "id",
        "agent_name",
        "event_type",
        "payload",
        "tags",
        "created_at",
        "occurred_at",
        "caused_by",
        "context",
    ]
    assert event["id"] == position
    assert event["agent_name"] == "scorer"
    assert event["event_type"] == "risk_score"
    assert event["payload"] == {"customer_id": "cust_123", "score": 0.87}
    assert event["tags"] == ["card:c_1", "case:7", "customer:cust_123"]
    assert TIME.fullmatch(event["created_at"])
    assert event["occurred_at"] == "2026-03-01T12:00:00.000000+00:00"
    assert event["caused_by"] == [cause]
    assert event["context"] == {"model": "m-1"}


def test_what_was_not_given_is_null_or_empty(door: Door) -> None:
    event = door.client.get(f"/events/{door.append()}").json()

    assert event["tags"] == []
    assert event["occurred_at"] is None
    assert event["caused_by"] == []
    assert event["context"] is None


def test_the_callers_trace_is_kept_in_the_context(door: Door) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    answer = door.client.post("/events", json=EVENT, headers={"traceparent": trace})

    event = door.client.get(answer.headers["Location"]).json()
    assert event["context"] == {"traceparent": trace}


@pytest.mark.parametrize(
    "number",
    [
        "0.1",
        "100.00",
        "12345678901234567890123456789012345678901234567890",
        "0.1234567890123456789012345678901234567890",
        "-0.000000000000000000000000000001",
        "9007199254740993",
    ],
)
def test_a_number_comes_back_digit_for_digit(door: Door, number: str) -> None:
    body = '{"agent_name":"n","event_type":"t","payload":{"n":' + number + "}}"
    headers = {"Content-Type": "application/json"}
    position = door.client.post("/events", content=body, headers=headers).json()["id"]

    for path in (f"/events/{position}", "/agent-events/n?limit=1", f"/events?after={position - 1}"):
        assert f'"n": {number}' in door.client.get(path).text


def test_text_of_any_script_comes_back(door: Door) -> None:
    text = 'Ω 🧾 "quoted" \\ / \u2028 \x1f \x7f é e\u0301'

    position = door.append(payload={"text": text})

    assert door.client.get(f"/events/{position}").json()["payload"]["text"] == text


# --- Conditions and keys ----------------------------------------------------------


@pytest.mark.promise("P4", "P13")
def test_a_condition_that_fails_shows_what_stood_in_its_way(door: Door) -> None:
    head = door.head()
    flag = door.append(event_type="flag", payload={"transaction_id": "tx_c1"})
    approval = {
        **EVENT,
        "condition": {
            "fail_if": [{"types": ["flag"], "tags": ["transaction:tx_c1"]}],
            "after": head,
        },
    }
    with door.stores_nothing():
        answer = door.client.post("/events", json=approval)

    document = assert_problem(answer, 409, "condition-failed")
    assert document["head"] == flag
    assert document["conflicts"] == [door.client.get(f"/events/{flag}").json()]


def test_at_most_20_conflicts_are_shown(door: Door) -> None:
    first = door.append(event_type="many_conflicts")
    for _ in range(24):
        door.append(event_type="many_conflicts")

    answer = door.client.post(
        "/events", json={**EVENT, "condition": {"fail_if": [{"types": ["many_conflicts"]}]}}
    )

    conflicts = assert_problem(answer, 409, "condition-failed")["conflicts"]
    assert [event["id"] for event in conflicts] == list(range(first, first + 20))


def test_a_condition_that_holds_lets_the_event_in(door: Door) -> None:
    condition = {"fail_if": [{"types": ["flag"]}], "after": door.head()}

    assert door.client.post("/events", json={**EVENT, "condition": condition}).status_code == 201


@pytest.mark.promise("P5")
def test_a_key_that_is_sent_again_gets_the_same_answer(door: Door) -> None:
    key = {"Idempotency-Key": "answers-1"}
    first = door.client.post("/events", json=EVENT, headers=key)
    with door.stores_nothing():
        second = door.client.post("/events", json=EVENT, headers=key)

    assert second.status_code == 201
    assert second.content == first.content
    assert second.headers["Location"] == first.headers["Location"]
    assert second.headers["Idempotent-Replayed"] == "true"


@pytest.mark.promise("P5", "P13")
def test_a_key_that_is_sent_with_other_content_is_refused(door: Door) -> None:
    key = {"Idempotency-Key": "answers-2"}
    door.client.post("/events", json=EVENT, headers=key)
    with door.stores_nothing():
        answer = door.client.post("/events", json={**EVENT, "payload": {"n": 1}}, headers=key)

    assert_problem(answer, 422, "idempotency-mismatch")


def test_a_batch_with_a_key_gets_the_same_ids(door: Door) -> None:
    key = {"Idempotency-Key": "answers-3"}
    first = door.client.post("/events/batch", json={"events": [EVENT] * 2}, headers=key)

    second = door.client.post("/events/batch", json={"events": [EVENT] * 2}, headers=key)

    assert second.content == first.content
    assert second.headers["Idempotent-Replayed"] == "true"


# --- Reading ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/events", "/events/1", "/agent-events/a", "/events?tag=nobody:1&order=desc"]
)
def test_every_read_says_where_the_book_stands(door: Door, path: str) -> None:
    head = door.append()

    answer = door.client.get(path)

    assert answer.status_code == 200
    assert answer.headers["Counterfoil-Head"] == str(head)
    assert UUID.fullmatch(answer.headers["Counterfoil-Incarnation"])


def test_a_page_has_four_members(door: Door) -> None:
    position = door.append(tags=["page:1"])

    document = door.client.get("/events", params={"tag": "page:1"}).json()

    assert list(document) == ["events", "head", "next", "has_more"]
    assert [event["id"] for event in document["events"]] == [position]
    assert document["head"] == position
    assert document["next"] is None
    assert document["has_more"] is False


@pytest.mark.promise("P3")
@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("by", ["parameters", "query"])
def test_pages_show_each_event_once_and_nothing_newer(door: Door, order: str, by: str) -> None:
    tag = f"paged:{order}-{by}"
    ids = [door.append(tags=[tag]) for _ in range(7)]
    asked = {"order": order, "limit": "3"}
    seen: list[int] = []
    while True:
        if by == "parameters":
            answer = door.client.get("/events", params={"tag": tag, **asked})
        else:
            body = {"query": [{"tags": [tag]}], **asked, "limit": 3}
            answer = door.client.post("/events/query", json=body)
        page = answer.json()
        seen += [event["id"] for event in page["events"]]
        assert page["head"] == ids[-1]
        door.append(tags=[tag])  # written between two pages, so on none of them
        if not page["has_more"]:
            break
        asked["cursor"] = page["next"]

    assert seen == (ids if order == "asc" else ids[::-1])


def test_filters_of_each_kind(door: Door) -> None:
    wanted = door.append(agent_name="f1", event_type="ft", tags=["f:1", "g:1"], payload={"k": [1]})
    door.append(agent_name="f1", event_type="ft", tags=["f:1"], payload={"k": [2]})
    door.append(agent_name="f2", event_type="ft", tags=["f:1", "g:1"], payload={"k": [1]})
    door.append(agent_name="f1", event_type="fu", tags=["f:1", "g:1"], payload={"k": [1]})

    found = door.client.get(
        '/events?agent=f1&type=ft&type=never&tag=f:1&tag=g:1&payload={"k":[1]}'
    ).json()

    assert [event["id"] for event in found["events"]] == [wanted]


def test_a_query_of_several_items_matches_any(door: Door) -> None:
    one = door.append(tags=["several:1"])
    door.append(tags=["several:2"])
    three = door.append(event_type="several_three")

    found = door.client.post(
        "/events/query",
        json={"query": [{"tags": ["several:1"]}, {"types": ["several_three"]}]},
    ).json()

    assert [event["id"] for event in found["events"]] == [one, three]


def test_a_cursor_of_other_filters_is_refused(door: Door) -> None:
    for _ in range(2):
        door.append(tags=["cursor:1"])
    cursor = door.client.get("/events?tag=cursor:1&limit=1").json()["next"]

    answer = door.client.get("/events", params={"tag": "cursor:2", "limit": 1, "cursor": cursor})

    assert_problem(answer, 422, "invalid-input", "/cursor", "query")


def test_the_book_as_it_stood_then(door: Door) -> None:
    then = door.append(tags=["then:1"])
    door.append(tags=["then:1"])

    page = door.client.get("/events", params={"tag": "then:1", "up_to": then}).json()

    assert [event["id"] for event in page["events"]] == [then]
    assert page["head"] == then
