"""Events and appends: what is sent, what is judged, and what the database is given.

``judge_append`` and ``judge_batch`` are the only way in. They raise for everything that
PostgreSQL could refuse or that a later reader could stumble over, with all faults named
together; what they return holds one JSON document that the stored function takes as it is.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_core import PydanticCustomError

from counterfoil.server.core import limits
from counterfoil.server.core.document import encode, parse, pointer_to
from counterfoil.server.core.errors import FieldError
from counterfoil.server.log.fields import (
    REFUSAL,
    AgentName,
    EventId,
    NewEventType,
    Tags,
    Time,
    Wire,
    derived_tag_fault,
    derived_tags,
)
from counterfoil.server.log.query import Condition, QueryItem, query_document
from counterfoil.server.log.refusals import field_errors, not_an_object, refuse

# --- On the wire ------------------------------------------------------------------


def _judge_context(context: dict[str, Any]) -> dict[str, Any]:
    size_bytes = len(encode(context))
    if size_bytes > limits.CONTEXT_BYTES_MAX:
        raise PydanticCustomError(
            REFUSAL,
            f"`context` may take {limits.CONTEXT_BYTES_MAX} bytes; this one takes {size_bytes}. "
            "It is for versions and ids of what produced the event; put the rest elsewhere.",
        )
    return context


def _refuse_null(condition: object) -> object:
    # Elsewhere null means left out. Here it would silently take off the guard.
    if condition is None:
        raise PydanticCustomError(
            REFUSAL,
            "`condition` must be an object with `fail_if`; this is null. Leave it out to append "
            "without one.",
        )
    return condition


def _without_null(schema: dict[str, Any]) -> None:
    """Make a schema say what ``_refuse_null`` does."""
    schema.update(schema.pop("anyOf")[0])
    schema.pop("default", None)


OptionalCondition = Annotated[
    Condition | None,
    BeforeValidator(_refuse_null),
    Field(
        description="Append only if nothing that matches was written since the read that this "
        "rests on.",
        json_schema_extra=_without_null,
    ),
]


class NewEvent(Wire):
    """One event to append. Optional fields may be left out or null."""

    agent_name: Annotated[AgentName, Field(description="Who writes.", examples=["fraud_agent"])]
    event_type: Annotated[
        NewEventType, Field(description="What happened.", examples=["flag_transaction"])
    ]
    payload: Annotated[
        dict[str, Any],
        Field(
            description="The fact itself. Kept exactly, numbers digit for digit. A field named "
            "`<kind>_id` with a string or a whole number gives the tag `<kind>:<value>`.",
            examples=[{"transaction_id": "tx_987", "reason": "velocity_threshold_exceeded"}],
        ),
    ]
    tags: Annotated[
        Tags | None,
        Field(
            description="What the event is about, beside what its payload says, as `kind:value`.",
            examples=[["customer:cust_123"]],
        ),
    ] = None
    occurred_at: Annotated[
        Time | None,
        Field(
            description="The writer's own time, with its offset; kept to the microsecond, in UTC.",
            examples=["2026-03-01T12:30:00.25Z"],
        ),
    ] = None
    caused_by: Annotated[
        Annotated[list[EventId], Field(max_length=limits.CAUSES_MAX, fail_fast=True)] | None,
        Field(description="Ids of earlier events that this one rests on.", examples=[[41, 42]]),
    ] = None
    context: Annotated[
        Annotated[dict[str, Any], AfterValidator(_judge_context)] | None,
        Field(
            description=f"What produced the event: model, prompt and tool versions, run id. At "
            f"most {limits.CONTEXT_BYTES_MAX} bytes.",
            examples=[{"model": "m-2026-02", "run_id": "run_5"}],
        ),
    ] = None


class AppendBody(NewEvent):
    """The body of ``POST /agent-events``: one event, and the condition it is written under."""

    condition: OptionalCondition = None


NewEvents = Annotated[
    list[NewEvent],
    Field(
        min_length=1,
        max_length=limits.BATCH_EVENTS_MAX,
        description="They take consecutive ids, in this order.",
    ),
]


class BatchBody(Wire):
    """The body of ``POST /events/batch``: all of these events are written, or none."""

    events: NewEvents
    condition: OptionalCondition = None


class OutcomeBody(Wire):
    """What a body has in common whose events are the outcome of something."""

    events: NewEvents | None = None
    condition: OptionalCondition = None


Outcome = TypeVar("Outcome", bound=OutcomeBody)


# --- Judged -----------------------------------------------------------------------


Operation = Literal["append", "batch", "ack", "own", "decide"]


@dataclass(frozen=True, slots=True)
class AppendRequest:
    """A judged append, ready for the database.

    Attributes:
        operation: which call it was; part of what an idempotency key stands for.
        document: the JSON object that the stored function takes. Up to about twice the
            body: tags that the payload gives stand in it a second time.
        event_count: events in it, 1 or more.
        size_bytes: the length of ``document``.
        keyed: whether it came with an idempotency key.
        causes: each ``caused_by`` that names an event, with the pointer to it.
        condition_after: the position above which its condition looks; None without one.
        condition_values: types, agents and tags that its condition names, 0 without one: each
            may have to be looked up.
        events: the judged events, each with its path in the body.
        fail_if: what its condition asks, None without one.
    """

    operation: Operation
    document: bytes
    event_count: int
    size_bytes: int
    keyed: bool
    causes: tuple[tuple[str, Sequence[int]], ...]
    condition_after: int | None
    condition_values: int
    events: "Sequence[tuple[Path, NewEvent]]" = field(default=(), compare=False, repr=False)
    fail_if: Sequence[QueryItem] | None = field(default=None, compare=False)

    def under(self, rules: int) -> "AppendRequest":
        """The same, judged under the rules that were changed last at this position; 0: none."""
        if not rules:
            return self
        document = b'{"rules":%d,%b' % (rules, self.document[1:])
        return replace(self, document=document, size_bytes=len(document))


# --- Judging ----------------------------------------------------------------------


def judge_append(
    body: bytes, *, principal: str, key: str | None, traceparent: str | None
) -> AppendRequest:
    """Judge the body of ``POST /agent-events``; ``key`` and ``traceparent`` are judged ones.

    Raises ``MalformedDocument``, or ``InvalidInput`` with every fault at its pointer.
    """
    tree = parsed_object(body)
    try:
        asked = AppendBody.model_validate(tree)
    except ValidationError as error:
        raise refuse(field_errors(error, AppendBody) + _payload_errors([((), tree)])) from None
    envelope = _envelope("append", principal, key, traceparent)
    return _judged("append", envelope, [((), asked)], asked.condition)


def judge_batch(
    body: bytes, *, principal: str, key: str | None, traceparent: str | None
) -> AppendRequest:
    """Judge the body of ``POST /events/batch``; otherwise as ``judge_append``."""
    tree = parsed_object(body)
    try:
        asked = BatchBody.model_validate(tree)
    except ValidationError as error:
        events = tree.get("events")
        placed = _placed(events[: limits.BATCH_EVENTS_MAX]) if isinstance(events, list) else []
        raise refuse(field_errors(error, BatchBody) + _payload_errors(placed)) from None
    envelope = _envelope("batch", principal, key, traceparent)
    return _judged("batch", envelope, _placed(asked.events), asked.condition)


def judge_outcome(
    tree: dict[str, Any],
    model: type[Outcome],
    *,
    principal: str,
    key: str | None,
    traceparent: str | None,
    hands_in: Callable[[Outcome], dict[str, Any]],
) -> tuple[Outcome, AppendRequest | None]:
    """Judge a body whose events, if it has any, are the outcome of what a holder hands in.

    Args:
        tree: the body, parsed.
        model: what judges it; has ``events`` and ``condition`` as a batch has, both optional.
        hands_in: says of the judged body what is handed in, as the stored function takes it.

    Returns what was asked for, and the append, if there are events. Raises as ``judge_append``.
    """
    try:
        asked = model.model_validate(tree)
    except ValidationError as error:
        events = tree.get("events")
        placed = _placed(events[: limits.BATCH_EVENTS_MAX]) if isinstance(events, list) else []
        raise refuse(field_errors(error, model) + _payload_errors(placed)) from None
    if asked.events is None:
        return asked, None
    envelope = _envelope("ack", principal, key, traceparent)
    envelope["hands_in"] = hands_in(asked)
    return asked, _judged("ack", envelope, _placed(asked.events), asked.condition)


def judge_idempotency_key(value: str | None) -> str | None:
    """The header ``Idempotency-Key``, or None when it was not sent. Raises ``InvalidInput``."""
    if value is None or _IDEMPOTENCY_KEY.fullmatch(value):
        return value
    sentence = (
        f"`Idempotency-Key` must be 1 to {limits.IDEMPOTENCY_KEY_CHARACTERS_MAX} visible ASCII "
        "characters without spaces; a UUID is a good one."
    )
    raise refuse([FieldError("/Idempotency-Key", sentence, "header")])


def judge_traceparent(value: str | None) -> str | None:
    """The header ``traceparent`` of W3C Trace Context, level 1.

    As that standard asks, one that is not understood counts as not sent: None. Of a later
    version, the part that this version knows is kept.
    """
    found = _TRACEPARENT.fullmatch(value or "")
    if found is None or (found["version"] == "00" and found["later"]):
        return None
    return found["known"]


_IDEMPOTENCY_KEY: Final = re.compile(rf"[!-~]{{1,{limits.IDEMPOTENCY_KEY_CHARACTERS_MAX}}}")
_TRACEPARENT: Final = re.compile(
    r"(?P<known>(?P<version>(?!ff)[0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}"
    r"-[0-9a-f]{2})(?P<later>-.*)?"
)

Path = tuple[str | int, ...]
Event = TypeVar("Event")


def parsed_object(body: bytes) -> dict[str, Any]:
    """The JSON object that a body is. Raises ``MalformedDocument``, ``InvalidInput``."""
    tree = parse(body)
    if not isinstance(tree, dict):
        raise not_an_object(tree)
    return tree


def _placed(events: Iterable[Event]) -> list[tuple[Path, Event]]:
    """The events of a batch, each with its path."""
    return [(("events", index), event) for index, event in enumerate(events)]


def _envelope(
    operation: Operation, principal: str, key: str | None, traceparent: str | None
) -> dict[str, Any]:
    envelope: dict[str, Any] = {"operation": operation, "principal": principal}
    if key is not None:
        envelope["key"] = key
    if traceparent is not None:
        envelope["traceparent"] = traceparent
    return envelope


def _judged(
    operation: Operation,
    document: dict[str, Any],
    events: Sequence[tuple[Path, NewEvent]],
    condition: Condition | None,
) -> AppendRequest:
    errors: list[FieldError] = []
    documents = document["events"] = []
    for path, event in events:
        documents.append(_event_document(event, path, errors))
        if len(errors) >= limits.FIELD_ERRORS_MAX:
            break
    if errors:
        raise refuse(errors)
    if condition is not None:
        document["condition"] = _condition_document(condition)
    causes = tuple(
        (pointer_to((*path, "caused_by")), event.caused_by)
        for path, event in events
        if event.caused_by
    )
    if causes:
        document["cause_max"] = max(max(ids) for _, ids in causes)
    encoded = encode(document)
    return AppendRequest(
        operation=operation,
        document=encoded,
        event_count=len(events),
        size_bytes=len(encoded),
        keyed="key" in document,
        causes=causes,
        condition_after=None if condition is None else condition.after or 0,
        condition_values=0 if condition is None else _values_of(condition),
        events=events,
        fail_if=None if condition is None else condition.fail_if,
    )


def _event_document(event: NewEvent, path: Path, errors: list[FieldError]) -> dict[str, Any]:
    """The event as the database takes it; what is still wrong with it is added to ``errors``."""
    payload, tags = _judged_payload(event.payload, path, errors)
    if event.tags:
        tags.update(event.tags)
    if len(tags) > limits.TAGS_MAX:
        sentence = (
            f"An event bears at most {limits.TAGS_MAX} tags, those of its payload counted; this "
            f"one has {len(tags)}."
        )
        errors.append(
            FieldError(pointer_to((*path, "tags" if event.tags else "payload")), sentence)
        )
    document: dict[str, Any] = {
        "agent_name": event.agent_name,
        "event_type": event.event_type,
        "payload": msgspec.Raw(payload),
        # By code point, which is the order of UTF-8 bytes and of PostgreSQL's "C".
        "tags": sorted(tags),
    }
    if event.occurred_at is not None:
        document["occurred_at"] = event.occurred_at
    if event.caused_by:
        document["caused_by"] = event.caused_by
    if event.context is not None:
        document["context"] = event.context
    return document


def _values_of(condition: Condition) -> int:
    return sum(
        len(item.types or ()) + len(item.agents or ()) + len(item.tags or ())
        for item in condition.fail_if
    )


def _condition_document(condition: Condition) -> dict[str, Any]:
    document: dict[str, Any] = {"fail_if": query_document(condition.fail_if)}
    if condition.after is not None:
        document["after"] = condition.after
    if condition.incarnation is not None:
        document["incarnation"] = condition.incarnation
    return document


def _judged_payload(
    payload: dict[str, Any], path: Path, errors: list[FieldError]
) -> tuple[bytes, set[str]]:
    """The payload written out, and the tags that it gives."""
    encoded = encode(payload)
    if len(encoded) > limits.PAYLOAD_BYTES_MAX:
        sentence = (
            f"`payload` may take {limits.PAYLOAD_BYTES_MAX} bytes; this one takes {len(encoded)}. "
            "Keep the large part elsewhere, and store where it is."
        )
        errors.append(FieldError(pointer_to((*path, "payload")), sentence))
    tags = set()
    for name, tag in derived_tags(payload):
        if fault := derived_tag_fault(name, tag):
            errors.append(FieldError(pointer_to((*path, "payload", name)), fault))
            if len(errors) >= limits.FIELD_ERRORS_MAX:
                break
        tags.add(tag)
    return encoded, tags


def _payload_errors(events: Iterable[tuple[Path, object]]) -> list[FieldError]:
    """What is wrong with the payloads of a refused body, to be named with its other faults."""
    errors: list[FieldError] = []
    for path, event in events:
        if isinstance(event, dict) and isinstance(event.get("payload"), dict):
            _judged_payload(event["payload"], path, errors)
        if len(errors) >= limits.FIELD_ERRORS_MAX:
            break
    return errors
