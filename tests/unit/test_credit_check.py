"""The check of the credit demo: every fault that a book of decisions can have is found."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from counterfoil import Event
from counterfoil.cli.demo.credit.check import Report, check
from counterfoil.cli.demo.credit.words import DECISION_MADE, POLICY_ACTIVATED

BEGAN = datetime(2026, 1, 5, 8, tzinfo=UTC)
ABOUT = "application:1"
READS: dict[str, dict[str, Any]] = {
    "income": {
        "types": ["income_verified"],
        "take": "latest",
        "path": "/monthly",
        "max_age_seconds": 3_600,
    },
    "debt": {"types": ["obligation_recorded"], "take": "sum", "path": "/monthly"},
    "warnings": {"types": ["warned"], "agents": ["watch"], "take": "count"},
}


def event(position: int, event_type: str, payload: dict[str, Any], agent: str = "a") -> Event:
    return Event(
        id=position,
        agent_name=agent,
        event_type=event_type,
        payload=payload,
        tags=(ABOUT,),
        created_at=BEGAN + timedelta(seconds=position),
    )


def activated(position: int, version: int) -> Event:
    told = {"name": "p", "version": version, "digest": f"digest {version}"}
    return event(position, POLICY_ACTIVATED, told)


def decision(position: int, head: int, **told: Any) -> Event:
    record = {
        "subject": ABOUT,
        "version": 1,
        "digest": "digest 1",
        "kind": "approve",
        "supersedes": None,
        "head": head,
        "as_of": (BEGAN + timedelta(seconds=head, milliseconds=500)).isoformat(),
        **told,
    }
    return event(position, DECISION_MADE, record)


def good_book() -> list[Event]:
    """A decision, a correction, and the decision that takes the first one's place."""
    first = {
        "inputs": {"income": 30, "debt": 7, "warnings": 1},
        "signals": {"income": [2], "debt": [3, 4], "warnings": [5]},
    }
    anew = {
        "inputs": {"income": 300, "debt": 7, "warnings": 1},
        "signals": {"income": [9], "debt": [3, 4], "warnings": [5]},
        "supersedes": {"decision": 8, "reason": "It was a digit short."},
        "version": 2,
        "digest": "digest 2",
    }
    return [
        activated(1, 1),
        event(2, "income_verified", {"monthly": 30}),
        event(3, "obligation_recorded", {"monthly": 3}),
        event(4, "obligation_recorded", {"monthly": 4}),
        event(5, "warned", {}, agent="watch"),
        event(6, "warned", {}, agent="somebody"),
        event(7, "noted", {"monthly": 1}),
        decision(8, 7, **first),
        event(9, "income_verified", {"monthly": 300}),
        activated(10, 2),
        decision(11, 10, **anew),
        event(12, "noted", {}),
    ]


def judged(book: list[Event], *subjects: str) -> Report:
    ordered = sorted(book, key=lambda each: each.id)
    return check(ordered, reads=READS, subjects=subjects or (ABOUT,))


def told(book: list[Event], position: int, **changed: Any) -> list[Event]:
    """The book with other members in one payload."""
    return [
        replace(each, payload={**each.payload, **changed}) if each.id == position else each
        for each in book
    ]


def test_nothing_is_found_in_a_good_book() -> None:
    report = judged(good_book())

    assert report.findings == ()
    assert report.decisions == (8, 11)
    assert report.superseded == 1
    assert report.by_version == {1: 1, 2: 1}
    assert report.positions == {ABOUT: 11}
    assert report.standing[ABOUT]["inputs"]["income"] == 300


@dataclass(frozen=True)
class Bad:
    rule: str
    position: int | None
    spoilt: Callable[[list[Event]], list[Event]]


BAD = {
    "a signal came between read and write": Bad("stale", 8, lambda book: told(book, 8, head=4)),
    "an input is not what the book says": Bad(
        "inputs",
        8,
        lambda book: told(book, 8, inputs={"income": 31, "debt": 7, "warnings": 1}),
    ),
    "an input comes from another event": Bad(
        "inputs", 11, lambda book: told(book, 11, signals={"income": [2], "debt": [3, 4]})
    ),
    "an input is missing": Bad(
        "inputs", 8, lambda book: told(book, 8, inputs={"income": 30, "debt": 7})
    ),
    "a signal is older than it may be": Bad(
        "inputs",
        8,
        lambda book: told(book, 8, as_of=(BEGAN + timedelta(hours=2)).isoformat()),
    ),
    "a version that was not in force": Bad("version", 8, lambda book: told(book, 8, version=2)),
    "a version that says something else": Bad(
        "version", 8, lambda book: told(book, 8, digest="digest 2")
    ),
    "a version that came in between": Bad("version", 11, lambda book: told(book, 11, head=9)),
    "no version at all": Bad("version", 8, lambda book: book[1:]),
    "two decisions stand": Bad("standing", 11, lambda book: told(book, 11, supersedes=None)),
    "the place of another is taken": Bad(
        "standing", 11, lambda book: told(book, 11, supersedes={"decision": 7, "reason": "."})
    ),
    "the first one takes a place": Bad(
        "standing", 8, lambda book: told(book, 8, supersedes={"decision": 2, "reason": "."})
    ),
    "nothing is decided": Bad(
        "standing",
        None,
        lambda book: [each for each in book if each.event_type != DECISION_MADE],
    ),
    "a correction after the last decision": Bad(
        "overtaken", 11, lambda book: [*book, event(13, "income_verified", {"monthly": 1})]
    ),
    "a correction that nobody decided on": Bad("overtaken", 8, lambda book: book[:9]),
}


@pytest.mark.parametrize("name", BAD)
def test_a_fault_is_found_and_named_with_its_position(name: str) -> None:
    bad = BAD[name]

    findings = judged(bad.spoilt(good_book())).findings

    assert (bad.rule, bad.position) in [(one.rule, one.position) for one in findings]


@pytest.mark.parametrize(
    "other",
    [
        event(13, "warned", {}, agent="somebody"),
        event(13, "noted", {}),
        replace(event(13, "income_verified", {"monthly": 1}), tags=("application:2",)),
    ],
    ids=["of another agent", "of another type", "about somebody else"],
)
def test_what_the_policy_does_not_read_changes_nothing(other: Event) -> None:
    assert judged([*good_book(), other]).findings == ()


def test_each_subject_must_be_decided() -> None:
    (finding,) = judged(good_book(), ABOUT, "application:2").findings

    assert finding.rule == "standing"
    assert finding.message == "application:2 has no decision."


@pytest.mark.parametrize(
    ("take", "value"),
    [("first", 1), ("min", 1), ("max", 3), ("list", [1, 3, 2]), ("sum", 6), ("latest", 2)],
)
def test_inputs_follow_from_the_events_by_every_take(take: str, value: Any) -> None:
    reads = {"n": {"types": ["t"], "take": take, "path": "/a/n"}}
    ids = {"first": [2], "latest": [4]}.get(take, [2, 3, 4])
    book = [
        activated(1, 1),
        *(event(nth, "t", {"a": {"n": number}}) for nth, number in ((2, 1), (3, 3), (4, 2))),
        event(5, "t", {"a": {"n": None}}),
        event(6, "t", {"other": 1}),
        decision(7, 6, inputs={"n": value}, signals={"n": ids}),
    ]

    assert check(book, reads=reads, subjects=[ABOUT]).findings == ()
