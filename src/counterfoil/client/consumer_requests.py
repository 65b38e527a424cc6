"""What the calls about consumers send: without I/O.

Every one that changes something carries an idempotency key, a claim too: a claim that is made
again with its key brings the deliveries of the first. Only ``extend`` has none, because to
extend twice does no harm.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping
from datetime import datetime
from functools import partial
from typing import Any, Literal

from counterfoil.client import answers, consumer_shapes, document
from counterfoil.client.answers import Answer
from counterfoil.client.consumer_model import (
    Acknowledged,
    Backoff,
    Claimed,
    Consumer,
    ConsumerStart,
    DeadLetter,
    DeadLetterRule,
    DeadLetters,
    DeletedConsumer,
    Delivery,
    Lease,
    Next,
    Tokens,
)
from counterfoil.client.control_requests import Listed, change, given, path_step, reading
from counterfoil.client.errors import UnsendableValue, UsageError
from counterfoil.client.model import Condition, Event, NewEvent, Query, StoredBatch, items_of
from counterfoil.client.requests import (
    Ask,
    Request,
    condition_document,
    event_document,
    idempotency_key_of,
    moment_text,
    query_document,
)

# --- Managing ---------------------------------------------------------------------------


def put(
    name: str,
    *,
    query: Query,
    start: ConsumerStart | None,
    lease_seconds: int | None,
    attempts_max: int | None,
    backoff: Backoff | None,
    order_by: str | None,
    in_flight_max: int | None,
    dead_letters: DeadLetterRule | None,
    change_query: bool,
    idempotency_key: str | None,
) -> Ask[Consumer]:
    """Ask for a consumer to be there, and to be so."""
    body = given(
        query=query_document(items_of(query)),
        start=None if start is None else _place(start),
        lease_seconds=lease_seconds,
        attempts_max=attempts_max,
        backoff=None if backoff is None else _backoff(backoff),
        order_by=order_by,
        in_flight_max=in_flight_max,
        dead_letters=dead_letters,
        change_query=change_query or None,
    )
    request = change("PUT", _path(name), body, idempotency_key)
    return Ask(request, partial(answers.read_by, consumer_shapes.consumer))


def _place(place: str | int) -> str | dict[str, int]:
    return place if isinstance(place, str) else {"after": operator.index(place)}


def _backoff(backoff: Backoff) -> dict[str, float]:
    return {
        "initial_seconds": backoff.initial_seconds,
        "factor": backoff.factor,
        "max_seconds": backoff.max_seconds,
    }


def get(name: str) -> Ask[Consumer]:
    """Ask how a consumer stands."""
    return reading(_path(name), consumer_shapes.consumer)


def consumers(limit: int) -> Listed[Consumer]:
    """Read all consumers."""
    return Listed("/consumers", "consumers", consumer_shapes.consumer, limit)


def delete(
    name: str, *, dead_letters: Literal["drop"] | None, idempotency_key: str | None
) -> Ask[DeletedConsumer]:
    """Ask for a consumer to be there no more."""
    request = Request(
        "DELETE",
        _path(name),
        () if dead_letters is None else (("dead_letters", dead_letters),),
        idempotency_key=idempotency_key_of(idempotency_key),
    )
    return Ask(request, partial(answers.read_by, consumer_shapes.deleted))


def pause(name: str, *, reason: str, idempotency_key: str | None) -> Ask[Consumer]:
    """Ask for nothing to be handed out."""
    return _managed(name, "pause", {"reason": reason}, idempotency_key)


def resume(name: str, *, reason: str, idempotency_key: str | None) -> Ask[Consumer]:
    """Ask for events to be handed out again."""
    return _managed(name, "resume", {"reason": reason}, idempotency_key)


def seek(
    name: str,
    to: ConsumerStart | datetime,
    *,
    reason: str,
    idempotency_key: str | None,
) -> Ask[Consumer]:
    """Ask for a consumer to go on from another place."""
    if isinstance(to, datetime):
        place: str | dict[str, Any] = {"time": moment_text(to, "/to/time")}
    else:
        place = _place(to)
    return _managed(name, "seek", {"to": place, "reason": reason}, idempotency_key)


def _managed(
    name: str, verb: str, body: Mapping[str, Any], idempotency_key: str | None
) -> Ask[Consumer]:
    request = change("POST", f"{_path(name)}/{verb}", body, idempotency_key)
    return Ask(request, partial(answers.read_by, consumer_shapes.consumer))


def _path(name: str) -> str:
    return f"/consumers/{path_step(name, '/name')}"


# --- Working ----------------------------------------------------------------------------


def claim(
    name: str,
    *,
    holder: str,
    count: int,
    wait_seconds: float,
    done: Tokens,
    idempotency_key: str | None,
) -> Ask[Claimed]:
    """Ask for deliveries, and wait for them if there are none."""
    body = given(
        holder=holder, count=count, wait_seconds=wait_seconds or None, done=_tokens(done) or None
    )
    request = Request(
        "POST",
        f"{_path(name)}/claim",
        body=document.encode(body),
        idempotency_key=idempotency_key_of(idempotency_key),
        wait_seconds=float(wait_seconds),
    )
    return Ask(request, consumer_shapes.claimed)


def ack(
    name: str,
    tokens: Tokens,
    *,
    events: Collection[NewEvent | Mapping[str, Any]],
    condition: Condition | None,
    idempotency_key: str | None,
) -> Ask[StoredBatch | None]:
    """Ask for deliveries to be done, and for their outcome to be appended in the same step.

    Raises:
        UnsendableValue: something in it cannot be written as JSON, or the key is unfit.
    """
    body = _ack(tokens, events, condition)
    request = change("POST", f"{_path(name)}/ack", body, idempotency_key)
    return Ask(request, partial(_acknowledged, count=_count(body)))


def ack_and_claim(
    name: str,
    tokens: Tokens,
    *,
    events: Collection[NewEvent | Mapping[str, Any]],
    condition: Condition | None,
    next: Next,  # noqa: A002 - as the service calls it
    idempotency_key: str | None,
) -> Ask[Acknowledged]:
    """Ask for the same, and then for more deliveries. Raises as ``ack``."""
    following = {"holder": next.holder, "count": next.count}
    body = _ack(tokens, events, condition) | {"next": following}
    request = change("POST", f"{_path(name)}/ack", body, idempotency_key)
    return Ask(request, partial(consumer_shapes.acknowledged, count=_count(body)))


def _ack(
    tokens: Tokens,
    events: Collection[NewEvent | Mapping[str, Any]],
    condition: Condition | None,
) -> dict[str, Any]:
    written = [
        event_document(new_event(event, f"/events/{index}"), f"/events/{index}")
        for index, event in enumerate(events)
    ]
    return given(tokens=_tokens(tokens), events=written or None) | condition_document(condition)


def _count(body: Mapping[str, Any]) -> int:
    return len(body.get("events", ()))


def new_event(event: NewEvent | Mapping[str, Any], pointer: str = "") -> NewEvent:
    """Return an event that may be given as a mapping of its members.

    Raises:
        UnsendableValue: it has other members than an event, or lacks one.
    """
    if isinstance(event, NewEvent):
        return event
    if not isinstance(event, Mapping):
        raise UnsendableValue(
            f"An event is a `NewEvent` or a mapping, not {type(event).__name__}.", pointer
        )
    try:
        return NewEvent(**event)
    except TypeError as error:
        reason = str(error).removeprefix("NewEvent.__init__() ")
        raise UnsendableValue(f"The event {reason}.", pointer) from None


def _acknowledged(answer: Answer, count: int) -> StoredBatch | None:
    if count:
        return answers.stored_batch(answer, count)
    return answers.read_by(consumer_shapes.status, answer)


def extend(name: str, tokens: Tokens, *, lease_seconds: int | None) -> Ask[Lease]:
    """Ask for deliveries to be held longer."""
    body = given(tokens=_tokens(tokens), lease_seconds=lease_seconds)
    request = Request("POST", f"{_path(name)}/extend", body=document.encode(body))
    return Ask(request, consumer_shapes.lease)


def release(
    name: str,
    tokens: Tokens,
    *,
    delay_seconds: float | None,
    reason: str | None,
    idempotency_key: str | None,
) -> Ask[None]:
    """Ask for deliveries to be taken back."""
    body = given(tokens=_tokens(tokens), delay_seconds=delay_seconds, reason=reason)
    request = change("POST", f"{_path(name)}/release", body, idempotency_key)
    return Ask(request, partial(answers.read_by, consumer_shapes.status))


def set_aside(
    name: str, tokens: Tokens, *, reason: str, idempotency_key: str | None
) -> Ask[tuple[int, ...]]:
    """Ask for deliveries to become dead letters."""
    body = {"tokens": _tokens(tokens), "reason": reason}
    request = change("POST", f"{_path(name)}/set-aside", body, idempotency_key)
    return Ask(request, partial(answers.read_by, consumer_shapes.event_ids))


def _tokens(tokens: Tokens) -> list[str]:
    several = (tokens,) if isinstance(tokens, str | Delivery) else tokens
    return [each.token if isinstance(each, Delivery) else each for each in several]


# --- Dead letters -----------------------------------------------------------------------


def dead_letters(name: str, limit: int) -> Listed[DeadLetter]:
    """Read the dead letters of a consumer."""
    path = f"{_path(name)}/dead-letters"
    return Listed(path, "dead_letters", consumer_shapes.dead_letter, limit)


def dead_letter(name: str, event: int | Event | DeadLetter) -> Ask[DeadLetter]:
    """Ask for one dead letter."""
    return reading(f"{_path(name)}/dead-letters/{_event_id(event)}", consumer_shapes.dead_letter)


def replay(
    name: str,
    event_ids: DeadLetters | None,
    *,
    everything: bool,
    reason: str | None,
    idempotency_key: str | None,
) -> Ask[tuple[int, ...]]:
    """Ask for dead letters to be handed out again.

    Raises:
        UsageError: both, or neither, of some and all are asked for.
    """
    body = given(**_which(event_ids, everything=everything), reason=reason)
    request = change("POST", f"{_path(name)}/dead-letters/replay", body, idempotency_key)
    return Ask(request, partial(answers.read_by, consumer_shapes.event_ids))


def drop(
    name: str,
    event_ids: DeadLetters | None,
    *,
    everything: bool,
    reason: str,
    idempotency_key: str | None,
) -> Ask[tuple[int, ...]]:
    """Ask for dead letters to be given up; as ``replay``."""
    body = _which(event_ids, everything=everything) | {"reason": reason}
    request = change("POST", f"{_path(name)}/dead-letters/drop", body, idempotency_key)
    return Ask(request, partial(answers.read_by, consumer_shapes.event_ids))


def _which(event_ids: DeadLetters | None, *, everything: bool) -> dict[str, Any]:
    if everything == (event_ids is not None):
        raise UsageError("Name the dead letters by `event_ids`, or all of them with `all=True`.")
    if event_ids is None:
        return {"all": True}
    several = event_ids if isinstance(event_ids, Collection) else (event_ids,)
    return {"event_ids": list(map(_event_id, several))}


def _event_id(event: int | Event | DeadLetter) -> int:
    if isinstance(event, Event):
        return event.id
    if isinstance(event, DeadLetter):
        return event.event_id
    return operator.index(event)
