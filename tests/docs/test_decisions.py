"""Decision records: numbered without gaps, of one form, and kept by tests that exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Page, all_pages, page

FOLDER = "docs/decisions"
SECTIONS = [
    "Context",
    "Decision",
    "Consequences",
    "Alternatives",
    "Enforced by",
    "References",
]
LINES_MAX = 80
"""One page."""

RECORDS = [
    document
    for document in all_pages()
    if document.name.startswith(f"{FOLDER}/") and document.path.name != "README.md"
]


@cache
def named_tests(path: Path) -> frozenset[str]:
    """The names of the tests in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(
        node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def test_numbers_have_no_gaps() -> None:
    numbers = [int(document.path.name[:4]) for document in RECORDS]
    assert numbers == list(range(1, len(numbers) + 1))


def test_every_record_is_listed_under_its_number() -> None:
    index = page(f"{FOLDER}/README.md")
    listed = [link for link in index.links if re.match(r"\d{4}-", link)]
    assert listed == [document.path.name for document in RECORDS]
    for link in listed:
        assert f"[{link[:4]}]({link})" in index.text


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.path.stem)
def test_a_record_is_one_page_of_one_form(record: Page) -> None:
    title, *sections = record.headings
    assert title.startswith(f"{record.path.name[:4]} ")
    assert sections == SECTIONS
    assert record.text.count("\n") <= LINES_MAX


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.path.stem)
def test_the_tests_that_enforce_a_record_exist(record: Page) -> None:
    enforced_by = record.section("Enforced by")
    assert "`" in enforced_by
    for name in re.findall(r"`(tests/[^`]+)`", enforced_by):
        file, _, test = name.partition("::")
        assert test in named_tests(ROOT / file), f"{record.name} names {name}"


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.path.stem)
def test_the_mutants_that_enforce_a_record_exist(record: Page) -> None:
    """They are named without their numbers, which may change."""
    enforced_by = record.section("Enforced by")
    known = {path.stem.partition("_")[2] for path in ROOT.glob("tests/mutants/*.patch")}
    for names in re.findall(
        r"^- mutants (.+?)(?=\n- |\n\n)", enforced_by, re.MULTILINE | re.DOTALL
    ):
        assert set(re.findall(r"`(\w+)`", names)) <= known, record.name


def test_the_contracts_that_a_record_names_exist() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for contract in re.findall(
        r"import contracts? (.+) in `pyproject.toml`", "\n".join(r.text for r in RECORDS)
    ):
        for name in re.findall(r"`([a-z-]+)`", contract):
            assert f'id = "{name}"' in project


def test_tests_that_other_pages_name_exist() -> None:
    known = {name for path in ROOT.glob("tests/**/test_*.py") for name in named_tests(path)}
    for document in all_pages():
        named = {code for code in document.code if re.fullmatch(r"test_\w+", code)}
        assert named <= known, f"{document.name}: {named - known}"
