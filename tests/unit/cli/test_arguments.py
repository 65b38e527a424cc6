"""Arguments that need reading: what they mean, and what is said when they mean nothing."""

import io
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest

from counterfoil import QueryItem
from counterfoil.cli.arguments import (
    PAYLOAD_FILE_BYTES_MAX,
    read_moment,
    read_object,
    read_query_item,
    read_source,
)
from counterfoil.cli.exits import Misused


def test_an_argument_is_itself_or_a_file_or_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "payload.json"
    file.write_text('{"a": "é"}', encoding="utf-8")
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b'{"b": 2}')))

    assert read_source('{"c": 3}') == '{"c": 3}'
    assert read_source(f"@{file}") == '{"a": "é"}'
    assert read_source("-") == '{"b": 2}'


def test_a_file_that_cannot_be_a_payload_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "payload.json"
    with pytest.raises(Misused, match="cannot be read: No such file"):
        read_source(f"@{file}")
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(Misused, match="not UTF-8"):
        read_source(f"@{file}")
    file.write_bytes(b" " * (PAYLOAD_FILE_BYTES_MAX + 1))
    with pytest.raises(Misused, match="longer than 1024 KiB"):
        read_source(f"@{file}")
    with pytest.raises(Misused, match="cannot be read: Is a directory"):
        read_source(f"@{tmp_path}")


def test_numbers_keep_their_digits() -> None:
    value = read_object('{"amount": 12.30, "count": 90071992547409931}', "payload")

    assert value == {"amount": Decimal("12.30"), "count": 90071992547409931}
    assert str(value["amount"]) == "12.30"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not JSON"),
        ("transaction_id=tx_987", r"not JSON: .* single quotes"),
        ('{"a": 1,}', "not JSON"),
        ("[1]", "must be a JSON object"),
        ('"text"', "must be a JSON object"),
        ('{"a": NaN}', "NaN is not JSON"),
        ('{"a": {"b": 1, "b": 2}}', "it names 'b' twice"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
    ],
)
def test_what_is_no_json_object_is_refused(text: str, why: str) -> None:
    with pytest.raises(Misused, match=why):
        read_object(text, "payload")


@pytest.mark.parametrize(
    ("text", "item"),
    [
        (
            "type=flag_transaction tag=transaction:tx_987",
            QueryItem(types="flag_transaction", tags="transaction:tx_987"),
        ),
        ("tag=a:1 tag=b:2", QueryItem(tags=["a:1", "b:2"])),
        ("agent='the fraud agent'", QueryItem(agents="the fraud agent")),
        ("tag=kind:value=with=equals", QueryItem(tags="kind:value=with=equals")),
    ],
)
def test_a_query_is_words(text: str, item: QueryItem) -> None:
    assert read_query_item(text) == item


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "asks nothing"),
        ("flag_transaction", "is not type=…, agent=… or tag=…"),
        ("types=flag_transaction", "is not type=…, agent=… or tag=…"),
        ("type=", "is not type=…, agent=… or tag=…"),
        ("type='flag", "a quotation mark is not closed"),
    ],
)
def test_a_query_that_asks_nothing_or_wrongly_is_refused(text: str, why: str) -> None:
    with pytest.raises(Misused, match=why):
        read_query_item(text)


def test_a_time_needs_its_offset() -> None:
    assert read_moment("2026-01-05T08:00:00Z").isoformat() == "2026-01-05T08:00:00+00:00"
    for text in ("2026-01-05T08:00:00", "yesterday", ""):
        with pytest.raises(Misused, match="no time with an offset"):
            read_moment(text)
