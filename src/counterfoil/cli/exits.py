"""How a command ends: the one table of exit codes, and what each error comes to.

Scripts decide on these numbers, so they are part of the product: none changes its meaning.
"""

import os
import traceback
from enum import IntEnum
from typing import Final

from counterfoil.client import errors


class ExitCode(IntEnum):
    """The codes; ``MEANINGS`` says in words what each stands for."""

    OK = 0
    REFUSED = 1
    USAGE = 2
    UNAVAILABLE = 3
    CONDITION_FAILED = 4
    OUTCOME_UNKNOWN = 5
    FROZEN = 6
    FAULT = 70
    INTERRUPTED = 130
    TERMINATED = 143


MEANINGS: Final[dict[ExitCode, str]] = {
    ExitCode.OK: "done; for a service: stopped in order",
    ExitCode.REFUSED: "refused by the service, or a check found something wrong",
    ExitCode.USAGE: "the command was called in a way that cannot work",
    ExitCode.UNAVAILABLE: "the service or the database cannot be reached, or is too busy",
    ExitCode.CONDITION_FAILED: "the condition of an append no longer held; nothing was written",
    ExitCode.OUTCOME_UNKNOWN: "it may have been written: repeat it with the key that was shown",
    ExitCode.FROZEN: "what would have been written about is frozen; nothing was written",
    ExitCode.FAULT: "a fault of counterfoil itself",
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C) before it was done",
    ExitCode.TERMINATED: "ended by SIGTERM before it was done",
}


DEBUG_VARIABLE: Final = "COUNTERFOIL_DEBUG"
"""Set to anything, a fault of ours shows its stack trace."""


class Failure(Exception):
    """Ends the command with a sentence for the user, and a code for scripts."""

    def __init__(self, message: str, code: ExitCode = ExitCode.REFUSED) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class Misused(Failure):
    """The command was called in a way that cannot work; nothing has been done."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ExitCode.USAGE)


_CODES: Final[tuple[tuple[type[errors.CounterfoilError], ExitCode], ...]] = (
    (errors.ConditionFailed, ExitCode.CONDITION_FAILED),
    (errors.OutcomeUnknown, ExitCode.OUTCOME_UNKNOWN),
    (errors.Frozen, ExitCode.FROZEN),
    (errors.PermissionDenied, ExitCode.REFUSED),
    (errors.APIConnectionError, ExitCode.UNAVAILABLE),
    (errors.ServiceUnavailable, ExitCode.UNAVAILABLE),
    (errors.RateLimited, ExitCode.UNAVAILABLE),
    (errors.InternalServerError, ExitCode.UNAVAILABLE),
    (errors.UnsendableValue, ExitCode.USAGE),
    (errors.UsageError, ExitCode.USAGE),
    (errors.CounterfoilError, ExitCode.REFUSED),
)
"""The first row whose class fits. More particular classes stand before their bases."""


def failure_of(error: errors.CounterfoilError) -> Failure:
    """What an error of the client comes to on the command line."""
    code = next(code for kind, code in _CODES if isinstance(error, kind))
    message = str(error)
    if isinstance(error, errors.APIConnectionError):
        message += " `counterfoil dev` starts one on this machine."
    return Failure(message, code)


def report_of_fault(error: BaseException) -> str:
    """What is said of an error that nobody has foreseen, with the way to see more."""
    trace = ""
    if os.environ.get(DEBUG_VARIABLE):
        trace = "".join(traceback.format_exception(error))
    return (
        f"{trace}This is a fault of counterfoil: {type(error).__name__}: {error}\n"
        f"Please report it. With {DEBUG_VARIABLE}=1 set, the same command shows where."
    )


def help_table() -> str:
    """The codes as they stand below the help texts, one a line."""
    lines = [f"{code.value:>3}  {MEANINGS[code]}" for code in ExitCode]
    return "Exit codes:\n\n" + "\n".join("    " + line for line in lines)
