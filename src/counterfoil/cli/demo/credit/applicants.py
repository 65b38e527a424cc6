"""Applicants as the demo knows them: what is written about them, and what became of them."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

Known = Literal["good", "bad"]
"""How a loan ended: repaid, or not. Nothing of it is ever written into the book."""

AT_ONCE: Final = "at once"
DECIDED: Final = "decided"
Moment = Literal["at once", "decided"]
"""When an underwriter corrects a signal: as soon as it is in the book, and so in a race with
the decision, or as soon as the decision stands, and so certainly after it."""

SLIP_SHARE: Final = 0.12
"""Of so many applications, one signal is wrong at first. An invented share, large enough that
every kind of race is among a few hundred of them."""


@dataclass(frozen=True, slots=True)
class Signal:
    """One event about an application: its type, and its payload without the ids."""

    event_type: str
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Slip:
    """How a signal is wrong at first: which one, and what stands in it in the place of the truth."""

    event_type: str
    wrong: Callable[[Mapping[str, Any], random.Random], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Applicant:
    """An application: its signals, in the order in which they are written, and how it ended.

    ``corrected`` is the signal that an underwriter puts right, and ``moment`` when.
    """

    application_id: str
    signals: tuple[Signal, ...]
    known: Known | None = None
    corrected: Signal | None = None
    moment: Moment | None = None


def application_id(run_id: str, number: int) -> str:
    """The id of an application; it gives the tag ``application:<id>`` by itself."""
    return f"app_{run_id}_{number:05d}"


def with_slips(applicants: Sequence[Applicant], slip: Slip, *, seed: int) -> list[Applicant]:
    """The applicants, a share of them with a signal that is wrong until it is corrected.

    The same seed picks the same ones. Every third is corrected when it is decided, the others
    at once.
    """
    return list(_slipping(applicants, slip, random.Random(f"slips {seed}")))


def _slipping(
    applicants: Sequence[Applicant], slip: Slip, chance: random.Random
) -> Iterator[Applicant]:
    slips = max(1, round(len(applicants) * SLIP_SHARE))
    chosen = sorted(chance.sample(range(len(applicants)), min(slips, len(applicants))))
    moments: dict[int, Moment] = {
        nth: DECIDED if turn % 3 == 0 else AT_ONCE for turn, nth in enumerate(chosen)
    }
    for nth, applicant in enumerate(applicants):
        yield applicant if nth not in moments else _slipped(applicant, slip, moments[nth], chance)


def _slipped(applicant: Applicant, slip: Slip, moment: Moment, chance: random.Random) -> Applicant:
    right = next(one for one in applicant.signals if one.event_type == slip.event_type)
    wrong = Signal(right.event_type, slip.wrong(right.payload, chance))
    signals = tuple(wrong if one is right else one for one in applicant.signals)
    return replace(applicant, signals=signals, corrected=right, moment=moment)
