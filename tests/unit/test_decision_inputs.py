"""Events become inputs exactly, or not at all."""

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterfoil.server.core import limits
from counterfoil.server.core.errors import DecisionInputsRefused
from counterfoil.server.decisions.deciding import taken_inputs
from counterfoil.server.decisions.inputs import (
    InputMissing,
    InputRefused,
    Room,
    Signal,
    Taken,
    take,
    unsafe,
)
from counterfoil.server.decisions.judging import judge_policy
from counterfoil.server.decisions.policy import Read
from tests.unit.policies import policy

MOST: Final = limits.WHOLE_NUMBER_MAX


def event(
    event_id: int, payload: Any, *, age: int = 0, kind: str = "scored", agent: str = "scorer"
) -> Signal:
    return Signal(
        event_id=event_id,
        event_type=kind,
        agent_name=agent,
        created_at="2026-03-01T10:00:00.000000Z",
        payload=payload,
        age_seconds=Decimal(age),
    )


def signal(event_id: int, value: Any, *, age: int = 0, kind: str = "scored") -> Signal:
    return event(event_id, value if value is None else {"v": value}, age=age, kind=kind)


def reading(how: str, **more: Any) -> Read:
    path = {} if how == "count" else {"path": "/v"}
    return Read.model_validate({"types": ["scored"], "take": how, **path, **more})


def taken(how: str, *values: Any, **more: Any) -> Taken | None:
    signals = [signal(nth, value) for nth, value in enumerate(values, 1)]
    return take("x", reading(how, **more), signals)


def must_refuse(how: str, *values: Any, sentence: str, **more: Any) -> InputRefused:
    with pytest.raises(InputRefused) as caught:
        taken(how, *values, **more)
    assert sentence in str(caught.value)
    assert caught.value.name == "x"
    return caught.value


@pytest.mark.parametrize(
    ("how", "values", "value", "event_ids"),
    [
        ("latest", [3, 1, 2], 2, [3]),
        ("first", [3, 1, 2], 3, [1]),
        ("count", [3, 1, 2], 3, [1, 2, 3]),
        ("count", [], 0, []),
        ("min", [3, Decimal("0.5"), 2], Decimal("0.5"), [1, 2, 3]),
        ("max", [3, 1, 2], 3, [1, 2, 3]),
        ("sum", [3, 1, 2], 6, [1, 2, 3]),
        ("any", [False, True], True, [1, 2]),
        ("all", [False, True], False, [1, 2]),
        ("list", ["a", 1], ["a", 1], [1, 2]),
        ("latest", [{"a": [1]}], {"a": [1]}, [1]),
    ],
)
def test_an_input_is_taken_and_says_from_where(
    how: str, values: Sequence[Any], value: Any, event_ids: Sequence[int]
) -> None:
    assert taken(how, *values) == Taken(value, event_ids)


_PICKS: Final[dict[str, Callable[[list[int]], object]]] = {
    "latest": lambda values: values[-1],
    "first": lambda values: values[0],
    "count": len,
    "min": min,
    "max": max,
    "sum": sum,
    "list": list,
}
_EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["scored", "other"]),
        st.sampled_from(["scorer", "bureau"]),
        st.one_of(st.none(), st.integers(-100, 100)),
        st.integers(0, 20),
    ),
    max_size=8,
)


@given(
    st.sampled_from(sorted(_PICKS)),
    _EVENTS,
    st.one_of(st.none(), st.integers(1, 20)),
    st.booleans(),
)
def test_an_input_is_what_a_plain_model_says(
    how: str,
    events: list[tuple[str, str, int | None, int]],
    most_seconds: int | None,
    is_of_one_agent: bool,
) -> None:
    signals = [
        event(nth, {} if value is None else {"v": value}, age=age, kind=kind, agent=agent)
        for nth, (kind, agent, value, age) in enumerate(events, 1)
    ]
    looked_at = [
        value
        for kind, agent, value, age in events
        if kind == "scored"
        and (not is_of_one_agent or agent == "scorer")
        and (most_seconds is None or age <= most_seconds)
    ]
    values = [value for value in looked_at if how == "count" or value is not None]
    more: dict[str, Any] = {"agents": ["scorer"]} if is_of_one_agent else {}
    read = reading(how, max_age_seconds=most_seconds, may_be_missing=True, **more)
    found = take("x", read, signals)
    if not values and how != "count":
        assert found is None
    else:
        assert found is not None
        assert found.value == _PICKS[how](values)  # type: ignore[arg-type]  # numbers and truths alike


# --- Missing ------------------------------------------------------------------------


def test_what_is_missing_is_told_with_why() -> None:
    with pytest.raises(InputMissing, match="There is no `scored` about this subject"):
        taken("latest")
    with pytest.raises(InputMissing, match="No `scored` about this subject has a value at `/v`"):
        take("x", reading("latest"), [event(1, {"w": 1})])
    with pytest.raises(InputMissing, match="There is no `scored`"):
        take("x", reading("latest", agents=["bureau"]), [signal(1, 5)])


def test_what_is_older_than_allowed_is_missing() -> None:
    read = reading("latest", max_age_seconds=60)
    assert take("x", read, [signal(1, 5, age=60)]) == Taken(5, [1])
    with pytest.raises(InputMissing) as caught:
        take("x", read, [signal(1, 5, age=62), signal(2, 6, age=61)])
    assert str(caught.value) == (
        "Every `scored` about this subject is older than 60 seconds; the last one is event 2."
    )
    assert caught.value.event_ids == [1, 2]


def test_what_may_be_missing_is_left_out_and_never_null() -> None:
    assert taken("latest", may_be_missing=True) is None
    assert take("x", reading("latest", may_be_missing=True), [signal(1, 5, kind="other")]) is None


def test_null_is_no_value() -> None:
    null_after_value = [
        signal(1, 5),
        event(2, {"v": None}),
    ]
    assert take("x", reading("latest"), null_after_value) == Taken(5, [1])


def test_what_was_erased_is_not_passed_over() -> None:
    refused = must_refuse("latest", 5, None, sentence="Event 2, which `x` reads, was erased")
    assert refused.event_ids == [2]
    assert not isinstance(refused, InputMissing)
    must_refuse("latest", None, sentence="was erased", may_be_missing=True)


def test_what_was_erased_and_is_not_read_is_no_matter() -> None:
    assert taken("count", None, 5) == Taken(2, [1, 2])
    old = [signal(1, None, age=61), signal(2, 5)]
    assert take("x", reading("latest", max_age_seconds=60), old) == Taken(5, [2])
    other = [signal(1, None, kind="other"), signal(2, 5)]
    assert take("x", reading("latest"), other) == Taken(5, [2])


# --- Wrong --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "values", "sentence"),
    [
        ("latest", [MOST + 1], "beyond 2^53"),
        ("latest", [-MOST - 1], "beyond 2^53"),
        ("latest", [{"a": [MOST + 1]}], "beyond 2^53"),
        ("latest", [Decimal("1e30")], "beyond 2^53"),
        ("latest", [0.5], "not exact"),
        ("latest", [float("nan")], "not exact"),
        ("latest", [Decimal("0." + "1" * 29)], "more than 28 digits"),
        ("latest", [Decimal("1e-29")], "more than 28 digits"),
        ("sum", [MOST, 1], "The sum for `x` is beyond 2^53"),
        ("sum", [1, Decimal("0.5")], "Event 2 has something else than a whole number"),
        ("sum", ["1"], "something else than a whole number"),
        ("sum", [True], "something else than a whole number"),
        ("min", [1, "0"], "Event 2 has something else than a number"),
        ("max", [False], "something else than a number"),
        ("any", [True, 1], "Event 2 has something else than true or false"),
        ("all", ["true"], "something else than true or false"),
        ("list", [1, [MOST + 1]], "Event 2 has a number beyond 2^53"),
    ],
)
def test_what_cannot_be_taken_exactly_is_refused(
    how: str, values: Sequence[Any], sentence: str
) -> None:
    must_refuse(how, *values, sentence=sentence)


def test_one_wrong_value_among_many_is_refused_also_if_another_would_be_taken() -> None:
    must_refuse("latest", MOST + 1, 5, sentence="Event 1 has a number beyond 2^53")


@pytest.mark.parametrize(
    "value", [MOST, -MOST, 0, Decimal("0.1"), Decimal("1e-28"), Decimal(1).scaleb(5), True, "x", []]
)
def test_what_all_readers_agree_about_is_safe(value: Any) -> None:
    assert unsafe(value) is None
    assert unsafe([{"a": value}]) is None


def test_a_path_is_a_json_pointer() -> None:
    payload = {"a/b": {"~": [{"x": 7}, {"x": 8}]}}
    signals = [event(1, payload)]

    def at(path: str) -> Any:
        read = Read.model_validate({"types": ["scored"], "take": "latest", "path": path})
        found = take("x", read, signals)
        return found and found.value

    assert at("/a~1b/~0/1/x") == 8
    for nowhere in (
        "/a~1b/~0/2/x",
        "/a~1b/~0/-1/x",
        "/a~1b/~0/01/x",
        "/a~1b/~0/\u0661/x",
        "/a~1b/~0/x",
        "/a/b",
        "/a~1b/~0/1/x/y",
    ):
        with pytest.raises(InputMissing):
            at(nowhere)


def test_all_values_of_a_decision_have_one_room() -> None:
    room = Room(10)
    long = [signal(1, [1, {"a": [2, 3]}, 4])]
    assert take("x", reading("latest"), long, room) is not None
    assert room.left == 3
    with pytest.raises(InputRefused, match="more than 131,072 values"):
        take("y", reading("latest"), long, room)
    assert take("x", reading("latest"), long) is not None


def test_what_is_looked_at_ends_with_the_room() -> None:
    """A value is not walked to its end where it is too large anyway."""
    room = Room(1_000)
    endless: list[Any] = []
    endless += [endless, endless]
    assert not room.holds(endless)


def test_the_inputs_of_a_decision_share_their_room() -> None:
    """Each would fit by itself; together they are more than a record could hold."""
    document = policy()
    for nth in range(5):
        name = f"list_{nth}"
        document["reads"][name] = {"types": ["scored"], "take": "list", "path": "/v"}
        numbers = {"type": "array", "items": {"type": "integer"}}
        document["inputs_schema"]["properties"][name] = {"type": "array", "items": numbers}
        document["inputs_schema"]["required"].append(name)
        for example in document["examples"]:
            example["inputs"][name] = []
    signals = [
        event(1, {"monthly_minor": 1}, kind="debt_checked"),
        event(2, {"monthly_minor": 2}, kind="income_verified"),
        signal(3, [0] * 30_000),
    ]
    with pytest.raises(DecisionInputsRefused) as refused:
        taken_inputs(judge_policy(document), signals)
    assert [one.pointer for one in refused.value.errors] == ["/inputs/list_4"]
    assert "more than 131,072 values" in refused.value.errors[0].message
