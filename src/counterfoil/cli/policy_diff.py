"""What changed between two policies, as those who decide about it read it.

Inputs, outcomes and forbidden inputs are compared by their names; decision tables row by row, a
row being known by its ``_id`` wherever it stands; and everything else by JSON pointer.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Final, Literal

from counterfoil.client.document import encode

Kind = Literal["added", "removed", "changed", "moved"]

READS: Final = "reads"
OUTCOMES: Final = "outcomes"
FORBIDDEN: Final = "forbidden_inputs"
REST: Final = "everything else"

_TABLE: Final = "decisionTableNode"
_ABSENT: Final = object()
_KEYS: Final = ("id", "_id", "key", "name")
"""What may name the members of a list, so that each is compared with itself wherever it stands."""

Document = Mapping[str, Any]
Pointer = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is another in the second policy.

    Attributes:
        part: the heading that it stands under: ``reads``, ``table decide`` …
        kind: what became of it.
        name: what it is, in that part.
        detail: the change, or what was added or removed, on one line.
        pointer: where it stands: in the second policy, or in the first if it was removed.
        old, new: the values; ``None`` where there is none.
    """

    part: str
    kind: Kind
    name: str
    detail: str
    pointer: str
    old: Any = None
    new: Any = None


def changes(old: Document, new: Document) -> list[Change]:
    """All that changed, in the order of a reader: inputs, outcomes, rows, and the rest."""
    tables = list(_pairs_of_tables(old, new))
    found = [
        *_of_members(READS, old, new, _read_text),
        *_of_members(OUTCOMES, old, new, _outcome_text),
        *_of_names(FORBIDDEN, old, new),
    ]
    for before, after in tables:
        found += _of_table(before, after)
    return found + list(_rest(old, new))


# --- Inputs and outcomes ------------------------------------------------------------------


def _of_members(
    part: str, old: Document, new: Document, text: Callable[[Any], str]
) -> Iterator[Change]:
    before, after = (_object(each.get(part)) for each in (old, new))
    for name in _merged(list(before), list(after)):
        pointer = _pointer((part, name))
        if name not in after:
            yield Change(part, "removed", name, text(before[name]), pointer, old=before[name])
        elif name not in before:
            yield Change(part, "added", name, text(after[name]), pointer, new=after[name])
        else:
            for place, was, now in _differences(before[name], after[name]):
                kind, detail = _said(place, was, now)
                yield Change(
                    *(part, kind, name, detail, _pointer((part, name, *place))),
                    old=_given(was),
                    new=_given(now),
                )


def _read_text(read: Any) -> str:
    """A read in a few words: ``latest /monthly_minor of income_verified, at most 90 days old``."""
    if not isinstance(read, Mapping):
        return _json(read)
    types = " or ".join(map(str, read.get("types") or ()))
    text = " ".join(filter(None, (str(read.get("take", "")), read.get("path"), "of", types)))
    if read.get("agents"):
        text += f" by {' or '.join(map(str, read['agents']))}"
    if read.get("max_age_seconds") is not None:
        text += f", at most {read['max_age_seconds']} seconds old"
    return text + (", may be missing" if read.get("may_be_missing") else "")


def _outcome_text(outcome: Any) -> str:
    if not isinstance(outcome, Mapping):
        return _json(outcome)
    codes = ", ".join(_object(outcome.get("reasons")))
    return f"{outcome.get('kind')}" + (f" ({codes})" if codes else "")


def _of_names(part: str, old: Document, new: Document) -> Iterator[Change]:
    before, after = (_list(each.get(part)) for each in (old, new))
    for nth, name in enumerate(before):
        if name not in after:
            yield Change(part, "removed", str(name), "", _pointer((part, nth)), old=name)
    for nth, name in enumerate(after):
        if name not in before:
            yield Change(part, "added", str(name), "", _pointer((part, nth)), new=name)
    if before != after and len(before) == len(after) and all(name in after for name in before):
        yield Change(part, "moved", "order", "is another", _pointer((part,)), before, after)


# --- Decision tables ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Table:
    """A decision table, and where its content stands."""

    name: str
    pointer: Pointer
    content: Document

    @property
    def rows(self) -> list[Document]:
        """Its rows."""
        return [row for row in _list(self.content.get("rules")) if isinstance(row, Mapping)]

    def ids(self) -> list[str]:
        """What its rows are known by: their ``_id``, or where one has none, their numbers."""
        ids = [row.get("_id") for row in self.rows]
        if all(isinstance(one, str) and one for one in ids) and len(set(ids)) == len(ids):
            return [str(one) for one in ids]
        return [f"row {nth}" for nth in range(1, len(ids) + 1)]

    def columns(self, side: str) -> dict[str, str]:
        """Its columns: by id, what each compares or makes."""
        return {
            str(column.get("id")): str(column.get("field") or column.get("name") or "")
            for column in _list(self.content.get(side))
            if isinstance(column, Mapping)
        }

    def row_text(self, row: Document) -> str:
        """A row in its own words: ``ratio > 0.5, flags 0 → outcome "decline"``."""
        asks, gives = (
            [
                f"{heading} {row[column]}"
                for column, heading in self.columns(side).items()
                if not _is_empty(row.get(column))
            ]
            for side in ("inputs", "outputs")
        )
        return f"{', '.join(asks) or 'anything'} → {', '.join(gives) or 'nothing'}"

    def heading(self, column: str) -> str:
        """What a cell is called."""
        return {**self.columns("inputs"), **self.columns("outputs")}.get(column, column)


def _tables_of(policy: Document) -> dict[str, _Table]:
    found = {}
    for nth, node in enumerate(_list(_object(policy.get("rules")).get("nodes"))):
        if isinstance(node, Mapping) and node.get("type") == _TABLE:
            node_id = str(node.get("id"))
            pointer: Pointer = ("rules", "nodes", nth, "content")
            found[node_id] = _Table(
                str(node.get("name", node_id)), pointer, _object(node.get("content"))
            )
    return found


def _pairs_of_tables(old: Document, new: Document) -> Iterator[tuple[_Table, _Table]]:
    """The tables that are in both, by the ids of their nodes."""
    before, after = _tables_of(old), _tables_of(new)
    for node_id, table in before.items():
        if node_id in after:
            yield table, after[node_id]


def _of_table(old: _Table, new: _Table) -> Iterator[Change]:
    part = f"table {new.name}"
    for side in ("inputs", "outputs"):
        yield from _of_columns(part, side, old, new)
    before = dict(zip(old.ids(), enumerate(old.rows), strict=True))
    after = dict(zip(new.ids(), enumerate(new.rows), strict=True))
    moved = _moved([one for one in before if one in after], [one for one in after if one in before])
    for row_id in _merged(list(before), list(after)):
        if row_id not in after:
            nth, row = before[row_id]
            yield Change(
                *(part, "removed", _row_name(nth, row_id), old.row_text(row)),
                _pointer((*old.pointer, "rules", nth)),
                old=row,
            )
            continue
        nth, row = after[row_id]
        pointer: Pointer = (*new.pointer, "rules", nth)
        if row_id not in before:
            yield Change(
                *(part, "added", _row_name(nth, row_id), new.row_text(row)),
                _pointer(pointer),
                new=row,
            )
            continue
        was_nth, was = before[row_id]
        if row_id in moved:
            yield Change(
                *(part, "moved", _row_name(nth, row_id)),
                f"order: {_after(list(before), was_nth)} → {_after(list(after), nth)}",
                _pointer(pointer),
                old=was_nth + 1,
                new=nth + 1,
            )
        for column in _merged(list(was), list(row)):
            if column == "_id" or _is_same(was.get(column), row.get(column)):
                continue
            yield Change(
                *(part, "changed", _row_name(nth, row_id)),
                f"{new.heading(column)}: {_cell(was.get(column))} → {_cell(row.get(column))}",
                _pointer((*pointer, column)),
                old=was.get(column),
                new=row.get(column),
            )


def _of_columns(part: str, side: str, old: _Table, new: _Table) -> Iterator[Change]:
    before, after = old.columns(side), new.columns(side)
    for column in _merged(list(before), list(after)):
        was, now = before.get(column), after.get(column)
        if was == now:
            continue
        kind: Kind = "added" if was is None else "removed" if now is None else "changed"
        detail = f"{was} → {now}" if kind == "changed" else f"{was or now}"
        table = old if now is None else new
        nth = list(table.columns(side)).index(column)
        pointer = _pointer((*table.pointer, side, nth))
        yield Change(part, kind, f"column of {side}", detail, pointer, was, now)


def _row_name(nth: int, row_id: str) -> str:
    number = f"row {nth + 1}"
    return number if row_id == number else f"{number} ({row_id})"


def _after(ids: Sequence[str], nth: int) -> str:
    return f"after {ids[nth - 1]}" if nth else "first"


def _moved(before: Sequence[str], after: Sequence[str]) -> set[str]:
    """Those that stand elsewhere among the others: as few of them as explain the new order."""
    same = SequenceMatcher(a=before, b=after, autojunk=False).get_matching_blocks()
    stayed = {one for block in same for one in before[block.a : block.a + block.size]}
    return set(before) - stayed


def _is_empty(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip())


def _is_same(one: Any, other: Any) -> bool:
    return one == other or (_is_empty(one) and _is_empty(other))


def _cell(cell: Any) -> str:
    if _is_empty(cell):
        return "anything"
    return cell if isinstance(cell, str) else _json(cell)


# --- Everything else ----------------------------------------------------------------------


def _rest(old: Document, new: Document) -> Iterator[Change]:
    was, now = _without_told(old, new), _without_told(new, old)
    for place, before, after in _differences(was, now):
        kind: Kind = "added" if before is _ABSENT else "removed" if after is _ABSENT else "changed"
        told = [_json(each) for each in (before, after) if each is not _ABSENT]
        yield Change(
            *(REST, kind, _pointer(place), " → ".join(told), _pointer(place)),
            old=_given(before),
            new=_given(after),
        )


def _without_told(policy: Document, other: Document) -> dict[str, Any]:
    """A policy without what is told under a heading of its own."""
    left = {name: value for name, value in policy.items() if name not in _TOLD}
    rules = _object(policy.get("rules"))
    if isinstance(rules.get("nodes"), list):
        tables = _tables_of(other)
        nodes = [_without_rows(node, tables) for node in rules["nodes"]]
        left["rules"] = {**rules, "nodes": nodes}
    return left


def _without_rows(node: Any, others: Mapping[str, _Table]) -> Any:
    """A table that is in both: without its rows, and without what its columns compare."""
    if not isinstance(node, Mapping) or node.get("type") != _TABLE:
        return node
    other = others.get(str(node.get("id")))
    if other is None:
        return node
    content = {name: each for name, each in _object(node.get("content")).items() if name != "rules"}
    for side in ("inputs", "outputs"):
        known = other.columns(side)
        content[side] = [
            _without_field(column)
            for column in _list(content.get(side))
            if isinstance(column, Mapping) and str(column.get("id")) in known
        ]
    return {**node, "content": content}


def _without_field(column: Document) -> dict[str, Any]:
    told = "field" if column.get("field") else "name"
    return {name: each for name, each in column.items() if name != told}


_TOLD: Final = frozenset({READS, OUTCOMES, FORBIDDEN})


def _differences(old: Any, new: Any, place: Pointer = ()) -> Iterator[tuple[Pointer, Any, Any]]:
    """Where two values differ, with what stands there; the deepest place that tells it."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in _merged(list(old), list(new)):
            yield from _differences(old.get(name, _ABSENT), new.get(name, _ABSENT), (*place, name))
    elif isinstance(old, list) and isinstance(new, list):
        yield from _differences_of_lists(old, new, place)
    elif old is _ABSENT or new is _ABSENT or _json(old) != _json(new):
        yield place, old, new


def _differences_of_lists(
    old: list[Any], new: list[Any], place: Pointer
) -> Iterator[tuple[Pointer, Any, Any]]:
    key = next((key for key in _KEYS if _names_all(key, old) and _names_all(key, new)), None)
    if key is None:
        if not all(isinstance(each, Mapping | list) for each in (*old, *new)):
            # A list of words is read as a whole.
            if _json(old) != _json(new):
                yield place, old, new
            return
        for nth in range(max(len(old), len(new))):
            before = old[nth] if nth < len(old) else _ABSENT
            after = new[nth] if nth < len(new) else _ABSENT
            yield from _differences(before, after, (*place, nth))
        return
    before, after = ({each[key]: nth for nth, each in enumerate(those)} for those in (old, new))
    for name in _merged(list(before), list(after)):
        nth = after.get(name, before.get(name, 0))
        yield from _differences(
            old[before[name]] if name in before else _ABSENT,
            new[after[name]] if name in after else _ABSENT,
            (*place, nth),
        )
    orders = [
        [each for each in one if each in other] for one, other in ((before, after), (after, before))
    ]
    if orders[0] != orders[1]:
        yield place, orders[0], orders[1]


def _names_all(key: str, values: Sequence[Any]) -> bool:
    names = [each.get(key) if isinstance(each, Mapping) else None for each in values]
    return all(isinstance(name, str) for name in names) and len(set(names)) == len(names)


# --- Words --------------------------------------------------------------------------------


def _said(place: Pointer, old: Any, new: Any) -> tuple[Kind, str]:
    """What became of a part of a read or an outcome, on one line."""
    where = " ".join(str(step) for step in place)
    if old is _ABSENT:
        return "changed", f"{where}: nothing → {_json(new)}"
    if new is _ABSENT:
        return "changed", f"{where}: {_json(old)} → nothing"
    return "changed", f"{where}: {_json(old)} → {_json(new)}"


def _json(value: Any) -> str:
    return encode(value).decode()


def _given(value: Any) -> Any:
    return None if value is _ABSENT else value


def _pointer(place: Pointer) -> str:
    steps = (str(step).replace("~", "~0").replace("/", "~1") for step in place)
    return "".join(f"/{step}" for step in steps)


def _object(value: Any) -> Document:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _merged(before: Sequence[str], after: Sequence[str]) -> list[str]:
    """The names of both, each once: in the order of the second, what is gone where it was."""
    merged = list(after)
    for nth, name in enumerate(before):
        if name not in merged:
            follows = before[nth - 1] if nth else None
            merged.insert(merged.index(follows) + 1 if follows in merged else 0, name)
    return merged
