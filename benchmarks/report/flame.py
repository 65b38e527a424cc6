"""Flame graphs: stacks as SVG, drawn by hand as the charts are.

Each box is a function, as wide as the share of samples in which it was on the stack; what
it called lies above it. What is too narrow to be seen is left out, which also bounds the file.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from xml.sax.saxutils import escape

WIDTH: Final = 1_200
ROW: Final = 17
TOP: Final = 52

NARROW_PIXELS: Final = 1.5
"""Boxes below this width are left out."""

CHARACTER_PIXELS: Final = 6.3

_OURS: Final = "(counterfoil/"

STYLE: Final = """
  text { font: 11px ui-monospace, monospace; fill: #1f2328; }
  .title { font: 600 15px system-ui, sans-serif; }
  .note { font: 12px system-ui, sans-serif; fill: #59636e; }
  .ours { fill: #80b8f5; }
  .other { fill: #d1d9e0; }
  @media (prefers-color-scheme: dark) {
    .title { fill: #e6edf3; }
    .note { fill: #9198a1; }
  }
"""


@dataclass(slots=True)
class _Frame:
    """One function at one place of the tree."""

    samples: int = 0
    calls: dict[str, "_Frame"] = field(default_factory=dict)


def draw(stacks: Mapping[str, int], title: str) -> str:
    """The stacks as SVG.

    Args:
        stacks: samples by stack, its frames joined by semicolons, the outermost first.
        title: above it.
    """
    root = _tree(stacks)
    boxes = list(_boxes(root, 0.0, 0, WIDTH / max(1, root.samples)))
    rows = 1 + max((row for _, row, _, _ in boxes), default=0)
    height = TOP + rows * ROW
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" height="{height}" role="img">'
        ),
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        f'<text class="title" x="0" y="18">{escape(title)}</text>',
        (
            f'<text class="note" x="0" y="38">{root.samples:,} samples; the width is the share of '
            "them, callers below, our own functions in blue</text>"
        ),
    ]
    for x, row, name, samples in boxes:
        width = samples * WIDTH / root.samples
        y = height - (row + 1) * ROW
        kind = "ours" if _OURS in name else "other"
        share = f"{samples / root.samples:.1%}"
        parts.append(
            f'<g><title>{escape(name)}: {share}</title><rect class="{kind}" x="{x:.1f}" y="{y}" '
            f'width="{max(width - 0.5, 0.5):.1f}" height="{ROW - 1}" rx="1"/>'
            f"{_label(name, x, y, width)}</g>"
        )
    return "\n".join([*parts, "</svg>", ""])


def own_samples(stacks: Mapping[str, int]) -> dict[str, int]:
    """Samples in which a function was the innermost, the most first."""
    found: dict[str, int] = {}
    for stack, count in stacks.items():
        name = stack.rpartition(";")[2]
        found[name] = found.get(name, 0) + count
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _tree(stacks: Mapping[str, int]) -> _Frame:
    root = _Frame()
    for stack, count in stacks.items():
        root.samples += count
        frame = root
        for name in stack.split(";"):
            frame = frame.calls.setdefault(name, _Frame())
            frame.samples += count
    return root


def _boxes(
    frame: _Frame, x: float, row: int, scale: float
) -> Iterator[tuple[float, int, str, int]]:
    """What a frame called: left edge, row, name, samples; by name, so that places are stable."""
    for name, called in sorted(frame.calls.items()):
        if called.samples * scale >= NARROW_PIXELS:
            yield x, row, name, called.samples
            yield from _boxes(called, x, row + 1, scale)
        x += called.samples * scale


def _label(name: str, x: float, y: float, width: float) -> str:
    room = int((width - 6) / CHARACTER_PIXELS)
    if room < 4:
        return ""
    text = name if len(name) <= room else f"{name[: room - 1]}…"
    return f'<text x="{x + 3:.1f}" y="{y + 12}">{escape(text)}</text>'
