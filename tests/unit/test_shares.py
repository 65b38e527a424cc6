"""What one tenant may hold of what a process has for all: the rule of ``core/shares.py``.

The numbers are those of a whole of 160: much is 120 of them, little is 10.
"""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterfoil.server.core import limits
from counterfoil.server.core.errors import Busy, InvariantBroken
from counterfoil.server.core.shares import Shares

pytestmark = pytest.mark.promise("P7", "P13")

WHOLE: Final = 160
MUCH: Final = WHOLE * limits.MUCH_HELD_SIXTEENTHS_MAX // 16
LITTLE: Final = WHOLE * limits.LITTLE_HELD_SIXTEENTHS_MAX // 16
NOISY, NEIGHBOUR, OTHERS = 1, 2, range(3, 9)


def shares(whole: int = WHOLE) -> Shares:
    return Shares(whole, own_taken="your own", all_taken="all")


def test_one_tenant_alone_may_hold_the_first_part_and_is_told_that_it_does() -> None:
    some = shares()
    for _ in range(MUCH):
        some.take(NOISY, 1)
    with pytest.raises(Busy, match="your own"):
        some.take(NOISY, 1)


def test_a_neighbour_is_let_in_behind_it_as_far_as_it_holds_little() -> None:
    some = shares()
    some.take(NOISY, MUCH)
    some.take(NEIGHBOUR, LITTLE)
    with pytest.raises(Busy, match="all"):
        some.take(NEIGHBOUR, 1)


def test_nobody_is_let_in_beyond_the_whole() -> None:
    some = shares()
    some.take(NOISY, MUCH)
    for tenant_id in range(10, 10 + (WHOLE - MUCH) // LITTLE):
        some.take(tenant_id, LITTLE)
    with pytest.raises(Busy, match="all"):
        some.take(NEIGHBOUR, 1)


def test_a_refusal_says_the_same_whether_others_hold_much_or_all() -> None:
    """Whose the rest is, and whether there is any, is nothing for a tenant to know."""
    crowded, full = shares(), shares()
    refusals = []
    for some, held_by_others in (
        (crowded, [MUCH - LITTLE]),
        (full, [MUCH - LITTLE, *[LITTLE] * 4]),
    ):
        some.take(NEIGHBOUR, LITTLE)
        for tenant_id, amount in enumerate(held_by_others, 10):
            some.take(tenant_id, amount)
        with pytest.raises(Busy) as refused:
            some.take(NEIGHBOUR, 1)
        refusals.append(str(refused.value))
    assert refusals == ["all", "all"]


def test_who_was_refused_holds_what_it_held() -> None:
    some = shares()
    some.take(NOISY, MUCH)
    with pytest.raises(Busy):
        some.take(NOISY, 1)
    some.give_back(NOISY, MUCH)
    some.take(NEIGHBOUR, MUCH)


def test_who_holds_much_may_ask_for_nothing_at_any_time() -> None:
    """The end of a body that is here already comes as an empty piece."""
    some = shares()
    some.take(NOISY, MUCH)
    some.take(NEIGHBOUR, LITTLE)
    some.take(NOISY, 0)


def test_nobody_gives_back_what_it_does_not_hold() -> None:
    some = shares()
    some.take(NOISY, 5)
    with pytest.raises(InvariantBroken):
        some.give_back(NEIGHBOUR, 1)
    with pytest.raises(InvariantBroken):
        some.give_back(NOISY, 6)


def test_nothing_is_kept_of_who_holds_nothing() -> None:
    some = shares()
    for tenant_id in range(1_000):
        some.take(tenant_id, 1)
        some.give_back(tenant_id, 1)
    assert some._held_by == {}


STEPS: Final = st.lists(
    st.tuples(
        st.sampled_from([NOISY, *OTHERS]),
        st.booleans(),
        st.sampled_from([1, 2, LITTLE - 1, LITTLE, LITTLE + 1, MUCH // 2, MUCH]),
    ),
    max_size=40,
)
"""What tenants do, one after the other: take (or give back) so much."""


@given(STEPS, st.integers(1, LITTLE))
def test_whatever_the_others_do_one_that_holds_little_is_let_in(
    steps: list[tuple[int, bool, int]], asked: int
) -> None:
    """As long as all that hold little together hold no more than the part kept for them."""
    some = shares()
    held = dict.fromkeys((NOISY, *OTHERS), 0)
    for tenant_id, takes, amount in steps:
        if takes:
            try:
                some.take(tenant_id, amount)
            except Busy:
                continue
            held[tenant_id] += amount
        else:
            given_back = min(amount, held[tenant_id])
            some.give_back(tenant_id, given_back)
            held[tenant_id] -= given_back
        assert sum(held.values()) <= WHOLE
        assert sum(amount for amount in held.values() if amount > LITTLE) <= MUCH
    held_by_small = sum(amount for amount in held.values() if amount <= LITTLE)
    if held_by_small + asked <= WHOLE - MUCH:
        some.take(NEIGHBOUR, asked)
