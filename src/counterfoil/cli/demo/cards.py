"""Card transactions out of a CSV file in the form of the AWS fraud samples.

The file has people in it: names, addresses, mail addresses, and customer ids in the form
of social security numbers. The book gets none of that. Of the 24 columns six are read,
and both ids become pseudonyms: an HMAC under a key that is made for the run and kept
nowhere. A plain hash would not do: there are only a thousand million such numbers, and
all of them can be tried in minutes. What is left of free text is masked where it looks
like a number of a person, a card or a telephone, or like a mail address.
"""

import csv
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Final, TextIO

from counterfoil.cli.demo.transactions import (
    BadTransaction,
    Transaction,
    parse_money,
    transaction_id,
)

TIME_COLUMN: Final = "EVENT_TIMESTAMP"
CUSTOMER_COLUMN: Final = "ENTITY_ID"
CARD_COLUMN: Final = "card_bin"
AMOUNT_COLUMN: Final = "order_price"
CURRENCY_COLUMN: Final = "payment_currency"
MERCHANT_COLUMN: Final = "merchant"
COLUMNS: Final = (
    TIME_COLUMN,
    CUSTOMER_COLUMN,
    CARD_COLUMN,
    AMOUNT_COLUMN,
    CURRENCY_COLUMN,
    MERCHANT_COLUMN,
)

_MERCHANT_CHARACTERS_MAX: Final = 128
_PSEUDONYM_DIGITS: Final = 16
_PERSONAL: Final = re.compile(
    r"\b\d{3}-\d{2}-\d{4}\b"  # a social security number
    r"|\b(?:\d[ -]?){9,18}\d\b"  # a card, account or telephone number
    r"|[\w.+-]+@[\w-]+\.[\w.-]+"  # a mail address
)


class BadFile(ValueError):
    """The file is not what it should be. ``str()`` names the file, the line and the fault."""


def read_cards(path: Path, *, run_id: str, limit: int | None = None) -> list[Transaction]:
    """The first ``limit`` transactions of the file in the order of their time.

    A transaction's number is its line in the file, so ``tx_<run>_00042`` is line 42.

    Raises:
        BadFile: it cannot be read as text, lacks a column, holds no row, or a row of it
            cannot be posted.
        OSError: it cannot be opened.
    """
    alias = pseudonyms(secrets.token_bytes(32), run_id)
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            transactions = list(_rows(file, path.name, run_id, alias))
        except UnicodeDecodeError:
            raise BadFile(f"{path.name} is not UTF-8 text.") from None
        except csv.Error as error:
            raise BadFile(f"{path.name} cannot be read as CSV: {error}.") from None
    if not transactions:
        raise BadFile(f"{path.name} holds no transactions.")
    transactions.sort(key=lambda each: each.occurred_at)
    return transactions[:limit]


def pseudonyms(key: bytes, run_id: str) -> Callable[[str, str], str]:
    """A function from (kind, real id) to a pseudonym that only this ``key`` gives again."""

    def alias(kind: str, real_id: str) -> str:
        digest = hmac.new(key, f"{kind}:{real_id}".encode(), hashlib.sha256).hexdigest()
        return f"{kind}_{run_id}_{digest[:_PSEUDONYM_DIGITS]}"

    return alias


def mask(text: str) -> str:
    """``text`` with whatever looks personal replaced by ``[masked]``."""
    return _PERSONAL.sub("[masked]", text)


def _rows(
    file: TextIO, name: str, run_id: str, alias: Callable[[str, str], str]
) -> Iterator[Transaction]:
    rows = csv.DictReader(file, strict=True)
    missing = [column for column in COLUMNS if column not in (rows.fieldnames or ())]
    if missing:
        raise BadFile(f"{name} lacks the column{'s'[: len(missing) - 1]} {', '.join(missing)}.")
    for row in rows:
        try:
            yield _transaction(row, transaction_id(run_id, rows.line_num), alias)
        except BadTransaction as error:
            raise BadFile(f"{name}, line {rows.line_num}: {error}.") from None


def _transaction(
    row: dict[str, str | None], own_id: str, alias: Callable[[str, str], str]
) -> Transaction:
    values = {column: (row[column] or "").strip() for column in COLUMNS}
    empty = [column for column, value in values.items() if not value]
    if empty:
        raise BadTransaction(f"{empty[0]} is empty")
    return Transaction(
        transaction_id=own_id,
        customer_id=alias("cust", values[CUSTOMER_COLUMN]),
        card_id=alias("card", values[CARD_COLUMN]),
        merchant=mask(values[MERCHANT_COLUMN])[:_MERCHANT_CHARACTERS_MAX],
        amount=parse_money(values[AMOUNT_COLUMN], values[CURRENCY_COLUMN]),
        occurred_at=_time(values[TIME_COLUMN]),
    )


def _time(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadTransaction(f"the time {text!r} is not ISO 8601") from None
    if moment.tzinfo is None:
        raise BadTransaction(f"the time {text!r} has no offset from UTC")
    return moment
