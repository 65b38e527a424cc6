"""What a patch says about itself, and laying it over a tree."""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent
ROOT: Final = FOLDER.parents[1]

_FIELD: Final = re.compile(
    r"^(?P<name>Mistake|Promise|Killed-by): (?P<value>.+(?:\n[ \t]+.+)*)", re.MULTILINE
)


class UnusablePatchError(Exception):
    """A patch that does not say what it must, or no longer fits the source."""


@dataclass(frozen=True, slots=True)
class Patch:
    """One committed mistake.

    Attributes:
        mistake: a sentence on what is wrong.
        promise: the id of the promise that it breaks.
        killed_by: ids of tests, as pytest takes them; at least one of them must fail.
    """

    path: Path
    mistake: str
    promise: str
    killed_by: tuple[str, ...]

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem

    @property
    def number(self) -> int:
        """The number that its name begins with."""
        return int(self.name.partition("_")[0])

    @classmethod
    def read(cls, path: Path) -> "Patch":
        """Read a patch's head. Raises UnusablePatchError where it is incomplete."""
        head, found, _ = path.read_text(encoding="utf-8").partition("\ndiff --git ")
        fields = {match["name"]: match["value"].split() for match in _FIELD.finditer(head)}
        if not found or sorted(fields) != ["Killed-by", "Mistake", "Promise"]:
            raise UnusablePatchError(
                f"{path.name} must begin with Mistake:, Promise: and Killed-by:, then a diff"
            )
        return cls(
            path, " ".join(fields["Mistake"]), fields["Promise"][0], tuple(fields["Killed-by"])
        )

    def apply(self, tree: Path, *, only_check: bool = False) -> None:
        """Make the mistake in a copy of the source, or only see whether it can be made.

        Raises UnusablePatchError where the lines that it changes are no longer there.
        """
        check = ["--check"] if only_check else []
        applied = subprocess.run(
            ["git", "apply", "--whitespace=nowarn", *check, str(self.path)],
            cwd=tree,
            # A repository around the copy would make git look for the files in there.
            env={**os.environ, "GIT_CEILING_DIRECTORIES": str(tree.parent)},
            capture_output=True,
            text=True,
            check=False,
        )
        if applied.returncode:
            raise UnusablePatchError(
                f"{self.path.name} no longer applies; make the mistake anew where its lines went: "
                f"{applied.stderr.strip()}"
            )


def all_patches() -> list[Patch]:
    """Every committed mistake, in the order of the numbers."""
    patches = [Patch.read(path) for path in FOLDER.glob("*.patch")]
    return sorted(patches, key=lambda patch: patch.number)
