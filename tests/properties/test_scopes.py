"""What a key can do is exactly what its scopes say.

The oracle knows nothing of how scopes are parsed or asked: it has the grants as plain data,
writes them down by itself, and decides about a query by going through every event of a small
world. A type that no grant names stands in that world for all the others that there are.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, combinations
from typing import Final, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from counterfoil.server.access.scopes import Scopes
from counterfoil.server.core import limits
from counterfoil.server.core.errors import InvalidInput
from counterfoil.server.log.query import Item, QueryItem
from tests.support.examples import examples

# --- The oracle -------------------------------------------------------------------

TYPES: Final = ("a", "ab", "abc", "b", "b*", "b%2A", "b@k", "é", "é.ü", "a b")
TAGS: Final = ("k:1", "k:2", "l:1", "kl:k:1", "k @:1")
KINDS: Final = ("k", "l", "kl", "k @", "m")
WRITTEN_AS_THEY_ARE: Final = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~:/+-"
)


class Grant(NamedTuple):
    verb: str
    beginning: str
    and_more: bool
    kind: str | None

    def names(self, event_type: str) -> bool:
        if self.and_more:
            return event_type[: len(self.beginning)] == self.beginning
        return event_type == self.beginning


def encoded(text: str) -> str:
    return "".join(
        character
        if character in WRITTEN_AS_THEY_ARE
        else "".join(f"%{byte:02X}" for byte in character.encode())
        for character in text
    )


def written(grant: Grant) -> str:
    kind = "" if grant.kind is None else f"@{encoded(grant.kind)}"
    return f"{grant.verb}:{encoded(grant.beginning)}{'*' if grant.and_more else ''}{kind}"


def appendable(grants: Iterable[Grant], event_type: str) -> bool:
    return any(grant.verb == "append" and grant.names(event_type) for grant in grants)


def readable(grants: Iterable[Grant], event_type: str, tags: Iterable[str]) -> bool:
    kinds = {tag.split(":")[0] for tag in tags}
    return any(
        grant.verb == "read"
        and grant.names(event_type)
        and (grant.kind is None or grant.kind in kinds)
        for grant in grants
    )


def asked_for(query: Sequence[Item] | None, event_type: str, tags: frozenset[str]) -> bool:
    if query is None:
        return True
    return any(
        (len(item.types) == 0 or event_type in item.types) and item.tags.issubset(tags)
        for item in query
    )


def world(grants: Iterable[Grant]) -> Iterator[tuple[str, frozenset[str]]]:
    """Every event that there can be, as far as these grants can tell events apart."""
    others = {f"{grant.beginning}~other" for grant in grants} | {"~other"}
    subsets = chain.from_iterable(combinations(TAGS, size) for size in range(len(TAGS) + 1))
    for tags in map(frozenset, subsets):
        for event_type in (*TYPES, *others):
            yield event_type, tags


# --- What is tried ----------------------------------------------------------------

beginnings = st.sampled_from(TYPES) | st.sampled_from(TYPES).map(lambda name: name[0])
grants_of_all = st.builds(
    Grant, st.sampled_from(["append", "read"]), st.just(""), st.just(True), st.none()
)
grants_of_some = st.builds(
    Grant, st.sampled_from(["append", "read"]), beginnings, st.booleans(), st.none()
)
grants_with_kind = st.builds(
    Grant, st.just("read"), beginnings, st.booleans(), st.sampled_from(KINDS)
) | st.builds(Grant, st.just("read"), st.just(""), st.just(True), st.sampled_from(KINDS))
# The widest is rare, or nothing else would be tried.
grants_lists = st.lists(
    grants_of_some | grants_with_kind | grants_with_kind, max_size=6
) | st.lists(grants_of_some | grants_of_all, max_size=3)

items = st.builds(
    Item,
    types=st.frozensets(st.sampled_from(TYPES), max_size=3),
    agents=st.frozensets(st.sampled_from("xy"), max_size=1),
    tags=st.frozensets(st.sampled_from(TAGS), max_size=2),
).filter(lambda item: bool(item.types or item.agents or item.tags))
queries = st.none() | st.lists(items, min_size=1, max_size=3)


def on_the_wire(item: Item) -> QueryItem:
    """The same as a condition has it."""
    return QueryItem(
        types=sorted(item.types) or None,
        agents=sorted(item.agents) or None,
        tags=sorted(item.tags) or None,
    )


# --- What is promised -------------------------------------------------------------


@pytest.mark.promise("P7")
@examples(600)
@given(grants=grants_lists, query=queries)
@example(grants=[Grant("read", "", True, "k")], query=[Item(tags=frozenset({"k:1"}))])
@example(grants=[Grant("read", "", True, "k")], query=[Item(tags=frozenset({"kl:k:1"}))])
@example(grants=[Grant("read", "b*", False, None)], query=[Item(types=frozenset({"b"}))])
def test_a_query_is_open_if_every_event_that_it_can_match_is(
    grants: list[Grant], query: list[Item] | None
) -> None:
    scopes = Scopes.parse(map(written, grants))
    within = all(
        readable(grants, event_type, tags)
        for event_type, tags in world(grants)
        if asked_for(query, event_type, tags)
    )
    assert scopes.may_read(query) == within
    if query is not None:
        assert scopes.may_read([on_the_wire(item) for item in query]) == within


@pytest.mark.promise("P7")
@examples(300)
@given(grants=grants_lists)
def test_an_event_is_open_as_the_scopes_say(grants: list[Grant]) -> None:
    scopes = Scopes.parse(map(written, grants))
    events = list(world(grants))
    for event_type, tags in events:
        assert scopes.may_append(event_type) == appendable(grants, event_type)
        assert scopes.may_read_event(event_type, tags) == readable(grants, event_type, tags)
    assert scopes.may_append_all == all(appendable(grants, name) for name, _ in events)
    assert scopes.may_append_anything == any(appendable(grants, name) for name, _ in events)
    assert scopes.may_read_all == all(readable(grants, *event) for event in events)
    # A kind of tags that this world has none of is one that others have.
    some = [(name, {*tags, "m:1"}) for name, tags in events]
    assert scopes.may_read_anything == any(readable(grants, *event) for event in some)


@pytest.mark.promise("P7")
@examples(500)
@given(grants=grants_lists, query=queries)
def test_the_missing_scopes_are_those_that_open_it(
    grants: list[Grant], query: list[Item] | None
) -> None:
    texts = [written(grant) for grant in grants]
    for event_type in TYPES:
        scopes = Scopes.parse(texts)
        if not scopes.may_append(event_type):
            missing = scopes.missing_append(event_type)
            assert Scopes.parse([missing]).may_append(event_type)
            assert not Scopes.parse([missing]).may_read_anything
    asked = sum(max(len(item.types), 1) for item in query or [Item()])
    for _ in range(asked):
        scopes = Scopes.parse(texts)
        if scopes.may_read(query):
            break
        missing = scopes.missing_read(query)
        assert missing not in scopes.texts()
        texts.append(missing)
    assert Scopes.parse(texts).may_read(query)


# --- How they are written ---------------------------------------------------------

names = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=12).filter(
    lambda name: name == name.strip()
)


@examples(500)
@given(name=names, more=st.characters(exclude_categories=["Cc", "Cs", "Z"]))
@example(name="*", more="*")
@example(name="%2A", more="%")
@example(name="café.überwiesen", more="/")
def test_any_event_type_has_a_scope_of_its_own(name: str, more: str) -> None:
    exactly = Scopes.parse([f"append:{encoded(name)}"])
    assert exactly.may_append(name)
    assert not exactly.may_append(name + more)
    assert exactly.missing_append(name + more) == f"append:{encoded(name + more)}"
    beginning = Scopes.parse([f"append:{encoded(name)}*"])
    assert beginning.may_append(name)
    assert beginning.may_append(name + more)
    assert not beginning.may_append(more + name) or (more + name).startswith(name)


@examples(300)
@given(grants=grants_lists, data=st.data())
def test_one_set_of_scopes_is_written_in_one_way(grants: list[Grant], data: st.DataObject) -> None:
    texts = [written(grant) for grant in grants]
    canonical = Scopes.parse(texts).texts()
    assert canonical == sorted(set(texts))

    def needlessly_escaped(text: str) -> str:
        verb, _, rest = text.partition(":")
        place = data.draw(st.integers(0, len(rest)))
        escaped = rest[:place].replace("a", "%61").replace("%C3", "%c3") + rest[place:]
        return f"{verb}:{escaped}"

    again = [needlessly_escaped(text) for text in data.draw(st.permutations(texts * 2))]
    assert Scopes.parse(again) == Scopes.parse(texts)
    assert hash(Scopes.parse(again)) == hash(Scopes.parse(texts))
    assert Scopes.parse(again).texts() == canonical


signs = st.sampled_from("ab%2A*@:k ?é\x00\x7f\ud800💳") | st.characters()
hostile = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["append:", "read:", "manage:", "operate:", "Append:", "read", ""]),
        st.text(signs, max_size=20),
        st.sampled_from(["", "*", "@k", "*@k", "@", "%", "%2", "%FF", "%ED%A0%80", "%00"]),
    ),
)


@pytest.mark.promise("P13")
@examples(1000)
@given(text=hostile | st.text(signs, max_size=2 * limits.SCOPE_CHARACTERS_MAX))
def test_what_is_no_scope_is_refused_where_it_stands(text: str) -> None:
    try:
        scopes = Scopes.parse(["read:a", text])
    except InvalidInput as refused:
        (error,) = refused.errors
        assert error.pointer == "/scopes/1"
        error.message.encode()
        assert error.message.isprintable()
        return
    assert Scopes.parse(scopes.texts()) == scopes
    assert all(character.isascii() for own in scopes.texts() for character in own)
    assert all(len(own) <= max(len(text), len("read:a")) for own in scopes.texts())
