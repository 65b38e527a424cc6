"""The dialect of JSON Schema that is spoken here: which keywords there are, and of what kind.

It is 2020-12 without ``$id``, anchors, dynamic references and content keywords. Everything
that walks a schema (judging it, bounding its checks, comparing two) walks it by these sets.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

from counterfoil.server.log.model import Path

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

KNOWN: Final = ONE_SCHEMA | SCHEMAS_BY_NAME | LISTED_SCHEMAS | PLAIN | ANNOTATIONS

FORMATS: Final = frozenset({"date", "date-time", "email", "ipv4", "ipv6", "time", "uri", "uuid"})
"""The formats that a text is held against."""

_DEFS: Final = "#/$defs/"


def definitions(root: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schemas that references of this one can lead to, by name."""
    defs = root.get("$defs")
    return defs if isinstance(defs, dict) else {}


def referred(reference: object) -> str | None:
    """The name below ``$defs`` that a ``$ref`` leads to; None: it leads elsewhere."""
    if isinstance(reference, str) and reference.startswith(_DEFS):
        return reference.removeprefix(_DEFS)
    return None


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
