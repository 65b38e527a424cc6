"""Applicants out of a CSV file: the German credit data, or those of Lending Club.

Which of them it is, is seen by the header. Amounts become whole numbers of the smallest unit of
their currency, rates whole hundredths of a percent ("basis points"), and codes words.

The codes of the German data are read by the corrected list of U. Grömping ("South German Credit
Data: Correcting a Widely Used Data Set", 2019). The list that came with the data in 1994 had
several of them in the wrong order: by it, those without an account would be the best customers.
"""

import csv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Final, TextIO

from counterfoil.cli.demo.credit.applicants import Applicant, Known, Signal, application_id
from counterfoil.cli.demo.credit.portfolios import (
    GERMAN_CREDIT,
    LENDING_CLUB,
    PERSONAL,
    Portfolio,
)


class BadFile(ValueError):
    """The file is not what it should be. ``str()`` names the file, the line and the fault."""


def read_applicants(
    path: Path, *, run_id: str, limit: int | None = None
) -> tuple[Portfolio, list[Applicant]]:
    """What portfolio a file is of, and its first ``limit`` applicants.

    An application's number is its line in the file.

    Raises:
        BadFile: it is neither of the two, holds no row, or a row of it cannot be taken.
        OSError: it cannot be opened.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            form, rows = _recognised(file, path.name)
            applicants: list[Applicant] = []
            for line, row in rows:
                if len(applicants) == limit:
                    break
                applicants.append(_applicant(form, row, line, path.name, run_id))
        except UnicodeDecodeError:
            raise BadFile(f"{path.name} is not UTF-8 text.") from None
        except csv.Error as error:
            raise BadFile(f"{path.name} cannot be read as CSV: {error}.") from None
    if not applicants:
        raise BadFile(f"{path.name} holds no applicants.")
    return form.portfolio, applicants


# --- Rows -----------------------------------------------------------------------------


class _Row:
    """One row, its values by column, each as what it must be."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def text(self, column: str) -> str:
        value = self._values[column]
        if not value:
            raise ValueError(f"{column} is empty")
        return value

    def word(self, column: str, words: Mapping[str, str]) -> str:
        code = self.text(column)
        if code not in words:
            raise ValueError(f"{column} is {code!r}, and no code that is known")
        return words[code]

    def whole(self, column: str, *, times: int = 1) -> int:
        """A number, so many times, which must be whole then."""
        text = self.text(column)
        try:
            number = Decimal(text) * times
        except InvalidOperation:
            raise ValueError(f"{column} is {text!r}, and no number") from None
        if not number.is_finite() or number < 0 or number != number.to_integral_value():
            raise ValueError(f"{column} is {text!r}, which is no number of whole units")
        return int(number)


@dataclass(frozen=True, slots=True)
class _Form:
    """A form of file: its columns, and what a row comes to."""

    portfolio: Portfolio
    columns: tuple[str, ...]
    signals: Callable[[_Row], tuple[Signal, ...]]
    known: Callable[[_Row], Known]


def _recognised(file: TextIO, name: str) -> tuple[_Form, Iterator[tuple[int, _Row]]]:
    """The form that the header shows, and the rows, each with its line."""
    rows = csv.reader(file, strict=True)
    header = [column.strip() for column in next(rows, [])]
    for form in _FORMS:
        if set(form.columns) <= set(header):
            return form, _rows(rows, header, name)
    best = max(_FORMS, key=lambda form: len(set(form.columns) & set(header)))
    missing = [column for column in best.columns if column not in header]
    if len(missing) == len(best.columns):
        raise BadFile(
            f"{name} is neither the German credit data nor those of Lending Club: its header has "
            "none of their columns."
        )
    raise BadFile(
        f"{name} looks like {best.portfolio.title}, and lacks the "
        f"column{'s'[: len(missing) - 1]} {', '.join(missing)}."
    )


def _rows(rows: Iterator[list[str]], header: list[str], name: str) -> Iterator[tuple[int, _Row]]:
    for line, row in enumerate(rows, start=2):
        if not row:
            continue
        if len(row) != len(header):
            raise BadFile(
                f"{name}, line {line}: {len(row)} values, and the header has {len(header)} columns."
            )
        values = (value.strip() for value in row)
        yield line, _Row(dict(zip(header, values, strict=True)))


def _applicant(form: _Form, row: _Row, line: int, name: str, run_id: str) -> Applicant:
    try:
        return Applicant(application_id(run_id, line), form.signals(row), form.known(row))
    except ValueError as error:
        raise BadFile(f"{name}, line {line}: {error}.") from None


# --- German credit --------------------------------------------------------------------

_ACCOUNT: Final = {
    "A11": "no_account",
    "A12": "overdrawn",
    "A13": "below_200",
    "A14": "salary_or_200",
}
_SAVINGS: Final = {
    "A61": "none_known",
    "A62": "below_100",
    "A63": "100_to_500",
    "A64": "500_to_1000",
    "A65": "1000_or_more",
}
_HISTORY: Final = {
    "A30": "late_before",
    "A31": "critical_elsewhere",
    "A32": "no_credits_or_all_repaid",
    "A33": "repaid_so_far",
    "A34": "repaid_at_this_bank",
}
_EMPLOYMENT: Final = {
    "A71": "unemployed",
    "A72": "below_1_year",
    "A73": "1_to_4_years",
    "A74": "4_to_7_years",
    "A75": "7_years_or_more",
}
_PLANS: Final = {"A141": "bank", "A142": "stores", "A143": "none"}
_SECURITY: Final = {"A101": "none", "A102": "co_applicant", "A103": "guarantor"}
_RESULT: Final[Mapping[str, Known]] = {"1": "good", "2": "bad"}


def _german_signals(row: _Row) -> tuple[Signal, ...]:
    return (
        Signal(
            "application_received",
            {
                "amount_minor": row.whole("Credit amount", times=100),
                "currency": "DEM",
                "duration_months": row.whole("Duration"),
                "purpose": row.text("Purpose"),
            },
        ),
        Signal(
            PERSONAL,
            {name: row.text(name) for name in ("Personal_status", "Age", "Foreign")},
        ),
        Signal(
            "account_checked",
            {
                "account": row.word("Check_Account", _ACCOUNT),
                "savings": row.word("Saving_account", _SAVINGS),
            },
        ),
        Signal(
            "credit_report_pulled",
            {
                "history": row.word("Credit_history", _HISTORY),
                "credits_here": row.whole("Num_credits"),
            },
        ),
        Signal(
            "affordability_checked",
            {
                "employment": row.word("Employment", _EMPLOYMENT),
                "other_plans": row.word("Installment_plant", _PLANS),
                "security": row.word("Other_debrotors", _SECURITY),
            },
        ),
    )


def _german_known(row: _Row) -> Known:
    code = row.text("Result")
    if code not in _RESULT:
        raise ValueError(f"Result is {code!r}, and neither 1 (good) nor 2 (bad)")
    return _RESULT[code]


# --- Lending Club ---------------------------------------------------------------------


def _lending_signals(row: _Row) -> tuple[Signal, ...]:
    grade = row.text("sub_grade")
    return (
        Signal(
            "application_received",
            {
                "amount_minor": row.whole("funded_amnt", times=100),
                "currency": "USD",
                "term_months": int(row.word("term", {"term_36": "36", "term_60": "60"})),
                "rate_bps": row.whole("int_rate", times=100),
                "grade": grade[:1],
                "sub_grade": grade,
            },
        ),
        Signal(PERSONAL, {"addr_state": row.text("addr_state")}),
        Signal(
            "income_verified",
            {
                "annual_minor": row.whole("annual_inc", times=100),
                "verification": row.text("verification_status"),
                "employed": row.text("emp_length"),
            },
        ),
        Signal(
            "credit_report_pulled",
            {
                "utilisation_bps": row.whole("revol_util", times=100),
                "inquiries_6m": row.whole("inq_last_6mths"),
                "loans_opened_12m": row.whole("open_il_12m"),
                "arrears_2y": row.whole("delinq_2yrs"),
                "past_due_now": row.whole("acc_now_delinq"),
            },
        ),
    )


def _lending_known(row: _Row) -> Known:
    match row.text("Class"):
        case "good":
            return "good"
        case "bad":
            return "bad"
        case other:
            raise ValueError(f"Class is {other!r}, and neither good nor bad")


_FORMS: Final = (
    _Form(
        GERMAN_CREDIT,
        (
            *("Check_Account", "Duration", "Credit_history", "Purpose", "Credit amount"),
            *("Saving_account", "Employment", "Personal_status", "Other_debrotors", "Age"),
            *("Installment_plant", "Num_credits", "Foreign", "Result"),
        ),
        _german_signals,
        _german_known,
    ),
    _Form(
        LENDING_CLUB,
        (
            *("funded_amnt", "term", "int_rate", "sub_grade", "addr_state"),
            *("verification_status", "annual_inc", "emp_length", "delinq_2yrs"),
            *("inq_last_6mths", "revol_util", "acc_now_delinq", "open_il_12m", "Class"),
        ),
        _lending_signals,
        _lending_known,
    ),
)
