"""The documents as the tests see them: headings, links, tables and examples."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]

_FENCE: Final = re.compile(r"^```(?P<info>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING: Final = re.compile(r"^#{1,6} (?P<title>.+)$", re.MULTILINE)
_NAMED_PLACE: Final = re.compile(r'^<a id="(?P<name>[^"]+)"></a>$', re.MULTILINE)
_LINK: Final = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_CODE: Final = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True, slots=True)
class Example:
    """A fenced block: its language, what else stands behind the fence, and its text."""

    language: str
    remark: str
    text: str


@dataclass(frozen=True, slots=True)
class Page:
    """One document."""

    path: Path
    text: str

    @property
    def name(self) -> str:
        """Its place in the repository."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def prose(self) -> str:
        """The text without its fenced blocks."""
        return _FENCE.sub("", self.text)

    @property
    def examples(self) -> list[Example]:
        """Its fenced blocks, in their order."""
        found = []
        for block in _FENCE.finditer(self.text):
            language, _, remark = block["info"].partition(" ")
            found.append(Example(language, remark.strip(), block["text"]))
        return found

    @property
    def headings(self) -> list[str]:
        """The titles of its sections."""
        return [heading["title"] for heading in _HEADING.finditer(self.prose)]

    @property
    def heading_anchors(self) -> list[str]:
        """The anchors of its headings, in their order."""
        return [_anchor(title) for title in self.headings]

    @property
    def anchors(self) -> set[str]:
        """What can stand behind a # in an address of this page."""
        named = {place["name"] for place in _NAMED_PLACE.finditer(self.prose)}
        return named.union(self.heading_anchors)

    @property
    def links(self) -> list[str]:
        """Where it leads to."""
        return [link["target"] for link in _LINK.finditer(self.prose)]

    @property
    def code(self) -> list[str]:
        """What stands between backquotes in its prose."""
        return _CODE.findall(self.prose)

    def section(self, title: str) -> str:
        """The text below one heading, up to the next of any level."""
        parts = re.split(r"^#{1,6} (.+)$", self.prose, flags=re.MULTILINE)
        return dict(zip(parts[1::2], parts[2::2], strict=True))[title]

    def rows(self, *columns: str) -> list[tuple[str, ...]]:
        """The rows of every table with these columns, without backquotes and links."""
        found: list[tuple[str, ...]] = []
        inside = False
        for line in self.prose.splitlines():
            cells = _cells(line)
            if cells == columns:
                inside = True
            elif not cells:
                inside = False
            elif inside and set("".join(cells)) != {"-"}:
                found.append(cells)
        return found

    def shell_commands(self) -> Iterator[str]:
        """The commands of its shell examples, those over several lines as one."""
        for example in self.examples:
            if example.language == "sh":
                yield from _commands(example.text)


@cache
def page(name: str) -> Page:
    """The document at this place."""
    path = ROOT / name
    return Page(path, path.read_text(encoding="utf-8"))


def all_pages() -> list[Page]:
    """Every document of the repository."""
    names = [path.name for path in ROOT.glob("*.md")]
    names += [path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*.md")]
    names += [path.relative_to(ROOT).as_posix() for path in ROOT.glob("benchmarks/**/*.md")]
    return [page(name) for name in sorted(names)]


def _anchor(title: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    kept = re.sub(r"[^\w\- ]", "", title.lower())
    return kept.replace(" ", "-")


def _cells(line: str) -> tuple[str, ...]:
    if not line.startswith("|"):
        return ()
    cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
    return tuple(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", cell).replace("`", "") for cell in cells)


def _commands(text: str) -> Iterator[str]:
    command = ""
    for line in text.splitlines():
        command += line.removesuffix("\\") if line.endswith("\\") else f"{line}\n"
        # A quoted argument may go on over lines.
        if line.endswith("\\") or command.count("'") % 2:
            continue
        if command.strip() and not command.startswith("#"):
            yield command.strip()
        command = ""
