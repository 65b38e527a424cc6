"""Appends by direct SQL, as the service's role makes them and nothing in between."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, cast

import psycopg

from counterfoil.server.core import limits

Request = dict[str, Any]

APPEND: Final = """
    select first_position, created_at, head, clock_ahead_seconds, others
    from counterfoil.append_v4(%s, %s::jsonb, %s)
"""


ACT_FOR: Final = "select set_config('counterfoil.tenant_id', %s, false)"
"""Whose rows a session may see from now on. The service says so for each transaction."""


class Answer(NamedTuple):
    """What ``append_v4`` answers to one request."""

    status: str
    first_position: int | None
    event_count: int
    created_at: str | None
    head: int
    detail: list[int] | None
    clock_ahead_seconds: float


def event(
    agent_name: str = "fraud_agent",
    event_type: str = "flag_transaction",
    payload: object = None,
    tags: Iterable[str] = (),
    **optional: Any,
) -> dict[str, Any]:
    """One new event; ``optional`` are ``occurred_at``, ``caused_by`` and ``context``."""
    return {
        "agent_name": agent_name,
        "event_type": event_type,
        "payload": {} if payload is None else payload,
        "tags": sorted(tags),
        **optional,
    }


def request(
    *events: Mapping[str, Any],
    key: str | None = None,
    condition: Mapping[str, Any] | None = None,
    principal: str = "anonymous",
    **more: Any,
) -> Request:
    """One request of a group; without events, one event that says nothing."""
    asked: Request = {
        "operation": "append" if len(events) < 2 else "batch",
        "principal": principal,
        "events": list(events or [event()]),
        **more,
    }
    if key is not None:
        asked["key"] = key
    if condition is not None:
        asked["condition"] = condition
    return asked


def fail_if(*items: Mapping[str, Any], after: int | None = None, **more: Any) -> dict[str, Any]:
    """A condition: nothing that matches any of the items above ``after``."""
    bound = {} if after is None else {"after": after}
    return {"fail_if": list(items), **bound, **more}


def append(
    connection: psycopg.Connection, *requests: Request | str, tenant_id: int = 1
) -> list[Answer]:
    """Append one group. A request that is text is taken as it is: JSON with its numbers.

    The requests that were stored are not answered one by one: they follow one another, up to
    the head of the group.
    """
    texts = [asked if isinstance(asked, str) else json.dumps(asked) for asked in requests]
    parameters = [tenant_id, f"[{','.join(texts)}]", limits.LOCK_WAIT_MILLISECONDS_MAX]
    connection.execute(ACT_FOR, [str(tenant_id)])
    row = connection.execute(APPEND, parameters).fetchone()
    assert row is not None
    position, created_at, head, ahead, others = cast("tuple[int, str, int, float, list[Any]]", row)
    other_of = {other["request"]: other for other in others or []}
    assert [*other_of] == sorted(other_of), "the others are in their order"
    answers = []
    for nth, text in enumerate(texts):
        count = len(json.loads(text)["events"])
        if (other := other_of.get(nth)) is not None:
            first, given_at = other.get("first_position"), other.get("created_at")
            answers.append(
                Answer(
                    other["status"], first, count, given_at, other["head"], other["detail"], ahead
                )
            )
        else:
            last = position + count - 1
            answers.append(Answer("stored", position, count, created_at, last, None, ahead))
            position = last + 1
    assert position == head + 1, "the head is the last position that was given"
    return answers


def append_one(
    connection: psycopg.Connection, asked: Request | str | None = None, *, tenant_id: int = 1
) -> Answer:
    """Append a group of one."""
    (answer,) = append(connection, asked or request(), tenant_id=tenant_id)
    return answer


def statuses(answers: Iterable[Answer]) -> list[str]:
    """How each request of a group fared."""
    return [answer.status for answer in answers]


def stored_types(connection: psycopg.Connection, tenant_id: int = 1) -> list[str]:
    """The types of a book's events in their order, after a look that there are no gaps."""
    rows = connection.execute(
        "select position, event_type from counterfoil.events where tenant_id = %s order by position",
        [tenant_id],
    ).fetchall()
    assert [position for position, _ in rows] == list(range(1, len(rows) + 1))
    return [event_type for _, event_type in rows]
