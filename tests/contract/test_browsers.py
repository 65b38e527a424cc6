"""What a browser may make of an answer, and what a page of another origin gets: nothing."""

import re
from collections.abc import Iterator

import httpx2
import pytest

from tests.contract.conftest import KEY, Door, open_door
from tests.contract.test_http import wire
from tests.support.service import Service

API_POLICY = "default-src 'none'; frame-ancestors 'none'"
FIXED = {
    "x-content-type-options": "nosniff",
    "content-security-policy": API_POLICY,
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
pytestmark = pytest.mark.promise("P7")

PAGES = ["/docs", "/problems", "/problems/busy"]
FOREIGN = {"Origin": "https://elsewhere.example"}


@pytest.fixture(scope="module")
def locked(locked_service: Service) -> Iterator[Door]:
    """A service that asks for a key, called with it."""
    with open_door(locked_service, **{"X-API-Key": KEY}) as opened:
        yield opened


def rules(answer: httpx2.Response) -> dict[str, str | None]:
    return {name: answer.headers.get(name) for name in FIXED}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/events", 201),
        ("GET", "/events", 200),
        ("GET", "/health/live", 200),
        ("GET", "/metrics", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/events/999999999", 404),
        ("GET", "/nowhere", 404),
        ("PUT", "/events", 405),
        ("HEAD", "/nowhere", 404),
    ],
)
def test_every_answer_says_what_a_browser_may_do_with_it(
    locked: Door, method: str, path: str, status: int
) -> None:
    event = {"agent_name": "a", "event_type": "t", "payload": {}}
    answer = locked.client.request(method, path, json=event if method == "POST" else None)

    assert answer.status_code == status
    assert rules(answer) == FIXED
    assert "strict-transport-security" not in answer.headers


def test_a_refusal_says_so_too(locked_service: Service) -> None:
    with open_door(locked_service) as stranger:
        answer = stranger.client.get("/events")

    assert answer.status_code == 401
    assert rules(answer) == FIXED


def test_a_stream_says_so_too(door: Door) -> None:
    with door.client.stream("GET", "/events/stream") as answer:
        assert answer.status_code == 200
        assert rules(answer) == {**FIXED, "cache-control": answer.headers["cache-control"]}


@pytest.mark.parametrize(
    ("said", "status"),
    [(b"NOT HTTP\r\n\r\n", b"400"), (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200, b"431")],
)
def test_what_is_refused_before_it_is_a_request_says_so_too(
    door: Door, said: bytes, status: bytes
) -> None:
    with wire(door) as connection:
        connection.sendall(said)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))

    assert answer.startswith(b"HTTP/1.1 " + status)
    for name, value in FIXED.items():
        assert f"{name}: {value}\r\n".encode() in answer


@pytest.mark.parametrize("path", PAGES)
def test_a_page_may_use_what_is_its_own_and_no_more(door: Door, path: str) -> None:
    answer = door.client.get(path, headers={"Accept": "text/html"})

    assert answer.headers["content-type"].startswith("text/html")
    policy = dict(
        part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy.get("script-src", "'none'") in {"'none'", "'self'"}
    assert policy.get("connect-src", "'none'") in {"'none'", "'self'"}
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_the_page_of_the_calls_comes_from_this_service_to_its_last_byte(
    locked_service: Service,
) -> None:
    """People paste keys into it. It needs none itself."""
    with open_door(locked_service) as stranger:
        page = stranger.client.get("/docs").text
        assert not re.findall(r"<script>|https?://|//\w", page)
        wanted = re.findall(r'(?:src|href)="(/[^"]+)"', page)
        assert len(wanted) == 4
        answers = {path: stranger.client.get(path) for path in wanted}

    kinds = {path: answer.headers["content-type"] for path, answer in answers.items()}
    assert {answer.status_code for answer in answers.values()} == {200}
    assert kinds["/docs/swagger-ui-bundle.js"].startswith("text/javascript")
    assert kinds["/docs/start.js"].startswith("text/javascript")
    assert kinds["/docs/swagger-ui.css"].startswith("text/css")
    assert kinds["/openapi.json"] == "application/json"


def test_below_the_page_of_the_calls_is_nothing_else(locked_service: Service) -> None:
    with open_door(locked_service) as stranger:
        for path in ("/docs/", "/docs/favicon.png", "/docs/%2e%2e/events", "/docs/x/../../events"):
            assert stranger.client.get(path).status_code in {401, 404}, path


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *[("GET", path) for path in ("/events", "/openapi.json", "/health/live", *PAGES)],
        ("POST", "/events"),
        ("OPTIONS", "/events"),
        ("OPTIONS", "/nowhere"),
    ],
)
def test_a_page_of_another_origin_may_read_nothing(locked: Door, method: str, path: str) -> None:
    """CORS is closed: a browser lets only those read an answer whom it names."""
    answer = locked.client.request(
        method, path, headers={**FOREIGN, "Access-Control-Request-Method": "POST"}
    )

    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(("with_key", "status"), [(False, 401), (True, 405)])
def test_a_preflight_is_refused(
    locked_service: Service, locked: Door, *, with_key: bool, status: int
) -> None:
    headers = {
        **FOREIGN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type, x-api-key",
    }
    with open_door(locked_service) as stranger:
        caller = locked if with_key else stranger
        answer = caller.client.options("/events", headers=headers)

    assert answer.status_code == status
    assert not [name for name in answer.headers if name.startswith("access-control")]
