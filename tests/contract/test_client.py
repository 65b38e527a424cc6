"""Both clients against the real service: what the simulated one promises, it keeps."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, cast
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from counterfoil import (
    APIConnectionError,
    AuthenticationError,
    BookRestored,
    Condition,
    ConditionFailed,
    Counterfoil,
    Event,
    IdempotencyMismatch,
    InvalidRequestError,
    NewEvent,
    NotFoundError,
    QueryItem,
)
from tests.contract.conftest import KEY, Connect
from tests.support.cluster import Cluster
from tests.support.service import Service, running_service


@pytest.fixture
def cf(connect: Connect, shared_service: Service) -> Counterfoil:
    """A client of the shared service, whose book holds the events of other tests too."""
    return connect(shared_service)


@pytest.fixture
def tag() -> str:
    """What this test's events, and no others, are about."""
    return f"transaction:{uuid4()}"


def event(tag: str, **members: Any) -> dict[str, Any]:
    return {"agent_name": "a", "event_type": "t", "payload": {}, "tags": [tag]} | members


def test_an_event_comes_back_as_it_was_written(cf: Counterfoil, tag: str) -> None:
    cause = cf.events.append(**event(tag))
    berlin = timezone(timedelta(hours=2))
    before = datetime.now(UTC) - timedelta(minutes=1)
    stored = cf.events.append(
        agent_name="fraud agent/ü",
        event_type="flag_transaction",
        payload={
            "transaction_id": tag.partition(":")[2],
            "amount": Decimal("12345678901234567890.10"),
            "count": 10**30,
            "score": 0.1,
            "note": "überhöht € \u2028 \U0001f4b6",
        },
        tags="customer:c_1",
        occurred_at=datetime(2025, 1, 2, 3, 4, 5, 6, berlin),
        caused_by=[cause.id],
        context={"model": "m-1", "temperature": Decimal("0.70")},
    )
    assert not stored.replayed
    written = cf.events.get(stored.id)
    assert written == Event(
        id=stored.id,
        agent_name="fraud agent/ü",
        event_type="flag_transaction",
        payload={
            "transaction_id": tag.partition(":")[2],
            "amount": Decimal("12345678901234567890.10"),
            "count": 10**30,
            "score": Decimal("0.1"),
            "note": "überhöht € \u2028 \U0001f4b6",
        },
        tags=("customer:c_1", tag),
        created_at=stored.created_at,
        occurred_at=datetime(2025, 1, 2, 3, 4, 5, 6, berlin),
        caused_by=(cause.id,),
        context={"model": "m-1", "temperature": Decimal("0.70")},
    )
    assert str(written.payload["amount"]) == "12345678901234567890.10"
    assert before < written.created_at < datetime.now(UTC) + timedelta(minutes=1)
    assert cf.events.latest("fraud agent/ü", limit=1)[0].id == stored.id
    with pytest.raises(NotFoundError):
        cf.events.get(2**62)


def test_a_batch_is_written_as_one(cf: Counterfoil, tag: str) -> None:
    first, second = cf.events.append_batch([NewEvent(**event(tag)), NewEvent(**event(tag))]).ids
    assert second == first + 1
    with pytest.raises(InvalidRequestError) as refused:
        cf.events.append_batch([NewEvent(**event(tag)), NewEvent(**event(tag, agent_name=""))])
    assert [error.pointer for error in refused.value.errors] == ["/events/1/agent_name"]
    assert [found.id for found in cf.events.list(tags=tag)] == [first, second]


def test_one_key_writes_once(cf: Counterfoil, tag: str) -> None:
    key = str(uuid4())
    first = cf.events.append(**event(tag), idempotency_key=key)
    again = cf.events.append(**event(tag), idempotency_key=key)
    assert (again.id, again.created_at) == (first.id, first.created_at)
    assert (first.replayed, again.replayed) == (False, True)
    with pytest.raises(IdempotencyMismatch):
        cf.events.append(**event(tag, event_type="other"), idempotency_key=key)


def test_all_pages_show_one_snapshot_in_both_orders(cf: Counterfoil, tag: str) -> None:
    ids = list(cf.events.append_batch([NewEvent(**event(tag))] * 5).ids)
    for order, expected in (("asc", ids), ("desc", ids[::-1])):
        events = cf.events.list(tags=tag, order=cast("Any", order), limit=2)
        found = [next(events).id]
        late = cf.events.append(**event(tag))
        found += [one.id for one in events]
        assert [one for one in found if one <= ids[-1]] == expected
        assert late.id not in found
        assert events.head < late.id


def test_filters_mean_what_they_say(cf: Counterfoil, tag: str) -> None:
    one = cf.events.append(**event(tag, event_type="x", payload={"n": Decimal("1.50")})).id
    two = cf.events.append(**event(tag, event_type="y", agent_name="b")).id
    three = cf.events.append(**event(tag, event_type="z", payload={"n": 2})).id

    def ids(**filters: Any) -> list[int]:
        return [found.id for found in cf.events.list(tags=tag, **filters)]

    assert ids(types=["x", "y"]) == [one, two]
    assert ids(agents="b") == [two]
    assert ids(payload={"n": Decimal("1.50")}) == [one]
    assert ids(after=one, before=three) == [two]
    assert ids(up_to=two) == [one, two]
    items = [QueryItem(types="x", tags=tag), QueryItem(agents="b", tags=tag)]
    assert [found.id for found in cf.events.query(items, limit=1)] == [one, two]
    with pytest.raises(InvalidRequestError) as refused:
        ids(limit=1001)
    assert [(error.pointer, error.location) for error in refused.value.errors] == [
        ("/limit", "query")
    ]


# --- Decide on what you read ------------------------------------------------------------


def test_no_approval_slips_past_a_flag(cf: Counterfoil, tag: str) -> None:
    approved = event(tag, agent_name="approver", event_type="approved")
    with cf.guard(tags=tag, types="flag") as seen:
        assert not seen.events
        flag = cf.events.append(**event(tag, event_type="flag"))
        with pytest.raises(ConditionFailed) as refused:
            seen.commit(**approved)
        assert [conflict.id for conflict in refused.value.conflicts] == [flag.id]
        assert refused.value.head >= flag.id
        assert refused.value.request_id
        seen.refresh()
        assert [found.id for found in seen.events] == [flag.id]
        declined = seen.commit(**approved | {"event_type": "declined"}, caused_by=seen.events)
    assert [(found.event_type, found.caused_by) for found in cf.events.list(tags=tag)] == [
        ("flag", ()),
        ("declined", (flag.id,)),
    ]
    assert cf.events.get(declined.id).event_type == "declined"


def test_a_guard_reads_all_its_pages(cf: Counterfoil, tag: str) -> None:
    cf.events.append_batch([NewEvent(**event(tag))] * 1000)
    cf.events.append_batch([NewEvent(**event(tag))] * 3)
    with cf.guard(query=[QueryItem(tags=tag), QueryItem(types=tag)]) as seen:
        assert len(seen.events) == 1003
        batch = seen.commit_batch([NewEvent(**event(tag))] * 2)
    assert len(batch.ids) == 2


def test_a_guarded_commit_can_be_repeated_with_its_key(cf: Counterfoil, tag: str) -> None:
    key = str(uuid4())
    with cf.guard(tags=tag) as seen:
        first = seen.commit(**event(tag), idempotency_key=key)
        condition = Condition(QueryItem(tags=tag), after=seen.head, incarnation=seen.incarnation)
    # The event itself now stands in the condition's way; the key is looked up before it.
    again = cf.events.append(**event(tag), condition=condition, idempotency_key=key)
    assert again.replayed
    assert again.id == first.id


def test_conditions_are_judged(cf: Counterfoil, tag: str) -> None:
    query = QueryItem(tags=tag)
    with pytest.raises(InvalidRequestError) as above:
        cf.events.append(**event(tag), condition=Condition(query, after=2**62))
    assert above.value.problem == "after-above-head"
    with pytest.raises(BookRestored):
        cf.events.append(**event(tag), condition=Condition(query, 0, str(uuid4())))
    assert cf.events.append(**event(tag), condition=Condition(query)).id
    with pytest.raises(ConditionFailed):
        cf.events.append(**event(tag), condition=Condition(query))


# --- Following --------------------------------------------------------------------------


def test_following_gives_what_was_and_what_comes(cf: Counterfoil, tag: str) -> None:
    was = cf.events.append(**event(tag, payload={"amount": Decimal("1.10")}))
    with cf.events.follow(tags=tag, after=was.id - 1) as events:
        first = next(events)
        assert first == cf.events.get(was.id)
        comes = cf.events.append(**event(tag))
        cf.events.append(**event("other:1"))
        later = cf.events.append(**event(tag))
        assert [next(events).id, next(events).id] == [comes.id, later.id]
        kept = events.last_event_id
    after = cf.events.append(**event(tag))
    with cf.events.follow(tags=tag, last_event_id=kept) as events:
        assert next(events).id == after.id
    elsewhere = f"{uuid4()}.1"
    with cf.events.follow(last_event_id=elsewhere) as events, pytest.raises(BookRestored):
        next(events)


def test_a_follower_outlives_its_service(connect: Connect, cluster: Cluster) -> None:
    with cluster.database() as database:
        with running_service(database.url) as service:
            port = urlsplit(service.url).port or 0
            cf = connect(service, max_retries=0)
            follower = cf.events.follow(after=0, types="t")
            cf.events.append_batch([NewEvent(**event("a:1"))] * 2)
            assert [next(follower).id, next(follower).id] == [1, 2]
        with pytest.raises(APIConnectionError, match="cannot be reached"):
            cf.events.get(1)
        with running_service(database.url, port=port), follower as events:
            cf.events.append_batch([NewEvent(**event("a:1"))] * 2)
            assert [next(events).id, next(events).id] == [3, 4]


# --- The key ----------------------------------------------------------------------------


def test_a_service_with_a_key_opens_to_it_only(connect: Connect, locked_service: Service) -> None:
    cf = connect(locked_service, api_key=KEY)
    stored = cf.events.append(**event("a:1"))
    with cf.events.follow(after=stored.id - 1) as events:
        assert next(events).id == stored.id
    for key in (None, "another"):
        other = connect(locked_service, api_key=key)
        with pytest.raises(AuthenticationError, match="COUNTERFOIL_API_KEY"):
            other.events.get(stored.id)
        with other.events.follow() as events, pytest.raises(AuthenticationError):
            next(events)
