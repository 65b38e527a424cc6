"""Policies and decisions for tests: an author, an approver, and agents that write and decide."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final

import httpx2

from counterfoil.server.api.openapi_decisions import POLICY_EXAMPLE
from tests.support.keys import Holder

POLICY: Final = "consumer_credit"
INCOME: Final = "income_verified"
DEBTS: Final = "debts_checked"
DECISION_MADE: Final = "counterfoil.decision_made"
WHY: Final = {"reason": "Reviewed with the committee."}

Json = dict[str, Any]


def policy(**changes: Any) -> Json:
    """The policy of the description: declines above a ratio of 0.5, approves up to 0.3."""
    return {**deepcopy(POLICY_EXAMPLE), **changes}


def with_rows(*rows: Mapping[str, str], document: Json | None = None) -> Json:
    """The same with other rows in the table that decides."""
    changed = policy() if document is None else document
    table = next(n for n in changed["rules"]["nodes"] if n["type"] == "decisionTableNode")
    table["content"]["rules"] = [dict(row) for row in rows]
    return changed


def stricter(ratio: str = "0.4") -> Json:
    """The same, declining earlier."""
    return with_rows(
        {"_id": "high", "ratio": f"> {ratio}", "outcome": '"decline"', "reasons": '"D01"'},
        {"_id": "low", "ratio": "<= 0.3", "outcome": '"approve"', "reasons": ""},
        {"_id": "else", "ratio": "", "outcome": '"review"', "reasons": ""},
    )


@dataclass(frozen=True, slots=True)
class Office:
    """Everybody who has a part in decisions, of one tenant."""

    author: Holder
    approver: Holder
    risk: Holder
    decider: Holder

    @classmethod
    def of(cls, tenant: Holder) -> "Office":
        """Keys for all of them, made by an admin of the tenant."""
        manages = ["manage:policies", "manage:brake", "read:*"]
        return cls(
            author=tenant.made(kind="person", name="ada", scopes=manages),
            approver=tenant.made(kind="person", name="grace", scopes=manages),
            risk=tenant.made(kind="agent", name="risk_agent"),
            decider=tenant.made(kind="agent", name="policy_agent"),
        )

    def drafted(self, document: Json | None = None, name: str = POLICY) -> Json:
        """Draft a version."""
        answer = self.author.post(f"/policies/{name}/drafts", document or policy())
        assert answer.status_code == 201, answer.text
        made: Json = answer.json()
        return made

    def activated(self, version: int = 1, name: str = POLICY) -> Json:
        """Put a version in force."""
        answer = self.approver.post(f"/policies/{name}/versions/{version}/activate", WHY)
        assert answer.status_code == 200, answer.text
        made: Json = answer.json()
        return made

    def in_force(self, document: Json | None = None, name: str = POLICY) -> Json:
        """Draft a version, and put it in force."""
        return self.activated(self.drafted(document, name)["version"], name)

    def signal(self, event_type: str, amount: Any, subject: str = "application:1") -> int:
        """Write what is known about an applicant."""
        answer = self.risk.append(
            "risk_agent", event_type, payload={"monthly_minor": amount}, tags=[subject]
        )
        assert answer.status_code == 201, answer.text
        return int(answer.json()["id"])

    def known(
        self, *, debt: Any = 20_000, income: Any = 200_000, subject: str = "application:1"
    ) -> tuple[int, int]:
        """Write both signals; returns the ids of the debt's and the income's."""
        return self.signal(DEBTS, debt, subject), self.signal(INCOME, income, subject)

    def asked(
        self, subject: str = "application:1", *, key: str | None = None, **more: Any
    ) -> httpx2.Response:
        """Ask for a decision."""
        headers = {} if key is None else {"Idempotency-Key": key}
        body = {"policy": POLICY, "subject": subject, **more}
        return self.decider.post("/decisions", body, headers=headers)

    def decided(self, subject: str = "application:1", **more: Any) -> Json:
        """Have something decided."""
        answer = self.asked(subject, **more)
        assert answer.status_code == 201, answer.text
        made: Json = answer.json()
        return made

    def decisions(self) -> list[Json]:
        """The decisions' events, the oldest first."""
        read = self.approver.get("/events", params={"type": DECISION_MADE, "limit": 1000})
        events: list[Json] = read.json()["events"]
        return events
