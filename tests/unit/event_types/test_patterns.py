"""Which patterns may be, and what they take."""

import jsonschema_rs
import pytest

from counterfoil.server.core import limits
from counterfoil.server.event_types.patterns import (
    classes_in,
    fault_of_pattern,
    pattern_bytes,
    steps_to_compile,
)


@pytest.mark.parametrize(
    "pattern",
    [
        "^[A-Z]{2}[0-9]{6}$",
        r"^\w+@\w+\.\w{2,}$",
        "^.{1,140}$",
        r"^\p{L}+$",
        r"^[\w\-\[\]&~]+$",
        "^[]a]$",
        "a--b&&c~~",
        "(?:a|b)?(?<name>c)",
        r"\(?i\)",
        "",
    ],
)
def test_ordinary_patterns_may_be(pattern: str) -> None:
    assert fault_of_pattern(pattern) is None


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (5, "text"),
        ("a" * 2_001, "2,000 characters"),
        (r"\s" * 65, "64 classes"),
        ("(?i)a", "flags"),
        ("(?i-s:a)", "flags"),
        ("[[a-z]&&[^b]]", "In a class"),
        ("[a&&b]", "In a class"),
        ("[a-c--b]", "In a class"),
        ("(?=a)", "linear time"),
        (r"(a)\1", "linear time"),
        ("(a{1000}){1000}", "linear time"),
        ("^.{1,1000}$", "minLength"),
        ("(", "linear time"),
    ],
)
def test_what_may_not_be_is_told_why(pattern: object, message: str) -> None:
    fault = fault_of_pattern(pattern)
    assert fault is not None
    assert message in fault


def test_classes_are_counted_and_escaped_backslashes_are_none() -> None:
    assert classes_in(r"\s[\d\\s]\p{L}\\\w") == 4


@pytest.mark.parametrize("pattern", ["^a$", "^.{1,140}$", r"^\p{L}+$", "[ab]*a[ab]{440}c"])
def test_a_pattern_is_found_to_be_as_large_as_it_compiles(pattern: str) -> None:
    size = pattern_bytes(pattern)
    assert compiles(pattern, size)
    assert size == 1024 or not compiles(pattern, size // 2)
    assert size <= limits.SCHEMA_PATTERN_BYTES_MAX


def compiles(pattern: str, size_bytes: int) -> bool:
    options = jsonschema_rs.RegexOptions(size_limit=size_bytes)
    try:
        jsonschema_rs.Draft202012Validator({"pattern": pattern}, pattern_options=options)
    except ValueError:
        return False
    return True


def test_what_takes_long_to_compile_is_known_to() -> None:
    assert steps_to_compile(r"\s" * 64) > 20 * steps_to_compile("a")
