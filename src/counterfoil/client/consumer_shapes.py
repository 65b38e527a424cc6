"""How what the service says of consumers, deliveries and dead letters is read into values."""

from __future__ import annotations

from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from counterfoil.client import answers, shapes
from counterfoil.client.answers import Answer
from counterfoil.client.consumer_model import (
    Acknowledged,
    Attempt,
    Backoff,
    Claimed,
    Consumer,
    DeadLetter,
    DeletedConsumer,
    Delivery,
    Lag,
    Lease,
)
from counterfoil.client.model import QueryItem
from counterfoil.client.shapes import optional


def consumer(data: Any) -> Consumer:
    """Read one consumer."""
    data = shapes.mapping(data)
    return Consumer(
        name=shapes.text(data["name"]),
        query=tuple(map(_query_item, shapes.array(data["query"]))),
        start=_start(data["start"]),
        lease_seconds=shapes.integer(data["lease_seconds"]),
        attempts_max=shapes.integer(data["attempts_max"]),
        backoff=_backoff(data["backoff"]),
        order_by=optional(shapes.text, data.get("order_by")),
        in_flight_max=optional(shapes.integer, data.get("in_flight_max")),
        dead_letters=shapes.text(data["dead_letters"]),
        status=shapes.text(data["status"]),
        position=shapes.integer(data["position"]),
        head=shapes.integer(data["head"]),
        lag=_lag(data["lag"]),
        in_flight=shapes.integer(data["in_flight"]),
        waiting=shapes.integer(data["waiting"]),
        set_aside=shapes.integer(data["set_aside"]),
        rate=shapes.number(data["rate"]),
        event_id=shapes.integer(data["event_id"]),
        created_at=shapes.moment(data["created_at"]),
        created_by=shapes.text(data["created_by"]),
    )


def _query_item(data: Any) -> QueryItem:
    data = shapes.mapping(data)
    named = ("types", "agents", "tags")
    return QueryItem(**{name: shapes.texts(data.get(name) or []) for name in named})


def _start(data: Any) -> str | int:
    if isinstance(data, str):
        return data
    return shapes.integer(shapes.mapping(data)["after"])


def _backoff(data: Any) -> Backoff:
    data = shapes.mapping(data)
    return Backoff(
        initial_seconds=shapes.number(data["initial_seconds"]),
        factor=shapes.number(data["factor"]),
        max_seconds=shapes.number(data["max_seconds"]),
    )


def _lag(data: Any) -> Lag:
    data = shapes.mapping(data)
    return Lag(
        events=shapes.integer(data["events"]),
        seconds=shapes.number(data["seconds"]),
        at_least=shapes.boolean(data["at_least"]),
    )


def deleted(data: Any) -> DeletedConsumer:
    """Read a consumer that was deleted."""
    data = shapes.mapping(data)
    return DeletedConsumer(
        name=shapes.text(data["name"]),
        event_id=shapes.integer(data["event_id"]),
        deleted_at=shapes.moment(data["deleted_at"]),
        deleted_by=shapes.text(data["deleted_by"]),
        unfinished=shapes.integer(data["unfinished"]),
        dead_letters=shapes.integer(data["dead_letters"]),
    )


# --- Working ----------------------------------------------------------------------------


def claimed(answer: Answer) -> Claimed:
    """Read the answer to a claim."""
    return answers.read_by(lambda data: _claimed(data, answer), answer)


def _claimed(data: Any, answer: Answer) -> Claimed:
    data = shapes.mapping(data)
    return Claimed(
        deliveries=tuple(map(_delivery, shapes.array(data["deliveries"]))),
        status=shapes.text(data["status"]),
        answered_at=_answered_at(answer),
    )


def _delivery(data: Any) -> Delivery:
    data = shapes.mapping(data)
    return Delivery(
        event=answers.event_of(data["event"]),
        attempt=shapes.integer(data["attempt"]),
        lease_ends=shapes.moment(data["lease_ends"]),
        token=shapes.text(data["token"]),
    )


def acknowledged(answer: Answer, count: int) -> Acknowledged:
    """Read the answer to an acknowledgement with ``count`` events, which claimed what is next."""

    def read(data: Any) -> Acknowledged:
        shapes.text(data["status"])
        return Acknowledged(
            stored=answers.batch_of(data, answer, count) if count else None,
            next=optional(lambda claimed: _claimed(claimed, answer), data["next"]),
        )

    return answers.read_by(read, answer)


def lease(answer: Answer) -> Lease:
    """Read the answer to an extension."""

    def read(data: Any) -> Lease:
        return Lease(ends=shapes.moment(data["lease_ends"]), answered_at=_answered_at(answer))

    return answers.read_by(read, answer)


def _answered_at(answer: Answer) -> datetime | None:
    try:
        found = parsedate_to_datetime(answer.headers["date"])
    except (KeyError, ValueError):
        return None
    return found if found.tzinfo is not None else None


def status(data: Any) -> None:
    """Read an answer that says no more than what was done."""
    shapes.text(data["status"])


def event_ids(data: Any) -> tuple[int, ...]:
    """Read the ids that an answer names."""
    return tuple(map(shapes.integer, shapes.array(data["event_ids"])))


# --- Dead letters -----------------------------------------------------------------------


def dead_letter(data: Any) -> DeadLetter:
    """Read one dead letter."""
    data = shapes.mapping(data)
    return DeadLetter(
        event_id=shapes.integer(data["event_id"]),
        attempts=tuple(map(_attempt, shapes.array(data["attempts"]))),
        reason=shapes.text(data["reason"]),
        set_aside_at=shapes.moment(data["set_aside_at"]),
        set_aside_by=shapes.text(data["set_aside_by"]),
        said_by=shapes.integer(data["said_by"]),
        holds_key=shapes.boolean(data["holds_key"]),
    )


def _attempt(data: Any) -> Attempt:
    data = shapes.mapping(data)
    return Attempt(
        attempt=shapes.integer(data["attempt"]),
        holder=shapes.text(data["holder"]),
        claimed_at=shapes.moment(data["claimed_at"]),
        ended_at=optional(shapes.moment, data.get("ended_at")),
        reason=optional(shapes.text, data.get("reason")),
    )
