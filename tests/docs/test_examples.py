"""The examples run: Python and curl against a real service, commands through the real parser."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import typer
from typer.core import TyperGroup

from counterfoil.cli.app import app
from tests.docs.pages import Page, all_pages
from tests.support.cluster import Cluster
from tests.support.service import Service, running_service

PAGES = all_pages()
ADDRESSES = ("http://localhost:8000", "http://127.0.0.1:8000")
EXAMPLE_SECONDS_MAX = 30

_COUNTERFOIL = re.compile(
    r"(?:[A-Z_]+=\S+\s+)*(?:\S*/)?counterfoil (?P<arguments>.+)", flags=re.DOTALL
)
"""A command of ours, with variables or a path in front of it, or neither."""

_WITH_PYTHON = [
    each for each in PAGES if any(example.language == "python" for example in each.examples)
]
_WITH_CURL = [
    each for each in PAGES if any(line.startswith("curl ") for line in each.shell_commands())
]


@pytest.fixture(scope="module")
def service(cluster: Cluster) -> Iterator[Service]:
    """A service without a key, as `counterfoil dev` is one."""
    with cluster.database() as database, running_service(database.url) as started:
        yield started


def moved(text: str, service: Service) -> str:
    """The same example with the address of this service."""
    for address in ADDRESSES:
        text = text.replace(address, service.url)
    return text


@pytest.mark.parametrize("document", _WITH_PYTHON, ids=lambda document: document.name)
def test_python_compiles(document: Page) -> None:
    for example in document.examples:
        if example.language == "python":
            ast.parse(example.text)


@pytest.mark.parametrize("document", _WITH_PYTHON, ids=lambda document: document.name)
def test_python_of_a_page_runs_from_its_top_to_its_end(
    document: Page, service: Service, tmp_path: Path
) -> None:
    blocks = [
        example.text
        for example in document.examples
        if example.language == "python" and example.remark != "compile-only"
    ]
    program = tmp_path / "page.py"
    program.write_text(moved("\n".join(blocks), service), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(program)],
        # What an example writes is not to be found in the checkout afterwards.
        cwd=tmp_path,
        env={**os.environ, "COUNTERFOIL_BASE_URL": service.url},
        capture_output=True,
        text=True,
        check=False,
        timeout=EXAMPLE_SECONDS_MAX,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("document", _WITH_CURL, ids=lambda document: document.name)
def test_curl_of_a_page_is_answered(document: Page, service: Service) -> None:
    with httpx2.Client(timeout=EXAMPLE_SECONDS_MAX) as client:
        for line in document.shell_commands():
            if not line.startswith("curl "):
                continue
            method, address, headers, body = _curl(moved(line, service))
            if body is None:
                with client.stream("GET", address, headers=headers) as answer:
                    assert answer.status_code == 200, line
            else:
                answer = client.request(method, address, headers=headers, content=body)
                # What is put may be there already.
                assert answer.status_code == 201 or method == "PUT", line
                assert answer.is_success, line


def _curl(line: str) -> tuple[str, str, dict[str, str], str | None]:
    """The method, address, headers and body of a curl command."""
    words = iter(shlex.split(line)[1:])
    method, address, headers, body = "POST", "", {}, None
    for word in words:
        if word == "-H":
            name, _, value = next(words).partition(": ")
            headers[name] = value
        elif word == "-d":
            body = next(words)
        elif word == "-X":
            method = next(words)
        elif word != "-N":
            address = word
    return method, address, headers, body


def test_json_is_json() -> None:
    for document in PAGES:
        for example in document.examples:
            if example.language == "json":
                json.loads(example.text)


@pytest.mark.parametrize("document", PAGES, ids=lambda document: document.name)
def test_commands_are_taken_as_they_stand(document: Page) -> None:
    """Each is parsed with its arguments and options, and not run."""
    for line in [*document.shell_commands(), *document.code]:
        arguments = _counterfoil_arguments(line)
        if arguments is not None:
            _parse(arguments)


def _counterfoil_arguments(line: str) -> list[str] | None:
    """What follows ``counterfoil`` in a command; None if it is none of ours."""
    found = _COUNTERFOIL.fullmatch(line)
    if found is None:
        return None
    words = shlex.split(found["arguments"])
    ends = [index for index, word in enumerate(words) if word in {">", "|"}]
    words = words[: ends[0]] if ends else words
    return None if words[0] in {"COMMAND", "…"} else words


def _parse(arguments: list[str]) -> None:
    command = typer.main.get_command(app)
    words = list(arguments)
    while isinstance(command, TyperGroup) and words and not words[0].startswith("-"):
        name = words.pop(0)
        assert name in command.commands, arguments
        command = command.commands[name]
    if isinstance(command, TyperGroup) or not words:
        return
    command.make_context(" ".join(arguments), words)
