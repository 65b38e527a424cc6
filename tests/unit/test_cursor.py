"""A cursor comes back as it was given out, or not at all."""

import string
from base64 import urlsafe_b64decode, urlsafe_b64encode
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterfoil.server.core.errors import FieldError, InvalidInput, Location
from counterfoil.server.core.limits import POSITION_MAX
from counterfoil.server.log.cursor import Cursor

INCARNATION = "6b1f6b3e-0a52-4c7e-9d5e-0d1c2b3a4f5e"

cursors = st.integers(1, POSITION_MAX).flatmap(
    lambda head: st.builds(
        Cursor,
        incarnation=st.uuids().map(str),
        head=st.just(head),
        position=st.integers(1, head),
        newest_first=st.booleans(),
        query_digest=st.binary(min_size=8, max_size=8),
    )
)


def cursor(*, head: int = 9, position: int = 4, newest_first: bool = False) -> Cursor:
    return Cursor(INCARNATION, head, position, newest_first, b"12345678")


def refusal_of(text: str, location: Location = "body") -> FieldError:
    with pytest.raises(InvalidInput) as caught:
        Cursor.decode(text, location=location)
    (error,) = caught.value.errors
    return error


@given(cursors)
def test_a_cursor_comes_back_as_it_was(given_out: Cursor) -> None:
    text = given_out.encode()

    assert Cursor.decode(text) == given_out
    assert len(text) == 56
    assert set(text) <= set(string.ascii_letters + string.digits + "-_")


@given(cursors, st.data())
def test_a_cursor_has_one_spelling(given_out: Cursor, data: st.DataObject) -> None:
    text = given_out.encode()
    index = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from(string.ascii_letters + string.digits + "-_"))
    changed = text[:index] + other + text[index + 1 :]

    try:
        read = Cursor.decode(changed)
    except InvalidInput:
        return
    assert (read == given_out) == (changed == text)
    assert read.encode() == changed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "null",
        cursor().encode()[:-1],
        cursor().encode() + "A",
        cursor().encode() + "\n",
        cursor().encode() + "====",
        " " + cursor().encode(),
        cursor().encode()[:-1] + "=",
        cursor().encode()[:-1] + "+",
        cursor().encode()[:-1] + "é",
        "A" * 56,
        "A" * 100_000,
    ],
    ids=range(13),
)
def test_what_is_no_cursor_is_refused(text: str) -> None:
    error = refusal_of(text, "query")

    assert error.pointer == "/cursor"
    assert error.location == "query"
    assert "Leave `cursor` out" in error.message
    assert len(error.message) < 200


def changed_byte(index: int, value: int) -> str:
    packed = bytearray(urlsafe_b64decode(cursor().encode()))
    packed[index] = value
    return urlsafe_b64encode(packed).decode()


def test_a_cursor_of_another_version_is_refused_as_such() -> None:
    assert "version" in refusal_of(changed_byte(0, 2)).message


def test_a_cursor_of_an_unknown_order_is_refused() -> None:
    assert refusal_of(changed_byte(1, 2)).pointer == "/cursor"
    assert Cursor.decode(changed_byte(1, 1)) == cursor(newest_first=True)


@pytest.mark.parametrize(("head", "position"), [(9, 10), (9, 0), (0, 0), (9, -1), (-1, -2)])
def test_a_position_outside_its_book_is_refused(head: int, position: int) -> None:
    text = cursor(head=head, position=position).encode()

    assert refusal_of(text).pointer == "/cursor"


def test_an_incarnation_is_a_uuid_in_lower_case() -> None:
    shouted = Cursor(INCARNATION.upper(), 9, 4, False, b"12345678")

    assert Cursor.decode(shouted.encode()).incarnation == str(UUID(INCARNATION))
