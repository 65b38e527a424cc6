"""``dev``, ``serve``, ``migrate`` and ``recover``: the service, from a shell.

Nothing of the service is imported before one of these commands runs: the light
installation has neither its code's libraries nor PostgreSQL.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib
import ipaddress
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.text import Text

from counterfoil.cli.exits import ExitCode, Failure, Misused
from counterfoil.cli.output import Format, print_json, print_line, remark, remarks

if TYPE_CHECKING:
    import psycopg

    from counterfoil.server.core.settings import Settings

Host = Annotated[str, typer.Option(metavar="ADDRESS", help="The address to listen on.")]
Port = Annotated[
    int, typer.Option(metavar="PORT", min=0, max=65_535, help="The port; 0 takes a free one.")
]
Output = Annotated[
    Format, typer.Option("-o", "--output", help="Text for people, JSON for programs.")
]

WORKERS_MAX: Final = 64
"""More processes than this on one host are a slip of the finger: 64 pools of connections
are more than a PostgreSQL takes."""


def dev(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where the embedded PostgreSQL keeps the book. [default: your data folder]",
        ),
    ] = None,
    until_stdin_closes: Annotated[
        bool,
        typer.Option(
            "--until-stdin-closes",
            help="Also stop when standard input ends: for programs that start a service for "
            "themselves and must not leave it behind.",
        ),
    ] = False,
) -> None:
    r"""Start everything on this machine: PostgreSQL, the book, the service.

    With DATABASE_URL set, that database is used instead of the embedded one. Without
    API_KEY, calls from this machine need no key, and nothing else may listen.

    When all is ready, one line with the address appears on standard output. Ctrl-C stops
    everything, in order, and ends with 0; what was written stays.

    For example:

        counterfoil dev

        API_KEY=secret \
            counterfoil dev --host 0.0.0.0 --port 8080 --data-dir ./book
    """
    if not os.environ.get("API_KEY") and not is_loopback(host):
        raise Misused(
            f"On {host} anyone who reaches this machine could write into the book. Set API_KEY "
            "first (API_KEY=$(openssl rand -hex 24) counterfoil dev …), or leave out --host."
        )
    with server_library(), ended_by_signals():
        from counterfoil.server.core.settings import Settings
        from counterfoil.server.db.migrations import migrate as migrate_database
        from counterfoil.server.tls import tls_context

        check_port(host, port)

        def settings_with(url: str) -> Settings:
            # Of DATABASE_URL the settings hear by themselves, and name it when it is wrong. A
            # direct address without it belongs to another database than the embedded one.
            embedded = {"database_url": url, "database_direct_url": None}
            return Settings.from_environment(
                **({} if os.environ.get("DATABASE_URL") else embedded),
                log_format=os.environ.get("COUNTERFOIL_LOG_FORMAT", "console"),
                log_level=os.environ.get("COUNTERFOIL_LOG_LEVEL", "warning"),
                open_to_this_machine="API_KEY" not in os.environ,
            )

        # Judged before a database is started, or even made, for nothing.
        tls_context(settings_with("postgresql:///"))
        if until_stdin_closes:
            _stop_when_stdin_closes()
        # What serves takes half a second to load, and PostgreSQL about as long to start.
        threading.Thread(target=_load_what_serves, name="load the service").start()
        with database(data_dir) as (url, place):
            settings = settings_with(url)
            migrate_database(url)
            _show_banner(place, key_needed=settings.api_key is not None)
            _run(settings, host, port, workers=1)
        remark(f"Stopped. The book stays in {place}.")


def serve(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    workers: Annotated[
        int, typer.Option(metavar="N", min=1, max=WORKERS_MAX, help="Processes that serve.")
    ] = 1,
    tls_cert: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Speak HTTPS with this certificate (PEM, with its chain). "
            "[default: COUNTERFOIL_TLS_CERT]",
        ),
    ] = None,
    tls_key: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="The certificate's private key (PEM). What opens an encrypted one belongs into "
            "COUNTERFOIL_TLS_KEY_PASSWORD. [default: COUNTERFOIL_TLS_KEY]",
        ),
    ] = None,
) -> None:
    r"""Start the service for production.

    Needs DATABASE_URL, and API_KEY until the first keys were made with it (`counterfoil keys
    create`). Does not change the database: run `counterfoil migrate` first. Refuses to start with
    a login that the database refuses, and waits for a database that is away. Stops on SIGTERM,
    after finishing what it has accepted, and ends with 0.

    For example:

        DATABASE_URL=postgresql://… API_KEY=… \
            counterfoil serve --host 0.0.0.0 --workers 2

        counterfoil serve --host 0.0.0.0 --tls-cert chain.pem --tls-key key.pem
    """
    if not os.environ.get("DATABASE_URL"):
        raise Misused(
            "DATABASE_URL is not set, and `counterfoil serve` does not start without it. "
            "(`counterfoil dev` does.)"
        )
    if os.environ.get("API_KEY") == "":
        raise Misused("API_KEY is empty. Unset it if the bootstrap key is not wanted any more.")
    with server_library(), ended_by_signals():
        from counterfoil.server.core.settings import Settings
        from counterfoil.server.tls import tls_context

        given = {"tls_cert": tls_cert, "tls_key": tls_key}
        settings = Settings.from_environment(
            **{name: value for name, value in given.items() if value is not None},
            open_to_this_machine=False,
        )
        tls_context(settings)
        away = _check_database(settings)
        _run(settings, host, port, workers, away=away)


def migrate(
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; end with 1 if there is work to do.")
    ] = False,
    output: Output = Format.TEXT,
) -> None:
    """Bring the database at DATABASE_URL to this release's schema.

    Each migration is one transaction, and shown when it is done. The login must own the
    schema, or be allowed to create it and its roles.

    For example:

        DATABASE_URL=postgresql://owner@… counterfoil migrate --check

        DATABASE_URL=postgresql://owner@… counterfoil migrate
    """
    with server_library():
        from counterfoil.server.db import migrations

        url = _database_url("counterfoil migrate")
        names = migrations.pending(url) if check else migrations.migrate(url)
    if output is Format.JSON:
        print_json({"pending" if check else "applied": names})
    else:
        for name in names:
            print_line(f"{'to do' if check else 'done '}  {name}")
        if not names:
            print_line("Nothing to do: the schema is that of this release.")
    if check and names:
        raise typer.Exit(ExitCode.REFUSED)


def recover(
    data_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder of a `counterfoil dev` that is not running."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    output: Output = Format.TEXT,
) -> None:
    """Give a book that was restored from a backup its new incarnation.

    A restored book uses positions again that others have already read. After this, their
    cursors, streams and conditions are refused with `book-restored` instead of meaning
    other events than they did. Run it once, after the restore and before the service
    starts; never on a book that was not restored: every reader would have to start again.

    For example:

        DATABASE_URL=postgresql://owner@… counterfoil recover
    """
    if data_dir is not None and os.environ.get("DATABASE_URL"):
        raise Misused("DATABASE_URL is set, and --data-dir is given: which of the two is meant?")
    if data_dir is None:
        _database_url("counterfoil recover")
    if not yes:
        _ask_whether_restored()
    with server_library(), database(data_dir) as (url, _):
        from counterfoil.server.log.operations import recover as recover_books

        books = recover_books(url)
    if output is Format.JSON:
        print_json([{"book": book, "old": old, "new": new} for book, old, new in books])
        return
    for book, old, new in books:
        print_line(f"Book {book}: the incarnation was {old}, and is now {new}.")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on ``host``.

    A name counts only if all that it stands for is loopback. No name at all means every
    address of the machine.
    """
    try:
        addresses = {str(info[4][0]) for info in socket.getaddrinfo(host, 0)} if host else set()
    except OSError:
        return False
    return bool(addresses) and all(ipaddress.ip_address(each).is_loopback for each in addresses)


def check_port(host: str, port: int) -> None:
    """See whether the port can be had, before a database is started for nothing.

    Raises:
        Failure: it cannot.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            # A port can be bound by two, and listened on by one only.
            probe.listen()
    except OSError as error:
        raise _explained(error, host, port) from error


@contextlib.contextmanager
def server_library() -> Iterator[None]:
    """Turn what the service's parts raise into sentences and exit codes.

    Raises:
        Failure: instead of any error that a user can do something about.
    """
    try:
        import psycopg

        from counterfoil.server.core.errors import CounterfoilError
        from counterfoil.server.core.settings import SettingsError
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("counterfoil"):
            raise
        raise Misused(
            f"The service is not installed here ({error.name} is missing). "
            "Install it in a checkout with: pip install '.[server]'"
        ) from None
    try:
        yield
    except SettingsError as error:
        raise Misused(str(error)) from None
    except CounterfoilError as error:
        raise Failure(str(error)) from error
    except psycopg.OperationalError as error:
        raise Failure(
            f"The database cannot be reached: {_said(error)}", ExitCode.UNAVAILABLE
        ) from error
    except psycopg.Error as error:
        # What was never sent may hold the address and so the password: it is not chained.
        raise _refusal(error) from (error if error.sqlstate else None)


def _refusal(error: psycopg.Error) -> Failure:
    """What PostgreSQL refused, with the way out."""
    from psycopg import ProgrammingError, errors

    if isinstance(error, ProgrammingError) and error.sqlstate is None:
        return Misused("DATABASE_URL is not an address that PostgreSQL understands.")
    if isinstance(error, errors.InsufficientPrivilege):
        return Failure(
            f"The login of DATABASE_URL may not do this: {_said(error)}. `migrate` and `recover` "
            "take the login that owns the schema; one for the service needs `grant "
            "counterfoil_service to …`."
        )
    if isinstance(error, errors.UndefinedTable | errors.InvalidSchemaName):
        return Failure(
            f"There is no book in this database yet: {_said(error)}. Run `counterfoil migrate` "
            "first."
        )
    return Failure(f"The database refused: {_said(error)}")


def _said(error: psycopg.Error) -> str:
    """What PostgreSQL, or the way to it, said: without the statement, on one line."""
    return error.diag.message_primary or " ".join(str(error).split())


@contextlib.contextmanager
def database(data_dir: Path | None) -> Iterator[tuple[str, str]]:
    """A database to work on, while the block runs: its address, and what to call it.

    That of ``DATABASE_URL`` if it is set, else the embedded one in ``data_dir``.
    """
    url = os.environ.get("DATABASE_URL")
    if url:
        if data_dir is not None:
            remark("DATABASE_URL is set and is used; --data-dir is not.")
        yield url, "the database of DATABASE_URL"
        return
    from counterfoil.server.db.embedded import EmbeddedPostgres, default_data_dir

    folder = data_dir or default_data_dir()
    with EmbeddedPostgres(folder, report=lambda text: remark(f"{text} …")) as server:
        yield server.url, str(folder.absolute())


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Make SIGTERM unwind the stack, as Ctrl-C does, so that everything is stopped in order."""

    def on_terminate(_number: int, _frame: FrameType | None) -> None:
        # Once is enough: a second one must not interrupt the stopping.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise typer.Exit(ExitCode.TERMINATED)

    before = signal.signal(signal.SIGTERM, on_terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _load_what_serves() -> None:
    # Whatever is wrong with it is said where it is used.
    with contextlib.suppress(Exception):
        importlib.import_module("counterfoil.server.serving")


def _run(
    settings: Settings, host: str, port: int, workers: int, *, away: str | None = None
) -> None:
    """Serve until stopped. ``away``: why the database could not be reached, if it could not."""
    from counterfoil.server.serving import serve as serve_until_stopped

    def announce(address: str) -> None:
        print_line(f"Counterfoil is {'listening' if away else 'ready'} at {address}")
        if away:
            remark(
                f"Listening; the database is away ({away}). /health/ready says 503 until it is back."
            )

    try:
        serve_until_stopped(
            settings,
            host=host,
            port=port,
            workers=workers,
            on_ready=announce,
        )
    except OSError as error:
        raise _explained(error, host, port) from error


def _explained(error: OSError, host: str, port: int) -> Exception:
    """What is wrong with the address; an error of something else as it is."""
    if error.errno == errno.EADDRINUSE:
        return Failure(
            f"Port {port} of {host} is in use. Stop what listens there, or choose another port "
            "with --port (0 takes a free one).",
            ExitCode.UNAVAILABLE,
        )
    if error.errno == errno.EACCES:
        return Failure(f"Port {port} needs rights that you do not have. Take one above 1023.")
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return Misused(f"{host} is not an address of this machine.")
    return error


def _check_database(settings: Settings) -> str | None:
    """See before the start whether the service can work on its database.

    Returns:
        Why it cannot be reached, if it is merely away: it may come back by itself.

    Raises:
        Failure: the schema is behind, or the login is refused or cannot act as the service.
            Waiting would mend none of these.
    """
    import psycopg

    from counterfoil.server.core import limits
    from counterfoil.server.db.migrations import pending
    from counterfoil.server.db.pool import (
        Pool,
        UnfitDatabase,
        login_refused,
        patient_only_for_seconds,
    )

    url = settings.database_url.get_secret_value()
    direct = settings.database_direct_url
    variable = "DATABASE_URL" if direct is None else "COUNTERFOIL_DATABASE_DIRECT_URL"

    async def connect_as_the_service() -> bool:
        return await Pool(
            url,
            name="start",
            statement_milliseconds_max=limits.APPEND_STATEMENT_MILLISECONDS_MAX,
            size_min=1,
            size_max=1,
            prepare=settings.prepare_statements,
        ).try_once()

    try:
        names = pending(patient_only_for_seconds(direct.get_secret_value() if direct else url))
        if names:
            raise Failure(
                f"The database's schema is behind this release ({', '.join(names)} to do). "
                "Run `counterfoil migrate` first."
            )
        variable = "DATABASE_URL"
        if not asyncio.run(connect_as_the_service()) and settings.api_key is None:
            raise Misused(
                "No key opens this service: API_KEY is not set, and no key has been made in the "
                "default tenant. Start it with API_KEY (openssl rand -hex 24 makes one), and make "
                "keys with it."
            )
    except UnfitDatabase as error:
        raise Failure(str(error)) from error
    except psycopg.OperationalError as error:
        if login_refused(error):
            raise Failure(
                f"The database refuses the login: {_said(error)}. Mend the user, the password or "
                f"the database's name in {variable}."
            ) from error
        return _said(error)
    return None


def _database_url(command: str) -> str:
    url = os.environ.get("DATABASE_URL")
    if not url:
        raise Misused(f"DATABASE_URL is not set. `{command}` works on the database it names.")
    return url


def _ask_whether_restored() -> None:
    if not sys.stdin.isatty():
        raise Misused("Nobody can be asked here. Give --yes if this book was really restored.")
    if not typer.confirm(
        "Was this book restored from a backup, and is no service running on it?", err=True
    ):
        raise Failure("Nothing was changed.")


def _stop_when_stdin_closes() -> None:
    def watch() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="stdin", daemon=True).start()


def _show_banner(place: str, *, key_needed: bool) -> None:
    rows: list[tuple[str, Any]] = [
        ("book", Text(place)),
        (
            "calls",
            Text("need the key in API_KEY")
            if key_needed
            else Text("need no key: only this machine can make them", style="yellow"),
        ),
        ("stop", Text("Ctrl-C")),
    ]
    console = remarks()
    console.print(Text("Counterfoil, for development", style="bold"))
    for name, value in rows:
        console.print(Text.assemble((f"  {name:<6}", "dim"), value))
