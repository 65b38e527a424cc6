"""How the conductor and its agents talk: one JSON object a line, over two pipes.

Down an agent's standard input come commands; up its standard output go reports. The pipes
carry no business: what the agents know of transactions they read in the book. They carry
the start, the gates of the races and of the kill, and the end: when standard input closes,
because the run is over or because the conductor is gone, the agent ends.

| down     | to           | meaning                                                   |
|----------|--------------|-----------------------------------------------------------|
| `start`  | all          | the brief: run, guard or not, the races, the kill         |
| `post`   | poster       | customers have paid: these payloads, at these times       |
| `flag`   | investigator | a cardholder says: this payment is not mine               |
| `commit` | approver, scorers | the gate of this transaction is open                 |

| up       | from         | meaning                                                   |
|----------|--------------|-----------------------------------------------------------|
| `ready`  | all          | it has read its brief                                     |
| `posted` … `declined` | its writer | the event of that name is written              |
| `flagged-late` | investigator | has flagged what it had cleared, as it was told     |
| `read`   | approver     | has read what it decides on, and stands at the gate       |
| `refused`| approver     | its write was refused: the book has moved on              |
| `noted`  | approver     | has acknowledged a verdict on what it had decided already |
| `held`   | a scorer     | has scored this one, and stands still before it says so   |
| `killed` | the conductor itself | it has killed this scorer, which had this one in hand |
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

START: Final = "start"
POST: Final = "post"
FLAG: Final = "flag"
COMMIT: Final = "commit"

READY: Final = "ready"
POSTED: Final = "posted"
SCORED: Final = "scored"
FLAGGED: Final = "flagged"
FLAGGED_LATE: Final = "flagged-late"
CLEARED: Final = "cleared"
READ: Final = "read"
REFUSED: Final = "refused"
APPROVED: Final = "approved"
DECLINED: Final = "declined"
NOTED: Final = "noted"
HELD: Final = "held"
KILLED: Final = "killed"

LINE_BYTES_MAX: Final = 4 * 1024 * 1024
"""One message; the longest is the brief, which names every race."""


@dataclass(frozen=True, slots=True)
class Brief:
    """What every agent is told at the start.

    ``gated`` are the transactions that race. ``killed_at`` is the one that a scorer has in
    hand when it is killed; empty: none is.
    """

    run_id: str
    guarded: bool
    gated: tuple[str, ...]
    killed_at: str = ""

    def command(self) -> dict[str, Any]:
        """The brief as a command."""
        return {"command": START, **asdict(self)}

    @classmethod
    def read(cls, command: dict[str, Any]) -> "Brief":
        """The brief in a command."""
        values = {field.name: command[field.name] for field in fields(cls)}
        return cls(**{**values, "gated": tuple(command["gated"])})


@dataclass(frozen=True, slots=True)
class Report:
    """One thing that an agent's process has done.

    ``position`` is where it stands in the book, and ``attempt`` at which handing out of its
    work it was done.
    """

    process: str
    done: str
    transaction_id: str = ""
    position: int = 0
    attempt: int = 1


def encode(message: dict[str, Any]) -> bytes:
    """A message as one line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


class Wire:
    """The agent's end. ``process`` is the name of this one among those of the run."""

    def __init__(self, process: str, commands: asyncio.StreamReader) -> None:
        self.process = process
        self._commands = commands

    @classmethod
    async def open(cls, process: str) -> "Wire":
        """Take over this process's standard input and output."""
        commands = asyncio.StreamReader(limit=LINE_BYTES_MAX)
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
        )
        return cls(process, commands)

    async def commands(self) -> AsyncIterator[dict[str, Any]]:
        """The commands as they come, until standard input closes."""
        while line := await self._commands.readline():
            yield json.loads(line)

    def report(
        self, done: str, transaction_id: str = "", position: int = 0, attempt: int = 1
    ) -> None:
        """Tell the conductor what was done."""
        report = Report(self.process, done, transaction_id, position, attempt)
        sys.stdout.buffer.write(encode(asdict(report)))
        sys.stdout.buffer.flush()
