"""What every test may ask for. The fixtures live beside the tools that they hand out."""

import pytest

pytest_plugins = ["tests.promises", "tests.support.cluster"]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The service runs on asyncio alone, so its tests do too."""
    return "asyncio"
