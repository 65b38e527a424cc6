"""Arguments that need reading: what they mean, and what is said when they mean nothing."""

import io
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest

from counterfoil import OutcomeUnknown, QueryItem
from counterfoil.cli.arguments import (
    PAYLOAD_FILE_BYTES_MAX,
    read_duration,
    read_end,
    read_moment,
    read_object,
    read_query_item,
    read_source,
)
from counterfoil.cli.exits import ExitCode, Failure, Misused


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


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("90d", timedelta(days=90)),
        ("2h", timedelta(hours=2)),
        ("45m", timedelta(minutes=45)),
        ("30s", timedelta(seconds=30)),
        ("1w", timedelta(weeks=1)),
        ("1d12h", timedelta(days=1, hours=12)),
        ("1h30m5s", timedelta(hours=1, minutes=30, seconds=5)),
        ("0s", timedelta()),
    ],
)
def test_a_stretch_of_time_is_counts_and_units(text: str, duration: timedelta) -> None:
    assert read_duration(text) == duration


@pytest.mark.parametrize(
    "text",
    ["", "90", "d", "1.5h", "-2h", "2h ", "30m1h", "1y", "2H", f"{10**12}d", "9" * 400 + "d"],
)
def test_any_other_stretch_of_time_is_refused(text: str) -> None:
    with pytest.raises(Misused, match="is no stretch of time"):
        read_duration(text)


NOW = datetime(2026, 1, 5, 8, 0, 0, 123456, tzinfo=UTC)


def end(at: str | None, within: str | None, key: str | None = None) -> datetime | None:
    options = ("--until", "--for")
    return read_end(at, within, options=options, idempotency_key=key, now=NOW).at


def test_an_end_is_a_time_or_a_time_from_now() -> None:
    assert end(None, None) is None
    assert end("2027-03-01T00:00:00Z", None, key="k") == datetime(2027, 3, 1, tzinfo=UTC)
    assert end(None, "2h") == datetime(2026, 1, 5, 10, tzinfo=UTC)
    with pytest.raises(Misused, match="--until and --for both"):
        end("2027-03-01T00:00:00Z", "2h")
    with pytest.raises(Misused, match="beyond the end of the calendar"):
        end(None, "9000000d")


def test_a_time_from_now_cannot_be_repeated_under_a_key() -> None:
    with pytest.raises(Misused, match=r"another time in each call.* Give --until"):
        end(None, "2h", key="k")


def test_a_call_in_doubt_is_told_the_time_that_it_asked_for() -> None:
    counted = read_end(None, "2h", options=("--until", "--for"), idempotency_key=None, now=NOW)
    with pytest.raises(Failure) as failed, counted.repeatable():
        raise unknown()
    assert failed.value.code is ExitCode.OUTCOME_UNKNOWN
    assert failed.value.message.endswith("--until 2026-01-05T10:00:00+00:00.")
    assert "idempotency_key='k'" in failed.value.message

    given = read_end("2027-03-01T00:00:00Z", None, options=("", ""), idempotency_key=None)
    with pytest.raises(OutcomeUnknown), given.repeatable():
        raise unknown()


def unknown() -> OutcomeUnknown:
    return OutcomeUnknown("lost.", idempotency_key="k", attempts=1)
