"""How commands end: every error of the client has a code, and no trace reaches a user."""

from collections.abc import Callable

import pytest
import typer

from counterfoil.cli import app as command_line
from counterfoil.cli.exits import (
    DEBUG_VARIABLE,
    MEANINGS,
    ExitCode,
    Failure,
    Misused,
    failure_of,
    help_table,
)
from counterfoil.client import errors


def status_error(kind: Callable[..., errors.APIStatusError], code: int) -> errors.APIStatusError:
    return kind(status_code=code, title="It is so")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.APIConnectionError("gone"), 3),
        (errors.APITimeoutError("slow"), 3),
        (status_error(errors.ServiceUnavailable, 503), 3),
        (status_error(errors.Busy, 503), 3),
        (status_error(errors.RateLimited, 429), 3),
        (status_error(errors.InternalServerError, 500), 3),
        (errors.ConditionFailed(head=7, conflicts=(), status_code=409, title="No"), 4),
        (errors.OutcomeUnknown("lost", idempotency_key="k", attempts=1), 5),
        (status_error(errors.InvalidRequestError, 422), 1),
        (status_error(errors.AuthenticationError, 401), 1),
        (status_error(errors.PermissionDenied, 403), 1),
        (status_error(errors.IdempotencyMismatch, 422), 1),
        (status_error(errors.PayloadMismatch, 422), 1),
        (status_error(errors.NarrowingChange, 409), 1),
        (status_error(errors.Frozen, 423), 6),
        (status_error(errors.BookRestored, 409), 1),
        (status_error(errors.PolicyRefused, 422), 1),
        (status_error(errors.FourEyes, 409), 1),
        (status_error(errors.DecisionStands, 409), 1),
        (status_error(errors.NotDecided, 422), 1),
        (errors.UnexpectedAnswer("odd"), 1),
        (errors.UnsendableValue("NaN"), 2),
        (errors.UsageError("twice"), 2),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_every_error_of_the_client_has_its_exit_code(
    error: errors.CounterfoilError, code: int
) -> None:
    assert failure_of(error).code == code
    assert str(error) in failure_of(error).message


def test_every_code_has_a_meaning_in_the_help() -> None:
    assert set(MEANINGS) == set(ExitCode)
    for code in ExitCode:
        assert f"{code.value:>3}  {MEANINGS[code]}" in help_table()


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], int]:
    """Run a command line whose only command raises what it is given."""

    def run(error: BaseException) -> int:
        broken = typer.Typer(pretty_exceptions_enable=False)

        @broken.command()
        def fail() -> None:
            raise error

        monkeypatch.setattr(command_line, "app", broken)
        return command_line.run([])

    return run


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Failure("No such luck."), ExitCode.REFUSED),
        (Misused("Not like this."), ExitCode.USAGE),
        (errors.APIConnectionError("Nobody answers."), ExitCode.UNAVAILABLE),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
        (typer.Exit(ExitCode.TERMINATED), ExitCode.TERMINATED),
        (ZeroDivisionError("oh"), ExitCode.FAULT),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_an_error_becomes_a_code_and_never_a_trace(
    failing: Callable[[BaseException], int],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: ExitCode,
) -> None:
    assert failing(error) == code

    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err


def test_a_fault_of_ours_says_how_to_see_more(
    failing: Callable[[BaseException], int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(DEBUG_VARIABLE, raising=False)
    failing(ZeroDivisionError("oh"))
    assert "fault of counterfoil: ZeroDivisionError: oh" in capsys.readouterr().err

    monkeypatch.setenv(DEBUG_VARIABLE, "1")
    failing(ZeroDivisionError("oh"))
    assert "Traceback" in capsys.readouterr().err
