"""Which schemas a tenant may register.

Schemas come from tenants, and each tenant is a rival of the next, in one process. So what they
may ask for is bounded before anything is compiled, and before jsonschema-rs looks at it:

* Nothing is fetched: ``$ref`` leads to ``#/$defs/<name>`` of the same schema, and to itself by
  no way at all.
* With every reference written out, a schema has at most ``SCHEMA_VALUES_MAX`` values, at most
  ``SCHEMA_DEPTH_MAX`` deep. The pointers to its keywords are bounded, which the checker keeps.
* Patterns run in linear time, and are bounded before and when they are compiled (``patterns.py``).
* It can be held against a payload at all within ``CHECK_STEPS_MAX`` (``cost.py``).
* Every keyword is known. A misspelt ``requried`` would accept everything, and say nothing.

Whole numbers come as ``int`` and all others as ``Decimal`` (``core/document.py``), in schemas
as in payloads, and are compared digit for digit (``own_keywords.py``).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Final, NamedTuple

import jsonschema_rs

from counterfoil.server.core import limits
from counterfoil.server.core.document import encode, pointer_to, quote
from counterfoil.server.core.errors import FieldError
from counterfoil.server.event_types.compiled import (
    CompiledSchema,
    compiled,
    paths_bytes,
    shortened,
)
from counterfoil.server.event_types.dialect import (
    DIALECT,
    FORMATS,
    KNOWN,
    LISTED_SCHEMAS,
    PLAIN,
    SCHEMAS_BY_NAME,
    Schema,
    definitions,
    parts_of,
    referred,
)
from counterfoil.server.event_types.patterns import (
    LENGTHS_BY_KEYWORD,
    classes_in,
    fault_of_pattern,
    pattern_bytes,
)
from counterfoil.server.log.model import Path
from counterfoil.server.log.refusals import refuse

_DEF_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
"""Nothing that a reference could write in two ways: a reader that decodes `%62` would follow it
to another place than was judged."""

_TYPES: Final = ("array", "boolean", "integer", "null", "number", "object", "string")
_TEXT_BYTES_A_VALUE: Final = 64
"""A long text among the values of a schema counts for several."""


def judge_schema(schema: dict[str, Any]) -> CompiledSchema:
    """Judge a schema that was sent, and compile it.

    Raises ``InvalidInput`` with every fault at its pointer below ``/schema``.
    """
    size_bytes = len(encode(schema))
    if size_bytes > limits.SCHEMA_BYTES_MAX:
        raise refuse(
            [
                FieldError(
                    "/schema",
                    f"A schema may take {limits.SCHEMA_BYTES_MAX:,} bytes; this one takes "
                    f"{size_bytes:,}.",
                )
            ]
        )
    errors = list(islice(_faults(schema, schema, ("schema",)), limits.FIELD_ERRORS_MAX))
    if not errors:
        errors = _too_much(schema)
    if errors:
        raise refuse(errors)
    try:
        # As it was sent, so that what is wrong is found where it was sent.
        compiled(schema)
    except jsonschema_rs.ValidationError as error:
        pointer = pointer_to(("schema", *error.instance_path))
        raise refuse([FieldError(pointer, shortened(error.message))]) from None
    except ValueError as error:
        raise refuse([FieldError("/schema", shortened(str(error)))]) from None
    judged = CompiledSchema(schema)
    if judged.steps({}) > limits.CHECK_STEPS_MAX:
        raise refuse(
            [
                FieldError(
                    "/schema",
                    "Not even an empty payload could be held against this schema in the time "
                    "that a check may take. Ask for less.",
                )
            ]
        )
    return judged


# --- What may not be asked for ----------------------------------------------------


def _faults(schema: object, root: Mapping[str, Any], path: Path) -> Iterator[FieldError]:
    """What may not be asked for, in this schema and below it."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        yield FieldError(pointer_to(path), "A schema is an object, `true` or `false`.")
        return
    for keyword, value in schema.items():
        message = _fault(keyword, value, schema, root)
        if message is not None:
            yield FieldError(pointer_to((*path, keyword)), message)
    for below, part in parts_of(schema):
        yield from _faults(part, root, (*path, *below))
    if schema is root:
        for name, part in definitions(root).items():
            yield from _faults(part, root, (*path, "$defs", name))


def _fault(
    keyword: str, value: Any, beside: Mapping[str, Any], root: Mapping[str, Any]
) -> str | None:
    """Why a keyword may not stand here with this value, ``beside`` these others."""
    is_root = beside is root
    if keyword not in KNOWN and not keyword.startswith("x-"):
        return (
            f"{quote(keyword)} is no keyword that payloads are held against here. Check its "
            "spelling; a note of your own begins with `x-`."
        )
    fault: str | None = None
    match keyword:
        case "$schema" if value != DIALECT:
            fault = f"`$schema` is `{DIALECT}`, or is left out."
        case "$defs" if not is_root:
            fault = "`$defs` stands at the top of the schema only."
        case "$defs" if not all(map(_DEF_NAME.fullmatch, definitions(root))):
            fault = "A name below `$defs` has 1 to 128 letters, digits and `._-`."
        case "$ref" if referred(value) not in definitions(root):
            fault = (
                "`$ref` leads to a schema below `$defs` of this one, as `#/$defs/money`. Nothing "
                "is fetched."
            )
        case "type" if is_root and _is_type(value) and "object" not in value:
            fault = "A payload is an object, and this schema accepts none."
        case _ if keyword in _LED_BY and _LED_BY[keyword] not in beside:
            fault = f"`{keyword}` without `{_LED_BY[keyword]}` asks nothing."
        case _ if keyword in _MUST_BE and not _MUST_BE[keyword][0](value):
            fault = f"`{keyword}` is {_MUST_BE[keyword][1]}."
    return fault


def _is_type(value: object) -> bool:
    types = value if isinstance(value, list) else [value]
    return 1 <= len(types) <= len(_TYPES) and all(kind in _TYPES for kind in types)


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _are_names_by_name(value: object) -> bool:
    return isinstance(value, dict) and all(map(_are_names, value.values()))


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _is_list(value: object) -> bool:
    return isinstance(value, list) and bool(value)


def _is_format(value: object) -> bool:
    return isinstance(value, str) and value in FORMATS


_LED_BY: Final = {
    "then": "if",
    "else": "if",
    "minContains": "contains",
    "maxContains": "contains",
}
"""Keywords that mean something only beside another."""

_MUST_BE: Final[Mapping[str, tuple[Callable[[object], bool], str]]] = {
    "format": (_is_format, f"one of {', '.join(sorted(FORMATS))}; use `pattern` for others"),
    # The checker would compare every two entries of these, before it looks at what they are.
    "type": (_is_type, f"one or several of {', '.join(_TYPES)}"),
    "required": (_are_names, "a list of names"),
    "dependentRequired": (_are_names_by_name, "an object of lists of names"),
    **dict.fromkeys(SCHEMAS_BY_NAME, (_is_object, "an object of schemas")),
    **dict.fromkeys(LISTED_SCHEMAS, (_is_list, "a list of schemas")),
}
"""What the values of some keywords have to be; of the others, the checker tells it."""


# --- What would be too much -------------------------------------------------------


class _Extent(NamedTuple):
    """How large a schema is with its references written out."""

    values: int
    depth: int


class _TooMuchError(Exception):
    """A schema is too large, with where and why."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(message)
        self.error = FieldError(pointer_to(("schema", *path)), message)


def _too_much(root: dict[str, Any]) -> list[FieldError]:
    """What is wrong with the size of a schema whose keywords are all known."""
    extents = _Extents(root)
    if paths_bytes(root) > limits.SCHEMA_PATHS_BYTES_MAX:
        return _of_all(
            f"{limits.SCHEMA_PATHS_BYTES_MAX // 1024:,} KiB of pointers to all its keywords, and "
            "this one has more. Use shorter names, or fewer schemas below the long ones."
        )
    try:
        for name in definitions(root):
            extents.of({"$ref": f"#/$defs/{name}"}, (), 0)
        extents.of(root, (), 0)
    except _TooMuchError as refusal:
        return [refusal.error]
    return _too_many(list(_patterns(root, ("schema",))))


def _too_many(patterns: list[tuple[Path, object]]) -> list[FieldError]:
    """What is wrong with the patterns of a schema, and with all of them together."""
    texts = [pattern for _, pattern in patterns if isinstance(pattern, str)]
    if len(patterns) > limits.SCHEMA_PATTERNS_MAX:
        return _of_all(f"{limits.SCHEMA_PATTERNS_MAX} patterns; this one has {len(patterns):,}.")
    if (classes := sum(map(classes_in, texts))) > limits.SCHEMA_PATTERNS_CLASSES_MAX:
        return _of_all(
            f"{limits.SCHEMA_PATTERNS_CLASSES_MAX} classes such as `\\s` or `\\d` in all its "
            f"patterns; this one has {classes:,}."
        )
    errors: list[FieldError] = []
    size_bytes = 0
    for path, pattern in patterns:
        message = fault_of_pattern(pattern)
        if message is not None:
            errors.append(FieldError(pointer_to(path), message))
            if len(errors) == limits.FIELD_ERRORS_MAX:
                break
            continue
        size_bytes += pattern_bytes(str(pattern))
        if size_bytes > limits.SCHEMA_PATTERNS_BYTES_MAX:
            return _of_all(
                f"patterns that take {limits.SCHEMA_PATTERNS_BYTES_MAX // 1024:,} KiB compiled, and "
                f"this one has more. {LENGTHS_BY_KEYWORD}"
            )
    return errors


def _of_all(what: str) -> list[FieldError]:
    return [FieldError("/schema", f"A schema may have {what}")]


def _patterns(schema: Schema, path: Path) -> Iterator[tuple[Path, object]]:
    """Every pattern that a schema writes, with its place."""
    if isinstance(schema, bool):
        return
    if "pattern" in schema:
        yield (*path, "pattern"), schema["pattern"]
    for name in schema.get("patternProperties", ()):
        yield (*path, "patternProperties", name), name
    for below, part in parts_of(schema):
        yield from _patterns(part, (*path, *below))
    for name, part in definitions(schema).items():
        yield from _patterns(part, (*path, "$defs", name))


class _Extents:
    """How large the parts of a schema are, each definition measured once."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._definitions = definitions(root)
        self._known: dict[str, _Extent] = {}

    def of(self, schema: Schema, open_defs: tuple[str, ...], depth: int) -> _Extent:
        """Measure a schema that stands so deep, inside these definitions.

        Raises ``_TooMuchError``.
        """
        if isinstance(schema, bool):
            return _Extent(1, 1)
        if depth > limits.SCHEMA_DEPTH_MAX:
            raise _too_deep()
        below = [self.of(part, open_defs, depth + 1) for _, part in parts_of(schema)]
        name = referred(schema.get("$ref"))
        if name is not None:
            below.append(self._of_definition(name, open_defs, depth + 1))
        values = (
            1 + sum(map(_values_of, _plain_values(schema))) + sum(each.values for each in below)
        )
        deepest = 1 + max((each.depth for each in below), default=0)
        if depth + deepest > limits.SCHEMA_DEPTH_MAX:
            raise _too_deep()
        if values > limits.SCHEMA_VALUES_MAX:
            raise _TooMuchError(
                (),
                "With its references written out, this schema has more than "
                f"{limits.SCHEMA_VALUES_MAX:,} values. Ask for less of the payload.",
            )
        return _Extent(values, deepest)

    def _of_definition(self, name: str, open_defs: tuple[str, ...], depth: int) -> _Extent:
        if name in open_defs:
            raise _TooMuchError(
                ("$defs", name),
                "This schema leads back to itself. Write out the levels that payloads have.",
            )
        if name not in self._known:
            self._known[name] = self.of(self._definitions[name], (*open_defs, name), depth)
        return self._known[name]


def _too_deep() -> _TooMuchError:
    return _TooMuchError(
        (),
        f"With its references written out, this schema is more than {limits.SCHEMA_DEPTH_MAX} "
        "deep. Ask for less of the payload.",
    )


def _plain_values(schema: Mapping[str, Any]) -> Iterator[Any]:
    """What a schema holds beside schemas, their names included."""
    for keyword, value in schema.items():
        if keyword in PLAIN:
            yield value
        elif keyword in SCHEMAS_BY_NAME and keyword != "$defs":
            yield from value


def _values_of(value: Any) -> int:
    """How many values a value is, itself and all below it."""
    if isinstance(value, dict):
        return 1 + sum(_values_of(name) + _values_of(each) for name, each in value.items())
    if isinstance(value, list):
        return 1 + sum(map(_values_of, value))
    return 1 + (len(value) // _TEXT_BYTES_A_VALUE if isinstance(value, str) else 0)
