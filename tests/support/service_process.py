"""A process that serves: what ``counterfoil serve`` runs, told by its arguments.

    python -m tests.support.service_process HOST PORT WORKERS

Settings come from the environment, as everywhere. Its one line of output is the address.
"""

import os
import sys

from counterfoil.server.core.settings import Settings
from counterfoil.server.serving import serve


def main() -> None:
    """Serve until a signal ends it."""
    host, port, workers = sys.argv[1:]
    serve(
        # Without a key it is open, as `counterfoil dev` is.
        Settings.from_environment(open_to_this_machine="API_KEY" not in os.environ),
        host=host,
        port=int(port),
        workers=int(workers),
        on_ready=lambda address: print(address, flush=True),  # noqa: T201 - its one line
    )


if __name__ == "__main__":
    main()
