"""What becomes of an acknowledgement before the database sees it."""

import json
from typing import Any, Final

import pytest

from counterfoil.server.consumers.model import Claim, JudgedAck, judge_ack, key_of_next
from counterfoil.server.core import limits
from counterfoil.server.core.errors import InvalidInput
from counterfoil.server.log.model import judge_idempotency_key

pytestmark = pytest.mark.promise("P8")

TOKEN: Final = "000000000000000c.0000000000000029.00000001"

EVENTS: Final = [{"agent_name": "a", "event_type": "t", "payload": {}}]

PLAIN: Final = {"consumer": "scorer", "tokens": [[12, 41, 1]]}


def judged(**asked: Any) -> JudgedAck:
    body = json.dumps({"tokens": [TOKEN], **asked}).encode()
    return judge_ack(body, consumer="scorer", principal="agent:a", key="k", traceparent=None)


def handed_in(**asked: Any) -> object:
    """What the append of an outcome hands in."""
    outcome = judged(events=EVENTS, **asked).outcome
    assert outcome is not None
    return json.loads(outcome.document)["hands_in"]


@pytest.mark.promise("P5")
def test_who_asks_for_nothing_more_has_the_content_that_keys_of_old_stand_for() -> None:
    """Each of its members is compared, also where a call is repeated after the service is new."""
    assert handed_in() == handed_in(next=None) == PLAIN


@pytest.mark.promise("P5")
def test_what_is_next_is_part_of_the_content() -> None:
    one = {**PLAIN, "next": {"holder": "h", "count": 1}}
    assert handed_in(next={"holder": "h"}) == handed_in(next={"count": 1, "holder": "h"}) == one
    assert handed_in(next={"holder": "h", "count": 2}) != one
    assert handed_in(next={"holder": "i"}) != one


def test_what_is_next_is_a_claim_that_waits_for_nothing() -> None:
    asked = {"holder": "h", "count": 2}
    assert judged(next=asked, events=EVENTS).next == Claim(holder="h", count=2)
    assert judged(next=asked).next == Claim(holder="h", count=2, done=[TOKEN])
    assert judged(next=None).next is None


@pytest.mark.promise("P5")
@pytest.mark.parametrize("key", ["k", "k" * limits.IDEMPOTENCY_KEY_CHARACTERS_MAX])
def test_no_caller_has_the_key_of_what_is_next(key: str) -> None:
    derived = key_of_next(key)
    assert derived is not None
    assert derived != key_of_next(f"{key}next")
    with pytest.raises(InvalidInput):
        judge_idempotency_key(derived)
    assert key_of_next(None) is None
