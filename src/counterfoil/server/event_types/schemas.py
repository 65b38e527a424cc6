"""A JSON Schema from a tenant, made into something that payloads can be held against.

Checking is jsonschema-rs's (``docs/decisions/0015``): compiled once, exact with numbers of any
length, microseconds for a payload. Schemas come from tenants, and each tenant is a rival of
the next, so what they may ask for is bounded before anything is compiled:

* Nothing is fetched: ``$ref`` leads to ``#/$defs/<name>`` of the same schema, and to itself by
  no way at all. A schema that refers to itself, under two branches, multiplies the work with
  every level of a payload.
* With every reference written out, a schema has at most ``SCHEMA_NODES_MAX`` parts. That does not
  bound parts times places of a payload, nor ``uniqueItems``, which is quadratic, nor the naming
  of faults under ``anyOf``: a tenant's admin can still make a check take seconds (SECURITY.md).
* Patterns run in linear time (no look-around, no back-references), and are bounded in size.
* Every keyword is known. A misspelt ``requried`` would accept everything, and say nothing.

Whole numbers come as ``int`` and all others as ``Decimal`` (``core/document.py``), in schemas
as in payloads; jsonschema-rs compares them exactly, so that 19.99 is a multiple of 0.01.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final, TypeAlias

import jsonschema_rs

from counterfoil.server.core import limits
from counterfoil.server.core.document import encode, parse, pointer_to, quote
from counterfoil.server.core.errors import FieldError
from counterfoil.server.log.model import Path
from counterfoil.server.log.refusals import refuse

Schema: TypeAlias = "dict[str, Any] | bool"

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
"""The one that is spoken; ``$schema`` may say so, or be left out."""

ONE_SCHEMA: Final = frozenset(
    {
        *("additionalProperties", "propertyNames", "items", "contains", "not"),
        *("if", "then", "else", "unevaluatedItems", "unevaluatedProperties"),
    }
)
"""Keywords whose value is a schema."""

SCHEMAS_BY_NAME: Final = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs"})
"""Keywords whose value is an object of schemas."""

LISTED_SCHEMAS: Final = frozenset({"prefixItems", "allOf", "anyOf", "oneOf"})
"""Keywords whose value is a list of schemas."""

PLAIN: Final = frozenset(
    {
        *("type", "enum", "const", "multipleOf", "maximum", "exclusiveMaximum", "minimum"),
        *("exclusiveMinimum", "maxLength", "minLength", "pattern", "format", "maxItems"),
        *("minItems", "uniqueItems", "maxContains", "minContains", "maxProperties"),
        *("minProperties", "required", "dependentRequired", "$ref"),
    }
)
"""Keywords whose value is no schema, and that payloads are held against."""

ANNOTATIONS: Final = frozenset(
    {
        *("title", "description", "$comment", "examples", "default", "deprecated"),
        *("readOnly", "writeOnly", "$schema"),
    }
)
"""Keywords that ask nothing of a payload; so does every one that begins with ``x-``."""

FORMATS: Final = frozenset({"date", "date-time", "email", "ipv4", "ipv6", "time", "uri", "uuid"})
"""The formats that a text is held against."""

_KNOWN: Final = ONE_SCHEMA | SCHEMAS_BY_NAME | LISTED_SCHEMAS | PLAIN | ANNOTATIONS
_DEFS: Final = "#/$defs/"
_DEF_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
"""Nothing that a reference could write in two ways: a reader that decodes `%62` would follow it
to another place than was judged."""

_PATTERNS: Final = jsonschema_rs.RegexOptions(
    size_limit=limits.SCHEMA_PATTERN_BYTES_MAX, dfa_size_limit=limits.SCHEMA_PATTERN_BYTES_MAX
)
_MESSAGE_CHARACTERS_MAX: Final = 300


class CompiledSchema:
    """What payloads of one version of a type are held against."""

    def __init__(self, schema: Schema) -> None:
        self._validator = jsonschema_rs.Draft202012Validator(
            schema, validate_formats=True, pattern_options=_PATTERNS
        )

    def accepts(self, value: object) -> bool:
        """Whether a value fits."""
        return self._validator.is_valid(value)

    def check(self, payload: Mapping[str, Any], path: Path) -> list[FieldError]:
        """What of a payload does not fit, each at its pointer; ``FIELD_ERRORS_MAX`` at most.

        ``path`` is the event's in the body.
        """
        if self._validator.is_valid(payload):
            return []
        found = islice(
            self._validator.iter_errors(payload),
            limits.FIELD_ERRORS_MAX,
        )
        return [_error(error, (*path, "payload")) for error in found]


def compile_stored(text: str) -> CompiledSchema:
    """Compile a schema that was judged when it was registered, from PostgreSQL's text of it."""
    schema: Any = parse(text.encode())
    return CompiledSchema(schema)


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
        return CompiledSchema(schema)
    except jsonschema_rs.ValidationError as error:
        pointer = pointer_to(("schema", *error.instance_path))
        raise refuse([FieldError(pointer, _shortened(error.message))]) from None
    except ValueError as error:
        raise refuse([FieldError("/schema", _shortened(str(error)))]) from None


def parts_of(schema: Mapping[str, Any]) -> Iterator[tuple[Path, Schema]]:
    """The schemas right below this one, but for ``$defs``, each with its path."""
    for keyword, value in schema.items():
        if keyword in ONE_SCHEMA:
            yield (keyword,), value
        elif keyword in SCHEMAS_BY_NAME and keyword != "$defs" and isinstance(value, dict):
            for name, part in value.items():
                yield (keyword, name), part
        elif keyword in LISTED_SCHEMAS and isinstance(value, list):
            for index, part in enumerate(value):
                yield (keyword, index), part


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
    if schema is root and isinstance(defs := schema.get("$defs"), dict):
        for name, part in defs.items():
            yield from _faults(part, root, (*path, "$defs", name))


def _fault(
    keyword: str, value: Any, beside: Mapping[str, Any], root: Mapping[str, Any]
) -> str | None:
    """Why a keyword may not stand here with this value, ``beside`` these others."""
    is_root = beside is root
    if keyword not in _KNOWN and not keyword.startswith("x-"):
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
        case "$ref" if not _leads_to_one_of(_defs(root), value):
            fault = (
                "`$ref` leads to a schema below `$defs` of this one, as `#/$defs/money`. Nothing "
                "is fetched."
            )
        case "$defs" if not all(map(_DEF_NAME.fullmatch, _defs(root))):
            fault = "A name below `$defs` has 1 to 128 letters, digits and `._-`."
        case "then" | "else" if "if" not in beside:
            fault = f"`{keyword}` without `if` asks nothing."
        case "minContains" | "maxContains" if "contains" not in beside:
            fault = f"`{keyword}` without `contains` asks nothing."
        case "format" if not isinstance(value, str) or value not in FORMATS:
            fault = f"`format` is one of {', '.join(sorted(FORMATS))}; use `pattern` for others."
        case "type" if is_root and "object" not in (value if isinstance(value, list) else [value]):
            fault = "A payload is an object, and this schema accepts none."
    return fault


def _leads_to_one_of(defs: Mapping[str, Any], reference: object) -> bool:
    return (
        isinstance(reference, str)
        and reference.startswith(_DEFS)
        and reference.removeprefix(_DEFS) in defs
    )


def _defs(root: Mapping[str, Any]) -> Mapping[str, Any]:
    defs = root.get("$defs")
    return defs if isinstance(defs, dict) else {}


def _too_much(root: dict[str, Any]) -> list[FieldError]:
    """What is wrong with the size of the schema, its references written out."""
    sizes: dict[str, int] = {}
    try:
        for name in _defs(root):
            _size_of({"$ref": f"{_DEFS}{name}"}, root, (), sizes)
        _size_of(root, root, (), sizes)
    except RecursionError as error:
        return [
            FieldError(
                pointer_to(("schema", "$defs", str(error))),
                "This schema leads back to itself. Write out the levels that payloads have.",
            )
        ]
    except OverflowError:
        return [
            FieldError(
                "/schema",
                "With its references written out, this schema has more than "
                f"{limits.SCHEMA_NODES_MAX:,} parts. Ask for less of the payload.",
            )
        ]
    return []


def _size_of(
    schema: Schema, root: Mapping[str, Any], open_defs: tuple[str, ...], sizes: dict[str, int]
) -> int:
    """How many parts a schema has, its references written out.

    Raises ``RecursionError`` with the name of a definition that leads back to itself, and
    ``OverflowError`` beyond ``SCHEMA_NODES_MAX``.
    """
    if isinstance(schema, bool):
        return 1
    size = 1
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(_DEFS)
        if name in open_defs:
            raise RecursionError(name)
        if name not in sizes:
            sizes[name] = _size_of(_defs(root)[name], root, (*open_defs, name), sizes)
        size += sizes[name]
    for _, part in parts_of(schema):
        size += _size_of(part, root, open_defs, sizes)
    if size > limits.SCHEMA_NODES_MAX:
        raise OverflowError
    return size


def _error(error: jsonschema_rs.ValidationError, path: Path) -> FieldError:
    kind = error.kind
    place = (*path, *error.instance_path)
    if isinstance(kind, jsonschema_rs.ValidationErrorKind.Required):
        name = kind.property
        return FieldError(pointer_to((*place, name)), f"The schema asks for {quote(name)} here.")
    return FieldError(pointer_to(place), _shortened(f"It does not fit the schema: {error.message}"))


def _shortened(message: str) -> str:
    if len(message) > _MESSAGE_CHARACTERS_MAX:
        message = f"{message[:_MESSAGE_CHARACTERS_MAX]}…"
    return message if message.endswith((".", "…")) else f"{message}."
