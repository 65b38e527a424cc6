"""Card transactions out of a seed: the same seed gives the same payments on every machine.

Most are everyday payments around a customer's usual amount. Some customers make one
large purchase, and some cards are stolen and spent in a burst of growing amounts: what
the velocity and the amount policies are there to find.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

from counterfoil.cli.demo.transactions import Money, Transaction, transaction_id

_START: Final = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
_TRANSACTIONS_PER_CUSTOMER: Final = 6
_CUSTOMERS_MIN: Final = 10
_MEAN_GAP_SECONDS: Final = 400.0
_STOLEN_SHARE: Final = 0.02
_LARGE_SHARE: Final = 0.03
_MERCHANTS: Final = (
    "Alder Grocery",
    "Brightwater Fuel",
    "Corner Pharmacy",
    "Delta Electronics",
    "Eastgate Books",
    "Fern Street Cafe",
    "Granite Hardware",
    "Harbour Travel",
)


@dataclass(frozen=True, slots=True)
class _Customer:
    customer_id: str
    card_ids: tuple[str, ...]
    currency: str
    usual_minor: int


def generate(count: int, *, seed: int, run_id: str) -> list[Transaction]:
    """``count`` transactions in the order of their time, ids marked with ``run_id``."""
    return list(islice(_endless(random.Random(seed), count, run_id), count))


def _endless(chance: random.Random, count: int, run_id: str) -> Iterator[Transaction]:
    population = max(_CUSTOMERS_MIN, count // _TRANSACTIONS_PER_CUSTOMER)
    customers = [_customer(chance, run_id, number) for number in range(1, population + 1)]
    clock = _START
    number = 0
    while True:
        clock += timedelta(seconds=round(chance.expovariate(1 / _MEAN_GAP_SECONDS), 3))
        customer = chance.choice(customers)
        card_id = chance.choice(customer.card_ids)
        for amount_minor, delay_seconds in _payments(chance, customer.usual_minor):
            clock += timedelta(seconds=delay_seconds)
            number += 1
            yield Transaction(
                transaction_id=transaction_id(run_id, number),
                customer_id=customer.customer_id,
                card_id=card_id,
                merchant=chance.choice(_MERCHANTS),
                amount=Money(minor=amount_minor, currency=customer.currency, digits=2),
                occurred_at=clock,
            )


def _customer(chance: random.Random, run_id: str, number: int) -> _Customer:
    return _Customer(
        customer_id=f"cust_{run_id}_{number:04d}",
        card_ids=tuple(
            f"card_{run_id}_{number:04d}_{card}" for card in range(1, chance.randint(1, 2) + 1)
        ),
        currency=chance.choice(("EUR", "EUR", "USD", "GBP")),
        usual_minor=chance.randint(800, 6_000),
    )


def _payments(chance: random.Random, usual_minor: int) -> list[tuple[int, float]]:
    """What happens next to one card: (amount in minor units, seconds since the last)."""
    everyday = max(100, round(usual_minor * chance.lognormvariate(0, 0.4)))
    kind = chance.random()
    if kind < _STOLEN_SHARE:
        steps = chance.randint(4, 6)
        return [
            (everyday * (1 + step * step), round(chance.uniform(20, 240), 3))
            for step in range(steps)
        ]
    if kind < _STOLEN_SHARE + _LARGE_SHARE:
        return [(chance.randint(40_000, 150_000), 0.0)]
    return [(everyday, 0.0)]
