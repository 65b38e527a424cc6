"""The description of the service: valid, complete, and true of what it answers."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, assume, given, settings
from jsonschema_rs import Draft202012Validator
from pydantic import SecretStr
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from counterfoil.server.api import problems
from counterfoil.server.api.auth import is_open
from counterfoil.server.app import create_app
from counterfoil.server.core import limits
from counterfoil.server.core.settings import Settings
from tests.contract.conftest import KEY, Door
from tests.support.service import Service

EXAMPLES = 12
"""Made-up calls of each kind to each operation."""

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    ignored_auth,
]

METHODS = {"get", "post", "put", "patch", "delete"}


def the_description() -> dict[str, Any]:
    """The description of the service, without running it."""
    return create_app(Settings(database_url=SecretStr("postgresql://nowhere"))).openapi()


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return the_description()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method in METHODS:
                yield path, method, operation


def resolve(document: dict[str, Any], value: Any) -> Any:
    while isinstance(value, dict) and "$ref" in value:
        target: Any = document
        for part in value["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        value = target
    return value


def test_the_description_is_valid_openapi(document: dict[str, Any]) -> None:
    schemathesis.openapi.from_dict(document).validate()


def test_the_description_needs_no_key_and_is_this_one(door: Door, document: dict[str, Any]) -> None:
    assert door.client.get("/openapi.json").json() == document


def test_every_route_is_described(document: dict[str, Any]) -> None:
    """But the page that shows the description, and its files."""
    app = create_app(Settings(database_url=SecretStr("postgresql://nowhere")))
    routes = {
        (route.path_format, method.lower())
        for route in app.routes
        if isinstance(route, APIRoute) and route.include_in_schema
        for method in route.methods or ()
        if route.path_format != "/docs" and not route.path_format.startswith("/docs/")
    }

    assert {(path, method) for path, method, _ in operations(document)} == routes


def test_what_is_open_is_described_as_open(document: dict[str, Any]) -> None:
    for path, _, operation in operations(document):
        security = operation.get("security", document["security"])
        assert (security == []) == is_open(path), path
        assert ("401" in operation["responses"]) == (not is_open(path)), path


def test_every_call_is_explained(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(names) == len(set(names))
    for path, _, operation in operations(document):
        assert operation["summary"], path
        assert operation["description"], path
        for parameter in operation["parameters"]:
            assert parameter["description"].endswith("."), (path, parameter)


def test_every_answer_names_its_headers_and_shows_an_example(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        for status, answer in operation["responses"].items():
            where = (path, method, status)
            assert "X-Request-Id" in answer["headers"], where
            assert ("Retry-After" in answer["headers"]) == (status in {"429", "503"}), where
            for media_type, content in answer["content"].items():
                if media_type.endswith("json") and "/problems" not in path:
                    assert "example" in content or content["examples"], where
        if method == "get" and path.startswith(("/events", "/agent-events")):
            assert "Counterfoil-Head" in operation["responses"]["200"]["headers"]


def test_every_refusal_is_a_problem_of_the_catalogue(document: dict[str, Any]) -> None:
    described = set()
    for path, _, operation in operations(document):
        for status, answer in operation["responses"].items():
            if int(status) < 400:
                continue
            assert list(answer["content"]) == [problems.MEDIA_TYPE], path
            for name, example in answer["content"][problems.MEDIA_TYPE]["examples"].items():
                described.add(name)
                assert problems.CATALOGUE[name].status == int(status)
                assert example["value"]["type"] == f"/problems/{name}"
    # The others are no answer of one call: a path or a method that there is not, and what
    # is not a request at all.
    assert set(problems.CATALOGUE) - described == {
        "headers-too-large",
        "malformed-request",
        "method-not-allowed",
    }


def test_every_example_fits_its_schema(document: dict[str, Any]) -> None:
    shown = 0
    for path, method, operation in operations(document):
        bodies = [*operation["responses"].values(), operation.get("requestBody", {})]
        for body in bodies:
            for content in body.get("content", {}).values():
                examples = [entry["value"] for entry in content.get("examples", {}).values()]
                for example in [*examples, *([content["example"]] if "example" in content else [])]:
                    schema = {**content["schema"], "components": document["components"]}
                    Draft202012Validator(schema).validate(example)
                    shown += 1
                    assert json.dumps(example), (path, method)
    assert shown > 100


# --- Against the running service ----------------------------------------------------


def made_up() -> Iterator[Any]:
    """Every operation with every way to make up calls to it."""
    for result in schemathesis.openapi.from_dict(the_description()).get_all_operations():
        assert isinstance(result, Ok), result
        operation = result.ok()
        if operation.path == "/events/stream":
            continue  # It has no end to wait for; test_stream.py has it.
        yield pytest.param(operation, GenerationMode.POSITIVE, id=f"{operation.label}, right")
        if any((operation.path_parameters, operation.query, operation.body)):
            yield pytest.param(operation, GenerationMode.NEGATIVE, id=f"{operation.label}, wrong")


def _waits(body: object) -> bool:
    """Whether it asks the service to wait: for something that does not come in this test."""
    asked = body.get("wait_seconds") if isinstance(body, dict) else None
    return isinstance(asked, int | float) and 0 < asked <= limits.CLAIM_WAIT_SECONDS_MAX


@pytest.mark.parametrize(("operation", "mode"), list(made_up()))
def test_the_service_answers_as_it_is_described(
    locked_service: Service, operation: Any, mode: GenerationMode
) -> None:
    """Calls that fit the description, or do not, are made up; the answers have to fit it."""

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Case[Any]) -> None:
        assume(not _waits(case.body))
        case.call_and_validate(
            base_url=locked_service.url,
            headers={"Authorization": f"Bearer {KEY}"},
            checks=CHECKS,
        )

    ask()
