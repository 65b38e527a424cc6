"""HTTP itself: paths, methods, headers, and what a caller may send before it is too much."""

import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from counterfoil.server.core import limits
from tests.contract.conftest import Door
from tests.contract.problems import assert_problem

pytestmark = pytest.mark.promise("P13")

MEBIBYTE = 1024 * 1024


@contextmanager
def wire(door: Door) -> Iterator[socket.socket]:
    """A connection on which anything can be said."""
    address = urlsplit(door.service.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        yield connection


def read_answer(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """Read one answer; returns its status and its document."""
    data = b""
    while b"\r\n\r\n" not in data:
        received = connection.recv(65536)
        assert received, data
        data += received
    head, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    assert length
    while len(body) < int(length[1]):
        body += connection.recv(65536)
    return int(head.split()[1]), json.loads(body)


# --- Paths and methods ------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/", "/nowhere", "/events/", "/events/1/2", "/agent-event/a", "/problems/", "/EVENTS"]
)
def test_an_unknown_path_is_a_problem(door: Door, path: str) -> None:
    assert_problem(door.client.get(path), 404, "not-found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/events", "GET, POST"),
        ("DELETE", "/events", "GET, POST"),
        ("OPTIONS", "/events", "GET, POST"),
        ("PATCH", "/events/1", "GET"),
        ("DELETE", "/events/1", "GET"),
        ("GET", "/agent-events", "POST"),
        ("POST", "/agent-events/a", "GET"),
        ("POST", "/events/stream", "GET"),
        ("POST", "/health/live", "GET"),
        ("PROPFIND", "/events", "GET, POST"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(
    door: Door, method: str, path: str, allowed: str
) -> None:
    answer = door.client.request(method, path)

    assert_problem(answer, 405, "method-not-allowed")
    assert answer.headers["Allow"] == allowed


def test_a_head_request_is_told_the_right_methods(door: Door) -> None:
    answer = door.client.head("/events")

    assert answer.status_code == 405
    assert answer.headers["Allow"] == "GET, POST"
    assert answer.content == b""


def test_nothing_is_allowed_to_pages_of_other_origins(door: Door) -> None:
    origin = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST"}
    for method in ("GET", "OPTIONS"):
        answer = door.client.request(method, "/events", headers=origin)
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]


# --- Headers ----------------------------------------------------------------------


def test_every_answer_has_an_id_of_its_own(door: Door) -> None:
    ids = {door.client.get(path).headers["X-Request-Id"] for path in ("/events", "/x", "/metrics")}

    assert len(ids) == 3


def test_a_callers_request_id_is_taken_over(door: Door) -> None:
    ours = {"X-Request-Id": "my-own:42"}

    assert door.client.get("/events", headers=ours).headers["X-Request-Id"] == "my-own:42"
    assert door.client.get("/nowhere", headers=ours).json()["request_id"] == "my-own:42"


@pytest.mark.parametrize(
    "value", [b"", b"x" * 129, b"a b", b"a\tb", "ä".encode()], ids=lambda value: repr(value[:8])
)
def test_a_request_id_that_could_break_a_log_is_replaced(door: Door, value: bytes) -> None:
    answer = door.client.get("/events", headers=[(b"X-Request-Id", value)])

    assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-Id"])


@pytest.mark.parametrize("path", ["/events", "/events?limit=0", "/health/ready", "/nowhere"])
def test_no_answer_is_kept_or_guessed_at(door: Door, path: str) -> None:
    answer = door.client.get(path)

    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "Server" not in answer.headers


# --- Bodies -----------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/agent-events", "/events", "/events/batch", "/events/query"])
def test_a_body_of_10_mebibytes_is_too_large(door: Door, path: str) -> None:
    body = b'{"agent_name":"' + b"a" * 10 * MEBIBYTE + b'"}'

    with door.stores_nothing():
        answer = door.client.post(path, content=body, headers={"Content-Type": "application/json"})

    assert_problem(answer, 413, "body-too-large", "")


def test_a_body_without_a_length_is_cut_off_at_the_limit(door: Door) -> None:
    """The answer comes while the body is still being sent, which never ends."""
    with door.stores_nothing(), wire(door) as connection:
        connection.sendall(
            b"POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        for _ in range(limits.APPEND_BODY_BYTES_MAX // 65536 + 1):
            connection.sendall(chunk)
        status, document = read_answer(connection)

    assert status == 413
    assert document["type"] == "/problems/body-too-large"


def test_an_announced_length_is_enough_to_refuse(door: Door) -> None:
    """Not one byte of the body is sent."""
    with door.stores_nothing(), wire(door) as connection:
        connection.sendall(
            b"POST /events/batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 10485760\r\n\r\n"
        )
        status, document = read_answer(connection)

    assert status == 413
    assert document["type"] == "/problems/body-too-large"


def test_what_follows_a_length_that_was_too_small_is_not_read_as_a_body(door: Door) -> None:
    body = b'{"agent_name":"a","event_type":"t","payload":{}}'
    with door.stores_nothing(), wire(door) as connection:
        connection.sendall(
            b"POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 10\r\n\r\n" + body
        )
        status, document = read_answer(connection)

    assert status == 400
    assert document["type"] in {"/problems/malformed-document", "/problems/malformed-request"}


def test_a_body_that_breaks_off_stores_nothing(door: Door) -> None:
    body = b'{"agent_name":"a","event_type":"t","payload":{}}'
    with door.stores_nothing(), wire(door) as connection:
        connection.sendall(
            b"POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: " + str(len(body) + 1).encode() + b"\r\n\r\n" + body
        )


def test_the_largest_payload_is_accepted(door: Door) -> None:
    payload = {"a": "x" * (limits.PAYLOAD_BYTES_MAX - len('{"a": ""}'))}

    position = door.append(payload=payload)

    assert door.client.get(f"/events/{position}").json()["payload"] == payload


# --- What is not a request --------------------------------------------------------


def test_what_is_not_http_is_a_problem_too(door: Door) -> None:
    with wire(door) as connection:
        connection.sendall(b"hello there\r\n\r\n")
        status, document = read_answer(connection)
        assert connection.recv(1) == b""  # closed

    assert status == 400
    assert document["type"] == "/problems/malformed-request"
    assert document["request_id"]


@pytest.mark.parametrize(
    "start",
    [
        b"GET /events?x=",
        b"GET /events HTTP/1.1\r\nHost: localhost\r\nX-Long: ",
        b"GET /events HTTP/1.1\r\nHost: localhost\r\nX-Long",
    ],
    ids=["an address", "a header's value", "a header's name"],
)
def test_headers_without_an_end_are_cut_off(door: Door, start: bytes) -> None:
    with wire(door) as connection:
        connection.sendall(start)
        with pytest.raises((ConnectionError, AssertionError)):  # noqa: PT012 - when is open
            for _ in range(1024):
                connection.sendall(b"x" * 4096)
            raise AssertionError("the service took 4 MiB of headers")


def test_headers_that_are_too_long_are_a_problem(door: Door) -> None:
    with wire(door) as connection:
        connection.sendall(
            b"GET /events HTTP/1.1\r\nHost: localhost\r\n"
            + b"X-One: two\r\n" * (limits.HEADERS_BYTES_MAX // 10)
            + b"\r\n"
        )
        status, document = read_answer(connection)

    assert status == 431
    assert document["type"] == "/problems/headers-too-large"


def test_long_headers_within_the_limit_are_read(door: Door) -> None:
    answer = door.client.get("/events", headers={"X-Long": "x" * 60_000})

    assert answer.status_code == 200


def test_two_requests_on_one_connection_are_both_answered(door: Door) -> None:
    with wire(door) as connection:
        request = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n"
        connection.sendall(request + b"\r\n" + request + b"Connection: close\r\n\r\n")
        answers = b"".join(iter(lambda: connection.recv(65536), b""))

    assert answers.count(b"HTTP/1.1 200 OK\r\n") == 2
