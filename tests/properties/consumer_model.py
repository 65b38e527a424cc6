"""The plain model of a consumer: dictionaries and lists, and the rules in as few words as possible.

It knows nothing of locks, marks, indexes or clocks: a lease ends when it is told that it has.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

Token = tuple[int, int, int]


@dataclass
class ModelDelivery:
    """One event that was put out and is not finished."""

    keys: frozenset[str]
    state: str = "ready"
    attempts: int = 0
    uncounted: int = 0
    over: bool = False
    """Held or delayed, and due by now."""


@dataclass
class ModelConsumer:
    """A consumer, the events that match its query, and what became of each."""

    attempts_max: int
    ordered: bool
    holds: bool
    generation: int
    reached: int = 0
    began_after: int = 0
    """Where this generation began."""
    events: dict[int, frozenset[str]] = field(default_factory=dict)
    deliveries: dict[int, ModelDelivery] = field(default_factory=dict)
    lines: dict[str, list[int]] = field(default_factory=dict)
    letters: dict[int, tuple[int, bool]] = field(default_factory=dict)
    """The attempts of each dead letter, and whether it holds its key up."""
    finished: set[int] = field(default_factory=set)
    """Done or dropped in this generation."""

    def token(self, position: int) -> Token:
        """What a delivery is acknowledged by."""
        return (self.generation, position, self.deliveries[position].attempts)

    def holds_still(self, token: Token) -> bool:
        """Whether this token is worth anything."""
        generation, position, attempt = token
        found = self.deliveries.get(position)
        return (
            generation == self.generation
            and found is not None
            and (found.state, found.over, found.attempts) == ("held", False, attempt)
        )

    # --- Lines ---------------------------------------------------------------------------

    def join(self, position: int, *, attempts: int = 0) -> None:
        """Put one out, behind all that share a key with it."""
        keys = self.events[position] if self.ordered else frozenset[str]()
        waits = any(self.lines.get(key) for key in keys)
        state = "waiting" if waits else "ready"
        self.deliveries[position] = ModelDelivery(keys, state, attempts, attempts)
        for key in keys:
            self.lines.setdefault(key, []).append(position)

    def leave(self, positions: Iterable[int]) -> None:
        """Take some out, and let those go who were behind them."""
        for position in positions:
            for key in self.deliveries.pop(position).keys:
                self.lines[key].remove(position)
        for position, other in self.deliveries.items():
            if other.state == "waiting" and all(
                self.lines[key][0] == position for key in other.keys
            ):
                other.state = "ready"

    # --- Moves ---------------------------------------------------------------------------

    def claim(self, count: int, head: int, *, look_for_due: bool) -> list[int]:
        """Who is handed out."""
        if look_for_due:
            for one in self.deliveries.values():
                if one.over:
                    failed = one.state == "held" and (
                        one.attempts - one.uncounted >= self.attempts_max
                    )
                    one.state, one.over = "exhausted" if failed else "ready", False
        taken = self._take(count)
        if len(taken) < count:
            for position in sorted(self.events):
                if self.reached < position <= head:
                    self.join(position)
            self.reached = max(self.reached, head)
            taken += self._take(count - len(taken))
        return taken

    def _take(self, count: int) -> list[int]:
        ready = sorted(n for n, one in self.deliveries.items() if one.state == "ready")[:count]
        for position in ready:
            one = self.deliveries[position]
            one.state, one.attempts = "held", one.attempts + 1
        return ready

    def lost(self, tokens: Sequence[Token]) -> list[Token]:
        """Which of these are worth nothing."""
        return sorted(token for token in tokens if not self.holds_still(token))

    def done(self, positions: Iterable[int]) -> None:
        """These are done."""
        self.finished.update(positions)
        self.leave(positions)

    def release(self, position: int, *, counts: bool, delayed: bool) -> None:
        """Given back by its holder."""
        one = self.deliveries[position]
        if counts and one.attempts - one.uncounted >= self.attempts_max:
            one.state = "exhausted"
        else:
            one.state = "delayed" if delayed else "ready"
        one.uncounted += not counts

    def set_aside(self, position: int) -> None:
        """A dead letter from now on."""
        one = self.deliveries[position]
        holding = self.holds and bool(one.keys)
        self.letters[position] = (one.attempts, holding)
        if holding:
            one.state, one.over = "set_aside", False
        else:
            self.leave([position])

    def replay(self, positions: Iterable[int]) -> None:
        """Handed out again: in its place, or behind all that there is."""
        for position in sorted(positions):
            attempts, holding = self.letters.pop(position)
            if holding:
                one = self.deliveries[position]
                one.state, one.uncounted = "ready", one.attempts
            else:
                self.join(position, attempts=attempts)

    def drop(self, positions: Iterable[int]) -> None:
        """Nobody is to do this any more."""
        holding = [position for position in positions if self.letters.pop(position)[1]]
        self.finished.update(positions)
        self.leave(holding)

    def seek(self, generation: int, reached: int) -> None:
        """All that was out is worth nothing."""
        self.generation, self.reached, self.began_after = generation, reached, reached
        self.deliveries, self.lines, self.finished = {}, {}, set()
        self.letters = {
            position: (attempts, False)
            for position, (attempts, _) in self.letters.items()
            if position <= reached
        }
