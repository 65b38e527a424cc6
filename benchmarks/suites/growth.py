"""Growth: the same work on books of three sizes, side by side."""

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Final

from benchmarks.harness import condition_check, filling, reading, requests, work
from benchmarks.harness.condition_check import Query
from benchmarks.harness.model import GOAL, GRID, BenchmarkError, Cell, Effort, Stage
from benchmarks.subjects import grown
from benchmarks.subjects.grown import GrownBook

SIZES: Final = (0, 1_000_000, 10_000_000)
QUICK_SIZES: Final = (0, 200_000)

CONNECTIONS: Final = 64

CHECK_SECONDS: Final = 1.0

CONDITIONS: Final[Mapping[str, list[dict[str, list[str]]]]] = {
    # About the request's own transaction: a tag that no event has yet.
    "rare-tag": [{"tags": [f"transaction:w_{requests.NUMBER}"]}],
    "common-tag": [{"tags": [filling.COMMON_TAG]}],
    "type": [{"types": [filling.FILLED_ONLY_TYPE]}],
}
"""What the conditional appends ask about; ``after`` is the last head that they know."""

APPENDS: Final = ("plain", *(f"condition-by-{kind}" for kind in CONDITIONS))
PAGES: Final = ("rare-tag", "common-tag")
CHECKS: Final = ("rare-tag", "customer-tag", "common-tag", "type", "tag-type-and-agent")
QUICK_QUESTIONS: Final = (
    "growth/appends/plain",
    "growth/pages/common-tag",
    "growth/checks/common-tag/near-the-head",
)
"""A look at each; the goals need the large book, which the short run has no time to fill."""

FILLED_PER_SECOND: Final = 30_000
"""About how fast it goes, for the plan."""

DISTANCES: Final[Mapping[str, int]] = {"near-the-head": 64, "20000-back": 20_000}

_LOWEST: Final = filling.EVENTS_MIN
"""The smallest book that has a page to read: where pages are read at size 0."""


class Growth:
    """Whether it stays as fast as it is with an empty book.

    Size 0 means two things. Appends find the book really empty at the start of each run: it
    is emptied in between. Reads and checks need something to find, and have a book of ten
    thousand events.
    """

    name: Final = "growth"
    title: Final = "Growth"
    doors: Final[Mapping[str, str]] = {}

    def cell_ids(self, *, quick: bool) -> Sequence[str]:
        """Every question at every size; the size stands last."""
        questions = [f"growth/appends/{kind}" for kind in APPENDS]
        questions += [f"growth/pages/{kind}" for kind in PAGES]
        questions += [
            f"growth/checks/{kind}/{distance}" for kind in CHECKS for distance in DISTANCES
        ]
        if quick:
            questions = list(QUICK_QUESTIONS)
        sizes = QUICK_SIZES if quick else SIZES
        ids = [f"{question}/{size}-events" for question in questions for size in sizes]
        return [*ids, f"growth/disk/{sizes[1]}-events"]

    def effort(self, cell_id: str, *, quick: bool) -> Effort:
        """More for what the goals need; a check alone takes a second for its thousands."""
        _, question, kind, *_ = cell_id.split("/")
        if question == "disk":
            return Effort(rounds=1, seconds=0.0)
        if quick:
            return Effort(rounds=1, seconds=CHECK_SECONDS if question == "checks" else 2.0)
        if question == "checks":
            at_last = cell_id.endswith(f"/near-the-head/{SIZES[-1]}-events")
            return Effort(GOAL.rounds if at_last else 2, CHECK_SECONDS, around_seconds=0.5)
        if question == "pages" or kind == "plain":
            return GRID if cell_id.endswith(f"/{SIZES[1]}-events") else GOAL
        return Effort(rounds=2, seconds=GRID.seconds)

    def opening_seconds(self, *, quick: bool) -> float:
        """Filling, and checking what was filled in."""
        return 8 + sum(QUICK_SIZES if quick else SIZES) * (1 / FILLED_PER_SECOND + 1e-5)

    @contextmanager
    def open(self, stage: Stage) -> Iterator[Sequence[Cell]]:
        """Fill the books that are needed, each with a service of two workers."""
        wanted = [cell for cell in self.cell_ids(quick=stage.quick) if stage.wants(cell)]
        with ExitStack() as opened:
            cells: list[Cell] = []
            for size in QUICK_SIZES if stage.quick else SIZES:
                mine = [cell for cell in wanted if cell.endswith(f"/{size}-events")]
                for group in _books(mine, size):
                    events = size or (0 if "/appends/" in group[0] else _LOWEST)
                    book = opened.enter_context(
                        grown.opened(stage, f"growth_{events}", events=events)
                    )
                    cells += _cells(stage, book, group)
            # Side by side in time too: the sizes of one question follow each other.
            yield sorted(cells, key=lambda cell: wanted.index(cell.id))


def _books(cells: Sequence[str], size: int) -> list[list[str]]:
    """The cells of one size, by the book that they share."""
    if size:
        return [list(cells)] if cells else []
    appends = [cell for cell in cells if "/appends/" in cell]
    others = [cell for cell in cells if "/appends/" not in cell]
    return [group for group in (appends, others) if group]


def _cells(stage: Stage, book: GrownBook, ids: Sequence[str]) -> Iterator[Cell]:
    disk = (
        filling.bytes_per_event(filling.sizes(book.subject.database_url), book.filled.events)
        if any("/disk/" in cell for cell in ids)
        else {}
    )
    for cell in ids:
        _, question, kind, *rest = cell.split("/")
        run: Callable[[float], Mapping[str, float]]
        match question:
            case "appends" if kind == "plain":
                file = book.subject.write_requests()
                run = partial(
                    _appends, book, partial(book.subject.closed_loop, file, connections=CONNECTIONS)
                )
            case "appends":
                condition = {
                    "fail_if": CONDITIONS[kind.removeprefix("condition-by-")],
                    "after": requests.head_place(),
                }
                file = book.subject.write_requests(condition=partial(_always, condition))
                drive = partial(
                    book.subject.conditional_loop, file, connections=CONNECTIONS, conflicts=0.0
                )
                run = partial(_appends, book, drive)
            case "pages":
                run = partial(_pages(stage, book, kind))
            case "checks":
                run = partial(_check, book, kind, DISTANCES[rest[0]])
            case _:
                run = partial(_constant, disk)
        yield Cell(cell, run, book.subject.roles)


def _always(condition: Mapping[str, Any], _event: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same condition for every event."""
    return condition


def _constant(figures: Mapping[str, float], _seconds: float) -> Mapping[str, float]:
    """What is known since the book was filled: appends since then have other tags."""
    return figures


def _appends(
    book: GrownBook, drive: Callable[[float], Mapping[str, float]], seconds: float
) -> Mapping[str, float]:
    if not book.filled.events:
        book.empty()
    return drive(seconds)


def _pages(stage: Stage, book: GrownBook, kind: str) -> Callable[[float], dict[str, float]]:
    """Pages of 100 events, the newest first.

    The pages of the common tag are all the same. Those of the rare tags are all different,
    and each one's events are spread over the whole book.
    """
    tags = (
        [filling.COMMON_TAG]
        if kind == "common-tag"
        else [book.filled.dossier(number) for number in range(book.filled.dossiers)]
    )
    service = book.subject.service
    paths = [reading.page_path(tag=tag) for tag in tags]
    random.Random(0).shuffle(paths)
    reading.must_show(service, paths[0], at_least=100)
    file = reading.write_requests(stage, service, paths)
    return partial(reading.closed_loop, service, file, connections=CONNECTIONS)


def _check(book: GrownBook, kind: str, distance: int, seconds: float) -> dict[str, float]:
    """The check alone, up to the last event that was filled in, from so many before it."""
    up_to = book.filled.events
    after = max(0, up_to - distance)
    if kind == "rare-tag":
        found: int | None = 0
    elif kind == "common-tag":
        found = 20
    else:
        found = None
    return condition_check.measure(
        book.subject.database_url,
        _queries(kind, after),
        seconds,
        after=after,
        up_to=up_to,
        found=found,
    )


def _queries(kind: str, after: int) -> Iterator[Query]:
    """Conditions of one kind, each about something else as far as there is a choice."""
    chance = random.Random(f"{kind}:{after}")
    for number in itertools.count():
        match kind:
            case "rare-tag":
                # Of an event before `after`: it is in the index, and not in the way.
                position = chance.randint(1, after) if after else number + 1_000_000_000
                yield [{"tags": [f"transaction:filled_{position}"]}]
            case "customer-tag":
                yield [{"tags": [f"customer:cust_{chance.randrange(work.CUSTOMERS):05d}"]}]
            case "common-tag":
                yield [{"tags": [filling.COMMON_TAG]}]
            case "type":
                yield [{"types": [filling.FILLED_ONLY_TYPE]}]
            case "tag-type-and-agent":
                yield [
                    {
                        "tags": [filling.COMMON_TAG],
                        "types": [filling.FILLED_ONLY_TYPE],
                        "agents": [chance.choice(work.AGENTS)],
                    }
                ]
            case _:
                raise BenchmarkError(f"There is no kind of condition called {kind}.")
