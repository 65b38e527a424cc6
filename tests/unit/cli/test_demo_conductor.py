"""The conductor, where nothing is to be heard of its agents."""

import asyncio
import time

import pytest

from counterfoil import APIConnectionError, AsyncCounterfoil
from counterfoil.cli.demo import conductor
from counterfoil.cli.demo.conductor import Company

NOBODY = "http://127.0.0.1:1"
"""Port 1 is reserved; nothing answers there."""


def test_a_silence_ends_with_the_service_that_all_of_them_wait_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They would wait for as long as it takes; whoever watches the demo would not."""
    monkeypatch.setattr(conductor, "SILENCE_SECONDS_ODD", 0.01)

    async def listen() -> None:
        async with AsyncCounterfoil(base_url=NOBODY, max_retries=0) as cf:
            await Company(cf).next_report()

    began = time.monotonic()
    with pytest.raises(APIConnectionError):
        asyncio.run(listen())
    assert time.monotonic() - began < conductor.SILENCE_SECONDS_MAX
