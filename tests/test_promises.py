"""The list of promises and the tests that name them match, both ways."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.promises import PROMISES

TESTS = Path(__file__).parent


def marked(tree: ast.AST) -> Iterator[str]:
    """The arguments of every ``pytest.mark.promise(…)`` in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.promise":
            assert node.args, "a promise has an id"
            for promise in node.args:
                assert isinstance(promise, ast.Constant), "a promise is named by a literal"
                yield str(promise.value)


def test_every_promise_has_a_test_and_every_named_promise_is_one() -> None:
    # Read from the files: a run of some of the tests collects only some of the markers.
    found: defaultdict[str, set[str]] = defaultdict(set)
    for path in sorted(TESTS.rglob("test_*.py")):
        for promise in marked(ast.parse(path.read_text(encoding="utf-8"))):
            found[promise].add(str(path.relative_to(TESTS)))
    assert sorted(found) == sorted(PROMISES), dict(found)
