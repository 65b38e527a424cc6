"""Starts the agents, opens the gates of the races, and ends everything.

Theory of operation. The race of the demo is a flag that lands between the approver's read
and its write. Left to chance it happens once in thousands of payments; here it happens to
every gated transaction, and to no other, without a single sleep:

    approver       conductor       investigator
       │ reads the flags: none
       ├── read ──────▶│
       │               ├── flag ────────▶│ a cardholder reports the payment
       │               │                 │ appends flag_transaction
       │               │◀─ flagged-late ─┤ (it is committed: the service has answered)
       │◀── commit ────┤
       │ writes: refused with the guard, a slip without it

Each arrow waits for the one before it, so the order is certain. For it to be a race at
all, the transaction must be one that the approver would approve: the gated ones are chosen
among those that the policies will clear (``schedule.py``). All others pass no gate, are
decided at the first verdict, and get no second one, so nothing else can be refused.

Meanwhile they flow freely: the approver keeps a task for each transaction at a gate, and
the others overtake it.

The agents are processes of their own, in sessions of their own, so that a Ctrl-C reaches
the conductor alone, which ends them by closing their standard input. If it is killed, the
kernel closes it.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from counterfoil.cli.demo import vocabulary as words
from counterfoil.cli.demo import wire
from counterfoil.cli.demo.tally import Tally
from counterfoil.cli.demo.transactions import Transaction
from counterfoil.cli.demo.wire import Brief, Report
from counterfoil.cli.exits import ExitCode, Failure

SILENCE_SECONDS_MAX: Final = 60.0
"""How long nothing at all may be done before the run counts as stuck. An agent answers in
milliseconds; a stream that was lost takes half a minute to be had again at the worst."""

FAREWELL_SECONDS_MAX: Final = 5.0
"""How long an agent may take to end when it is told to, before it is killed."""

LAST_LINES_MAX: Final = 20
"""How much of what an agent said about its troubles is shown when it ends early."""


class Company:
    """The four processes, from their start to their end."""

    def __init__(self) -> None:
        self._processes: dict[str, Process] = {}
        self._listening: list[asyncio.Task[None]] = []
        self._reports: asyncio.Queue[Report | Failure] = asyncio.Queue()

    async def start(self, environment: Mapping[str, str]) -> None:
        """Start every agent. They wait for their brief."""
        for name in words.AGENTS:
            starting = asyncio.create_task(self._start(name, environment))
            try:
                await asyncio.shield(starting)
            except asyncio.CancelledError:
                # One that is half started can be ended by nobody.
                await starting
                raise

    async def _start(self, name: str, environment: Mapping[str, str]) -> None:
        self._processes[name] = process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "counterfoil.cli.demo.agents",
            name,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env={**os.environ, **environment},
            limit=wire.LINE_BYTES_MAX,
            start_new_session=True,
        )
        self._listening.append(asyncio.create_task(self._listen(name, process)))

    async def tell(self, name: str, command: Mapping[str, Any]) -> None:
        """Send one agent a command; waits while its pipe is full."""
        stdin = self._processes[name].stdin
        if stdin is None:
            raise RuntimeError("agents are started with pipes")
        # An agent that is gone is noticed by its missing reports, and named there.
        with contextlib.suppress(ConnectionError):
            stdin.write(wire.encode(dict(command)))
            await stdin.drain()

    async def next_report(self) -> Report:
        """The next thing that any agent has done.

        Raises:
            Failure: an agent has ended, or none has done anything for too long.
        """
        try:
            async with asyncio.timeout(SILENCE_SECONDS_MAX):
                report = await self._reports.get()
        except TimeoutError:
            raise Failure(
                f"No agent has done anything for {SILENCE_SECONDS_MAX:.0f} s; the run is given up.",
                ExitCode.UNAVAILABLE,
            ) from None
        if isinstance(report, Failure):
            raise report
        return report

    def dismiss(self) -> None:
        """End every agent without letting it finish what it has been told to do."""
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()

    async def end(self) -> None:
        """End every agent: by closing its standard input, and if need be by force."""
        for process in self._processes.values():
            if process.stdin is not None:
                process.stdin.close()
        for process in self._processes.values():
            try:
                async with asyncio.timeout(FAREWELL_SECONDS_MAX):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
        await asyncio.gather(*self._listening, return_exceptions=True)

    async def _listen(self, name: str, process: Process) -> None:
        """Queue the reports of one agent; when there are no more, its obituary."""
        if process.stdout is not None:
            async for line in process.stdout:
                self._reports.put_nowait(Report(**json.loads(line)))
        said = "" if process.stderr is None else await _last_lines(process.stderr)
        self._reports.put_nowait(_obituary(name, await process.wait(), said))


async def _last_lines(stream: asyncio.StreamReader) -> str:
    lines = deque([line async for line in stream], maxlen=LAST_LINES_MAX)
    return b"".join(lines).decode(errors="replace").strip()


def _obituary(name: str, code: int, said: str) -> Failure:
    """Why an agent has ended, in its own last words."""
    codes = {ExitCode.UNAVAILABLE, ExitCode.OUTCOME_UNKNOWN}
    return Failure(
        f"The {name} ended early (exit code {code}). {said}".rstrip(),
        # Whether one write of one agent was made is not what the run's user asks.
        ExitCode.UNAVAILABLE if code in codes else ExitCode.FAULT,
    )


@contextlib.asynccontextmanager
async def company(environment: Mapping[str, str]) -> AsyncIterator[Company]:
    """The four agents, ended when the block is left, however it is left."""
    started = Company()
    try:
        await started.start(environment)
        yield started
    except BaseException:
        started.dismiss()
        raise
    finally:
        await started.end()


@contextlib.contextmanager
def _ctrl_c_once() -> Iterator[None]:
    """Let the first Ctrl-C cancel this task, and take no other while it ends.

    asyncio's own handler would let the second one out of the event loop in the middle of
    whatever it does, the start of a process included.

    Raises:
        KeyboardInterrupt: it was pressed; what had to be ended has ended.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    pressed = False

    def on_ctrl_c() -> None:
        nonlocal pressed
        if not pressed and task is not None:
            task.cancel()
        pressed = True

    loop.add_signal_handler(signal.SIGINT, on_ctrl_c)
    try:
        yield
    except asyncio.CancelledError:
        if pressed:
            raise KeyboardInterrupt from None
        raise
    finally:
        loop.remove_signal_handler(signal.SIGINT)


async def perform(
    transactions: Sequence[Transaction],
    *,
    brief: Brief,
    environment: Mapping[str, str],
    on_report: Callable[[Tally], None],
) -> tuple[Tally, float]:
    """Let the agents work through the transactions; return what they did, and the seconds.

    ``environment`` tells the agents where the service is. ``on_report`` is called after
    everything that is done.

    Raises:
        Failure: the run could not be finished.
        KeyboardInterrupt: Ctrl-C was pressed, and the agents have ended.
    """
    tally = Tally()
    with _ctrl_c_once():
        async with company(environment) as agents:
            for name in words.AGENTS:
                await agents.tell(name, brief.command())
            for _ in words.AGENTS:
                await agents.next_report()  # ready
            started = time.monotonic()
            posting = asyncio.create_task(_post(agents, transactions, brief.run_id))
            try:
                while tally.decided < len(transactions):
                    report = await agents.next_report()
                    tally.take(report)
                    on_report(tally)
                    await _answer(agents, report)
            finally:
                posting.cancel()
            return tally, time.monotonic() - started


async def _post(agents: Company, transactions: Sequence[Transaction], run_id: str) -> None:
    for transaction in transactions:
        await agents.tell(
            words.POSTER,
            {
                "command": wire.POST,
                "payload": transaction.payload(run_id),
                "occurred_at": transaction.occurred_at.isoformat(),
            },
        )


async def _answer(agents: Company, report: Report) -> None:
    """Open the next gate of a race. See the drawing above."""
    if report.done == wire.READ:
        await agents.tell(
            words.INVESTIGATOR, {"command": wire.FLAG, "transaction_id": report.transaction_id}
        )
    elif report.done == wire.FLAGGED_LATE:
        await agents.tell(
            words.APPROVER, {"command": wire.COMMIT, "transaction_id": report.transaction_id}
        )
