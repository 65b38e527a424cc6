"""JSON, exactly: what is written and read keeps every digit."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterfoil import UnsendableValue
from counterfoil.client.document import DEPTH_MAX, decode, encode


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Decimal("12.30"), b"12.30"),
        (Decimal("1E+2"), b"1E+2"),
        (Decimal("-0.00"), b"-0.00"),
        (10**30, b"1000000000000000000000000000000"),
        (0.1, b"0.1"),
        (1e22, b"1e+22"),
        (True, b"true"),
        (None, b"null"),
        ('\u00e9\u2028"\\\n', '"\u00e9\u2028\\"\\\\\\n"'.encode()),
        ({}, b"{}"),
        ([], b"[]"),
        ({"a": [1, (2, {"b": None})]}, b'{"a":[1,[2,{"b":null}]]}'),
    ],
)
def test_a_value_is_written_digit_for_digit(value: object, text: bytes) -> None:
    assert encode(value) == text


def test_numbers_are_read_without_floats() -> None:
    read = decode(b'{"amount": 0.10, "count": 3, "big": 1e2}')
    assert read == {"amount": Decimal("0.10"), "count": 3, "big": Decimal("1E+2")}
    assert str(read["amount"]) == "0.10"
    assert isinstance(read["count"], int)


_scalars = st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8"))
_numbers = st.decimals(allow_nan=False, allow_infinity=False)


@given(
    st.recursive(
        _scalars | _numbers,
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner)
        ),
        max_leaves=20,
    )
)
def test_what_is_written_reads_back_the_same(value: Any) -> None:
    assert decode(encode(value)) == value


@pytest.mark.parametrize(
    ("value", "pointer", "reason"),
    [
        ({"a": [1, float("nan")]}, "/a/1", "nan is a number that JSON does not have"),
        ({"a": Decimal("Infinity")}, "/a", "Infinity is a number"),
        ({"a": Decimal("sNaN")}, "/a", "sNaN is a number"),
        ({"a/b~": float("-inf")}, "/a~1b~0", "-inf is a number"),
        ({"a": {1: "x"}}, "/a", "The key 1 is not a string"),
        ({"a": object()}, "/a", "JSON has no object"),
        ({"a": "\ud800"}, "/a", "lone surrogate"),
        ({"a": {"\udfff": 1}}, "/a/\udfff", "lone surrogate"),
        ({"a": 10**5000}, "/a", "too many digits"),
        ({"a": {1, 2}}, "/a", "JSON has no set"),
    ],
)
def test_what_json_cannot_carry_is_refused_where_it_stands(
    value: object, pointer: str, reason: str
) -> None:
    with pytest.raises(UnsendableValue) as refused:
        encode(value)
    assert refused.value.pointer == pointer
    assert reason in str(refused.value)


def test_a_value_within_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(UnsendableValue, match=f"more than {DEPTH_MAX} deep"):
        encode(loop)


def test_the_deepest_value_that_the_service_takes_is_written() -> None:
    value: Any = 1
    for _ in range(DEPTH_MAX):
        value = [value]
    assert encode(value) == b"[" * DEPTH_MAX + b"1" + b"]" * DEPTH_MAX


@pytest.mark.parametrize("text", [b"NaN", b"[Infinity]", b"{", b"[" * 100_000, b"\xff"])
def test_what_is_not_json_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the words are the standard library's
        decode(text)
