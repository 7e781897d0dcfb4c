"""Threads that do for the event loop what would hold it up: run graphs, read and write large messages."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, NamedTuple


class _Job(NamedTuple):
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    future: asyncio.Future[Any]


class Workers:
    """At most `threads` threads, started when they are needed.

    A job costs half of what `loop.run_in_executor` takes: one future, and one message in each direction.
    Threads are daemons: one that runs a graph cannot be interrupted, and the process is not to wait for it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, threads: int) -> None:
        self._loop, self._most = loop, threads
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._started = 0
        self._pending = 0  # jobs that have been given and not ended; touched by the loop's thread alone

    def submit(self, function: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        """A future of `function(*arguments)`, run in a thread. To be called in the loop's thread.

        Cancelling the future does not stop the function.
        """
        future = self._loop.create_future()
        if self._pending >= self._started < self._most:
            self._started += 1
            threading.Thread(target=self._work, name=f"worker-{self._started}", daemon=True).start()
        self._pending += 1
        self._jobs.put(_Job(function, arguments, future))
        return future

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            result, error = None, None
            try:
                result = job.function(*job.arguments)
            except BaseException as failure:
                error = failure
            try:
                self._loop.call_soon_threadsafe(self._deliver, job.future, result, error)
            except RuntimeError:  # the loop is closed: the server has ended
                return
            del job, result, error  # a waiting thread must not keep large arrays alive

    def _deliver(self, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        self._pending -= 1
        if future.done():  # cancelled: the request is gone
            return
        if error is None:
            future.set_result(result)
        elif isinstance(error, StopIteration) or not isinstance(error, Exception):
            # No future takes the first, and others would end the loop.
            future.set_exception(RuntimeError(f"{type(error).__name__}: {error}"))
        else:
            future.set_exception(error)
