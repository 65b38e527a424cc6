"""Many live readers at once: who they are, what each must get, and when it got it."""

import json
import select
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import quote

from benchmarks.harness import work
from benchmarks.harness.model import BenchmarkError
from benchmarks.harness.service import RunningService

START_SECONDS_MAX: Final = 60.0
"""How long a thousand streams may take to open."""

STOP_SECONDS_MAX: Final = 30.0
"""How long the reading process may take to hand over what it noted."""


@dataclass(frozen=True, slots=True)
class Filter:
    """What one subscriber asks for: everything, or one type, one agent, one tag."""

    kind: Literal["everything", "type", "agent", "tag"]
    value: str = ""

    @property
    def path(self) -> str:
        """The stream's path and query."""
        query = "" if self.kind == "everything" else f"?{self.kind}={quote(self.value)}"
        return f"/events/stream{query}"

    def matches(self, event: work.Event) -> bool:
        """Whether the subscriber must get this event."""
        match self.kind:
            case "everything":
                return True
            case "type":
                return event.event_type == self.value
            case "agent":
                return event.agent_name == self.value
            case "tag":
                return self.value in event.tags


def mix(count: int) -> list[Filter]:
    """Subscribers as agents are: a few follow much, most follow one customer.

    Of a hundred, 2 follow everything (a dashboard, an auditor), 3 a type, 10 an agent, and 85
    one customer each; together they get 3.1 deliveries for each event. One alone follows
    everything.
    """
    return [_filter(number) for number in range(count)]


def _filter(number: int) -> Filter:
    hundred, place = divmod(number, 100)
    if place < 2:
        return Filter("everything")
    if place < 5:
        return Filter("type", work.TYPES[(place + hundred) % len(work.TYPES)])
    if place < 15:
        return Filter("agent", work.AGENTS[(place + hundred) % len(work.AGENTS)])
    return Filter("tag", f"customer:cust_{number * 97 % work.CUSTOMERS:05d}")


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What the subscribers got.

    Attributes:
        positions: of the events, in the order of their arrival, for each subscriber.
        times: when each arrived, in nanoseconds of the monotonic clock.
        ended: which subscribers' streams the service ended.
        late: how late the reading process came to its timers, in nanoseconds.
    """

    positions: Sequence[Sequence[int]]
    times: Sequence[Sequence[int]]
    ended: Sequence[int]
    late: Sequence[int]

    def first(self, count: int) -> "Arrivals":
        """Those of so many subscribers."""
        return Arrivals(
            self.positions[:count],
            self.times[:count],
            [number for number in self.ended if number < count],
            self.late,
        )


def delays(arrivals: Arrivals, answered: Mapping[int, int]) -> list[float]:
    """From each event's answer to its writer until each subscriber had it, in milliseconds.

    Negative where a subscriber was quicker than the answer. Events that are not in
    ``answered`` (position: time of the answer) are passed over: a warm-up, for example.
    """
    return [
        (time - answered[position]) / 1e6
        for positions, times in zip(arrivals.positions, arrivals.times, strict=True)
        for position, time in zip(positions, times, strict=True)
        if position in answered
    ]


def check_complete(
    filters: Sequence[Filter], arrivals: Arrivals, events: Mapping[int, work.Event]
) -> None:
    """Raise BenchmarkError unless each subscriber got each event that it asked for, once.

    ``events`` are all that were written, by position, in order, while the subscribers
    listened.
    """
    if arrivals.ended:
        raise BenchmarkError(f"The service ended {len(arrivals.ended)} streams during the run.")
    for each, positions in zip(filters, arrivals.positions, strict=True):
        wanted = [position for position, event in sorted(events.items()) if each.matches(event)]
        if list(positions) != wanted:
            missing = len(set(wanted) - set(positions))
            raise BenchmarkError(
                f"A subscriber of {each.path} got {len(positions)} events where {len(wanted)} "
                f"match, {missing} of them missing: gaps, doubles or another order."
            )


class Subscribers:
    """The process that reads the streams. Made by ``subscribed``."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def wait_until_ready(self) -> None:
        """Wait until every stream has had its first heartbeat. Raises BenchmarkError."""
        assert self._process.stdout is not None
        heard, _, _ = select.select([self._process.stdout], [], [], START_SECONDS_MAX)
        if not heard or not self._process.stdout.readline():
            raise self._failed()

    def stop(self) -> Arrivals:
        """End the reading, and hear what arrived. Once only; raises BenchmarkError."""
        try:
            output, _ = self._process.communicate(b"{}\n", timeout=STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            raise self._failed() from None
        head, _, data = output.partition(b"\n")
        if self._process.returncode or not head:
            raise self._failed()
        answer = json.loads(head)
        numbers = memoryview(data).cast("q")
        positions, times = [], []
        start = 0
        for count in answer["counts"]:
            positions.append(numbers[start : start + count].tolist())
            times.append(numbers[start + count : start + 2 * count].tolist())
            start += 2 * count
        late = numbers[start:].tolist()
        if len(late) != answer["lag"]:
            raise BenchmarkError("The process of live readers handed over less than it noted.")
        return Arrivals(positions, times, answer["ended"], late)

    def _failed(self) -> BenchmarkError:
        self._process.kill()
        _, errors = self._process.communicate()
        said = errors.decode(errors="replace").strip()[-2_000:]
        return BenchmarkError(f"The process of live readers failed: {said or 'it said nothing'}")


@contextmanager
def subscribed(
    service: RunningService, filters: Sequence[Filter], *, deaf: int = 0
) -> Iterator[Subscribers]:
    """Have these subscribers listen, from now on, while the block runs.

    Args:
        deaf: so many more that ask for everything and read nothing.

    Raises:
        BenchmarkError: a stream does not open.
    """
    order = {
        "host": service.host,
        "port": service.port,
        "headers": dict(service.headers),
        "paths": [each.path for each in filters] + [Filter("everything").path] * deaf,
        "deaf": deaf,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.harness.sse"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdin is not None
        process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.flush()
        subscribers = Subscribers(process)
        subscribers.wait_until_ready()
        yield subscribers
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
