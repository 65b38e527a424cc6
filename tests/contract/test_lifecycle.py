"""Starting, failing and ending: the database away, workers that die, signals."""

import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from counterfoil.server.db.embedded import EmbeddedPostgres
from counterfoil.server.db.migrations import migrate
from tests.contract.conftest import Door, open_door
from tests.contract.problems import assert_problem
from tests.support.cluster import Database
from tests.support.service import running_service
from tests.support.waiting import wait_for

EVENT = {"agent_name": "a", "event_type": "t", "payload": {}}


@pytest.fixture
def own_postgres(data_dir: Path) -> Iterator[EmbeddedPostgres]:
    """A server of the test's own, to stop and start."""
    server = EmbeddedPostgres(data_dir)
    server.start()
    try:
        migrate(server.url)
        yield server
    finally:
        server.stop()


def shut_down(server: EmbeddedPostgres) -> None:
    """Have PostgreSQL end its connections and itself; ``start()`` brings it back."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGINT)
    wait_for(lambda: server.pid is None, "PostgreSQL to end")


def at_once(*calls: Callable[[], httpx2.Response]) -> list[httpx2.Response]:
    """Make calls side by side: without a database each takes as long as it may."""
    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(lambda call: call(), calls))


# --- The database -----------------------------------------------------------------


@pytest.mark.promise("P13")
def test_without_the_database_calls_are_refused_and_later_taken_again(
    own_postgres: EmbeddedPostgres,
) -> None:
    with running_service(own_postgres.url) as service, open_door(service) as door:
        first = door.append()
        shut_down(own_postgres)

        write, ready, *reads = at_once(
            lambda: door.client.post("/events", json=EVENT),
            lambda: door.client.get("/health/ready"),
            lambda: door.client.get("/events"),
            lambda: door.client.get("/events/1"),
            lambda: door.client.get("/agent-events/a"),
            lambda: door.client.get("/events/stream"),
            lambda: door.client.post("/events/query", json={"query": [{"types": ["t"]}]}),
        )
        refusal = assert_problem(write, 503, "not-written")
        assert "nothing was written" in refusal["detail"].lower()
        assert refusal["request_id"] in service.log
        for read in reads:
            assert_problem(read, 503, "database-unavailable")
        readiness = assert_problem(ready, 503, "not-ready")
        assert readiness["checks"]["database"] != "ok"
        assert door.client.get("/health/live").status_code == 200
        assert door.client.get("/metrics").status_code == 200

        own_postgres.start()
        wait_for(
            lambda: door.client.get("/health/ready").status_code == 200, "the service to recover"
        )
        wait_for(lambda: door.client.get("/events").status_code == 200, "reads to be answered")
        assert door.append() == first + 1


def test_a_service_starts_before_its_database(own_postgres: EmbeddedPostgres) -> None:
    shut_down(own_postgres)
    with (
        running_service(own_postgres.url, wait_until_ready=False) as service,
        open_door(service) as door,
    ):
        ready, write = at_once(
            lambda: door.client.get("/health/ready"),
            lambda: door.client.post("/events", json=EVENT),
        )
        assert_problem(ready, 503, "not-ready")
        assert_problem(write, 503, "not-written")
        own_postgres.start()
        service.wait_until_ready()
        assert door.append() == 1


def test_no_log_line_and_no_answer_holds_the_password() -> None:
    url = "postgresql://somebody:hush-hush@127.0.0.1:1/nowhere"
    with running_service(url, wait_until_ready=False) as service, open_door(service) as door:
        answers = at_once(
            lambda: door.client.get("/health/ready"),
            lambda: door.client.post("/events", json=EVENT),
        )

        assert {answer.status_code for answer in answers} == {503}
        assert not [answer for answer in answers if "hush" in answer.text]
        assert "hush" not in service.log


# --- Signals ----------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_ends_the_service(
    database: Database, workers: int, number: signal.Signals
) -> None:
    with running_service(database.url, workers=workers) as service, open_door(service) as door:
        door.append()
        service.process.send_signal(number)

        assert service.process.wait(20) == 0
        with pytest.raises(httpx2.ConnectError):
            door.client.get("/health/live")


def test_what_was_accepted_is_answered_before_the_end(database: Database) -> None:
    """The body is on its way when the signal comes; it is read, stored and answered."""
    body = b'{"agent_name":"late","event_type":"t","payload":{}}'
    with running_service(database.url) as service:
        address = urlsplit(service.url)
        with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
            connection.sendall(
                b"POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Expect: 100-continue\r\nContent-Length: " + str(len(body)).encode() + b"\r\n\r\n"
            )
            # The service asks for the body: so the request is in its hands.
            assert connection.recv(65536).startswith(b"HTTP/1.1 100 ")
            service.terminate()
            wait_for(lambda: "Shutting down" in service.log, "the service to stop listening")
            connection.sendall(body)
            assert connection.recv(65536).startswith(b"HTTP/1.1 201 ")
        assert service.process.wait(20) == 0


# --- Several workers --------------------------------------------------------------


def children_of(process_id: int) -> list[int]:
    """The worker processes of a supervisor."""
    listed = Path(f"/proc/{process_id}/task/{process_id}/children").read_text(encoding="ascii")
    return [
        child
        for child in map(int, listed.split())
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="looks for processes in /proc"
)


@needs_proc
def test_a_worker_that_dies_is_replaced(database: Database) -> None:
    with running_service(database.url, workers=2) as service, open_door(service) as door:
        before = children_of(service.process.pid)
        assert len(before) == 2
        os.kill(before[0], signal.SIGKILL)

        def replaced() -> bool:
            now = children_of(service.process.pid)
            return len(now) == 2 and before[0] not in now

        wait_for(replaced, "a new worker")
        wait_for(lambda: _answers(door), "the service to answer")
        door.append()


def _answers(door: Door) -> bool:
    try:
        return door.client.get("/health/ready").status_code == 200
    except httpx2.TransportError:
        return False  # It was the connection of the worker that died.


@needs_proc
def test_workers_do_not_outlive_their_supervisor(database: Database) -> None:
    with running_service(database.url, workers=2) as service:
        workers = children_of(service.process.pid)
        os.kill(service.process.pid, signal.SIGKILL)
        service.process.wait(10)

        wait_for(lambda: not [one for one in workers if _runs(one)], "the workers to end")


def _runs(process_id: int) -> bool:
    try:
        status = Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(") ")[2][0] != "Z"


def test_counters_of_all_workers_are_added_up(database: Database) -> None:
    with running_service(database.url, workers=2) as service:
        for _ in range(12):
            # A connection each, so that both workers get some.
            with open_door(service) as door:
                door.append()
        with open_door(service) as door:
            shown = {stored(door) for _ in range(5)}

    assert shown == {12}


def stored(door: Door) -> int:
    found = re.search(
        r"^counterfoil_events_stored_total (\d+)", door.client.get("/metrics").text, re.MULTILINE
    )
    assert found
    return int(found[1])


def test_metrics_name_routes_and_never_paths(door: Door) -> None:
    door.client.get("/agent-events/a-secret-name")
    door.client.get("/no-such-path/a-secret-name")
    door.client.request("PROPFIND", "/events")

    text = door.client.get("/metrics").text

    assert "a-secret-name" not in text
    assert "PROPFIND" not in text
    assert 'route="/agent-events/{agent_name}"' in text
    assert 'route="none"' in text


# --- The port ---------------------------------------------------------------------


def test_a_service_can_start_again_on_its_port_at_once(database: Database) -> None:
    with running_service(database.url) as service:
        port = urlsplit(service.url).port
        assert port is not None
        with open_door(service) as door:
            door.append()
    started_at = time.monotonic()
    with running_service(database.url, port=port) as service, open_door(service) as door:
        assert door.head() == 1
    assert time.monotonic() - started_at < 20
