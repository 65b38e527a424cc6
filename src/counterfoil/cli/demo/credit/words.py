"""The words of the credit demo: who writes what, and what its processes tell each other.

| agent          | writes                                             | when                     |
|----------------|----------------------------------------------------|--------------------------|
| `risk_agent`   | the signals, and `application_completed` behind them | it is told to          |
| `policy_agent` | `counterfoil.decision_made`, through the service   | a consumer hands it an application, or a correction |
| `underwriter`  | one signal anew, as it should have been            | it is told to            |

Two people publish the policy: one drafts its versions, the other activates them.

The pipes (``wire.py`` of the fraud demo) carry the brief, what is to be written, and reports:

| down      | to             | meaning                                                    |
|-----------|----------------|------------------------------------------------------------|
| `start`   | all            | the brief: the run, and the name of its policy             |
| `post`    | `risk_agent`   | these applications have come in, with these signals        |
| `correct` | `underwriter`  | this signal is wrong; this is what it should be            |

| up          | from           | meaning                                                  |
|-------------|----------------|----------------------------------------------------------|
| `ready`     | all            | it has read its brief                                    |
| `posted`    | `risk_agent`   | all signals of this application are in the book          |
| `corrected` | `underwriter`  | the correction is in the book                            |
| `decided`   | `policy_agent` | this application is decided, for the first time          |
| `anew`      | `policy_agent` | it is decided anew: a correction came after the decision |
| `seen`      | `policy_agent` | a correction came in time: the decision rests on it      |
"""

from dataclasses import asdict, dataclass
from typing import Any, Final

from counterfoil.cli.demo.wire import START

RISK_AGENT: Final = "risk_agent"
POLICY_AGENT: Final = "policy_agent"
UNDERWRITER: Final = "underwriter"
PROCESSES: Final = (RISK_AGENT, POLICY_AGENT, UNDERWRITER)

AUTHOR: Final = "risk.author"
APPROVER: Final = "risk.approver"

COMPLETED: Final = "application_completed"
DECISION_MADE: Final = "counterfoil.decision_made"
POLICY_ACTIVATED: Final = "counterfoil.policy_activated"

POST: Final = "post"
CORRECT: Final = "correct"

POSTED: Final = "posted"
CORRECTED: Final = "corrected"
DECIDED: Final = "decided"
ANEW: Final = "anew"
SEEN: Final = "seen"


@dataclass(frozen=True, slots=True)
class Brief:
    """What every agent is told at the start: the run, and by which policy it decides."""

    run_id: str
    policy: str

    def command(self) -> dict[str, Any]:
        """The brief as a command."""
        return {"command": START, **asdict(self)}

    @classmethod
    def read(cls, command: dict[str, Any]) -> "Brief":
        """The brief in a command."""
        return cls(command["run_id"], command["policy"])
