"""The seeded generator, and the races that are chosen beforehand."""

from collections import Counter
from dataclasses import replace

import pytest

from counterfoil.cli.demo.generator import generate
from counterfoil.cli.demo.policies import AMOUNT_LARGE_UNITS
from counterfoil.cli.demo.schedule import GATED_MIN, TooFewToGate, foresee, plan


def test_one_seed_gives_the_same_transactions_and_another_one_others() -> None:
    assert generate(200, seed=7, run_id="a") == generate(200, seed=7, run_id="a")
    assert generate(200, seed=7, run_id="a") != generate(200, seed=8, run_id="a")


def test_the_run_marks_the_ids_and_changes_nothing_else() -> None:
    ours, theirs = (generate(100, seed=7, run_id=run) for run in ("ours", "theirs"))

    assert [each.amount for each in ours] == [each.amount for each in theirs]
    assert all("_ours_" in each.transaction_id for each in ours)
    assert not {each.customer_id for each in ours} & {each.customer_id for each in theirs}


def test_generated_transactions_are_in_order_and_distinct_and_worth_something() -> None:
    transactions = generate(500, seed=1, run_id="r")

    assert len(transactions) == 500
    assert len({each.transaction_id for each in transactions}) == 500
    times = [each.occurred_at for each in transactions]
    assert times == sorted(times)
    assert all(each.amount.minor > 0 for each in transactions)


@pytest.mark.parametrize("seed", range(20))
def test_every_seed_gives_both_kinds_of_verdict_and_enough_to_race(seed: int) -> None:
    schedule = plan(generate(300, seed=seed, run_id="r"), seed=seed)

    assert schedule.flagged
    assert len(schedule.gated) >= GATED_MIN
    assert schedule.gated <= schedule.cleared
    assert not schedule.flagged & schedule.cleared
    assert len(schedule.flagged) + len(schedule.cleared) == 300


def test_generated_fraud_is_found_by_more_than_one_rule() -> None:
    verdicts = foresee(generate(1_000, seed=3, run_id="r"))

    reasons = Counter(verdict.reason for verdict in verdicts.values())
    assert reasons["high_score"] > 10
    assert reasons["repeated_elevated_score"] > 0
    assert reasons["nothing_unusual"] > 800


def test_the_same_seed_chooses_the_same_races() -> None:
    transactions = generate(300, seed=5, run_id="r")

    assert plan(transactions, seed=1) == plan(transactions, seed=1)
    assert plan(transactions, seed=1).gated != plan(transactions, seed=2).gated


def test_a_larger_run_races_one_in_twenty() -> None:
    schedule = plan(generate(2_000, seed=1, run_id="r"), seed=1)

    assert len(schedule.gated) == len(schedule.cleared) // 20


@pytest.mark.parametrize("seed", range(5))
def test_a_scorer_is_killed_half_way_and_a_customer_has_to_wait_for_it(seed: int) -> None:
    transactions = generate(300, seed=seed, run_id="r")

    middle = plan(transactions, seed=seed).middle

    ids = [each.transaction_id for each in transactions]
    place = ids.index(middle)
    assert 150 <= place < 200
    customer = transactions[place].customer_id
    assert customer in [each.customer_id for each in transactions[place + 1 :]]


def test_no_verdict_depends_on_the_order_of_different_customers() -> None:
    """A card that two customers use: their scores are written in any order."""
    ours, theirs = (
        replace(each, card_id="card_shared") for each in generate(2, seed=1, run_id="r")
    )
    suspicious = replace(ours, amount=replace(ours.amount, minor=AMOUNT_LARGE_UNITS * 100))
    likewise = replace(
        theirs,
        customer_id="cust_other",
        amount=replace(theirs.amount, minor=AMOUNT_LARGE_UNITS * 100),
    )

    verdicts = foresee([suspicious, likewise])

    assert [verdict.flagged for verdict in verdicts.values()] == [False, False]


def test_too_few_transactions_to_race_are_refused_with_the_way_out() -> None:
    with pytest.raises(TooFewToGate, match=r"20 are needed .* Take more transactions"):
        plan(generate(19, seed=1, run_id="r"), seed=1)


def test_what_lies_ahead_changes_no_verdict() -> None:
    transactions = generate(300, seed=9, run_id="r")

    whole, first_half = foresee(transactions), foresee(transactions[:150])

    assert all(whole[each] == verdict for each, verdict in first_half.items())
