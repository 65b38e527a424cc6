"""The check of the credit demo's book: what must hold of its decisions, from the events alone.

It asks neither the service nor the agents what they did. It sees the events, and what the policy
says that it reads; which inputs follow from which events it works out by itself, so that it does
not repeat a mistake of the service.

Over each decision
  stale      nothing that its policy reads was written about its subject after it had read (its
             `head`) and before it was written
  inputs     its inputs, and the events that it says they came from, are those that follow from
             the events up to its `head`
  version    it was made by the version that was in force when it was written, and since it read

Over each application
  standing   exactly one decision stands: the first takes nobody's place, each later one that of
             the one before it
  overtaken  nothing that its policy reads was written after the decision that stands
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

from counterfoil import Event
from counterfoil.cli.demo.credit.words import DECISION_MADE, POLICY_ACTIVATED


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken rule, and the position of the event that breaks it."""

    rule: str
    position: int | None
    message: str


@dataclass(frozen=True, slots=True)
class Report:
    """What the check saw.

    Attributes:
        decisions: all of them.
        superseded: those whose place another one took.
        by_version: how many were made by each version of the policy.
        standing: by subject, the decision that stands, as its event's payload.
        positions: by subject, where that one is in the book.
        findings: what is wrong.
    """

    decisions: tuple[int, ...]
    superseded: int
    by_version: dict[int, int]
    standing: Mapping[str, Mapping[str, Any]]
    positions: Mapping[str, int]
    findings: tuple[Finding, ...]

    def document(self) -> dict[str, Any]:
        """The report as one JSON object."""
        return {
            "ok": not self.findings,
            "decisions": len(self.decisions),
            "superseded": self.superseded,
            "findings": [asdict(one) for one in self.findings],
        }


@dataclass(frozen=True, slots=True)
class _Activation:
    position: int
    version: int
    digest: str


def check(
    events: Iterable[Event], *, reads: Mapping[str, Mapping[str, Any]], subjects: Collection[str]
) -> Report:
    """Judge what a policy has decided about some subjects.

    Args:
        events: those about the subjects, and those that activate versions of the policy, in the
            order of their positions. Others are passed over.
        reads: what all versions of the policy read.
        subjects: about which each must have a decision.
    """
    known = set(subjects)
    signals: defaultdict[str, list[Event]] = defaultdict(list)
    decisions: defaultdict[str, list[Event]] = defaultdict(list)
    activations: list[_Activation] = []
    for event in events:
        if event.event_type == POLICY_ACTIVATED:
            told = event.payload
            activations.append(_Activation(event.id, told["version"], told["digest"]))
        elif event.event_type == DECISION_MADE:
            decisions[event.payload["subject"]].append(event)
        else:
            for tag in known.intersection(event.tags):
                signals[tag].append(event)
    findings: list[Finding] = []
    standing, positions = {}, {}
    by_version: defaultdict[int, int] = defaultdict(int)
    for about in subjects:
        made, seen = decisions[about], signals[about]
        findings += _judge_chain(about, made)
        for decision in made:
            by_version[decision.payload["version"]] += 1
            findings += _judge_decision(decision, seen, reads, activations)
        if made:
            standing[about], positions[about] = made[-1].payload, made[-1].id
            findings += _judge_end(made[-1], seen, reads)
    return Report(
        decisions=tuple(sorted(one.id for about in subjects for one in decisions[about])),
        superseded=sum(len(decisions[about]) - 1 for about in subjects if decisions[about]),
        by_version=dict(sorted(by_version.items())),
        standing=standing,
        positions=positions,
        findings=tuple(findings),
    )


# --- The rules ------------------------------------------------------------------------


def _judge_chain(about: str, made: Sequence[Event]) -> Iterator[Finding]:
    if not made:
        yield Finding("standing", None, f"{about} has no decision.")
    before: Event | None = None
    for decision in made:
        named = (decision.payload["supersedes"] or {}).get("decision")
        expected = None if before is None else before.id
        if named != expected:
            yield Finding(
                "standing",
                decision.id,
                f"The decision at {decision.id} about {about} takes the place of {named}, and that "
                f"of {expected} was to be taken.",
            )
        before = decision


def _judge_decision(
    decision: Event,
    seen: Sequence[Event],
    reads: Mapping[str, Mapping[str, Any]],
    activations: Sequence[_Activation],
) -> Iterator[Finding]:
    told = decision.payload
    for event in seen:
        if told["head"] < event.id < decision.id and _is_read(event, reads):
            yield Finding(
                "stale",
                decision.id,
                f"The decision at {decision.id} had read up to {told['head']}, and stands on what "
                f"`{event.event_type}` at {event.id} changed before it.",
            )
    inputs, sources = _inputs(told, seen, reads)
    taken = {name: list(ids) for name, ids in told["signals"].items()}
    if (inputs, sources) != (told["inputs"], taken):
        names = sorted(
            name
            for name in {*inputs, *told["inputs"]}
            if (inputs.get(name), sources.get(name)) != (told["inputs"].get(name), taken.get(name))
        )
        yield Finding(
            "inputs",
            decision.id,
            f"The decision at {decision.id} has other inputs than the book had up to "
            f"{told['head']}: {', '.join(names)}.",
        )
    yield from _judge_version(decision, activations)


def _judge_version(decision: Event, activations: Sequence[_Activation]) -> Iterator[Finding]:
    told = decision.payload
    in_force = [one for one in activations if one.position < decision.id]
    if not in_force or (told["version"], told["digest"]) != (
        in_force[-1].version,
        in_force[-1].digest,
    ):
        yield Finding(
            "version",
            decision.id,
            f"The decision at {decision.id} was made by version {told['version']}, which was not in "
            "force.",
        )
    elif in_force[-1].position > told["head"]:
        yield Finding(
            "version",
            decision.id,
            f"The decision at {decision.id} had read up to {told['head']}, before its version came "
            "into force.",
        )


def _judge_end(
    last: Event, seen: Sequence[Event], reads: Mapping[str, Mapping[str, Any]]
) -> Iterator[Finding]:
    for event in seen:
        if event.id > last.id and _is_read(event, reads):
            yield Finding(
                "overtaken",
                last.id,
                f"The decision at {last.id} still stands, and `{event.event_type}` at {event.id} has "
                "changed what it rests on.",
            )


# --- What follows from the events -----------------------------------------------------

_ABSENT: Final = object()

_TOGETHER: Final[Mapping[str, Callable[[list[Any]], Any]]] = {
    "min": min,
    "max": max,
    "sum": sum,
    "any": any,
    "all": all,
    "list": list,
}


def _is_read(event: Event, reads: Mapping[str, Mapping[str, Any]]) -> bool:
    return any(_is_of(event, read) for read in reads.values())


def _is_of(event: Event, read: Mapping[str, Any]) -> bool:
    agents = read.get("agents")
    return event.event_type in read["types"] and (agents is None or event.agent_name in agents)


def _inputs(
    told: Mapping[str, Any], seen: Sequence[Event], reads: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """The inputs that follow from the events up to a decision's head, and their events."""
    as_of = datetime.fromisoformat(told["as_of"])
    inputs, sources = {}, {}
    for name, read in reads.items():
        oldest = read.get("max_age_seconds")
        events = [
            event
            for event in seen
            if event.id <= told["head"]
            and _is_of(event, read)
            and (oldest is None or (as_of - event.created_at).total_seconds() <= oldest)
        ]
        value, ids = _taken(read, events)
        if value is not _ABSENT:
            inputs[name], sources[name] = value, ids
    return inputs, sources


def _taken(read: Mapping[str, Any], events: Sequence[Event]) -> tuple[Any, list[int]]:
    """One input, and the ids of its events; ``_ABSENT`` where there is none."""
    how = read["take"]
    if how == "count":
        return len(events), [event.id for event in events]
    found = [(event.id, _at(event.payload, read["path"])) for event in events]
    found = [(event_id, value) for event_id, value in found if value is not _ABSENT]
    if not found:
        return _ABSENT, []
    if how == "latest":
        return found[-1][1], [found[-1][0]]
    if how == "first":
        return found[0][1], [found[0][0]]
    return _TOGETHER[how]([value for _, value in found]), [event_id for event_id, _ in found]


def _at(payload: Any, pointer: str) -> Any:
    value = payload
    for step in pointer.split("/")[1:]:
        if not isinstance(value, Mapping) or step not in value:
            return _ABSENT
        value = value[step]
    return _ABSENT if value is None else value
