"""What every test may ask for. The fixtures live beside the tools that they hand out."""

import signal

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Whoever starts the tests in the background starts them deaf to Ctrl-C, and a process
    # inherits that. The commands that the tests interrupt must hear it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["tests.promises", "tests.support.cluster"]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The service runs on asyncio alone, so its tests do too."""
    return "asyncio"
