"""Appends beside those of other products: the same events, as many clients, the same disk.

Each product is used as its own documentation advises where it speaks of speed, with what
makes it durable switched on; each subject's file says how, what was tried, and what of the
work its model cannot carry. All that rest on PostgreSQL share one server, each in a database
of its own. What is compared:

- *unconditional* appends beside unconditional ones: message-db, pgmq, and the aggregates of
  ``eventsourcing``;
- *conditional* ones (nothing with the tag of the first event's transaction may be there)
  beside conditional ones: the DCB recorder of ``eventsourcing``, and UmaDB.

Counterfoil is called over HTTP, with a key, and judges what it is sent. The others are called
where they are fastest: the functions by pgbench over the Unix socket, ``eventsourcing`` inside
its caller's process, UmaDB over gRPC by its own client. That is their advantage.

A product that is not installed is left out, and the suite says so.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.harness.model import GOAL, QUICK, Cell, Effort, Roles, Stage
from benchmarks.subjects import counterfoil, eventsourcing, message_db, pgmq, umadb

CLIENTS: Final = 64
BATCH: Final = 100
WORKERS: Final = 2
TEMPLATES: Final = 5_000

CATEGORIES: Final = 20
"""Of message-db: one for each agent of the work."""

OURS: Final = f"counterfoil-{WORKERS}-workers"
MESSAGE_DB: Final = "message-db"
MESSAGE_DB_ORDERED: Final = "message-db-one-category"
PGMQ: Final = "pgmq"
AGGREGATES: Final = "eventsourcing-aggregates"
DCB: Final = "eventsourcing-dcb"
UMADB: Final = "umadb"

DOORS: Final[Mapping[str, str]] = {
    OURS: counterfoil.DOORS,
    MESSAGE_DB: message_db.DOORS,
    MESSAGE_DB_ORDERED: message_db.DOORS,
    PGMQ: pgmq.DOORS,
    AGGREGATES: eventsourcing.DOORS,
    DCB: eventsourcing.DOORS,
    UMADB: umadb.DOORS,
}
"""How each is called."""

_UNCONDITIONAL: Final = (OURS, MESSAGE_DB, MESSAGE_DB_ORDERED, PGMQ, AGGREGATES)
_CONDITIONAL: Final = (OURS, DCB, UMADB)
_STRONGEST: Final = (OURS, PGMQ, UMADB)
"""Who the short run is content with."""


@dataclass(frozen=True, slots=True)
class Load:
    """One cell's load."""

    events: int
    conditional: bool
    subject: str

    @property
    def cell_id(self) -> str:
        """``peers/batch-100/conditional/64-clients/umadb``."""
        size = "single" if self.events == 1 else f"batch-{self.events}"
        kind = "conditional" if self.conditional else "unconditional"
        return f"peers/{size}/{kind}/{CLIENTS}-clients/{self.subject}"


Drive = Callable[[float, Load], Mapping[str, float]]
Opened = Mapping[str, tuple[Drive, Callable[[], Roles]]]
"""By a subject's name: how it is driven for so many seconds, and whose CPU time is whose."""

LOADS: Final = tuple(
    Load(events, conditional, subject)
    for events in (1, BATCH)
    for conditional, subjects in ((False, _UNCONDITIONAL), (True, _CONDITIONAL))
    for subject in subjects
)


class Peers:
    """Single appends and batches, beside other event stores and a queue."""

    name: Final = "peers"
    title: Final = "Other products"
    doors: Final[Mapping[str, str]] = DOORS

    def cell_ids(self, *, quick: bool) -> Sequence[str]:
        """All subjects, or the strongest of each kind."""
        return [load.cell_id for load in _loads(quick=quick)]

    def effort(self, cell_id: str, *, quick: bool) -> Effort:  # noqa: ARG002 - the same for all
        """A goal rests on each of them."""
        return Effort(rounds=1, seconds=QUICK.seconds) if quick else GOAL

    def opening_seconds(self, *, quick: bool) -> float:
        """Each product's own installation; one comes from a registry."""
        return 15 if quick else 40

    @contextmanager
    def open(self, stage: Stage) -> Iterator[Sequence[Cell]]:
        """A database, or a server, for each product that is asked for and can be had."""
        loads = [load for load in _loads(quick=stage.quick) if stage.wants(load.cell_id)]
        with ExitStack() as opened:
            subjects = {load.subject for load in loads}
            cells: list[Cell] = []
            for open_subjects in (
                _open_counterfoil,
                _open_message_db,
                _open_pgmq,
                _open_eventsourcing,
                _open_umadb,
            ):
                for name, (drive, roles) in open_subjects(stage, opened, subjects).items():
                    cells += [
                        Cell(load.cell_id, partial(_run, drive, load), roles)
                        for load in loads
                        if load.subject == name
                    ]
            yield cells


def _loads(*, quick: bool) -> list[Load]:
    return [load for load in LOADS if not quick or load.subject in _STRONGEST]


def _run(drive: Drive, load: Load, seconds: float) -> Mapping[str, float]:
    return drive(seconds, load)


def _open_counterfoil(stage: Stage, opened: ExitStack, subjects: set[str]) -> Opened:
    if OURS not in subjects:
        return {}
    subject = opened.enter_context(counterfoil.opened(stage, "peers", workers=WORKERS))
    files: dict[tuple[int, bool], Path] = {}

    def drive(seconds: float, load: Load) -> Mapping[str, float]:
        kind = (load.events, load.conditional)
        if kind not in files:
            files[kind] = _write_requests(subject, load.events, conditional=load.conditional)
        return subject.closed_loop(files[kind], seconds, connections=CLIENTS, events=load.events)

    return {OURS: (drive, subject.roles)}


def _write_requests(
    subject: counterfoil.CounterfoilSubject, events: int, *, conditional: bool
) -> Path:
    return subject.write_requests(
        path="/agent-events" if events == 1 else "/events/batch",
        events=events,
        condition=_first_is_new if conditional else None,
        templates=max(TEMPLATES // events, 20),
    )


def _first_is_new(event: Mapping[str, Any]) -> Mapping[str, Any]:
    """Nothing with this event's transaction may be there: as the others are asked."""
    return {"fail_if": [{"tags": [event["tags"][1]]}]}


def _open_message_db(stage: Stage, opened: ExitStack, subjects: set[str]) -> Opened:
    if not subjects & {MESSAGE_DB, MESSAGE_DB_ORDERED}:
        return {}
    package = message_db.download()
    if isinstance(package, str):
        stage.say(f"message-db is left out: {package}")
        return {}
    # One store for both: all that differs is how many categories the writers write to.
    subject = opened.enter_context(message_db.opened(stage, "peers_message_db", package))

    def drive(categories: int) -> Drive:
        return lambda seconds, load: subject.write(
            seconds, clients=CLIENTS, events=load.events, categories=categories
        )

    return {
        MESSAGE_DB: (drive(CATEGORIES), subject.roles),
        MESSAGE_DB_ORDERED: (drive(1), subject.roles),
    }


def _open_pgmq(stage: Stage, opened: ExitStack, subjects: set[str]) -> Opened:
    if PGMQ not in subjects:
        return {}
    if reason := pgmq.missing():
        stage.say(f"pgmq is left out: {reason}")
        return {}
    subject = opened.enter_context(pgmq.opened(stage, "peers_pgmq"))

    def drive(seconds: float, load: Load) -> Mapping[str, float]:
        return subject.send(seconds, clients=CLIENTS, events=load.events)

    return {PGMQ: (drive, subject.roles)}


def _open_eventsourcing(stage: Stage, opened: ExitStack, subjects: set[str]) -> Opened:
    designs: Mapping[str, eventsourcing.Design] = {AGGREGATES: "aggregates", DCB: "dcb"}
    wanted = {name: design for name, design in designs.items() if name in subjects}
    if wanted and (reason := eventsourcing.missing()):
        stage.say(f"eventsourcing is left out: {reason}")
        return {}

    def open_one(design: eventsourcing.Design) -> tuple[Drive, Callable[[], Roles]]:
        subject = opened.enter_context(
            eventsourcing.opened(stage, f"peers_{design}", design, clients=CLIENTS)
        )
        return lambda seconds, load: subject.append(seconds, events=load.events), subject.roles

    return {name: open_one(design) for name, design in wanted.items()}


def _open_umadb(stage: Stage, opened: ExitStack, subjects: set[str]) -> Opened:
    if UMADB not in subjects:
        return {}
    if reason := umadb.missing():
        stage.say(f"UmaDB is left out: {reason}")
        return {}
    subject = opened.enter_context(umadb.opened(stage, "peers_umadb", clients=CLIENTS))

    def drive(seconds: float, load: Load) -> Mapping[str, float]:
        return subject.append(seconds, events=load.events)

    return {UMADB: (drive, subject.roles)}
