"""Rates: a bucket beside a plain model in exact fractions, and what callers are told."""

import math
from dataclasses import dataclass
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from counterfoil.server.access.rates import Bucket, Buckets, Rate, Verdict
from counterfoil.server.core import limits
from counterfoil.server.core.errors import InvariantBroken
from tests.support.examples import examples

SECOND = 1_000_000_000

# --- A bucket ---------------------------------------------------------------------

rates = st.builds(
    Rate,
    st.integers(1, 5) | st.integers(1, limits.RATE_PER_SECOND_MAX),
    st.integers(1, 5) | st.integers(1, limits.RATE_BURST_MAX),
)
pauses = st.lists(
    st.sampled_from([0, 1]) | st.integers(0, SECOND) | st.integers(-SECOND, 100 * SECOND),
    max_size=40,
)


@dataclass
class Model:
    """A bucket as the definition has it: real numbers, and no cleverness."""

    rate: Rate
    tokens: Fraction
    latest: int

    def take(self, now_ns: int) -> tuple[bool, int]:
        passed = Fraction(max(now_ns - self.latest, 0), SECOND)
        self.latest = max(self.latest, now_ns)
        self.tokens = min(Fraction(self.rate.burst), self.tokens + passed * self.rate.per_second)
        allowed = self.tokens >= 1
        if allowed:
            self.tokens -= 1
        return allowed, math.floor(self.tokens)


@pytest.mark.promise("P13")
@examples(500)
@given(rate=rates, start=st.integers(0, 2**62), pauses=pauses)
@example(rate=Rate(3, 1), start=0, pauses=[0, 333_333_333, 1, 333_333_333, 1])
def test_a_bucket_grants_what_the_definition_does(
    rate: Rate, start: int, pauses: list[int]
) -> None:
    bucket, model, now = Bucket(rate, start), Model(rate, Fraction(rate.burst), start), start
    for pause in pauses:
        now += pause
        verdict = bucket.take(now)
        assert (verdict.allowed, verdict.remaining) == model.take(now)
        assert (verdict.wait_seconds == 0) == verdict.allowed
        assert bucket.is_full(now) == (model.tokens == rate.burst)


@examples(300)
@given(rate=rates, pauses=pauses)
def test_whoever_waits_as_long_as_told_is_let_in(rate: Rate, pauses: list[int]) -> None:
    bucket, now = Bucket(rate, 0), 0
    for pause in pauses:
        now += max(pause, 0)
        verdict = bucket.take(now)
        if not verdict.allowed:
            now += verdict.wait_seconds * SECOND
            assert bucket.take(now).allowed


@examples(200)
@given(rate=st.builds(Rate, st.integers(1, 50), st.integers(1, 20)), seconds=st.integers(0, 5))
def test_no_more_is_granted_in_any_time_than_the_rate_says(rate: Rate, seconds: int) -> None:
    """Asked on and on for some seconds, in steps that divide nothing evenly."""
    bucket = Bucket(rate, 0)
    end = seconds * SECOND
    asked_at = [*range(0, end, 7_777_777), end]
    granted = sum(bucket.take(now).allowed for now in asked_at)
    granted += sum(bucket.take(end).allowed for _ in range(rate.burst))
    assert granted <= rate.burst + seconds * rate.per_second


def test_a_refused_request_takes_nothing() -> None:
    bucket = Bucket(Rate(1, 1), 0)
    assert bucket.take(0) == Verdict(allowed=True, remaining=0, wait_seconds=0)
    for now in range(0, SECOND, SECOND // 100):
        assert bucket.take(now) == Verdict(allowed=False, remaining=0, wait_seconds=1)
    assert bucket.take(SECOND).allowed


@pytest.mark.parametrize(
    ("per_second", "burst"),
    [
        (0, 1),
        (1, 0),
        (-1, 1),
        (limits.RATE_PER_SECOND_MAX + 1, 1),
        (1, limits.RATE_BURST_MAX + 1),
    ],
)
def test_a_rate_outside_its_limits_is_a_fault_of_ours(per_second: int, burst: int) -> None:
    """Input is judged before; a bucket that never fills would refuse for ever."""
    with pytest.raises(InvariantBroken):
        Rate(per_second, burst)


# --- What callers are told --------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "policy"),
    [
        (Rate(5, 20), b'"key";q=20;w=4'),
        (Rate(5, 21), b'"key";q=21;w=5'),
        (Rate(1000, 1), b'"key";q=1;w=1'),
        (Rate(1, limits.RATE_BURST_MAX), b'"key";q=1000000;w=1000000'),
    ],
)
def test_the_policy_says_the_burst_and_the_time_that_it_takes(rate: Rate, policy: bytes) -> None:
    assert rate.policy == policy


@pytest.mark.parametrize(
    ("remaining", "value"),
    [(20, b'"key";r=20;t=4'), (6, b'"key";r=6;t=2'), (5, b'"key";r=5;t=1'), (0, b'"key";r=0;t=1')],
)
def test_what_is_left_comes_with_the_time_for_it(remaining: int, value: bytes) -> None:
    assert Rate(5, 20).left(remaining) == value


@examples(200)
@given(rate=rates, first=st.integers(0, 50))
def test_whoever_spreads_what_is_left_over_its_time_is_never_refused(
    rate: Rate, first: int
) -> None:
    bucket, now = Bucket(rate, 0), 0
    verdict = bucket.take(now)
    for _ in range(first):
        verdict = bucket.take(now)
    for _ in range(50):
        left, time = map(int, rate.left(verdict.remaining).decode().split("=", 1)[1].split(";t="))
        if left == 0:
            now += time * SECOND
        else:
            now += -(-time * SECOND // left)
        verdict = bucket.take(now)
        assert verdict.allowed


# --- Many buckets -----------------------------------------------------------------


def test_each_key_has_a_bucket_of_its_own() -> None:
    buckets, rate = Buckets(), Rate(1, 2)
    assert [buckets.take("a", rate, 0).allowed for _ in range(3)] == [True, True, False]
    assert buckets.take("b", rate, 0) == Verdict(allowed=True, remaining=1, wait_seconds=0)
    assert not buckets.take("a", rate, SECOND - 1).allowed
    assert buckets.take("a", rate, SECOND).allowed


def test_another_rate_begins_anew() -> None:
    buckets = Buckets()
    assert buckets.take("a", Rate(1, 1), 0).allowed
    assert not buckets.take("a", Rate(1, 1), 0).allowed
    assert buckets.take("a", Rate(1, 3), 0).remaining == 2
    assert len(buckets) == 1


def test_full_buckets_are_forgotten_when_others_are_added() -> None:
    buckets, rate = Buckets(), Rate(1, 1)
    for number in range(100):
        buckets.take(f"early {number}", rate, 0)
    assert len(buckets) == 100
    for number in range(100):
        buckets.take(f"late {number}", rate, SECOND)
    assert len(buckets) == 100
    assert not any(buckets.take(f"late {number}", rate, SECOND).allowed for number in range(100))


def test_beyond_the_bound_the_one_that_called_the_longest_ago_goes() -> None:
    buckets, rate = Buckets(buckets_max=3), Rate(1, 1)
    for key_id in ("a", "b", "c"):
        assert buckets.take(key_id, rate, 0).allowed
    assert not buckets.take("a", rate, 1).allowed
    assert buckets.take("d", rate, 2).allowed
    assert len(buckets) == 3
    assert [key_id for key_id in ("a", "c", "d") if buckets.take(key_id, rate, 3).allowed] == []
    assert buckets.take("b", rate, 3).allowed


few_keys = st.sampled_from("abcdef")


@examples(300)
@given(
    calls=st.lists(st.tuples(few_keys, st.integers(0, 2 * SECOND)), max_size=60),
    rate=st.builds(Rate, st.integers(1, 3), st.integers(1, 4)),
)
def test_forgetting_a_full_bucket_makes_no_difference(
    calls: list[tuple[str, int]], rate: Rate
) -> None:
    """Six keys and room for six: only full ones are ever forgotten."""
    buckets = Buckets(buckets_max=6)
    kept = {key_id: Bucket(rate, 0) for key_id in "abcdef"}
    now = 0
    for key_id, pause in calls:
        now += pause
        assert buckets.take(key_id, rate, now) == kept[key_id].take(now)
        assert len(buckets) <= 6
