"""Expressions of rules: what they read is known before there are any values, or they are refused.

The engine takes what it cannot compute in a condition for a condition that is not met, so what it
would stumble over is refused. What is accepted, it computes to the kind that was told.
"""

import json
from typing import Any, Final

import pytest
import zen
from hypothesis import given, settings
from hypothesis import strategies as st

from counterfoil.server.core import limits
from counterfoil.server.decisions.rules.expressions import Place, read
from counterfoil.server.decisions.rules.kinds import (
    NUMBER,
    TEXT,
    TRUTH,
    Kind,
    Named,
    Names,
    list_of,
)
from counterfoil.server.decisions.rules.tokens import ExpressionRefused, constant, tokens

APPLICANT: Final = Kind("object", members=(("income", NUMBER), ("name", TEXT)))
CHANNEL: Final = Kind("text", values=frozenset({"web", "branch"}))
NAMES: Final[Names] = {
    "income": Named(NUMBER, "inputs"),
    "debt": Named(NUMBER, "inputs"),
    "name": Named(TEXT, "inputs"),
    "channel": Named(CHANNEL, "inputs"),
    "fraud": Named(TRUTH, "inputs"),
    "amounts": Named(list_of(NUMBER), "inputs"),
    "words": Named(list_of(TEXT), "inputs"),
    "applicant": Named(APPLICANT, "inputs"),
    "applicants": Named(list_of(APPLICANT), "inputs"),
    "score": Named(NUMBER, "inputs", may_be_missing=True),
}
VALUES: Final[dict[str, list[Any]]] = {
    "income": [0, 3, -7, 10**15],
    "debt": [1, 2],
    "name": ["", "abc", "5"],
    "channel": ["web", "branch"],
    "fraud": [True, False],
    "amounts": [[], [1, 2], [0]],
    "words": [[], ["a", "b"]],
    "applicant": [{"income": 4, "name": "y"}],
    "applicants": [[], [{"income": 1, "name": "x"}]],
}


def kind_of(expression: str, place: Place = Place.FIGURE, dollar: Kind | None = None) -> Kind:
    return read(expression, place, NAMES, forbids=lambda name: name == "age", dollar=dollar)


def must_refuse(
    expression: str, sentence: str, place: Place = Place.FIGURE, dollar: Kind | None = None
) -> None:
    with pytest.raises(ExpressionRefused) as caught:
        kind_of(expression, place, dollar)
    assert sentence in str(caught.value)


# --- What may be ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "kind"),
    [
        ("income", "number"),
        ("debt / income", "number"),
        ("-(debt + 1.5) * 2 - 1_000 % 7", "number"),
        ("1e5 + income", "number"),
        ("debt / income > 0.5 ? 1 : 0", None),
        ("income > 0 ? debt : 0", "number"),
        ("score ?? 0", "number"),
        ("(score ?? 0) > 5 and not fraud or !fraud", "truth"),
        ("applicant.income", "number"),
        ("applicant['name']", "text"),
        ("applicants[0].income", "number"),
        ("amounts[0]", "number"),
        ("amounts[0] ?? 0", "number"),
        ("name == 'x' and channel != \"web\"", "truth"),
        ("channel in ['web']", "truth"),
        ("income in [0..10) and debt not in (1..5]", "truth"),
        ("income in [1, 2, 3]", "truth"),
        ("max(amounts)", "number"),
        ("sum(map(applicants, #.income))", "number"),
        ("some(amounts, # > 5 and # < 10)", "truth"),
        ("count(filter(applicants, #.name == name), #.income > debt)", "number"),
        ("len(filter(amounts, # > 5))", "number"),
        ("contains(lower(name), 'a')", "truth"),
        ("contains(words, 'a')", "truth"),
        ("split(name, ',')[0]", "text"),
        ("round(income, 2)", "number"),
        ("number(name)", "number"),
        ("[1, 2, 3]", "list"),
        ("'and' == name", "truth"),
    ],
)
def test_what_may_be_has_a_kind(expression: str, kind: str | None) -> None:
    if kind is None:
        must_refuse(expression, "may be nothing")
    else:
        assert kind_of(expression).name == kind


def test_what_its_node_has_made_is_read_by_a_dollar() -> None:
    made = Kind("object", members=(("ratio", NUMBER),))
    assert kind_of("$.ratio > 0.5", dollar=made) == TRUTH
    must_refuse("$.rate", "nothing before in this node makes that", dollar=made)


# --- What the engine would take for something else ----------------------------------


@pytest.mark.parametrize(
    ("expression", "sentence"),
    [
        ("debbt * 2", "Nothing hands on `debbt`"),
        ("True", "Nothing hands on `True`"),
        ("income$", "`income$` is no name"),
        ("income#1", "`income#1` is no name"),
        ("$income", "`$income` is no name"),
        ("#", "`#` is an element of a list"),
        ("$", "`$` is nothing here"),
        ("applicant.incom", "has no member `incom`"),
        ("applicants[0].incom", "has no member `incom`"),
        ("some(applicants, #.incom > 1)", "has no member `incom`"),
        ("name.length", "is a text, and has no member"),
        ("name[0]", "has no elements"),
        ("applicant[0]", "has no elements"),
        ("income as total", "the end was expected"),
        ("income.", "Behind a dot"),
        ("credit-score", "Nothing hands on `credit`"),
        ("income // debt", "The engine cannot read this"),
        ("income /* debt", "The engine cannot read this"),
        ("income > > 1", "The engine cannot read this"),
        ("(income", "`)` was expected"),
        ("income not  in [1]", "The engine cannot read this"),
        ("", "The engine cannot read this"),
        ("income;", "Nothing begins with ';'"),
        ("x = income; x", "Nothing begins with '='"),
        ("\u00e4ge", "Nothing begins with 'ä'"),
        ("income\u00a0+ 1", "Nothing begins with"),
        ("income\r+ 1", "Nothing begins with"),
        ("'open", "opened and not closed"),
        ('"a" + "b', "opened and not closed"),
        ("`${income}`", "backticks hold programs"),
    ],
)
def test_what_the_engine_reads_as_something_else_is_refused(expression: str, sentence: str) -> None:
    must_refuse(expression, sentence)


def test_a_text_knows_no_escapes() -> None:
    assert [piece.text for piece in tokens(r"'a\' + 'b'")] == [r"'a\'", "+", "'b'"]
    assert zen.evaluate_expression(r"'a\' + 'b'", "{}") == "a\\b"


@pytest.mark.parametrize("expression", ["1e5", "1.5e-3", "1_000.5", "2.", "0.5"])
def test_a_number_is_one_piece(expression: str) -> None:
    assert [piece.kind for piece in tokens(expression)] == ["number"]


def test_the_end_of_a_range_is_no_decimal() -> None:
    assert [piece.text for piece in tokens("[1..5.5]")] == ["[", "1", "..", "5.5", "]"]


# --- Forbidden, and past what is handed on ------------------------------------------


@pytest.mark.parametrize(
    ("expression", "sentence"),
    [
        ("age", "`age` may not be read by a rule"),
        ("applicant.age", "`applicant.age` may not be read"),
        ("applicant['age']", "`applicant.age` may not be read"),
        ("some(applicants, #.age > 1)", "`#.age` may not be read"),
        ("income > 1 ? age : 0", "`age` may not be read"),
        ("$root.age", "`$root.age` may not be read"),
        ("$root.income", "`$root` reaches past"),
        ("$root", "`$root` reaches past"),
        ("$nodes.figures", "`$nodes` reaches past"),
        ("applicant['a' + 'ge']", "so that one can tell what is read"),
        ("applicant[name]", "so that one can tell what is read"),
        ("applicants[income]", "so that one can tell what is read"),
        ("amounts[0:2]", "so that one can tell what is read"),
        ("(applicant)['a' + 'ge']", "so that one can tell what is read"),
        ("keys(applicant)", "hides what is read"),
        ("values(applicant)", "hides what is read"),
        ("{a: income}", "Rules make no objects"),
    ],
)
def test_no_way_leads_to_what_is_forbidden_or_not_handed_on(expression: str, sentence: str) -> None:
    must_refuse(expression, sentence)


# --- The same for the same, and in time ---------------------------------------------


@pytest.mark.parametrize(
    ("expression", "sentence"),
    [
        ("rand(5)", "something else each time"),
        ("d()", "may read the clock"),
        ("date('now')", "may read the clock"),
        ("year(name)", "may read the clock"),
        ("name.add('1d')", "methods are of dates"),
        ("d().isToday()", "methods are of dates"),
        ("income ^ 0.5", "counts in floats"),
        ("matches(name, '(a+)+')", "There is no function `matches`"),
        ("fuzzyMatch(name, 'a')", "There is no function `fuzzyMatch`"),
        ("flatMap(amounts, [#, #])", "makes lists grow"),
        ("name + name", "`+` takes a number"),
        ("bool(name)", "takes any text for false"),
        ("string(income)", "two texts of 1 and 1.0"),
        ("[[1], [1]]", "A list is one of numbers"),
        ("map(applicants, #)", "makes numbers or truths"),
        ("map(words, #)", "makes numbers or truths"),
        ("some(amounts, some(amounts, # > 1))", "stands within another"),
        ("some(amounts, # in amounts)", "may not look at `amounts`"),
        ("some(words, contains(words, #))", "may not look at `words`"),
    ],
)
def test_a_rule_gives_the_same_for_the_same_and_in_time(expression: str, sentence: str) -> None:
    must_refuse(expression, sentence)


def test_an_expression_has_a_bound() -> None:
    longest = "1".rjust(limits.POLICY_EXPRESSION_CHARACTERS_MAX)
    assert kind_of(longest) == NUMBER
    must_refuse(longest + " ", "2,000 characters; this has 2,001")


def test_brackets_that_would_end_the_process_are_refused_before_the_engine_sees_them() -> None:
    must_refuse("[" * 900 + "]" * 900, "nest 20 deep")
    must_refuse("(" * 21 + "income" + ")" * 21, "nest 20 deep")
    assert kind_of("(" * 20 + "income" + ")" * 20) == NUMBER


def test_brackets_around_an_interval_are_tried_in_both_ways_and_nest_less() -> None:
    must_refuse("(" * 5 + "income in [1..2]" + ")" * 5, "nest 5 deep")
    assert kind_of("(" * 4 + "income in [1..2]" + ")" * 4) == TRUTH


# --- Kinds --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "sentence"),
    [
        ("name == 5", "a text and a number, which never are the same"),
        ("income == '5'", "a number and a text"),
        ("fraud == 1", "a truth and a number"),
        ("name > 'a'", "`>` takes a number, and is given a text"),
        ("name > 5", "`>` takes a number, and is given a text"),
        ("amounts == [1]", "compares numbers, texts and truths"),
        ("applicant == applicant", "compares numbers, texts and truths"),
        ("name in [1, 2]", "a text and a number"),
        ("income in words", "a number and a text"),
        ("name in [1..5]", "`in` takes a number"),
        ("name in applicant", "a list or an interval"),
        ("1 in 5", "a list or an interval"),
        ("[1, 'a']", "A list is given a number and a text"),
        ("income in [1..debt]", "numbers, written out"),
        ("[1..5]", "An interval is no value"),
        ("[1..5] in [1..5]", "`in` takes a number, and is given an interval"),
        ("1 == [1..5]", "compares numbers, texts and truths"),
        ("1 < [1..5]", "`<` takes a number"),
        ("income and fraud", "`and` takes a truth"),
        ("not income", "`not` takes a truth"),
        ("-name", "`-` takes a number"),
        ("income ? 1 : 2", "`?` takes a truth"),
        ("fraud ? 1 : 'a'", "`?` is given a number and a text"),
        ("score ?? 'none'", "`??` is given a number and a text"),
        ("some(amounts, # + 1)", "takes a truth"),
        ("some(income, # > 1)", "takes a list, and is given a number"),
        ("some(amounts)", "takes a list, and what is asked"),
        ("sum(words)", "takes a list of numbers, and is given a list of texts"),
        ("sum(amounts, 2)", "takes a list of numbers"),
        ("contains(amounts, 'a')", "takes a text and a text, or"),
        ("contains(income, 'a')", "takes a text and a text, or"),
        ("len(income)", "is given a number"),
        ("round(name)", "takes a number"),
        ("channel == 'wep'", 'never "wep": its schema lets in `branch`, `web`'),
        ("channel in ['web', 'shop']", 'never "shop"'),
    ],
)
def test_what_is_never_the_same_is_not_compared(expression: str, sentence: str) -> None:
    must_refuse(expression, sentence)


# --- Nothing ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "sentence"),
    [
        ("score", "`score` may be missing"),
        ("score > 5", "`(score ?? 0)`"),
        ("-score ?? 0", "`score` may be missing"),
        ("score + (score ?? 0)", "`score` may be missing"),
        ("[score]", "`score` may be missing"),
        ("score == 1 or fraud", "`score` may be missing"),
        ("fraud ? score : 1", "`score` may be missing"),
        ("score ?? null", "`null` is no value"),
        ("null == income", "`null` is no value"),
        ("debt / income > 0.5", "where the divisor is 0"),
        ("debt / 0 == 1", "where the divisor is 0"),
        ("debt / 0.000 == 1", "where the divisor is 0"),
        ("debt / 0.1 == 1", "where the divisor is 0"),
        ("debt % income == 0", "where the divisor is 0"),
        ("debt / (1) == 1", None),
        ("debt / 2 == 1", None),
        ("amounts[0] > 5", "There may be no element of this number"),
        ("applicants[0].income > 5", "There may be no element of this number"),
        ("min(amounts) > 5", "What `min(…)` gives may be nothing"),
        ("avg(amounts) > 5", "What `avg(…)` gives may be nothing"),
        ("number(name) in [1, 2]", "What `number(…)` gives may be nothing"),
        ("fraud and max(amounts) > 1", "What `max(…)` gives may be nothing"),
        ("some(map(amounts, debt / #), # > 1)", "where the divisor is 0"),
        ("contains([debt / income], 1)", "where the divisor is 0"),
        ("fraud ? debt / income : 0", "number"),
        ("(debt / income) + 1 > 2", "where the divisor is 0"),
        ("(fraud ? debt / income : 0) > 1", "where the divisor is 0"),
        ("lower(words[0]) == 'a'", "There may be no element"),
    ],
)
def test_nothing_is_decided_on_what_may_be_nothing(expression: str, sentence: str | None) -> None:
    if sentence in {None, "number"}:
        assert kind_of(expression).name in {"truth", "number"}
    else:
        must_refuse(expression, str(sentence))


@pytest.mark.parametrize("place", [Place.FIELD, Place.RESULT, Place.BRANCH])
@pytest.mark.parametrize("expression", ["debt * income > 1", "sum(amounts) > 1", "debt - 1 > 0"])
def test_where_the_engine_hides_errors_nothing_is_counted_that_may_be_too_large(
    place: Place, expression: str
) -> None:
    must_refuse(expression, "may be too large", place)
    must_refuse("debt / income", "may be nothing", Place.FIELD)
    assert kind_of("income > debt", place) == TRUTH


def test_a_branch_is_true_or_false() -> None:
    must_refuse("income", "A condition is true or false", Place.BRANCH)


# --- Cells --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "dollar"),
    [
        ("> 5", NUMBER),
        ("5", NUMBER),
        ("-5", NUMBER),
        ("== 5", NUMBER),
        ("> 5 and <= 10", NUMBER),
        ("1, 2, > 5", NUMBER),
        ("[1..5]", NUMBER),
        ("not in (1..5]", NUMBER),
        ("[1, 2]", NUMBER),
        ("$ > 5", NUMBER),
        ('"a"', TEXT),
        ('"a", "b"', TEXT),
        ('not in ["a"]', TEXT),
        ('startsWith($, "a")', TEXT),
        ('not contains($, "a")', TEXT),
        ("len($) > 3", TEXT),
        ("true", TRUTH),
        ("some($, # > 5 and # < 7)", list_of(NUMBER)),
        ("len($) > 3", list_of(NUMBER)),
        ('$.name == "x"', APPLICANT),
        ('"web"', CHANNEL),
    ],
)
def test_a_condition_compares_its_column_with_what_is_written_out(cell: str, dollar: Kind) -> None:
    assert kind_of(cell, Place.CELL, dollar) == TRUTH


@pytest.mark.parametrize(
    ("cell", "dollar", "sentence"),
    [
        ("> 5", TEXT, "`>` takes a number, and is given a text"),
        ("5", TEXT, "a text and a number"),
        ('"5"', NUMBER, "a number and a text"),
        ("true", NUMBER, "a number and a truth"),
        ('1, "a"', NUMBER, "a number and a text"),
        ("[1..5]", TEXT, "`in` takes a number"),
        ('["a"]', NUMBER, "a number and a text"),
        ("1", list_of(NUMBER), "compares numbers, texts and truths"),
        ('contains($, "a")', NUMBER, "takes a text and a text"),
        ('"wep"', CHANNEL, 'never "wep"'),
        ('"web", "shop"', CHANNEL, 'never "shop"'),
        ("> income", NUMBER, "make a column of `income`"),
        ("age", NUMBER, "`age` may not be read"),
        ("null", NUMBER, "`null` is no value"),
        ("1 < 2", NUMBER, "compares its column, once"),
        ("$ == $", NUMBER, "compares its column, once"),
        ("> $", NUMBER, "compares its column, once"),
        ("$", NUMBER, "compares its column, once"),
        ("true or 1 == 1", TRUTH, "compares its column, once"),
        ("len('abc')", NUMBER, "compares its column, once"),
        ("2 + 3", NUMBER, "may be too large"),
        ("$ / 2 > 1", NUMBER, "may be too large"),
        ("max($) > 1", list_of(NUMBER), "may be nothing"),
        ("not 5", NUMBER, "`not` takes a truth"),
        ("(> 5)", NUMBER, "cannot read"),
        ("> 5 <", NUMBER, "cannot read"),
        ("$ > 5 ? true : false", NUMBER, "compares its column, once"),
        ("-", NUMBER, "cannot read"),
    ],
)
def test_a_condition_that_is_no_comparison_of_its_column_is_refused(
    cell: str, dollar: Kind, sentence: str
) -> None:
    must_refuse(cell, sentence, Place.CELL, dollar)


# --- Constants ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ('"approve"', "approve"),
        ("['D01', \"D02\"]", ["D01", "D02"]),
        ("[]", []),
        ("approve", None),
        ("'a' + 'b'", None),
        ("['a' 'b']", None),
        ("['a', b]", None),
    ],
)
def test_a_constant_is_a_text_or_a_list_of_texts(expression: str, value: Any) -> None:
    assert constant(expression) == value


# --- Both parsers -------------------------------------------------------------------

_ATOMS = st.sampled_from(
    [
        *(name for name in NAMES if name != "score"),
        *("(score ?? 1)", "1", "0.5", "1e3", "'a'", "true", "[1, 2]", "['a']", "#", "$", "null"),
        *("applicant.income", "applicants[0].name", "amounts[0]", "[1..5]", "(0..1]"),
    ]
)
_SIGNS = st.sampled_from(
    [*("+", "-", "*", "/", "%", "^", "<", ">", "<=", ">=", "==", "!="), *("and", "or", "in", "??")]
)


def _grown(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    calls = st.sampled_from(["len", "sum", "max", "abs", "lower", "number", "avg", "not ", "-", ""])
    closures = st.sampled_from(["some", "all", "count", "filter", "map"])
    return st.one_of(
        st.builds("{} {} {}".format, parts, _SIGNS, parts),
        st.builds("{}({})".format, calls, parts),
        st.builds("{} ? {} : {}".format, parts, parts, parts),
        st.builds("{}({}, {})".format, closures, parts, parts),
        st.builds("{}({}, # {} {})".format, closures, parts, _SIGNS, parts),
    )


EXPRESSIONS = st.recursive(_ATOMS, _grown, max_leaves=6)
_BY_TYPE: Final = {bool: "truth", float: "number", int: "number", str: "text", list: "list"}


@settings(max_examples=600)
@given(EXPRESSIONS, st.fixed_dictionaries({n: st.sampled_from(v) for n, v in VALUES.items()}))
def test_what_is_accepted_is_of_the_kind_that_was_told(
    expression: str, inputs: dict[str, Any]
) -> None:
    """In a branch, where the engine hides errors and takes nothing for false, there is neither."""
    try:
        kind = kind_of(expression, Place.RESULT)
    except ExpressionRefused:
        return
    value = zen.evaluate_expression(expression, json.dumps(inputs))
    assert _BY_TYPE.get(type(value), "object") == kind.name


@settings(max_examples=300)
@given(EXPRESSIONS)
def test_the_pieces_of_an_expression_are_what_the_engine_reads(expression: str) -> None:
    """Written anew from its pieces, it is the same to the engine: nothing stood between them."""
    try:
        pieces = tokens(expression)
    except ExpressionRefused:
        return
    anew = " ".join(piece.text for piece in pieces)
    assert parses(anew) == parses(expression)


def parses(expression: str) -> bool:
    try:
        zen.compile_expression(expression)
    except RuntimeError:
        return False
    return True
