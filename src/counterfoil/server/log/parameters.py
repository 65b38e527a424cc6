"""Query parameters: text in pairs, judged by the same models as a body."""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar

from pydantic import Field, ValidationError

from counterfoil.server.core import limits
from counterfoil.server.core.document import parse, pointer_to, quote
from counterfoil.server.core.errors import FieldError, InputError, InvalidInput
from counterfoil.server.log.fields import Wire
from counterfoil.server.log.refusals import field_errors, kind_of, refuse

_REPEATABLE: Final = frozenset({"agent", "tag", "type"})
_WHOLE_NUMBERS: Final = frozenset({"after", "before", "limit", "up_to", "version"})
_DIGITS: Final = re.compile(r"[0-9]{1,19}")

Parameters = TypeVar("Parameters", bound=Wire)


class ListParameters(Wire):
    """The parameters of a list of keys, tenants or event types."""

    must_be = {  # noqa: RUF012 - a ClassVar of the base
        "limit": f"a whole number from 1 to {limits.LIST_ROWS_MAX}",
        "cursor": "a string: the `next` of the page before",
    }

    limit: Annotated[
        int, Field(ge=1, le=limits.LIST_ROWS_MAX, description="Rows of one page, at most.")
    ] = limits.LIST_ROWS_DEFAULT
    cursor: Annotated[str | None, Field(description="The `next` of the page before.")] = None


@dataclass(frozen=True, slots=True)
class Listed:
    """A page of a list, as JSON texts, and where the next one begins; None: nowhere."""

    texts: tuple[str, ...]
    next: str | None


def list_cursor(last: str) -> str:
    """Where the page after one begins whose last row has this name."""
    return base64.urlsafe_b64encode(last.encode()).decode("ascii")


def after_cursor(cursor: str) -> str:
    """The name that a page begins behind. Raises ``InvalidInput`` for what cannot be a cursor."""
    try:
        return base64.b64decode(cursor, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise refused_list_cursor() from None


def refused_list_cursor() -> InvalidInput:
    """The refusal of a cursor that no list has given out."""
    message = "This is no cursor of this list. Start again without one."
    return InvalidInput(message, [FieldError("/cursor", message, "query")])


def judged_parameters(model: type[Parameters], parameters: Sequence[tuple[str, str]]) -> Parameters:
    """Make of the parameters one object, as a body would be, and judge that.

    Raises ``InvalidInput`` with every fault, located in the query.
    """
    tree: dict[str, Any] = {}
    errors: list[FieldError] = []
    for name, text in parameters:
        if name in _REPEATABLE:
            tree.setdefault(name, []).append(text)
        elif name in tree:
            sentence = f"The parameter {quote(name)} is given more than once."
            errors.append(FieldError(pointer_to([name]), sentence, "query"))
        elif name in _WHOLE_NUMBERS:
            tree[name] = whole_number(text)
        elif name == "payload":
            tree[name] = _judged_object(name, text, errors)
        else:
            tree[name] = text
    try:
        asked = model.model_validate(tree)
    except ValidationError as error:
        raise refuse(errors + field_errors(error, model, "query")) from None
    if errors:
        raise refuse(errors)
    return asked


def whole_number(text: str) -> int | str:
    """The number, if the text is ASCII digits and nothing else; otherwise the text."""
    return int(text) if _DIGITS.fullmatch(text) else text


def _judged_object(name: str, text: str, errors: list[FieldError]) -> dict[str, Any] | None:
    """The JSON object that a parameter holds; what is wrong with it is added to ``errors``."""
    try:
        value = parse(text.encode("utf-8", "surrogatepass"))
    except InputError as refusal:
        inner = refusal.errors or [FieldError("", str(refusal))]
        errors += [FieldError(f"/{name}{e.pointer}", e.message, "query") for e in inner]
        return None
    if isinstance(value, dict):
        return value
    sentence = f"`{name}` must be a JSON object; this is {kind_of(value)}."
    errors.append(FieldError(f"/{name}", sentence, "query"))
    return None
