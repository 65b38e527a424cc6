"""A real pgbouncer in transaction mode, in front of one database of the test cluster.

It lends a few sessions of the server to many clients, one transaction at a time, and cleans
up nothing in between: in this mode its ``server_reset_query`` does not run. What one client
left on a session, the next would find; so that is a test, and not a promise of pgbouncer.

Behind it stands one login alone, the one of the address that it is given: its pool has
``SESSIONS_MAX`` sessions, which all clients share. It listens in a fresh folder, on no network
address, and asks for the password as PostgreSQL does. Like PostgreSQL it refuses to run as
root, and is run then by the same unprivileged user, who is also the one that the embedded
server's door is open to.

It comes with the system (``apt-get install pgbouncer``, ``brew install pgbouncer``). Where it
is missing its tests are skipped, but in CI, where they fail.
"""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from counterfoil.server.db import unprivileged
from counterfoil.server.db.cluster import clean_environment
from counterfoil.server.db.unprivileged import Account
from tests.support.cluster import Database, reachable_folder
from tests.support.waiting import WAIT_SECONDS_MAX, wait_for

SESSIONS_MAX: Final = 2
"""Sessions of the server that all clients share. Two: a client is served by now one, now the
other, and none of them can have a session to itself."""

_PORT: Final = "6432"
"""Part of a socket's name only: it listens on no network address."""

_WAYS_IN: Final = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin")
"""Where packages put it, and an ordinary user's PATH may not lead."""


@dataclass(frozen=True, slots=True)
class Pooler:
    """A running pgbouncer, and the way around it.

    Attributes:
        url: the database through the pooler, as the login that it was started for.
        direct_url: the same login at PostgreSQL itself.
        account: who runs it.
    """

    url: str
    direct_url: str
    account: Account

    @property
    def environment(self) -> Mapping[str, str]:
        """The settings of a service behind it, as the operations guide asks for them."""
        return {
            "COUNTERFOIL_PREPARE_STATEMENTS": "false",
            "COUNTERFOIL_DATABASE_DIRECT_URL": self.direct_url,
        }


def pgbouncer() -> Path:
    """The program. Without it the test is skipped; in CI it fails."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *_WAYS_IN))
    found = shutil.which("pgbouncer", path=path)
    if found is not None:
        return Path(found)
    missing = (
        "there is no pgbouncer, and this test needs a real one: apt-get install pgbouncer, or "
        "brew install pgbouncer"
    )
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(f"{missing} (skipped outside of CI)")
    pytest.skip(missing)


@contextmanager
def running_pgbouncer(database: Database) -> Iterator[Pooler]:
    """Run a pooler in front of a database, for the login of its address, while the block does.

    Args:
        database: entered by a login with a password (``tests.db.scratch.login`` makes one).
    """
    program = pgbouncer()
    account = unprivileged.server_account()
    with reachable_folder() as folder:
        account.own(folder)
        folder.chmod(0o700)
        _configure(folder, database, account)
        log = folder / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [program, folder / "pgbouncer.ini"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=clean_environment(),
                start_new_session=True,
                **account.run_as,
            )
        try:
            url = make_conninfo(database.url, host=str(folder), port=_PORT)
            _wait_until_serving(process, url, log)
            yield Pooler(url, database.url, account)
        finally:
            process.send_signal(signal.SIGTERM)  # at once, whoever is still connected
            process.wait(WAIT_SECONDS_MAX)


def _configure(folder: Path, database: Database, account: Account) -> None:
    """Write its two files: what it does, and the login that it knows."""
    server = conninfo_to_dict(database.url)
    login, password = str(server["user"]), str(server["password"])
    place = f"host={server.get('host', 'localhost')} port={server.get('port', 5432)}"
    _write(
        folder / "pgbouncer.ini",
        f"""\
[databases]
{database.name} = {place}

[pgbouncer]
pool_mode = transaction
default_pool_size = {SESSIONS_MAX}
listen_port = {_PORT}
unix_socket_dir = {folder}
auth_type = scram-sha-256
auth_file = {folder / "userlist.txt"}
log_connections = 0
log_disconnections = 0
""",
        account,
    )
    # In clear: with a SCRAM secret it could let clients in, and not itself into PostgreSQL.
    _write(folder / "userlist.txt", f'"{login}" "{password}"\n', account)


def _write(path: Path, content: str, account: Account) -> None:
    path.touch(mode=0o600)
    path.write_text(content, encoding="utf-8")
    account.own(path)


def _wait_until_serving(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Wait until a statement is answered through it."""

    def serving() -> bool:
        said = log.read_text(encoding="utf-8", errors="replace")
        # What it cannot do it says once, and then keeps its clients waiting.
        assert process.poll() is None, f"pgbouncer ended at its start:\n{said}"
        assert not re.search(r"FATAL|cannot connect|login failed", said), said
        try:
            with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
                connection.execute("select 1")
        except psycopg.OperationalError:
            return False
        return True

    wait_for(serving, "pgbouncer to serve")
