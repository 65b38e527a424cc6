"""Strict JSON: what is read is exactly what was sent, and all else is refused with its place.

The judge is held against a second, slow and obvious one (``Oracle``) on documents that
hypothesis grows from good and bad parts.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from counterfoil.server.core import limits
from counterfoil.server.core.document import encode, parse, pointer_to, quote
from counterfoil.server.core.errors import FieldError, InputError, InvalidInput, MalformedDocument

unhurried = settings(deadline=None)


def refusal_of(body: bytes) -> InputError:
    with pytest.raises(InputError) as caught:
        parse(body)
    return caught.value


def only_error_of(body: bytes) -> FieldError:
    refusal = refusal_of(body)
    assert isinstance(refusal, InvalidInput)
    (error,) = refusal.errors
    assert str(refusal) == error.message
    return error


# --- What is read -----------------------------------------------------------------

characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
texts = st.text(characters, max_size=8)
numbers = st.builds(
    lambda digits, exponent: Decimal(f"{digits}e{exponent}"),
    st.integers(-(10**30), 10**30),
    st.integers(-60, 60),
)
whole_numbers = st.integers(1 - 10**limits.NUMBER_DIGITS_MAX, 10**limits.NUMBER_DIGITS_MAX - 1)
trees = st.recursive(
    st.none() | st.booleans() | whole_numbers | numbers | texts,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=20,
)


@unhurried
@given(trees)
def test_what_is_written_is_read_back_as_it_was(tree: Any) -> None:
    assert parse(encode(tree)) == tree


@unhurried
@given(trees)
def test_the_spelling_of_a_document_does_not_change_what_is_read(tree: Any) -> None:
    spelled_out = json.dumps(json.loads(encode(tree), parse_float=str), indent=3)
    compact = json.dumps(json.loads(encode(tree), parse_float=str), ensure_ascii=False)

    assert parse(spelled_out.encode()) == parse(compact.encode())


@pytest.mark.parametrize(
    ("token", "value", "written"),
    [
        ("0", 0, b"0"),
        ("-0", 0, b"0"),
        ("12.50", Decimal("12.50"), b"12.50"),
        ("0.1", Decimal("0.1"), b"0.1"),
        ("1.0", Decimal("1.0"), b"1.0"),
        ("1e2", Decimal(100), b"1E+2"),
        ("1E-7", Decimal("0.0000001"), b"1E-7"),
        ("9007199254740993", 2**53 + 1, b"9007199254740993"),
        ("0.30000000000000004441", Decimal("0.30000000000000004441"), b"0.30000000000000004441"),
    ],
)
def test_a_number_keeps_its_digits(token: str, value: object, written: bytes) -> None:
    read = parse(token.encode())

    assert read == value
    assert type(read) is type(value)
    assert encode(read) == written


def test_no_number_is_a_float() -> None:
    for token in (b"1.5", b"1e5", b"-0.0", b"1E+3", b"100e-2"):
        assert isinstance(parse(token), Decimal)


def test_a_bool_is_not_a_number() -> None:
    assert parse(b"[true, false, null]") == [True, False, None]
    assert encode([True, False, None]) == b"[true,false,null]"


def test_a_pair_of_surrogates_is_one_character() -> None:
    assert parse(rb'"\ud83d\ude00"') == "\U0001f600"
    assert encode("\U0001f600") == "\U0001f600".encode().join([b'"', b'"'])


def test_an_escape_that_is_itself_escaped_is_text() -> None:
    assert parse(rb'"\\u0000 \\ud800"') == r"\u0000 \ud800"
    assert parse(rb'"\\\\u0000"') == r"\\u0000"


# --- Numbers ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "token",
    [
        "9" * 100,
        "-" + "9" * 100,
        "0." + "9" * 99,
        "-0." + "9" * 99,
        "1e99",
        "1e-99",
        "9.9E+98",
        "1e+099",
    ],
)
def test_a_number_of_100_digits_is_read(token: str) -> None:
    assert parse(token.encode()) == Decimal(token)


@pytest.mark.parametrize(
    "token",
    [
        "9" * 101,
        "-" + "9" * 101,
        "0." + "9" * 100,
        "1e100",
        "1e-100",
        "1E400",
        "1e131071",
        "1e-5000",
        "9" * 400,
        "9" * 5_000,
        "1e" + "9" * 30,
        "1e-" + "9" * 30,
        "0e" + "9" * 5_000,
        "1e+" + "0" * 5_000 + "1",
    ],
)
def test_a_number_of_more_digits_is_refused_where_it_stands(token: str) -> None:
    error = only_error_of(f'{{"a": [1, {token}]}}'.encode())

    assert error.pointer == "/a/1"
    assert "100 digits" in error.message
    assert token not in error.message


@unhurried
@given(
    st.integers(1, 10**40),
    st.integers(0, 10**40) | st.none(),
    st.integers(-130, 130) | st.none(),
    st.sampled_from("eE"),
)
def test_the_digits_that_count_are_those_written_out(
    whole: int, fraction: int | None, exponent: int | None, letter: str
) -> None:
    token = str(whole)
    token += "" if fraction is None else f".{fraction}"
    token += "" if exponent is None else f"{letter}{exponent}"
    digits = sum(c.isdigit() for c in format(Decimal(token), "f"))

    if digits <= limits.NUMBER_DIGITS_MAX:
        assert parse(token.encode()) == Decimal(token)
    else:
        assert only_error_of(token.encode()).pointer == ""


# --- Documents of good and bad parts ----------------------------------------------


class Pairs(list[tuple[str, Any]]):
    """An object as the oracle reads it, with every member it names."""


@dataclass
class Oracle:
    """A second judge: the standard library's reader, then a walk that looks at everything."""

    text: str
    malformed: bool = False
    pointers: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        def no_constant(_: str) -> None:
            raise ValueError

        try:
            tree = json.loads(
                self.text,
                object_pairs_hook=Pairs,
                parse_float=Decimal,
                parse_constant=no_constant,
            )
        except ValueError:
            self.malformed = True
        else:
            self._walk(tree, "")

    @staticmethod
    def is_bad_text(text: str) -> bool:
        return any(c == "\0" or 0xD800 <= ord(c) < 0xE000 for c in text)

    def _walk(self, value: Any, pointer: str) -> None:
        if isinstance(value, Pairs):
            names: list[str] = []
            for name, member in value:
                if self.is_bad_text(name):
                    self.pointers.append(pointer)
                    continue
                below = f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"
                if [n for n, _ in value].count(name) > 1 and name not in names:
                    self.pointers.append(below)
                names.append(name)
                self._walk(member, below)
        elif isinstance(value, list):
            for index, member in enumerate(value):
                self._walk(member, f"{pointer}/{index}")
        elif (isinstance(value, str) and self.is_bad_text(value)) or (
            isinstance(value, Decimal) and value.adjusted() > 200
        ):
            self.pointers.append(pointer)


good_parts = ["1", "-0.5", "true", "null", '""', '"a"', r'"\\u0000"', r'"\\ud800"', r'"\""', '"é"']
bad_parts = [
    "1e400",
    r'"\u0000"',
    r'"x\u0000"',
    r'"\\\u0000"',
    r'"\ud800"',
    r'"\uDC00\ud800"',
]
keys = ['"a"', '"b"', r'"\u0061"', '"a/b"', '"~"', r'"\u0000"', r'"\udfff"', '"é"']
documents = st.recursive(
    st.sampled_from(good_parts * 2 + bad_parts),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda parts: f"[{','.join(parts)}]")
        | st.lists(st.tuples(st.sampled_from(keys), inner), max_size=3).map(
            lambda members: "{" + ",".join(f"{key}: {part}" for key, part in members) + "}"
        )
    ),
    max_leaves=8,
)


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """A document with a few characters cut out or put in."""
    text = draw(documents)
    start = draw(st.integers(0, len(text)))
    end = draw(st.integers(start, min(len(text), start + 3)))
    return text[:start] + draw(st.sampled_from(["", ",", '"', "}", "NaN", "\\", "x"])) + text[end:]


@settings(deadline=None, max_examples=400)
@given(documents | damaged())
@example('{"a": 1, "a": {"a": 1, "a": 1}}')
@example('{"a": 1, "a": 2, "a": NaN}')
@example('{"a": 1e400, "b": ')
def test_a_document_is_judged_as_the_oracle_judges_it(text: str) -> None:
    oracle = Oracle(text)

    if oracle.malformed:
        assert isinstance(refusal_of(text.encode()), MalformedDocument)
    elif oracle.pointers:
        refusal = refusal_of(text.encode())
        assert isinstance(refusal, InvalidInput)
        assert [e.pointer for e in refusal.errors] == oracle.pointers[: limits.FIELD_ERRORS_MAX]
    else:
        assert parse(text.encode()) == json.loads(text, parse_float=Decimal)


@pytest.mark.parametrize(
    ("body", "pointer", "said"),
    [
        (
            rb'{"a": {"b": ["", "x\u0000y"]}}',
            "/a/b/1",
            "PostgreSQL cannot store the character U+0000",
        ),
        (rb'{"a": {"x\u0000y": 1}}', "/a", r"`x\u0000y`"),
        (rb'{"a": "\ud800"}', "/a", "surrogate"),
        (rb'{"a": "\uDBFF"}', "/a", "surrogate"),
        (rb'{"a": {"\udfff": 1}}', "/a", r"`\udfff`"),
        (b'{"a": {"b/c~d": 1, "x": 2, "b/c~d": 3}}', "/a/b~1c~0d", "`b/c~d`"),
        (rb'{"a": 1, "\u0061": 2}', "/a", "more than once"),
        (rb'"\u0000"', "", "U+0000"),
        (b"1e5000", "", "100 digits"),
    ],
)
def test_what_json_allows_and_we_do_not_is_refused_at_its_place(
    body: bytes, pointer: str, said: str
) -> None:
    error = only_error_of(body)

    assert error.pointer == pointer
    assert said in error.message


def test_all_faults_are_named_up_to_a_limit() -> None:
    refusal = refusal_of(b"[" + b",".join([rb'"\u0000"'] * 30) + b"]")

    pointers = [error.pointer for error in refusal.errors]
    assert pointers == [f"/{index}" for index in range(limits.FIELD_ERRORS_MAX)]


def test_a_key_that_is_repeated_often_is_named_once() -> None:
    assert only_error_of(b'{"a": 1, "a": 2, "a": 3}').pointer == "/a"


def test_a_long_key_is_neither_repeated_whole_nor_pointed_at() -> None:
    key = b"k" * 100_000
    error = only_error_of(b'{"a": {"%b": 1, "%b": 2}}' % (key, key))

    assert error.pointer == "/a"
    assert "kkkk…`" in error.message
    assert len(error.message) < 300


# --- What is not JSON -------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "empty"),
        (b" \r\n\t", "empty"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b'{"a": "\xff"}', "not UTF-8: the byte at offset 7"),
        ("{}".encode("utf-16"), "not UTF-8"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        (b'{"a": nul}', "a value was expected at line 1, column 7"),
        (b'{\n  "a": 1,\n  b: 2}', "a key in double quotes was expected at line 3, column 3"),
        (b'{"a" 1}', "a colon was expected at line 1, column 6"),
        (b"[1 2]", "a comma or a closing bracket was expected at line 1, column 4"),
        (b'{"a": 1', "at line 1, column 8, where it ends"),
        (b"{} {}", "something follows the end of the document at line 1, column 4"),
        (b'"a\nb"', "must be written as an escape at line 1, column 3"),
        (b'"a\x00b"', "must be written as an escape at line 1, column 3"),
        (rb'"\q"', "JSON has no such escape at line 1, column"),
        (rb'"\u12x4"', "four hexadecimal digits at line 1, column"),
        (b'["abc', "a string begins that does not end at line 1, column 2"),
        (b"01", "something follows the end of the document at line 1, column 2"),
        (b"[NaN]", "`NaN` at line 1, column 2. JSON has no such number"),
        (b'{"NaN": "Infinity",\n "b": -Infinity}', "`-Infinity` at line 2, column 7"),
        (b'["\\"NaN", Infinity]', "`Infinity` at line 1, column 11"),
        (b'{"a": 1, "a": NaN}', "`NaN`"),
        (b'{"a": 1e400, "b": x}', "a value was expected"),
    ],
)
def test_what_is_not_json_is_said_with_its_place(body: bytes, said: str) -> None:
    refusal = refusal_of(body)

    assert isinstance(refusal, MalformedDocument)
    assert said in str(refusal)
    assert refusal.errors == ()


@pytest.mark.parametrize(
    "body", [b"[1,]", b'{"a": 1,}', b"[,1]", b"{,}", b"+1", b".5", b"1.", b"'a'"]
)
def test_what_other_readers_let_pass_is_not_json(body: bytes) -> None:
    assert isinstance(refusal_of(body), MalformedDocument)


def test_a_refusal_shows_nothing_of_the_body() -> None:
    refusal = refusal_of(b'{"card": "4111 1111 1111 1111" "cvc": 123}')

    assert "4111" not in str(refusal)
    assert "cvc" not in str(refusal)


# --- Depth ------------------------------------------------------------------------

NOISE = r'"]}[{ \" ]} \\"'


def nested(levels: str, inside: str) -> str:
    """Nest ``inside`` in lists (``[``) and objects (``{``), with brackets in strings around."""
    text = inside
    for level in reversed(levels):
        text = (
            f"[{NOISE}, {text}, [], {NOISE}]" if level == "[" else f'{{{NOISE}: [], "a": {text}}}'
        )
    return text


@unhurried
@given(st.text("[{", min_size=60, max_size=68))
def test_depth_is_counted_exactly(levels: str) -> None:
    body = nested(levels, "1").encode()
    # Each level holds an empty list, which is one deeper.
    if len(levels) + 1 <= limits.DOCUMENT_DEPTH_MAX:
        parse(body)
    else:
        error = only_error_of(body)
        assert "64 deep" in error.message
        assert error.pointer.count("/") == limits.DOCUMENT_DEPTH_MAX


def test_many_brackets_side_by_side_are_not_deep() -> None:
    assert parse(b"[" + b",".join([b"[[]]"] * 1_000) + b"]") == [[[]]] * 1_000


@pytest.mark.parametrize(
    ("opening", "closing", "pointer"),
    [
        (b"[", b"]", "/0" * 64),
        (b'{"a":', b"}", "/a" * 64),
        (b'{"x": [], "a/": [1, ', b"]}", "/a~1/1" * 32),
    ],
)
@pytest.mark.parametrize("times", [33, 10_000, 200_000])
@pytest.mark.parametrize("closed", [True, False])
def test_what_is_too_deep_is_refused_at_the_first_level_too_many(
    opening: bytes, closing: bytes, pointer: str, times: int, closed: bool
) -> None:
    times = max(times, limits.DOCUMENT_DEPTH_MAX + 1) if len(opening) < 10 else times
    body = opening * times + (b"0" + closing * times if closed else b"")

    assert only_error_of(body).pointer == pointer


def test_a_deep_document_that_ceases_to_be_json_before_is_malformed() -> None:
    refusal = refusal_of(b'{"a": tru, "b": ' + b"[" * 100)

    assert isinstance(refusal, MalformedDocument)
    assert "column 7" in str(refusal)
    assert isinstance(refusal_of(b"[NaN, " + b"[" * 100), MalformedDocument)
    assert isinstance(refusal_of(b"[1" * 100), MalformedDocument)


# --- Hostile bodies ---------------------------------------------------------------

MEBIBYTE = 1024 * 1024


HOSTILE: dict[str, tuple[Callable[[int], bytes], type[InputError]]] = {
    "lists in lists": (lambda n: b"[" * n, InvalidInput),
    "objects in objects": (lambda n: b'{"":' * (n // 4), InvalidInput),
    "closing brackets": (lambda n: b"]" * n, MalformedDocument),
    "empty lists": (lambda n: b"[" + b"[]," * (n // 3) + b"x", MalformedDocument),
    "digits": (lambda n: b"9" * n, InvalidInput),
    "negative digits": (lambda n: b"-" + b"9" * n, InvalidInput),
    "digits behind the point": (lambda n: b"0." + b"9" * n, InvalidInput),
    "digits of an exponent": (lambda n: b"1e" + b"9" * n, InvalidInput),
    "numbers": (lambda n: b"[" + b"1," * (n // 2), MalformedDocument),
    "backslashes": (lambda n: b"\\" * n, MalformedDocument),
    "backslashes in a string": (lambda n: b'"' + b"\\" * n, MalformedDocument),
    "escaped quotes": (lambda n: b'"' + b'\\"' * (n // 2), MalformedDocument),
    "escaped quotes behind NaN": (lambda n: b'[NaN,"' + b'\\"' * (n // 2), MalformedDocument),
    "escaped quotes before NaN": (
        lambda n: b'["' + b'\\"' * (n // 2) + b'", NaN',
        MalformedDocument,
    ),
    "escaped quotes outside a string": (
        lambda n: b'\\"' * (n // 2) + b"[" * 100,
        MalformedDocument,
    ),
    "quotes": (lambda n: b'"' * n, MalformedDocument),
    "NULs": (lambda n: b'"' + rb"\u0000" * (n // 6) + b'"', InvalidInput),
    "surrogates": (lambda n: b'"' + rb"\ud800" * (n // 6) + b'"', InvalidInput),
    "a long key": (lambda n: b'{"' + b"k" * n + b'": 1e400}', InvalidInput),
    "one key often": (lambda n: b"{" + b'"a":1,' * (n // 6) + b'"b":1}', InvalidInput),
    "no UTF-8": (lambda n: b"\xff" * n, MalformedDocument),
    "spaces": (lambda n: b" " * n, MalformedDocument),
    "line ends": (lambda n: b"\n" * n + b"NaN", MalformedDocument),
}


@pytest.mark.parametrize(("body", "kind"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_body_is_refused_shortly(
    body: Callable[[int], bytes], kind: type[InputError]
) -> None:
    # No clock: what is quadratic in a mebibyte does not end before the timeout of tests.
    refusal = refusal_of(body(MEBIBYTE))

    assert isinstance(refusal, kind)
    assert len(str(refusal)) < 400
    assert len(refusal.errors) <= limits.FIELD_ERRORS_MAX
    assert all(
        len(error.pointer) <= limits.POINTER_CHARACTERS_MAX and len(error.message) < 400
        for error in refusal.errors
    )


# --- Pointers and quotes ----------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "pointer"),
    [
        ([], ""),
        (["events", 3, "payload"], "/events/3/payload"),
        (["a/b", "m~n", "~1", ""], "/a~1b/m~0n/~01/"),
        (["payload", "k" * 1_000, "x"], "/payload"),
    ],
)
def test_a_pointer_is_that_of_rfc_6901(path: list[str | int], pointer: str) -> None:
    assert pointer_to(path) == pointer


@given(st.lists(texts))
def test_a_pointer_leads_back_to_its_path(path: list[str]) -> None:
    steps = pointer_to(path).split("/")[1:]

    assert [step.replace("~1", "/").replace("~0", "~") for step in steps] == path[: len(steps)]
    assert len(steps) == len(path) or len(pointer_to(path)) <= limits.POINTER_CHARACTERS_MAX


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("abc", "`abc`"),
        ("a\nb\x1b[31m", r"`a\u000ab\u001b[31m`"),
        ("\ud800\u202e", r"`\ud800\u202e`"),
        ("x" * 40, f"`{'x' * 40}`"),
        ("x" * 41, f"`{'x' * 40}…`"),
    ],
)
def test_a_quote_is_short_and_printable(text: str, shown: str) -> None:
    assert quote(text) == shown
