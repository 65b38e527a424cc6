"""The four agents of the demo: processes of their own, with the public client only.

    python -m counterfoil.cli.demo.agents scorer-1

Theory of operation. Nobody calls anybody. Each agent but the first is handed, by a consumer
of its own (``pipeline.py``), what the one before it wrote, and acknowledges it with an event
of its own: both in one step, so that nothing is done without its outcome, and no outcome is
written twice. What an agent knows it has read in the book, up to the event that it answers,
so its judgement depends on the book and on nothing else.

    poster ── transaction_posted ──▶ scorer, two copies ── risk_score ──▶ investigator
                   investigator ── clear_transaction, flag_transaction ──▶ approver
                                         approver ── approved, declined

Two places show the product. Of the scorer two copies run, and share the work: the payments of
one customer are handed out one after another, and those of a copy that is killed go to the
other. The approver reads the flags of its transaction, decides, and acknowledges under the
condition that no flag has been added since; if one has, that is refused, it reads again, and
declines. Without the guard it reads, decides and writes, as most agents do, and a flag that
lands in between is never seen. ``conductor.py`` tells how both are made certain.
"""

import asyncio
import sys
from collections.abc import Sequence
from typing import Any, Final

from counterfoil import (
    AsyncCounterfoil,
    AsyncGuard,
    AsyncHeldDelivery,
    ConditionFailed,
    Event,
    NewEvent,
)
from counterfoil.cli.demo import policies, wire
from counterfoil.cli.demo import vocabulary as words
from counterfoil.cli.demo.agent import (
    Agent,
    Worker,
    latest_before,
    subject,
    time_of,
    transaction_of,
)
from counterfoil.cli.demo.process import be_an_agent
from counterfoil.cli.demo.standstill import Standstill
from counterfoil.cli.demo.transactions import Transaction
from counterfoil.cli.demo.wire import Brief, Wire


class Poster(Agent[Brief]):
    """Writes what customers have paid, in the order in which it is told."""

    name = words.POSTER

    async def obey(self, command: dict[str, Any]) -> None:
        """Post some transactions, all or none."""
        posted = [NewEvent(agent_name=self.name, **payment) for payment in command["payments"]]
        ids = [event.payload["transaction_id"] for event in posted]
        stored = await self.cf.events.append_batch(posted, idempotency_key=self.key("post", ids[0]))
        for transaction_id, position in zip(ids, stored.ids, strict=True):
            self.pipes.report(wire.POSTED, transaction_id, position)


class Scorer(Worker[Brief]):
    """Scores every posted transaction by velocity and amount, per card and per customer."""

    name = words.SCORER
    at_once_max = 4

    def __init__(self, cf: AsyncCounterfoil, brief: Brief, pipes: Wire) -> None:
        super().__init__(cf, brief, pipes)
        self.standstill = Standstill(brief.killed_at, pipes)

    async def handle(self, delivery: AsyncHeldDelivery) -> None:
        """Score one transaction against what was posted before it."""
        posted = delivery.event
        transaction = Transaction.read(posted.payload, time_of(posted))
        related = await latest_before(
            self.cf,
            posted,
            words.POSTED,
            words.customer_tag(transaction.customer_id),
            words.card_tag(transaction.card_id),
            count=policies.HISTORY_TRANSACTIONS_MAX,
        )
        assessment = policies.assess(
            transaction, [Transaction.read(past.payload, time_of(past)) for past in related]
        )
        score = NewEvent(
            agent_name=self.name,
            event_type=words.SCORED,
            payload=subject(posted)
            | {"score": assessment.score, "reasons": list(assessment.reasons)},
            occurred_at=transaction.occurred_at,
            caused_by=[posted],
            context={"copy": self.pipes.process, "attempt": delivery.attempt},
        )
        async with self.standstill.passed_by(transaction.transaction_id):
            await self.finish(delivery, wire.SCORED, score)

    async def obey(self, command: dict[str, Any]) -> None:
        """Go on, or do not stand still at all."""
        self.standstill.end(command["transaction_id"])


class Investigator(Worker[Brief]):
    """Looks at a score and at the scores before it; flags, or clears. Takes late tips."""

    name = words.INVESTIGATOR
    at_once_max = 8

    async def handle(self, delivery: AsyncHeldDelivery) -> None:
        """Flag or clear one transaction."""
        scored = delivery.event
        earlier: Sequence[Event] = ()
        if policies.is_in_doubt(scored.payload["score"]):
            earlier = await latest_before(
                self.cf,
                scored,
                words.SCORED,
                words.customer_tag(scored.payload["customer_id"]),
                count=policies.HISTORY_SCORES_MAX,
            )
        verdict = policies.investigate(
            scored.payload["score"],
            time_of(scored),
            [policies.PastScore(past.payload["score"], time_of(past)) for past in earlier],
        )
        if verdict.flagged:
            await self.finish(delivery, wire.FLAGGED, self.flag(scored, verdict.reason))
        else:
            await self.finish(delivery, wire.CLEARED, self.clearance(scored, verdict.reason))

    async def obey(self, command: dict[str, Any]) -> None:
        """Take a cardholder's word: flag a transaction that was cleared before."""
        transaction_id = command["transaction_id"]
        clearances = self.cf.events.list(
            types=words.CLEARED, tags=words.transaction_tag(transaction_id)
        )
        async for clearance in clearances:
            stored = await self.cf.events.append_batch(
                [self.flag(clearance, "cardholder_report")],
                idempotency_key=self.key("flag", transaction_id),
            )
            self.pipes.report(wire.FLAGGED_LATE, transaction_id, stored.ids[0])

    def flag(self, about: Event, reason: str) -> NewEvent:
        """Say that something is wrong with a transaction."""
        return self.verdict(words.FLAGGED, about, reason)

    def clearance(self, about: Event, reason: str) -> NewEvent:
        """Say that nothing is."""
        return self.verdict(words.CLEARED, about, reason)

    def verdict(self, event_type: str, about: Event, reason: str) -> NewEvent:
        """Say what follows from an event."""
        return NewEvent(
            agent_name=self.name,
            event_type=event_type,
            payload=subject(about) | {"reason": reason},
            caused_by=[about],
        )


class Approver(Worker[Brief]):
    """Approves what is cleared, unless it is flagged; declines the rest."""

    name = words.APPROVER
    at_once_max = 16

    def __init__(self, cf: AsyncCounterfoil, brief: Brief, pipes: Wire) -> None:
        super().__init__(cf, brief, pipes)
        self.gates = {transaction_id: asyncio.Event() for transaction_id in brief.gated}

    async def handle(self, delivery: AsyncHeldDelivery) -> None:
        """Decide on a transaction at its first verdict; at a later one, find it decided."""
        transaction_id = transaction_of(delivery.event)
        async with self.cf.guard(
            tags=words.transaction_tag(transaction_id),
            types=[words.FLAGGED, words.APPROVED, words.DECLINED],
        ) as seen:
            if not seen.events:
                await self.pass_gate(transaction_id, seen.head)
            while not delivery.settled:
                try:
                    await self.decide(delivery, seen)
                except ConditionFailed as refusal:
                    self.pipes.report(wire.REFUSED, transaction_id, refusal.head)
                    await seen.refresh()  # It is still in hand: look again, decide again.

    async def decide(self, delivery: AsyncHeldDelivery, seen: AsyncGuard) -> None:
        """Acknowledge with what follows from what was read."""
        flags = [event for event in seen.events if event.event_type == words.FLAGGED]
        if len(flags) < len(seen.events):
            await delivery.done()
            self.pipes.report(wire.NOTED, transaction_of(delivery.event), seen.head)
        elif flags:
            # A flag is never taken back, so nothing can have come in between.
            declined = self.decision(words.DECLINED, delivery.event, seen, caused_by=flags)
            await self.finish(delivery, wire.DECLINED, declined)
        else:
            # With the guard; or as it is usually done.
            condition = seen.condition if self.brief.guarded else None
            approved = self.decision(
                words.APPROVED, delivery.event, seen, caused_by=[delivery.event]
            )
            await self.finish(delivery, wire.APPROVED, approved, condition)

    def decision(
        self, event_type: str, verdict: Event, seen: AsyncGuard, caused_by: list[Event]
    ) -> NewEvent:
        """Say what is decided, on what, and how far the book had been read."""
        return NewEvent(
            agent_name=self.name,
            event_type=event_type,
            payload=subject(verdict) | {"read_head": seen.head},
            caused_by=caused_by,
        )

    async def obey(self, command: dict[str, Any]) -> None:
        """Open the gate of one transaction."""
        self.gates[command["transaction_id"]].set()

    async def pass_gate(self, transaction_id: str, head: int) -> None:
        """Where a race is scheduled: say that the read is done, and wait to be let through."""
        gate = self.gates.get(transaction_id)
        if gate is not None:
            self.pipes.report(wire.READ, transaction_id, head)
            await gate.wait()


AGENTS: Final[dict[str, type[Agent[Brief]]]] = {
    agent.name: agent for agent in (Poster, Scorer, Investigator, Approver)
}


def made(process: str, cf: AsyncCounterfoil, brief: dict[str, Any], pipes: Wire) -> Agent[Brief]:
    """The agent that a process is."""
    return AGENTS[words.PROCESSES[process]](cf, Brief.read(brief), pipes)


if __name__ == "__main__":
    sys.exit(be_an_agent(made))
