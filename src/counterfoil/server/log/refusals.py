"""What pydantic found wrong, in sentences for the caller.

Pydantic says what it checked; a caller wants to know what is required, what was sent
instead, and what to do. One table holds what each field must be, and one function says
what was found in its place. No value is shown but short and printable ones.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from counterfoil.server.core import limits
from counterfoil.server.core.document import parse, pointer_to, quote
from counterfoil.server.core.errors import FieldError, InvalidInput, Location
from counterfoil.server.log.fields import REFUSAL, Wire, known_fields

Judged = TypeVar("Judged", bound=Wire)

_NAME: Final = f"a string of 1 to {limits.NAME_CHARACTERS_MAX} characters"
_NAMES: Final = f"a list of at most {limits.QUERY_ITEM_VALUES_MAX} names"
_TAGS: Final = f"a list of at most {limits.TAGS_MAX} tags"
_EVENT_ID: Final = f"a whole number from 1 to {limits.POSITION_MAX}"
_POSITION: Final = f"a whole number from 0 to {limits.POSITION_MAX}"
_QUERY: Final = f"a list of 1 to {limits.QUERY_ITEMS_MAX} query items"

_REQUIRED: Final[Mapping[str, str]] = {
    "after": _POSITION,
    "agent": _NAMES,
    "agent_name": _NAME,
    "agents": _NAMES,
    "before": _EVENT_ID,
    "caused_by": f"a list of at most {limits.CAUSES_MAX} ids of events",
    "condition": "an object with `fail_if`; leave it out to append without one",
    "context": "an object",
    "cursor": "a string: the `next` of the page before",
    "event_type": _NAME,
    "events": f"a list of 1 to {limits.BATCH_EVENTS_MAX} events",
    "fail_if": _QUERY,
    "incarnation": "a string: the UUID in the header `Counterfoil-Incarnation` of a read",
    "limit": f"a whole number from 1 to {limits.PAGE_EVENTS_MAX}",
    "occurred_at": "a string: a time as in RFC 3339",
    "order": "`asc` or `desc`",
    "payload": "an object",
    "query": _QUERY,
    "tag": _TAGS,
    "tags": _TAGS,
    "type": _NAMES,
    "types": _NAMES,
    "up_to": _POSITION,
}
"""What a field must be, to follow "must be". A test holds it against the models."""

_REQUIRED_IN: Final[Mapping[str, str]] = {
    "agent": _NAME,
    "agents": _NAME,
    "caused_by": _EVENT_ID,
    "events": "an object",
    "fail_if": "an object with `types`, `agents` or `tags`",
    "query": "an object with `types`, `agents` or `tags`",
    "tag": "a string",
    "tags": "a string",
    "type": _NAME,
    "types": _NAME,
}
"""What each entry of a list must be."""


def field_errors(
    error: ValidationError, root: type[BaseModel], location: Location = "body"
) -> list[FieldError]:
    """What pydantic found wrong, each at its pointer, ``FIELD_ERRORS_MAX`` at most.

    ``root`` is the model that judged.
    """
    return [
        FieldError(pointer_to(details["loc"]), _sentence(details, root, location), location)
        for details in error.errors(include_url=False)[: limits.FIELD_ERRORS_MAX]
    ]


def judged_document(model: type[Judged], body: bytes) -> Judged:
    """What a body asks for, as the model that judges it.

    Raises ``MalformedDocument``, or ``InvalidInput`` with every fault at its pointer.
    """
    tree = parse(body)
    if not isinstance(tree, dict):
        raise not_an_object(tree)
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise refuse(field_errors(error, model)) from None


def refuse(errors: list[FieldError]) -> InvalidInput:
    """One refusal for all of ``errors`` (at least one); it names ``FIELD_ERRORS_MAX`` of them."""
    named = errors[: limits.FIELD_ERRORS_MAX]
    message = named[0].message
    if len(named) > 1:
        at_least = "At least " if len(named) == limits.FIELD_ERRORS_MAX else ""
        message = f"{at_least}{len(named)} things are wrong. The first: {message}"
    return InvalidInput(message, named)


def not_an_object(value: object) -> InvalidInput:
    """The refusal of a body that is JSON, but not an object."""
    return refuse([FieldError("", f"The body must be a JSON object; this is {kind_of(value)}.")])


def kind_of(value: object) -> str:
    """What a JSON value is, in words."""
    return _KINDS.get(type(value), "an object")


_KINDS: Final[Mapping[type, str]] = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    Decimal: "a number with a fraction or an exponent",
    str: "a string",
    list: "a list",
}


def _sentence(details: ErrorDetails, root: type[BaseModel], location: Location) -> str:
    fault, path, value = details["type"], details["loc"], details["input"]
    if fault == REFUSAL:
        return details["msg"]
    *around, last = path
    place = _Place.at(root, around)
    if fault == "extra_forbidden":
        noun = "parameter" if location == "query" else "field"
        known = known_fields(place.model)
        return f"There is no {noun} {quote(str(last))} here; known {noun}s: {known}."
    if fault == "missing":
        return f"`{last}` is missing. It must be {_must_be(place.model, str(last))}."
    if fault == "int_type" and location == "query":
        # All parameters are text: what matters is which.
        found = f"this is {quote(str(value))}"
    else:
        found = _FOUND.get(fault, _is_another_kind)(value)
    if last == _OF_A_NAME:
        # Pydantic's word for a member's name, which stands in the path before it.
        return f"{quote(str(value))} must be {_each_must_be(place.inside, name=True)}; {found}."
    if isinstance(last, int) or place.is_named_by_caller:
        return f"Each of `{place.field}` must be {_each_must_be(place)}; {found}."
    return f"`{last}` must be {_must_be(place.model, last)}; {found}."


_OF_A_NAME: Final = "[key]"


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in a model a path leads.

    Attributes:
        owner: the model that has the field.
        field: the last field on the way; empty at the root.
        annotation: of what stands there.
        before: the place of which this is a member that the caller has named.
    """

    owner: type[BaseModel]
    field: str
    annotation: Any
    before: "_Place | None" = None

    @classmethod
    def at(cls, root: type[BaseModel], path: Iterable[str | int]) -> "_Place":
        place = cls(root, "", root)
        for name in path:
            if isinstance(name, int):
                continue
            values = _values_of(place.annotation)
            if values is not None:
                place = cls(place.owner, place.field, values, place)
            else:
                model = place.model
                place = cls(model, name, model.model_fields[name].annotation)
        return place

    @property
    def model(self) -> type[BaseModel]:
        """The model whose fields stand here."""
        return _model_in(self.annotation) or self.owner

    @property
    def is_named_by_caller(self) -> bool:
        """Whether the members of what stands here have names of the caller's choice."""
        return _values_of(self.annotation) is not None

    @property
    def inside(self) -> "_Place":
        """The object with such members that this is one of."""
        return self.before or self


def _each_must_be(place: _Place, *, name: bool = False) -> str:
    """What each entry of a list, each member, or each member's name must be."""
    own = place.owner.each_must_be if issubclass(place.owner, Wire) else {}
    of_field = own.get(f"{place.field}{_OF_A_NAME}" if name else place.field)
    return of_field or _REQUIRED_IN[place.field]


def _values_of(annotation: Any) -> Any:
    """What the members of an object must be whose names the caller chooses; None for others."""
    if get_origin(annotation) is dict:
        value = get_args(annotation)[1]
        return None if value is Any else value
    if isinstance(annotation, type):
        return None
    return next((one for one in map(_values_of, get_args(annotation)) if one is not None), None)


def _must_be(model: type[BaseModel], name: str) -> str:
    own = model.must_be if issubclass(model, Wire) else {}
    return own.get(name) or _REQUIRED[name]


def _is_another_kind(value: object) -> str:
    return f"this is {kind_of(value)}"


_FOUND: Final[Mapping[str, Callable[[Any], str]]] = {
    "greater_than_equal": lambda value: f"this is {quote(str(value))}",
    "less_than_equal": lambda value: f"this is {quote(str(value))}",
    "literal_error": lambda value: (
        f"this is {quote(value) if isinstance(value, str) else kind_of(value)}"
    ),
    "string_pattern_mismatch": lambda value: (
        "this one holds a control character"
        if value == value.strip()
        else "this one begins or ends with white space"
    ),
    "string_too_long": lambda value: f"this one has {len(value)}",
    "string_too_short": lambda _: "this one is empty",
    "string_unicode": lambda _: "this one is not Unicode text",
    "too_long": lambda value: f"this one has {len(value)}",
    "too_short": lambda _: "this one is empty",
}
"""What was found in the place of what must be, by pydantic's type of error. All others say
that the value is of another kind."""


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)
