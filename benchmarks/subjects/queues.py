"""Queues that are functions or statements in PostgreSQL, taken from by pgbench.

A holder is a client of pgbench, a C program with a connection of its own and prepared
statements: no library could call them with less between. One script is one turn of a worker
that survives a crash: the first statement claims, commits, and brings the messages whole to
the client; the second acknowledges what was brought, in a transaction of its own. So a
message's lease is really taken and really given up, and both are flushed to disk.

Each run has a new queue, filled before the clock starts with more than it will take, by the
product's own way to send many at once. After the run the tables must
add up: what was acknowledged is gone or marked as done, the rest waits and was never handed
out, and nothing was handed out twice.
"""

import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Final, LiteralString

import psycopg
from psycopg.rows import dict_row

from benchmarks.harness import work
from benchmarks.harness.model import BenchmarkError, Roles, Stage
from benchmarks.subjects import plain_postgresql, stored_functions
from benchmarks.subjects.plain_postgresql import PlainPostgresql

DOORS: Final = stored_functions.DOORS

LEASE_SECONDS: Final = 600
"""Longer than any run: no lease is to end in one."""

FILL_MORE_THAN_SEEN: Final = 1.5
FILL_CHUNK: Final = 5_000
FILL_SESSIONS: Final = 2

EXPECTED_PER_SECOND: Final[Mapping[int, float]] = {1: 3_000, 50: 25_000}
"""By the size of a batch: what a queue is filled for at least. A run that was disturbed says
too little about the next."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one holder does again and again: claim so many, and acknowledge them.

    ``outcomes``: with each acknowledgement, in one transaction, as many messages are written
    that say what came of them.
    """

    holders: int
    batch: int
    outcomes: bool = False


@dataclass(frozen=True, slots=True)
class Script:
    """A turn as pgbench's script. ``claim`` gives one row, whose columns ``acknowledge`` names.

    ``variables``: what else the two name.
    """

    claim: str
    acknowledge: str
    variables: Mapping[str, str]

    @property
    def text(self) -> str:
        """The file."""
        return f"{self.claim}\n\\gset\n{self.acknowledge};\n"


@dataclass(frozen=True, slots=True)
class Product:
    """What tells one queue from another.

    Attributes:
        name: of its database, and for messages.
        install: makes its tables and functions.
        empty: a statement that leaves an empty queue, with new files.
        fill: sends many messages, of their payloads and headers: JSON texts.
        script: makes a turn's script, in an installed database.
        state: a statement whose one row says how many are ``waiting``, ``held``, were
            ``handed_out_again``, and how many ``outcomes`` there are.
        settle: a statement that vacuums and analyzes.
    """

    name: str
    install: Callable[[psycopg.Connection], None]
    empty: LiteralString
    fill: Callable[[psycopg.Connection, Sequence[str], Sequence[str]], None]
    script: Callable[[psycopg.Connection, Turn], Script]
    state: LiteralString
    settle: LiteralString


class Queue:
    """A product's queue in a database of its own. Made by ``opened``."""

    def __init__(self, stage: Stage, product: Product, database: str) -> None:
        self._stage = stage
        self._product = product
        self._pgbench = PlainPostgresql(stage, database)
        self._filled = 0
        self._seen: dict[Turn, float] = {}

    def roles(self) -> Roles:
        """Whose CPU time is whose."""
        return self._pgbench.roles()

    def prepare(self, turn: Turn, seconds: float) -> None:
        """Make the queue anew, with more than so long a run takes."""
        seen = FILL_MORE_THAN_SEEN * self._seen.get(turn, 0.0)
        running = seconds + plain_postgresql.WARM_UP_SECONDS + 1
        wanted = max(seen, EXPECTED_PER_SECOND[turn.batch]) * running + turn.holders * turn.batch
        chunks = math.ceil(wanted / FILL_CHUNK)
        with self._connected() as connection:
            connection.execute(self._product.empty)
        _in_sessions(self._fill, chunks)
        with self._connected() as connection:
            connection.execute(self._product.settle)
        self._filled = chunks * FILL_CHUNK

    def take(self, turn: Turn, seconds: float) -> dict[str, float]:
        """Let all holders claim and acknowledge; returns the cell's figures.

        Raises:
            BenchmarkError: a statement failed, the queue ran empty, or the tables do not add up.
        """
        with self._connected() as connection:
            script = self._product.script(connection, turn)
        path = self._stage.folder / f"{self._pgbench.database}.sql"
        path.write_text(script.text)
        try:
            figures = self._pgbench.pgbench(
                path,
                seconds,
                clients=turn.holders,
                rows=turn.batch,
                variables=[f"{name}={value}" for name, value in script.variables.items()],
            )
        except BenchmarkError as error:
            if self._state()["waiting"] < turn.batch:
                raise BenchmarkError(
                    f"{self._product.name}: {self._filled:,} messages were too few for {seconds} s."
                ) from error
            raise
        self._seen[turn] = max(self._seen.get(turn, 0.0), figures["events_per_second"])
        self._check(round(figures["events"]), outcomes=turn.outcomes)
        return figures

    def _check(self, acknowledged: int, *, outcomes: bool) -> None:
        state = self._state()
        wanted = {
            "waiting": self._filled - acknowledged,
            "held": 0,
            "handed_out_again": 0,
            "outcomes": acknowledged if outcomes else 0,
        }
        wrong = [
            f"{name.replace('_', ' ')} {state[name]:,}, not {count:,}"
            for name, count in wanted.items()
            if state[name] != count
        ]
        if wrong:
            raise BenchmarkError(
                f"{self._product.name}: of {self._filled:,} messages, {acknowledged:,} were "
                f"acknowledged, but {'; '.join(wrong)}."
            )

    def _state(self) -> Mapping[str, int]:
        with self._connected() as connection, connection.cursor(row_factory=dict_row) as cursor:
            row = cursor.execute(self._product.state).fetchone()
        assert row is not None
        return row

    def _fill(self, chunks: Iterator[int]) -> None:
        with self._connected() as connection:
            # A filled queue that a crash loses is filled again.
            connection.execute("set synchronous_commit = off")
            for _ in chunks:
                self._product.fill(connection, *_messages())

    def _connected(self) -> psycopg.Connection:
        return psycopg.connect(self._pgbench.database_url, autocommit=True)


def _in_sessions(fill: Callable[[Iterator[int]], None], chunks: int) -> None:
    numbers = iter(range(chunks))
    lock = threading.Lock()

    def taken() -> Iterator[int]:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            yield number

    with ThreadPoolExecutor(FILL_SESSIONS, thread_name_prefix="filling") as executor:
        for each in [executor.submit(fill, taken()) for _ in range(FILL_SESSIONS)]:
            each.result()


@cache
def _messages() -> tuple[Sequence[str], Sequence[str]]:
    """A chunk of messages: their payloads, and in their headers what no queue has a place for."""
    events = list(work.events(count=FILL_CHUNK))
    return [event.payload_text for event in events], [headers(event) for event in events]


def headers(event: work.Event) -> str:
    """The agent, the type and the tags, as JSON: stored and not indexed."""
    return json.dumps(
        {"agent_name": event.agent_name, "type": event.event_type, "tags": event.tags}
    )


def placed(statement: str, variables: Sequence[str]) -> str:
    """A product's own statement with ``$1``, ``$2`` … as a script of pgbench names them."""
    # From the last to the first: $1 is the beginning of $10.
    for number in range(len(variables), 0, -1):
        statement = statement.replace(f"${number}", f":{variables[number - 1]}")
    return statement


@contextmanager
def opened(stage: Stage, product: Product) -> Iterator[Queue]:
    """A new database with the product in it while the block does."""
    database = f"queue_{product.name}"
    url = stage.cluster.create_database(database, migrated=False)
    with psycopg.connect(url, autocommit=True) as connection:
        product.install(connection)
    yield Queue(stage, product, database)
    stage.cluster.drop_database(database)
