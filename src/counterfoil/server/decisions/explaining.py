"""Why a decision came out as it did: one page, as JSON and as text that people read. Pure."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from counterfoil.server.core.document import canonical
from counterfoil.server.decisions.inputs import Signal
from counterfoil.server.decisions.policy import Policy

_DAY_SECONDS: Final = 86_400
_HOUR_SECONDS: Final = 3_600
_MINUTE_SECONDS: Final = 60


def explanation(
    decision: Mapping[str, Any],
    inputs: Mapping[str, Any],
    policy: Policy,
    signals: Sequence[Signal],
) -> dict[str, Any]:
    """The page of one decision.

    Args:
        decision: as it is answered.
        inputs: those of its record.
        policy: the version that it was made by.
        signals: the events that its read saw, oldest first.
    """
    used: defaultdict[int, list[str]] = defaultdict(list)
    for name, ids in sorted(decision["signals"].items()):
        for event_id in ids:
            used[event_id].append(name)
    parts: dict[str, Any] = {
        "decision": dict(decision),
        "timeline": [
            {
                "id": one.event_id,
                "event_type": one.event_type,
                "agent_name": one.agent_name,
                "created_at": one.created_at,
                "age_seconds": one.age_seconds,
                "inputs": used.get(one.event_id, []),
            }
            for one in signals
        ],
        "inputs": [
            {
                "name": name,
                "value": msgspec.Raw(canonical(value)),
                "from": "book" if name in policy.reads else "request",
                "take": policy.reads[name].take if name in policy.reads else None,
                "events": decision["signals"].get(name, []),
            }
            for name, value in sorted(inputs.items())
        ],
        "rows": [_row(policy, matched) for matched in decision["matched"]],
        "customer": [
            reason["customer"] for reason in decision["reasons"] if reason["customer"] is not None
        ],
    }
    return {**parts, "text": "\n".join(_lines(parts))}


def _row(policy: Policy, matched: Mapping[str, Any]) -> dict[str, Any]:
    """A row that fitted, with what it asked and what it gave, as the analyst wrote it."""
    content: Mapping[str, Any] = next(
        (
            node["content"]
            for node in policy.rules["nodes"]
            if node["type"] == "decisionTableNode"
            and str(node.get("name", node["id"])) == matched["table"]
        ),
        {"inputs": [], "outputs": [], "rules": []},
    )
    rows = content["rules"]
    row = rows[matched["row"] - 1] if len(rows) >= matched["row"] else {}
    return {
        "table": matched["table"],
        "row": matched["row"],
        "rule": matched["rule"],
        "conditions": [
            {"field": column["field"], "condition": str(row[column["id"]]).strip()}
            for column in content["inputs"]
            if str(row.get(column["id"]) or "").strip()
        ],
        "gives": {
            column["field"]: str(row[column["id"]]).strip()
            for column in content["outputs"]
            if str(row.get(column["id"]) or "").strip()
        },
    }


def _lines(parts: Mapping[str, Any]) -> Iterator[str]:
    decision = parts["decision"]
    yield f"Decision {decision['id']}: {decision['outcome']} about {decision['subject']}"
    yield ""
    yield f"  decided at   {decision['created_at']}"
    yield f"  by           {decision['agent_name']}, for {decision['asked_by']}"
    if decision["on_behalf_of"] is not None:
        yield f"  on behalf of {decision['on_behalf_of']}"
    yield (
        f"  policy       {decision['policy']}, version {decision['version']} "
        f"({decision['digest'][:12]}…)"
    )
    yield f"  engine       {decision['engine']}"
    yield f"  as of        {decision['as_of']}, with the book at {decision['head']}"
    if decision["supersedes"] is not None:
        yield (
            f"  supersedes   decision {decision['supersedes']['decision']}: "
            f"{decision['supersedes']['reason']}"
        )
    yield from _section("What was known", map(_signal_line, parts["timeline"]))
    yield from _section("What it came to", _input_lines(parts["inputs"]))
    yield from _section("Which rule applied", map(_row_line, parts["rows"]))
    yield from _section(
        "Why", (f"{reason['code']}  {reason['text']}" for reason in decision["reasons"])
    )
    yield from _section("What the customer is told", parts["customer"])


def _section(title: str, lines: Iterator[str] | Sequence[str]) -> Iterator[str]:
    listed = list(lines)
    if listed:
        yield ""
        yield title
        yield from (f"  {line}" for line in listed)


def _signal_line(signal: Mapping[str, Any]) -> str:
    used = f"  → {', '.join(signal['inputs'])}" if signal["inputs"] else "  (not used)"
    return (
        f"{signal['id']}  {signal['created_at']}  {signal['event_type']} by "
        f"{signal['agent_name']}, {_age(float(signal['age_seconds']))} old{used}"
    )


def _input_lines(inputs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    width = max((len(one["name"]) for one in inputs), default=0)
    for one in inputs:
        source = f"{one['take']}" if one["from"] == "book" else "sent with the request"
        yield f"{one['name']:<{width}}  {_short(bytes(one['value']).decode())}  ({source})"


def _row_line(row: Mapping[str, Any]) -> str:
    asked = " and ".join(f"{one['field']} {one['condition']}" for one in row["conditions"])
    gave = ", ".join(f"{name} = {value}" for name, value in row["gives"].items())
    return f"{row['table']}, row {row['row']}: {asked or 'all others'} → {gave}"


def _short(text: str) -> str:
    """A value's JSON, cut to what fits in a line; a text as it is, if it is one on one line."""
    shown = text if len(text) <= 80 else f"{text[:77]}…"
    if not (shown.startswith('"') and shown.endswith('"')):
        return shown
    said: str = json.loads(shown)
    # Whoever wrote the signal does not lay out the page: a line's end stays an escape.
    return said if said.isprintable() else shown


def _age(seconds: float) -> str:
    for size, name in ((_DAY_SECONDS, "d"), (_HOUR_SECONDS, "h"), (_MINUTE_SECONDS, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.1f} s"
