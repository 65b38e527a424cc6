"""The command line, ``counterfoil``.

Its commands are doors: they read arguments, call the client or start the service, and
print. ``exits.py`` says how they end. The service's libraries are imported by the commands
that run it, when they run it, so that the light installation has all the others.
"""

import io
import signal
import sys


def main() -> None:
    """Run the command line and end the process with one of its exit codes."""
    # Imported here because the demo's agents are modules of this package too, and need
    # neither typer nor rich.
    from counterfoil.cli.app import run

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # An export is UTF-8 wherever it is made, and no name in a book may end a command.
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    code = run()
    # Nothing is left to be interrupted: another Ctrl-C would only leave a stack trace.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise SystemExit(code)
