"""The four agents of the demo: each a process of its own, with the public client only.

    python -m counterfoil.cli.demo.agents scorer

Theory of operation. Each agent follows the book and answers what it sees with an event of
its own; nobody calls anybody. What an agent knows it has read in the book, up to the event
that it answers, so its judgement depends on the book and on nothing else. Every write has
an idempotency key made of the run, the deed and the transaction: whatever happens, a
transaction is scored once and decided once.

    poster ── transaction_posted ──▶ scorer ── risk_score ──▶ investigator
                   investigator ── clear_transaction, flag_transaction ──▶ approver
                                         approver ── approved, declined

The approver is where the product shows. It reads the flags of its transaction, decides,
and writes under the condition that no flag has been added since; if one has, the write is
refused, it reads again, and declines. Without the guard it reads, decides and writes, as
most agents do, and a flag that lands in between is never seen. ``conductor.py`` tells how
that race is made certain.
"""

import asyncio
import contextlib
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar, Final

from counterfoil import (
    AsyncCounterfoil,
    AsyncGuard,
    ConditionFailed,
    CounterfoilError,
    Event,
    QueryItem,
    Stored,
)
from counterfoil.cli.demo import policies, wire
from counterfoil.cli.demo import vocabulary as words
from counterfoil.cli.demo.transactions import Transaction
from counterfoil.cli.demo.wire import Brief, Wire
from counterfoil.cli.exits import ExitCode, failure_of, report_of_fault

RECONNECTS_MAX: Final = 5
"""How often an agent tries to get its stream back before it gives up."""

DECISIONS_AT_ONCE_MAX: Final = 16
"""Transactions that the approver works on at the same time; those at a gate come on top."""


class Agent:
    """What all four have: a name, the client, the brief, and the pipes to the conductor."""

    name: ClassVar[str]

    def __init__(self, cf: AsyncCounterfoil, brief: Brief, pipes: Wire) -> None:
        self.cf = cf
        self.brief = brief
        self.pipes = pipes
        self.run_tag = words.run_tag(brief.run_id)

    async def work(self) -> None:
        """Do what the book asks for, until cancelled. Some agents wait for orders only."""
        await asyncio.Event().wait()

    async def obey(self, command: dict[str, Any]) -> None:
        """Do what the conductor asks for."""
        raise RuntimeError(f"the {self.name} takes no commands, and got {command}")

    def key(self, deed: str, transaction_id: str) -> str:
        """The idempotency key of one deed: the same deed twice is written once."""
        return f"demo:{self.brief.run_id}:{deed}:{transaction_id}"


class Poster(Agent):
    """Writes what customers have paid, in the order in which it is told."""

    name = words.POSTER

    async def obey(self, command: dict[str, Any]) -> None:
        """Post one transaction."""
        payload = command["payload"]
        transaction_id = payload["transaction_id"]
        stored = await self.cf.events.append(
            agent_name=self.name,
            event_type=words.POSTED,
            payload=payload,
            occurred_at=command["occurred_at"],
            idempotency_key=self.key("post", transaction_id),
        )
        self.pipes.report(wire.POSTED, transaction_id, stored.id)


class Scorer(Agent):
    """Scores every posted transaction by velocity and amount, per card and per customer."""

    name = words.SCORER

    async def work(self) -> None:
        """Score in the order of the book, so that scores stand in that order too."""
        async with self.cf.events.follow(
            types=words.POSTED,
            tags=self.run_tag,
            after=self.brief.after,
            max_reconnects=RECONNECTS_MAX,
        ) as posted:
            async for event in posted:
                stored = await self.score(event)
                self.pipes.report(wire.SCORED, event.payload["transaction_id"], stored.id)

    async def score(self, posted: Event) -> Stored:
        """Score one transaction against what was posted before it."""
        transaction = Transaction.read(posted.payload, _time_of(posted))
        history = await self.related(posted)
        assessment = policies.assess(
            transaction, [Transaction.read(past.payload, _time_of(past)) for past in history]
        )
        return await self.cf.events.append(
            agent_name=self.name,
            event_type=words.SCORED,
            payload=_subject(posted)
            | {"score": assessment.score, "reasons": list(assessment.reasons)},
            occurred_at=transaction.occurred_at,
            caused_by=[posted],
            idempotency_key=self.key("score", transaction.transaction_id),
        )

    async def related(self, posted: Event) -> Sequence[Event]:
        """Earlier transactions of the same customer or the same card."""
        return await _latest_related(
            self.cf, words.POSTED, posted, policies.HISTORY_TRANSACTIONS_MAX
        )


class Investigator(Agent):
    """Looks at a score and at the scores before it; flags, or clears. Takes late tips."""

    name = words.INVESTIGATOR

    async def work(self) -> None:
        """Give a verdict on every scored transaction."""
        async with self.cf.events.follow(
            types=words.SCORED,
            tags=self.run_tag,
            after=self.brief.after,
            max_reconnects=RECONNECTS_MAX,
        ) as scored:
            async for event in scored:
                await self.judge(event)

    async def judge(self, scored: Event) -> None:
        """Flag or clear one transaction."""
        earlier = await _latest_related(self.cf, words.SCORED, scored, policies.HISTORY_SCORES_MAX)
        verdict = policies.investigate(
            scored.payload["score"],
            _time_of(scored),
            [policies.PastScore(past.payload["score"], _time_of(past)) for past in earlier],
        )
        event_type = words.FLAGGED if verdict.flagged else words.CLEARED
        stored = await self.say(event_type, scored, verdict.reason, deed="judge")
        self.pipes.report(
            wire.FLAGGED if verdict.flagged else wire.CLEARED,
            scored.payload["transaction_id"],
            stored.id,
        )

    async def obey(self, command: dict[str, Any]) -> None:
        """Take a cardholder's word: flag a transaction that was cleared before."""
        transaction_id = command["transaction_id"]
        clearances = self.cf.events.list(
            types=words.CLEARED, tags=words.transaction_tag(transaction_id)
        )
        async for clearance in clearances:
            stored = await self.say(words.FLAGGED, clearance, "cardholder_report", deed="flag")
            self.pipes.report(wire.FLAGGED_LATE, transaction_id, stored.id)

    async def say(self, event_type: str, about: Event, reason: str, *, deed: str) -> Stored:
        """Write one verdict."""
        return await self.cf.events.append(
            agent_name=self.name,
            event_type=event_type,
            payload=_subject(about) | {"reason": reason},
            caused_by=[about],
            idempotency_key=self.key(deed, about.payload["transaction_id"]),
        )


class Approver(Agent):
    """Approves what is cleared, unless it is flagged; declines the rest."""

    name = words.APPROVER

    def __init__(self, cf: AsyncCounterfoil, brief: Brief, pipes: Wire) -> None:
        super().__init__(cf, brief, pipes)
        self.gates = {transaction_id: asyncio.Event() for transaction_id in brief.gated}
        self.taken: set[str] = set()

    async def obey(self, command: dict[str, Any]) -> None:
        """Open the gate of one transaction."""
        self.gates[command["transaction_id"]].set()

    async def work(self) -> None:
        """Decide on every transaction at its first verdict; a later one finds it taken."""
        places = asyncio.Semaphore(DECISIONS_AT_ONCE_MAX)
        async with (
            self.cf.events.follow(
                types=[words.CLEARED, words.FLAGGED],
                tags=self.run_tag,
                after=self.brief.after,
                max_reconnects=RECONNECTS_MAX,
            ) as verdicts,
            asyncio.TaskGroup() as decisions,
        ):
            async for verdict in verdicts:
                transaction_id = verdict.payload["transaction_id"]
                if transaction_id in self.taken:
                    continue
                self.taken.add(transaction_id)
                # Whoever waits at a gate must not keep the others from going through.
                place = contextlib.nullcontext() if transaction_id in self.gates else places
                decisions.create_task(self.decide(verdict, place))

    async def decide(
        self, verdict: Event, place: contextlib.AbstractAsyncContextManager[None]
    ) -> None:
        """Approve or decline one transaction."""
        transaction_id = verdict.payload["transaction_id"]
        async with (
            place,
            self.cf.guard(tags=words.transaction_tag(transaction_id), types=words.FLAGGED) as flags,
        ):
            if not flags.events:
                await self.pass_gate(transaction_id, flags.head)
            while not flags.events:
                try:
                    stored = await self.approve(verdict, flags)
                except ConditionFailed as refusal:
                    self.pipes.report(wire.REFUSED, transaction_id, refusal.head)
                    await flags.refresh()
                else:
                    self.pipes.report(wire.APPROVED, transaction_id, stored.id)
                    return
            stored = await self.decline(verdict, flags)
            self.pipes.report(wire.DECLINED, transaction_id, stored.id)

    async def pass_gate(self, transaction_id: str, head: int) -> None:
        """Where a race is scheduled: say that the read is done, and wait to be let through."""
        gate = self.gates.get(transaction_id)
        if gate is not None:
            self.pipes.report(wire.READ, transaction_id, head)
            await gate.wait()

    async def approve(self, verdict: Event, flags: AsyncGuard) -> Stored:
        """Approve on the strength of what was read: with the guard, or as it is usually done."""
        approval: dict[str, Any] = {
            "agent_name": self.name,
            "event_type": words.APPROVED,
            "payload": _subject(verdict) | {"read_head": flags.head},
            "caused_by": [verdict],
            "idempotency_key": self.key("decide", verdict.payload["transaction_id"]),
        }
        if self.brief.guarded:
            return await flags.commit(**approval)
        return await self.cf.events.append(**approval)

    async def decline(self, verdict: Event, flags: AsyncGuard) -> Stored:
        """Decline because of the flags that were read. A flag is never taken back."""
        return await self.cf.events.append(
            agent_name=self.name,
            event_type=words.DECLINED,
            payload=_subject(verdict) | {"read_head": flags.head},
            caused_by=flags.events,
            idempotency_key=self.key("decide", verdict.payload["transaction_id"]),
        )


AGENTS: Final[dict[str, type[Agent]]] = {
    agent.name: agent for agent in (Poster, Scorer, Investigator, Approver)
}


def _subject(event: Event) -> dict[str, Any]:
    """The four ids that every event about a transaction bears, and that give its tags."""
    ids = ("run_id", "transaction_id", "customer_id", "card_id")
    return {name: event.payload[name] for name in ids}


def _time_of(event: Event) -> datetime:
    """When the payment was made that the event is about."""
    if event.occurred_at is None:
        raise ValueError(f"event {event.id} does not say when the payment was made")
    return event.occurred_at


async def _latest_related(
    cf: AsyncCounterfoil, event_type: str, event: Event, count: int
) -> Sequence[Event]:
    """The last ``count`` events of a type before ``event``, of its customer or its card."""
    found = cf.events.query(
        [
            QueryItem(types=event_type, tags=words.customer_tag(event.payload["customer_id"])),
            QueryItem(types=event_type, tags=words.card_tag(event.payload["card_id"])),
        ],
        before=event.id,
        order="desc",
        limit=count,
    )
    async for page in found.pages():
        return page.events
    return ()


# --- The process --------------------------------------------------------------------------


async def live(name: str) -> None:
    """Be one agent, until standard input closes. Raises what the agent's work raises."""
    pipes = await Wire.open(name)
    commands = pipes.commands()
    async with AsyncCounterfoil() as cf:
        agent = AGENTS[name](cf, Brief.read(await anext(commands)), pipes)

        async def obey_all() -> None:
            async for command in commands:
                await agent.obey(command)

        pipes.report(wire.READY)
        tasks = (asyncio.create_task(agent.work()), asyncio.create_task(obey_all()))
        ended, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for task in ended:
            task.result()


def main() -> int:
    """Be the agent that the command line names; return the process's exit code."""
    try:
        asyncio.run(live(sys.argv[1]))
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the conductor shows what is said here
        return _give_up(error)
    return ExitCode.OK


def _give_up(error: Exception) -> ExitCode:
    """Say why on standard error; of several tasks' errors, the first."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, CounterfoilError):
        failure = failure_of(error)
        sys.stderr.write(f"{failure.message}\n")
        return failure.code
    sys.stderr.write(f"{report_of_fault(error)}\n")
    return ExitCode.FAULT


if __name__ == "__main__":
    sys.exit(main())
