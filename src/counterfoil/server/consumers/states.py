"""The states of a delivery, and the moves between them: what the page of the docs is made from.

The rule itself is kept by the database (``06_consumers.sql`` to ``09_consumer_effects.sql``). A test
has it make every move, and holds what it made against this table.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple


class State(NamedTuple):
    """A state, as it is stored, and what it means."""

    name: str
    means: str


class Move(NamedTuple):
    """How a delivery gets from one state to another; None: it is not there before, or after."""

    before: str | None
    after: str | None
    by: str


STATES: Final = (
    State("waiting", "it stands behind an earlier event of one of its keys"),
    State("ready", "whoever claims next gets it"),
    State("held", "a holder has it, until the lease ends"),
    State("delayed", "it was given back, and is ready again when its delay is over"),
    State("exhausted", "it failed `attempts_max` times, and is about to be set aside"),
    State("set_aside", "a dead letter that holds its key up"),
)

MOVES: Final = (
    Move(
        None, "ready", "it is put out: it matches, and no earlier event of its keys is unfinished"
    ),
    Move(None, "waiting", "it is put out behind an earlier event of one of its keys"),
    Move("waiting", "ready", "the last one before it is done, dropped, or set aside and let pass"),
    Move("ready", "held", "it is claimed: one attempt more"),
    Move("held", "held", "its lease is extended"),
    Move("held", None, "it is acknowledged, with an outcome or without"),
    Move("held", "ready", "it is given back at once, or its lease ends"),
    Move("held", "delayed", "it is given back with a reason, or for later"),
    Move("delayed", "ready", "its delay is over"),
    Move(
        "held",
        "exhausted",
        "it fails for the last time: given back with a reason, or its lease ends",
    ),
    Move("held", None, "its holder sets it aside, and a dead letter lets its key pass"),
    Move("held", "set_aside", "its holder sets it aside, and a dead letter holds its key up"),
    Move("exhausted", None, "it is set aside, and a dead letter lets its key pass"),
    Move("exhausted", "set_aside", "it is set aside, and a dead letter holds its key up"),
    Move("set_aside", "ready", "it is replayed"),
    Move("set_aside", None, "it is dropped"),
)


def document() -> str:
    """What stands on the page of the docs below its introduction: a picture and two tables."""
    return "\n".join(
        [
            "```mermaid",
            "stateDiagram-v2",
            *(
                f"    {move.before or '[*]'} --> {move.after or '[*]'}"
                for move in dict.fromkeys(Move(move.before, move.after, "") for move in MOVES)
            ),
            "```",
            "",
            "| state | means |",
            "|---|---|",
            *_rows((f"`{state.name}`", state.means) for state in STATES),
            "",
            "| from | to | when |",
            "|---|---|---|",
            *_rows((_named(move.before), _named(move.after), move.by) for move in MOVES),
        ]
    )


def _rows(cells: Iterable[tuple[str, ...]]) -> Iterable[str]:
    return (f"| {' | '.join(row)} |" for row in cells)


def _named(state: str | None) -> str:
    return "-" if state is None else f"`{state}`"
