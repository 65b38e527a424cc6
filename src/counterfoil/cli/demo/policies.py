"""What the scorer and the investigator think: pure functions from history to judgement.

They are small on purpose. What matters to the demo is that each is a function of the
book alone (earlier transactions, earlier scores), so that the same book gives the same
verdict wherever and however often it is computed. ``schedule.py`` counts on that.

Amounts are compared in whole units of their own currency. The book holds no exchange
rates, and a policy must not invent them; a real scorer would convert first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median_high
from typing import Final

from counterfoil.cli.demo.transactions import Money, Transaction

HISTORY_TRANSACTIONS_MAX: Final = 50
"""How many earlier transactions of the same customer or card the scorer looks at."""

HISTORY_SCORES_MAX: Final = 50
"""How many earlier scores of the same customer the investigator looks at."""

SCORE_MAX: Final = 100

# --- The scorer: velocity and amount, per card and per customer -------------------------

CARD_WINDOW: Final = timedelta(hours=1)
CARD_BURST_COUNT: Final = 3
"""This many payments of one card within the window, the present one counted, are a burst."""
CARD_BURST_POINTS: Final = 50

CUSTOMER_WINDOW: Final = timedelta(hours=24)
CUSTOMER_BURST_COUNT: Final = 5
CUSTOMER_BURST_POINTS: Final = 25

AMOUNT_LARGE_UNITS: Final = 300
AMOUNT_LARGE_POINTS: Final = 45
AMOUNT_HUGE_UNITS: Final = 900
AMOUNT_HUGE_POINTS: Final = 75

UNUSUAL_FACTOR: Final = 5
"""So many times the card's usual (median) amount is unusual."""
UNUSUAL_HISTORY_MIN: Final = 3
"""Below this many earlier payments in one currency nothing is usual yet."""
UNUSUAL_POINTS: Final = 25

# --- The investigator -------------------------------------------------------------------

FLAG_SCORE: Final = 70
"""A score from here on is flagged by itself."""
ELEVATED_SCORE: Final = 40
"""A score from here on is flagged if another such score is near."""
ELEVATED_WINDOW: Final = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Assessment:
    """A score from 0 to 100 and the rules that gave it, in the order of the rules."""

    score: int
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PastScore:
    """An earlier transaction's score, at the time of that transaction."""

    score: int
    occurred_at: datetime


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether to flag, and why (or why not)."""

    flagged: bool
    reason: str


def assess(transaction: Transaction, history: Sequence[Transaction]) -> Assessment:
    """Score a transaction against earlier ones of the same customer or the same card."""
    same_card = [past for past in history if past.card_id == transaction.card_id]
    same_customer = [past for past in history if past.customer_id == transaction.customer_id]
    rules = (
        (card_velocity_points(transaction, same_card), "card_velocity"),
        (customer_velocity_points(transaction, same_customer), "customer_velocity"),
        (amount_points(transaction.amount), "amount"),
        (unusual_amount_points(transaction, same_card), "unusual_amount"),
    )
    return Assessment(
        score=min(SCORE_MAX, sum(points for points, _ in rules)),
        reasons=tuple(reason for points, reason in rules if points),
    )


def card_velocity_points(transaction: Transaction, same_card: Sequence[Transaction]) -> int:
    """Points for many payments by one card within an hour."""
    count = 1 + _count_within(CARD_WINDOW, transaction.occurred_at, same_card)
    return CARD_BURST_POINTS if count >= CARD_BURST_COUNT else 0


def customer_velocity_points(transaction: Transaction, same_customer: Sequence[Transaction]) -> int:
    """Points for many payments by one customer, over all cards, within a day."""
    count = 1 + _count_within(CUSTOMER_WINDOW, transaction.occurred_at, same_customer)
    return CUSTOMER_BURST_POINTS if count >= CUSTOMER_BURST_COUNT else 0


def amount_points(amount: Money) -> int:
    """Points for an amount that is large in itself."""
    if amount.at_least(AMOUNT_HUGE_UNITS):
        return AMOUNT_HUGE_POINTS
    return AMOUNT_LARGE_POINTS if amount.at_least(AMOUNT_LARGE_UNITS) else 0


def unusual_amount_points(transaction: Transaction, same_card: Sequence[Transaction]) -> int:
    """Points for an amount far above what this card usually pays in this currency."""
    amounts = [
        past.amount.minor
        for past in same_card
        if past.amount.currency == transaction.amount.currency
    ]
    if len(amounts) < UNUSUAL_HISTORY_MIN:
        return 0
    usual = median_high(amounts)
    return UNUSUAL_POINTS if transaction.amount.minor >= UNUSUAL_FACTOR * usual else 0


def is_in_doubt(score: int) -> bool:
    """Whether a verdict on this score depends on the scores before it."""
    return ELEVATED_SCORE <= score < FLAG_SCORE


def investigate(score: int, occurred_at: datetime, earlier: Sequence[PastScore]) -> Verdict:
    """Flag what is suspicious by itself, or by the company that it keeps."""
    if score >= FLAG_SCORE:
        return Verdict(flagged=True, reason="high_score")
    if is_in_doubt(score) and any(
        past.score >= ELEVATED_SCORE
        and timedelta(0) <= occurred_at - past.occurred_at <= ELEVATED_WINDOW
        for past in earlier
    ):
        return Verdict(flagged=True, reason="repeated_elevated_score")
    return Verdict(flagged=False, reason="nothing_unusual")


def _count_within(window: timedelta, now: datetime, past: Sequence[Transaction]) -> int:
    """How many of ``past`` lie in the ``window`` that ends ``now``."""
    return sum(timedelta(0) <= now - each.occurred_at <= window for each in past)
