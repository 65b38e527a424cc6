"""One card transaction, and its money.

Money is an integer count of minor units with its currency and its scale, never a float:
``12.34 EUR`` is ``amount_minor=1234, minor_digits=2``. The scale is written down because
a reader cannot guess it from the currency: some data prices BIF, which has no coins, in
hundredths.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final

MINOR_DIGITS_DEFAULT: Final = 2
_THREE_DIGIT_CURRENCIES: Final = frozenset({"BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"})

AMOUNT_DIGITS_MAX: Final = 15
"""Digits of an amount in minor units: a hundred times the yearly turnover of all cards."""


class BadTransaction(ValueError):
    """A transaction that cannot be posted. ``str()`` is a clear sentence."""


@dataclass(frozen=True, slots=True)
class Money:
    """An exact amount: ``minor`` units of ``currency``, ``digits`` of them behind the point."""

    minor: int
    currency: str
    digits: int

    def at_least(self, units: int) -> bool:
        """Whether this is ``units`` whole units of its currency, or more."""
        return self.minor >= units * int(10**self.digits)

    def __str__(self) -> str:
        """As people write it: ``12.34 EUR``."""
        return f"{Decimal(self.minor).scaleb(-self.digits):f} {self.currency}"


def parse_money(text: str, currency: str) -> Money:
    """The amount that ``text`` (such as ``12.3``) says, exactly.

    Raises:
        BadTransaction: it is no plain positive amount, is finer than the currency's
            minor unit, or is too large; or the currency is not three capital letters.
    """
    if not (len(currency) == 3 and currency.isascii() and currency.isupper()):
        raise BadTransaction(f"the currency {currency!r} is not three capital letters")
    digits = 3 if currency in _THREE_DIGIT_CURRENCIES else MINOR_DIGITS_DEFAULT
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise BadTransaction(f"the amount {text!r} is not a number") from None
    if not amount.is_finite() or amount <= 0:
        raise BadTransaction(f"the amount {text!r} is not above zero")
    if amount.adjusted() + digits >= AMOUNT_DIGITS_MAX:
        raise BadTransaction(f"the amount {text!r} is too large")
    minor = amount.scaleb(digits)
    if minor != minor.to_integral_value():
        raise BadTransaction(
            f"the amount {text!r} has more than the {digits} decimals of {currency}"
        )
    return Money(minor=int(minor), currency=currency, digits=digits)


@dataclass(frozen=True, slots=True)
class Transaction:
    """A payment by card that waits for a decision. ``occurred_at`` bears its offset."""

    transaction_id: str
    customer_id: str
    card_id: str
    merchant: str
    amount: Money
    occurred_at: datetime

    def payload(self, run_id: str) -> dict[str, Any]:
        """What the poster writes. The four ids become the event's tags by themselves."""
        return {
            "run_id": run_id,
            "transaction_id": self.transaction_id,
            "customer_id": self.customer_id,
            "card_id": self.card_id,
            "merchant": self.merchant,
            "amount_minor": self.amount.minor,
            "minor_digits": self.amount.digits,
            "currency": self.amount.currency,
        }

    @classmethod
    def read(cls, payload: Mapping[str, Any], occurred_at: datetime) -> "Transaction":
        """The transaction that a ``transaction_posted`` event tells of."""
        return cls(
            transaction_id=payload["transaction_id"],
            customer_id=payload["customer_id"],
            card_id=payload["card_id"],
            merchant=payload["merchant"],
            amount=Money(
                minor=payload["amount_minor"],
                currency=payload["currency"],
                digits=payload["minor_digits"],
            ),
            occurred_at=occurred_at,
        )


def transaction_id(run_id: str, number: int) -> str:
    """The id of a run's transaction ``number``: its line in the file, or its place."""
    return f"tx_{run_id}_{number:05d}"
