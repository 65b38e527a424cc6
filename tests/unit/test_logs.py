"""What is logged of a failure: where it happened, and nothing that was at hand there."""

import json
import logging
import secrets
from collections.abc import Iterator
from typing import get_args

import pytest
import structlog

from counterfoil.server import logs
from counterfoil.server.core.settings import LogFormat


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.parametrize("log_format", get_args(LogFormat))
def test_a_stack_trace_shows_no_local_variables(
    log_format: LogFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.set_up(log_format, "info")
    api_key = secrets.token_urlsafe()

    try:
        int("", base=len(api_key))
    except ValueError:
        structlog.get_logger("test").exception("internal error")

    written = capsys.readouterr().err
    assert "internal error" in written
    assert "ValueError" in written
    assert api_key not in written
    if log_format == "json":
        assert json.loads(written)["exception"][0]["exc_type"] == "ValueError"
