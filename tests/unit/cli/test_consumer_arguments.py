"""Places in a book, queries and waits, as they are written on the command line."""

from datetime import UTC, datetime

import pytest

from counterfoil import Backoff, QueryItem
from counterfoil.cli import consumer_arguments as given
from counterfoil.cli.arguments import query_item_text, read_query_item
from counterfoil.cli.exits import Misused


def test_a_consumer_begins_at_an_end_or_after_a_position() -> None:
    assert given.read_start("beginning") == "beginning"
    assert given.read_start("now") == "now"
    assert given.read_start("0") == 0
    assert given.read_start("1204") == 1204


@pytest.mark.parametrize("text", ["", "Now", "-1", "1.5", "2026-01-05T08:00:00Z", "9" * 5_000])
def test_it_begins_nowhere_else(text: str) -> None:
    with pytest.raises(Misused, match="no place to begin at"):
        given.read_start(text)


def test_it_goes_on_at_a_time_too() -> None:
    assert given.read_target("now") == "now"
    assert given.read_target("12") == 12
    assert given.read_target("2026-01-05T08:00:00Z") == datetime(2026, 1, 5, 8, tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "yesterday", "2026-01-05", "2026-01-05T08:00:00", "-3"])
def test_it_goes_on_nowhere_else(text: str) -> None:
    with pytest.raises(Misused, match="no place to go on at"):
        given.read_target(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0s", Backoff(initial_seconds=0)),
        ("5s", Backoff(initial_seconds=5)),
        ("5s,3", Backoff(initial_seconds=5, factor=3)),
        ("0.5s,1.5,10m", Backoff(initial_seconds=0.5, factor=1.5, max_seconds=600)),
        ("10m,2,1h", Backoff(initial_seconds=600, factor=2, max_seconds=3_600)),
    ],
)
def test_a_backoff_is_up_to_three_parts(text: str, expected: Backoff) -> None:
    assert given.read_backoff(text) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no stretch of time"),
        ("5", "no stretch of time"),
        ("5s,", "no backoff"),
        ("5s,twice", "no backoff"),
        ("5s,2,1m,9", "no backoff"),
        ("5s,2,", "no stretch of time"),
        ("10m", "longer than the longest, which is 300s. Say the longest too, such as 10m,2,10m"),
        ("5s,2,4s", "longer than the longest"),
    ],
)
def test_what_is_no_backoff_is_named(text: str, why: str) -> None:
    with pytest.raises(Misused, match=why):
        given.read_backoff(text)


def test_a_query_is_one_item_or_several() -> None:
    one = given.read_query(["payment", "refund"], None, ["region:eu"], None)
    several = given.read_query(None, None, None, ["type=payment tag=a:b", "agent='the shop'"])

    assert one == [QueryItem(types=("payment", "refund"), tags="region:eu")]
    assert several == [
        QueryItem(types="payment", tags="a:b"),
        QueryItem(agents="the shop"),
    ]


@pytest.mark.parametrize(
    "item",
    [
        QueryItem(types=("payment", "refund"), agents="shop", tags=("a:b", "c:d")),
        QueryItem(agents="the 'old' shop", tags="name:x=y"),
    ],
)
def test_an_item_is_shown_as_it_is_given(item: QueryItem) -> None:
    assert read_query_item(query_item_text(item)) == item


def test_dead_letters_are_named_once_each_or_all() -> None:
    assert given.read_letters([3, 1, 3], everything=False) == [3, 1]
    assert given.read_letters(None, everything=True) is None
