#!/usr/bin/env python3
"""The project's commands: each does all of its own set-up, then its work.

    python3 tasks.py demo [...]      the fraud demo on an embedded PostgreSQL
    python3 tasks.py test [...]      all tests; what follows is passed on to pytest
    python3 tasks.py lint            formatter, linters, type checker, import contracts
    python3 tasks.py bench [...]     measure everything beside its peers (--quick, --only, --list)
    python3 tasks.py mutants [...]   every committed mistake must be killed by a test
    python3 tasks.py setup           only make the environment
    python3 tasks.py lock            pin the newest versions anew (needs uv)

Set-up makes `.venv` beside this file and installs the pinned requirements with pip, by
hash, from wherever pip is told to look (PIP_INDEX_URL, PIP_CONFIG_FILE and so on). It
is done again only when what it installed from has changed. Standard library only,
because it runs before anything is installed; and every Python 3 that can read it gets
as far as being told which one is needed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
STAMP = VENV / "counterfoil-setup.json"
MIGRATIONS = ROOT / "src" / "counterfoil" / "server" / "db" / "schema" / "migrations"

PYTHON_MIN = (3, 11)
PIP_MIN = (22, 3)  # the first that installs into another environment (--python)

SERVER = "requirements/server.txt"
DEV = "requirements/dev.txt"
BENCH = "requirements/bench.txt"
# By what is needed: the sets that hold all of it, at the same versions.
HOLDS = {SERVER: (SERVER, DEV, BENCH), DEV: (DEV, BENCH), BENCH: (BENCH,)}

LOCK_HEADER = """\
# Pinned by `python3 tasks.py lock` for every Python and platform that pyproject.toml
# allows. Hashes, not addresses: any index or mirror that serves these files will do.
"""


class TaskError(Exception):
    """Something that the person at the keyboard can mend; the message says how."""


def say(text: str) -> None:
    print(f"[tasks] {text}", file=sys.stderr, flush=True)


def run(*command: str | Path, what: str | None = None) -> None:
    """Run a command from the project's root; a failure ends the task with its exit code.

    Ctrl-C is the command's to answer: the terminal sends it there too, and a service takes
    seconds to stop in order. (``subprocess.run`` would kill it after a quarter of one.)
    """
    if what:
        say(what)
    process = subprocess.Popen([str(part) for part in command], cwd=ROOT)
    while True:
        try:
            returncode = process.wait()
            break
        except KeyboardInterrupt:
            continue
    if returncode:
        # A negative code is a signal's number; shells report it as 128 + n.
        raise SystemExit(returncode if returncode > 0 else 128 - returncode)


def digest(*names: str) -> str:
    """One digest over files of the project."""
    sha256 = hashlib.sha256()
    for name in names:
        sha256.update((ROOT / name).read_bytes())
    return sha256.hexdigest()


def base_python() -> str:
    """The interpreter below any virtual environment: an active `.venv` has no pip."""
    return str(getattr(sys, "_base_executable", None) or sys.executable)


def check_pip(python: str) -> None:
    """Raise TaskError unless this interpreter's pip can do what the set-up asks of it."""
    found = subprocess.run(
        [python, "-m", "pip", "--version"], capture_output=True, text=True, check=False
    )
    version = re.match(r"pip (\d+)\.(\d+)", found.stdout)
    if found.returncode or not version:
        raise TaskError(
            f"{python} has no pip. Install it (Debian and Ubuntu: apt install python3-pip; "
            f"elsewhere: {python} -m ensurepip) and run this again."
        )
    if (int(version[1]), int(version[2])) < PIP_MIN:
        raise TaskError(
            f"pip {version[1]}.{version[2]} is too old: it takes {PIP_MIN[0]}.{PIP_MIN[1]} or "
            f"newer. Upgrade it with: {python} -m pip install --upgrade pip"
        )


def setup(requirements: str) -> None:
    """Bring `.venv` to what `requirements` pins, and the project itself, if anything changed."""
    with (ROOT / ".venv.lock").open("w") as lock_file:
        # Two tasks at once, in two terminals, would install over each other.
        fcntl.flock(lock_file, fcntl.LOCK_EX)
        stamp = read_stamp()
        # Scripts in an environment name its folder; a moved one is made anew.
        place = {"python": list(sys.version_info[:2]), "folder": str(VENV)}
        project = digest("pyproject.toml")
        same_place = VENV_PYTHON.exists() and place.items() <= stamp.items()
        same_pins = stamp.get("pins") in [[name, digest(name)] for name in HOLDS[requirements]]
        if same_place and same_pins and stamp.get("project") == project:
            return

        started = time.monotonic()
        python = base_python()
        check_pip(python)
        pip: list[str | Path] = [python, "-m", "pip", "--python", VENV_PYTHON, "install", "--quiet"]
        pip += ["--disable-pip-version-check"]
        if not same_place:
            # Without pip of its own: Debian's python3 has no ensurepip, and the pip that
            # is there can install into it from outside.
            run(python, "-m", "venv", "--without-pip", "--clear", VENV, what="Making .venv ...")
        if not (same_place and same_pins):
            STAMP.unlink(missing_ok=True)
            run(
                *(*pip, "--require-hashes", "--only-binary", ":all:", "-r", requirements),
                what=f"Installing {requirements} (about a minute the first time) ...",
            )
            stamp = {**place, "pins": [requirements, digest(requirements)]}
            STAMP.write_text(json.dumps(stamp))
        # No dependencies and no build isolation: all it needs is pinned and installed.
        run(
            *(*pip, "--no-deps", "--no-build-isolation", "--editable", "."),
            what="Installing counterfoil from this folder ...",
        )
        STAMP.write_text(json.dumps({**stamp, "project": project}))
        say(f"Ready after {time.monotonic() - started:.0f} s.")


def read_stamp() -> dict[str, object]:
    """What the last set-up installed; empty when there was none, or it did not finish."""
    try:
        content = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def demo(arguments: list[str]) -> None:
    setup(SERVER)
    run(VENV / "bin" / "counterfoil", "demo", "fraud", *arguments)


def test(arguments: list[str]) -> None:
    setup(DEV)
    # One process per core; tests that must not run beside each other share an xdist group.
    parallel = ("-n", "auto", "--dist", "loadgroup")
    run(VENV_PYTHON, "-m", "pytest", *parallel, *arguments)


def lint(_: list[str]) -> None:
    setup(DEV)
    tools = VENV / "bin"
    run(tools / "ruff", "format", "--check", what="ruff format")
    run(tools / "ruff", "check", what="ruff check")
    run(tools / "mypy", what="mypy --strict")
    run(tools / "lint-imports", "--no-logo", what="import contracts")
    migrations = sorted(MIGRATIONS.glob("*.sql"))
    run(tools / "squawk", "--config", ".squawk.toml", *migrations, what="squawk (migrations)")
    say("Nothing to complain about.")


def mutants(arguments: list[str]) -> None:
    setup(DEV)
    run(VENV_PYTHON, "-m", "tests.mutants", *arguments)


def bench(arguments: list[str]) -> None:
    setup(BENCH)
    run(VENV_PYTHON, "-m", "benchmarks", *arguments)


def lock(_: list[str]) -> None:
    """Resolve pyproject.toml anew and write requirements/*.txt."""
    run("uv", "lock", "--upgrade", what="Resolving the newest versions ...")
    export = ["uv", "export", "--locked", "--no-emit-project", "--no-annotate", "--no-header"]
    export += ["--quiet", "--format", "requirements.txt", "--extra", "server"]
    groups = {
        SERVER: ("--no-default-groups", "--group", "build"),
        DEV: ("--group", "dev"),
        BENCH: ("--group", "bench"),
    }
    for name, chosen in groups.items():
        run(*export, *chosen, "--output-file", name, what=f"Writing {name} ...")
        path = ROOT / name
        path.write_text(LOCK_HEADER + path.read_text())


def only_setup(_: list[str]) -> None:
    setup(DEV)
    say("The environment is .venv, with everything that the tests need.")


TASKS = {
    "demo": demo,
    "test": test,
    "lint": lint,
    "bench": bench,
    "mutants": mutants,
    "setup": only_setup,
    "lock": lock,
}


def main(arguments: list[str]) -> None:
    """Run one task; the exit code is that of the first command of it that failed."""
    if sys.version_info < PYTHON_MIN:
        raise TaskError(
            "Counterfoil takes Python {}.{} or newer; this is {}.{} ({}). Run this with a newer "
            "one, for example: python3.12 tasks.py ...".format(
                *PYTHON_MIN, *sys.version_info[:2], sys.executable
            )
        )
    if not arguments or arguments[0] not in TASKS:
        print(__doc__, file=sys.stdout if arguments[:1] in (["-h"], ["--help"]) else sys.stderr)
        raise SystemExit(0 if arguments[:1] in (["-h"], ["--help"]) else 2)
    os.environ.setdefault("PYTHONUNBUFFERED", "1")  # progress is seen when it happens
    try:
        TASKS[arguments[0]](arguments[1:])
    except PermissionError as error:
        raise TaskError(
            f"{error.filename} cannot be written: set-up works inside this folder, so run it as "
            "the folder's owner, or in a clone of your own."
        ) from error


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except TaskError as error:
        say(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
