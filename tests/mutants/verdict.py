"""A pytest plugin that tells how a test failed: by what it asserts, or by something else.

A mutant is killed by an assertion. One that cannot be imported, or that makes a fixture
fail, would fail any test, and proves nothing about the one that is named.
"""

import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Final

import pytest

import counterfoil
from counterfoil.server.core.errors import CounterfoilError

FILE: Final = "COUNTERFOIL_MUTANT_VERDICT"
"""The environment variable that says where to write; one JSON object for each failure."""


def asserted(error: BaseException) -> bool:
    """Whether a test failed by what it asserts.

    That is a failed ``assert``, ``pytest.raises`` or ``pytest.fail``; the end of a bounded
    wait; and a refusal of the product's own where the test took an answer for granted.
    """
    if isinstance(error, BaseExceptionGroup):
        return all(asserted(inner) for inner in error.exceptions)
    return isinstance(
        error, AssertionError | pytest.fail.Exception | TimeoutError | CounterfoilError
    )


def pytest_configure() -> None:
    """The copy is what is tested, and not the project that is installed."""
    assert Path(counterfoil.__file__).is_relative_to(Path.cwd()), counterfoil.__file__


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Write down each failure."""
    report = yield
    if report.failed and call.excinfo is not None:
        verdict = {
            "test": report.nodeid,
            "asserted": report.when == "call" and asserted(call.excinfo.value),
            "error": f"{report.when}: {call.excinfo.exconly().splitlines()[0]}",
        }
        with Path(os.environ[FILE]).open("a", encoding="utf-8") as file:
            file.write(json.dumps(verdict) + "\n")
    return report
