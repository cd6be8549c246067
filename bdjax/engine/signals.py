"""Signals are noted, not obeyed at once, so that what runs can make a checkpoint first."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


class Interrupted(KeyboardInterrupt):
    """The study was told to stop; the running chunk is checkpointed."""

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


@contextlib.contextmanager
def noted(acknowledge: Callable[[], None]) -> Iterator[list[int]]:
    """A list to which SIGINT and SIGTERM are added as they come; empty for ever outside the main thread.

    acknowledge: called when one comes, for somebody who waits to see that it did.
    """
    told: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield told
        return

    def note(number: int, _) -> None:
        if told and number == signal.SIGINT:
            raise KeyboardInterrupt  # the second time somebody means now
        told.append(number)
        with contextlib.suppress(Exception):  # whoever is told may be in the midst of printing, or gone
            acknowledge()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
