"""UmaDB: an event store in Rust, made for conditional appends, with files of its own.

It keeps events with tags in one order, as Counterfoil does, and so carries all of the work;
the agent's name goes into the data. It is called over gRPC by its own Python client, whose
work is done in Rust with the interpreter's lock released. The server comes with the same
wheel and runs with its defaults. It groups the appends that wait, and flushes before it
answers; that cannot be switched off. Its files lie beside PostgreSQL's, on the same disk.

What was tried on two cores, with 64 clients: one client object for all threads of a process
is a third faster than one each; four processes are faster than one, two or eight; its page
cache (``--page-cache-max-mb``) and its pipelined writer (``--pipelined-writer``) are slower
than the defaults. Single appends cost its client more than its server.

Sources, read for version 0.7: https://umadb.io/key-features.html (grouped appends, durability) and
https://pypi.org/project/umadb/ (the client, conditions, the server's options).
"""

import importlib.util
import itertools
import signal
import socket
import subprocess
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.harness import processes
from benchmarks.harness.crew import Client, Crew, open_crew
from benchmarks.harness.model import BenchmarkError, Roles, Stage
from benchmarks.subjects import rendered

DOORS: Final = "gRPC, its own Python client, 4 processes of threads"

PROCESSES: Final = 4


def missing() -> str | None:
    """Why it cannot be measured here; None: it can."""
    if importlib.util.find_spec("umadb") is None:
        return "the package umadb is not installed"
    return None


class UmaDb:
    """A running server and its clients. Made by ``opened``."""

    def __init__(self, url: str, server: subprocess.Popen[bytes], crew: Crew) -> None:
        self._url = url
        self._server = server
        self._crew = crew
        self._acknowledged = 0

    def roles(self) -> Roles:
        """Whose CPU time is whose. Raises BenchmarkError when the server has ended."""
        if self._server.poll() is not None:
            raise BenchmarkError("UmaDB's server ended during the run.")
        return {"peer": [self._server.pid]}

    def append(self, seconds: float, *, events: int) -> dict[str, float]:
        """Append as fast as the clients go, unless an event of the transaction is there.

        Returns the cell's figures.
        """
        outcome = self._crew.run(seconds, events=events)
        self._acknowledged += outcome.acknowledged
        return outcome.figures()

    def check(self) -> None:
        """Raise BenchmarkError unless the store holds what was acknowledged."""
        # Its positions have no gaps, so the head is the number of events.
        if (head := _head(self._url)) != self._acknowledged:
            raise BenchmarkError(
                f"UmaDB's head is {head:,}; {self._acknowledged:,} events were acknowledged."
            )


@contextmanager
def opened(stage: Stage, name: str, *, clients: int) -> Iterator[UmaDb]:
    """Run a server on an empty folder while the block does; then check what it holds.

    Raises:
        BenchmarkError: it does not start, or its store is not what was acknowledged.
    """
    folder = stage.folder / name
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command: list[str | Path] = [Path(sysconfig.get_path("scripts"), "umadb")]
    command += ["--listen", f"127.0.0.1:{port}", "--db-path", folder]
    log = stage.folder / f"{name}.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is ours to answer
        )
    try:
        processes.wait_until_it_listens(server, port, name="UmaDB's server", log=log)
        url = f"http://127.0.0.1:{port}"
        opener = partial(_open_clients, url)
        with open_crew(opener, clients=clients, processes=PROCESSES) as crew:
            subject = UmaDb(url, server, crew)
            yield subject
        subject.check()
    finally:
        processes.stop(server)


def _open_clients(url: str, numbers: Sequence[int]) -> list[Client]:
    """The clients of one process, which share a connection."""
    import umadb

    connection = umadb.Client(url)

    def client(number: int) -> Client:
        events = rendered.events(number)

        def append(count: int) -> None:
            batch = list(itertools.islice(events, count))
            query = umadb.Query([umadb.QueryItem(tags=[batch[0].tags[1]])])
            connection.append(
                [umadb.Event(event.event_type, event.data, event.tags) for event in batch],
                umadb.AppendCondition(query),
            )

        return append

    return [client(number) for number in numbers]


def _head(url: str) -> int:
    """The last position; 0 when nothing was written."""
    ours = signal.getsignal(signal.SIGINT)
    import umadb

    # Its import installs a handler of its own.
    signal.signal(signal.SIGINT, ours)
    return umadb.Client(url).head() or 0
