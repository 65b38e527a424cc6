"""Live streams: how soon readers have an event, what they cost in memory and in appends."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.harness import memory, requests, work, writing
from benchmarks.harness.figures import latency_figures, percentile
from benchmarks.harness.model import GOAL, BenchmarkError, Cell, Effort, Stage, counted
from benchmarks.harness.subscribers import check_complete, delays, mix, subscribed
from benchmarks.subjects import counterfoil
from benchmarks.subjects.counterfoil import CounterfoilSubject

RATES: Final = (20, 1_000)
SUBSCRIBERS: Final = (1, 100)
WORKERS: Final = (1, 2)

DELAY_SECONDS: Final[Mapping[int, float]] = {20: 8.0, 1_000: 5.0}
"""How long a run takes at each rate: at 20 events/s, enough for a percentile to mean something."""

FOR_GOALS: Final = (
    "live/delay/1000-per-second/100-subscribers/counterfoil-2-workers",
    "live/appends/0-subscribers/counterfoil-2-workers",
    "live/appends/100-subscribers/counterfoil-2-workers",
)
"""What the goals need."""

WARM_UP_SECONDS: Final = 1.0

WRITERS: Final = 16
"""Connections of the writers."""

DEAF: Final = 10
"""Subscribers that read nothing, in the cell that asks what they cost the others."""

SETTLE_SECONDS: Final = 1.0
"""How long after the last answer an event may still be on its way to a subscriber."""

MEMORY_SUBSCRIBERS: Final = (100, 750)
"""The larger is as many as one tenant may have in one process."""

APPENDS_CONNECTIONS: Final = 64


class LiveStreams:
    """How soon, at what cost.

    A delay runs from the moment in which the writer has its answer until the subscriber has
    the event; it is negative where the subscriber was quicker. Both are seen by processes of
    ours on the same machine, by one clock. Writers and subscribers spread over the workers as
    the operating system deals out connections, so most events reach a subscriber through
    another worker than the one that wrote them. Each run checks that each subscriber got each
    event that it asked for, once and in order.
    """

    name: Final = "live"
    title: Final = "Live streams"
    doors: Final[Mapping[str, str]] = {}

    def cell_ids(self, *, quick: bool) -> Sequence[str]:
        """Delays by rate, subscribers and workers; then what subscribers cost."""
        if quick:
            return list(FOR_GOALS)
        ids = [
            f"live/delay/{rate}-per-second/{counted(count, 'subscriber')}/{_workers(number)}"
            for rate in RATES
            for count in SUBSCRIBERS
            for number in WORKERS
        ]
        ids += [f"live/delay/1000-per-second/100-subscribers-{DEAF}-deaf/{_workers(2)}"]
        ids += [
            f"live/appends/{counted(count, 'subscriber')}/{_workers(2)}"
            for count in (0, *SUBSCRIBERS)
        ]
        return [*ids, f"live/memory/{_workers(1)}"]

    def effort(self, cell_id: str, *, quick: bool) -> Effort:
        """More for what the goals need; at 20 events/s, enough events for a percentile."""
        _, question, *rest = cell_id.split("/")
        rounds = 1 if quick else GOAL.rounds if cell_id in FOR_GOALS else 2
        match question:
            case "delay":
                seconds = DELAY_SECONDS[int(rest[0].split("-")[0])]
                return Effort(rounds, seconds, around_seconds=3.0)
            case "appends":
                return Effort(rounds, 2.0 if quick else GOAL.seconds, around_seconds=2.7)
            case _:
                return Effort(rounds=1, seconds=0.0, around_seconds=10.0)

    def opening_seconds(self, *, quick: bool) -> float:
        """A service for each number of workers, and books to check."""
        return 8 if quick else 20

    @contextmanager
    def open(self, stage: Stage) -> Iterator[Sequence[Cell]]:
        """A service and a book for each number of workers."""
        wanted = [cell for cell in self.cell_ids(quick=stage.quick) if stage.wants(cell)]
        cells: list[Cell] = []
        with ExitStack() as opened:
            for workers in WORKERS:
                mine = [cell for cell in wanted if cell.endswith(f"/{_workers(workers)}")]
                if not mine:
                    continue
                subject = opened.enter_context(
                    counterfoil.opened(stage, f"live_{workers}", workers=workers)
                )
                cells += [_cell(cell, subject) for cell in mine]
            yield sorted(cells, key=lambda cell: wanted.index(cell.id))


def _workers(count: int) -> str:
    return f"counterfoil-{counted(count, 'worker')}"


def _cell(cell: str, subject: CounterfoilSubject) -> Cell:
    _, question, *rest = cell.split("/")
    match question:
        case "delay":
            rate = int(rest[0].split("-")[0])
            count, _, deaf = rest[1].partition("-")
            deaf = deaf.partition("-")[2]
            run = partial(
                _delay,
                subject,
                rate=rate,
                count=int(count),
                deaf=int(deaf.split("-")[0] if deaf else 0),
            )
            return Cell(cell, run, subject.roles)
        case "appends":
            file = subject.write_requests()
            count = rest[0].split("-")[0]
            return Cell(cell, partial(_appends, subject, file, int(count)), subject.roles)
        case _:
            return Cell(cell, partial(_memory, subject), subject.roles)


class _Requests:
    """Requests of the writers: different events, each with a transaction of its own."""

    def __init__(self, subject: CounterfoilSubject, count: int) -> None:
        service = subject.service
        self.events = list(work.events(count=1_000))
        self._first = subject.take_numbers(count)
        self._rendered = [
            requests.render(
                "/agent-events",
                body,
                host=f"{service.host}:{service.port}",
                headers=service.headers,
            )
            for body in requests.numbered_events(len(self.events))
        ]

    def __call__(self, number: int) -> bytes:
        rendered = self._rendered[number % len(self._rendered)]
        return requests.fill(rendered, number=self._first + number + 1)

    def event(self, number: int) -> work.Event:
        """What the request of this number wrote, as far as filters ask."""
        return self.events[number % len(self.events)]


def _delay(
    subject: CounterfoilSubject, seconds: float, *, rate: int, count: int, deaf: int
) -> dict[str, float]:
    """From the writer's answer until each subscriber has the event."""
    filters = mix(count)
    sent = round(rate * (WARM_UP_SECONDS + seconds))
    bodies = _Requests(subject, sent + 1)
    with subscribed(subject.service, filters, deaf=deaf) as subscribers:
        written = writing.write(
            subject.service.host,
            subject.service.port,
            bodies,
            connections=WRITERS,
            rate=rate,
            seconds=WARM_UP_SECONDS + seconds,
        )
        subject.book.add(acknowledged=sent)
        time.sleep(SETTLE_SECONDS)
        arrivals = subscribers.stop().first(count)
    check_complete(
        filters,
        arrivals,
        {position: bodies.event(number) for position, number in written.numbers.items()},
    )
    warm_up = round(rate * WARM_UP_SECONDS)
    measured = {
        position: at
        for position, at in written.answered.items()
        if written.numbers[position] >= warm_up
    }
    milliseconds = delays(arrivals, measured)
    return {
        **latency_figures(milliseconds),
        "events_per_second": len(measured) / seconds,
        "deliveries_per_event": len(milliseconds) / len(measured),
        "before_the_answer_share": sum(value < 0 for value in milliseconds) / len(milliseconds),
        "lag_p99_milliseconds": written.lag_p99_milliseconds(),
        "reader_lag_p99_milliseconds": percentile(sorted(arrivals.late), 0.99) / 1e6,
        "errors": 0.0,
    }


def _appends(
    subject: CounterfoilSubject, file: Path, count: int, seconds: float
) -> dict[str, float]:
    """Appends as fast as they go while so many subscribers listen."""
    if not count:
        return subject.closed_loop(file, seconds, connections=APPENDS_CONNECTIONS)
    first = subject.head() + 1
    with subscribed(subject.service, mix(count)) as subscribers:
        figures = subject.closed_loop(file, seconds, connections=APPENDS_CONNECTIONS)
        time.sleep(SETTLE_SECONDS)
        arrivals = subscribers.stop()
    # Who follows everything, and is in each mix, must have it all, however fast it came.
    wanted = list(range(first, subject.head() + 1))
    if arrivals.ended or arrivals.positions[0] != wanted:
        raise BenchmarkError(
            f"{len(wanted)} events were written, and a subscriber of everything got "
            f"{len(arrivals.positions[0])} of them."
        )
    delivered = sum(map(len, arrivals.positions))
    return {**figures, "deliveries_per_event": delivered / len(wanted)}


def _memory(subject: CounterfoilSubject, _seconds: float) -> dict[str, float]:
    """What quiet subscribers hold: the service's memory with and without them.

    Before each look some events are written, so that all has been used that a subscriber uses.
    """
    figures = {}
    looks = {0: _looked_at(subject, 0)}
    for count in MEMORY_SUBSCRIBERS:
        looks[count] = _looked_at(subject, count)
        figures[f"{count}_subscribers_bytes_each"] = (looks[count] - looks[0]) / count
    figures |= {f"{count}_subscribers_pss_bytes": float(pss) for count, pss in looks.items()}
    return {**figures, "errors": 0.0}


def _looked_at(subject: CounterfoilSubject, count: int) -> int:
    bodies = _Requests(subject, 1_000)
    with ExitStack() as opened:
        if count:
            opened.enter_context(subscribed(subject.service, mix(count)))
        written = writing.write(
            subject.service.host, subject.service.port, bodies, connections=1, rate=100, seconds=1
        )
        subject.book.add(acknowledged=len(written.answered))
        time.sleep(SETTLE_SECONDS)
        return memory.of_tree(subject.service.pid).pss
