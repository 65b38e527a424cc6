"""Decision tables: what they compare, what they decide, and whether each row can be reached.

What is decided stands in a table, as a constant: an outcome that the policy knows, with reasons
that it knows for it. So one can tell, without running anything, what can come of it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from counterfoil.server.core import limits
from counterfoil.server.decisions import expressions
from counterfoil.server.decisions.expressions import ExpressionRefused
from counterfoil.server.decisions.vocabulary import (
    OUTCOME,
    REASONS,
    Fault,
    Pointer,
    Vocabulary,
    judge_expression,
    listed,
)

_FIRST: Final = "first"


class _Table(NamedTuple):
    """A table, taken apart. ``pointer`` is that of its content."""

    pointer: Pointer
    inputs: Sequence[Mapping[str, Any]]
    outputs: Sequence[Mapping[str, Any]]
    rows: Sequence[Mapping[str, Any]]
    takes_first: bool


def makes(content: Mapping[str, Any]) -> frozenset[str]:
    """The names that a table makes, as far as it can be read."""
    columns = content.get("outputs")
    return frozenset(
        column["field"].partition(".")[0]
        for column in (columns if isinstance(columns, list) else [])
        if isinstance(column, dict) and isinstance(column.get("field"), str)
    )


def judge_table(
    pointer: Pointer, content: Mapping[str, Any], known: frozenset[str], words: Vocabulary
) -> Iterator[Fault]:
    """Everything for which a table may not be published.

    Args:
        pointer: where its content stands.
        content: what the editor saved of it.
        known: the names that are handed on to it.
    """
    faults: list[Fault] = []
    table = _taken_apart(pointer, content, faults)
    yield from faults
    if table is None:
        return
    for nth, column in enumerate(table.inputs):
        at = (*pointer, "inputs", nth, "field")
        if isinstance(column.get("field"), str) and column["field"].strip():
            yield from judge_expression(at, column["field"], known, words)
        else:
            yield Fault(at, "Say which field this column compares.")
    for nth, column in enumerate(table.outputs):
        if not isinstance(column.get("field"), str) or not column["field"]:
            yield Fault((*pointer, "outputs", nth, "field"), "Say which field this column makes.")
    yield from _judge_cells(table, known, words)
    if table.takes_first:
        yield from _judge_reach(table)
    if OUTCOME in makes(content):
        if not table.takes_first:
            yield Fault(
                (*pointer, "hitPolicy"), "A table that decides takes the first row that fits."
            )
        yield from _judge_decisions(table, words)


def _taken_apart(
    pointer: Pointer, content: Mapping[str, Any], faults: list[Fault]
) -> _Table | None:
    for side in ("inputs", "outputs"):
        columns = content.get(side)
        if not isinstance(columns, list) or not all(
            isinstance(one, dict) and isinstance(one.get("id"), str) for one in columns
        ):
            faults.append(
                Fault((*pointer, side), f"A table has a list of `{side}`, each with an `id`.")
            )
            return None
    rows = content.get("rules")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        faults.append(Fault((*pointer, "rules"), "A table has rows."))
        return None
    if len(rows) > limits.POLICY_ROWS_MAX:
        faults.append(
            Fault((*pointer, "rules"), f"A table has at most {limits.POLICY_ROWS_MAX:,} rows.")
        )
        return None
    takes_first = content.get("hitPolicy", _FIRST) == _FIRST
    return _Table(pointer, content["inputs"], content["outputs"], rows, takes_first)


def _judge_cells(table: _Table, known: frozenset[str], words: Vocabulary) -> Iterator[Fault]:
    for nth, row in enumerate(table.rows):
        at = (*table.pointer, "rules", nth)
        for column in table.inputs:
            cell = row.get(column["id"])
            if not _is_empty(cell):
                # A name in a cell that came to nothing would make the row one that never fits;
                # of a column, that is seen when it is evaluated (engine.py).
                yield from judge_expression(
                    (*at, column["id"]), cell, frozenset(), words, cell=True
                )
        for column in table.outputs:
            if not _is_empty(row.get(column["id"])):
                yield from judge_expression((*at, column["id"]), row[column["id"]], known, words)


def _judge_reach(table: _Table) -> Iterator[Fault]:
    """Rows that no input comes to, since one before takes all that they would."""
    seen: dict[tuple[str, ...], int] = {}
    caught: int | None = None
    for nth, row in enumerate(table.rows):
        at = (*table.pointer, "rules", nth)
        conditions = _conditions(row, table.inputs)
        if caught is not None:
            yield Fault(at, f"No input comes here: row {caught + 1} catches everything.")
        elif conditions in seen:
            yield Fault(
                at,
                f"Row {seen[conditions] + 1} has the same conditions, so this one is never reached.",
            )
        if caught is None and not any(conditions):
            caught = nth
        seen.setdefault(conditions, nth)


def _is_empty(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip())


def _conditions(row: Mapping[str, Any], columns: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """A row's conditions, however they are spaced; empty where there is none."""
    found = []
    for column in columns:
        cell = row.get(column["id"])
        try:
            pieces = [] if _is_empty(cell) else expressions.tokens(str(cell))
        except ExpressionRefused:
            pieces = []
        found.append(" ".join(piece.text for piece in pieces))
    return tuple(found)


def _judge_decisions(table: _Table, words: Vocabulary) -> Iterator[Fault]:
    """What the rows of a table decide: constants that the policy knows."""
    ids = {column["field"]: column["id"] for column in table.outputs if column.get("field")}
    for nth, row in enumerate(table.rows):
        at = (*table.pointer, "rules", nth)
        outcome = _constant(row.get(ids[OUTCOME]))
        if not isinstance(outcome, str) or outcome not in words.outcomes:
            yield Fault(
                (*at, ids[OUTCOME]),
                f"The outcome is one of {listed(frozenset(words.outcomes))}, as a constant in quotes.",
            )
            continue
        reasons = _constant(row.get(ids[REASONS])) if REASONS in ids else []
        codes = [reasons] if isinstance(reasons, str) else reasons
        if codes is None or not set(codes) <= words.outcomes[outcome]:
            yield Fault(
                (*at, ids.get(REASONS, OUTCOME)),
                f"The reasons of `{outcome}` are {listed(words.outcomes[outcome])}, as constants.",
            )
        elif not codes and outcome in words.reasoned:
            yield Fault(at, f"`{outcome}` needs a specific reason.")
        if outcome in words.approving and not any(_conditions(row, table.inputs)):
            yield Fault(
                at,
                f"A row that catches everything may not say `{outcome}`: it would approve a guess.",
            )


def _constant(cell: Any) -> str | list[str] | None:
    if _is_empty(cell):
        return []
    try:
        return expressions.constant(str(cell))
    except ExpressionRefused:
        return None
