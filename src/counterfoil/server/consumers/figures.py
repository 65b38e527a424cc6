"""How consumers stand, in Prometheus' text form: the one part of the metrics that is read.

Everything else is counted where it happens. This is the database's to know, whichever process is
asked; so it is read when somebody asks, for some seconds at a time.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from counterfoil.server.consumers.store import ConsumerStore
from counterfoil.server.core import limits
from counterfoil.server.core.errors import Unavailable

GAUGES: Final[Mapping[str, str]] = {
    "counterfoil_consumer_position": "Up to here every event of the book was looked at.",
    "counterfoil_consumer_lag_events": "Events that match and are not done.",
    "counterfoil_consumer_lag_seconds": "How old the oldest of them is.",
    "counterfoil_consumer_in_flight": "Deliveries that are held.",
    "counterfoil_consumer_waiting": "Deliveries that are put out and held by nobody.",
    "counterfoil_consumer_set_aside": "Dead letters.",
    "counterfoil_consumer_rate": "Events that left in a second, of late.",
}
"""Each has the labels ``tenant`` and ``consumer``: names that an admin gave, bounded in number."""

_state: Final = msgspec.json.Decoder(dict[str, Any])


class Figures:
    """The figures of all consumers, up to ``CONSUMERS_SHOWN_MAX``."""

    def __init__(self, store: ConsumerStore) -> None:
        self._store = store
        self._text = b""
        self._read_at = float("-inf")

    async def text(self) -> bytes:
        """Write them; nothing where the database is away."""
        now = asyncio.get_running_loop().time()
        if now - self._read_at >= limits.CONSUMERS_SHOWN_SECONDS:
            self._read_at = now
            try:
                self._text = await self._written()
            except Unavailable:
                self._text = b""
        return self._text

    async def _written(self) -> bytes:
        rows = await self._store.states(limit=limits.CONSUMERS_SHOWN_MAX)
        series: dict[str, list[str]] = {name: [] for name in GAUGES}
        for tenant, text in rows:
            state = _state.decode(text)
            labels = f'{{tenant="{_escaped(tenant)}",consumer="{state["name"]}"}}'
            for gauge, lines in series.items():
                name = gauge.removeprefix("counterfoil_consumer_")
                value = (
                    state["lag"][name.removeprefix("lag_")]
                    if name.startswith("lag_")
                    else state[name]
                )
                lines.append(f"{gauge}{labels} {value}")
        written = [
            "\n".join([f"# HELP {name} {GAUGES[name]}", f"# TYPE {name} gauge", *lines, ""])
            for name, lines in series.items()
            if lines
        ]
        return "".join(written).encode()


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
