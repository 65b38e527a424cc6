"""The life of an agent's process: from its brief until its standard input closes."""

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

from counterfoil import AsyncCounterfoil, CounterfoilError
from counterfoil.cli.demo.agent import Agent
from counterfoil.cli.demo.wire import READY, Wire
from counterfoil.cli.exits import DEBUG_VARIABLE, ExitCode, failure_of, report_of_fault

Make = Callable[[str, AsyncCounterfoil, dict[str, Any], Wire], Agent[Any]]
"""Makes the agent that a process is, of its name, the client, its brief, and its pipes."""


def be_an_agent(make: Make) -> int:
    """Be the process that the command line names; return its exit code."""
    telling = logging.StreamHandler()
    telling.setFormatter(_ShortFormat())
    logging.getLogger("counterfoil").addHandler(telling)
    try:
        asyncio.run(_live(sys.argv[1], make))
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the conductor shows what is said here
        return _give_up(error)
    return ExitCode.OK


async def _live(process: str, make: Make) -> None:
    """Be one of the processes, until standard input closes. Raises what its work raises."""
    pipes = await Wire.open(process)
    commands = pipes.commands()
    async with AsyncCounterfoil() as cf:
        agent = make(process, cf, await anext(commands), pipes)

        async def obey_all() -> None:
            async for command in commands:
                await agent.obey(command)

        pipes.report(READY)
        tasks = (asyncio.create_task(agent.work()), asyncio.create_task(obey_all()))
        ended, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for task in ended:
            task.result()


class _ShortFormat(logging.Formatter):
    """What the client tells, an exception as one line; the trace only where it is asked for."""

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the base class's name
        if os.environ.get(DEBUG_VARIABLE):
            return super().formatException(ei)
        return f"{type(ei[1]).__name__}: {ei[1]}"


def _give_up(error: Exception) -> ExitCode:
    """Say why on standard error; of several tasks' errors, the first."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, CounterfoilError):
        failure = failure_of(error)
        sys.stderr.write(f"{failure.message}\n")
        return failure.code
    sys.stderr.write(f"{report_of_fault(error)}\n")
    return ExitCode.FAULT
