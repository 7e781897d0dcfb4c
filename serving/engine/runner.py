"""Compute the response to a request on the event loop: look up, prepare, run in a thread or a batch, finish."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np

from serving.engine.deadline import Deadline
from serving.engine.servable import Call
from serving.engine.workers import Workers
from serving.models.manager import Use, Version
from serving.telemetry.metrics import Metrics

LARGE_BYTES = 64 * 1024  # parsing or serializing more than this takes longer than a thread switch


class Runner:
    """Runs calls on loaded versions."""

    def __init__(self, workers: Workers, metrics: Metrics) -> None:
        self._workers, self._metrics = workers, metrics

    async def execute(
        self,
        use: Use,
        api: str,
        prepare: Callable[[Version], Call],
        size: int,
        seconds: float | None,
        large_result: int = LARGE_BYTES,
    ) -> Any:
        """Return the response to a request of `size` bytes within `seconds`; `prepare` returns the call to run.

        A thread serializes results of more than `large_result` bytes.
        """
        with ExitStack() as stack:
            version = stack.enter_context(use)
            deadline = Deadline(seconds)
            call = await self.submit(prepare, version) if size > LARGE_BYTES else prepare(version)
            if call.examples is not None:
                self._metrics.record_examples(version.model, call.examples)
            arrays = await self.run(stack, version, api, call, deadline)
            if sum(map(array_bytes, arrays)) > large_result:
                return await self.submit(call.finish, arrays)
            return call.finish(arrays)

    async def run(self, stack: ExitStack, version: Version, api: str, call: Call, deadline: Deadline) -> list[Any]:
        """Return the arrays of the call's fetches. `stack` keeps the version loaded until the run ends, even if
        the caller is cancelled."""
        start = time.perf_counter()
        servable = version.servable
        if servable.scheduler is None and servable.quick(call.feeds, call.fetches):
            arrays = servable.run(call.feeds, call.fetches)
            self._metrics.record_run(version.model, api, 1e6 * (time.perf_counter() - start))
            return arrays
        running = self._start(servable, call, deadline)
        try:
            arrays = await asyncio.shield(running)
        except asyncio.CancelledError:
            # The client has disconnected. A running graph cannot be stopped, so the version stays loaded until it ends.
            deadline.cancelled = True
            remaining = stack.pop_all()

            def release(done: asyncio.Future[Any]) -> None:
                remaining.close()
                if not done.cancelled():
                    done.exception()  # retrieve it; otherwise asyncio logs an error

            running.add_done_callback(release)
            raise
        self._metrics.record_run(version.model, api, 1e6 * (time.perf_counter() - start))
        return arrays

    def submit(self, function: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        """Run `function(*arguments)` in a thread; return its future."""
        return self._workers.submit(function, *arguments)

    def _start(self, servable: Any, call: Call, deadline: Deadline) -> asyncio.Future[Any]:
        if servable.scheduler is not None and call.feeds:
            return servable.scheduler.submit(servable, servable.run, call.feeds, call.fetches, deadline)
        # The thread checks the deadline when it starts the job, since it may have passed by then.
        return self._workers.submit(lambda: servable.run(call.feeds, call.fetches, deadline.seconds_left()))


def array_bytes(array: np.ndarray) -> int:
    """Return the size of an array in bytes; a lower bound for very many strings, whose sizes are slow to sum."""
    if array.dtype.kind != "O" or array.nbytes > LARGE_BYTES:
        return array.nbytes
    return array.nbytes + sum(map(len, array.ravel()))
