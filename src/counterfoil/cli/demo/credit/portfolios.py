"""What the demo can decide on: three portfolios, each with the policy that is shipped for it.

The policies are JSON files beside this module, complete as they would be drafted by hand:
``counterfoil policies lint`` takes them, and so does the editor of the engine. Here stands what
the demo does with them: the one threshold that its second version moves, and the attribute that
it tries to read in the end, which is refused.
"""

import json
import random
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Any, Final

from counterfoil.cli.demo.credit.applicants import Slip

PERSONAL: Final = "applicant_details_recorded"
"""The event that holds what no rule may read. It is in the book, and no policy looks at it."""

SUBJECT: Final = "application"


@dataclass(frozen=True, slots=True)
class Amendment:
    """The one cell of a table in which a policy's second version is another than its first."""

    table: str
    row: str
    column: str
    cell: str
    reason: str


@dataclass(frozen=True, slots=True)
class Costs:
    """What a wrong decision costs, as the data set itself says it."""

    bad_approved: int
    good_declined: int


@dataclass(frozen=True)
class Portfolio:
    """A kind of applications, and how they are decided.

    Attributes:
        name: the name of its policy, and of the file that holds it.
        title: what it is, for people.
        amendment: what the second version of the policy changes.
        forbidden: the attribute that a policy must not read; as it stands in ``PERSONAL``.
        slip: how one of its signals may be wrong.
        costs: what a wrong decision costs, where that is known.
    """

    name: str
    title: str
    amendment: Amendment
    forbidden: str
    slip: Slip
    costs: Costs | None = None

    @cached_property
    def policy(self) -> dict[str, Any]:
        """The policy, as it is shipped."""
        file = files(__package__).joinpath("policies", f"{self.name}.json")
        document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return document

    def amended(self) -> dict[str, Any]:
        """The second version: one threshold is another."""
        document = deepcopy(self.policy)
        table = _node(document, self.amendment.table)
        (row,) = [one for one in table["content"]["rules"] if one["_id"] == self.amendment.row]
        if self.amendment.column not in row:
            raise KeyError(self.amendment.column)
        row[self.amendment.column] = self.amendment.cell
        return document

    def trespassing(self, attribute: str | None = None) -> dict[str, Any]:
        """The policy with a look at what none may look at: it must be refused."""
        attribute = attribute or self.forbidden
        document = deepcopy(self.policy)
        document["reads"][attribute] = {
            "types": [PERSONAL],
            "take": "latest",
            "path": f"/{attribute}",
        }
        document["inputs_schema"]["properties"][attribute] = {"type": "string"}
        document["inputs_schema"]["required"].append(attribute)
        for example in document["examples"]:
            example["inputs"][attribute] = "?"
        return document


def policy_name(portfolio: Portfolio, run_id: str) -> str:
    """The name of a portfolio's policy in one run: a book may see several runs."""
    return f"{portfolio.name}.{run_id}"


def subject(application_id: str) -> str:
    """The tag of every event about an application."""
    return f"{SUBJECT}:{application_id}"


def _node(document: Mapping[str, Any], node_id: str) -> dict[str, Any]:
    nodes: list[dict[str, Any]] = document["rules"]["nodes"]
    (found,) = [one for one in nodes if one["id"] == node_id]
    return found


# --- The three ------------------------------------------------------------------------

ACCOUNTS: Final = ("no_account", "overdrawn", "below_200", "salary_or_200")


def _another_account(payload: Mapping[str, Any], chance: random.Random) -> dict[str, Any]:
    """Somebody else's account was looked at."""
    others = [one for one in ACCOUNTS if one != payload["account"]]
    return {**payload, "account": chance.choice(others)}


def _digit_lost(payload: Mapping[str, Any], _chance: random.Random) -> dict[str, Any]:
    """The last digit of the income was lost when it was typed."""
    return {
        name: max(1, value // 10) if name in {"annual_minor", "monthly_minor"} else value
        for name, value in payload.items()
    }


GERMAN_CREDIT: Final = Portfolio(
    name="german_credit",
    title="German credit (Statlog)",
    amendment=Amendment(
        table="band",
        row="band-2",
        column="band-in-1",
        cell="<= 4",
        reason="Underwriters cannot look at so many: five concerns are much, no more only six.",
    ),
    forbidden="Personal_status",
    slip=Slip("account_checked", _another_account),
    costs=Costs(bad_approved=5, good_declined=1),
)

LENDING_CLUB: Final = Portfolio(
    name="lending_club",
    title="Lending Club",
    amendment=Amendment(
        table="price",
        row="price-3",
        column="price-in-1",
        cell="<= 1_600",
        reason="More than 16 % is a very high price, no more only more than 18 %.",
    ),
    forbidden="addr_state",
    slip=Slip("income_verified", _digit_lost),
)

APPLICANTS: Final = Portfolio(
    name="applicants",
    title="Generated applicants",
    amendment=Amendment(
        table="decision",
        row="decision-4",
        column="decision-in-4",
        cell="> 4_000",
        reason="More than 40 % of the income is too much, no more only more than 45 %.",
    ),
    forbidden="age",
    slip=Slip("income_verified", _digit_lost),
)

PORTFOLIOS: Final = (APPLICANTS, GERMAN_CREDIT, LENDING_CLUB)
