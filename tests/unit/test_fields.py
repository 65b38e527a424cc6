"""Tags, times, names and sizes: what an event may bear, and what is said of what it may not."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterfoil.server.core import limits
from counterfoil.server.core.document import pointer_to
from counterfoil.server.log.fields import derived_tags, tag_fault
from tests.unit.appends import append, event, only_error_of, stored

# --- Tags -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "tags"),
    [
        ({"transaction_id": "tx_987"}, ["transaction:tx_987"]),
        ({"customer_id": 5, "account_id": -7}, ["account:-7", "customer:5"]),
        ({"a_id": "x:y z"}, ["a:x:y z"]),
        ({"a_b_id": "1", "ü_id": "ß"}, ["a_b:1", "ü:ß"]),
        ({"a_id": True, "b_id": None, "c_id": 1.0, "d_id": ["x"], "e_id": {"f_id": "x"}}, []),
        ({"_id": "x", "id": "y", "a_ID": "z", "a_ids": "w", "identity": "v"}, []),
        ({"nested": {"a_id": "x"}}, []),
    ],
    ids=range(7),
)
def test_a_payload_gives_tags_by_itself(payload: dict[str, Any], tags: list[str]) -> None:
    assert stored(payload=payload)["tags"] == tags


def test_given_and_derived_tags_are_one_set() -> None:
    tags = stored(payload={"a_id": 1, "b_id": 2}, tags=["a:1", "c:3", "c:3"])["tags"]

    assert tags == ["a:1", "b:2", "c:3"]


plain = st.text("aé𝄞b\ufffd", min_size=1, max_size=5)


@settings(deadline=None)
@given(st.dictionaries(plain, plain | st.integers() | st.booleans() | st.none(), max_size=5))
def test_tags_are_sorted_as_their_bytes_are(values: dict[str, Any]) -> None:
    payload = {f"{kind}_id": value for kind, value in values.items()}
    expected = {
        f"{kind}:{value}".encode()
        for kind, value in values.items()
        if isinstance(value, str | int) and not isinstance(value, bool)
    }

    tags = [tag.encode() for tag in stored(payload=payload)["tags"]]

    assert tags == sorted(expected)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=4) | plain.map(lambda k: f"{k}_id"), st.integers()))
def test_derived_tags_come_from_the_fields_that_end_so(payload: dict[str, Any]) -> None:
    named = {field for field, _ in derived_tags(payload)}

    assert named == {field for field in payload if field[-3:] == "_id" and field != "_id"}


@pytest.mark.parametrize(
    "tag",
    [
        *("a:b", "a:b:c", "a::", "a::b", "a b:c d", "transaction:tx_987", "A:B", "é:ü"),
        *("a:" + "b" * 254, "k" * 64 + ":v", "-:-", "a:\u200b", "👍:👎"),
    ],
    ids=range(13),
)
def test_a_tag_is_a_kind_and_a_value(tag: str) -> None:
    assert tag_fault(tag) is None
    assert stored(tags=[tag])["tags"] == [tag]


@pytest.mark.parametrize(
    ("tag", "said"),
    [
        ("", "no colon"),
        ("a", "no colon"),
        (":", "its kind is empty"),
        (":b", "its kind is empty"),
        ("a:", "its value is empty"),
        ("k" * 65 + ":v", "its kind has 65 characters, and may have 64"),
        ("a:" + "b" * 255, "it has 257 characters, and may have 256"),
        ("a:b\n", "control character"),
        ("a\x85b:c", "control character"),
        ("a:\x7f", "control character"),
        (" a:b", "white space"),
        ("a :b", "white space"),
        ("a: b", "white space"),
        ("a:b\u3000", "white space"),
        ("a:b\u2028", "white space"),
    ],
    ids=range(15),
)
def test_what_is_no_tag_says_why(tag: str, said: str) -> None:
    error = only_error_of(append, event(tags=["k:v", tag]))

    assert error.pointer == "/tags/1"
    assert said in error.message
    assert "`kind:value`" in error.message
    assert len(error.message) < 250


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("a_id", "", "its value is empty"),
        ("a_id", "x" * 300, "may have 256"),
        ("a_id", "x\n", "control character"),
        ("a_id", "x ", "white space"),
        (" _id", "x", "white space"),
        ("k" * 65 + "_id", 1, "its kind has 65 characters"),
        ("a:b_id", "c", "its kind holds a colon"),
        ("a/~b_id", "", "its value is empty"),
    ],
    ids=range(8),
)
def test_a_derived_tag_that_breaks_a_limit_refuses_the_event(
    field: str, value: object, said: str
) -> None:
    error = only_error_of(append, event(payload={"ok_id": 1, field: value}))

    assert error.pointer == pointer_to(["payload", field])
    assert said in error.message
    assert "send null" in error.message


def test_an_event_bears_at_most_32_tags_of_both_sorts() -> None:
    given_tags = [f"k:{n}" for n in range(31)]
    payload = {f"p{n}_id": n for n in range(33)}

    assert len(stored(tags=given_tags, payload={"a_id": 1})["tags"]) == 32
    both = only_error_of(append, event(tags=given_tags, payload={"a_id": 1, "b_id": 2}))
    derived = only_error_of(append, event(payload=payload))
    listed = only_error_of(append, event(tags=[f"k:{n}" for n in range(33)]))
    assert (both.pointer, derived.pointer, listed.pointer) == ("/tags", "/payload", "/tags")
    assert "this one has 33" in both.message


# --- Times ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("2026-03-01T12:30:00Z", "2026-03-01T12:30:00.000000+00:00"),
        ("2026-03-01t12:30:00.25z", "2026-03-01T12:30:00.250000+00:00"),
        ("2026-03-01T12:30:00.123456+05:30", "2026-03-01T07:00:00.123456+00:00"),
        ("2026-01-01T00:30:00+01:00", "2025-12-31T23:30:00.000000+00:00"),
        ("2026-03-01T12:30:00-00:00", "2026-03-01T12:30:00.000000+00:00"),
        ("2024-02-29T23:59:59-23:59", "2024-03-01T23:58:59.000000+00:00"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000000+00:00"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999+00:00"),
    ],
    ids=range(8),
)
def test_a_time_is_kept_in_utc_with_six_digits(sent: str, kept: str) -> None:
    assert stored(occurred_at=sent)["occurred_at"] == kept


@settings(deadline=None)
@given(
    st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1)),  # noqa: DTZ001 - the offset is drawn
    st.integers(-23 * 60 - 59, 23 * 60 + 59),
)
def test_a_time_is_the_same_instant_afterwards(moment: datetime, offset_minutes: int) -> None:
    moment = moment.replace(tzinfo=timezone(timedelta(minutes=offset_minutes)))

    kept = stored(occurred_at=moment.isoformat())["occurred_at"]

    assert datetime.fromisoformat(kept) == moment
    assert datetime.fromisoformat(kept).tzinfo == UTC
    assert len(kept) == len("2026-03-01T12:30:00.000000+00:00")


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ("", "RFC 3339"),
        ("yesterday", "RFC 3339"),
        ("2026-03-01", "RFC 3339"),
        ("2026-03-01T12:30:00", "with its offset"),
        ("2026-03-01 12:30:00Z", "RFC 3339"),
        ("2026-03-01T12:30Z", "RFC 3339"),
        ("20260301T123000Z", "RFC 3339"),
        ("2026-03-01T12:30:00+0100", "RFC 3339"),
        ("2026-03-01T12:30:00+24:00", "RFC 3339"),
        ("2026-03-01T12:30:00+01:60", "RFC 3339"),
        ("2026-03-01T24:00:00Z", "RFC 3339"),
        ("2026-03-01T12:60:00Z", "RFC 3339"),
        ("2026-03-01T12:30:00,5Z", "RFC 3339"),
        ("2026-03-01T12:30:00Z\n", "RFC 3339"),
        ("\u0662026-03-01T12:30:00Z", "RFC 3339"),
        ("-2026-03-01T12:30:00Z", "RFC 3339"),
        ("12026-03-01T12:30:00Z", "RFC 3339"),
        ("2026-03-01T12:30:00.1234567Z", "this one has 7"),
        ("2016-12-31T23:59:60Z", "leap seconds"),
        ("2026-03-01T12:30:61Z", "no such day or time"),
        ("2026-02-29T12:30:00Z", "no such day or time"),
        ("2026-13-01T12:30:00Z", "no such day or time"),
        ("0000-01-01T00:00:00Z", "no such day or time"),
        ("0001-01-01T00:00:00+00:01", "0001 to 9999"),
        ("9999-12-31T23:59:59-00:01", "0001 to 9999"),
        ("2026-03-01T12:30:00." + "1" * 100_000, "RFC 3339"),
    ],
    ids=range(26),
)
def test_what_is_no_time_says_why(sent: str, said: str) -> None:
    error = only_error_of(append, event(occurred_at=sent))

    assert error.pointer == "/occurred_at"
    assert said in error.message
    assert len(error.message) < 200


# --- Names and sizes --------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a", "fraud agent/v2", "…", ".hidden", "a..b", "...", "é" * 128, "a" * 128, "a\u200b"]
)
def test_a_name_is_any_printable_line(name: str) -> None:
    assert stored(agent_name=name)["agent_name"] == name
    assert stored(event_type=name)["event_type"] == name


def test_a_type_may_be_what_an_agent_may_not() -> None:
    assert stored(event_type="..")["event_type"] == ".."


@pytest.mark.parametrize("field", ["agent_name", "event_type"])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "must be a string of 1 to 128 characters; this one is empty"),
        ("a" * 129, "must be a string of 1 to 128 characters; this one has 129"),
        ("a" * 100_000, "this one has 100000"),
        (" a", "begins or ends with white space"),
        ("a\u3000", "begins or ends with white space"),
        ("a\tb", "holds a control character"),
        ("a\x85b", "holds a control character"),
        ("a\x7fb", "holds a control character"),
        (5, "this is a number"),
        (True, "this is a boolean"),
        (None, "this is null"),
        (["a"], "this is a list"),
        ({"a": 1}, "this is an object"),
    ],
    ids=range(13),
)
def test_what_is_no_name_says_why(field: str, name: object, said: str) -> None:
    error = only_error_of(append, event(**{field: name}))

    assert error.pointer == f"/{field}"
    assert error.message.startswith(f"`{field}` must be a string of 1 to 128 characters; ")
    assert said in error.message
    assert len(error.message) < 120


@pytest.mark.parametrize("name", [".", ".."])
def test_an_agent_cannot_be_named_as_a_place_in_a_path(name: str) -> None:
    error = only_error_of(append, event(agent_name=name))

    assert error.pointer == "/agent_name"
    assert "`/agent-events/{agent_name}`" in error.message


def test_a_payload_may_take_256_kib() -> None:
    frame = len('{"a":""}')
    fits = append(event(payload={"a": "é" * ((limits.PAYLOAD_BYTES_MAX - frame) // 2)}))
    error = only_error_of(
        append, event(payload={"a": "x" * (limits.PAYLOAD_BYTES_MAX - frame + 1)})
    )

    assert fits.size_bytes > limits.PAYLOAD_BYTES_MAX
    assert error.pointer == "/payload"
    assert "262144 bytes; this one takes 262145" in error.message


def test_white_space_and_escapes_do_not_count_to_the_size() -> None:
    text = "x" * (limits.PAYLOAD_BYTES_MAX - len('{"a":""}') - 1)
    sent = f'{{"agent_name":"a","event_type":"t","payload":{{  "a" : "{text}\\u0041"  }}}}'

    assert append(sent.encode()).event_count == 1


def test_a_context_may_take_4_kib() -> None:
    frame = len('{"a":""}')
    append(event(context={"a": "x" * (limits.CONTEXT_BYTES_MAX - frame)}))
    error = only_error_of(
        append, event(context={"a": "x" * (limits.CONTEXT_BYTES_MAX - frame + 1)})
    )

    assert error.pointer == "/context"
    assert "4096 bytes; this one takes 4097" in error.message
