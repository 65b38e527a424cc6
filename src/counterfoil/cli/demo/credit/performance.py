"""One run: the agents are started, applications come in, signals are corrected, rules change.

Theory of operation. Applications come in as fast as they are decided: so many are under way at
once (``UNDER_WAY_MAX``), and no more. That keeps the corrections in a race with the decisions: the
underwriter is told of the one kind as soon as the wrong signal is in the book, while the policy
agent is handed the same application. Of the other kind it is told when the decision stands, so
that there are certainly some that have to be decided anew.

When half of the applications are decided, the second version of the policy is published. Whatever
is being decided at that moment is decided by the one or by the other, and says by which. The last
quarter comes in when the version is in force, so that certainly some are decided by it.
"""

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from counterfoil.cli.demo.conductor import Company, company, ctrl_c_once
from counterfoil.cli.demo.credit import words
from counterfoil.cli.demo.credit.applicants import AT_ONCE, Applicant, Signal
from counterfoil.cli.demo.credit.applicants import DECIDED as WHEN_DECIDED
from counterfoil.cli.demo.credit.words import Brief
from counterfoil.cli.demo.wire import Report

UNDER_WAY_MAX: Final = 96
"""Applications that are posted and not decided yet: twice what the policy agent has in hand, so
that it never waits."""

POSTED_AT_ONCE: Final = 16
"""Applications that are written in one batch, of a dozen events at most each."""

_MODULE: Final = "counterfoil.cli.demo.credit.agents"
_KINDS: Final = (words.POSTED, words.DECIDED, words.CORRECTED, words.ANEW, words.SEEN)


@dataclass(slots=True)
class Tally:
    """The applications by what was done with them, as the agents report it.

    Attributes:
        done: by the kind of report.
        seconds: those from the start until the last report.
    """

    done: dict[str, set[str]] = field(default_factory=lambda: {kind: set() for kind in _KINDS})
    seconds: float = 0.0

    def take(self, report: Report, seconds: float) -> None:
        """Count one report, that came so many seconds after the start."""
        self.done[report.done].add(report.transaction_id)
        self.seconds = seconds

    def __getitem__(self, kind: str) -> set[str]:
        return self.done[kind]

    @property
    def decisions(self) -> int:
        """Decisions that were made, those that took another's place included."""
        return len(self[words.DECIDED]) + len(self[words.ANEW])

    @property
    def decisions_per_second(self) -> float:
        """Per second of the run, in which their signals were written as well."""
        return self.decisions / self.seconds if self.seconds else 0.0


async def perform(
    applicants: Sequence[Applicant],
    *,
    brief: Brief,
    keys: Mapping[str, str],
    environment: Mapping[str, str],
    at_half: Callable[[], Awaitable[None]],
    on_report: Callable[[Tally], None],
) -> Tally:
    """Let the agents write, decide and correct; return what they did.

    Args:
        applicants: who they are, in the order in which they come.
        brief: the run, and its policy, which is active.
        keys: by agent, the key that it calls with.
        environment: where the service is, and the key of whoever watches the run.
        at_half: called when half of them are decided.
        on_report: called after everything that is done.

    Raises:
        Failure: the run could not be finished.
        CounterfoilError: the service is gone.
        KeyboardInterrupt: Ctrl-C was pressed, and the agents have ended.
    """
    kind = {"module": _MODULE, "processes": words.PROCESSES, "keys": keys}
    with ctrl_c_once():
        async with company(environment, **kind) as agents:
            for name in words.PROCESSES:
                await agents.tell(name, brief.command())
            for _ in words.PROCESSES:
                await agents.next_report()  # ready
            return await _Run(applicants, agents, at_half, on_report).to_its_end()


class _Run:
    def __init__(
        self,
        applicants: Sequence[Applicant],
        agents: Company,
        at_half: Callable[[], Awaitable[None]],
        on_report: Callable[[Tally], None],
    ) -> None:
        self._agents = agents
        self._waiting = _batches(applicants)
        self._half = (len(applicants) + 1) // 2
        self._before_half = max(self._half, len(applicants) * 3 // 4)
        self._is_past_half = False
        self._at_half = at_half
        self._on_report = on_report
        self._number = len(applicants)
        self._sent = 0
        self._to_correct = {one.application_id: one for one in applicants if one.corrected}
        self._tally = Tally()

    async def to_its_end(self) -> Tally:
        """Take what is reported, and do what follows from it, until nothing is left to do."""
        began = time.monotonic()
        await self._post()
        while not self._is_over():
            report = await self._agents.next_report()
            self._tally.take(report, time.monotonic() - began)
            self._on_report(self._tally)
            await self._answer(report)
        return self._tally

    def _is_over(self) -> bool:
        """Whether everything is decided, and every correction is dealt with."""
        tally = self._tally
        dealt_with = tally[words.SEEN] | tally[words.ANEW]
        return len(tally[words.DECIDED]) == self._number and len(dealt_with) == len(
            self._to_correct
        )

    async def _answer(self, report: Report) -> None:
        own_id = report.transaction_id
        if report.done == words.POSTED:
            await self._correct(own_id, AT_ONCE)
        elif report.done == words.DECIDED:
            await self._correct(own_id, WHEN_DECIDED)
            if not self._is_past_half and len(self._tally[words.DECIDED]) >= self._half:
                await self._at_half()
                self._is_past_half = True
            await self._post()

    async def _post(self) -> None:
        """Let more applications come in, as far as there is room for them."""
        while self._sent - len(self._tally[words.DECIDED]) <= UNDER_WAY_MAX - POSTED_AT_ONCE:
            if self._sent >= self._before_half and not self._is_past_half:
                return
            batch = next(self._waiting, None)
            if batch is None:
                return
            self._sent += len(batch)
            await self._agents.tell(
                words.RISK_AGENT, {"command": words.POST, "applications": batch}
            )

    async def _correct(self, own_id: str, moment: str) -> None:
        applicant = self._to_correct.get(own_id)
        if applicant is None or applicant.corrected is None or applicant.moment != moment:
            return
        await self._agents.tell(
            words.UNDERWRITER,
            {
                "command": words.CORRECT,
                "application_id": own_id,
                "signal": _written(applicant.corrected),
            },
        )


def _batches(applicants: Sequence[Applicant]) -> Iterator[dict[str, list[dict[str, Any]]]]:
    """What the risk agent is told of at once: by application, its signals and their end."""
    end = Signal(words.COMPLETED, {})
    size = max(1, min(POSTED_AT_ONCE, len(applicants) // 4))
    for first in range(0, len(applicants), size):
        yield {
            one.application_id: [_written(signal) for signal in (*one.signals, end)]
            for one in applicants[first : first + size]
        }


def _written(signal: Signal) -> dict[str, Any]:
    return asdict(signal)
