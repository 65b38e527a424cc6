"""A book's growth while something else drives it: a rate for each interval of time."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from benchmarks.harness import book_check


class RateWatch:
    """Looks at the head of a book every so often. Made by ``watched``."""

    def __init__(self, url: str, every_seconds: float) -> None:
        self._url = url
        self._every = every_seconds
        self._ended = threading.Event()
        self._rates: list[float] = []
        self._thread = threading.Thread(target=self._run, name="rate watch")

    def rates(self) -> list[float]:
        """Events per second of each interval that is over."""
        return list(self._rates)

    def start(self) -> None:
        """Begin the first interval."""
        self._thread.start()

    def stop(self) -> None:
        """End the interval that is running, which does not count."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            head, at = book_check.head(connection), time.monotonic()
            while not self._ended.wait(max(0.0, at + self._every - time.monotonic())):
                before, head = head, book_check.head(connection)
                then, at = at, time.monotonic()
                self._rates.append((head - before) / (at - then))


@contextmanager
def watched(url: str, *, every_seconds: float) -> Iterator[RateWatch]:
    """Watch the book of a database while the block runs."""
    watch = RateWatch(url, every_seconds)
    watch.start()
    try:
        yield watch
    finally:
        watch.stop()
