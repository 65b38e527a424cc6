"""The terms of a measurement.

A *suite* asks one question of several *subjects* (Counterfoil, plain PostgreSQL, another
product). It opens them side by side and hands out *cells*; one cell is one subject under
one load, and gives one line of figures each time it is run. The runner runs all cells of a
suite once in a round, in an order that turns from round to round, and takes several rounds:
what the machine does meanwhile then falls on all of them alike.

A figure's name carries its unit: ``events_per_second``, ``p99_milliseconds``.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

Roles = Mapping[str, Sequence[int]]
"""Root process ids by role: ``postgresql``, ``service``, ``peer``. Each stands for itself and
all processes below it. What the benchmark's own process and its other children use is
``client``."""


def counted(count: int, noun: str) -> str:
    """A number and its noun, as they stand in ids: ``1-connection``, ``64-connections``."""
    return f"{count}-{noun}{'' if count == 1 else 's'}"


class BenchmarkError(Exception):
    """A measurement is worth nothing, or cannot be made. ``str()`` says why and what to do."""


def _nothing_to_prepare(_seconds: float) -> None:
    """What most cells need before a run."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One subject under one load.

    Attributes:
        id: a path of words, unique: ``appends/plain/64-connections/counterfoil-2-workers``.
            It names the figure, and the command that gives it again.
        run: drives the load for about so many seconds, after a warm-up of its own, and
            returns figures by name. Raises ``BenchmarkError`` where they would be worth nothing.
        roles: whose CPU time is counted under which role; asked before each run.
        prepare: is given the seconds of the run that follows, and makes what it will use up;
            called before each run, outside of what is measured.
    """

    id: str
    run: Callable[[float], Mapping[str, float]]
    roles: Callable[[], Roles] = field(default=dict)
    prepare: Callable[[float], None] = field(default=_nothing_to_prepare)


@dataclass(frozen=True, slots=True)
class Effort:
    """How often a cell is run, and how long.

    Attributes:
        rounds: in how many rounds; the first ones.
        seconds: what one run is asked to take.
        around_seconds: what it takes beyond that, about: its warm-up, the start of a load
            generator, the checkpoint before it. Only the plan is made from it.
    """

    rounds: int
    seconds: float
    around_seconds: float = 1.5

    @property
    def total_seconds(self) -> float:
        """All its runs, about."""
        return self.rounds * (self.seconds + self.around_seconds)


GOAL: Final = Effort(rounds=5, seconds=4.0)
"""Of a cell that a goal rests on."""

GRID: Final = Effort(rounds=3, seconds=3.0)
"""Of the cells around those, which show how it goes on."""

QUICK: Final = Effort(rounds=2, seconds=2.0)
"""In the short run."""


class Cluster(Protocol):
    """The PostgreSQL server that all subjects share."""

    @property
    def postmaster_pid(self) -> int:
        """The root of the server's processes."""
        ...

    @property
    def binaries(self) -> Path:
        """The folder of the server's programs: ``pgbench``, ``psql``, ``pg_test_fsync``."""
        ...

    def url(self, database: str) -> str:
        """The owner's connection string of a database, through the Unix socket."""
        ...

    def tcp_url(self, database: str) -> str:
        """The same over loopback, for what cannot use a Unix socket."""
        ...

    def environment(self, database: str) -> Mapping[str, str]:
        """The variables by which libpq's programs (pgbench, psql) find a database."""
        ...

    def create_database(self, name: str, *, migrated: bool) -> str:
        """Make an empty database, with Counterfoil's schema if ``migrated``; returns its URL.

        One that exists is dropped first.
        """
        ...

    def drop_database(self, name: str) -> None:
        """Drop a database if it is there, whoever is still connected to it."""
        ...


class Stage(Protocol):
    """What a suite is given to work with."""

    @property
    def cluster(self) -> Cluster:
        """The server of the run."""
        ...

    @property
    def folder(self) -> Path:
        """An empty folder of the run's own, on the same disk as the server's data."""
        ...

    @property
    def quick(self) -> bool:
        """Whether this is the short run: less of everything, the same questions."""
        ...

    def wants(self, cell_id: str) -> bool:
        """Whether this cell was asked for. What no wanted cell needs is not opened."""
        ...

    def say(self, text: str) -> None:
        """Show progress: one line for a person."""
        ...


class Suite(Protocol):
    """One question, and the cells that answer it side by side."""

    @property
    def name(self) -> str:
        """The first part of its cells' ids."""
        ...

    @property
    def title(self) -> str:
        """The heading of its part of the results."""
        ...

    @property
    def doors(self) -> Mapping[str, str]:
        """How each subject is called, by the last part of its cells' ids; empty: all alike."""
        ...

    def cell_ids(self, *, quick: bool) -> Sequence[str]:
        """The ids of all cells, without opening anything."""
        ...

    def effort(self, cell_id: str, *, quick: bool) -> Effort:
        """How often and how long one of these cells is run."""
        ...

    def opening_seconds(self, *, quick: bool) -> float:
        """What opening, filling, closing and checking take beside the runs, about."""
        ...

    def open(self, stage: Stage) -> AbstractContextManager[Sequence[Cell]]:
        """Open the subjects of all wanted cells; close them, and check what they wrote.

        Raises ``BenchmarkError`` on closing where a check failed: the runner then refuses
        all figures of this suite.
        """
        ...
