"""What the scorer and the investigator think of small, clear histories."""

from datetime import UTC, datetime, timedelta

import pytest

from counterfoil.cli.demo.policies import (
    AMOUNT_HUGE_POINTS,
    AMOUNT_LARGE_POINTS,
    CARD_BURST_POINTS,
    CUSTOMER_BURST_POINTS,
    SCORE_MAX,
    UNUSUAL_POINTS,
    PastScore,
    amount_points,
    assess,
    investigate,
)
from counterfoil.cli.demo.transactions import Money, Transaction

NOON = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


def payment(
    ago: timedelta = timedelta(0),
    *,
    minor: int = 1_000,
    card: str = "card_1",
    customer: str = "cust_1",
    currency: str = "EUR",
) -> Transaction:
    return Transaction(
        transaction_id="tx_1",
        customer_id=customer,
        card_id=card,
        merchant="Alder Grocery",
        amount=Money(minor=minor, currency=currency, digits=2),
        occurred_at=NOON - ago,
    )


def test_an_everyday_payment_scores_nothing() -> None:
    assert assess(payment(), []) == assess(payment(), [payment(2 * HOUR)])
    assert assess(payment(), []).score == 0
    assert assess(payment(), []).reasons == ()


@pytest.mark.parametrize(
    ("minor", "digits", "points"),
    [
        (29_999, 2, 0),
        (30_000, 2, AMOUNT_LARGE_POINTS),
        (89_999, 2, AMOUNT_LARGE_POINTS),
        (90_000, 2, AMOUNT_HUGE_POINTS),
        (299_999, 3, 0),
        (300_000, 3, AMOUNT_LARGE_POINTS),
        (300, 0, AMOUNT_LARGE_POINTS),
    ],
)
def test_amounts_count_in_whole_units_of_any_scale(minor: int, digits: int, points: int) -> None:
    assert amount_points(Money(minor=minor, currency="XXX", digits=digits)) == points


def test_the_third_payment_of_a_card_within_an_hour_is_a_burst() -> None:
    two_before = [payment(HOUR), payment(HOUR / 2)]

    assert assess(payment(), two_before).reasons == ("card_velocity",)
    assert assess(payment(), two_before).score == CARD_BURST_POINTS
    assert assess(payment(), two_before[:1]).score == 0


def test_a_burst_counts_neither_older_nor_later_payments_nor_other_cards() -> None:
    second = timedelta(seconds=1)
    others = [payment(HOUR + second), payment(-second), payment(card="card_2")]

    assert assess(payment(), [payment(HOUR / 2), *others]).score == 0


def test_the_fifth_payment_of_a_customer_within_a_day_counts_over_all_cards() -> None:
    day = [payment(n * 5 * HOUR, card=f"card_{n}") for n in range(2, 5)]

    assert assess(payment(), [*day, payment(24 * HOUR)]).score == CUSTOMER_BURST_POINTS
    assert assess(payment(), [*day, payment(25 * HOUR)]).score == 0
    assert assess(payment(), [*day, payment(24 * HOUR, customer="cust_2")]).score == 0


def test_an_amount_is_unusual_against_the_cards_own_median_in_that_currency() -> None:
    usual = [payment(n * 30 * HOUR, minor=minor) for n, minor in ((1, 900), (2, 1_000), (3, 9_000))]

    assert assess(payment(minor=5_000), usual).reasons == ("unusual_amount",)
    assert assess(payment(minor=5_000), usual).score == UNUSUAL_POINTS
    assert assess(payment(minor=4_999), usual).score == 0
    assert assess(payment(minor=5_000), usual[:2]).score == 0
    assert assess(payment(minor=5_000, currency="USD"), usual).score == 0


def test_a_score_ends_at_its_maximum_and_names_every_reason() -> None:
    burst = [payment(n * HOUR / 10, minor=1_000) for n in range(1, 6)]

    worst = assess(payment(minor=95_000), burst)

    assert worst.score == SCORE_MAX
    assert worst.reasons == ("card_velocity", "customer_velocity", "amount", "unusual_amount")


def test_the_order_of_the_history_does_not_matter() -> None:
    history = [payment(n * HOUR / 10, minor=1_000 + n) for n in range(1, 6)]

    assert assess(payment(minor=6_000), history) == assess(payment(minor=6_000), history[::-1])


def test_a_high_score_is_flagged_by_itself() -> None:
    assert investigate(70, NOON, []).flagged
    assert investigate(70, NOON, []).reason == "high_score"
    assert not investigate(69, NOON, []).flagged


def test_a_second_elevated_score_within_a_week_is_flagged() -> None:
    week = timedelta(days=7)

    assert investigate(40, NOON, [PastScore(40, NOON - week)]).reason == "repeated_elevated_score"
    assert not investigate(40, NOON, [PastScore(39, NOON - week)]).flagged
    assert not investigate(39, NOON, [PastScore(40, NOON - week)]).flagged
    assert not investigate(40, NOON, [PastScore(40, NOON - week - HOUR)]).flagged
    assert not investigate(40, NOON, [PastScore(40, NOON + HOUR)]).flagged
