"""Queries and reads: what they ask, how they are judged, and what matches them."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterfoil.server.core import limits
from counterfoil.server.core.errors import FieldError, InvalidInput, MalformedDocument
from counterfoil.server.log.query import (
    Item,
    ReadParameters,
    ReadRequest,
    judge_agent_name,
    judge_event_id,
    judge_last_event_id,
    judge_latest_parameters,
    judge_query,
    judge_read_parameters,
    judge_stream_parameters,
    leads_of,
    leads_to,
    matches,
)

INCARNATION = "6b1f6b3e-0a52-4c7e-9d5e-0d1c2b3a4f5e"
POSITION_MAX = limits.POSITION_MAX


def errors_of(judge: Callable[..., object], *arguments: object) -> tuple[FieldError, ...]:
    with pytest.raises(InvalidInput) as caught:
        judge(*arguments)
    return caught.value.errors


def only_error_of(judge: Callable[..., object], *arguments: object) -> FieldError:
    (error,) = errors_of(judge, *arguments)
    return error


def body(**members: object) -> bytes:
    return json.dumps({"query": [{"types": ["t"]}], **members}).encode()


# --- Matching ---------------------------------------------------------------------

few = st.sampled_from("abc")
subsets = st.frozensets(few)
items = st.builds(Item, types=subsets, agents=subsets, tags=subsets)


def naive_matches(query: Sequence[Item], agent: str, event_type: str, tags: frozenset[str]) -> bool:
    """The rule of the design, word by word."""
    for item in query:
        right_type = len(item.types) == 0 or any(event_type == wanted for wanted in item.types)
        right_agent = len(item.agents) == 0 or any(agent == wanted for wanted in item.agents)
        right_tags = all(any(tag == wanted for tag in tags) for wanted in item.tags)
        if right_type and right_agent and right_tags:
            return True
    return False


@settings(max_examples=500)
@given(st.lists(items, max_size=3), few, few, subsets)
def test_an_event_matches_as_the_rule_says(
    query: list[Item], agent: str, event_type: str, tags: frozenset[str]
) -> None:
    assert matches(query, agent, event_type, tags) == naive_matches(query, agent, event_type, tags)


@settings(max_examples=500)
@given(st.none() | st.lists(items, max_size=3), few, few, subsets)
def test_an_event_that_matches_has_a_lead_to_it(
    query: list[Item] | None, agent: str, event_type: str, tags: frozenset[str]
) -> None:
    """Who looks for what an event concerns by these finds all of it."""
    if matches(query, agent, event_type, tags):
        assert leads_to(query) & set(leads_of(agent, event_type, tags))


def test_leads_tell_apart_what_they_can() -> None:
    """One tag of an item that asks for several; and a name is not taken for another's."""
    two_tags = Item(types=frozenset({"t"}), tags=frozenset({"a:1", "b:2"}))
    assert len(leads_to([two_tags])) == 1
    assert not leads_to([two_tags]) & set(leads_of("a", "t", ["c:3"]))
    assert not leads_to([Item(agents=frozenset({"x"}))]) & set(leads_of("a", "x", []))


def test_no_query_asks_nothing() -> None:
    assert matches(None, "a", "t", frozenset())


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (Item(types=frozenset({"flag"})), True),
        (Item(types=frozenset({"flag", "other"})), True),
        (Item(types=frozenset({"other"})), False),
        (Item(types=frozenset({"Flag"})), False),
        (Item(agents=frozenset({"fraud"})), True),
        (Item(agents=frozenset({"flag"})), False),
        (Item(tags=frozenset({"card:1"})), True),
        (Item(tags=frozenset({"card:1", "customer:2"})), True),
        (Item(tags=frozenset({"card:1", "customer:3"})), False),
        (Item(types=frozenset({"flag"}), tags=frozenset({"customer:3"})), False),
        (Item(types=frozenset({"flag"}), agents=frozenset({"fraud"})), True),
        (Item(types=frozenset({"flag"}), agents=frozenset({"other"})), False),
    ],
    ids=range(12),
)
def test_an_item_asks_any_type_any_agent_and_all_tags(item: Item, expected: bool) -> None:
    tags = frozenset({"card:1", "customer:2"})

    assert matches([item], "fraud", "flag", tags) is expected
    assert matches([Item(types=frozenset({"never"})), item], "fraud", "flag", tags) is expected


# --- A query in a body ------------------------------------------------------------


def test_a_query_is_judged_into_what_the_database_takes() -> None:
    read = judge_query(
        json.dumps(
            {
                "query": [
                    {"types": ["b", "a", "b"], "agents": None, "tags": []},
                    {"agents": ["x"], "tags": ["k:v"]},
                ],
                "payload": {"score": 1},
                "after": 3,
                "before": 9,
                "up_to": 8,
                "order": "desc",
                "limit": 7,
            }
        ).encode()
    )

    assert read == ReadRequest(
        query=(
            Item(types=frozenset({"a", "b"})),
            Item(agents=frozenset({"x"}), tags=frozenset({"k:v"})),
        ),
        query_document='[{"types":["a","b"]},{"agents":["x"],"tags":["k:v"]}]',
        payload_document='{"score":1}',
        after=3,
        before=9,
        up_to=8,
        newest_first=True,
        limit=7,
        cursor=None,
    )


def test_what_a_query_leaves_out_has_its_default() -> None:
    read = judge_query(body(after=None, before=None, up_to=None, payload=None, cursor=None))

    assert read == judge_query(body())
    assert (read.after, read.before, read.up_to) == (0, None, None)
    assert (read.newest_first, read.limit) == (False, limits.PAGE_EVENTS_DEFAULT)
    assert (read.payload_document, read.cursor) == (None, None)


def test_a_payload_to_contain_keeps_its_digits() -> None:
    sent = b'{"query": [{"types": ["t"]}], "payload": {"amount": 12.50, "n": 9007199254740993}}'

    assert judge_query(sent).payload_document == '{"amount":12.50,"n":9007199254740993}'


@pytest.mark.parametrize("name", ["after", "up_to"])
def test_a_position_may_be_anything_from_0_to_the_highest(name: str) -> None:
    assert getattr(judge_query(body(**{name: 0})), name) == 0
    assert getattr(judge_query(body(**{name: POSITION_MAX})), name) == POSITION_MAX


item_of_100 = {"types": [f"t{n}" for n in range(100)], "tags": [f"k:{n}" for n in range(32)]}


def test_a_query_may_be_as_large_as_its_limits() -> None:
    read = judge_query(json.dumps({"query": [item_of_100] * 100}).encode())

    assert read.query is not None
    assert len(read.query) == 100


@pytest.mark.parametrize(
    ("members", "pointer", "said"),
    [
        ({"query": None}, "/query", "a list of 1 to 100 query items; this is null"),
        ({"query": []}, "/query", "this one is empty"),
        ({"query": {}}, "/query", "this is an object"),
        ({"query": [{"types": ["t"]}] * 101}, "/query", "this one has 101"),
        ({"query": [{}]}, "/query/0", "must ask for something"),
        ({"query": [{"types": ["t"]}, {"types": [], "tags": []}]}, "/query/1", "ask for something"),
        ({"query": ["t"]}, "/query/0", "`types`, `agents` or `tags`; this is a string"),
        ({"query": [{"type": ["t"], "tags": ["a:b"]}]}, "/query/0/type", "known fields: `types`"),
        ({"query": [{"types": "t"}]}, "/query/0/types", "at most 100 names; this is a string"),
        ({"query": [{"types": [1]}]}, "/query/0/types/0", "Each of `types` must be a string"),
        ({"query": [{"types": ["t", ""]}]}, "/query/0/types/1", "this one is empty"),
        ({"query": [{"agents": ["a" * 129]}]}, "/query/0/agents/0", "this one has 129"),
        ({"query": [{"types": ["t"] * 101}]}, "/query/0/types", "this one has 101"),
        ({"query": [{"tags": ["k:v"] * 33}]}, "/query/0/tags", "at most 32 tags; this one has 33"),
        ({"query": [{"tags": ["k"]}]}, "/query/0/tags/0", "no colon"),
        ({"tag": "k:v"}, "/tag", "There is no field `tag` here"),
        ({"payload": []}, "/payload", "an object; this is a list"),
        ({"after": -1}, "/after", "from 0 to 9223372036854775807; this is `-1`"),
        ({"after": POSITION_MAX + 1}, "/after", "this is `9223372036854775808`"),
        ({"after": 10**99}, "/after", "this is `1000000000000000000000000000000000000000…`"),
        ({"after": "1"}, "/after", "this is a string"),
        ({"after": 1.0}, "/after", "a number with a fraction or an exponent"),
        ({"after": True}, "/after", "this is a boolean"),
        ({"before": 0}, "/before", "from 1 to"),
        ({"up_to": -1}, "/up_to", "from 0 to"),
        ({"order": "up"}, "/order", "`asc` or `desc`; this is `up`"),
        ({"order": None}, "/order", "this is null"),
        ({"limit": 0}, "/limit", "from 1 to 1000; this is `0`"),
        ({"limit": 1001}, "/limit", "this is `1001`"),
        ({"limit": None}, "/limit", "this is null"),
        ({"cursor": 5}, "/cursor", "this is a number"),
        ({"cursor": "abc"}, "/cursor", "not one that this service gave out"),
    ],
    ids=range(32),
)
def test_a_query_that_breaks_a_rule_is_refused_at_its_place(
    members: dict[str, object], pointer: str, said: str
) -> None:
    error = only_error_of(judge_query, body(**members))

    assert (error.pointer, error.location) == (pointer, "body")
    assert said in error.message


def test_a_missing_query_says_what_it_must_be() -> None:
    error = only_error_of(judge_query, b"{}")

    assert error == FieldError(
        "/query", "`query` is missing. It must be a list of 1 to 100 query items."
    )


def test_a_body_that_is_no_object_is_refused_as_a_whole() -> None:
    for sent, kind in ((b"[]", "a list"), (b"1.5", "a number"), (b"null", "null")):
        error = only_error_of(judge_query, sent)
        assert error.pointer == ""
        assert kind in error.message


def test_a_body_that_is_no_json_is_malformed() -> None:
    with pytest.raises(MalformedDocument):
        judge_query(b'{"query": [}')


# --- Query parameters -------------------------------------------------------------


def test_parameters_are_judged_as_a_body_would_be() -> None:
    read = judge_read_parameters(
        [
            ("tag", "k:v"),
            ("type", "t"),
            ("limit", "7"),
            ("tag", "a:b"),
            ("agent", "x y"),
            ("type", "s"),
            ("payload", '{"amount": 12.50}'),
            ("after", "003"),
            ("before", "9"),
            ("up_to", "8"),
            ("order", "desc"),
        ]
    )

    assert read == ReadRequest(
        query=(
            Item(
                types=frozenset({"s", "t"}),
                agents=frozenset({"x y"}),
                tags=frozenset({"a:b", "k:v"}),
            ),
        ),
        query_document='[{"types":["s","t"],"agents":["x y"],"tags":["a:b","k:v"]}]',
        payload_document='{"amount":12.50}',
        after=3,
        before=9,
        up_to=8,
        newest_first=True,
        limit=7,
    )


def test_no_parameters_ask_nothing() -> None:
    assert judge_read_parameters([]) == ReadRequest()
    assert ReadRequest().query is None


@pytest.mark.parametrize(
    ("parameters", "pointer", "said"),
    [
        ([("colour", "red")], "/colour", "There is no parameter `colour` here; known parameters:"),
        ([("a/b", "")], "/a~1b", "There is no parameter"),
        ([("limit", "5"), ("limit", "5")], "/limit", "more than once"),
        ([("payload", "{}"), ("payload", "{}")], "/payload", "more than once"),
        ([("limit", "+5")], "/limit", "this is `+5`"),
        ([("limit", " 5")], "/limit", "this is ` 5`"),
        ([("limit", "5.0")], "/limit", "this is `5.0`"),
        ([("limit", "")], "/limit", "this is ``"),
        ([("limit", "1001")], "/limit", "this is `1001`"),
        ([("after", "-1")], "/after", "this is `-1`"),
        ([("after", "\u0661")], "/after", "this is `\u0661`"),
        ([("after", "1_0")], "/after", "this is `1_0`"),
        ([("after", str(POSITION_MAX + 1))], "/after", "9223372036854775807"),
        ([("up_to", "9" * 5_000)], "/up_to", "9999…`"),
        ([("before", "0")], "/before", "from 1 to"),
        ([("order", "DESC")], "/order", "this is `DESC`"),
        ([("tag", "a:b"), ("tag", "c")], "/tag/1", "no colon"),
        ([("type", "")], "/type/0", "this one is empty"),
        ([("agent", "a\0b")], "/agent/0", "control character"),
        ([("agent", "a\ud800")], "/agent/0", "not Unicode text"),
        ([("type", "t")] * 101, "/type", "this one has 101"),
        ([("payload", "x")], "/payload", "not JSON"),
        ([("payload", "")], "/payload", "empty"),
        ([("payload", '"\ud800"')], "/payload", "not UTF-8"),
        ([("payload", "[]")], "/payload", "this is a list"),
        ([("payload", "null")], "/payload", "this is null"),
        ([("payload", '{"a": {"b": 1, "b": 1}}')], "/payload/a/b", "more than once"),
        ([("payload", '{"a": "\\u0000"}')], "/payload/a", "U+0000"),
        ([("cursor", "abc")], "/cursor", "not one that this service gave out"),
    ],
    ids=range(29),
)
def test_a_parameter_that_breaks_a_rule_is_refused_at_its_place(
    parameters: list[tuple[str, str]], pointer: str, said: str
) -> None:
    error = only_error_of(judge_read_parameters, parameters)

    assert (error.pointer, error.location) == (pointer, "query")
    assert said in error.message
    assert len(error.message) < 300


def test_all_faults_of_the_parameters_are_named() -> None:
    errors = errors_of(
        judge_read_parameters,
        [("limit", "x"), ("foo", "1"), ("payload", "{"), ("after", "1"), ("after", "2")],
    )

    assert {error.pointer for error in errors} == {"/limit", "/foo", "/payload", "/after"}


def test_a_stream_takes_filters_and_where_to_start_only() -> None:
    filters, after = judge_stream_parameters(
        [("tag", "k:v"), ("type", "t"), ("agent", "a"), ("payload", "{}"), ("after", "5")]
    )

    assert filters.query == (Item(frozenset({"t"}), frozenset({"a"}), frozenset({"k:v"})),)
    assert filters.payload_document == "{}"
    assert after == 5
    assert judge_stream_parameters([]) == (ReadRequest(), None)
    assert judge_stream_parameters([("after", "0")])[1] == 0
    for name in ("before", "up_to", "order", "limit", "cursor"):
        assert only_error_of(judge_stream_parameters, [(name, "1")]).pointer == f"/{name}"


def test_an_agents_list_takes_a_limit_and_an_upper_bound_only() -> None:
    assert judge_latest_parameters([]) == (limits.LATEST_EVENTS_DEFAULT, None)
    assert judge_latest_parameters([("limit", "1"), ("before", "9")]) == (1, 9)
    for name, value in (("limit", "0"), ("limit", "1001"), ("before", "0"), ("after", "1")):
        assert only_error_of(judge_latest_parameters, [(name, value)]).pointer == f"/{name}"


def test_the_schema_knows_every_parameter_and_its_bounds() -> None:
    properties = ReadParameters.model_json_schema()["properties"]

    assert set(properties) == {
        *("tag", "type", "agent", "payload", "after", "before", "up_to"),
        *("order", "limit", "cursor"),
    }
    assert properties["limit"]["maximum"] == limits.PAGE_EVENTS_MAX
    assert all("description" in described for described in properties.values())


# --- Cursors ----------------------------------------------------------------------

FILTERS: dict[str, Any] = {
    "payload": {"a": 1},
    "after": 1,
    "before": 90,
    "up_to": 80,
    "order": "desc",
}


def next_cursor(read: ReadRequest) -> str:
    return read.cursor_at(incarnation=INCARNATION, head=50, position=40).encode()


def test_a_cursor_goes_on_with_the_filters_of_its_first_page() -> None:
    first = judge_query(body(**FILTERS))
    second = judge_query(body(**FILTERS, limit=5, cursor=next_cursor(first)))

    assert second.cursor is not None
    assert (second.cursor.incarnation, second.cursor.head) == (INCARNATION, 50)
    assert (second.cursor.position, second.cursor.newest_first) == (40, True)
    assert (second.query, second.after, second.before) == (first.query, 1, 90)
    assert next_cursor(second) == next_cursor(first)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("query", [{"types": ["s"]}]),
        ("query", [{"agents": ["t"]}]),
        ("query", [{"types": ["t"]}, {"types": ["s"]}]),
        ("payload", {"a": 2}),
        ("payload", None),
        ("after", 2),
        ("before", None),
        ("up_to", 81),
        ("order", "asc"),
    ],
    ids=range(9),
)
def test_a_cursor_is_refused_with_other_filters(name: str, value: object) -> None:
    cursor = next_cursor(judge_query(body(**FILTERS)))

    error = only_error_of(judge_query, body(**{**FILTERS, name: value, "cursor": cursor}))

    assert error.pointer == "/cursor"
    assert "other filters or another order" in error.message


def test_the_order_within_a_query_item_does_not_matter_to_a_cursor() -> None:
    first = judge_read_parameters([("type", "a"), ("type", "b")])
    second = [("type", "b"), ("type", "a"), ("type", "a"), ("cursor", next_cursor(first))]

    assert judge_read_parameters(second).cursor is not None


def test_a_cursor_among_parameters_is_refused_there() -> None:
    cursor = next_cursor(judge_read_parameters([("tag", "k:v")]))

    error = only_error_of(judge_read_parameters, [("tag", "k:w"), ("cursor", cursor)])

    assert (error.pointer, error.location) == ("/cursor", "query")


def test_where_a_desc_cursor_says_asc_it_is_refused() -> None:
    first = judge_read_parameters([])
    forged = first.cursor_at(incarnation=INCARNATION, head=5, position=4)
    forged = type(forged)(INCARNATION, 5, 4, True, forged.query_digest)

    error = only_error_of(judge_read_parameters, [("cursor", forged.encode())])

    assert error.pointer == "/cursor"


# --- Paths and headers ------------------------------------------------------------


def test_an_id_is_a_whole_number_in_digits() -> None:
    assert judge_event_id("1") == 1
    assert judge_event_id(str(POSITION_MAX)) == POSITION_MAX


@pytest.mark.parametrize(
    "text",
    ["", "0", "-1", "+1", "1.0", "x", " 1", "1\n", "\u0661", str(POSITION_MAX + 1), "9" * 999],
)
def test_what_is_no_id_is_refused(text: str) -> None:
    error = only_error_of(judge_event_id, text)

    assert (error.pointer, error.location) == ("/id", "path")
    assert len(error.message) < 200


def test_an_agents_name_in_a_path_is_any_that_an_event_may_bear() -> None:
    for name in ("fraud_agent", "team/agent v2", "…", "a" * 128):
        assert judge_agent_name(name) == name


@pytest.mark.parametrize("text", ["", "a" * 129, "a\0", "a\n", " a", "a\ud800"], ids=range(6))
def test_an_agents_name_that_no_event_can_bear_is_refused(text: str) -> None:
    error = only_error_of(judge_agent_name, text)

    assert (error.pointer, error.location) == ("/agent_name", "path")


def test_a_stream_goes_on_from_the_id_that_it_sent() -> None:
    assert judge_last_event_id(None) is None
    assert judge_last_event_id(f"{INCARNATION}.0") == (INCARNATION, 0)
    assert judge_last_event_id(f"{INCARNATION}.{POSITION_MAX}") == (INCARNATION, POSITION_MAX)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "42",
        INCARNATION,
        f"{INCARNATION}.",
        f"{INCARNATION}.-1",
        f"{INCARNATION}.\u0661",
        f"{INCARNATION}.1.2",
        f"{INCARNATION}.{POSITION_MAX + 1}",
        f"{INCARNATION}.{'9' * 5_000}",
        f"{INCARNATION.upper()}.1",
        f"x{INCARNATION}.1",
    ],
    ids=range(11),
)
def test_what_no_stream_has_sent_is_refused(text: str) -> None:
    error = only_error_of(judge_last_event_id, text)

    assert (error.pointer, error.location) == ("/Last-Event-ID", "header")
