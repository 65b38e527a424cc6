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

Meanwhile they flow freely: the approver has several deliveries in hand, and the others
overtake those at a gate.

With ``--kill``, one scorer is killed half-way, as certainly:

    a scorer        conductor        the other scorer
       │ is handed the payment in the middle of the run, and scores it
       │ stands still (``standstill.py``)
       ├── held ──────▶│
       X◀── kill -9 ───┤
                       ├── commit ─────────▶│ nobody stands still any more
                       │                    │ is handed it when the lease has run out
                       │◀───── scored ──────┤

What it had in hand has been scored, and not been acknowledged: the worst moment there is.

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
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from counterfoil import AsyncCounterfoil
from counterfoil.cli import arguments
from counterfoil.cli.demo import vocabulary as words
from counterfoil.cli.demo import wire
from counterfoil.cli.demo.tally import Tally
from counterfoil.cli.demo.transactions import Transaction
from counterfoil.cli.demo.wire import Brief, Report
from counterfoil.cli.exits import ExitCode, Failure

SILENCE_SECONDS_MAX: Final = 60.0
"""How long nothing at all may be done before the run counts as stuck. An agent answers in
milliseconds; what it fails at is handed out again within seconds."""

SILENCE_SECONDS_ODD: Final = 5.0
"""After so long a silence, the service is asked whether it is still there. Agents would wait
for it, however long it takes."""

FAREWELL_SECONDS_MAX: Final = 5.0
"""How long an agent may take to end when it is told to, before it is killed."""

POSTED_AT_ONCE: Final = 8
"""Payments that the poster is told of together: what two scorers have in hand."""

LAST_LINES_MAX: Final = 20
"""How much of what an agent said about its troubles is shown when it ends early."""


class Company:
    """The agents' processes, from their start to their end.

    ``module`` is what they run, each with its name as the argument; ``keys`` are the keys of
    those that do not call with the conductor's own.
    """

    def __init__(
        self,
        cf: AsyncCounterfoil,
        *,
        module: str = "counterfoil.cli.demo.agents",
        processes: Collection[str] = tuple(words.PROCESSES),
        keys: Mapping[str, str] | None = None,
    ) -> None:
        self._cf = cf
        self._module = module
        self._names = tuple(processes)
        self._keys = keys or {}
        self._processes: dict[str, Process] = {}
        self._killed: dict[str, str] = {}
        self._said: deque[str] = deque(maxlen=LAST_LINES_MAX)
        self._listening: list[asyncio.Task[None]] = []
        self._reports: asyncio.Queue[Report | Failure] = asyncio.Queue()

    async def start(self, environment: Mapping[str, str]) -> None:
        """Start every agent. They wait for their brief."""
        for name in self._names:
            starting = asyncio.create_task(self._start(name, environment))
            try:
                await asyncio.shield(starting)
            except asyncio.CancelledError:
                # One that is half started can be ended by nobody.
                await starting
                raise

    async def _start(self, name: str, environment: Mapping[str, str]) -> None:
        own_key = {arguments.API_KEY_VARIABLE: self._keys[name]} if name in self._keys else {}
        self._processes[name] = process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self._module,
            name,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env={**os.environ, **environment, **own_key},
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
            CounterfoilError: the service is gone.
        """
        begun = time.monotonic()
        while time.monotonic() - begun < SILENCE_SECONDS_MAX:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SILENCE_SECONDS_ODD):
                    report = await self._reports.get()
                if isinstance(report, Failure):
                    raise report
                return report
            await self._cf.events.latest(words.POSTER, limit=1)
        said = "\n".join(["", *self._said])
        raise Failure(
            f"No agent has done anything for {SILENCE_SECONDS_MAX:.0f} s; the run is given up."
            f"{said}".rstrip(),
            ExitCode.UNAVAILABLE,
        )

    async def kill(self, name: str, transaction_id: str) -> None:
        """Kill one agent's process, which has this transaction in hand: no last words."""
        self._killed[name] = transaction_id
        process = self._processes[name]
        process.kill()
        await process.wait()

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
        if process.stdout is None or process.stderr is None:
            raise RuntimeError("agents are started with pipes")
        hearing = asyncio.create_task(self._hear(process.stderr))
        async for line in process.stdout:
            self._reports.put_nowait(Report(**json.loads(line)))
        said = await hearing
        code = await process.wait()
        if name in self._killed:
            self._reports.put_nowait(Report(name, wire.KILLED, self._killed[name]))
        else:
            self._reports.put_nowait(_obituary(name, code, said))

    async def _hear(self, stream: asyncio.StreamReader) -> str:
        """Listen to what one agent says about its troubles; return the end of it."""
        lines: deque[str] = deque(maxlen=LAST_LINES_MAX)
        async for line in stream:
            for kept in (lines, self._said):
                kept.append(line.decode(errors="replace").rstrip())
        return "\n".join(lines)


_PASSED_ON: Final = (ExitCode.REFUSED, ExitCode.UNAVAILABLE, ExitCode.FROZEN)


def _obituary(name: str, code: int, said: str) -> Failure:
    """Why an agent has ended, in its own last words."""
    if code in _PASSED_ON:
        ending = ExitCode(code)
    elif code == ExitCode.OUTCOME_UNKNOWN:
        # Whether one write of one agent was made is not what the run's user asks.
        ending = ExitCode.UNAVAILABLE
    else:
        ending = ExitCode.FAULT
    return Failure(f"The {name} ended early (exit code {code}). {said}".rstrip(), ending)


@contextlib.asynccontextmanager
async def company(environment: Mapping[str, str], **kind: Any) -> AsyncIterator[Company]:
    """The agents' processes, ended when the block is left, however it is left.

    ``kind`` is what ``Company`` takes to be another one than that of the fraud demo.
    """
    base_url = environment[arguments.BASE_URL_VARIABLE]
    api_key = environment[arguments.API_KEY_VARIABLE]
    async with AsyncCounterfoil(base_url=base_url, api_key=api_key) as cf:
        started = Company(cf, **kind)
        try:
            await started.start(environment)
            yield started
        except BaseException:
            started.dismiss()
            raise
        finally:
            await started.end()


@contextlib.contextmanager
def ctrl_c_once() -> Iterator[None]:
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
) -> Tally:
    """Let the agents work through the transactions; return what they did.

    ``environment`` tells the agents where the service is. ``on_report`` is called after
    everything that is done.

    Raises:
        Failure: the run could not be finished.
        CounterfoilError: the service is gone.
        KeyboardInterrupt: Ctrl-C was pressed, and the agents have ended.
    """
    with ctrl_c_once():
        async with company(environment) as agents:
            for name in words.PROCESSES:
                await agents.tell(name, brief.command())
            for _ in words.PROCESSES:
                await agents.next_report()  # ready
            began = time.monotonic()
            tally = Tally()
            posting = asyncio.create_task(_post(agents, transactions, brief.run_id))
            try:
                while not _is_over(tally, transactions, brief):
                    report = await agents.next_report()
                    tally.take(report, time.monotonic() - began)
                    on_report(tally)
                    await _answer(agents, report, brief)
            finally:
                posting.cancel()
            return tally


def _is_over(tally: Tally, transactions: Sequence[Transaction], brief: Brief) -> bool:
    """Whether everything is decided, and nothing is left with the consumers."""
    return tally.decided == len(transactions) and tally[wire.NOTED].issuperset(brief.gated)


async def _post(agents: Company, transactions: Sequence[Transaction], run_id: str) -> None:
    for first in range(0, len(transactions), POSTED_AT_ONCE):
        payments = [
            {
                "event_type": words.POSTED,
                "payload": transaction.payload(run_id),
                "occurred_at": transaction.occurred_at.isoformat(),
            }
            for transaction in transactions[first : first + POSTED_AT_ONCE]
        ]
        await agents.tell(words.POSTER, {"command": wire.POST, "payments": payments})


async def _answer(agents: Company, report: Report, brief: Brief) -> None:
    """Open the next gate of a race, or of the kill. See the drawings above."""
    transaction_id = report.transaction_id
    if report.done == wire.READ:
        await agents.tell(
            words.INVESTIGATOR, {"command": wire.FLAG, "transaction_id": transaction_id}
        )
    elif report.done == wire.FLAGGED_LATE:
        await agents.tell(
            words.APPROVER, {"command": wire.COMMIT, "transaction_id": transaction_id}
        )
    elif report.done == wire.HELD and transaction_id == brief.killed_at:
        await agents.kill(report.process, transaction_id)
        for other in words.SCORERS:
            if other != report.process:
                await agents.tell(other, {"command": wire.COMMIT, "transaction_id": transaction_id})
