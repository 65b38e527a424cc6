"""``cf.policies`` and ``cf.decisions``: by what rules it is decided, and what was decided.

The blocking shell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from counterfoil.client import decision_requests
from counterfoil.client.control_requests import ROWS_DEFAULT
from counterfoil.client.decision_model import (
    Decision,
    DraftedPolicy,
    Explanation,
    PolicySummary,
    PolicyVersion,
    Replay,
)
from counterfoil.client.requests import Order
from counterfoil.client.sync_transport import SyncTransport


class Policies:
    """The calls about policies; reached as ``policies`` of a client.

    A policy has versions, which never change. At most one of them is active: it decides. Whoever
    drafted it cannot activate it.
    """

    def __init__(self, transport: SyncTransport) -> None:
        self._transport = transport

    def draft(
        self, name: str, document: Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> DraftedPolicy:
        """Keep a policy as its next version, a draft, which decides nothing yet.

        It is judged, and its own examples are run, before it is kept. Where the newest version
        has this very document, that one is answered, so this can be called at every start of a
        program.

        >>> cf.policies.draft("credit", document)
        DraftedPolicy(name='credit', version=3, state='draft', …)

        Args:
            name: lower-case letters, digits, dots, dashes and underscores; up to 64.
            document: the policy: what it reads, its rules, outcomes and examples.
            idempotency_key: as of ``events.append``.

        Raises:
            PolicyRefused: it may not be published; ``errors`` says why.
            PermissionDenied: the key has no ``manage:policies``.
            CounterfoilError: as ``events.append``.
        """
        return self._transport.run(
            decision_requests.draft(name, document, idempotency_key=idempotency_key)
        )

    def activate(
        self, name: str, version: int, *, reason: str, idempotency_key: str | None = None
    ) -> PolicyVersion:
        """Let a version decide from this event on; the one that did so is retired.

        A version that is active already is left as it is.

        >>> cf.policies.activate("credit", 3, reason="The risk board agreed on 3 March.")
        PolicyVersion(name='credit', version=3, state='active', …)

        Args:
            name: the policy.
            version: its version.
            reason: why, in a sentence; it stands in the book.
            idempotency_key: as of ``events.append``.

        Raises:
            FourEyes: the caller drafted it; somebody else has to activate it.
            PolicyNotFound: there is no such version.
            PermissionDenied: the key has no ``manage:policies``.
            CounterfoilError: as ``events.append``.
        """
        return self._transport.run(
            decision_requests.activate(
                name, version, reason=reason, idempotency_key=idempotency_key
            )
        )

    def retire(
        self, name: str, *, reason: str, idempotency_key: str | None = None
    ) -> PolicyVersion:
        """Let a policy decide no more. Its versions and its decisions stay in the book.

        >>> cf.policies.retire("credit", reason="The product is not offered any more.")
        PolicyVersion(name='credit', version=3, state='retired', …)

        Args:
            name: the policy.
            reason: why, in a sentence; it stands in the book.
            idempotency_key: as of ``events.append``.

        Returns:
            The version that was active.

        Raises:
            PolicyNotActive: none of its versions is active.
            PolicyNotFound: there is no policy of this name.
            PermissionDenied: the key has no ``manage:policies``.
            CounterfoilError: as ``events.append``.
        """
        return self._transport.run(
            decision_requests.retire(name, reason=reason, idempotency_key=idempotency_key)
        )

    def get(self, name: str, *, version: int | None = None) -> PolicyVersion:
        """Return a version of a policy with its document: the active one, or another.

        >>> cf.policies.get("credit").policy["subject"]
        'application'

        Raises:
            PolicyNotActive: none of its versions is active, and no other was asked for.
            PolicyNotFound: there is no policy of this name, or no such version.
        """
        return self._transport.run(decision_requests.get_policy(name, version))

    def versions(self, name: str) -> tuple[PolicyVersion, ...]:
        """Return all versions of a policy, the newest first, without their documents.

        >>> for version in cf.policies.versions("credit"):
        ...     print(version.version, version.state, version.drafted_by, version.activated_by)

        Raises:
            PolicyNotFound: there is no policy of this name.
        """
        return self._transport.run(decision_requests.policy_versions(name))

    def list(self, *, limit: int = ROWS_DEFAULT) -> Iterator[PolicySummary]:
        """Iterate over the policies, each with its active version.

        >>> for policy in cf.policies.list():
        ...     print(policy.name, policy.active_version)

        Args:
            limit: policies of one *page*, up to 1,000; the iteration goes through all pages.
        """
        return self._transport.each(decision_requests.policies(limit))


class Decisions:
    """The calls about decisions; reached as ``decisions`` of a client.

    A decision is made by ``decide`` of the client.
    """

    def __init__(self, transport: SyncTransport) -> None:
        self._transport = transport

    def get(self, decision: int | Decision) -> Decision:
        """Return a decision, with whether it stands.

        >>> cf.decisions.get(58).state
        'standing'

        Args:
            decision: its id, or a ``Decision``.

        Raises:
            DecisionNotFound: there is none with this id.
        """
        return self._transport.run(decision_requests.get_decision(decision))

    def list(
        self,
        *,
        policy: str | None = None,
        subject: str | None = None,
        order: Order = "asc",
        limit: int = ROWS_DEFAULT,
    ) -> Iterator[Decision]:
        """Iterate over decisions, through all pages, as of one head.

        >>> for decision in cf.decisions.list(subject="application:42", order="desc"):
        ...     print(decision.id, decision.outcome)

        Args:
            policy: only by this policy.
            subject: only about this subject.
            order: ``"asc"``, oldest first, or ``"desc"``.
            limit: decisions of one *page*, up to 1,000; the iteration goes through all pages.
        """
        return self._transport.each(decision_requests.decisions(policy, subject, order, limit))

    def replay(self, decision: int | Decision, *, version: int | None = None) -> Replay:
        """Decide again what was decided, from its record alone, and say what differs.

        Nothing is written. Under another ``version`` it answers: what if?

        >>> cf.decisions.replay(58).identical
        True
        >>> cf.decisions.replay(58, version=4).recomputed.outcome
        'approve'

        Args:
            decision: its id, or a ``Decision``.
            version: the policy's version; by default the one that it was decided by.

        Raises:
            DecisionNotFound: there is none with this id.
            PolicyNotFound: there is no such version.
        """
        return self._transport.run(decision_requests.replay(decision, version))

    def explain(self, decision: int | Decision) -> Explanation:
        """Return why a decision is what it is: signals, inputs, rows, and what to tell whom.

        >>> print(cf.decisions.explain(58).text)

        Args:
            decision: its id, or a ``Decision``.

        Raises:
            DecisionNotFound: there is none with this id.
        """
        return self._transport.run(decision_requests.explain(decision))
