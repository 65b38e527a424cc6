"""How fast a key may call: a bucket of tokens for each.

A bucket holds ``burst`` tokens at most, and gains ``per_second`` each second. A request takes
one, or is refused where there is none; a refused one takes nothing. So over any time t a key
has at most ``burst + t * per_second`` requests.

Each worker process counts for itself, so that nobody waits for another process or a database
on the way to a refusal; n workers grant n times as much (docs/decisions/0016).

All of it is whole numbers. A token is cut into a thousand million *parts*, so that each
nanosecond gains ``per_second`` parts exactly: nothing is rounded, however often and however
closely a key calls. Time is given by the caller, in nanoseconds of a clock that does not run
backwards (``time.monotonic_ns``); should it seem to, nothing is gained and nothing lost.

What callers are told follows draft-ietf-httpapi-ratelimit-headers, of revision 08 to 11::

    RateLimit-Policy: "key";q=20;w=4     20 at once, and no more than 20 in 4 seconds on and on
    RateLimit: "key";r=5;t=1             5 are left, for the next second

``t`` is the time in which that many are gained: whoever spreads ``r`` requests over ``t``
seconds, and then looks again, is never refused. It is never longer than ``Retry-After``.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from counterfoil.server.core import limits
from counterfoil.server.core.errors import invariant

_PARTS: Final = 1_000_000_000
"""Parts of a token: as many as a second has nanoseconds."""

_FORGOTTEN_AT_ONCE: Final = 2
"""Full buckets that are looked for when one is added: more than are added, so that they do
not pile up, and few, so that nobody waits for it."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast one key may call.

    Attributes:
        per_second: requests per second, on and on.
        burst: requests at once after a pause.
        policy: the value of ``RateLimit-Policy``.
    """

    per_second: int
    burst: int
    policy: bytes = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        invariant(
            1 <= self.per_second <= limits.RATE_PER_SECOND_MAX
            and 1 <= self.burst <= limits.RATE_BURST_MAX,
            "a rate lies outside its limits",
        )
        policy = b'"key";q=%d;w=%d' % (self.burst, self._seconds_of(self.burst))
        object.__setattr__(self, "policy", policy)

    def left(self, remaining: int) -> bytes:
        """The value of ``RateLimit`` when ``remaining`` requests are left."""
        return b'"key";r=%d;t=%d' % (remaining, self._seconds_of(remaining))

    def _seconds_of(self, requests: int) -> int:
        """In how many whole seconds, at least one, so many requests are gained."""
        return -(-requests // self.per_second) or 1


class Verdict(NamedTuple):
    """Whether a request may go on.

    Attributes:
        allowed: if not, it is refused, and took nothing.
        remaining: how many more would be allowed now.
        wait_seconds: after so many whole seconds one is allowed; 0 if this one was.
    """

    allowed: bool
    remaining: int
    wait_seconds: int


_REFUSED: Final = Verdict(allowed=False, remaining=0, wait_seconds=1)
"""The slowest rate gains a token in a second, and HTTP counts in whole ones."""


class Bucket:
    """The tokens of one key. Full when it is new."""

    __slots__ = ("_capacity", "_per_ns", "_since_ns", "_stock", "rate")

    def __init__(self, rate: Rate, now_ns: int) -> None:
        self.rate = rate
        self._per_ns = rate.per_second
        self._capacity = rate.burst * _PARTS
        self._stock = self._capacity
        self._since_ns = now_ns

    def take(self, now_ns: int) -> Verdict:
        """Take a token for one request, if there is one."""
        stock = self._gain(now_ns)
        if stock >= _PARTS:
            self._stock = stock = stock - _PARTS
            return Verdict(True, stock // _PARTS, 0)
        return _REFUSED

    def is_full(self, now_ns: int) -> bool:
        """Whether it is as good as new."""
        return self._gain(now_ns) == self._capacity

    def _gain(self, now_ns: int) -> int:
        """Add what was gained since, and return the stock."""
        elapsed_ns = now_ns - self._since_ns
        if elapsed_ns > 0:
            self._since_ns = now_ns
            stock = self._stock + elapsed_ns * self._per_ns
            self._stock = min(self._capacity, stock)
        return self._stock


class Buckets:
    """The buckets of all keys that called lately, ``buckets_max`` at most.

    A bucket that is full again is as good as none, and is forgotten when others are added.
    Where there are too many that are not, the one that was used the longest ago goes: its key
    is granted its burst anew. Only keys that opened the service have one, so that their number
    is in the hands of those who make keys.
    """

    def __init__(self, buckets_max: int = limits.RATE_BUCKETS_MAX) -> None:
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()
        self._buckets_max = buckets_max

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key_id: str, rate: Rate, now_ns: int) -> Verdict:
        """Take a token for one request of this key, if there is one."""
        bucket = self._buckets.get(key_id)
        if bucket is not None and (bucket.rate is rate or bucket.rate == rate):
            self._buckets.move_to_end(key_id)
        else:
            bucket = self._added(key_id, rate, now_ns)
        return bucket.take(now_ns)

    def _added(self, key_id: str, rate: Rate, now_ns: int) -> Bucket:
        buckets = self._buckets
        buckets.pop(key_id, None)
        for _ in range(_FORGOTTEN_AT_ONCE):
            if not buckets or not next(iter(buckets.values())).is_full(now_ns):
                break
            buckets.popitem(last=False)
        if len(buckets) >= self._buckets_max:
            buckets.popitem(last=False)
        bucket = buckets[key_id] = Bucket(rate, now_ns)
        return bucket
