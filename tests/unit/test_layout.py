"""Rules of the repository that no linter knows, each with the reason beside it."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE_LINES_MAX = 600
SERVER_LIBRARIES = ("counterfoil.server", "fastapi", "psycopg", "pydantic", "starlette", "uvicorn")


def files(*patterns: str) -> Iterator[tuple[str, str]]:
    """The name and the text of each file of ours that matches."""
    for pattern in patterns:
        for path in sorted(ROOT.glob(pattern)):
            yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")


def places(pattern: str, *globs: str) -> list[str]:
    """Where the pattern occurs, as ``file:line: text``."""
    found = re.compile(pattern)
    return [
        f"{name}:{number}: {line.strip()}"
        for name, text in files(*globs)
        for number, line in enumerate(text.splitlines(), 1)
        if found.search(line)
    ]


def test_no_file_is_longer_than_anyone_reads() -> None:
    """Beyond six hundred lines there is a second noun in a file that wants out.

    Migrations are history: what they made is read in ``schema/``.
    """
    long = {
        name: text.count("\n")
        for name, text in files(
            "src/**/*.py",
            "src/**/*.sql",
            "tests/**/*.py",
            "benchmarks/**/*.py",
            "benchmarks/**/*.sql",
            "tasks.py",
        )
        if text.count("\n") > FILE_LINES_MAX and "/migrations/" not in name
    }
    assert long == {}


def test_no_test_waits_by_the_clock() -> None:
    """A sleep is too short on a slow day and too long on all others; conditions are polled."""
    assert places(r"(time|asyncio|anyio)\.sleep\((?!0\))(?!.*# poll)", "tests/**/*.py") == []


def test_what_is_silenced_says_why() -> None:
    """A check that is switched off names the rule and the reason."""
    bare = r"# type: ignore$|# noqa$|# noqa: [A-Z0-9, ]+$|# type: ignore\[[\w, -]+\]$"
    assert places(bare, "src/**/*.py", "tests/**/*.py", "benchmarks/**/*.py", "tasks.py") == []


def test_sql_of_the_product_lives_in_sql_files() -> None:
    """There it is named, commented, and prepared against a database by a test."""
    statement = r"""["'](?i:select .+ from|insert into|update \w+ set|delete from) """
    assert places(statement, "src/counterfoil/server/**/*.py") == []


def test_pins_have_hashes_and_no_addresses() -> None:
    """Whichever index or mirror serves a file, it is that file or none."""
    for name, text in files("requirements/*.txt"):
        entries = re.split(r"\n(?=\S)", text.split("\n", 2)[2])
        for entry in filter(None, entries):
            assert re.match(r"[a-z0-9][a-z0-9._-]*==\S+", entry), f"{name}: not pinned: {entry}"
            assert "--hash=sha256:" in entry, f"{name}: no hash: {entry}"
        assert "://" not in text
        assert "--index" not in text
        assert "--find-links" not in text


def test_pins_cover_what_the_project_needs() -> None:
    """A dependency that was added to pyproject.toml and not pinned fails on a fresh machine."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed = {
        "server": [
            *project["project"]["dependencies"],
            *project["project"]["optional-dependencies"]["server"],
            *project["dependency-groups"]["build"],
        ]
    }
    needed["dev"] = [
        *needed["server"],
        *(item for item in project["dependency-groups"]["dev"] if isinstance(item, str)),
    ]
    needed["bench"] = [
        *needed["dev"],
        *(item for item in project["dependency-groups"]["bench"] if isinstance(item, str)),
    ]
    for pins, requirements in needed.items():
        text = (ROOT / "requirements" / f"{pins}.txt").read_text(encoding="utf-8")
        pinned = {re.sub(r"[._-]+", "-", name) for name in re.findall(r"(?m)^([\w.-]+)==", text)}
        names = {re.split(r"[\[<>=; ]", item)[0] for item in requirements} - {"counterfoil"}
        assert {re.sub(r"[._-]+", "-", name) for name in names} <= pinned


def test_all_sets_pin_the_same_versions() -> None:
    """The demo and the benchmark run on what the tests ran on."""
    server, dev, bench = (
        dict(re.findall(r"(?m)^([\w.-]+)==(\S+)", (ROOT / "requirements" / name).read_text()))
        for name in ("server.txt", "dev.txt", "bench.txt")
    )
    assert server.items() <= dev.items() <= bench.items()


@pytest.mark.parametrize("module", ["counterfoil", "counterfoil.cli"])
def test_light_client_works_without_the_server(module: str) -> None:
    """`pip install counterfoil` brings no server, so nothing of one may be imported."""
    code = (
        f"import sys, {module}; "
        f"print([name for name in {SERVER_LIBRARIES!r} if name in sys.modules])"
    )
    seen = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "src"
    )
    assert seen.stdout.strip() == "[]"
