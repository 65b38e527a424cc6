"""Every statement of the product is understood by PostgreSQL, and every one is used."""

import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import psycopg
import pytest
from psycopg.pq import ExecStatus

import counterfoil.server
from counterfoil.server.core.errors import InvariantBroken
from counterfoil.server.db import sqlfile
from counterfoil.server.db.statement import Statement
from tests.support.cluster import Cluster, Database

SERVER = Path(str(resources.files(counterfoil.server)))
FILES = sorted(
    path for path in SERVER.rglob("*.sql") if "-- name: " in path.read_text(encoding="utf-8")
)
UNKNOWN_TYPE = 705
"""What PostgreSQL calls the type of a parameter that it could not infer."""


def package_of(path: Path) -> str:
    return ".".join(["counterfoil", "server", *path.parent.relative_to(SERVER).parts])


def numbered(statement: str) -> str:
    """The statement with ``$1, $2 …`` for its named parameters, as psycopg sends it."""
    names: list[str] = []

    def number(match: re.Match[str]) -> str:
        if match["name"] not in names:
            names.append(match["name"])
        return f"${names.index(match['name']) + 1}"

    sent = re.sub(r"%\((?P<name>[a-z_]+)\)s", number, statement)
    assert not re.search(r"(?<!%)%(?![%(])|%\(", sent), "parameters are `%(name)s`"
    return sent.replace("%%", "%")


STATEMENTS = [
    pytest.param(path, name, id=f"{path.relative_to(SERVER)}:{name}")
    for path in FILES
    for name in sqlfile.load(package_of(path), path.name)
]


@pytest.fixture(scope="module")
def database(cluster: Cluster) -> Iterator[Database]:
    """One for all statements: they are only prepared."""
    with cluster.database() as fresh:
        yield fresh


def test_files_with_statements_are_found() -> None:
    assert {"log/queries.sql", "db/migrations.sql", "db/pool.sql"} <= {
        str(path.relative_to(SERVER)) for path in FILES
    }


@pytest.mark.parametrize(("path", "name"), STATEMENTS)
def test_statement_can_be_prepared(service: psycopg.Connection, path: Path, name: str) -> None:
    """Tables, columns, functions and types exist, and each parameter's type is certain."""
    statement = numbered(sqlfile.load(package_of(path), path.name)[name])
    prepared = service.pgconn.prepare(b"it", statement.encode())
    assert prepared.status == ExecStatus.COMMAND_OK, prepared.error_message.decode()
    described = service.pgconn.describe_prepared(b"it")
    types = [described.param_type(index) for index in range(described.nparams)]
    assert UNKNOWN_TYPE not in types


def test_statements_without_cursors_are_sent_as_cursors_would_send_them() -> None:
    for name, text in sqlfile.load("counterfoil.server.log", "queries.sql").items():
        assert Statement(name, text)._sql.decode() == numbered(text)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SERVER)))
def test_every_statement_is_used_by_its_package(path: Path) -> None:
    source = "".join(file.read_text(encoding="utf-8") for file in path.parent.glob("*.py"))
    unused = [
        name for name in sqlfile.load(package_of(path), path.name) if f'"{name}"' not in source
    ]
    assert unused == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("select 1;", "no named statement"),
        ("-- name: a\nselect 1;\n-- name: a\nselect 2;", "twice"),
    ],
)
def test_file_without_clear_names_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, complaint: str
) -> None:
    package = tmp_path / f"package_{complaint.replace(' ', '_')}"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "statements.sql").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InvariantBroken, match=complaint):
        sqlfile.load(package.name, "statements.sql")


def test_statement_is_taken_without_its_semicolon_and_with_its_comments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package_of_two"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "statements.sql").write_text(
        "-- About the file.\n\n-- name: one\n-- Why.\nselect 1;\n\n-- name: two\nselect 2\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert sqlfile.load(package.name, "statements.sql") == {
        "one": "-- Why.\nselect 1",
        "two": "select 2",
    }
