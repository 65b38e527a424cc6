"""The checker of the demo's book: what must hold, judged from the events alone.

It shares no code with the agents but the names of their events, and believes none of
them: it sees only what anyone can read over HTTP or in an export. Two kinds of rule:

Over the whole book, event by event
  positions  1, 2, 3 … in this order, nothing missing and nothing twice
  time       `created_at` never decreases
  shape      every event has the fields that an event has

Over each transaction of the demo, once all events are in
  posted     posted exactly once, before anything else is said of it
  scored     scored exactly once
  judged     flagged or cleared exactly once on its score, by the investigator
  decided    approved or declined exactly once
  late-flag  no approval above a flag of its transaction; if the flag also lies above the
             head that the approver had read (`read_head`), it slipped past
  seen       every approval says what its author had read: what it rests on, and not itself
  grounds    a decline rests on a flag that was there
  causes     whatever is said of a transaction rests on earlier events of that transaction

Over each customer of the demo
  order      scored in the order of the postings, and judged in the order of the scores

An event belongs to the demo if its payload has a `run_id`, or if it speaks of a
transaction that such an event speaks of; other writers of the same book are left alone.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final, TypeGuard

from counterfoil.cli.demo.vocabulary import (
    APPROVED,
    CLEARED,
    DECLINED,
    EVENT_TYPES,
    FLAGGED,
    INVESTIGATOR,
    POSTED,
    SCORED,
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken rule. ``position`` is that of the offending event, where there is one."""

    rule: str
    position: int | None
    message: str


@dataclass(frozen=True, slots=True)
class Report:
    """What the checker saw.

    ``slipped`` and ``stopped`` are the transactions that were flagged after they had been
    cleared and before they were decided: approved all the same, or declined in time.
    ``handed_out_again`` are those whose score says that it was not the first attempt.
    """

    run_id: str | None
    events: int
    transactions: int
    counts: dict[str, int]
    slipped: tuple[str, ...]
    stopped: tuple[str, ...]
    handed_out_again: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def document(self) -> dict[str, Any]:
        """The report as one JSON object."""
        return {"ok": self.ok, **asdict(self)}


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the rules need of one event."""

    position: int
    agent: Any
    event_type: str
    transaction_id: str
    run_id: str | None
    customer_id: Any
    caused_by: tuple[int, ...]
    read_head: Any
    attempt: int


class Checker:
    """Takes the events of a book one after another, in the order in which it shows them."""

    def __init__(self) -> None:
        self._seen = 0
        self._last_position = 0
        self._last_time: datetime | None = None
        self._stories: defaultdict[str, list[_Entry]] = defaultdict(list)
        self._subjects: dict[int, str] = {}
        self._findings: list[Finding] = []

    def add(self, event: Any, *, where: str = "") -> None:
        """Judge one event against those before it, and file it for ``finish``.

        ``where`` says in the message where an event was found that has no position.
        """
        self._seen += 1
        position = event.get("id") if isinstance(event, Mapping) else None
        if not _is_position(position):
            self._find("shape", None, f"{where or 'An entry'} is no event with a position.")
            return
        self._check_position(position)
        self._check_time(position, event.get("created_at"))
        entry = self._entry(position, event)
        if entry is not None:
            self._stories[entry.transaction_id].append(entry)
            self._subjects[position] = entry.transaction_id

    def finish(self, *, run_id: str | None = None, head: int | None = None) -> Report:
        """Judge the transactions (of ``run_id`` only, if given) and report everything.

        ``head`` is the last position that the book itself claims, where that is known:
        without it nobody can tell whether the end is missing.
        """
        if head is not None and head != self._last_position:
            self._find(
                "positions",
                head,
                f"The book says that it ends at {head}, and shows {self._last_position} last.",
            )
        stories = {
            transaction_id: entries
            for transaction_id, entries in self._stories.items()
            if any(entry.run_id is not None and run_id in (None, entry.run_id) for entry in entries)
        }
        if not stories:
            which = f"of run {run_id} " if run_id else ""
            self._find("posted", None, f"The book holds no transaction {which}of the demo.")
        counts: Counter[str] = Counter(dict.fromkeys(EVENT_TYPES, 0))
        self._findings.extend(_judge_order(stories.values()))
        slipped, stopped, again = [], [], []
        for transaction_id, entries in stories.items():
            self._findings.extend(_judge(transaction_id, entries))
            self._findings.extend(self._judge_causes(entries))
            counts.update(entry.event_type for entry in entries)
            fate = _fate(entries)
            if fate == APPROVED:
                slipped.append(transaction_id)
            elif fate == DECLINED:
                stopped.append(transaction_id)
            if any(entry.event_type == SCORED and entry.attempt > 1 for entry in entries):
                again.append(transaction_id)
        return Report(
            run_id=run_id,
            events=self._seen,
            transactions=len(stories),
            counts=dict(counts),
            slipped=tuple(slipped),
            stopped=tuple(stopped),
            handed_out_again=tuple(again),
            findings=tuple(self._findings),
        )

    def _check_position(self, position: int) -> None:
        expected = self._last_position + 1
        if position > expected:
            missing = f"{expected}" if position == expected + 1 else f"{expected}..{position - 1}"
            self._find("positions", position, f"Before {position}, {missing} is missing.")
        elif position < expected:
            self._find(
                "positions", position, f"{position} comes after {self._last_position} or twice."
            )
        self._last_position = max(self._last_position, position)

    def _check_time(self, position: int, text: Any) -> None:
        try:
            moment = datetime.fromisoformat(text)
        except (TypeError, ValueError):
            moment = None
        if moment is None or moment.tzinfo is None:
            self._find("shape", position, f"{position} has no time with an offset: {text!r}.")
            return
        if self._last_time is not None and moment < self._last_time:
            self._find(
                "time",
                position,
                f"{position} was created at {text}, before the event in front of it.",
            )
        self._last_time = moment

    def _entry(self, position: int, event: Mapping[str, Any]) -> _Entry | None:
        """The event as the rules see it; None if it is not about a transaction."""
        payload, event_type = event.get("payload"), event.get("event_type")
        if not isinstance(payload, Mapping) or not isinstance(event_type, str):
            self._find("shape", position, f"{position} has no type or no payload object.")
            return None
        transaction_id, run_id = payload.get("transaction_id"), payload.get("run_id")
        if event_type not in EVENT_TYPES or not isinstance(transaction_id, str):
            return None
        causes = event.get("caused_by") or ()
        if not isinstance(causes, list | tuple) or not all(map(_is_position, causes)):
            self._find("shape", position, f"{position} has no list of positions as its causes.")
            causes = ()
        context = event.get("context")
        attempt = context.get("attempt") if isinstance(context, Mapping) else None
        return _Entry(
            position=position,
            agent=event.get("agent_name"),
            event_type=event_type,
            transaction_id=transaction_id,
            run_id=run_id if isinstance(run_id, str) else None,
            customer_id=payload.get("customer_id"),
            caused_by=tuple(causes),
            read_head=payload.get("read_head"),
            attempt=attempt if _is_position(attempt) else 1,
        )

    def _judge_causes(self, entries: Iterable[_Entry]) -> Iterator[Finding]:
        for entry in entries:
            position = entry.position
            if not entry.caused_by and entry.event_type != POSTED:
                yield Finding(
                    "causes", position, f"{entry.event_type} at {position} rests on nothing."
                )
            for cause in entry.caused_by:
                if cause >= position:
                    fault = "which is not earlier"
                elif self._subjects.get(cause) != entry.transaction_id:
                    fault = f"which is not about {entry.transaction_id}"
                else:
                    continue
                yield Finding(
                    "causes",
                    position,
                    f"{entry.event_type} at {position} rests on {cause}, {fault}.",
                )

    def _find(self, rule: str, position: int | None, message: str) -> None:
        self._findings.append(Finding(rule, position, message))


def check(events: Iterable[Any], *, run_id: str | None = None, head: int | None = None) -> Report:
    """Judge a whole book that is at hand. See ``Checker.finish`` for the arguments."""
    checker = Checker()
    for number, event in enumerate(events, start=1):
        checker.add(event, where=f"Entry {number}")
    return checker.finish(run_id=run_id, head=head)


_EXACTLY_ONCE: Final = (
    ("posted", (POSTED,)),
    ("scored", (SCORED,)),
    ("judged", (CLEARED, FLAGGED)),
    ("decided", (APPROVED, DECLINED)),
)


def _judge(transaction_id: str, entries: list[_Entry]) -> Iterator[Finding]:
    """The rules over one transaction's events but ``causes``, which needs the whole book."""
    first = min(entries, key=lambda entry: entry.position)
    scores = {entry.position for entry in entries if entry.event_type == SCORED}
    for rule, types in _EXACTLY_ONCE:
        found = [
            entry.position
            for entry in entries
            if entry.event_type in types and (rule != "judged" or _is_judgement(entry, scores))
        ]
        if not found:
            yield Finding(
                rule,
                first.position,
                f"{transaction_id} (first at {first.position}) is never {rule}.",
            )
        elif len(found) > 1:
            yield Finding(
                rule,
                found[-1],
                f"{transaction_id} is {rule} {len(found)} times, at {_listed(found)}.",
            )
        elif POSTED in types and found != [first.position]:
            yield Finding(
                rule,
                first.position,
                f"{first.event_type} at {first.position} speaks of {transaction_id}, "
                f"which is only {rule} at {found[0]}.",
            )
    flags = [entry.position for entry in entries if entry.event_type == FLAGGED]
    for entry in entries:
        if entry.event_type == APPROVED:
            yield from _judge_approval(entry, flags)
        elif entry.event_type == DECLINED and not any(flag < entry.position for flag in flags):
            yield Finding(
                "grounds",
                entry.position,
                f"{transaction_id} is declined at {entry.position}, and no flag lies before that.",
            )


def _is_judgement(entry: _Entry, scores: AbstractSet[int]) -> bool:
    """Whether it is the investigator's verdict on a score, and not a tip that came later."""
    return entry.agent == INVESTIGATOR and not scores.isdisjoint(entry.caused_by)


def _judge_order(stories: Iterable[list[_Entry]]) -> Iterator[Finding]:
    """The rule ``order``: each step of a customer's transactions goes as the step before it."""
    scorings: list[tuple[int, int, _Entry]] = []
    judgements: list[tuple[int, int, _Entry]] = []
    for entries in stories:
        found = {entry.event_type: entry for entry in reversed(entries)}
        posted, scored = found.get(POSTED), found.get(SCORED)
        if posted is None or scored is None:
            continue
        scorings.append((posted.position, scored.position, posted))
        for entry in entries:
            if entry.event_type in (CLEARED, FLAGGED) and _is_judgement(entry, {scored.position}):
                judgements.append((scored.position, entry.position, posted))
                break
    steps = (("scored", "posted", scorings), ("judged", "scored", judgements))
    for rule, before_it, step in steps:
        latest: dict[tuple[Any, Any], tuple[int, str]] = {}
        for before, position, posted in sorted(step, key=lambda taken: taken[1]):
            if not isinstance(posted.customer_id, str):
                continue
            customer = (posted.run_id, posted.customer_id)
            overtaker = latest.get(customer, (0, ""))
            if before < overtaker[0]:
                yield Finding(
                    "order",
                    position,
                    f"{posted.transaction_id} of {posted.customer_id} is {rule} at {position}, "
                    f"after {overtaker[1]}, which was {before_it} after it.",
                )
            latest[customer] = max(overtaker, (before, posted.transaction_id))


def _judge_approval(approval: _Entry, flags: list[int]) -> Iterator[Finding]:
    position, read_head = approval.position, approval.read_head
    grounds = max(approval.caused_by, default=0)
    head_is_possible = _is_position(read_head) and grounds <= read_head < position
    if not head_is_possible:
        yield Finding(
            "seen",
            position,
            f"The approval at {position} says that its author had read up to {read_head!r}, "
            "which cannot be.",
        )
    for flag in flags:
        if flag < position:
            known = head_is_possible and flag <= read_head
            yield Finding(
                "late-flag",
                position,
                f"{approval.transaction_id} is approved at {position}, above its flag at {flag}, "
                + (
                    "which its author had read."
                    if known
                    else f"which slipped past: its author had read up to {read_head!r}."
                ),
            )


def _fate(entries: Iterable[_Entry]) -> str | None:
    """How a transaction ended that was cleared, then flagged, then decided; else None."""
    expected = [CLEARED, FLAGGED]
    for entry in sorted(entries, key=lambda entry: entry.position):
        if expected and entry.event_type == expected[0]:
            expected.pop(0)
        elif entry.event_type in (APPROVED, DECLINED):
            return None if expected else entry.event_type
    return None


def _is_position(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _listed(positions: Iterable[int]) -> str:
    return ", ".join(map(str, positions))
