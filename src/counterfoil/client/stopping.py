"""How a process is asked to stop: by its platform (SIGTERM) or at the keyboard (SIGINT)."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def first_signal(stop: Callable[[], object]) -> Iterator[None]:
    """Call ``stop`` at the first signal, and leave the second to whoever had it before.

    So does a second Ctrl-C end what takes too long. Outside the main thread nothing is done:
    Python hears signals nowhere else.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[signal.Signals, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)
        before.clear()

    def heard(_number: int, _frame: FrameType | None) -> None:
        restore()
        stop()

    for number in _SIGNALS:
        handler = signal.getsignal(number)
        if handler is not None:  # Else somebody outside Python has it, who keeps it.
            before[number] = handler
            signal.signal(number, heard)
    try:
        yield
    finally:
        restore()
