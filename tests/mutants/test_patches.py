"""The committed mistakes can still be made, and name tests and promises that there are."""

import ast
import re

import pytest

from tests.mutants.patches import ROOT, Patch, UnusablePatchError, all_patches
from tests.promises import PROMISES

PATCHES = all_patches()


def test_mutants_are_many_and_numbered() -> None:
    assert len(PATCHES) >= 15
    numbers = [patch.number for patch in PATCHES]
    assert numbers == list(range(1, len(PATCHES) + 1))
    assert all(re.fullmatch(r"\d\d+_[a-z0-9_]+", patch.name) for patch in PATCHES)


def test_every_mistake_can_still_be_made() -> None:
    unusable = []
    for patch in PATCHES:
        try:
            patch.apply(ROOT, only_check=True)
        except UnusablePatchError as error:
            unusable.append(str(error))
    assert unusable == []


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)
def test_head_names_a_promise_and_tests_that_there_are(patch: Patch) -> None:
    assert patch.promise in PROMISES
    for test in patch.killed_by:
        file, _, name = test.partition("::")
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        functions = {
            node.name
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        }
        assert name.partition("[")[0] in functions | {""}, test


def test_mutants_that_the_decisions_name_are_there() -> None:
    """A record says what enforces it, and that must not be a name of the past."""
    names = {patch.name.partition("_")[2] for patch in PATCHES}
    named = set()
    for record in (ROOT / "docs" / "decisions").glob("*.md"):
        for listed in re.findall(
            r"^- mutants?((?:\s+`\w+`,?)+)", record.read_text("utf-8"), re.MULTILINE
        ):
            named |= set(re.findall(r"\w+", listed))
    assert named
    assert named <= names
