"""Whose call it is, where that is known without asking the database.

There is none here: who asked it all the same would be told that it cannot be reached. What is asked
of it, and when, is looked at in ``tests/db/test_keyring.py``.
"""

from collections.abc import Callable

import pytest
from pydantic import SecretStr

from counterfoil.server.access.keyring import ANONYMOUS, BOOTSTRAP, Admission, Keyring
from counterfoil.server.access.operations import Access
from counterfoil.server.core.errors import Unauthenticated
from counterfoil.server.core.settings import Settings
from counterfoil.server.log.operations import Log

pytestmark = pytest.mark.promise("P7")


def ring(*, api_key: str | None = None, is_open: bool = False) -> Keyring:
    nowhere = Log(Settings(database_url=SecretStr("postgresql://nowhere")))
    return Access(nowhere, api_key=api_key, is_open=is_open).keyring


def refusal_of(call: Callable[[], Admission | None]) -> str:
    with pytest.raises(Unauthenticated) as refused:
        call()
    return str(refused.value)


def test_the_bootstrap_key_opens_everything_and_asks_nobody() -> None:
    keyring = ring(api_key="right")
    assert not keyring.is_open
    assert keyring.admitted([b"right"]) is BOOTSTRAP
    assert keyring.admitted([b"right", b"right"]) is BOOTSTRAP


@pytest.mark.parametrize(
    "presented",
    [[], [b""], [b"wrong"], [b"right "], [b"righ"], [b"right", b"wrong"], [b"wrong", b"right"]],
)
def test_anything_but_the_bootstrap_key_is_refused_alike(presented: list[bytes]) -> None:
    keyring = ring(api_key="right")
    missing = refusal_of(lambda: keyring.admitted([]))
    assert refusal_of(lambda: keyring.admitted(presented)) == missing


def test_without_any_key_only_an_open_service_lets_in() -> None:
    assert ring(is_open=True).admitted([]) is ANONYMOUS
    assert ring(is_open=True).admitted([b"anything"]) is ANONYMOUS
    refusal_of(lambda: ring().admitted([]))
    refusal_of(lambda: ring().admitted([b"anything"]))
    # What is meant for a key of ours must be one, open or not.
    refusal_of(lambda: ring(is_open=True).admitted([b"cf_live_short"]))
    # A key of the environment closes it.
    assert not ring(api_key="x", is_open=True).is_open


def test_the_keyring_holds_no_readable_secret() -> None:
    assert "right" not in repr(vars(ring(api_key="right")))
