"""How the conductor and its agents talk: one JSON object a line, over two pipes.

Down an agent's standard input come commands; up its standard output go reports. The pipes
carry no business: what the agents know of transactions they read in the book. They carry
the start, the gates of the races, and the end: when standard input closes, because the
run is over or because the conductor is gone, the agent ends.

| down     | to           | meaning                                                   |
|----------|--------------|-----------------------------------------------------------|
| `start`  | all          | the brief: run, where to begin, guard or not, the races   |
| `post`   | poster       | a customer has paid: this payload, at this time           |
| `flag`   | investigator | a cardholder says: this payment is not mine               |
| `commit` | approver     | the gate of this transaction is open                      |

| up       | from         | meaning                                                   |
|----------|--------------|-----------------------------------------------------------|
| `ready`  | all          | the service answers                                       |
| `posted` … `declined` | its writer | the event of that name is written              |
| `flagged-late` | investigator | has flagged what it had cleared, as it was told     |
| `read`   | approver     | has read what it decides on, and stands at the gate       |
| `refused`| approver     | its write was refused: the book has moved on              |
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

LINE_BYTES_MAX: Final = 4 * 1024 * 1024
"""One message; the longest is the brief, which names every race."""


@dataclass(frozen=True, slots=True)
class Brief:
    """What every agent is told at the start.

    ``after`` is the book's head before the run: the agents follow the book from there, so
    none misses anything, however long it takes to start.
    """

    run_id: str
    after: int
    guarded: bool
    gated: tuple[str, ...]

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
    """One thing that an agent has done. ``position`` is where it stands in the book."""

    agent: str
    done: str
    transaction_id: str = ""
    position: int = 0


def encode(message: dict[str, Any]) -> bytes:
    """A message as one line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


class Wire:
    """The agent's end."""

    def __init__(self, agent: str, commands: asyncio.StreamReader) -> None:
        self._agent = agent
        self._commands = commands

    @classmethod
    async def open(cls, agent: str) -> "Wire":
        """Take over this process's standard input and output."""
        commands = asyncio.StreamReader(limit=LINE_BYTES_MAX)
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
        )
        return cls(agent, commands)

    async def commands(self) -> AsyncIterator[dict[str, Any]]:
        """The commands as they come, until standard input closes."""
        while line := await self._commands.readline():
            yield json.loads(line)

    def report(self, done: str, transaction_id: str = "", position: int = 0) -> None:
        """Tell the conductor what was done."""
        report = Report(self._agent, done, transaction_id, position)
        sys.stdout.buffer.write(encode(asdict(report)))
        sys.stdout.buffer.flush()
