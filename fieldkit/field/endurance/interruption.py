"""Being asked to stop, between two steps and never within one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def asked_to_stop() -> Iterator[threading.Event]:
    """An event that is set when the process gets SIGINT or SIGTERM for the first time; the second ends it at once.

    Neither raises anything while this lasts, so that what a step changes is never torn.  A signal that is ignored, as
    under nohup, or that somebody else handles, stays so; so do all of them outside of the main thread.
    """
    stop = threading.Event()
    before: dict[signal.Signals, Any] = {}

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()
        restore()

    def restore() -> None:
        for each, handler in before.items():
            signal.signal(each, handler)

    if threading.current_thread() is threading.main_thread():
        usual = (signal.SIG_DFL, signal.default_int_handler)
        before = {each: signal.getsignal(each) for each in _SIGNALS if signal.getsignal(each) in usual}
        for each in before:
            signal.signal(each, ask)
    try:
        yield stop
    finally:
        restore()
