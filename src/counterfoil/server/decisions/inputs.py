"""How events become the inputs of a policy. Whatever cannot be taken exactly is refused.

Each input looks at the events that its ``Read`` names, in the order of their positions, and takes
one value from them:

=======  ==================================================  ==========================
latest   the value of the last event that has it             any value
first    that of the first
count    how many events there are                           0 where there are none
min max  the least, the greatest of all values               numbers
sum      all of them together                                whole numbers
any all  whether one is true, whether all are                true or false
list     all of them, in their order                         any values
=======  ==================================================  ==========================

An input is missing where no event has its value; ``count`` never is. Missing is no value: where it
may be missing, the input is left out, and the schema of the inputs has to say what then.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from counterfoil.server.core import limits
from counterfoil.server.decisions.policy import Read

_ABSENT: Final = object()
_NTH: Final = re.compile("0|[1-9][0-9]{0,17}")
_MOST: Final = limits.WHOLE_NUMBER_MAX
_DIGITS_MAX: Final = 28
"""What the engine counts with. It rounds what has more, and says nothing."""


@dataclass(frozen=True, slots=True)
class Signal:
    """An event that an input may come from; its age in seconds is that when it was read.

    ``payload`` is None where it was erased.
    """

    event_id: int
    event_type: str
    agent_name: str
    created_at: str
    payload: Mapping[str, Any] | None
    age_seconds: Decimal


@dataclass(frozen=True, slots=True)
class Taken:
    """An input that was taken, and the ids of the events that it came from."""

    value: Any
    event_ids: Sequence[int]


class InputRefused(Exception):
    """An input that cannot be taken. ``str()`` is a sentence."""

    def __init__(self, name: str, message: str, event_ids: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.name = name
        self.event_ids = event_ids


class InputMissing(InputRefused):
    """There is no event that has it, or none that is young enough."""


class Room:
    """How many values may still be taken for a decision, which are all kept in its record."""

    def __init__(self, values: int = limits.DECISION_VALUES_MAX) -> None:
        self.left = values

    def holds(self, value: Any) -> bool:
        """Take the room of a value, and of those in it; False where there is not enough."""
        inner = [value]
        while inner and self.left > 0:
            self.left -= 1
            one = inner.pop()
            if isinstance(one, dict):
                inner += one.values()
            elif isinstance(one, list):
                inner += one
        return not inner


def take(
    name: str, read: Read, signals: Iterable[Signal], room: Room | None = None
) -> Taken | None:
    """Take one input; None where it is missing, and may be.

    Args:
        signals: the subject's events, in the order of their positions.
        room: for the values of this input and the others; by default its own.

    Raises:
        InputMissing: it is missing, and must not be.
        InputRefused: what is there cannot be taken so.
    """
    of_kind = [one for one in signals if _is_of(one, read)]
    young = [
        one
        for one in of_kind
        if read.max_age_seconds is None or one.age_seconds <= read.max_age_seconds
    ]
    if read.take == "count":
        return Taken(len(young), [one.event_id for one in young])
    for one in young:
        if one.payload is None:
            raise InputRefused(
                name, f"Event {one.event_id}, which `{name}` reads, was erased.", [one.event_id]
            )
    found = [
        (one.event_id, value)
        for one in young
        if (value := _at(one.payload, read.steps)) is not _ABSENT
    ]
    if not found:
        if read.may_be_missing:
            return None
        raise InputMissing(name, _why_missing(read, of_kind, young), [e.event_id for e in of_kind])
    room = room or Room()
    for event_id, value in found:
        if not room.holds(value):
            raise InputRefused(
                name,
                f"With `{name}`, a decision would take more than {limits.DECISION_VALUES_MAX:,} values "
                "from these events. Let the policy read fewer, or sums that an agent keeps.",
                [event_id],
            )
        if fault := unsafe(value):
            raise InputRefused(name, f"Event {event_id} has {fault} for `{name}`.", [event_id])
    return _TAKES[read.take](name, found)


def _is_of(signal: Signal, read: Read) -> bool:
    return signal.event_type in read.types and (
        read.agents is None or signal.agent_name in read.agents
    )


def _why_missing(read: Read, of_kind: Sequence[Signal], young: Sequence[Signal]) -> str:
    types = " or ".join(f"`{one}`" for one in read.types)
    if not of_kind:
        return f"There is no {types} about this subject."
    if not young:
        return (
            f"Every {types} about this subject is older than {read.max_age_seconds:,} seconds; "
            f"the last one is event {of_kind[-1].event_id}."
        )
    return f"No {types} about this subject has a value at `{read.path}`."


def _at(payload: Any, steps: Sequence[str]) -> Any:
    """What stands at a path; ``_ABSENT`` where there is nothing, or null."""
    value = payload
    for key in steps:
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and _NTH.fullmatch(key) and int(key) < len(value):
            value = value[int(key)]
        else:
            return _ABSENT
    return _ABSENT if value is None else value


def unsafe(value: Any) -> str | None:
    """What of a value readers of JSON would not agree about; None if they all would."""
    if isinstance(value, dict):
        return next(filter(None, map(unsafe, value.values())), None)
    if isinstance(value, list):
        return next(filter(None, map(unsafe, value)), None)
    return None if isinstance(value, bool) else _unsafe_number(value)


def _unsafe_number(value: Any) -> str | None:
    if isinstance(value, float):
        return "a number that is not exact"
    if isinstance(value, int | Decimal) and not -_MOST <= value <= _MOST:
        return "a number beyond 2^53"
    if isinstance(value, Decimal) and _is_too_fine(value):
        return f"a number with more than {_DIGITS_MAX} digits"
    return None


def _is_too_fine(value: Decimal) -> bool:
    _, digits, exponent = value.as_tuple()
    return len(digits) > _DIGITS_MAX or not isinstance(exponent, int) or exponent < -_DIGITS_MAX


Found = Sequence[tuple[int, Any]]


def _last(_name: str, found: Found) -> Taken:
    return Taken(found[-1][1], [found[-1][0]])


def _first(_name: str, found: Found) -> Taken:
    return Taken(found[0][1], [found[0][0]])


def _list(_name: str, found: Found) -> Taken:
    return Taken([value for _, value in found], [event_id for event_id, _ in found])


def _numbers(name: str, found: Found, *, whole: bool) -> list[Any]:
    for event_id, value in found:
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, Decimal)):
            kind = "a whole number" if whole else "a number"
            raise InputRefused(
                name, f"Event {event_id} has something else than {kind} for `{name}`.", [event_id]
            )
    return [value for _, value in found]


def _extreme(pick: Callable[[list[Any]], Any]) -> Callable[[str, Found], Taken]:
    def taken(name: str, found: Found) -> Taken:
        return Taken(pick(_numbers(name, found, whole=False)), [one for one, _ in found])

    return taken


def _sum(name: str, found: Found) -> Taken:
    total = sum(_numbers(name, found, whole=True))
    if unsafe(total):
        raise InputRefused(name, f"The sum for `{name}` is beyond 2^53.", [one for one, _ in found])
    return Taken(total, [one for one, _ in found])


def _truths(pick: Callable[[list[bool]], bool]) -> Callable[[str, Found], Taken]:
    def taken(name: str, found: Found) -> Taken:
        for event_id, value in found:
            if not isinstance(value, bool):
                raise InputRefused(
                    name,
                    f"Event {event_id} has something else than true or false for `{name}`.",
                    [event_id],
                )
        return Taken(pick([value for _, value in found]), [one for one, _ in found])

    return taken


_TAKES: Final[Mapping[str, Callable[[str, Found], Taken]]] = {
    "latest": _last,
    "first": _first,
    "list": _list,
    "min": _extreme(min),
    "max": _extreme(max),
    "sum": _sum,
    "any": _truths(any),
    "all": _truths(all),
}
