"""The one key: what needs it, what does not, and that a refusal tells nothing."""

import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.contract.conftest import KEY, Door, open_door
from tests.contract.problems import assert_problem
from tests.support.service import Service

OPEN = ["/health/live", "/health/ready", "/problems", "/problems/busy", "/openapi.json", "/docs"]
CLOSED = [
    ("GET", "/events"),
    ("GET", "/events/1"),
    ("GET", "/events/stream"),
    ("GET", "/agent-events/a"),
    ("POST", "/events"),
    ("POST", "/agent-events"),
    ("POST", "/events/batch"),
    ("POST", "/events/query"),
    ("GET", "/metrics"),
    ("GET", "/"),
    ("GET", "/no-such-path"),
    ("DELETE", "/events"),
    ("OPTIONS", "/events"),
    # Spelled so that a careless comparison could take them for something open.
    ("GET", "/health/live/"),
    ("GET", "/health/live/../../events"),
    ("GET", "/HEALTH/live"),
    ("GET", "//health/live"),
    ("GET", "/problems%2F..%2Fevents/../../events"),
]


@pytest.fixture(scope="module")
def stranger(locked_service: Service) -> Iterator[Door]:
    """Somebody without the key."""
    with open_door(locked_service) as door:
        yield door


@pytest.mark.parametrize("path", OPEN)
def test_what_is_not_about_the_book_is_open(stranger: Door, path: str) -> None:
    assert stranger.client.get(path).status_code == 200


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_everything_else_needs_the_key(locked_service: Service, method: str, path: str) -> None:
    # By hand: an HTTP library would tidy up the path.
    status, headers = ask_raw(locked_service, method, path)

    if path.startswith("/problems%2F"):
        # Decoded it lies below /problems/, and there is no such page: nothing was opened.
        assert status == 404
    else:
        assert status == 401
        assert headers["www-authenticate"].startswith("Bearer")


def ask_raw(service: Service, method: str, path: str) -> tuple[int, dict[str, str]]:
    """Send a request line as it is; returns the status and the headers."""
    address = urlsplit(service.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(
            f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        )
        answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    head, _, _ = answer.partition("\r\n\r\n")
    line, *fields = head.split("\r\n")
    headers = dict(field.split(": ", 1) for field in fields)
    return int(line.split()[1]), {name.lower(): value for name, value in headers.items()}


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": f"bearer {KEY}"},
        {"Authorization": f"Bearer  {KEY}"},
        {"X-API-Key": KEY},
        {"X-API-Key": KEY, "Authorization": "Basic dXNlcjpwYXNz"},
        {"X-API-Key": KEY, "Authorization": f"Bearer {KEY}"},
    ],
)
def test_the_key_opens_the_service(locked_service: Service, headers: dict[str, str]) -> None:
    with open_door(locked_service, **headers) as door:
        assert door.client.get("/events").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": KEY},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Bearer {KEY[:-1]}"},
        {"Authorization": f"Bearer {KEY.upper()}"},
        {"X-API-Key": ""},
        {"X-API-Key": "wrong"},
        {"X-API-Key": KEY, "Authorization": "Bearer wrong"},
        {"X-API-Key": "wrong", "Authorization": f"Bearer {KEY}"},
        {"Cookie": f"api_key={KEY}"},
    ],
)
def test_any_other_credential_is_refused_alike(
    locked_service: Service, headers: dict[str, str]
) -> None:
    with open_door(locked_service) as door:
        answer = door.client.get("/events", headers=headers)
        missing = door.client.get("/events")

    document = assert_problem(answer, 401, "unauthenticated")
    del document["request_id"]
    assert document == {
        name: value for name, value in missing.json().items() if name != "request_id"
    }
    assert KEY not in answer.text


def test_the_key_in_the_address_is_not_looked_at(stranger: Door) -> None:
    assert stranger.client.get("/events", params={"api_key": KEY}).status_code == 401


def test_a_wrong_key_is_refused_before_the_body_is_read(locked_service: Service) -> None:
    """The body never comes, and the answer does."""
    address = urlsplit(locked_service.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(
            b"POST /events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 400000\r\n\r\n"
        )
        assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")


def test_the_key_is_nowhere_in_the_log(locked_service: Service) -> None:
    with open_door(locked_service, Authorization=f"Bearer {KEY}") as door:
        door.append()
        door.client.get("/no-such-path")

    assert KEY not in locked_service.log


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "192.168.1.7:8000", "127.0.0.1.nip.io", "", "@"],
)
def test_without_a_key_no_other_name_leads_here(door: Door, host: str) -> None:
    """A page's own name, made to stand for 127.0.0.1, would be the page's own origin."""
    head = door.head()

    answer = door.client.post(
        "/events",
        json={"agent_name": "page", "event_type": "t", "payload": {}},
        headers={"Host": host},
    )

    assert_problem(answer, 421, "foreign-host")
    assert door.head() == head


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.1.2.3:80", "[::1]", "[::1]:8000"]
)
def test_without_a_key_this_machines_names_lead_here(door: Door, host: str) -> None:
    assert door.client.get("/events", headers={"Host": host}).status_code == 200


def test_with_the_key_any_name_leads_here(locked_service: Service) -> None:
    """The name is then whatever stands in front of the service."""
    with open_door(locked_service, **{"X-API-Key": KEY, "Host": "book.example"}) as holder:
        assert holder.client.get("/events").status_code == 200
