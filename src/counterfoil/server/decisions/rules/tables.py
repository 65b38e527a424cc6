"""Decision tables: what they compare, what they decide, and whether each row can be reached.

What is decided stands in a table, as a constant: an outcome that the policy knows, with reasons
that it knows for it. So one can tell, without running anything, what can come of it.

The engine hides what goes wrong in a table. A column or a condition that it cannot compute is not
met, and a row whose result it cannot compute is passed over. So nothing in a table may go wrong, or
come to nothing (``expressions.py``); what has to be computed stands in an expression node before.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from counterfoil.server.core import limits
from counterfoil.server.decisions.rules.cells import catches_all, conditions, is_empty, never_fits
from counterfoil.server.decisions.rules.expressions import Place
from counterfoil.server.decisions.rules.found import listed
from counterfoil.server.decisions.rules.kinds import ANYTHING, Kind, Named, Names, joined
from counterfoil.server.decisions.rules.tokens import ExpressionRefused, constant
from counterfoil.server.decisions.rules.vocabulary import (
    OUTCOME,
    REASONS,
    Judge,
    Pointer,
    is_name,
)

_FIRST: Final = "first"
_COLUMN_KEYS: Final = frozenset({"id", "name", "field", "type"})


class _Table(NamedTuple):
    """A table, taken apart. ``pointer`` is that of its content."""

    pointer: Pointer
    inputs: Sequence[Mapping[str, Any]]
    outputs: Sequence[Mapping[str, Any]]
    rows: Sequence[Mapping[str, Any]]


def judge_table(
    judge: Judge, pointer: Pointer, content: Mapping[str, Any], known: Names
) -> dict[str, Named]:
    """Judge a table; tell what it makes.

    Args:
        pointer: where its content stands.
        content: what the editor saved of it.
        known: what is handed on to it.
    """
    before = len(judge.faults)
    table = _taken_apart(judge, pointer, content)
    if table is None:
        return {}
    kinds = _judge_columns(judge, table, known)
    made = _judge_cells(judge, table, kinds, known)
    if len(judge.faults) == before:
        _judge_reach(judge, table, kinds)
    if len(judge.faults) > before:
        return made
    if OUTCOME in made:
        _judge_decisions(judge, table, kinds)
    elif REASONS in made:
        judge.refuse((*pointer, "outputs"), "The table that says the outcome says its reasons.")
    return made


def _taken_apart(judge: Judge, pointer: Pointer, content: Mapping[str, Any]) -> _Table | None:
    for side in ("inputs", "outputs"):
        columns = content.get(side)
        if not isinstance(columns, list) or not all(
            isinstance(one, dict) and isinstance(one.get("id"), str) for one in columns
        ):
            judge.refuse((*pointer, side), f"A table has a list of `{side}`, each with an `id`.")
            return None
    ids = [column["id"] for side in ("inputs", "outputs") for column in content[side]]
    if len(set(ids)) != len(ids):
        judge.refuse(pointer, "Two columns of this table have the same id.")
        return None
    if content.get("hitPolicy") != _FIRST:
        judge.refuse((*pointer, "hitPolicy"), "A table takes the first row that fits: `first`.")
        return None
    rows = content.get("rules")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        judge.refuse((*pointer, "rules"), "A table has rows.")
        return None
    if len(rows) > limits.POLICY_ROWS_MAX:
        judge.refuse((*pointer, "rules"), f"A table has at most {limits.POLICY_ROWS_MAX:,} rows.")
        return None
    return _Table(pointer, content["inputs"], content["outputs"], rows)


def _judge_columns(judge: Judge, table: _Table, known: Names) -> dict[str, Kind]:
    """The kinds of the columns that are compared, by their ids."""
    kinds: dict[str, Kind] = {}
    for side, columns in (("inputs", table.inputs), ("outputs", table.outputs)):
        for nth, column in enumerate(columns):
            at = (*table.pointer, side, nth)
            strange = sorted(set(column) - _COLUMN_KEYS)
            if strange or column.get("type") not in (None, "", "expression"):
                judge.refuse(
                    (*at, *(strange[:1] or ["type"])),
                    "Nobody judges this of a column; leave it out.",
                )
    for nth, column in enumerate(table.inputs):
        at = (*table.pointer, "inputs", nth, "field")
        if not isinstance(column.get("field"), str) or not column["field"].strip():
            judge.refuse(at, "Say which field this column compares.")
            continue
        kind = judge.expression(at, column["field"], Place.FIELD, known)
        kinds[column["id"]] = kind or ANYTHING
    fields: set[str] = set()
    for nth, column in enumerate(table.outputs):
        at = (*table.pointer, "outputs", nth, "field")
        field = column.get("field")
        if not is_name(field):
            judge.refuse(at, "What a column makes has a name: letters, digits and underscores.")
        elif field in fields:
            judge.refuse(at, f"Another column makes `{field}`.")
        elif judge.words.forbids(field):
            judge.refuse(at, "This is among `forbidden_inputs`.")
        else:
            fields.add(field)
    return kinds


def _judge_cells(
    judge: Judge, table: _Table, kinds: Mapping[str, Kind], known: Names
) -> dict[str, Named]:
    made: dict[str, Kind] = {}
    partly: set[str] = set()
    fields = [(one["id"], one.get("field")) for one in table.outputs]
    for nth, row in enumerate(table.rows):
        at = (*table.pointer, "rules", nth)
        for one, kind in kinds.items():
            if not is_empty(row.get(one)):
                judge.expression((*at, one), row[one], Place.CELL, {}, dollar=kind)
        for one, field in fields:
            if is_empty(row.get(one)):
                partly.add(str(field))
                continue
            found = judge.expression((*at, one), row[one], Place.RESULT, known)
            if found is None or not is_name(field) or field in {OUTCOME, REASONS}:
                continue
            before = made.get(field, found)
            if not before.fits(found):
                judge.refuse((*at, one), f"Rows before make {before} of `{field}`, this {found}.")
            elif found.name == "object":
                judge.refuse((*at, one), "Name the member of the object itself.")
            made[field] = joined(before, found)
    origin = str(table.pointer)
    return {
        name: Named(made.get(name, ANYTHING), origin, name in partly)
        for _, name in fields
        if is_name(name)
    }


def _judge_reach(judge: Judge, table: _Table, kinds: Mapping[str, Kind]) -> None:
    """Rows that no input comes to: nothing fits them, or one before takes all that they would."""
    seen: dict[tuple[str, ...], int] = {}
    caught: int | None = None
    for nth, row in enumerate(table.rows):
        at = (*table.pointer, "rules", nth)
        for one, kind in kinds.items():
            if not is_empty(row.get(one)) and never_fits(row[one], kind):
                judge.refuse((*at, one), "No value fits this condition.")
        asked = conditions(row, table.inputs)
        if caught is not None:
            judge.refuse(at, f"No input comes here: row {caught + 1} catches everything.")
        elif asked in seen:
            judge.refuse(
                at, f"Row {seen[asked] + 1} has the same conditions, so this one is never reached."
            )
        if caught is None and _catches_all(row, kinds):
            caught = nth
        seen.setdefault(asked, nth)


def _catches_all(row: Mapping[str, Any], kinds: Mapping[str, Kind]) -> bool:
    return all(is_empty(row.get(one)) or catches_all(row[one], kind) for one, kind in kinds.items())


def _judge_decisions(judge: Judge, table: _Table, kinds: Mapping[str, Kind]) -> None:
    """What the rows of a table decide: constants that the policy knows."""
    words = judge.words
    ids = {column["field"]: column["id"] for column in table.outputs}
    for nth, row in enumerate(table.rows):
        at = (*table.pointer, "rules", nth)
        outcome = _constant(row.get(ids[OUTCOME]))
        if not isinstance(outcome, str) or outcome not in words.outcomes:
            judge.refuse(
                (*at, ids[OUTCOME]),
                f"The outcome is one of {listed(words.outcomes)}, as a constant in quotes.",
            )
            continue
        reasons = _constant(row.get(ids[REASONS])) if REASONS in ids else []
        codes = [reasons] if isinstance(reasons, str) else reasons
        if codes is None or not set(codes) <= words.outcomes[outcome]:
            judge.refuse(
                (*at, ids.get(REASONS, ids[OUTCOME])),
                f"The reasons of `{outcome}` are {listed(words.outcomes[outcome])}, as constants.",
            )
        elif not codes and outcome in words.reasoned:
            judge.refuse(at, f"`{outcome}` needs a specific reason.")
        if outcome in words.approving and _catches_all(row, kinds):
            judge.refuse(
                at,
                f"A row that catches everything may not say `{outcome}`: it would approve a guess.",
            )
        elif outcome in words.approving and nth == len(table.rows) - 1:
            judge.refuse(
                at,
                f"The last row may not say `{outcome}`: what nobody has thought of ends there. Put it "
                "further up, and let the last row decline, or have somebody look.",
            )


def _constant(cell: Any) -> str | list[str] | None:
    if is_empty(cell):
        return []
    try:
        return constant(str(cell))
    except ExpressionRefused:
        return None
