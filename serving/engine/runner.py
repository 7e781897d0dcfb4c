"""From a request to its response, on the event loop: look up, prepare, run in a thread or a batch, finish."""

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

LARGE_BYTES = 64 * 1024  # what is larger takes longer to read or write than a change of threads


class Runner:
    """Runs calls of loaded versions."""

    def __init__(self, workers: Workers, metrics: Metrics) -> None:
        self._workers, self._metrics = workers, metrics

    async def answer(
        self,
        use: Use,
        api: str,
        prepare: Callable[[Version], Call],
        size: int,
        seconds: float | None,
        large_result: int = LARGE_BYTES,
    ) -> Any:
        """The response to a request of `size` bytes, which has so many seconds; `prepare` says what has to run.

        Results of more than `large_result` bytes are written by a thread.
        """
        with ExitStack() as hold:
            version = hold.enter_context(use)
            deadline = Deadline(seconds)
            call = await self.work(prepare, version) if size > LARGE_BYTES else prepare(version)
            if call.examples is not None:
                self._metrics.examples(version.model, call.examples)
            arrays = await self.run(hold, version, api, call, deadline)
            if sum(map(memory_of, arrays)) > large_result:
                return await self.work(call.finish, arrays)
            return call.finish(arrays)

    async def run(self, hold: ExitStack, version: Version, api: str, call: Call, deadline: Deadline) -> list[Any]:
        """Arrays of the call's fetches. `hold` keeps the version loaded; if the caller is cancelled, until the end."""
        start = time.perf_counter()
        servable = version.servable
        if servable.scheduler is None and servable.quick(call.feeds, call.fetches):
            arrays = servable.run(call.feeds, call.fetches)
            self._metrics.run(version.model, api, 1e6 * (time.perf_counter() - start))
            return arrays
        running = self._start(servable, call, deadline)
        try:
            arrays = await asyncio.shield(running)
        except asyncio.CancelledError:
            # The client is gone. If the graph runs, it runs on, and so long the version must stay loaded.
            deadline.given_up = True
            kept = hold.pop_all()

            def ended(done: asyncio.Future[Any]) -> None:
                kept.close()
                if not done.cancelled():
                    done.exception()  # nobody else asks for it, which asyncio would report

            running.add_done_callback(ended)
            raise
        self._metrics.run(version.model, api, 1e6 * (time.perf_counter() - start))
        return arrays

    def work(self, function: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        """A future of `function(*arguments)`, run in a thread."""
        return self._workers.submit(function, *arguments)

    def _start(self, servable: Any, call: Call, deadline: Deadline) -> asyncio.Future[Any]:
        if servable.scheduler is not None and call.feeds:
            return servable.scheduler.submit(servable, servable.run, call.feeds, call.fetches, deadline)
        # The deadline is looked at when a thread is free, by when it may be over.
        return self._workers.submit(lambda: servable.run(call.feeds, call.fetches, deadline.seconds_left()))


def memory_of(array: np.ndarray) -> int:
    """Bytes of an array; of one of very many strings at least so many, for to look at all takes long itself."""
    if array.dtype.kind != "O" or array.nbytes > LARGE_BYTES:
        return array.nbytes
    return array.nbytes + sum(map(len, array.ravel()))
