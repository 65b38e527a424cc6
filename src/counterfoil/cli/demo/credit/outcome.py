"""What a run came to: who was decided how and why, held against what became of them."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from counterfoil.cli.demo.credit import words
from counterfoil.cli.demo.credit.applicants import Applicant, Known
from counterfoil.cli.demo.credit.check import Finding, Report
from counterfoil.cli.demo.credit.performance import Tally
from counterfoil.cli.demo.credit.portfolios import Costs, Portfolio, subject
from counterfoil.cli.demo.credit.staff import Refusals

KINDS: Final = ("approve", "review", "decline")
ENDINGS: Final[tuple[Known, ...]] = ("good", "bad")


@dataclass(frozen=True, slots=True)
class Explained:
    """One decision, explained on a page."""

    decision: int
    text: str


@dataclass(frozen=True, slots=True)
class Cost:
    """What the decisions cost for each applicant, and what it would cost to decide without them.

    A review counts as a refusal here: whoever is not granted credit brings nothing and loses
    nothing.
    """

    decided: float
    approving_all: float
    declining_all: float


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes:
        applicants: who they were, with how their loans ended.
        tally: what the agents say that they did.
        checked: what the check has found in the book.
        replayed: how many decisions were made again from their records.
        differing: those of them that did not come out the same.
        refusals: what was tried in vain.
        explained: one decision on a page; None where nothing was declined.
    """

    run_id: str
    portfolio: Portfolio
    policy: str
    applicants: Sequence[Applicant]
    tally: Tally
    checked: Report
    replayed: int
    differing: tuple[Finding, ...]
    refusals: Refusals
    explained: Explained | None

    @cached_property
    def kinds(self) -> Counter[str]:
        """How many applications stand approved, in review, declined."""
        return Counter(told["kind"] for told in self.checked.standing.values())

    @property
    def approval_rate(self) -> float:
        """The share of the applications that stand approved."""
        return self.kinds["approve"] / len(self.applicants)

    @cached_property
    def reasons(self) -> Counter[tuple[str, str, str]]:
        """How often each reason stands: by outcome, code and text."""
        return Counter(
            (told["outcome"], reason["code"], reason["text"])
            for told in self.checked.standing.values()
            for reason in told["reasons"]
        )

    @cached_property
    def confusion(self) -> dict[Known, Counter[str]]:
        """The applications that ended well, and those that did not, by how they stand."""
        found: dict[Known, Counter[str]] = {known: Counter() for known in ENDINGS}
        for applicant in self.applicants:
            told = self.checked.standing.get(subject(applicant.application_id))
            if applicant.known is not None and told is not None:
                found[applicant.known][told["kind"]] += 1
        return found

    @property
    def cost(self) -> Cost | None:
        """What the decisions cost; None where nobody says what a wrong one costs."""
        costs = self.portfolio.costs
        return None if costs is None else cost_of(self.confusion, costs)

    def contradictions(self) -> Iterator[str]:
        """Everything that is wrong; nothing for a run as it must be."""
        for finding in (*self.checked.findings, *self.differing):
            yield f"{finding.rule}: {finding.message}"
        found, told = len(self.checked.decisions), self.tally.decisions
        if found != told:
            yield f"the agents say that they made {told} decisions, and the book has {found}"
        if self.replayed != found:
            yield f"of {found} decisions, {self.replayed} were made again"

    def document(self) -> dict[str, Any]:
        """The outcome as one JSON object."""
        contradictions = list(self.contradictions())
        cost = self.cost
        return {
            "ok": not contradictions,
            "run_id": self.run_id,
            "portfolio": self.portfolio.name,
            "policy": self.policy,
            "applications": len(self.applicants),
            "decisions": len(self.checked.decisions),
            "by_version": {str(each): n for each, n in self.checked.by_version.items()},
            "corrected": len(self.tally[words.CORRECTED]),
            "corrected_in_time": len(self.tally[words.SEEN]),
            "decided_anew": len(self.tally[words.ANEW]),
            "seconds": round(self.tally.seconds, 3),
            "decisions_per_second": round(self.tally.decisions_per_second, 1),
            **{kind: self.kinds[kind] for kind in KINDS},
            "approval_rate": round(self.approval_rate, 4),
            "reasons": [
                {"outcome": outcome, "code": code, "text": text, "count": count}
                for (outcome, code, text), count in self.reasons.most_common()
            ],
            "known": {
                known: {kind: counts[kind] for kind in KINDS}
                for known, counts in self.confusion.items()
            },
            "cost_per_applicant": None
            if cost is None
            else {
                "decided": round(cost.decided, 4),
                "approving_all": round(cost.approving_all, 4),
                "declining_all": round(cost.declining_all, 4),
            },
            "refused": {
                "own_draft": self.refusals.own_draft,
                "forbidden_input": self.refusals.forbidden,
            },
            "explained": None
            if self.explained is None
            else {"decision": self.explained.decision, "text": self.explained.text},
            "check": {**self.checked.document(), "replayed": self.replayed},
            "contradictions": contradictions,
        }


def cost_of(confusion: Mapping[Known, Mapping[str, int]], costs: Costs) -> Cost:
    """What decisions cost for each applicant, of those whose ending is known."""
    good, bad = (sum(confusion[known].values()) for known in ENDINGS)
    number = max(good + bad, 1)
    refused = good - confusion["good"].get("approve", 0)
    lost = confusion["bad"].get("approve", 0)
    return Cost(
        decided=(lost * costs.bad_approved + refused * costs.good_declined) / number,
        approving_all=bad * costs.bad_approved / number,
        declining_all=good * costs.good_declined / number,
    )
