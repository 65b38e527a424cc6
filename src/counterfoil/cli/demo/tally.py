"""What a run came to: counted from the agents' reports, and held against two others.

A number on a screen proves nothing, so three accounts of the same run must agree: what was
foreseen before it (``schedule.py``), what the agents say they did (here), and what the
checker finds in the book (``check.py``), which knows neither of the others.
"""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from counterfoil.cli.demo import wire
from counterfoil.cli.demo.pipeline import Left
from counterfoil.cli.demo.schedule import Schedule
from counterfoil.cli.demo.vocabulary import SCORERS
from counterfoil.cli.demo.wire import Report

_KINDS: Final = (
    wire.POSTED,
    wire.SCORED,
    wire.FLAGGED,
    wire.FLAGGED_LATE,
    wire.CLEARED,
    wire.READ,
    wire.REFUSED,
    wire.APPROVED,
    wire.DECLINED,
    wire.NOTED,
    wire.HELD,
    wire.KILLED,
)

EVENTS_PER_REPORT: Final = frozenset(_KINDS) - {
    *(wire.READ, wire.REFUSED, wire.NOTED, wire.HELD, wire.KILLED)
}
"""The reports that tell of an event in the book."""


@dataclass(slots=True)
class Tally:
    """The transactions by what was done with them, as the agents report it.

    Attributes:
        done: by the kind of report.
        scored_by: by the copy of the scorer.
        again: those that were scored when they had been handed out before.
        killed: the copy that was killed.
        killed_after, taken_over_after: the seconds from the run's start until then.
        seconds: those until the last report.
    """

    done: dict[str, set[str]] = field(default_factory=lambda: {kind: set() for kind in _KINDS})
    scored_by: dict[str, set[str]] = field(
        default_factory=lambda: {each: set() for each in SCORERS}
    )
    again: set[str] = field(default_factory=set)
    killed: str = ""
    killed_after: float = 0.0
    taken_over_after: float = 0.0
    seconds: float = 0.0

    def take(self, report: Report, seconds: float = 0.0) -> None:
        """Count one report, that came so many seconds after the start."""
        self.seconds = seconds
        self.done[report.done].add(report.transaction_id)
        if report.done == wire.SCORED:
            self.scored_by.setdefault(report.process, set()).add(report.transaction_id)
            if report.attempt > 1:
                self.again.add(report.transaction_id)
            if report.transaction_id in self[wire.KILLED]:
                self.taken_over_after = seconds
        elif report.done == wire.KILLED:
            self.killed, self.killed_after = report.process, seconds

    @property
    def taken_over(self) -> set[str]:
        """What the killed copy had in hand, and another copy has scored."""
        others = [scored for copy, scored in self.scored_by.items() if copy != self.killed]
        return self[wire.HELD] & self.again & set().union(*others)

    def __getitem__(self, kind: str) -> set[str]:
        return self.done[kind]

    @property
    def decided(self) -> int:
        """Transactions that are approved or declined."""
        return len(self[wire.APPROVED] | self[wire.DECLINED])

    @property
    def events(self) -> int:
        """Events that the agents wrote."""
        return sum(len(self[kind]) for kind in EVENTS_PER_REPORT)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished run: the three accounts, and what they do not agree on.

    ``killed_at`` is the transaction at which a scorer had to be killed; empty: none had.
    ``left`` is what the consumers have left over, by agent.
    """

    run_id: str
    guarded: bool
    killed_at: str
    schedule: Schedule
    tally: Tally
    left: Mapping[str, Left]
    checked: dict[str, Any]

    @property
    def stopped(self) -> set[str]:
        """Flagged late and declined, by the book."""
        return set(self.checked["stopped"])

    @property
    def slipped(self) -> set[str]:
        """Flagged late and approved all the same, by the book."""
        return set(self.checked["slipped"])

    @property
    def undone(self) -> int:
        """Events that the consumers hand out, and that nobody has acknowledged."""
        return sum(left.unfinished + left.set_aside for left in self.left.values())

    @property
    def events_per_second(self) -> float:
        """Events that were written per second, from the first posting to the last decision."""
        return self.tally.events / self.tally.seconds

    def contradictions(self) -> Iterator[str]:
        """Everything that should agree and does not; nothing for a run as it must be."""
        tally, schedule = self.tally, self.schedule
        everything = schedule.flagged | schedule.cleared
        # The races are the late flags that must be. Others can only come from somebody who
        # writes into the same book during the run; they must be treated as the races are.
        raced = self.stopped if self.guarded else self.slipped
        expected = {
            wire.POSTED: everything,
            wire.SCORED: everything,
            wire.FLAGGED: schedule.flagged,
            wire.CLEARED: schedule.cleared,
            wire.READ: schedule.gated,
            wire.FLAGGED_LATE: schedule.gated,
            wire.REFUSED: raced if self.guarded else set(),
            wire.APPROVED: schedule.cleared - raced if self.guarded else schedule.cleared,
            wire.DECLINED: schedule.flagged | raced if self.guarded else schedule.flagged,
            wire.KILLED: {self.killed_at} if self.killed_at else set(),
        }
        for kind, transactions in expected.items():
            if tally[kind] != transactions:
                yield f"{kind}: " + _difference(transactions, tally[kind])
        if not schedule.gated <= raced:
            fate = "stopped" if self.guarded else "slipped past"
            yield f"raced, but not {fate}: {_listed(schedule.gated - raced)}"
        yield from self._contradictions_of_work()
        yield from self._contradictions_of_check()

    def _contradictions_of_work(self) -> Iterator[str]:
        """What was handed out is done; and what was in a dead hand, was done by another."""
        tally = self.tally
        if tally[wire.HELD] != tally.taken_over:
            yield "held, but not taken over: " + _listed(tally[wire.HELD] - tally.taken_over)
        for agent, left in self.left.items():
            if left.unfinished:
                yield f"{agent}: its consumer has {left.unfinished} events that are not done"
            if left.set_aside:
                yield f"{agent}: its consumer has set {left.set_aside} events aside"

    def _contradictions_of_check(self) -> Iterator[str]:
        """With the guard the book is good; without it, it has the slips and no other fault."""
        again = set(self.checked["handed_out_again"])
        if again != self.tally.again:
            yield "handed out again: " + _difference(self.tally.again, again)
        findings = self.checked["findings"]
        if self.guarded:
            yield from (f"{each['rule']}: {each['message']}" for each in findings)
            return
        others = [each for each in findings if each["rule"] != "late-flag"]
        yield from (f"{each['rule']}: {each['message']}" for each in others)
        found = len(findings) - len(others)
        if found != len(self.slipped):
            yield f"{len(self.slipped)} slipped past a flag, and the check names {found}"

    def document(self) -> dict[str, Any]:
        """The outcome as one JSON object."""
        contradictions = list(self.contradictions())
        return {
            "ok": not contradictions,
            "run_id": self.run_id,
            "guarded": self.guarded,
            "gated": len(self.schedule.gated),
            **{kind.replace("-", "_"): len(self.tally[kind]) for kind in _KINDS},
            "slipped": len(self.slipped),
            "scored_by": {copy: len(scored) for copy, scored in self.tally.scored_by.items()},
            "killed_copy": self.tally.killed or None,
            "handed_out_again": len(self.tally.again),
            "taken_over": len(self.tally.taken_over),
            "left": {agent: asdict(left) for agent, left in self.left.items()},
            "events": self.tally.events,
            "seconds": round(self.tally.seconds, 3),
            "events_per_second": round(self.events_per_second, 1),
            "contradictions": contradictions,
            "check": self.checked,
        }


def _difference(expected: AbstractSet[str], found: AbstractSet[str]) -> str:
    parts = []
    if expected - found:
        parts.append(f"missing {_listed(expected - found)}")
    if found - expected:
        parts.append(f"not foreseen {_listed(found - expected)}")
    return "; ".join(parts)


def _listed(transactions: AbstractSet[str], most: int = 5) -> str:
    names = sorted(transactions)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
