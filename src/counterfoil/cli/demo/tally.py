"""What a run came to: counted from the agents' reports, and held against two others.

A number on a screen proves nothing, so three accounts of the same run must agree: what was
foreseen before it (``schedule.py``), what the agents say they did (here), and what the
checker finds in the book (``check.py``), which knows neither of the others.
"""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Final

from counterfoil.cli.demo import wire
from counterfoil.cli.demo.schedule import Schedule
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
)

EVENTS_PER_REPORT: Final = frozenset(_KINDS) - {wire.READ, wire.REFUSED}
"""The reports that tell of an event in the book."""


@dataclass(slots=True)
class Tally:
    """The transactions by what was done with them, as the agents report it."""

    done: dict[str, set[str]] = field(default_factory=lambda: {kind: set() for kind in _KINDS})

    def take(self, report: Report) -> None:
        """Count one report."""
        self.done[report.done].add(report.transaction_id)

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
    """A finished run: the three accounts, and what they do not agree on."""

    run_id: str
    guarded: bool
    schedule: Schedule
    tally: Tally
    seconds: float
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
    def events_per_second(self) -> float:
        """Events that were written per second, from the first posting to the last decision."""
        return self.tally.events / self.seconds

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
        }
        for kind, transactions in expected.items():
            if tally[kind] != transactions:
                yield f"{kind}: " + _difference(transactions, tally[kind])
        if not schedule.gated <= raced:
            fate = "stopped" if self.guarded else "slipped past"
            yield f"raced, but not {fate}: {_listed(schedule.gated - raced)}"
        yield from self._contradictions_of_check()

    def _contradictions_of_check(self) -> Iterator[str]:
        """With the guard the book is good; without it, it has the slips and no other fault."""
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
            "events": self.tally.events,
            "seconds": round(self.seconds, 3),
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
