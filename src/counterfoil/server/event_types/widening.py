"""Whether a schema accepts every payload that the one before it accepted.

In general nobody can tell from two schemas. So this is a proof and not a test: where it says
nothing, the new schema accepts whatever the old one did; where it cannot prove that, it names
the place, and the change counts as narrowing, although it may be none.

Both schemas have their references written out first. Then they are compared place by place:
for each keyword of the new one, what the old one asked at that place must imply it. Keywords
hold for one kind of value each (``maximum`` for numbers), so those for a kind that the old
schema refused anyway are passed over. A finite old schema (``const``, ``enum``) is simply
tried, value by value.

Branches are compared with branches, so a hostile pair of schemas could take for ever. A proof
has ``PROOF_STEPS_MAX`` steps; where they do not suffice, nothing is proved.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from counterfoil.server.core import limits
from counterfoil.server.core.document import encode, pointer_to, quote
from counterfoil.server.core.errors import FieldError
from counterfoil.server.event_types.compiled import checker
from counterfoil.server.event_types.cost import Ceiling
from counterfoil.server.event_types.dialect import (
    ANNOTATIONS,
    LISTED_SCHEMAS,
    ONE_SCHEMA,
    SCHEMAS_BY_NAME,
    Schema,
    parts_of,
)
from counterfoil.server.event_types.own_keywords import is_multiple
from counterfoil.server.event_types.patterns import steps_to_compile
from counterfoil.server.log.model import Path

_ALL_TYPES: Final = frozenset({"null", "boolean", "object", "array", "number", "string"})
_KIND_OF: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        ("multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"), "number"
    ),
    **dict.fromkeys(("maxLength", "minLength", "pattern", "format"), "string"),
    **dict.fromkeys(
        (
            *("prefixItems", "items", "contains", "minContains", "maxContains"),
            *("maxItems", "minItems", "uniqueItems", "unevaluatedItems"),
        ),
        "array",
    ),
    **dict.fromkeys(
        (
            *("properties", "patternProperties", "additionalProperties", "propertyNames"),
            *("maxProperties", "minProperties", "required", "dependentRequired"),
            *("dependentSchemas", "unevaluatedProperties"),
        ),
        "object",
    ),
}
"""Which kind of value a keyword holds for; those that are missing hold for all."""

_BOUNDS: Final = frozenset({"maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"})
_WHOLE: Final = frozenset({"unevaluatedItems", "unevaluatedProperties"})
"""What these say depends on all else of the schema."""

_TOGETHER: Final = (("contains", "minContains", "maxContains"), ("if", "then", "else"))


# What a proof does, in the steps of ``cost.py``: comparing two places, writing out two schemas to
# see whether they are the same, and compiling one to try values with it.
_STEPS_A_PLACE: Final = 200
_STEPS_A_BYTE_WRITTEN: Final = 1
_STEPS_A_BYTE_COMPILED: Final = 20


def narrowing(old: dict[str, Any], new: dict[str, Any]) -> list[FieldError]:
    """Where the new schema may refuse a payload that the old one accepts; none: nowhere.

    Both are judged schemas of payloads. Pointers lie below ``/schema`` of the new one.
    """
    before, after = _written_out(old, old), _written_out(new, new)
    proof = _Proof()
    errors: dict[str, FieldError] = {}
    try:
        if proof.same(before, after):
            return []
        for error in proof.narrowed(_of_objects(before), after, ("schema",)):
            errors.setdefault(error.pointer, error)
            if len(errors) >= limits.FIELD_ERRORS_MAX:
                break
    except _TooLongError:
        if not errors:
            message = (
                "These schemas are too large to be compared: whatever was accepted could be "
                "refused."
            )
            return [FieldError("/schema", message)]
    return list(errors.values())


class _TooLongError(Exception):
    """A proof has no steps left."""


class _Proof:
    """The comparison of two schemas, and the steps that are left for it."""

    def __init__(self) -> None:
        self._left = limits.PROOF_STEPS_MAX

    def _spend(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise _TooLongError

    def narrowed(self, old: Schema, new: Schema, path: Path) -> Iterator[FieldError]:
        """Where ``new`` may refuse what ``old`` accepts.

        Raises ``_TooLongError``.
        """
        self._spend(_STEPS_A_PLACE)
        if new is True or new == {} or old is False or self.same(old, new):
            return
        if new is False:
            yield FieldError(pointer_to(path), "Nothing is accepted here any more.")
            return
        before: dict[str, Any] = {} if old is True else old
        values = _values_of(before)
        if values is not None:
            yield from self._refused_values(before, new, values, path)
            return
        if set(before) == {"anyOf"} or set(before) == {"oneOf"}:
            (branches,) = before.values()
            for branch in branches:
                yield from self.narrowed(branch, new, path)
            return
        if self._follows_from_one(before, new):
            return
        for keyword in new:
            kind = _KIND_OF.get(keyword)
            if kind is None or kind in _types_of(before):
                yield from self._by(keyword, before, new, path)

    def _follows_from_one(self, old: Mapping[str, Any], new: Schema) -> bool:
        """Whether one of the schemas that all that fits the old one fits implies the new one."""
        return any(not any(self.narrowed(part, new, ())) for part in _members(old))

    def _by(
        self, keyword: str, old: Mapping[str, Any], new: Mapping[str, Any], path: Path
    ) -> Iterator[FieldError]:
        """Where one keyword of the new schema may refuse what the old one accepts."""
        structural = _STRUCTURAL.get(keyword)
        if structural is not None:
            yield from structural(self, keyword, old, new, path)
            return
        was, now = old.get(keyword), new[keyword]
        if keyword in _BOUNDS:
            implied = _bounds_imply(keyword, old, now)
        elif keyword in _IMPLIED:
            implied = _IMPLIED[keyword](was, now)
        else:
            implied = keyword not in _WHOLE and was is not None and self.same(was, now)
        if not implied:
            yield _changed(keyword, was, now, (*path, keyword))

    def type(
        self, keyword: str, old: Mapping[str, Any], new: Mapping[str, Any], path: Path
    ) -> Iterator[FieldError]:
        if not _types_of(old, whole=True) <= _types_of(new, whole=True):
            yield _changed(keyword, old.get(keyword), new[keyword], (*path, keyword))

    def all_of(
        self, keyword: str, old: Mapping[str, Any], new: Mapping[str, Any], path: Path
    ) -> Iterator[FieldError]:
        for index, part in enumerate(new[keyword]):
            yield from self.narrowed(dict(old), part, (*path, keyword, index))

    def any_of(
        self, keyword: str, old: Mapping[str, Any], new: Mapping[str, Any], path: Path
    ) -> Iterator[FieldError]:
        place = (*path, keyword)
        if self._follows_from_one(old, {keyword: new[keyword]}):
            return
        if not any(not any(self.narrowed(dict(old), part, place)) for part in new[keyword]):
            yield _changed(keyword, old.get(keyword), new[keyword], place)

    def group(
        self, keyword: str, old: Mapping[str, Any], new: Mapping[str, Any], path: Path
    ) -> Iterator[FieldError]:
        """Keywords that mean something only together: unchanged, or gone with the first of them."""
        group = next(names for names in _TOGETHER if keyword in names)
        leader = group[0]
        if leader in new and any(not self.same(old.get(name), new.get(name)) for name in group):
            yield _changed(keyword, old.get(keyword), new[keyword], (*path, keyword))

    def properties(
        self, keyword: str, old: Mapping[str, Any], new: Mapping[str, Any], path: Path
    ) -> Iterator[FieldError]:
        """Each property that either schema names, and then all others."""
        was, now = old.get("properties", {}), new.get("properties", {})
        patterns = bool(old.get("patternProperties") or new.get("patternProperties"))
        others_were = old.get("additionalProperties", True)
        others_are = new.get("additionalProperties", True)
        if keyword == "properties":
            for name, part in now.items():
                # Where a pattern may hold for it, it is not known what the others' schema says.
                before = was.get(name, True if patterns else others_were)
                yield from self.narrowed(before, part, (*path, "properties", name))
            return
        for name, part in was.items():
            if name not in now:
                yield from _named(self.narrowed(part, others_are, (*path, keyword)), name)
        if patterns and not self.same(old.get("patternProperties"), new.get("patternProperties")):
            yield _changed(keyword, others_were, others_are, (*path, keyword))
            return
        yield from self.narrowed(others_were, others_are, (*path, keyword))

    def items(
        self, keyword: str, old: Mapping[str, Any], new: Mapping[str, Any], path: Path
    ) -> Iterator[FieldError]:
        """Each place of a list that either schema names, and then all others."""
        was, now = old.get("prefixItems", []), new.get("prefixItems", [])
        rest_was, rest_is = old.get("items", True), new.get("items", True)
        if keyword == "prefixItems":
            for index, part in enumerate(now):
                before = was[index] if index < len(was) else rest_was
                yield from self.narrowed(before, part, (*path, keyword, index))
            return
        for before in (*was[len(now) :], rest_was):
            yield from self.narrowed(before, rest_is, (*path, keyword))

    def _refused_values(
        self, old: dict[str, Any], new: dict[str, Any], values: Sequence[Any], path: Path
    ) -> Iterator[FieldError]:
        self._spend(sum(map(_steps_to_compile, (old, new))))
        accepted, accepts = (checker(schema, hides=False) for schema in (old, new))
        ceilings = Ceiling(old), Ceiling(new)
        for value in values:
            self._spend(sum(ceiling.steps(value) for ceiling in ceilings))
            if accepted.is_valid(value) and not accepts.is_valid(value):
                yield FieldError(
                    pointer_to(path), f"{_short(value)} was accepted here, and is not any more."
                )

    def same(self, one: Any, other: Any) -> bool:
        """Whether two schemas, or values of keywords, are the same.

        Raises ``_TooLongError``.
        """
        texts = encode(_sorted(one)), encode(_sorted(other))
        self._spend(_STEPS_A_BYTE_WRITTEN * sum(map(len, texts)))
        return texts[0] == texts[1]


def _of_objects(schema: Schema) -> Schema:
    """The same, where it is known that only objects are held against it."""
    return {**schema, "type": "object"} if isinstance(schema, dict) else schema


def _written_out(schema: Schema, root: Mapping[str, Any]) -> Schema:
    """The same schema without references, annotations and definitions."""
    if isinstance(schema, bool):
        return schema
    plain: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword in ANNOTATIONS or keyword.startswith("x-") or keyword in ("$defs", "$ref"):
            continue
        if keyword in ONE_SCHEMA:
            plain[keyword] = _written_out(value, root)
        elif keyword in SCHEMAS_BY_NAME:
            plain[keyword] = {name: _written_out(part, root) for name, part in value.items()}
        elif keyword in LISTED_SCHEMAS:
            plain[keyword] = [_written_out(part, root) for part in value]
        else:
            plain[keyword] = value
    reference = schema.get("$ref")
    if reference is None:
        return plain
    target = _written_out(root["$defs"][reference.removeprefix("#/$defs/")], root)
    return {"allOf": [target, plain]} if plain else target


def _steps_to_compile(schema: Schema) -> int:
    return _STEPS_A_BYTE_COMPILED * len(encode(schema)) + sum(
        map(steps_to_compile, _patterns(schema))
    )


def _patterns(schema: Schema) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from schema.get("patternProperties", ())
        if "pattern" in schema:
            yield schema["pattern"]
        for _, part in parts_of(schema):
            yield from _patterns(part)


def _members(schema: Mapping[str, Any]) -> list[Schema]:
    """Schemas that all that fits this one fits, each less than all of it."""
    if len(schema) == 1 and "allOf" not in schema:
        return []
    branches = [{keyword: schema[keyword]} for keyword in ("anyOf", "oneOf") if keyword in schema]
    return [*schema.get("allOf", ()), *branches]


def _bounds_imply(keyword: str, old: Mapping[str, Any], now: Any) -> bool:
    """Whether the old bounds of a number imply a new one."""
    upper = keyword in ("maximum", "exclusiveMaximum")
    plain, exclusive = ("maximum", "exclusiveMaximum") if upper else ("minimum", "exclusiveMinimum")
    is_exclusive = keyword == exclusive
    sign = 1 if upper else -1
    for name, strict in ((plain, False), (exclusive, True)):
        was = old.get(name)
        if was is None:
            continue
        if sign * was < sign * now or (was == now and (strict or not is_exclusive)):
            return True
    return False


def _named(errors: Iterator[FieldError], name: str) -> Iterator[FieldError]:
    for error in errors:
        yield FieldError(error.pointer, f"{quote(name)} is not named any more. {error.message}")


def _values_of(schema: Mapping[str, Any]) -> Sequence[Any] | None:
    """The values that a finite schema can accept; None for any other."""
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) else None


def _types_of(schema: Mapping[str, Any], *, whole: bool = False) -> frozenset[str]:
    """The kinds of value that a schema's ``type`` lets through; ``whole``: integers apart."""
    given = schema.get("type")
    types = _ALL_TYPES if given is None else frozenset([given] if isinstance(given, str) else given)
    if whole:
        # A number may be an integer, and not the other way round.
        return types | {"integer"} if "number" in types else types
    return types | {"number"} if "integer" in types else types


def _changed(keyword: str, was: Any, now: Any, path: Path) -> FieldError:
    before = "was not there" if was is None else f"was {_short(was)}"
    return FieldError(
        pointer_to(path),
        f"`{keyword}` {before}, and is {_short(now)}: what was accepted could be refused.",
    )


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _sorted(value[name]) for name in sorted(value)}
    return [_sorted(each) for each in value] if isinstance(value, list) else value


def _short(value: Any) -> str:
    text = encode(value).decode()
    return text if len(text) <= 60 else f"{text[:60]}…"


def _at_most(was: Any, now: Any) -> bool:
    return was is not None and was <= now


def _at_least(was: Any, now: Any) -> bool:
    return now == 0 or (was is not None and was >= now)


def _implies_dependent(was: Any, now: Any) -> bool:
    before = was or {}
    return all(set(names) <= set(before.get(name, ())) for name, names in now.items())


_IMPLIED: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    **dict.fromkeys(("maxLength", "maxItems", "maxProperties"), _at_most),
    **dict.fromkeys(("minLength", "minItems", "minProperties"), _at_least),
    "uniqueItems": lambda was, now: now is False or was is True,
    "required": lambda was, now: set(now) <= set(was or ()),
    "dependentRequired": _implies_dependent,
    "multipleOf": lambda was, now: was is not None and is_multiple(was, now),
}
"""Whether what a keyword asked implies what it asks now. What is not here must be the same."""

_STRUCTURAL: Final[
    Mapping[
        str,
        Callable[[_Proof, str, Mapping[str, Any], Mapping[str, Any], Path], Iterator[FieldError]],
    ]
] = {
    "type": _Proof.type,
    "properties": _Proof.properties,
    "additionalProperties": _Proof.properties,
    "prefixItems": _Proof.items,
    "items": _Proof.items,
    "allOf": _Proof.all_of,
    "anyOf": _Proof.any_of,
    **{keyword: _Proof.group for group in _TOGETHER for keyword in group},
}
"""Keywords that are held against the schema around them, and not against their old value."""
