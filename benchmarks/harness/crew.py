"""Clients of a library: threads in several processes, each calling again when it was answered.

A product that is called in-process has no load generator of its own; its clients are our
threads. One Python process runs one thread at a time, so the threads are spread over several
processes, which stay from the first run to the last, with their connections. Whoever opens a
crew tries several numbers of processes, and keeps the one that is fastest for the product.

What a crew calls is made in its processes: an importable function is given the numbers of its
clients, and returns one function for each of them.
"""

import contextlib
import signal
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Final

from benchmarks.harness.figures import latency_figures
from benchmarks.harness.model import BenchmarkError

WARM_UP_SECONDS: Final = 1.0
"""How long the clients call before it counts: statements get prepared, plans cached."""

ANSWER_SECONDS_MAX: Final = 60.0
"""How long a process may take to get ready, or to end its last calls after a run."""

Client = Callable[[int], None]
"""One call of one client: append so many events. Returns when they are acknowledged, or raises."""


Opener = Callable[[Sequence[int]], Sequence[Client]]
"""Makes a process's clients, of their numbers. Importable by name: it runs in new processes."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a crew's run came to.

    Attributes:
        events: in one call.
        calls: that ended within the time that counts.
        calls_in_all: with those of the warm-up and the last ones, which ended after it.
        seconds: the time that counts.
        latencies: of the calls that began in the time that counts, in milliseconds.
    """

    events: int
    calls: int
    calls_in_all: int
    seconds: float
    latencies: Sequence[float]

    @property
    def acknowledged(self) -> int:
        """Events of all calls: so many more are in the store than before."""
        return self.calls_in_all * self.events

    def figures(self) -> dict[str, float]:
        """The figures of the run, by name."""
        requests_per_second = self.calls / self.seconds
        return {
            "events_per_second": requests_per_second * self.events,
            **({"requests_per_second": requests_per_second} if self.events > 1 else {}),
            **latency_figures(self.latencies),
            "errors": 0.0,
            "events": float(self.acknowledged),
        }


class Crew:
    """Processes that wait for runs. Made by ``open_crew``."""

    def __init__(self, members: Mapping[SpawnProcess, Connection]) -> None:
        self._members = members

    @property
    def pids(self) -> Sequence[int]:
        """The processes' ids."""
        return [process.pid for process in self._members if process.pid is not None]

    def run(self, seconds: float, *, events: int) -> Outcome:
        """Let all clients call for the warm-up and then so many seconds.

        Args:
            seconds: that count.
            events: in one call.

        Raises:
            BenchmarkError: a call failed, or none ended in time.
        """
        begin = time.monotonic() + WARM_UP_SECONDS
        for pipe in self._members.values():
            pipe.send((events, begin, begin + seconds))
        total = _Part()
        # All answers are taken before one of them is judged: the next run finds empty pipes.
        for part in [_answer(pipe, seconds) for pipe in self._members.values()]:
            if isinstance(part, str):
                raise BenchmarkError(f"A call failed: {part}")
            total.add(part)
        if not total.calls or not total.latencies:
            raise BenchmarkError(f"No call ended within {seconds} seconds.")
        return Outcome(events, total.calls, total.calls_in_all, seconds, total.latencies)


@contextlib.contextmanager
def open_crew(opener: Opener, *, clients: int, processes: int) -> Iterator[Crew]:
    """Start the processes, and end them with the block.

    Args:
        opener: what makes the clients; a function of a module, or a partial of one.
        clients: how many threads in all.
        processes: how many processes share them.

    Raises:
        BenchmarkError: a process cannot make its clients.
    """
    context = get_context("spawn")  # a forked process would share what libraries hold open
    members: dict[SpawnProcess, Connection] = {}
    try:
        for number in range(processes):
            ours, theirs = context.Pipe()
            numbers = range(number, clients, processes)
            process = context.Process(
                target=_work, args=(theirs, opener, numbers), daemon=True, name="clients"
            )
            process.start()
            theirs.close()
            members[process] = ours
        for pipe in members.values():
            if isinstance(failure := _answer(pipe, 0), str):
                raise BenchmarkError(f"The clients cannot be opened: {failure}")
        yield Crew(members)
    finally:
        for process, pipe in members.items():
            pipe.close()
            process.join(ANSWER_SECONDS_MAX)
            if process.is_alive():
                process.kill()


@dataclass(slots=True)
class _Part:
    """What one client, or one process, did in a run; see ``Outcome``."""

    calls: int = 0
    calls_in_all: int = 0
    latencies: "array[float]" = field(default_factory=lambda: array("d"))

    def add(self, other: "_Part") -> None:
        self.calls += other.calls
        self.calls_in_all += other.calls_in_all
        self.latencies.extend(other.latencies)


def _answer(pipe: Connection, seconds: float) -> _Part | str:
    """What a process says: its part of a run, or in words what went wrong."""
    if not pipe.poll(WARM_UP_SECONDS + seconds + ANSWER_SECONDS_MAX):
        return f"its process does not answer within {ANSWER_SECONDS_MAX:.0f} s"
    try:
        answer: _Part | str = pipe.recv()
    except EOFError:
        return "its process ended"
    return answer


def _work(pipe: Connection, opener: Opener, numbers: Sequence[int]) -> None:
    """The life of a process: make its clients, then let them call whenever the parent says."""
    try:
        clients = opener(numbers)
        pipe.send(_Part())
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent has to say it
        pipe.send(_words(error))
        return
    # After the opener, since libraries install handlers of their own when they are imported.
    # Ctrl-C reaches the whole group; the parent ends us by closing the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError):
        while True:
            events, begin, end = pipe.recv()
            pipe.send(_run(clients, events, begin, end))


def _run(clients: Sequence[Client], events: int, begin: float, end: float) -> _Part | str:
    """All clients of this process at once, each in a thread."""
    with ThreadPoolExecutor(len(clients)) as threads:
        running = [threads.submit(_drive, client, events, begin, end) for client in clients]
    total = _Part()
    for ended in running:
        if (error := ended.exception()) is not None:
            return _words(error)
        total.add(ended.result())
    return total


def _drive(client: Client, events: int, begin: float, end: float) -> _Part:
    """One client: call until the end; what ends from ``begin`` to ``end`` counts."""
    part = _Part()
    before = time.monotonic()
    while before < end:
        client(events)
        after = time.monotonic()
        part.calls_in_all += 1
        part.calls += begin <= after < end
        if before >= begin:
            part.latencies.append(1e3 * (after - before))
        before = after
    return part


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
