"""What was read, made into a decision. Pure: nothing here waits for anything."""

from collections.abc import Mapping, Sequence
from typing import Any

from counterfoil.server.core import limits
from counterfoil.server.core.document import encode, pointer_to
from counterfoil.server.core.errors import (
    DecisionInputsRefused,
    FieldError,
    SubjectWithoutEvents,
)
from counterfoil.server.decisions.inputs import InputRefused, Room, Signal, Taken, take, unsafe
from counterfoil.server.decisions.judging import JudgedPolicy
from counterfoil.server.decisions.record import (
    DECISION_MADE,
    Basis,
    Rests,
    causes_of,
    decision_tag,
)
from counterfoil.server.log.model import AppendRequest
from counterfoil.server.log.query import Item


def taken_inputs(judged: JudgedPolicy, signals: Sequence[Signal]) -> dict[str, Taken]:
    """The inputs that come from the book, but for those that are missing and may be.

    Raises ``DecisionInputsRefused`` with every input that cannot be taken.
    """
    taken: dict[str, Taken] = {}
    room = Room()
    errors: list[FieldError] = []
    for name, read in judged.policy.reads.items():
        try:
            found = take(name, read, signals, room)
        except InputRefused as refused:
            errors.append(FieldError(pointer_to(("inputs", name)), str(refused)))
            continue
        if found is not None:
            taken[name] = found
    if errors:
        raise _refused(errors)
    return taken


def must_be_extra(judged: JudgedPolicy, extra: Mapping[str, Any]) -> None:
    """Refuse inputs that the policy takes from the book, or does not have, or cannot be kept exactly.

    Raises ``DecisionInputsRefused``.
    """
    errors = []
    for name, value in extra.items():
        at = pointer_to(("inputs", name))
        if name in judged.policy.reads:
            errors.append(FieldError(at, f"`{name}` is taken from the book; it cannot be sent."))
        elif name not in judged.policy.extra:
            known = ", ".join(f"`{one}`" for one in judged.policy.extra) or "none"
            errors.append(FieldError(at, f"The policy has no such input. It takes {known}."))
        elif fault := unsafe(value):
            errors.append(FieldError(at, f"This is {fault}."))
    if errors:
        raise _refused(errors[: limits.FIELD_ERRORS_MAX])


def must_fit(judged: JudgedPolicy, rests: Rests) -> None:
    """Hold the inputs against the policy's schema. Raises ``DecisionInputsRefused``."""
    inputs = rests.inputs
    steps = judged.schema.steps(inputs)
    if steps > limits.CHECK_STEPS_MAX:
        message = (
            f"Holding the inputs against their schema could take {steps:,} steps, and may take "
            f"{limits.CHECK_STEPS_MAX:,}."
        )
        raise _refused([FieldError("/inputs", message)])
    faults = judged.schema.faults(inputs, ())
    if faults:
        raise _refused(
            [
                FieldError(
                    one.pointer.replace("/payload", "/inputs", 1),
                    f"{one.message}{_from(rests, one.pointer)}",
                )
                for one in faults
            ]
        )


def _from(rests: Rests, pointer: str) -> str:
    """Which events an input came from, for a sentence about it."""
    name = pointer.split("/")[2:3]
    taken = rests.taken.get(name[0]) if name else None
    if taken is None or not taken.event_ids:
        return ""
    listed = ", ".join(map(str, taken.event_ids[:5]))
    more = " and others" if len(taken.event_ids) > 5 else ""
    return f" It came from event {listed}{more}."


def _refused(errors: Sequence[FieldError]) -> DecisionInputsRefused:
    return DecisionInputsRefused(f"Nothing was decided. {errors[0].message}", errors)


def must_be_about_something(found: int, signals: Sequence[Signal], subject: str) -> None:
    """Refuse a subject of which the book says nothing, and one of which it says too much.

    Raises ``SubjectWithoutEvents``, ``DecisionInputsRefused``.
    """
    if not found:
        raise SubjectWithoutEvents(
            f"Nothing that this policy reads is in the book about `{subject}`. Is it spelt so?"
        )
    if found > limits.DECISION_SIGNALS_MAX:
        message = (
            f"A decision rests on {limits.DECISION_SIGNALS_MAX:,} events at most, and there are more "
            "of them about this subject. Let the policy read fewer types, or sums that an agent "
            "keeps."
        )
        raise _refused([FieldError("/subject", message)])
    if found > len(signals):
        message = (
            f"The events about this subject are longer than {limits.DECISION_SIGNALS_BYTES_MAX:,} "
            "bytes together. Let the policy read fewer types."
        )
        raise _refused([FieldError("/subject", message)])


def too_long_a_record() -> DecisionInputsRefused:
    """The refusal of a decision whose record the book would not take."""
    message = (
        "The record of this decision, with its inputs and the ids of all events that they came from, "
        f"would be longer than {limits.PAYLOAD_BYTES_MAX:,} bytes. Let the policy read fewer events, or "
        "sums that an agent keeps."
    )
    return _refused([FieldError("/subject", message)])


def append_of(
    told: Mapping[str, Any],
    basis: Basis,
    *,
    incarnation: str,
    agent_name: str,
    asked: Mapping[str, Any],
    key: str | None,
    traceparent: str | None,
) -> AppendRequest:
    """The append of a decision: only if nothing that it has read has changed.

    Args:
        told: its record.
        basis: what it rests on.
        incarnation: of the book that was read.
        agent_name: under which name it is written.
        asked: what was asked for: an idempotency key is compared by that, whatever came of it.
        key, traceparent: the caller's.
    """
    causes = causes_of(told)
    document: dict[str, Any] = {
        "operation": "decide",
        "principal": told["asked_by"],
        "asked": dict(asked),
        "events": [
            {
                "agent_name": agent_name,
                "event_type": DECISION_MADE,
                "payload": dict(told),
                "tags": sorted({told["subject"], decision_tag(told["policy"])}),
                **({"caused_by": causes} if causes else {}),
            }
        ],
        "condition": {
            "fail_if": basis.documents,
            "after": told["head"],
            "incarnation": incarnation,
        },
    }
    if key is not None:
        document["key"] = key
    if traceparent is not None:
        document["traceparent"] = traceparent
    return _request(document, basis.condition, keyed=key is not None, after=told["head"])


def lookup_of(principal: str, agent_name: str, asked: Mapping[str, Any], key: str) -> AppendRequest:
    """An append that is never stored: it finds the answer to an earlier call with this key."""
    document = {
        "operation": "decide",
        "principal": principal,
        "asked": dict(asked),
        "key": key,
        "events": [
            {"agent_name": agent_name, "event_type": DECISION_MADE, "payload": {}, "tags": []}
        ],
    }
    return _request(document, (), keyed=True, after=None)


def _request(
    document: Mapping[str, Any], condition: Sequence[Item], *, keyed: bool, after: int | None
) -> AppendRequest:
    encoded = encode(document)
    return AppendRequest(
        operation="decide",
        document=encoded,
        event_count=1,
        size_bytes=len(encoded),
        keyed=keyed,
        causes=(),
        condition_after=after,
        condition_values=sum(
            len(item.types) + len(item.agents) + len(item.tags) for item in condition
        ),
    )
