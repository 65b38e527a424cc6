"""What every refusal looks like, checked in one place."""

from typing import Any

import httpx2


def assert_problem(
    answer: httpx2.Response,
    status: int,
    name: str | None = None,
    pointer: str | None = None,
    location: str | None = None,
) -> dict[str, Any]:
    """Check that an answer is the problem of this name, at this pointer; returns the document."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert name is None or document["type"] == f"/problems/{name}", document
    assert document["status"] == status
    assert document["title"]
    assert document["detail"].endswith((".", "?", "`")), document["detail"]
    assert document["request_id"] == answer.headers["X-Request-Id"]
    assert ("Retry-After" in answer.headers) == (status in {429, 503})
    if pointer is not None:
        found = [(error["pointer"], error["in"]) for error in document["errors"]]
        assert (pointer, location or "body") in found, document["errors"]
        assert all(error["message"] for error in document["errors"])
    return document
