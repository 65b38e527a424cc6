"""A decision made again, from its record alone, and what differs. Pure.

Three things are looked at. Are the inputs of the record, by the version of the record, the same
outcome again (the promise)? Is the version still what it was, by its digest? And are the inputs,
taken anew from the events as they stood at the record's head and time, the ones of the record? The
engine's version is compared too, and a change of it is told, whatever came of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from counterfoil.server.core.document import canonical
from counterfoil.server.core.errors import DecisionInputsRefused, NotDecided
from counterfoil.server.decisions.deciding import must_fit, taken_inputs
from counterfoil.server.decisions.engine import ENGINE_VERSION
from counterfoil.server.decisions.inputs import Signal
from counterfoil.server.decisions.judging import JudgedPolicy
from counterfoil.server.decisions.record import Rests, plain

Replayed = dict[str, Any]


def replayed(
    told: Mapping[str, Any], own: JudgedPolicy, other: JudgedPolicy, signals: Sequence[Signal]
) -> Replayed:
    """Make a decision again.

    Args:
        told: its record.
        own: the version that it was made by, as it is kept now.
        other: the version to make it by: the same, or (what if) another.
        signals: what the read of then sees in the book today.
    """
    recorded = {
        "outcome": told["outcome"],
        "reasons": [reason["code"] for reason in told["reasons"]],
        "matched": told["matched"],
    }
    refused = None
    recomputed: dict[str, Any] | None = None
    try:
        must_fit(other, Rests(told["head"], told["as_of"], {}, told["inputs"]))
        found = other.rules.evaluate(told["inputs"])
        recomputed = {
            "outcome": found.outcome,
            "reasons": list(found.reasons),
            "matched": [dict(row) for row in found.matched],
        }
    except (DecisionInputsRefused, NotDecided) as refusal:
        refused = str(refusal)
    differences = [
        {"what": what, "recorded": recorded[what], "recomputed": (recomputed or {}).get(what)}
        for what in recorded
        if recomputed is None or canonical(recorded[what]) != canonical(recomputed[what])
    ]
    digest = {"recorded": told["digest"], "now": own.digest}
    if digest["recorded"] != digest["now"]:
        differences.append(
            {"what": "digest", "recorded": digest["recorded"], "recomputed": digest["now"]}
        )
    from_book = _signals(told, own, signals)
    if from_book == "differ":
        differences.append({"what": "signals", "recorded": told["signals"], "recomputed": None})
    return {
        "identical": not differences,
        "differences": differences,
        "engine": {
            "recorded": told["engine"],
            "now": ENGINE_VERSION,
            "changed": told["engine"] != ENGINE_VERSION,
        },
        "digest": digest,
        "recomputed": recomputed,
        "refused": refused,
        "signals": from_book,
    }


def _signals(
    told: Mapping[str, Any], own: JudgedPolicy, signals: Sequence[Signal]
) -> Literal["identical", "differ", "erased"]:
    """Whether the inputs can be taken from the book again, and are the same."""
    if any(signal.payload is None for signal in signals):
        return "erased"
    try:
        taken = taken_inputs(own, signals)
    except DecisionInputsRefused:
        return "differ"
    inputs = {name: plain(one.value) for name, one in taken.items()}
    recorded = {name: value for name, value in told["inputs"].items() if name not in told["extra"]}
    events: Any = {name: list(one.event_ids) for name, one in taken.items()}
    same = (canonical(inputs), canonical(events)) == (
        canonical(recorded),
        canonical(told["signals"]),
    )
    return "identical" if same else "differ"
