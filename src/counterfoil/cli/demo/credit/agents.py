"""The three agents of the credit demo: processes of their own, each with a key of its own.

    python -m counterfoil.cli.demo.credit.agents policy_agent

Theory of operation. The risk agent writes the signals of an application in one batch, and a last
event that says that the application is complete. That one a consumer hands to the policy agent,
which asks the service for a decision: the service reads the signals, applies the policy, and
writes the decision only if nothing of what it read has changed meanwhile. The underwriter writes
some signals anew, at the same time and under no condition at all. So one of three things is true
of each correction, and the policy agent finds out which:

* it came before the decision: the decision rests on it;
* it came between the service's read and its write: the service has read again, so the same;
* it came after: the policy agent decides anew, and the new decision names the one whose place it
  takes, and why.

The corrections are handed to the policy agent too, those of one application after its completion
and in their order. A delivery that comes twice is decided once: its event is the idempotency key.
"""

import asyncio
import sys
from collections.abc import Sequence
from typing import Any, Final

from counterfoil import AsyncCounterfoil, DecisionStands, Delivery, Event, NewEvent
from counterfoil.cli.demo import vocabulary
from counterfoil.cli.demo.agent import Agent
from counterfoil.cli.demo.credit import words
from counterfoil.cli.demo.credit.portfolios import subject
from counterfoil.cli.demo.credit.words import Brief
from counterfoil.cli.demo.process import be_an_agent
from counterfoil.cli.demo.wire import Wire

HANDS: Final = 2
"""While one waits for the last decisions of its dozens, the other has begun with its own."""

HANDED_AT_ONCE: Final = 24
"""Deliveries of one claim, which are decided at the same time."""

CLAIM_WAIT_SECONDS: Final = 20.0


class RiskAgent(Agent[Brief]):
    """Writes what is known of applicants, in the order in which it is told."""

    name = words.RISK_AGENT

    async def obey(self, command: dict[str, Any]) -> None:
        """Post the signals of some applications, all or none."""
        applications: dict[str, list[dict[str, Any]]] = command["applications"]
        events = [
            NewEvent(
                agent_name=self.name,
                event_type=signal["event_type"],
                payload={
                    "run_id": self.brief.run_id,
                    "application_id": own_id,
                    **signal["payload"],
                },
            )
            for own_id, signals in applications.items()
            for signal in signals
        ]
        first = next(iter(applications))
        await self.cf.events.append_batch(events, idempotency_key=self.key("post", first))
        for own_id in applications:
            self.pipes.report(words.POSTED, own_id)


class Underwriter(Agent[Brief]):
    """Looks at papers, and puts right what was written wrongly. Asks nobody whether it may."""

    name = words.UNDERWRITER

    async def obey(self, command: dict[str, Any]) -> None:
        """Write one signal anew, as it should have been; it names the one that was wrong."""
        own_id, signal = command["application_id"], command["signal"]
        found = self.cf.events.list(
            tags=subject(own_id), types=signal["event_type"], order="desc", limit=1
        )
        wrong = [page[0] async for page in found.pages() if len(page)][:1]
        stored = await self.cf.events.append(
            agent_name=self.name,
            event_type=signal["event_type"],
            payload={"run_id": self.brief.run_id, "application_id": own_id, **signal["payload"]},
            caused_by=wrong,
            idempotency_key=self.key("correct", own_id),
        )
        self.pipes.report(words.CORRECTED, own_id, stored.id)


class PolicyAgent(Agent[Brief]):
    """Decides what is complete, and decides anew what was corrected after it was decided.

    It is handed its work by the dozen, and says with each claim what it has done since the last.
    """

    name = words.POLICY_AGENT

    async def work(self) -> None:
        """Decide, with ``HANDS`` at once, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for hand in range(1, HANDS + 1):
                group.create_task(self._work(f"{self.pipes.process}-{hand}"))

    async def _work(self, holder: str) -> None:
        consumer = vocabulary.consumer_name(self.brief.run_id, self.name)
        done: Sequence[Delivery] = ()
        while True:
            claimed = await self.cf.consumers.claim(
                consumer,
                holder=holder,
                count=HANDED_AT_ONCE,
                wait_seconds=CLAIM_WAIT_SECONDS,
                done=done,
            )
            async with asyncio.TaskGroup() as group:
                for delivery in claimed:
                    group.create_task(self._handle(delivery))
            done = claimed.deliveries

    async def _handle(self, delivery: Delivery) -> None:
        """Decide about one application, or find that it need not be decided anew."""
        event = delivery.event
        own_id: str = event.payload["application_id"]
        try:
            decision = await self.cf.decide(
                self.brief.policy, subject(own_id), idempotency_key=self.key("decide", event.id)
            )
            done, position = words.DECIDED, decision.id
        except DecisionStands as standing:
            done, position = await self.look_again(own_id, event, standing)
        self.pipes.report(done, own_id, position, delivery.attempt)

    async def look_again(
        self, own_id: str, event: Event, standing: DecisionStands
    ) -> tuple[str, int]:
        """Decide anew, unless the decision that stands has been made with this event in sight."""
        decision = standing.decision
        if decision is None:
            raise standing
        if decision.head >= event.id:
            return words.SEEN, decision.id
        anew = await self.cf.decide(
            self.brief.policy,
            subject(own_id),
            supersedes=decision,
            reason=f"Event {event.id} corrects `{event.event_type}`, on which this decision rests.",
            # Handed out again, it would be asked first whether it stands, under the other key.
            idempotency_key=self.key("anew", event.id),
        )
        return words.ANEW, anew.id


AGENTS: Final[dict[str, type[Agent[Brief]]]] = {
    agent.name: agent for agent in (RiskAgent, Underwriter, PolicyAgent)
}


def made(process: str, cf: AsyncCounterfoil, brief: dict[str, Any], pipes: Wire) -> Agent[Brief]:
    """The agent that a process is."""
    return AGENTS[process](cf, Brief.read(brief), pipes)


if __name__ == "__main__":
    sys.exit(be_an_agent(made))
