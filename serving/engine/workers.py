"""Worker threads for jobs that would block the event loop: running graphs, parsing and serializing large messages."""

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
    """At most `threads` worker threads, started on demand.

    A job costs half as much as with `loop.run_in_executor`: one future, and one message in each direction.
    Threads are daemons: a thread that runs a graph cannot be interrupted, and the process must not wait for it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, threads: int) -> None:
        self._loop, self._max_threads = loop, threads
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._started = 0
        self._pending = 0  # jobs submitted but not finished; used only in the loop's thread

    def submit(self, function: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        """Run `function(*arguments)` in a worker thread; return a future of its result. Call this in the loop's thread.

        Cancelling the future does not stop the function.
        """
        future = self._loop.create_future()
        if self._pending >= self._started < self._max_threads:
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
            except RuntimeError:  # the loop is closed because the server has stopped
                return
            del job, result, error  # an idle thread must not keep large arrays alive

    def _deliver(self, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        self._pending -= 1
        if future.done():  # the request was cancelled
            return
        if error is None:
            future.set_result(result)
        elif isinstance(error, StopIteration) or not isinstance(error, Exception):
            # A future rejects StopIteration; other BaseExceptions would stop the loop.
            future.set_exception(RuntimeError(f"{type(error).__name__}: {error}"))
        else:
            future.set_exception(error)
