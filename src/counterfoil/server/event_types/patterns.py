r"""Patterns of schemas: which may be, and what they take.

They run in the linear-time engine of jsonschema-rs, which is Rust's: no look-around and no
back-references. What compiles is bounded in size; but what takes long to *compile* has to be
refused before it is tried, since the compiler cannot be stopped: classes such as ``\S`` take time
with the square of their number, and a flag that ignores case multiplies it.

What means one thing to JSON Schema's regular expressions (ECMA-262) and another to this engine is
refused as well: flags within a pattern, and in a class ``[``, ``&&``, ``--`` and ``~~``.
"""

import re
from functools import lru_cache
from typing import Final

import jsonschema_rs

from counterfoil.server.core import limits

LENGTHS_BY_KEYWORD: Final = "Ask for a length by `minLength` and `maxLength`."
"""The way out for who has patterns that are too large: repetitions make them so."""

OPTIONS: Final = jsonschema_rs.RegexOptions(
    size_limit=limits.SCHEMA_PATTERN_BYTES_MAX,
    dfa_size_limit=limits.SCHEMA_PATTERN_STATES_BYTES_MAX,
)

_SIZES: Final = tuple(2**n for n in range(10, limits.SCHEMA_PATTERN_BYTES_MAX.bit_length()))
_CLASSES: Final = re.compile(r"\\[sSwWdDpP]")
_ESCAPED: Final = re.compile(r"\\.", re.DOTALL)
_FLAGS: Final = re.compile(r"\(\?[a-zA-Z-]+[:)]")
_CLASS: Final = re.compile(r"\[\^?\]?([^\]]*)")
_OF_THIS_ENGINE: Final = re.compile(r"\[|&&|--|~~")


def fault_of_pattern(pattern: object) -> str | None:
    """Why a pattern may not be; None: it may."""
    fault: str | None = None
    if not isinstance(pattern, str):
        fault = "A pattern is a text."
    elif len(pattern) > limits.SCHEMA_PATTERN_CHARACTERS_MAX:
        fault = (
            f"A pattern may have {limits.SCHEMA_PATTERN_CHARACTERS_MAX:,} characters; this one has "
            f"{len(pattern):,}. Ask for one of many texts by `enum`."
        )
    elif classes_in(pattern) > limits.SCHEMA_PATTERN_CLASSES_MAX:
        fault = (
            r"A pattern may have "
            f"{limits.SCHEMA_PATTERN_CLASSES_MAX} classes such as `\\s`, `\\d` or `\\p{{L}}`. Repeat "
            "one with `{n}`."
        )
    else:
        bare = _ESCAPED.sub("", pattern)
        if _FLAGS.search(bare):
            fault = "A pattern has no flags within it. Write `[Aa]` for a letter in either case."
        elif any(_OF_THIS_ENGINE.search(inside) for inside in _CLASS.findall(bare)):
            fault = r"In a class, write `\[`, `\&`, `\-` and `\~` for these characters."
        elif _bytes(pattern) is None:
            fault = (
                "This is no pattern that runs in linear time (look-around and back-references do "
                f"not), or it takes more than {limits.SCHEMA_PATTERN_BYTES_MAX // 1024} KiB "
                f"compiled. {LENGTHS_BY_KEYWORD}"
            )
    return fault


def classes_in(pattern: str) -> int:
    """How many classes a pattern names."""
    return len(_CLASSES.findall(pattern.replace(r"\\", "")))


def steps_to_compile(pattern: str) -> int:
    """About how long a pattern that may be takes to compile, in steps of ``cost.py``."""
    return 20_000 + 110 * classes_in(pattern) ** 2


def pattern_bytes(pattern: str) -> int:
    """What a pattern that may be takes compiled, rounded up to a power of two."""
    return _bytes(pattern) or limits.SCHEMA_PATTERN_BYTES_MAX


@lru_cache(maxsize=1_000)
def _bytes(pattern: str) -> int | None:
    """The smallest bound that it compiles under; None: it does under none."""
    if not _compiles(pattern, _SIZES[-1]):
        return None
    too_small, enough = -1, len(_SIZES) - 1
    while enough - too_small > 1:
        middle = (too_small + enough) // 2
        if _compiles(pattern, _SIZES[middle]):
            enough = middle
        else:
            too_small = middle
    size: int = _SIZES[enough]
    return size


def _compiles(pattern: str, size_bytes: int) -> bool:
    options = jsonschema_rs.RegexOptions(size_limit=size_bytes, dfa_size_limit=size_bytes)
    try:
        jsonschema_rs.Draft202012Validator({"pattern": pattern}, pattern_options=options)
    except ValueError:
        return False
    return True
