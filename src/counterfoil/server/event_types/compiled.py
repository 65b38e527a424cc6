"""A judged schema, compiled: payloads are held against it, and told what does not fit.

Checking is jsonschema-rs's (``docs/decisions/0015``), but for two things that would take more
than the ceiling of ``cost.py`` allows for:

* ``uniqueItems`` compares every two entries; here each is looked up once.
* Where no branch of an ``anyOf`` or ``oneOf`` fits, the checker would name every fault of every
  branch, and copy the payload for each: 60 KB took a minute and 5 GB. So they are compiled behind
  a double ``not``, which means the same and names nothing. It hides which members were looked
  at, too; so a schema that asks for these (``unevaluated…``) is compiled as it is.

Naming faults copies the part of the payload at each of them. So all are named only where that
is little; else the first one is.
"""

from collections.abc import Mapping
from decimal import Decimal
from itertools import islice
from typing import Any, Final

import jsonschema_rs

from counterfoil.server.core import limits
from counterfoil.server.core.document import encode, parse, pointer_to, quote
from counterfoil.server.core.errors import FieldError
from counterfoil.server.event_types.cost import Ceiling, Effort, pattern_bytes
from counterfoil.server.event_types.dialect import (
    ANNOTATIONS,
    LISTED_SCHEMAS,
    ONE_SCHEMA,
    SCHEMAS_BY_NAME,
    Schema,
    definitions,
    parts_of,
)
from counterfoil.server.log.model import Path

PATTERNS: Final = jsonschema_rs.RegexOptions(
    size_limit=limits.SCHEMA_PATTERN_BYTES_MAX,
    dfa_size_limit=limits.SCHEMA_PATTERN_STATES_BYTES_MAX,
)
"""Patterns run in linear time: no look-around, no back-references."""

_BRANCHES: Final = ("anyOf", "oneOf")
_WHOLE: Final = ("unevaluatedItems", "unevaluatedProperties")
_MESSAGE_CHARACTERS_MAX: Final = 300
_NAMED_MAX: Final = 500_000
"""Steps times values up to which all faults are named: a tenth of a second, at the worst."""

_COUNTED_FROM: Final = limits.CHECK_REQUEST_STEPS_MAX // limits.BATCH_EVENTS_MAX
"""Steps up to which a payload need not be looked at: a batch of such is within its bound."""

# What jsonschema-rs takes for a schema of so many bytes was measured: 27 times as much.
_BYTES_A_BYTE: Final = 32
_BYTES_A_PATTERN: Final = limits.SCHEMA_PATTERN_STATES_BYTES_MAX


class CompiledSchema:
    """What payloads of one version of a type are held against."""

    def __init__(self, schema: dict[str, Any]) -> None:
        """``schema`` was judged."""
        parts = list(_all_parts(schema))
        looks_at_all = any(keyword in part for part in parts for keyword in _WHOLE)
        self._names_branches = looks_at_all and any(
            keyword in part for part in parts for keyword in _BRANCHES
        )
        self._validator = compiled(schema if looks_at_all else _quiet(schema))
        self._ceiling = Ceiling(schema)
        self.bytes = _bytes_of(schema, parts)
        """About what it takes of the process's memory, at most."""

    def steps(self, payload: Mapping[str, Any]) -> int:
        """The most steps that a check of a payload can take. To be asked before it is made."""
        steps = self._ceiling.at_most(len(encode(payload)))
        return steps if steps <= _COUNTED_FROM else self.effort(payload).steps

    def effort(self, value: object) -> Effort:
        """The same as ``steps``, for any value and never more than what can be told."""
        return self._ceiling.effort(value)

    def accepts(self, value: object) -> bool:
        """Whether a value fits."""
        return self._validator.is_valid(value)

    def faults(self, payload: Mapping[str, Any], path: Path) -> list[FieldError]:
        """What of a payload does not fit, each at its pointer; ``FIELD_ERRORS_MAX`` at most.

        ``path`` is the event's in the body.
        """
        if self._validator.is_valid(payload):
            return []
        place = (*path, "payload")
        effort = self.effort(payload)
        if effort.steps * effort.values <= _NAMED_MAX:
            found = islice(self._validator.iter_errors(payload), limits.FIELD_ERRORS_MAX)
            return [_error(error, place) for error in found]
        if self._names_branches:
            return [
                FieldError(
                    pointer_to(place),
                    "It does not fit the schema, and is too large for its faults to be named. "
                    "Try a part of it.",
                )
            ]
        try:
            self._validator.validate(payload)
        except jsonschema_rs.ValidationError as error:
            first = _error(error, place)
            message = f"{first.message} It is large: only its first fault is named."
            return [FieldError(first.pointer, message)]
        return []


def compiled(schema: Schema) -> jsonschema_rs.Draft202012Validator:
    """Compile a schema, as it is.

    Raises ``jsonschema_rs.ValidationError``, or another ``ValueError``, for one that is none.
    """
    return jsonschema_rs.Draft202012Validator(
        schema,
        validate_formats=True,
        pattern_options=PATTERNS,
        keywords={"uniqueItems": _UniqueItems},
        offline=True,
    )


def compile_stored(text: str) -> CompiledSchema:
    """Compile a schema that was judged when it was registered, from PostgreSQL's text of it."""
    schema: Any = parse(text.encode())
    return CompiledSchema(schema)


def shortened(message: str) -> str:
    """A message of the checker's, as a sentence that is not too long."""
    if len(message) > _MESSAGE_CHARACTERS_MAX:
        message = f"{message[:_MESSAGE_CHARACTERS_MAX]}…"
    return message if message.endswith((".", "…")) else f"{message}."


class _UniqueItems:
    """``uniqueItems``, in time that grows with the list and not with its square."""

    def __init__(self, _beside: object, value: object, _path: object) -> None:
        self._asked = value is True

    def validate(self, instance: object) -> None:
        """Raise ``ValueError`` where two entries of a list are the same."""
        if not self._asked or not isinstance(instance, list):
            return
        # Texts, and not the values: Python takes true for 1, and whole numbers can be chosen so
        # that all of them fall into one place of a set.
        texts = {encode(_plain(entry)) for entry in instance}
        if len(texts) != len(instance):
            raise ValueError("Two entries of this list are the same.")


def _plain(value: Any) -> Any:
    """The same value, written in the only way that there is for it."""
    if isinstance(value, Decimal):
        whole, _, fraction = f"{value:f}".partition(".")
        fraction = fraction.rstrip("0")
        return Decimal(f"{whole}.{fraction}") if fraction else int(whole)
    if isinstance(value, dict):
        return {name: _plain(value[name]) for name in sorted(value)}
    return [_plain(entry) for entry in value] if isinstance(value, list) else value


def _quiet(schema: Any) -> Any:
    """The same schema, that does not name what is wrong with the branches that do not fit."""
    if not isinstance(schema, dict):
        return schema
    quiet: dict[str, Any] = {}
    hidden: list[Schema] = []
    for keyword, value in schema.items():
        if keyword in ANNOTATIONS or keyword.startswith("x-"):
            continue
        if keyword in _BRANCHES:
            hidden.append({"not": {"not": {keyword: [_quiet(part) for part in value]}}})
        elif keyword in ONE_SCHEMA:
            quiet[keyword] = _quiet(value)
        elif keyword in SCHEMAS_BY_NAME:
            quiet[keyword] = {name: _quiet(part) for name, part in value.items()}
        elif keyword in LISTED_SCHEMAS:
            quiet[keyword] = [_quiet(part) for part in value]
        else:
            quiet[keyword] = value
    return {**quiet, "allOf": [*quiet.get("allOf", ()), *hidden]} if hidden else quiet


def _all_parts(schema: Schema) -> list[dict[str, Any]]:
    """A schema and all below it, definitions included."""
    if isinstance(schema, bool):
        return []
    below = [part for _, part in parts_of(schema)] + list(definitions(schema).values())
    return [schema, *(part for each in below for part in _all_parts(each))]


def _bytes_of(schema: dict[str, Any], parts: list[dict[str, Any]]) -> int:
    patterns = [part["pattern"] for part in parts if "pattern" in part]
    patterns += [name for part in parts for name in part.get("patternProperties", ())]
    return len(encode(schema)) * _BYTES_A_BYTE + sum(
        pattern_bytes(pattern) + _BYTES_A_PATTERN for pattern in patterns
    )


def _error(error: jsonschema_rs.ValidationError, path: Path) -> FieldError:
    kind = error.kind
    place = (*path, *error.instance_path)
    if isinstance(kind, jsonschema_rs.ValidationErrorKind.Required):
        name = kind.property
        return FieldError(pointer_to((*place, name)), f"The schema asks for {quote(name)} here.")
    if isinstance(kind, jsonschema_rs.ValidationErrorKind.Custom):
        return FieldError(pointer_to(place), kind.message)
    if isinstance(kind, jsonschema_rs.ValidationErrorKind.Not):
        message = _hidden_message(kind.schema)
        if message is not None:
            return FieldError(pointer_to(place), message)
    return FieldError(pointer_to(place), shortened(f"It does not fit the schema: {error.message}"))


def _hidden_message(schema: Any) -> str | None:
    """What is said of branches that were compiled behind a double ``not``."""
    match schema:
        case {"not": {"anyOf": [*branches]}}:
            return f"It fits none of the {len(branches)} schemas of which it has to fit one."
        case {"not": {"oneOf": [*branches]}}:
            return (
                f"Of {len(branches)} schemas it has to fit exactly one, and fits none or several."
            )
        case _:
            return None
