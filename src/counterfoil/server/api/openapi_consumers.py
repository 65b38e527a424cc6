"""What the calls about consumers take and give, for ``/openapi.json``."""

from collections.abc import Sequence
from typing import Any, Final

from pydantic import BaseModel

from counterfoil.server.api import openapi_parts as parts
from counterfoil.server.api import problems, schemas_consumers
from counterfoil.server.api.openapi_parts import Json
from counterfoil.server.consumers.model import (
    Ack,
    Because,
    Claim,
    DeleteParameters,
    Drop,
    Extend,
    NewConsumer,
    Release,
    Replay,
    Seek,
    SetAside,
)
from counterfoil.server.core import limits
from counterfoil.server.log.parameters import ListParameters

INPUTS: Final[Sequence[type[BaseModel]]] = (
    *(NewConsumer, Because, Seek),
    *(Claim, Ack, Extend, Release, SetAside, Replay, Drop),
)
OUTPUTS: Final[Sequence[type[BaseModel]]] = (
    schemas_consumers.Consumer,
    schemas_consumers.ConsumerList,
    schemas_consumers.DeletedConsumer,
    schemas_consumers.Claimed,
    schemas_consumers.Done,
    schemas_consumers.StoredOutcome,
    schemas_consumers.Extended,
    schemas_consumers.Released,
    schemas_consumers.SetAsideEvents,
    schemas_consumers.DeadLetter,
    schemas_consumers.DeadLetterList,
    schemas_consumers.SettledLetters,
    schemas_consumers.LeaseLostProblem,
)

_TIME: Final = "2026-03-01T12:00:00.000000+00:00"
_REPLAYED: Final = "Idempotent-Replayed"
_TOKEN: Final = "000000000000000c.0000000000000029.00000001"  # noqa: S105 - of a delivery
_MANAGE: Final = "manage:consumers"

_NAME: Final = parts.parameter(
    "name",
    "path",
    "Which consumer.",
    {
        "type": "string",
        "pattern": "^[a-z0-9][a-z0-9._-]*$",
        "maxLength": limits.CONSUMER_NAME_CHARACTERS_MAX,
    },
    required=True,
    example="scorer",
)
_LETTER_ID: Final = {**parts.EVENT_ID, "description": "The event that was set aside."}

_CONSUMER: Final[Json] = {
    "name": "scorer",
    "query": [{"types": ["payment"], "agents": [], "tags": []}],
    "start": "beginning",
    "lease_seconds": 60,
    "attempts_max": 10,
    "backoff": {"initial_seconds": 1, "factor": 2, "max_seconds": 300},
    "order_by": "customer",
    "in_flight_max": 100,
    "dead_letters": "pass",
    "status": "running",
    "position": 1040,
    "head": 1042,
    "lag": {"events": 3, "seconds": 0.412, "at_least": False},
    "in_flight": 2,
    "waiting": 1,
    "set_aside": 0,
    "rate": 41.5,
    "event_id": 12,
    "created_at": _TIME,
    "created_by": "service:pipeline",
}
_LETTER: Final[Json] = {
    "event_id": 41,
    "attempts": [
        {
            "attempt": 1,
            "holder": "scorer-1",
            "claimed_at": _TIME,
            "ended_at": _TIME,
            "reason": "The lease ran out.",
        }
    ],
    "reason": "It failed 1 times, which is as often as it may.",
    "set_aside_at": _TIME,
    "set_aside_by": "service:counterfoil",
    "said_by": 57,
    "holds_key": False,
}
_LOST: Final = (problems.CONSUMER_NOT_FOUND, problems.LEASE_LOST)


def _answer(model: type[BaseModel], example: Json, description: str, *headers: str) -> Json:
    return parts.json_answer(model, example, description, *headers)


def _changed(operation_id: str, *refusals: Any, **more: Any) -> Json:
    return parts.call(
        operation_id,
        "consumers",
        more.pop(
            "answer",
            _answer(schemas_consumers.Consumer, _CONSUMER, "The consumer as it is now.", _REPLAYED),
        ),
        (*parts.CHANGE_REFUSALS, *refusals),
        needs=_MANAGE,
        parameters=(_NAME, *more.pop("parameters", ()), parts.IDEMPOTENCY_KEY),
        **more,
    )


def _worked(operation_id: str, answer: Json, body: Json, *, keyed: bool = True) -> Json:
    return parts.call(
        operation_id,
        "consumers",
        answer,
        (*parts.CHANGE_REFUSALS, *_LOST),
        needs="consume",
        parameters=(_NAME, *([parts.IDEMPOTENCY_KEY] if keyed else ())),
        body=body,
    )


LIST: Final = parts.call(
    "list_consumers",
    "consumers",
    _answer(
        schemas_consumers.ConsumerList, {"consumers": [_CONSUMER], "next": "c2NvcmVy"}, "One page."
    ),
    parts.READ_REFUSALS,
    needs=parts.ANY,
    parameters=parts.query_parameters(ListParameters),
)
GET: Final = parts.call(
    "get_consumer",
    "consumers",
    _answer(schemas_consumers.Consumer, _CONSUMER, "The consumer."),
    (*parts.READ_REFUSALS, problems.CONSUMER_NOT_FOUND),
    needs=parts.ANY,
    parameters=(_NAME,),
)
PUT: Final = _changed(
    "put_consumer",
    *(problems.CONSUMER_STARTED, problems.TOO_MANY, problems.AFTER_ABOVE_HEAD),
    body=parts.json_body(
        NewConsumer,
        in_order_of_customers={"query": [{"types": ["payment"]}], "order_by": "customer"},
        from_now_on={"query": [{"types": ["flag_transaction"]}], "start": "now"},
    ),
    more_answers={
        201: _answer(
            schemas_consumers.Consumer,
            _CONSUMER,
            "The consumer that was made.",
            "Location",
            _REPLAYED,
        )
    },
)
DELETE: Final = _changed(
    "delete_consumer",
    *(problems.CONSUMER_NOT_FOUND, problems.CONSUMER_HAS_DEAD_LETTERS),
    parameters=parts.query_parameters(DeleteParameters),
    answer=_answer(
        schemas_consumers.DeletedConsumer,
        {
            "name": "scorer",
            "deleted_at": _TIME,
            "deleted_by": "admin:admin",
            "unfinished": 3,
            "dead_letters": 0,
            "event_id": 58,
        },
        "What is gone.",
        _REPLAYED,
    ),
)
_BECAUSE: Final = parts.json_body(Because, a_release={"reason": "The new model goes live at ten."})
PAUSE: Final = _changed("pause_consumer", problems.CONSUMER_NOT_FOUND, body=_BECAUSE)
RESUME: Final = _changed("resume_consumer", problems.CONSUMER_NOT_FOUND, body=_BECAUSE)
SEEK: Final = _changed(
    "seek_consumer",
    *(problems.CONSUMER_NOT_FOUND, problems.AFTER_ABOVE_HEAD),
    body=parts.json_body(
        Seek,
        to_a_time={
            "to": {"time": "2026-03-01T00:00:00Z"},
            "reason": "Scored with the wrong model since March.",
        },
        to_a_position={"to": {"after": 1000}, "reason": "The first thousand are imported."},
    ),
)
CLAIM: Final = _worked(
    "claim_deliveries",
    _answer(
        schemas_consumers.Claimed,
        {
            "deliveries": [
                {
                    "event": parts.EVENT_EXAMPLE,
                    "attempt": 1,
                    "lease_ends": _TIME,
                    "token": _TOKEN,
                }
            ],
            "status": "running",
        },
        "What was handed out; an empty list, where the wait was over.",
    ),
    parts.json_body(
        Claim,
        up_to_ten={"holder": "scorer-1", "count": 10, "wait_seconds": 20},
        acknowledge_and_claim={"holder": "scorer-1", "count": 10, "done": [_TOKEN]},
    ),
)
ACK: Final = parts.call(
    "acknowledge_deliveries",
    "consumers",
    _answer(
        schemas_consumers.Done,
        {"status": "done"},
        "All of it is done; there was no outcome to write.",
        _REPLAYED,
    ),
    (*parts.WRITE_REFUSALS, *_LOST, problems.DATABASE_UNAVAILABLE, problems.READ_TOO_SLOW),
    needs="consume",
    parameters=(_NAME, *parts.WRITE_HEADERS),
    body=parts.json_body(
        Ack,
        done={"tokens": [_TOKEN]},
        done_with_its_outcome={
            "tokens": [_TOKEN],
            "events": [
                {
                    "agent_name": "scorer",
                    "event_type": "payment_scored",
                    "payload": {"transaction_id": "tx_987", "score": 0.12},
                    "caused_by": [41],
                }
            ],
        },
        done_and_the_next={"tokens": [_TOKEN], "next": {"holder": "scorer-1", "count": 10}},
    ),
    more_answers={
        201: _answer(
            schemas_consumers.StoredOutcome,
            {"ids": [42], "created_at": _TIME, "status": "stored"},
            "All of it is done, and its outcome is committed and flushed.",
            "Location",
            _REPLAYED,
        )
    },
)
EXTEND: Final = _worked(
    "extend_leases",
    _answer(schemas_consumers.Extended, {"lease_ends": _TIME}, "Until when they are held."),
    parts.json_body(Extend, as_long_as_at_first={"tokens": [_TOKEN]}),
    keyed=False,
)
RELEASE: Final = _worked(
    "release_deliveries",
    _answer(schemas_consumers.Released, {"status": "released"}, "They are given back.", _REPLAYED),
    parts.json_body(
        Release,
        given_back={"tokens": [_TOKEN]},
        failed={"tokens": [_TOKEN], "reason": "The scoring model timed out."},
    ),
)
SET_ASIDE: Final = _worked(
    "set_deliveries_aside",
    _answer(
        schemas_consumers.SetAsideEvents,
        {"status": "set_aside", "event_ids": [57]},
        "They are dead letters now.",
        _REPLAYED,
    ),
    parts.json_body(SetAside, no_such_account={"tokens": [_TOKEN], "reason": "No such account."}),
)
LIST_LETTERS: Final = parts.call(
    "list_dead_letters",
    "consumers",
    _answer(
        schemas_consumers.DeadLetterList, {"dead_letters": [_LETTER], "next": "NDE="}, "One page."
    ),
    (*parts.READ_REFUSALS, problems.CONSUMER_NOT_FOUND),
    needs=parts.ANY,
    parameters=(_NAME, *parts.query_parameters(ListParameters)),
)
GET_LETTER: Final = parts.call(
    "get_dead_letter",
    "consumers",
    _answer(schemas_consumers.DeadLetter, _LETTER, "The dead letter."),
    (*parts.READ_REFUSALS, problems.CONSUMER_NOT_FOUND, problems.DEAD_LETTER_NOT_FOUND),
    needs=parts.ANY,
    parameters=(_NAME, _LETTER_ID),
)


def _settled(operation_id: str, status: str, model: type[BaseModel], **examples: Json) -> Json:
    return _changed(
        operation_id,
        *(problems.CONSUMER_NOT_FOUND, problems.DEAD_LETTER_NOT_FOUND),
        answer=_answer(
            schemas_consumers.SettledLetters,
            {"status": status, "event_ids": [41]},
            "Which they were.",
            _REPLAYED,
        ),
        body=parts.json_body(model, **examples),
    )


REPLAY: Final = _settled(
    "replay_dead_letters",
    "replayed",
    Replay,
    one={"event_ids": [41]},
    all_of_them={"all": True, "reason": "The account service is back."},
)
DROP: Final = _settled(
    "drop_dead_letters",
    "dropped",
    Drop,
    one={"event_ids": [41], "reason": "The account never existed."},
)
