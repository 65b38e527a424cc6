"""SQL as source: named statements out of ``.sql`` files.

A file holds statements under headers of the form ``-- name: page``, each followed by
comments that say what the statement is for. A statement's parameters are psycopg's
``%(name)s``. A test prepares every statement of every file against a real database.
"""

import re
from functools import cache
from importlib import resources
from typing import LiteralString, cast

from counterfoil.server.core.errors import invariant

_HEADER = re.compile(r"^-- name: (?P<name>[a-z_]+)$", re.MULTILINE)


@cache
def load(package: str, file: str) -> dict[str, LiteralString]:
    """Read the statements of ``file`` in ``package``, by name.

    The texts come out of the distribution and never from a caller, which is what
    ``LiteralString`` stands for.

    Raises:
        InvariantBroken: the file has no statements, or two of one name.
    """
    text = resources.files(package).joinpath(file).read_text(encoding="utf-8")
    # re.split with one group: [preamble, name, body, name, body, …]
    _, *parts = _HEADER.split(text)
    names, bodies = parts[::2], parts[1::2]
    invariant(bool(names), f"{package}/{file} holds no named statement")
    invariant(len(set(names)) == len(names), f"{package}/{file} names a statement twice")
    return {
        name: cast("LiteralString", body.strip().rstrip(";"))
        for name, body in zip(names, bodies, strict=True)
    }
