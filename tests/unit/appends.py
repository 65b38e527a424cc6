"""Appends in short, for the tests of how they are judged."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from counterfoil.server.core.errors import FieldError, InvalidInput
from counterfoil.server.log.model import AppendRequest, judge_append, judge_batch


def event(**members: object) -> dict[str, Any]:
    """An event of the least there is, with these members added or changed."""
    return {"agent_name": "a", "event_type": "t", "payload": {}, **members}


def append(body: object, key: str | None = None, traceparent: str | None = None) -> AppendRequest:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    return judge_append(sent, principal="api-key", key=key, traceparent=traceparent)


def batch(body: object, key: str | None = None, traceparent: str | None = None) -> AppendRequest:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    return judge_batch(sent, principal="api-key", key=key, traceparent=traceparent)


def document_of(request: AppendRequest) -> dict[str, Any]:
    document = json.loads(request.document, parse_float=Decimal)
    assert isinstance(document, dict)
    return document


def stored(**members: object) -> dict[str, Any]:
    """The one event that the database is given for an event with these members."""
    (only,) = document_of(append(event(**members)))["events"]
    assert isinstance(only, dict)
    return only


def errors_of(judge: Callable[[object], object], body: object) -> tuple[FieldError, ...]:
    with pytest.raises(InvalidInput) as caught:
        judge(body)
    return caught.value.errors


def only_error_of(judge: Callable[[object], object], body: object) -> FieldError:
    (error,) = errors_of(judge, body)
    return error
