"""The words of the demo's book: which agent writes which event, and how they are found.

Agents and the checker share these names and nothing else: the checker knows no policy,
so it cannot repeat an agent's mistake.

| agent          | writes                                    | rests on (``caused_by``)    |
|----------------|-------------------------------------------|-----------------------------|
| `poster`       | `transaction_posted`                      | nothing                     |
| `scorer`       | `risk_score`                              | the posted transaction      |
| `investigator` | `flag_transaction` or `clear_transaction` | the score, or a clearance   |
| `approver`     | `approved` or `declined`                  | the clearance, or the flags |

Of the scorer two copies run. A score says in its ``context`` which of them wrote it
(``copy``), and at which handing out of the payment (``attempt``).
"""

from collections.abc import Mapping
from typing import Final

POSTER: Final = "poster"
SCORER: Final = "scorer"
INVESTIGATOR: Final = "investigator"
APPROVER: Final = "approver"
AGENTS: Final = (POSTER, SCORER, INVESTIGATOR, APPROVER)

SCORERS: Final = (f"{SCORER}-1", f"{SCORER}-2")
PROCESSES: Final[Mapping[str, str]] = {
    POSTER: POSTER,
    **dict.fromkeys(SCORERS, SCORER),
    INVESTIGATOR: INVESTIGATOR,
    APPROVER: APPROVER,
}
"""The processes of a run, and which agent each of them is."""

POSTED: Final = "transaction_posted"
SCORED: Final = "risk_score"
FLAGGED: Final = "flag_transaction"
CLEARED: Final = "clear_transaction"
APPROVED: Final = "approved"
DECLINED: Final = "declined"
EVENT_TYPES: Final = (POSTED, SCORED, FLAGGED, CLEARED, APPROVED, DECLINED)


def consumer_name(run_id: str, agent: str) -> str:
    """The consumer from which an agent of one run is handed its work."""
    return f"demo-{run_id}-{agent}"


def run_tag(run_id: str) -> str:
    """The tag that every event of one run of the demo bears, from its field ``run_id``."""
    return f"run:{run_id}"


def transaction_tag(transaction_id: str) -> str:
    """The tag of every event about one transaction."""
    return f"transaction:{transaction_id}"


def customer_tag(customer_id: str) -> str:
    """The tag of every event about one customer."""
    return f"customer:{customer_id}"


def card_tag(card_id: str) -> str:
    """The tag of every event about one card."""
    return f"card:{card_id}"
