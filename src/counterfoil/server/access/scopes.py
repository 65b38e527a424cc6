"""Scopes: what a key may do, as flat texts.

::

    append:PATTERN        append events of these types
    read:PATTERN          read events of these types
    read:PATTERN@KIND     read those of them that bear a tag of this kind
    consume:NAMES         be handed the work of these consumers
    decide:NAMES          decide by these policies
    manage:WHAT           keys, event-types, brake, consumers, policies, settings; * for all
    operate:WHAT          tenants, metrics; * for both

A PATTERN is an event type, or its beginning and ``*`` for any rest, none included: ``*`` alone
is all types. NAMES are written in the same way. In PATTERN and KIND everything but letters, digits and ``._~:/+-`` is
percent-encoded UTF-8; so is a ``*`` that is meant as itself. So a scope is a `scope-token` of
OAuth 2 (RFC 6749, section 3.3), and a list of them can stand in a token.

Scopes add up: what any of them allows is allowed, and nothing else is.

A read is refused, never filtered. A decision that rests on a read with something silently left
out would be made as if it were not there. So ``may_read`` asks of a *query* whether every event
that it could ever match may be read, whatever else is in the book:

* An event that matches an item is of one of its types, or of any type if it names none, and
  bears its tags, perhaps no others. More tags never make an event less readable. So the item is
  within the scopes if an event of each of its types with just its tags is.
* Whoever names no type asks for all, and only ``*`` covers all: there are more types than a key
  can have scopes.
* Agents, payloads and positions narrow what matches, and no scope speaks of them.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, get_args
from urllib.parse import quote as percent_encoded
from urllib.parse import unquote_to_bytes

from pydantic import TypeAdapter, ValidationError

from counterfoil.server.core import limits
from counterfoil.server.core.document import quote
from counterfoil.server.core.errors import FieldError
from counterfoil.server.log.fields import Name, tag_fault
from counterfoil.server.log.query import Item, QueryItem
from counterfoil.server.log.refusals import refuse

Verb = Literal["append", "read", "consume", "decide", "manage", "operate"]
Managed = Literal["keys", "event-types", "brake", "consumers", "policies", "settings"]
Operated = Literal["tenants", "metrics"]
KeyKind = Literal["agent", "person", "service", "auditor", "admin"]

KEY_KINDS: Final[tuple[KeyKind, ...]] = get_args(KeyKind)
"""What a key's principal can be."""

OPERATOR_TENANT_ID: Final = 1
"""The operator's own book. Only its keys can operate the service as a whole."""

_NAMED: Final[Mapping[str, tuple[str, ...]]] = {
    "manage": get_args(Managed),
    "operate": get_args(Operated),
}

_VERBS_OF: Final[Mapping[KeyKind, tuple[Verb, ...]]] = {
    "agent": ("append", "read", "consume", "decide"),
    "person": ("append", "read", "consume", "decide", "manage"),
    "service": ("append", "read", "consume", "decide", "manage"),
    "auditor": ("read",),
    "admin": ("read", "manage", "operate"),
}
"""What a key of each kind can have at all."""

_A_KEY_OF: Final[Mapping[KeyKind, str]] = {
    "agent": "an agent's key",
    "person": "a person's key",
    "service": "a service's key",
    "auditor": "an auditor's key",
    "admin": "an admin's key",
}


# --- What a key may do ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Grant:
    """One scope, decoded: ``what`` is a type or a name, or with ``and_more`` its beginning."""

    verb: Verb
    what: str
    and_more: bool = False
    kind: str | None = None

    @property
    def text(self) -> str:
        """The one way to write it."""
        return (
            f"{self.verb}:{_encoded(self.what)}{'*' if self.and_more else ''}"
            f"{'' if self.kind is None else '@' + _encoded(self.kind)}"
        )


@dataclass(frozen=True, slots=True)
class _Patterns:
    """Event types, as several patterns name them together."""

    everything: bool
    exact: frozenset[str]
    beginnings: tuple[str, ...]

    @classmethod
    def of(cls, grants: Collection[_Grant]) -> "_Patterns":
        return cls(
            everything=any(grant.and_more and not grant.what for grant in grants),
            exact=frozenset(grant.what for grant in grants if not grant.and_more),
            beginnings=tuple(grant.what for grant in grants if grant.and_more),
        )

    def cover(self, event_type: str) -> bool:
        return self.everything or event_type in self.exact or event_type.startswith(self.beginnings)


@dataclass(frozen=True, slots=True)
class Scopes:
    """What a key may do. Made once for each key; asked at every call.

    Two that were written in another order, or with other needless escapes, are equal.

    Attributes:
        may_append_all: events of every type.
        may_append_anything: events of some type at least.
        may_read_all: every event of the book. What asks nothing, such as an agent's latest
            list, is open to this only.
        may_read_anything: some event at least, if there is one.
        may_consume_anything: the work of some consumer at least.
        may_decide_anything: by some policy at least.
    """

    _grants: tuple[_Grant, ...]
    may_append_all: bool = field(compare=False, repr=False)
    may_append_anything: bool = field(compare=False, repr=False)
    may_read_all: bool = field(compare=False, repr=False)
    may_read_anything: bool = field(compare=False, repr=False)
    may_consume_anything: bool = field(compare=False, repr=False)
    may_decide_anything: bool = field(compare=False, repr=False)
    _append: _Patterns = field(compare=False, repr=False)
    _consume: _Patterns = field(compare=False, repr=False)
    _decide: _Patterns = field(compare=False, repr=False)
    _read: _Patterns = field(compare=False, repr=False)
    _read_with_tag: Mapping[str, _Patterns] = field(compare=False, repr=False)
    _named: frozenset[tuple[Verb, str]] = field(compare=False, repr=False)

    @classmethod
    def parse(cls, texts: Iterable[str]) -> "Scopes":
        """Read scopes as they were sent, or as ``texts`` wrote them.

        Raises ``InvalidInput`` with each fault at ``/scopes/<n>``, or at ``/scopes`` for too many.
        """
        listed = list(texts)
        if len(listed) > limits.SCOPES_MAX:
            sentence = (
                f"A key has at most {limits.SCOPES_MAX} scopes; these are {len(listed)}. A pattern "
                "that ends in `*` stands for many types."
            )
            raise refuse([FieldError("/scopes", sentence)])
        grants: set[_Grant] = set()
        errors: list[FieldError] = []
        for index, text in enumerate(listed):
            try:
                grants.add(_parsed(text))
            except _RefusedScopeError as fault:
                errors.append(FieldError(f"/scopes/{index}", str(fault)))
                if len(errors) == limits.FIELD_ERRORS_MAX:
                    break
        if errors:
            raise refuse(errors)
        return cls._of(grants)

    @classmethod
    def _of(cls, grants: Iterable[_Grant]) -> "Scopes":
        ordered = tuple(sorted(grants, key=lambda grant: grant.text))
        append = [grant for grant in ordered if grant.verb == "append"]
        read = [grant for grant in ordered if grant.verb == "read"]
        consume = [grant for grant in ordered if grant.verb == "consume"]
        decide = [grant for grant in ordered if grant.verb == "decide"]
        kinds = {grant.kind for grant in read if grant.kind is not None}
        unconditional = _Patterns.of([grant for grant in read if grant.kind is None])
        patterns = _Patterns.of(append)
        return cls(
            _grants=ordered,
            may_append_all=patterns.everything,
            may_append_anything=bool(append),
            may_read_all=unconditional.everything,
            may_read_anything=bool(read),
            may_consume_anything=bool(consume),
            may_decide_anything=bool(decide),
            _append=patterns,
            _consume=_Patterns.of(consume),
            _decide=_Patterns.of(decide),
            _read=unconditional,
            _read_with_tag={
                kind: _Patterns.of([grant for grant in read if grant.kind == kind])
                for kind in kinds
            },
            _named=frozenset(named for grant in ordered for named in _names_in(grant)),
        )

    def texts(self) -> list[str]:
        """The scopes in their one form: each once, in the order of their code points."""
        return [grant.text for grant in self._grants]

    def __repr__(self) -> str:
        return f"Scopes.parse({self.texts()!r})"

    # Hot: these are asked at every call, and the widest scopes answer by one look.

    def may_append(self, event_type: str) -> bool:
        """Whether events of this type may be appended."""
        return self.may_append_all or self._append.cover(event_type)

    def may_consume(self, name: str) -> bool:
        """Whether this consumer's work may be taken over."""
        return self._consume.cover(name)

    def may_decide(self, policy: str) -> bool:
        """Whether anything may be decided by this policy."""
        return self._decide.cover(policy)

    def may_read(self, query: Sequence[QueryItem | Item] | None) -> bool:
        """Whether every event that the query could match may be read.

        None asks nothing: every event matches. So does an empty query here; judged queries
        are never empty, and where one got here by mistake it would open nothing.
        """
        if self.may_read_all or not query:
            return self.may_read_all
        return all(map(self._may_read_item, query))

    def may_read_event(self, event_type: str, tags: Iterable[str]) -> bool:
        """Whether an event of this type, with these tags and no others, may be read."""
        return self.may_read_all or _cover(self._read_with(tags), event_type)

    def may_manage(self, what: Managed) -> bool:
        """Whether this part of the tenant's rules may be changed and looked at."""
        return ("manage", what) in self._named

    def may_operate(self, what: Operated) -> bool:
        """Whether this part of the service as a whole may be changed and looked at."""
        return ("operate", what) in self._named

    def missing_append(self, event_type: str) -> str:
        """The scope that would allow ``may_append(event_type)``, which says no."""
        return _grantable(_Grant("append", event_type))

    def missing_read(self, query: Sequence[QueryItem | Item] | None) -> str:
        """A scope that ``may_read(query)``, which says no, wants first.

        The narrowest one: where what is asked bears tags, only for a kind of those.
        """
        for item in query or ():
            granted = self._read_with(item.tags or ())
            kind = min(tag.partition(":")[0] for tag in item.tags) if item.tags else None
            if not item.types and not any(patterns.everything for patterns in granted):
                return _grantable(_Grant("read", "", and_more=True, kind=kind))
            for event_type in sorted(item.types or ()):
                if not _cover(granted, event_type):
                    return _grantable(_Grant("read", event_type, kind=kind))
        return "read:*"

    def missing_to_grant(self, granted: "Scopes") -> str | None:
        """Which scope of control ``granted`` has and this has not, None if there is none.

        Whoever manages keys hands out what may be appended and read as the tenant needs it.
        Control is not handed on by those who do not have it: with ``manage:keys`` alone one
        could otherwise make oneself a key for everything.
        """
        beyond = granted._named - self._named  # noqa: SLF001 - another one of this class
        return next((f"{verb}:{what}" for verb, what in sorted(beyond)), None)

    def _may_read_item(self, item: QueryItem | Item) -> bool:
        granted = self._read_with(item.tags or ())
        if not item.types:
            return any(patterns.everything for patterns in granted)
        return all(_cover(granted, event_type) for event_type in item.types)

    def _read_with(self, tags: Iterable[str]) -> list[_Patterns]:
        """The types that may be read of events with these tags."""
        granted = [self._read]
        if self._read_with_tag:
            for kind in {tag.partition(":")[0] for tag in tags}:
                patterns = self._read_with_tag.get(kind)
                if patterns is not None:
                    granted.append(patterns)
        return granted


def _cover(granted: Iterable[_Patterns], event_type: str) -> bool:
    # A loop, where any() with a generator would take twice as long.
    for patterns in granted:  # noqa: SIM110 - see above
        if patterns.cover(event_type):
            return True
    return False


# --- What kinds of keys may have --------------------------------------------------


def for_kind(kind: KeyKind, *, tenant_id: int) -> Scopes:
    """The scopes of a key of this kind for which none were given."""
    match kind:
        case "agent" | "person" | "service":
            return _WORK
        case "auditor":
            return _READ
        case "admin":
            return _OPERATE_AND_MANAGE if tenant_id == OPERATOR_TENANT_ID else _MANAGE


def kind_fault(kind: KeyKind, scopes: Scopes, *, tenant_id: int) -> FieldError | None:
    """Why a key of this kind cannot have these scopes; None if it can."""
    allowed = _VERBS_OF[kind]
    for grant in scopes._grants:  # noqa: SLF001 - of the same module
        if grant.verb not in allowed:
            verbs = " and ".join(f"`{verb}:`" for verb in allowed)
            sentence = (
                f"{_A_KEY_OF[kind].capitalize()} has scopes of {verbs} only; `{grant.text}` needs "
                f"{_or([_A_KEY_OF[other] for other in KEY_KINDS if grant.verb in _VERBS_OF[other]])}."
            )
            return FieldError("/scopes", sentence)
        if grant.verb == "operate" and tenant_id != OPERATOR_TENANT_ID:
            sentence = (
                f"`{grant.text}` is for keys of the operator's own tenant, `default`. Within a "
                "tenant there is `manage:`."
            )
            return FieldError("/scopes", sentence)
    return None


# --- Reading and writing one scope ------------------------------------------------


class _RefusedScopeError(Exception):
    """This text is no scope. ``str()`` is the sentence for the caller."""


_NAME: Final = TypeAdapter[str](Name)
_NAMED_BY: Final = {
    "append": "event type",
    "read": "event type",
    "consume": "consumer",
    "decide": "policy",
}
_ENCODED: Final = re.compile(r"(?:[A-Za-z0-9._~:/+-]|%[0-9A-Fa-f]{2})*")
_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_NOT_WRITTEN: Final = re.compile(r"[^A-Za-z0-9._~:/+%*@-]")


def _parsed(text: str) -> _Grant:
    if len(text) > limits.SCOPE_CHARACTERS_MAX:
        raise _RefusedScopeError(
            f"A scope has at most {limits.SCOPE_CHARACTERS_MAX} characters; this one has "
            f"{len(text)}. End it in `*` where it becomes too long."
        )
    verb, _, rest = text.partition(":")
    match verb:
        case "append" | "read" | "consume" | "decide":
            return _parsed_pattern(verb, rest, text)
        case "manage" | "operate":
            if rest == "*":
                return _Grant(verb, "", and_more=True)
            if rest not in _NAMED[verb]:
                raise _RefusedScopeError(
                    f"`{verb}:` goes on with {_or([f'`{name}`' for name in (*_NAMED[verb], '*')])}; "
                    f"this is {quote(text)}."
                )
            return _Grant(verb, rest)
        case _:
            raise _RefusedScopeError(
                "A scope is `append:` or `read:` with a pattern of event types, `consume:` with one of "
                "consumers, `decide:` with one of policies, or `manage:` or `operate:` with a name, such as `read:payment.*`; this is "
                f"{quote(text)}."
            )


def _parsed_pattern(
    verb: Literal["append", "read", "consume", "decide"], rest: str, text: str
) -> _Grant:
    pattern, at, kind = rest.partition("@")
    if at and verb != "read":
        raise _RefusedScopeError(
            f"Only `read:` can be for a kind of tags; {quote(text)} is not. An `@` in an event "
            "type is written `%40`."
        )
    and_more = pattern.endswith("*")
    what = _decoded(pattern.removesuffix("*"), text)
    if not what and not and_more:
        raise _RefusedScopeError(
            f"{quote(text)} names no {_NAMED_BY[verb]}. For all of them, end it in `*`: `{verb}:*`."
        )
    # What follows a beginning may be anything, so one more character may make a name of it.
    if not (_is_name(what) or (and_more and _is_name(f"{what}x"))):
        raise _RefusedScopeError(
            f"No {_NAMED_BY[verb]} can match {quote(text)}: one has 1 to {limits.NAME_CHARACTERS_MAX} "
            "characters, no control characters, and no white space at its ends."
        )
    if not at:
        return _Grant(verb, what, and_more)
    bearing = _decoded(kind, text)
    if ":" in bearing or tag_fault(f"{bearing}:x"):
        raise _RefusedScopeError(
            f"What follows `@` in {quote(text)} is no kind of tags: one has 1 to "
            f"{limits.TAG_KIND_CHARACTERS_MAX} characters, no colon, no control characters, and no "
            "white space at its ends."
        )
    return _Grant(verb, what, and_more, bearing)


def _is_name(text: str) -> bool:
    try:
        _NAME.validate_python(text, strict=True)
    except ValidationError:
        return False
    return True


def _encoded(text: str) -> str:
    return percent_encoded(text, safe=":/+")


def _decoded(part: str, text: str) -> str:
    if not _ENCODED.fullmatch(part):
        raise _RefusedScopeError(_stray(part, text))
    try:
        return unquote_to_bytes(part).decode("utf-8")
    except UnicodeDecodeError:
        raise _RefusedScopeError(
            f"What is percent-encoded in {quote(text)} is not UTF-8. A `%` that is meant as itself "
            "is written `%25`."
        ) from None


def _stray(part: str, text: str) -> str:
    """What stands in a part of a scope and is not written so, as a sentence."""
    if _PERCENT.search(part):
        return f"In {quote(text)} a `%` is not followed by two hexadecimal digits. Write `%25`."
    if "*" in part:
        return f"In {quote(text)} a `*` is not the end of the pattern. As itself, write `%2A`."
    if "@" in part:
        return f"In {quote(text)} an `@` stands in the kind of tags. As itself, write `%40`."
    written = "Letters but a to z, white space and most signs are percent-encoded in a scope"
    # A lone surrogate has no UTF-8, and a control character is in no name.
    if not text.isprintable():
        return f"{written}; {quote(text)} holds some as they are."
    as_meant = _NOT_WRITTEN.sub(lambda found: percent_encoded(found[0], safe=""), text)
    return f"{written}: write {quote(as_meant)}."


def _grantable(wanted: _Grant) -> str:
    """Its text; where that is too long for a scope, of one that allows it and more."""
    text = wanted.text
    while len(text) > limits.SCOPE_CHARACTERS_MAX:
        if wanted.kind is not None:
            wanted = _Grant(wanted.verb, wanted.what, wanted.and_more)
        else:
            wanted = _Grant(wanted.verb, wanted.what[:-1], and_more=True)
        text = wanted.text
    return text


def _names_in(grant: _Grant) -> Iterable[tuple[Verb, str]]:
    """What a scope of control names."""
    if grant.verb not in _NAMED:
        return ()
    return (
        (grant.verb, what) for what in (_NAMED[grant.verb] if grant.and_more else (grant.what,))
    )


def _or(words: Sequence[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


_WORK: Final = Scopes.parse(["append:*", "consume:*", "decide:*", "read:*"])
_READ: Final = Scopes.parse(["read:*"])
_MANAGE: Final = Scopes.parse(["manage:*"])
_OPERATE_AND_MANAGE: Final = Scopes.parse(["manage:*", "operate:*"])

ALL: Final = Scopes.parse(["append:*", "consume:*", "decide:*", "manage:*", "operate:*", "read:*"])
"""Everything: what the key of the environment may do, in the operator's tenant."""
