"""Signals that ask a program to stop: SIGINT (Ctrl-C) and SIGTERM."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Defer SIGINT and SIGTERM to the end of the block.

    While Keras loads a model, it builds it within a bare `except`, which would treat Ctrl-C as a failed build and
    continue.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread handles signals
        yield
        return
    received: list[int] = []
    handlers = [signal.signal(number, lambda number, _: received.append(number)) for number in SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(SIGNALS, handlers, strict=True):
            signal.signal(number, handler)
    if received:
        signal.raise_signal(received[0])


class StopRequested(KeyboardInterrupt):
    """Ends a part of a program that may be left at any point, after a request to stop."""


class Stopped(Exception):
    """Training has stopped on request, after `step` of `steps`, and can resume from there."""

    def __init__(self, step: int, steps: int):
        super().__init__(f"stopped after step {step:,} of {steps:,}; run the same command again to resume.")
        self.step = step


class StopRequest:
    """Makes the first SIGINT or SIGTERM a request to stop, for a program that first brings its work to safety.

    As a context manager it handles both signals. A second one has the effect that it had before.
    """

    def __init__(self) -> None:
        self.received = False
        self._may_raise = False
        self._handlers: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def may_end(self) -> Iterator[None]:
        """A part that a request to stop ends at once. Raises: StopRequested."""
        self._may_raise = True
        try:
            if self.received:
                raise StopRequested
            yield
        finally:
            self._may_raise = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            handler = self._handlers[number]
            if callable(handler):
                handler(number, frame)
            return
        self.received = True
        os.write(2, b"\nstopping after this step; once more: at once\n")  # print may be in the middle of a line
        if self._may_raise:
            raise StopRequested
