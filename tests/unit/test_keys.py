"""The one key, without HTTP around it."""

import pytest

from counterfoil.server.access.keys import ANONYMOUS, KEY_HOLDER, KeyGate
from counterfoil.server.core.errors import Unauthenticated


def test_without_a_key_everybody_is_let_in() -> None:
    gate = KeyGate(None)

    assert gate.is_open
    assert gate.admit([]) == ANONYMOUS
    assert gate.admit([b"anything"]) == ANONYMOUS


def test_the_key_lets_in() -> None:
    gate = KeyGate("right")

    assert not gate.is_open
    assert gate.admit([b"right"]) == KEY_HOLDER
    assert gate.admit([b"right", b"right"]) == KEY_HOLDER


@pytest.mark.parametrize(
    "presented",
    [[], [b""], [b"wrong"], [b"right "], [b"righ"], [b"right", b"wrong"], [b"wrong", b"right"]],
)
def test_anything_else_is_refused_alike(presented: list[bytes]) -> None:
    with pytest.raises(Unauthenticated) as caught:
        KeyGate("right").admit(presented)

    with pytest.raises(Unauthenticated) as missing:
        KeyGate("right").admit([])
    assert str(caught.value) == str(missing.value)


def test_the_gate_does_not_hold_the_key() -> None:
    assert "right" not in repr(vars(KeyGate("right")))
