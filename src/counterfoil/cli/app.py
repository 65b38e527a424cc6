"""The commands put together, and the one place where each error becomes an exit code.

No stack trace reaches a user: what is expected is a sentence and a code, and what is not
is a fault of ours, which is named, with the way to see more.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Final

import typer

from counterfoil import CounterfoilError, __version__
from counterfoil.cli import (
    brake,
    consumers,
    decisions,
    event_types,
    events,
    importing,
    keys,
    policies,
    service,
    settings,
    tenants,
    whoami,
)
from counterfoil.cli.demo import commands as demo
from counterfoil.cli.exits import ExitCode, Failure, failure_of, help_table, report_of_fault
from counterfoil.cli.output import complain, print_line

app = typer.Typer(
    name="counterfoil",
    help="Shared memory for agents that handle money: write what you decide, only if nothing "
    "you relied on has changed.\n\n"
    "`counterfoil demo fraud` shows it at work, `counterfoil dev` starts a service on this "
    "machine, and `append`, `read` and `tail` talk to it.\n\n" + help_table(),
    rich_markup_mode="markdown",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print_line(f"counterfoil {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version."),
    ] = False,
) -> None:
    """Options of the command line itself; the help is that of ``app``."""


_PANELS: Final[tuple[tuple[str, tuple[Callable[..., None], ...]], ...]] = (
    ("The book", (events.append, importing.import_, events.read, events.tail)),
    ("Who may write what", (whoami.whoami,)),
    ("The service", (service.dev, service.serve, service.migrate, service.recover)),
)
for _panel, _commands in _PANELS:
    for _command in _commands:
        app.command(_command.__name__.rstrip("_"), rich_help_panel=_panel)(_command)
for _name, _group in (
    ("keys", keys),
    ("event-types", event_types),
    ("brake", brake),
    ("settings", settings),
    ("tenants", tenants),
):
    app.add_typer(_group.app, name=_name, rich_help_panel="Who may write what")
app.add_typer(consumers.app, name="consumers", rich_help_panel="Who works on what")
for _name, _group in (("policies", policies), ("decisions", decisions)):
    app.add_typer(_group.app, name=_name, rich_help_panel="Who decides by what")
app.add_typer(demo.app, name="demo", rich_help_panel="The demo")


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. ``None``: the process's own arguments."""
    try:
        app(args=arguments, prog_name="counterfoil")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else ExitCode.REFUSED
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Failure as failure:
        return _report(failure)
    except CounterfoilError as error:
        return _report(failure_of(error))
    except Exception as error:  # noqa: BLE001 - the last net: a sentence instead of a trace
        return _report(Failure(report_of_fault(error), ExitCode.FAULT))
    return ExitCode.OK


def _report(failure: Failure) -> ExitCode:
    complain(failure.message)
    return failure.code
