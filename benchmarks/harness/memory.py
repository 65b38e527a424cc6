"""What processes hold in memory, from ``/proc``. Linux only."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a process and all below it.

    Attributes:
        rss: resident; pages that several processes share count for each of them.
        pss: resident; shared pages count by their share. What the processes take together.
    """

    rss: int
    pss: int


def of_tree(root: int) -> Memory:
    """The memory of a process and all below it, now."""
    parts = [_of_process(pid) for pid in tree(root)]
    return Memory(rss=sum(part.rss for part in parts), pss=sum(part.pss for part in parts))


def tree(root: int) -> Iterator[int]:
    """A process and all below it."""
    yield root
    for task in Path(f"/proc/{root}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from tree(int(child))


def _of_process(pid: int) -> Memory:
    return parse_rollup(Path(f"/proc/{pid}/smaps_rollup").read_text())


def parse_rollup(text: str) -> Memory:
    """Read ``/proc/<pid>/smaps_rollup``, whose sizes are in KiB."""
    sizes = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        value, _, unit = rest.strip().partition(" ")
        if unit == "kB":
            sizes[name] = int(value) * 1024
    return Memory(rss=sizes["Rss"], pss=sizes["Pss"])
