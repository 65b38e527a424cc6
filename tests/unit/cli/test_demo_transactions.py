"""Money without floats, and card files without people."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from counterfoil.cli.demo.cards import COLUMNS, BadFile, mask, pseudonyms, read_cards
from counterfoil.cli.demo.transactions import BadTransaction, Money, Transaction, parse_money

HEADER = ",".join(("EVENT_LABEL", *COLUMNS, "customer_email"))


@pytest.mark.parametrize(
    ("text", "currency", "money"),
    [
        ("7.53", "BIF", Money(753, "BIF", 2)),
        ("69.9", "EUR", Money(6_990, "EUR", 2)),
        ("3", "EUR", Money(300, "EUR", 2)),
        ("0.1", "KWD", Money(100, "KWD", 3)),
        ("1e3", "USD", Money(100_000, "USD", 2)),
        ("5.00", "JPY", Money(500, "JPY", 2)),
    ],
)
def test_amounts_become_minor_units_exactly(text: str, currency: str, money: Money) -> None:
    assert parse_money(text, currency) == money


@pytest.mark.parametrize(
    ("text", "currency", "why"),
    [
        ("7.531", "EUR", "more than the 2 decimals of EUR"),
        ("0", "EUR", "not above zero"),
        ("-1", "EUR", "not above zero"),
        ("NaN", "EUR", "not above zero"),
        ("Infinity", "EUR", "not above zero"),
        ("12,50", "EUR", "is not a number"),
        ("", "EUR", "is not a number"),
        ("1e999999", "EUR", "too large"),
        ("1", "eur", "not three capital letters"),
        ("1", "", "not three capital letters"),
        ("1", "ÄÖÜ", "not three capital letters"),
    ],
)
def test_amounts_that_cannot_be_are_refused(text: str, currency: str, why: str) -> None:
    with pytest.raises(BadTransaction, match=why):
        parse_money(text, currency)


def test_money_is_written_as_people_write_it() -> None:
    assert str(Money(753, "BIF", 2)) == "7.53 BIF"
    assert str(Money(100, "KWD", 3)) == "0.100 KWD"
    assert str(Money(500, "JPY", 0)) == "500 JPY"


def test_a_transaction_comes_back_from_its_payload() -> None:
    transaction = Transaction(
        transaction_id="tx_r_00001",
        customer_id="cust_r_1",
        card_id="card_r_1",
        merchant="Alder Grocery",
        amount=Money(753, "BIF", 2),
        occurred_at=datetime(2026, 1, 5, tzinfo=UTC),
    )

    assert Transaction.read(transaction.payload("r"), transaction.occurred_at) == transaction


def row(time: str = "2022-12-24T15:53:30Z", amount: str = "7.53", currency: str = "BIF") -> str:
    return f"0,{time},070-69-2161,304027,{amount},{currency},Gerlach Inc,ann@example.org"


def write(folder: Path, *lines: str) -> Path:
    path = folder / "cards.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_card_file_is_read_in_the_order_of_time_and_numbered_by_line(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER, row("2022-12-24T15:53:30Z"), row("2022-12-02T06:58:04+01:00"))

    transactions = read_cards(path, run_id="r")

    assert [each.transaction_id for each in transactions] == ["tx_r_00003", "tx_r_00002"]
    assert transactions[0].amount == Money(753, "BIF", 2)
    assert read_cards(path, run_id="r", limit=1)[0].transaction_id == "tx_r_00003"


def test_nothing_of_a_person_leaves_the_file(tmp_path: Path) -> None:
    (transaction,) = read_cards(write(tmp_path, HEADER, row()), run_id="r")

    told = str(transaction.payload("r"))
    for personal in ("070-69-2161", "070692161", "304027", "example.org"):
        assert personal not in told


def test_one_person_has_one_pseudonym_in_a_run_and_another_in_the_next(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER, row(), row("2022-12-25T00:00:00Z"))

    first, second = read_cards(path, run_id="r")
    (again, _) = read_cards(path, run_id="r")

    assert first.customer_id == second.customer_id
    assert first.card_id == second.card_id
    assert first.customer_id != again.customer_id


def test_a_pseudonym_rests_on_its_key_and_its_kind() -> None:
    ours, theirs = pseudonyms(b"ours", "r"), pseudonyms(b"theirs", "r")

    assert ours("cust", "070-69-2161") == ours("cust", "070-69-2161")
    assert ours("cust", "070-69-2161") != theirs("cust", "070-69-2161")
    assert ours("cust", "1").rpartition("_")[2] != ours("card", "1").rpartition("_")[2]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("paid by 070-69-2161", "paid by [masked]"),
        ("card 4111 1111 1111 1111!", "card [masked]!"),
        ("call 585-588-4205", "call [masked]"),
        ("mail nathan48@yahoo.com now", "mail [masked] now"),
        ("fraud_Pouros-Conroy", "fraud_Pouros-Conroy"),
        ("Level 42, 1995", "Level 42, 1995"),
    ],
)
def test_what_looks_personal_is_masked(text: str, masked: str) -> None:
    assert mask(text) == masked


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ((HEADER,), "holds no transactions"),
        (("EVENT_LABEL,merchant", "0,x"), "lacks the columns EVENT_TIMESTAMP, ENTITY_ID"),
        ((HEADER, row(), row(amount="12,5")), "line 3: "),
        ((HEADER, row(amount="x")), "line 2: the amount 'x' is not a number"),
        ((HEADER, row(amount="")), "line 2: order_price is empty"),
        ((HEADER, row(time="yesterday")), "line 2: the time 'yesterday' is not ISO 8601"),
        ((HEADER, row(time="2022-12-24T15:53:30")), "line 2: the time .* has no offset"),
        ((HEADER, "0,2022-12-24T15:53:30Z"), "line 2: ENTITY_ID is empty"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(
    tmp_path: Path, lines: tuple[str, ...], why: str
) -> None:
    with pytest.raises(BadFile, match=why):
        read_cards(write(tmp_path, *lines), run_id="r")


def test_an_empty_file_and_a_binary_one_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cards.csv"
    path.write_bytes(b"")
    with pytest.raises(BadFile, match="lacks the columns"):
        read_cards(path, run_id="r")
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(BadFile, match="not UTF-8"):
        read_cards(path, run_id="r")
