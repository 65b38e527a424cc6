"""The limits around us: what the disk and PostgreSQL can do, and what the generators can."""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Final

from benchmarks.harness import openloop, requests, wrk
from benchmarks.harness.model import GRID, BenchmarkError, Cell, Effort, Stage, counted
from benchmarks.subjects import canned, plain_postgresql
from benchmarks.suites.conditions import five_items

CLIENTS: Final = (1, 8, 64)
FSYNC: Final = "limits/pg-test-fsync"
PLAIN: Final = "limits/load-generator/wrk-plain"
CONDITIONAL: Final = "limits/load-generator/wrk-conditional"
OPEN_LOOP: Final = "limits/load-generator/open-loop"

GENERATOR_CONNECTIONS: Final = 64
OPEN_LOOP_RATE: Final = 10_000.0


class Limits:
    """What bounds every subject, and every measurement."""

    name: Final = "limits"
    title: Final = "The limits around it"
    doors: Final[Mapping[str, str]] = {}

    def cell_ids(self, *, quick: bool) -> Sequence[str]:
        """None in the quick run: no goal needs them."""
        if quick:
            return []
        inserts = [f"limits/pgbench-insert/{counted(clients, 'client')}" for clients in CLIENTS]
        return [FSYNC, *inserts, PLAIN, CONDITIONAL, OPEN_LOOP]

    def effort(self, cell_id: str, *, quick: bool) -> Effort:  # noqa: ARG002 - all alike
        """These are for orientation; no goal rests on them."""
        return Effort(rounds=2, seconds=GRID.seconds)

    def opening_seconds(self, *, quick: bool) -> float:  # noqa: ARG002 - none in the short run
        """A table, and a server of canned answers."""
        return 3

    @contextmanager
    def open(self, stage: Stage) -> Iterator[Sequence[Cell]]:
        """A plain table, and a server of canned answers."""
        wanted = [cell for cell in self.cell_ids(quick=stage.quick) if stage.wants(cell)]
        cells: list[Cell] = []
        with ExitStack() as opened:
            if FSYNC in wanted:
                cells.append(Cell(FSYNC, partial(_fsync, stage)))
            inserts = [cell for cell in wanted if "/pgbench-insert/" in cell]
            if inserts:
                plain = opened.enter_context(plain_postgresql.opened(stage, "limits_plain"))
                for cell in inserts:
                    clients = int(cell.rpartition("/")[2].partition("-")[0])
                    run = partial(plain.insert_rows, clients=clients)
                    cells.append(Cell(cell, run, plain.roles))
            generators = [cell for cell in wanted if "/load-generator/" in cell]
            if generators:
                server = opened.enter_context(canned.running())
                for cell in generators:
                    run = partial(_generate, stage, server, cell)
                    cells.append(Cell(cell, run, lambda: {"peer": [server.pid]}))
            yield cells


def _generate(
    stage: Stage, server: canned.CannedServer, cell: str, seconds: float
) -> dict[str, float]:
    """Drive the load of the other suites against canned answers."""
    conditional = cell == CONDITIONAL
    rendered = [
        requests.render(
            "/agent-events",
            {**body, **({"condition": five_items(body)} if conditional else {})},
            host=f"{server.host}:{server.port}",
            headers={"Authorization": "Bearer benchmark"},
        )
        for body in requests.numbered_events(5_000)
    ]
    if cell == OPEN_LOOP:
        return openloop.run(
            server.host,
            server.port,
            lambda number: requests.fill(rendered[number % len(rendered)], number=number),
            connections=GENERATOR_CONNECTIONS,
            rate=OPEN_LOOP_RATE,
            seconds=seconds,
        ).figures()
    file = requests.write(stage.folder / f"{cell.rpartition('/')[2]}.requests", rendered)
    result = wrk.run(
        server.url,
        "conditions.lua" if conditional else "requests.lua",
        [file, 0, 0, 0, 1] if conditional else [file, 0],
        connections=GENERATOR_CONNECTIONS,
        seconds=round(seconds),
    )
    return {
        "events_per_second": result.per_second,
        **result.latencies(),
        "errors": 0.0,
        "events": float(result.requests),
    }


def _fsync(stage: Stage, _seconds: float) -> dict[str, float]:
    """Ask PostgreSQL's own tool how often a second a page can be flushed (fdatasync)."""
    process = subprocess.Popen(
        [
            stage.cluster.binaries / "pg_test_fsync",
            *("--secs-per-test", "2", "--filename", str(stage.folder / "pg_test_fsync.out")),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            per_second = parse_fsync(line)
            if per_second is not None:
                return {
                    "flushes_per_second": per_second,
                    "flush_milliseconds": 1e3 / per_second,
                    "errors": 0.0,
                }
        raise BenchmarkError("pg_test_fsync did not say how fast fdatasync is")
    finally:
        # The first of its tests is the one that is asked for; the others take half a minute.
        process.kill()
        process.communicate()


def parse_fsync(line: str) -> float | None:
    """Flushes per second, of the line ``fdatasync   1234.567 ops/sec   810 usecs/op``."""
    words = line.split()
    if words[:1] != ["fdatasync"] or "ops/sec" not in words:
        return None
    return float(words[words.index("ops/sec") - 1])
