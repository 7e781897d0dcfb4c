"""Interrupts that wait: for code that would swallow the exception."""

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Let SIGINT and SIGTERM take effect at the end of the block only.

    Keras builds a model that it loads within a bare `except`, which would take Ctrl-C for a model that cannot be built
    and go on.
    """
    if threading.current_thread() is not threading.main_thread():  # signals are not handled here
        yield
        return
    received: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.signal(number, lambda number, _: received.append(number)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)
    if received:
        signal.raise_signal(received[0])
