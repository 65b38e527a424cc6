"""A judged schema, compiled: payloads are held against it, and told what does not fit.

Checking is jsonschema-rs's (``docs/decisions/0015``), of a schema that is rewritten first:

* Numbers and ``uniqueItems`` are checked by keywords of our own (``own_keywords.py``).
* Where no branch of an ``anyOf`` or ``oneOf`` fits, the checker would name every fault of every
  branch, and copy the payload for each: 60 KB took a minute and 5 GB. So they are compiled behind
  a double ``not``, which means the same and names nothing. It hides which members were looked
  at, too; so a schema that asks for these (``unevaluated…``) keeps its branches as they are.

Naming faults copies the part of the payload at each of them. So all are named only where that
is little; else the first one is.
"""

from collections.abc import Mapping
from itertools import islice
from typing import Any, Final

import jsonschema_rs

from counterfoil.server.core import limits
from counterfoil.server.core.document import encode, parse, pointer_to, quote
from counterfoil.server.core.errors import FieldError
from counterfoil.server.event_types.cost import Ceiling
from counterfoil.server.event_types.dialect import (
    ANNOTATIONS,
    LISTED_SCHEMAS,
    ONE_SCHEMA,
    SCHEMAS_BY_NAME,
    Schema,
    definitions,
    parts_of,
)
from counterfoil.server.event_types.own_keywords import OWN_KEYWORDS, own
from counterfoil.server.event_types.patterns import OPTIONS, pattern_bytes
from counterfoil.server.log.model import Path

_BRANCHES: Final = ("anyOf", "oneOf")
_WHOLE: Final = ("unevaluatedItems", "unevaluatedProperties")
_MESSAGE_CHARACTERS_MAX: Final = 300
_COPIED_BYTES_MAX: Final = 5_000_000
"""Up to which all faults are named: so much is copied if all are found that can be, each with the
whole payload. A tenth of a second, at the worst."""

_COUNTED_FROM: Final = limits.CHECK_REQUEST_STEPS_MAX // limits.BATCH_EVENTS_MAX
"""Steps up to which a payload need not be looked at: a batch of such is within its bound."""

# What jsonschema-rs takes for a schema of so many bytes was measured: 27 times as much.
_BYTES_A_BYTE: Final = 32
_COPIES_OF_A_PATH: Final = 3
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
        self._validator = checker(schema, hides=not looks_at_all)
        self._ceiling = Ceiling(schema)
        self.bytes = _bytes_of(schema, parts)
        """About what it takes of the process's memory, at most."""

    def steps(self, payload: Mapping[str, Any]) -> int:
        """The most steps that a check of a payload can take. To be asked before it is made."""
        steps = self._ceiling.at_most(payload)
        if steps is None or steps > _COUNTED_FROM:
            return self._ceiling.steps(payload)
        return steps

    def accepts(self, value: object) -> bool:
        """Whether a value fits."""
        return self._validator.is_valid(value)

    def faults(self, payload: Mapping[str, Any], path: Path) -> list[FieldError]:
        """What of a payload does not fit, each at its pointer; ``FIELD_ERRORS_MAX`` at most.

        ``path`` is the event's in the body.
        """
        if self._validator.is_valid(payload):
            return []
        place: Path = (*path, "payload")
        is_pathless = _has_empty_name(payload)
        copied_bytes = self._ceiling.faults(payload) * len(encode(payload))
        if copied_bytes <= _COPIED_BYTES_MAX:
            found = islice(self._validator.iter_errors(payload), limits.FIELD_ERRORS_MAX)
            return [_error(error, place, is_pathless=is_pathless) for error in found]
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
            first = _error(error, place, is_pathless=is_pathless)
            message = f"{first.message} As it is large, only its first fault is named."
            return [FieldError(first.pointer, message)]
        return []


def compiled(schema: Schema) -> jsonschema_rs.Draft202012Validator:
    """Compile a schema, as it is.

    Raises ``jsonschema_rs.ValidationError``, or another ``ValueError``, for one that is none.
    """
    return jsonschema_rs.Draft202012Validator(
        schema,
        validate_formats=True,
        pattern_options=OPTIONS,
        keywords=dict(OWN_KEYWORDS),
        offline=True,
    )


def checker(schema: Schema, *, hides: bool) -> jsonschema_rs.Draft202012Validator:
    """Compile a judged schema so that it is checked as it should be.

    ``hides``: what is wrong with branches is not named, and which members they looked at not known.
    """
    return compiled(_rewritten(schema, hides=hides))


def compile_stored(text: str) -> CompiledSchema:
    """Compile a schema that was judged when it was registered, from PostgreSQL's text of it."""
    schema: Any = parse(text.encode())
    return CompiledSchema(schema)


def shortened(message: str) -> str:
    """A message of the checker's, as a sentence that is not too long."""
    if len(message) >= _MESSAGE_CHARACTERS_MAX:
        message = f"{message[: _MESSAGE_CHARACTERS_MAX - 1]}…"
    return message if message.endswith((".", "…")) else f"{message}."


def _rewritten(schema: Any, *, hides: bool) -> Any:
    """The same schema, as it is compiled; ``hides``: what is wrong with branches is not named."""
    if not isinstance(schema, dict):
        return schema
    rewritten: dict[str, Any] = {}
    hidden: list[Schema] = []
    for keyword, value in schema.items():
        if keyword in ANNOTATIONS or keyword.startswith("x-"):
            continue
        if keyword in ONE_SCHEMA:
            rewritten[keyword] = _rewritten(value, hides=hides)
        elif keyword in SCHEMAS_BY_NAME:
            rewritten[keyword] = {
                name: _rewritten(part, hides=hides) for name, part in value.items()
            }
        elif keyword in LISTED_SCHEMAS:
            parts = [_rewritten(part, hides=hides) for part in value]
            if hides and keyword in _BRANCHES:
                hidden.append({"not": {"not": {keyword: parts}}})
            else:
                rewritten[keyword] = parts
        else:
            keyword_, value_ = own(keyword, value)
            rewritten[keyword_] = value_
    if hidden:
        rewritten["allOf"] = [*rewritten.get("allOf", ()), *hidden]
    return rewritten


def paths_bytes(schema: Schema, above_bytes: int = 0) -> int:
    """What the paths of all keywords of a schema take: the checker keeps each of them whole."""
    if isinstance(schema, bool):
        return above_bytes
    below = list(parts_of(schema))
    below += [(("$defs", name), part) for name, part in definitions(schema).items()]
    return above_bytes * (1 + len(schema)) + sum(
        paths_bytes(part, above_bytes + sum(1 + len(str(step)) for step in path))
        for path, part in below
    )


def _all_parts(schema: Schema) -> list[dict[str, Any]]:
    """A schema and all below it, definitions included."""
    if isinstance(schema, bool):
        return []
    below = [part for _, part in parts_of(schema)] + list(definitions(schema).values())
    return [schema, *(part for each in below for part in _all_parts(each))]


def _bytes_of(schema: dict[str, Any], parts: list[dict[str, Any]]) -> int:
    patterns = [part["pattern"] for part in parts if "pattern" in part]
    patterns += [name for part in parts for name in part.get("patternProperties", ())]
    return (
        len(encode(schema)) * _BYTES_A_BYTE
        + paths_bytes(schema) * _COPIES_OF_A_PATH
        + sum(pattern_bytes(pattern) + _BYTES_A_PATTERN for pattern in patterns)
    )


def _error(error: jsonschema_rs.ValidationError, path: Path, *, is_pathless: bool) -> FieldError:
    kind = error.kind
    # The checker leaves empty names out of its paths, which then lead elsewhere.
    place = path if is_pathless else (*path, *error.instance_path)
    if isinstance(kind, jsonschema_rs.ValidationErrorKind.Required):
        name = kind.property
        here = place if is_pathless else (*place, name)
        return FieldError(pointer_to(here), f"The schema asks for {quote(name)} here.")
    if isinstance(kind, jsonschema_rs.ValidationErrorKind.Custom):
        return FieldError(pointer_to(place), kind.message)
    if isinstance(kind, jsonschema_rs.ValidationErrorKind.Not):
        message = _hidden_message(kind.schema)
        if message is not None:
            return FieldError(pointer_to(place), message)
    return FieldError(pointer_to(place), shortened(f"It does not fit the schema: {error.message}"))


def _has_empty_name(value: Any) -> bool:
    if isinstance(value, dict):
        return "" in value or any(map(_has_empty_name, value.values()))
    return isinstance(value, list) and any(map(_has_empty_name, value))


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
