"""The client that a command talks through, and the questions that it asks before it acts."""

import sys
from collections.abc import Callable

from counterfoil import Counterfoil
from counterfoil.cli.exits import Failure, Misused
from counterfoil.cli.output import visible


def connected(base_url: str | None, api_key: str | None) -> Counterfoil:
    """The client that the shared options ask for.

    Raises:
        Misused: the address or the key cannot be used.
    """
    try:
        return Counterfoil(base_url=base_url, api_key=api_key)
    except ValueError as error:
        raise Misused(str(error)) from None


def confirm(question: Callable[[], str], *, yes: bool) -> None:
    """Ask before something is done that cannot be taken back, unless ``yes`` was said.

    ``question`` is called where somebody can be asked only, so it may look things up.

    Raises:
        Misused: nobody can be asked, because standard input is no terminal.
        Failure: the answer was no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise Misused("Nobody can be asked here. Give --yes if it is really meant.")
    # Not through `typer.confirm`: that writes a space to standard output, which may be a pipe.
    sys.stderr.write(f"{visible(question())} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise Failure("Nothing was changed.")
