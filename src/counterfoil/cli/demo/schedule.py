"""Which transactions race, and at which a scorer is killed, chosen before the first is posted.

The race of the demo is a flag that lands between the approver's read and its write. It
can only happen to a transaction that the approver would otherwise approve, so the
schedule has to know the investigator's verdicts beforehand. It computes them with the
agents' own policies over the same history in the same order: the poster posts in the
order of the list, a customer's payments are scored and judged in that order, and both
policies look at earlier events only. Of different customers' scores the order is nobody's
business, and no verdict depends on it. The run's table then compares what happened with
what was foreseen.
"""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from counterfoil.cli.demo.policies import (
    HISTORY_SCORES_MAX,
    HISTORY_TRANSACTIONS_MAX,
    PastScore,
    Verdict,
    assess,
    investigate,
)
from counterfoil.cli.demo.transactions import Transaction

GATED_MIN: Final = 20
"""Races in every run. Fewer would not show that the outcome is certain and not luck."""

_GATED_ONE_IN: Final = 20
"""Larger runs race one transaction in so many."""


class TooFewToGate(ValueError):
    """The transactions do not hold enough clean ones for ``GATED_MIN`` races."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """What is foreseen: by the policies alone flagged or cleared, and raced on purpose.

    ``middle`` is the transaction in the hands of a scorer that is to be killed half-way.
    """

    flagged: frozenset[str]
    cleared: frozenset[str]
    gated: frozenset[str]
    middle: str


def plan(transactions: Sequence[Transaction], *, seed: int) -> Schedule:
    """Foresee every verdict, and choose the races among the transactions to be cleared.

    Raises:
        TooFewToGate: fewer than ``GATED_MIN`` transactions would be cleared.
    """
    verdicts = foresee(transactions)
    cleared = [each for each, verdict in verdicts.items() if not verdict.flagged]
    if len(cleared) < GATED_MIN:
        raise TooFewToGate(
            f"Of these {len(transactions)} transactions {len(cleared)} would be cleared, and "
            f"{GATED_MIN} are needed for the gated races. Take more transactions."
        )
    gated_count = max(GATED_MIN, len(cleared) // _GATED_ONE_IN)
    return Schedule(
        flagged=frozenset(each for each, verdict in verdicts.items() if verdict.flagged),
        cleared=frozenset(cleared),
        gated=frozenset(random.Random(seed).sample(cleared, gated_count)),
        middle=_middle(transactions),
    )


def _middle(transactions: Sequence[Transaction]) -> str:
    """The first in the second half whose customer pays once more, and so has to wait for it."""
    middle = len(transactions) // 2
    for index, transaction in enumerate(transactions[middle:], start=middle):
        if any(later.customer_id == transaction.customer_id for later in transactions[index + 1 :]):
            return transaction.transaction_id
    return transactions[middle].transaction_id


def foresee(transactions: Sequence[Transaction]) -> dict[str, Verdict]:
    """The investigator's verdict on each transaction, by id, in the order of posting."""
    scores: defaultdict[str, list[PastScore]] = defaultdict(list)
    related: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    verdicts: dict[str, Verdict] = {}
    for index, transaction in enumerate(transactions):
        keys = (("customer", transaction.customer_id), ("card", transaction.card_id))
        earlier_scores = scores[transaction.customer_id]
        earlier = sorted({past for key in keys for past in related[key]})
        assessment = assess(
            transaction, [transactions[past] for past in earlier[-HISTORY_TRANSACTIONS_MAX:]]
        )
        verdicts[transaction.transaction_id] = investigate(
            assessment.score,
            transaction.occurred_at,
            earlier_scores[-HISTORY_SCORES_MAX:],
        )
        earlier_scores.append(PastScore(assessment.score, transaction.occurred_at))
        for key in keys:
            related[key].append(index)
    return verdicts
