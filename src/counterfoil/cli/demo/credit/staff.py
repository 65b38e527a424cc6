"""Who takes part in a run: the keys of its agents and its people, its consumer, its policy.

Nobody calls with a key that may do more than its work. The policy is drafted by one person and
activated by another: who drafted a version cannot put it in force, and tries in vain.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from counterfoil import (
    Counterfoil,
    CounterfoilError,
    CreatedKey,
    FourEyes,
    PolicyRefused,
    QueryItem,
)
from counterfoil.cli.demo import vocabulary
from counterfoil.cli.demo.credit import words
from counterfoil.cli.demo.credit.portfolios import SUBJECT, Portfolio
from counterfoil.cli.demo.credit.words import Brief
from counterfoil.cli.exits import Failure
from counterfoil.client.control_model import KeyKind

KEY_HOURS: Final = 12
"""The keys are revoked in the end. Those of a run that was killed open nothing after this."""

_PEOPLE_MAY: Final = ("manage:policies", "read:*")


@dataclass(frozen=True, slots=True)
class Refusals:
    """What the run has tried in vain, each with what the service says of it."""

    own_draft: str = ""
    forbidden: str = ""


@contextlib.contextmanager
def keys(cf: Counterfoil, brief: Brief) -> Iterator[dict[str, str]]:
    """Make a key for everybody who takes part; yields them by name, and revokes them in the end.

    Raises:
        CounterfoilError: the caller may not make keys, or not such keys.
    """
    consumer = vocabulary.consumer_name(brief.run_id, words.POLICY_AGENT)
    wanted: tuple[tuple[KeyKind, str, tuple[str, ...]], ...] = (
        ("agent", words.RISK_AGENT, ("append:*", "read:*")),
        ("agent", words.UNDERWRITER, ("append:*", "read:*")),
        (
            "agent",
            words.POLICY_AGENT,
            (f"decide:{brief.policy}", f"consume:{consumer}", "read:*"),
        ),
        ("person", words.AUTHOR, _PEOPLE_MAY),
        ("person", words.APPROVER, _PEOPLE_MAY),
    )
    expires_at = datetime.now(UTC) + timedelta(hours=KEY_HOURS)
    texts = {}
    with contextlib.ExitStack() as revoking:
        for kind, name, scopes in wanted:
            key = cf.keys.create(kind=kind, name=name, scopes=scopes, expires_at=expires_at)
            revoking.callback(_revoke, cf, key, brief.run_id)
            texts[name] = key.reveal()
        yield texts


def _revoke(cf: Counterfoil, key: CreatedKey, run_id: str) -> None:
    # Of a service that is gone, nothing can be revoked, and the run has said so.
    with contextlib.suppress(CounterfoilError):
        cf.keys.revoke(key, reason=f"Run {run_id} of the credit demo is over.")


@contextlib.contextmanager
def consumer(cf: Counterfoil, brief: Brief) -> Iterator[None]:
    """The consumer that hands the policy agent what is complete, and what was corrected.

    Deleted in the end: the book may be somebody else's.

    Raises:
        CounterfoilError: it could not be made.
    """
    name = vocabulary.consumer_name(brief.run_id, words.POLICY_AGENT)
    of_run = vocabulary.run_tag(brief.run_id)
    try:
        cf.consumers.put(
            name,
            query=[
                QueryItem(types=words.COMPLETED, tags=of_run),
                QueryItem(agents=words.UNDERWRITER, tags=of_run),
            ],
            start="now",
            order_by=SUBJECT,
        )
        yield
    finally:
        with contextlib.suppress(CounterfoilError):
            cf.consumers.delete(name, dead_letters="drop")


@dataclass(slots=True)
class Publisher:
    """The two people who publish the policy, each with a client of their own.

    Attributes:
        own_draft: what the author was told who wanted to activate the own draft.
    """

    portfolio: Portfolio
    brief: Brief
    author: Counterfoil
    approver: Counterfoil
    own_draft: str = field(default="", init=False)

    def first(self) -> None:
        """Publish the policy as it is shipped. Its author cannot put it in force alone.

        Raises:
            CounterfoilError: it could not be published.
            Failure: the author was let.
        """
        reason = "The policy as it is shipped."
        drafted = self.author.policies.draft(self.brief.policy, self.portfolio.policy)
        try:
            self.author.policies.activate(self.brief.policy, drafted.version, reason=reason)
        except FourEyes as refusal:
            self.own_draft = refusal.detail or str(refusal)
        else:
            raise Failure("The author of the policy was let put it in force alone.")
        self.approver.policies.activate(self.brief.policy, drafted.version, reason=reason)

    def second(self) -> None:
        """Publish the second version, in which one threshold is another."""
        drafted = self.author.policies.draft(self.brief.policy, self.portfolio.amended())
        self.approver.policies.activate(
            self.brief.policy, drafted.version, reason=self.portfolio.amendment.reason
        )

    def trespass(self) -> Refusals:
        """Try to publish a version that reads what no rule may read.

        Raises:
            Failure: it was taken.
        """
        try:
            self.author.policies.draft(self.brief.policy, self.portfolio.trespassing())
        except PolicyRefused as refusal:
            first = refusal.errors[0]
            return Refusals(self.own_draft, f"{first.pointer}: {first.message}")
        raise Failure(f"A policy that reads {self.portfolio.forbidden} was taken.")


def rules(portfolio: Portfolio) -> Mapping[str, Mapping[str, Any]]:
    """What all versions of a portfolio's policy read: the second one moves a threshold only."""
    reads: Mapping[str, Mapping[str, Any]] = portfolio.policy["reads"]
    return reads
