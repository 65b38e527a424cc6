"""Consumers by direct SQL, as the service's role uses them and nothing in between."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, cast

import psycopg

from counterfoil.server.consumers import calls
from counterfoil.server.core import limits
from tests.db.book import ACT_FOR, Answer, append_one, event, request

CONSUME: Final = """
    select request, deliveries, answer
    from counterfoil.consume_v2(
        %s, %s, %s::text[], %s::text[], %s::integer[], %s::text[], %s::integer[],
        %s::integer[], %s::bigint[], %s::bigint[], %s::integer[], %s::jsonb, %s, %s)
"""

CONSUMER: Final[Mapping[str, Any]] = {
    "query": [{"types": ["payment"], "agents": [], "tags": []}],
    "start": "beginning",
    "order_by": None,
    "lease_seconds": 60,
    "attempts_max": 3,
    "backoff_initial_seconds": 0,
    "backoff_factor": 2,
    "backoff_max_seconds": 300,
    "in_flight_max": None,
    "dead_letters": "pass",
}
"""What ``make_consumer`` makes, unless told otherwise."""


Token = tuple[int, int, int]


class Delivery(NamedTuple):
    """What was handed out to one request of a group."""

    request: int
    position: int
    attempt: int
    token: Token


class Answered(NamedTuple):
    """What ``consume_v2`` answered to a group."""

    deliveries: list[Delivery]
    told: dict[str, Any]

    @property
    def positions(self) -> list[int]:
        """The events that were handed out, in their order."""
        return [delivery.position for delivery in self.deliveries]

    @property
    def tokens(self) -> list[Token]:
        """Their tokens."""
        return [delivery.token for delivery in self.deliveries]

    def status(self, nth: int = 0) -> str | None:
        """How a request fared; None: it was a claim, and answered by its deliveries alone."""
        status: str | None = self.told["statuses"][nth]
        return None if status == "acknowledged" else status

    def lost(self, nth: int = 0) -> list[Token]:
        """What a request has lost of what it names."""
        return [(token[0], token[1], token[2]) for token in self.told["lost"].get(str(nth), [])]


def own(
    connection: psycopg.Connection, what: str, effect: Mapping[str, Any], count: int = 1
) -> Answer:
    """One of the service's own appends, with its effect."""
    events = [event("counterfoil", f"counterfoil.{what}") for _ in range(count)]
    return append_one(connection, request(*events, own=True, effect=dict(effect)))


def make_consumer(connection: psycopg.Connection, name: str = "scorer", **other: Any) -> Answer:
    """Make a consumer, or change it."""
    asked = {**CONSUMER, "change_query": False, **other}
    return own(
        connection,
        "consumer_created",
        {"effect": "put_consumer", "name": name, "by": "person:p", **asked},
    )


def change(connection: psycopg.Connection, what: str, name: str = "scorer", **more: Any) -> Answer:
    """Pause, resume, seek or delete a consumer."""
    effect = {"effect": "change_consumer", "change": what, "name": name, **more}
    return own(connection, f"consumer_{what}", effect)


def pay(connection: psycopg.Connection, *tags: str | Iterable[str]) -> list[int]:
    """Append payments, one for each tag (or each tuple of tags); returns their positions."""
    positions = []
    for each in tags:
        bearing = [each] if isinstance(each, str) else list(each)
        answer = append_one(connection, request(event(event_type="payment", tags=bearing)))
        assert answer.first_position is not None
        positions.append(answer.first_position)
    return positions


def consume(
    connection: psycopg.Connection,
    *requests: Mapping[str, Any],
    name: str = "scorer",
    look_for_due: bool = True,
    tenant_id: int = 1,
) -> Answered:
    """Run one group of requests."""
    connection.execute(ACT_FOR, [str(tenant_id)])
    rows = connection.execute(
        CONSUME,
        [tenant_id, name, *group(*requests), look_for_due, limits.LOCK_WAIT_MILLISECONDS_MAX],
    ).fetchall()
    *handed_out, last = rows
    told = json.loads(str(last[2]))
    deliveries = []
    for nth, count, text in handed_out:
        given = json.loads(f"[{text}]")
        assert len(given) == count
        for one in given:
            token = (told["generation"], one["event"]["id"], one["attempt"])
            assert one["token"] == calls.Token(*token).text
            deliveries.append(Delivery(int(str(nth)), token[1], token[2], token))
    return Answered(deliveries, told)


def group(*requests: Mapping[str, Any]) -> list[Any]:
    """Requests as ``consume_v2`` takes them: one list for each part."""
    named = [
        (nth, *token)
        for nth, request in enumerate(requests, 1)
        for token in request.get("tokens", ())
    ]
    more = [
        {name: value for name, value in request.items() if name in _MORE} for request in requests
    ]
    return [
        [request["call"] for request in requests],
        [request["principal"] for request in requests],
        [len(request.get("tokens", ())) for request in requests],
        [request.get("holder") for request in requests],
        [request.get("count", 0) for request in requests],
        *([token[part] for token in named] for part in range(4)),
        json.dumps(more) if any(more) else None,
    ]


_MORE = {"key", "digest", "seconds", "reason"}


def claim(count: int = 1, holder: str = "h", **more: Any) -> dict[str, Any]:
    """A request that claims."""
    return {"call": "claim", "principal": "agent:a", "holder": holder, "count": count, **more}


def ack(*tokens: Token, **more: Any) -> dict[str, Any]:
    """A request that acknowledges."""
    return {"call": "ack", "principal": "agent:a", "tokens": list(tokens), **more}


def extend(*tokens: Token, **more: Any) -> dict[str, Any]:
    """A request that extends leases."""
    return {"call": "extend", "principal": "agent:a", "tokens": list(tokens), **more}


def release(*tokens: Token, **more: Any) -> dict[str, Any]:
    """A request that gives back."""
    return {"call": "release", "principal": "agent:a", "tokens": list(tokens), **more}


def hands_in(*tokens: Token, name: str = "scorer") -> dict[str, Any]:
    """What a request of an append hands in."""
    return {"hands_in": {"consumer": name, "tokens": list(tokens)}}


def set_aside(
    connection: psycopg.Connection,
    *tokens: Token,
    principal: str | None = "agent:a",
    name: str = "scorer",
) -> Answer:
    """Set deliveries aside: held ones, or (without a principal) exhausted ones."""
    effect = {
        "effect": "set_aside",
        "consumer": name,
        "tokens": list(tokens),
        "principal": principal,
        "reason": "No such account.",
        "by": principal or "counterfoil",
    }
    return own(connection, "delivery_set_aside", effect, len(tokens))


def states(owner: psycopg.Connection) -> dict[int, str]:
    """The state of each delivery that there is, by its position."""
    rows = owner.execute("select position, state from counterfoil.deliveries order by position")
    return {int(str(position)): str(state) for position, state in rows.fetchall()}


def end(owner: psycopg.Connection, *positions: int) -> None:
    """Let what is held or delayed be due now: by the database's clock, a second ago."""
    ended = owner.execute(
        "update counterfoil.deliveries set due_at = clock_timestamp() - interval '1 second'"
        " where due_at is not null and position = any (%s)",
        [list(positions)],
    )
    assert ended.rowcount == len(positions), states(owner)


def fail(connection: psycopg.Connection, owner: psycopg.Connection, position: int) -> Token:
    """Claim an event until it is exhausted; the token of its last attempt."""
    while True:
        answered = consume(connection, claim())
        assert answered.positions == [position]
        (token,) = answered.tokens
        assert consume(connection, release(token, reason="No.", seconds=0)).status() == "done"
        if states(owner)[position] == "exhausted":
            return token


def replay(connection: psycopg.Connection, *positions: int, name: str = "scorer") -> Answer:
    """Hand dead letters out again."""
    effect = {"effect": "replay_dead_letters", "name": name, "event_ids": list(positions)}
    return own(connection, "dead_letters_replayed", effect)


def drop(connection: psycopg.Connection, *positions: int, name: str = "scorer") -> Answer:
    """Drop dead letters."""
    effect = {"effect": "drop_dead_letters", "name": name, "event_ids": list(positions)}
    return own(connection, "dead_letters_dropped", effect)


def letters(owner: psycopg.Connection) -> dict[int, dict[str, Any]]:
    """The dead letters that there are, by their events."""
    rows = owner.execute("select l.position, to_jsonb(l) from counterfoil.dead_letters l")
    return {int(str(position)): cast("dict[str, Any]", letter) for position, letter in rows}


def delivery(owner: psycopg.Connection, position: int) -> dict[str, Any]:
    """The row of a delivery."""
    row = owner.execute(
        "select to_jsonb(d) from counterfoil.deliveries d where d.position = %s", [position]
    ).fetchone()
    assert row is not None
    return cast("dict[str, Any]", row[0])


def stands(connection: psycopg.Connection, name: str = "scorer") -> dict[str, Any]:
    """How a consumer stands, as it is told."""
    row = connection.execute(
        "select counterfoil.consumer_text(c)::json from counterfoil.consumers c"
        " where c.tenant_id = counterfoil.current_tenant() and c.name = %s",
        [name],
    ).fetchone()
    assert row is not None
    return cast("dict[str, Any]", row[0])
