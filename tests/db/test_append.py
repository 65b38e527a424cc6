"""The append by direct SQL: what it answers, stores and refuses, one request at a time."""

import hashlib
import json
import re
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import psycopg
import pytest

from counterfoil.server.core import limits
from tests.db.book import (
    append,
    append_one,
    event,
    fail_if,
    request,
    statuses,
    stored_types,
)

FLAGS = {"types": ["flag_transaction"]}
ISO_8601 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00")


@pytest.mark.promise("P2")
def test_positions_follow_each_other_from_one(service: psycopg.Connection) -> None:
    answers = [append_one(service, request(event(), event(), event())) for _ in range(2)]
    assert [(a.status, a.first_position, a.event_count, a.head) for a in answers] == [
        ("stored", 1, 3, 3),
        ("stored", 4, 3, 6),
    ]
    assert len(stored_types(service)) == 6


def test_refused_append_takes_no_position(service: psycopg.Connection) -> None:
    append_one(service)
    refused = append_one(service, request(condition=fail_if(FLAGS)))
    assert (refused.status, refused.first_position, refused.created_at) == (
        "condition_failed",
        None,
        None,
    )
    assert append_one(service).first_position == 2


def test_event_is_stored_as_it_was_given(service: psycopg.Connection) -> None:
    append_one(service)
    answer = append_one(
        service,
        request(
            event(
                "risk_agent",
                "risk_score",
                {"score": 1},
                ["customer:c", "band:high"],
                occurred_at="2019-02-03T04:05:06.000007+00:00",
                caused_by=[1, 1],
                context={"model": "m"},
            ),
            cause_max=1,
            principal="api-key",
        ),
    )
    row = service.execute(
        "select agent_name, event_type, payload, tags, counterfoil.time_text(created_at), "
        "occurred_at, caused_by, context, principal from counterfoil.events where position = 2"
    ).fetchone()
    assert row == (
        "risk_agent",
        "risk_score",
        {"score": 1},
        ["band:high", "customer:c"],
        answer.created_at,
        datetime(2019, 2, 3, 4, 5, 6, 7, tzinfo=UTC),
        [1, 1],
        {"model": "m"},
        "api-key",
    )
    tags = service.execute("select tag, position from counterfoil.event_tags order by tag")
    assert tags.fetchall() == [("band:high", 2), ("customer:c", 2)]


def test_traceparent_of_the_request_joins_the_context_and_yields_to_it(
    service: psycopg.Connection,
) -> None:
    append_one(
        service,
        request(
            event(),
            event(context={"model": "m"}),
            event(context={"traceparent": "the writer's own"}),
            traceparent="00-a-b-01",
        ),
    )
    rows = service.execute("select context from counterfoil.events order by position").fetchall()
    assert [context for (context,) in rows] == [
        {"traceparent": "00-a-b-01"},
        {"traceparent": "00-a-b-01", "model": "m"},
        {"traceparent": "the writer's own"},
    ]


# --- Digests ----------------------------------------------------------------------


@pytest.mark.promise("P6")
def test_digest_is_of_salt_and_payload_and_every_event_has_a_salt_of_its_own(
    service: psycopg.Connection,
) -> None:
    alike = event(payload={"zeta": 1, "alpha": ["ü", None, 1.5e-7]})
    append(service, request(alike, alike), request(alike), request(alike, key="k"))
    append_one(service, request(alike))
    rows = service.execute(
        "select salt, digest, payload::text from counterfoil.events order by position"
    ).fetchall()
    assert len(rows) == 5
    for salt, digest, text in rows:
        assert len(salt) == 16
        assert digest == hashlib.sha256(salt + text.encode()).digest()
    assert len({salt for salt, _, _ in rows}) == len(rows)
    assert len({digest for _, digest, _ in rows}) == len(rows)


@pytest.mark.promise("P6")
def test_salts_of_one_group_cannot_be_computed_from_what_stays(
    owner: psycopg.Connection, service: psycopg.Connection
) -> None:
    """An event's salt is a digest of a seed and of its place in the group. If the seed were
    something that is in the book, a blanked payload of few possible values could be guessed."""
    alike = event(payload={"amount": 1})
    for _ in range(2):
        append(service, *[request(alike, alike), request(alike)] * 8)
    rows = owner.execute(
        """
        select e.salt, e.digest, e.position, e.xmin::text, e.principal, b.incarnation,
               e.created_at::text, counterfoil.time_text(e.created_at),
               (extract(epoch from e.created_at) * 1000000)::bigint
        from counterfoil.events e join counterfoil.books b using (tenant_id)
        order by e.position
        """
    ).fetchall()
    assert len({salt for salt, *_ in rows}) == len(rows) == 48
    shown: set[bytes] = {b"", *(salt for salt, *_ in rows), *(digest for _, digest, *_ in rows)}
    for value in {value for _, _, *values in rows for value in values}:
        shown.add(str(value).encode())
        if isinstance(value, UUID):
            shown.add(value.bytes)
        elif isinstance(value, int) or value.isdecimal():
            shown |= {int(value).to_bytes(size, "big") for size in (4, 8) if int(value) < 2**31}
    places = [(nth, place) for nth in range(1, 17) for place in (1, 2)]
    guessed = {
        hashlib.sha256(seed + b"".join(number.to_bytes(4, "big") for number in place)).digest()[:16]
        for seed in shown
        for place in [(), *places]
    }
    assert guessed.isdisjoint(salt for salt, *_ in rows)
    # And it goes nowhere else: it is drawn, and it is digested.
    (source,) = owner.execute(
        "select prosrc from pg_proc where proname = 'append_v4'"
    ).fetchone() or ("",)
    assert source.count("v_seed") == 2


# --- Times ------------------------------------------------------------------------


def plant(owner: psycopg.Connection, position: int, created_at: str) -> None:
    """An event as it would be there had it been written at another time."""
    owner.execute(
        "insert into counterfoil.events (tenant_id, position, agent_name, event_type, payload, "
        "tags, created_at, caused_by, salt, digest, principal) "
        f"values (1, %s, 'a', 't', '{{}}', '{{}}', {created_at}, '{{}}', '', '', 'p')",
        [position],
    )


def test_created_at_is_the_servers_clock_at_the_time_of_the_lock(
    service: psycopg.Connection,
) -> None:
    """Not the time at which the transaction began, which may have waited for the lock."""
    with service.transaction():
        (began, before) = service.execute("select now(), clock_timestamp()").fetchone() or ()
        answer = append_one(service)
        (after,) = service.execute("select clock_timestamp()").fetchone() or ()
    assert answer.created_at is not None
    assert ISO_8601.fullmatch(answer.created_at)
    assert began < before <= datetime.fromisoformat(answer.created_at) <= after
    assert answer.clock_ahead_seconds == 0


@pytest.mark.promise("P2")
def test_created_at_never_goes_back_and_tells_how_far_the_clock_is_behind(
    owner: psycopg.Connection, service: psycopg.Connection
) -> None:
    """The last event was written by a server whose clock ran an hour ahead."""
    plant(owner, 1, "clock_timestamp() + interval '1 hour'")
    first, second = append(service, request(), request(event(), event()))
    assert 3590 < first.clock_ahead_seconds <= 3600
    assert second.clock_ahead_seconds == first.clock_ahead_seconds
    times = [
        time
        for (time,) in owner.execute("select created_at from counterfoil.events order by position")
    ]
    assert times == [times[0]] * 4

    plant(owner, 5, "clock_timestamp() - interval '1 hour'")
    later = append_one(service)
    assert later.clock_ahead_seconds == 0
    assert later.created_at is not None
    assert datetime.fromisoformat(later.created_at) < times[0]


def test_created_at_does_not_depend_on_the_sessions_time_zone(
    service: psycopg.Connection,
) -> None:
    service.execute("set timezone = 'Asia/Kathmandu'")
    service.execute("set datestyle = 'German'")
    answer = append_one(service, request(event(occurred_at="2026-01-01T00:00:00.000000+00:00")))
    assert answer.created_at is not None
    assert ISO_8601.fullmatch(answer.created_at)
    (text,) = service.execute(
        "select counterfoil.event_text(e) from counterfoil.events e"
    ).fetchone() or ("{}",)
    shown = json.loads(text)
    assert shown["created_at"] == answer.created_at
    assert shown["occurred_at"] == "2026-01-01T00:00:00.000000+00:00"


# --- Payloads ---------------------------------------------------------------------


def number_of(digits: int) -> str:
    """Short when sent, long when PostgreSQL writes it out."""
    return f"1e{digits - 1}"


@pytest.mark.promise("P13")
@pytest.mark.parametrize("excess", [0, 1])
def test_payload_is_bounded_as_postgresql_writes_it_out(
    service: psycopg.Connection, excess: int
) -> None:
    numbers = [number_of(100)] * 2000
    padding = limits.PAYLOAD_BYTES_MAX + excess - len('{"n": [], "p": ""}') - 2000 * 102 + 2
    payload = f'{{"n":[{",".join(numbers)}],"p":"{"x" * padding}"}}'
    assert len(payload) < limits.PAYLOAD_BYTES_MAX // 2
    large = json.dumps(request(event(payload="?"))).replace('"?"', payload)
    (measured,) = service.execute(
        "select octet_length((%s::jsonb -> 'events' -> 0 -> 'payload')::text)", [large]
    ).fetchone() or (0,)
    assert measured == limits.PAYLOAD_BYTES_MAX + excess

    answer = append_one(service, large)
    if excess:
        assert (answer.status, answer.detail) == ("payload_too_large", [0])
        assert stored_types(service) == []
    else:
        assert answer.status == "stored"


@pytest.mark.promise("P13")
def test_oversized_payload_is_named_by_its_place_in_the_batch(service: psycopg.Connection) -> None:
    fits = event(payload={"p": "x" * 1000})
    large = event(payload={"p": "ü" * (limits.PAYLOAD_BYTES_MAX // 2)})
    answers = append(service, request(fits), request(fits, fits, large, large), request(fits))
    assert [(a.status, a.detail) for a in answers] == [
        ("stored", None),
        ("payload_too_large", [2]),
        ("stored", None),
    ]
    assert len(stored_types(service)) == 2


@pytest.mark.promise("P13")
def test_largest_batch_takes_a_few_times_its_size(service: psycopg.Connection) -> None:
    """What PostgreSQL puts aside on its way grows with the batch, and not with its square:
    3.7 GB of files and 17 seconds, when each event was sorted with its whole batch beside it."""
    service.execute("reset role")
    service.execute("set temp_file_limit = '32MB'")
    service.execute("set role counterfoil_service")
    text = "x" * (limits.BATCH_BODY_BYTES_MAX // limits.BATCH_EVENTS_MAX - 200)
    batch = request(*(event(payload={"text": text}) for _ in range(limits.BATCH_EVENTS_MAX)))

    answer = append_one(service, batch)

    assert (answer.status, answer.event_count) == ("stored", limits.BATCH_EVENTS_MAX)


def test_numbers_are_kept_digit_for_digit(service: psycopg.Connection) -> None:
    numbers = ["1.10", "0.1", "12345678901234567890.123456789", "-0.000", "1e2", "1E-3", "9" * 100]
    asked = json.dumps(request(event(payload={"n": "?"}))).replace('"?"', f"[{','.join(numbers)}]")
    append_one(service, asked)
    (text,) = service.execute("select payload::text from counterfoil.events").fetchone() or ("",)
    kept = json.loads(text, parse_float=Decimal)["n"]
    assert kept == [Decimal(number) for number in numbers]
    assert text.startswith('{"n": [1.10, 0.1, 12345678901234567890.123456789, 0.000, 100, 0.001,')


# --- Conditions -------------------------------------------------------------------


@pytest.mark.promise("P4")
def test_condition_without_after_asks_the_whole_book(service: psycopg.Connection) -> None:
    condition = fail_if({"types": ["opened"]})
    opening = request(event(event_type="opened"), condition=condition)
    answers = [append_one(service, opening) for _ in range(2)]
    assert [(a.status, a.detail, a.head) for a in answers] == [
        ("stored", None, 1),
        ("condition_failed", [1], 1),
    ]


@pytest.mark.promise("P4")
def test_after_is_exclusive(service: psycopg.Connection) -> None:
    """What was read does not stand in the way of who read it; what came next does."""
    append_one(service, request(event(), event()))
    for after, status, detail in ((1, "condition_failed", [2]), (2, "stored", None)):
        decision = request(event(event_type="approved"), condition=fail_if(FLAGS, after=after))
        answer = append_one(service, decision)
        assert (answer.status, answer.detail) == (status, detail)


@pytest.mark.promise("P4")
def test_after_above_the_head_is_refused_and_never_vacuously_true(
    service: psycopg.Connection,
) -> None:
    append_one(service, request(event(), event()))
    answers = append(
        service,
        request(condition=fail_if({"types": ["other"]}, after=3)),
        request(),
        request(condition=fail_if({"types": ["other"]}, after=3)),
    )
    assert [(a.status, a.head) for a in answers] == [
        ("after_above_head", 2),
        ("stored", 3),
        ("stored", 4),
    ]


@pytest.mark.promise("P4")
@pytest.mark.parametrize("kept", [True, False])
def test_condition_of_another_incarnation_is_refused(
    service: psycopg.Connection, kept: bool
) -> None:
    (incarnation,) = service.execute(
        "select incarnation::text from counterfoil.books"
    ).fetchone() or ("",)
    claimed = incarnation if kept else "00000000-0000-4000-8000-000000000000"
    answer = append_one(service, request(condition=fail_if(FLAGS, incarnation=claimed)))
    assert answer.status == ("stored" if kept else "book_restored")


@pytest.mark.parametrize("in_the_way", [1, limits.CONFLICTS_MAX, limits.CONFLICTS_MAX + 5])
def test_refusal_shows_the_first_events_in_the_way(
    service: psycopg.Connection, in_the_way: int
) -> None:
    append_one(service, request(event(event_type="other"), *[event()] * in_the_way))
    answer = append_one(service, request(condition=fail_if(FLAGS)))
    assert answer.detail == list(range(2, min(in_the_way, limits.CONFLICTS_MAX) + 2))


def test_unknown_cause_is_refused(service: psycopg.Connection) -> None:
    """An event rests on earlier ones; its own position is not one of them."""
    append_one(service)
    for cause, status in ((2, "unknown_cause"), (1, "stored"), (2, "stored")):
        answer = append_one(service, request(event(caused_by=[1, cause]), cause_max=cause))
        assert answer.status == status, cause


# --- Keys -------------------------------------------------------------------------


@pytest.mark.promise("P5")
def test_same_key_and_content_gets_the_first_answer(service: psycopg.Connection) -> None:
    asked = request(event(payload={"b": 1, "a": 2}), event(), key="k")
    first = append_one(service, asked)
    append_one(service)
    # Written in another order: what is compared is the content.
    again = append_one(
        service,
        '{"key":"k","events":[{"tags":[],"payload":{"a":2,"b":1},"event_type":"flag_transaction",'
        '"agent_name":"fraud_agent"},{"tags":[],"payload":{},"event_type":"flag_transaction",'
        '"agent_name":"fraud_agent"}],"principal":"anonymous","operation":"batch"}',
    )
    assert again == first._replace(status="replayed", head=3)
    assert len(stored_types(service)) == 3


@pytest.mark.promise("P5")
def test_traceparent_of_a_retry_does_not_make_it_another_request(
    service: psycopg.Connection,
) -> None:
    answers = [
        append_one(service, request(key="k", traceparent=f"00-{attempt}")) for attempt in "ab"
    ]
    answers.append(append_one(service, request(key="k")))
    assert statuses(answers) == ["stored", "replayed", "replayed"]


@pytest.mark.promise("P5")
@pytest.mark.parametrize(
    "other",
    [
        request(event(payload={"amount": 2}), key="k"),
        request(event(payload={"amount": 1}, tags=["a:b"]), key="k"),
        request(event(payload={"amount": 1}), key="k", condition=fail_if({"types": ["x"]})),
        {**request(event(payload={"amount": 1}), key="k"), "operation": "batch"},
    ],
    ids=["payload", "tags", "condition", "operation"],
)
def test_same_key_with_other_content_is_refused(
    service: psycopg.Connection, other: dict[str, object]
) -> None:
    append_one(service, request(event(payload={"amount": 1}), key="k"))
    assert append_one(service, other).status == "key_reused"
    assert len(stored_types(service)) == 1


@pytest.mark.promise("P5")
def test_key_belongs_to_its_principal_and_its_book(
    owner: psycopg.Connection, service: psycopg.Connection
) -> None:
    owner.execute("insert into counterfoil.books (tenant_id, name) values (2, 'second')")
    asked = request(key="k")
    assert append_one(service, asked).status == "stored"
    assert append_one(service, {**asked, "principal": "another"}).status == "stored"
    assert append_one(service, asked, tenant_id=2).status == "stored"
    assert append_one(service, asked).status == "replayed"


@pytest.mark.promise("P5")
def test_key_comes_before_the_condition(service: psycopg.Connection) -> None:
    """A success that is asked for again is not refused by its own event."""
    opening = request(key="k", condition=fail_if(FLAGS))
    assert statuses(append_one(service, opening) for _ in range(2)) == ["stored", "replayed"]


@pytest.mark.promise("P5")
def test_refusals_are_not_kept(service: psycopg.Connection) -> None:
    append_one(service)
    refused = request(key="k", condition=fail_if(FLAGS))
    assert append_one(service, refused).status == "condition_failed"
    assert append_one(service, request(event(caused_by=[9]), key="k", cause_max=9)).status == (
        "unknown_cause"
    )
    assert append_one(service, request(event(event_type="other"), key="k")).status == "stored"


# --- What the function insists on -------------------------------------------------


@pytest.mark.promise("P4")
@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_other_isolation_levels_are_refused(service: psycopg.Connection, level: str) -> None:
    """There, what was committed while it waited for the lock could not be seen."""
    service.execute(f"set default_transaction_isolation = '{level}'")
    with pytest.raises(psycopg.errors.InvalidTransactionState, match="READ COMMITTED"):
        append_one(service)


@pytest.mark.promise("P1")
@pytest.mark.parametrize(
    ("session", "effective"),
    [
        ("off", "on"),
        ("local", "on"),
        ("remote_write", "on"),
        ("on", "on"),
        ("remote_apply", "remote_apply"),
    ],
)
def test_commit_is_flushed_whatever_the_session_says(
    service: psycopg.Connection, session: str, effective: str
) -> None:
    service.execute(f"set synchronous_commit = {session}")
    with service.transaction():
        append_one(service)
        setting = service.execute("show synchronous_commit").fetchone()
    assert setting == (effective,)
    assert service.execute("show synchronous_commit").fetchone() == (session,)


@pytest.mark.parametrize("events", [None, []])
def test_request_without_events_is_an_error_of_its_group(
    service: psycopg.Connection, events: list[object] | None
) -> None:
    """The service sends none; were one sent, nobody in its group may be told `stored`."""
    empty = {"operation": "batch", "principal": "p", "events": events}
    if events is None:
        del empty["events"]
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        append(service, request(), empty)
    assert stored_types(service) == []


def test_group_without_requests_is_an_error(service: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="at least one"):
        append(service)


@pytest.mark.promise("P4")
@pytest.mark.parametrize(
    "items", [[{}], [{"types": [], "agents": [], "tags": []}], [{"types": ["never"]}, {}]]
)
def test_condition_that_asks_nothing_is_an_error_and_never_holds(
    service: psycopg.Connection, items: list[dict[str, list[str]]]
) -> None:
    """The service refuses it before; were one sent, it must not pass for one that is kept."""
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        append(service, request(), request(condition=fail_if(*items)))
    assert stored_types(service) == []


@pytest.mark.promise("P4")
def test_condition_that_lacks_its_query_is_kept_by_an_empty_book_alone(
    service: psycopg.Connection,
) -> None:
    """It asks for nothing, and so against everything."""
    answers = append(service, request(condition={}), request(condition={"after": 0}), request())
    assert statuses(answers) == ["stored", "condition_failed", "stored"]
    assert append_one(service, request(condition={"after": 1})).detail == [2]
    assert append_one(service, request(condition={"after": 2})).status == "stored"


def test_unknown_tenant_is_an_error_and_not_a_book(service: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.NoDataFound):
        append_one(service, tenant_id=2)


def test_answers_are_as_many_as_the_requests(service: psycopg.Connection) -> None:
    answers = append(service, *[request() for _ in range(limits.GROUP_REQUESTS_MAX)])
    assert [answer.first_position for answer in answers] == list(range(1, len(answers) + 1))
    assert len(answers) == len(stored_types(service)) == limits.GROUP_REQUESTS_MAX
