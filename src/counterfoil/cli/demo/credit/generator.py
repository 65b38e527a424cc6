"""Applicants out of a seed: the same seed gives the same ones on every machine.

Who repays is drawn with what a lender can see, and with luck: the more of the income is
committed, the less is left of it, the more was not repaid before, the less likely. So a sensible
policy is better than none, and none is perfect.
"""

import math
import random
from typing import Any, Final

from counterfoil.cli.demo.credit.applicants import Applicant, Known, Signal, application_id
from counterfoil.cli.demo.credit.portfolios import PERSONAL

_PURPOSES: Final = ("car", "kitchen", "repairs", "education", "travel")
_SOURCES: Final = ("pay_slips", "tax_return", "account_statements")
_WARNINGS: Final = ("document_altered", "address_unknown", "device_seen_before")
_PLACES: Final = ("AT", "BE", "DE", "FR", "IT", "NL", "PL")
_TERMS_MONTHS: Final = (12, 24, 36, 48, 60, 84)
_WARNED_SHARE: Final = 0.02


def generate(count: int, *, seed: int, run_id: str) -> list[Applicant]:
    """``count`` applicants, each with its signals and how the loan would end."""
    chance = random.Random(seed)
    return [_applicant(chance, application_id(run_id, number)) for number in range(1, count + 1)]


def _applicant(chance: random.Random, own_id: str) -> Applicant:
    income = _rounded(chance.lognormvariate(math.log(280_000), 0.4))
    living = _rounded(income * min(0.85, max(0.3, chance.gauss(0.55, 0.1))))
    amount = _rounded(income * chance.lognormvariate(math.log(3), 0.6))
    months = chance.choice(_TERMS_MONTHS)
    obligations = [
        _rounded(income * chance.uniform(0.02, 0.18)) for _ in range(chance.choice((0, 0, 1, 1, 2)))
    ]
    defaults = chance.choices((0, 1, 2, 3), weights=(86, 9, 3, 2))[0]
    inquiries = min(9, int(chance.expovariate(0.7)))
    burden = (sum(obligations) + amount / months) / income
    left = 1 - living / income - burden
    signals = [
        _signal(
            "application_received",
            amount_minor=amount,
            currency="EUR",
            term_months=months,
            purpose=chance.choice(_PURPOSES),
        ),
        _signal(
            PERSONAL,
            age=chance.randint(18, 79),
            nationality=chance.choice(_PLACES),
            marital_status=chance.choice(("single", "married", "divorced")),
        ),
        _signal("income_verified", monthly_minor=income, source=chance.choice(_SOURCES)),
        *(
            _signal("obligation_recorded", monthly_minor=each, lender=f"lender_{nth}")
            for nth, each in enumerate(obligations, start=1)
        ),
        _signal("credit_report_pulled", defaults_3y=defaults, inquiries_6m=inquiries),
        _signal("affordability_checked", living_costs_minor=living),
    ]
    if chance.random() < _WARNED_SHARE:
        signals.append(_signal("fraud_warning_raised", kind=chance.choice(_WARNINGS)))
    return Applicant(own_id, tuple(signals), _ending(chance, burden, left, defaults, inquiries))


def _ending(
    chance: random.Random, burden: float, left: float, defaults: int, inquiries: int
) -> Known:
    leaning = -3.2 + 3.0 * burden - 3.0 * min(left, 0.3) + 1.1 * defaults + 0.15 * inquiries
    return "bad" if chance.random() < 1 / (1 + math.exp(-leaning)) else "good"


def _signal(event_type: str, **payload: Any) -> Signal:
    return Signal(event_type, payload)


def _rounded(minor: float) -> int:
    """To whole euros, as such figures are; one at the least."""
    return max(1, round(minor / 100)) * 100
