"""The text of a key: its form, what of it is kept, and that nothing shows it."""

import hashlib
import math
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from counterfoil.server.access import key_text
from counterfoil.server.access.key_text import Mode, new_key, parse_key
from tests.support.examples import examples

SCANNED = re.compile(r"cf_(live|test)_[a-z2-7]{16}_[a-z2-7]{52}")


@pytest.mark.parametrize("mode", ["live", "test"])
def test_a_new_key_is_read_as_what_it_is(mode: Mode) -> None:
    made = new_key(mode)
    presented = parse_key(made.text.encode())
    assert presented is not None
    assert (presented.mode, presented.key_id, presented.digest) == (mode, made.key_id, made.digest)
    assert presented.opens(mode, made.digest)


def test_the_form_is_the_one_that_scanners_are_told() -> None:
    made = new_key("live")
    assert SCANNED.fullmatch(made.text)
    assert SCANNED.pattern in (key_text.__doc__ or "")
    (example_of_it,) = re.findall(r"cf_live_\w+", key_text.__doc__ or "")
    assert SCANNED.fullmatch(example_of_it)
    secret = made.text.rsplit("_", 1)[1]
    assert hashlib.sha256(secret.encode()).digest() == made.digest
    assert made.text == f"cf_live_{made.key_id}_{secret}"


def test_a_secret_has_256_random_bits() -> None:
    """All of the source's bytes are in the text, and no two keys share an id or a secret."""
    assert key_text._SECRET_BYTES * 8 == 256
    assert math.ceil(256 / math.log2(32)) == 52
    made = [new_key("live") for _ in range(200)]
    assert len({key.key_id for key in made}) == len({key.digest for key in made}) == len(made)
    # Of the last character four bits are padding.
    for place in range(51):
        assert len({key.text[-52 + place] for key in made}) > 16


def test_only_the_key_itself_opens() -> None:
    made, other = new_key("live"), new_key("live")
    presented = parse_key(made.text.encode())
    assert presented is not None
    assert not presented.opens("live", other.digest)
    assert not presented.opens("test", made.digest)
    assert not presented.opens(None, None)
    assert not presented.opens("live", None)
    assert not presented.opens("live", b"")


def _altered(text: str) -> list[str]:
    return [
        "",
        text[:-1],
        text + "a",
        text + "\n",
        " " + text,
        text.upper(),
        text.replace("cf_", "CF_"),
        text.replace("live", "prod"),
        text.replace("_", "-"),
        text[:20] + "1" + text[21:],
        text[:-1] + "=",
        text[:-1] + "é",
        text[:24] + text[25:] + "a",
        f"Bearer {text}",
        text + text,
    ]


@pytest.mark.parametrize("altered", _altered("cf_live_" + "a" * 16 + "_" + "b" * 52))
def test_what_has_not_exactly_the_form_is_no_key(altered: str) -> None:
    assert parse_key(altered.encode()) is None


def _of(alphabet: str, length: int) -> st.SearchStrategy[str]:
    return st.text(alphabet, min_size=length, max_size=length)


nearly = st.builds(
    "{}_{}_{}_{}".format,
    st.sampled_from(["cf", "CF"]),
    st.sampled_from(["live", "test", "prod"]),
    _of("abyz27", 16) | _of("ab18", 16),
    _of("abyz27", 52) | _of("abyz2_", 52) | _of("a", 51) | _of("a", 53),
)


@examples(500)
@given(presented=st.binary(max_size=90) | nearly.map(str.encode))
@example(presented=b"cf_live_" + b"a" * 16 + b"_" + b"b" * 52)
def test_whatever_is_presented_is_read_or_refused(presented: bytes) -> None:
    found = parse_key(presented)
    matches = SCANNED.fullmatch(presented.decode("latin-1")) is not None
    assert (found is not None) == matches
    if found is not None:
        assert presented.startswith(f"cf_{found.mode}_{found.key_id}_".encode())


def test_nothing_shows_a_secret() -> None:
    made = new_key("live")
    presented = parse_key(made.text.encode())
    secret = made.text.rsplit("_", 1)[1]
    for shown in (repr(made), str(made), repr(presented), f"{presented}"):
        assert secret not in shown
        assert made.text not in shown
        assert made.digest.hex() not in shown
        assert repr(made.digest) not in shown
        assert made.key_id in shown
